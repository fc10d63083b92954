#!/usr/bin/python3
# See faults.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import glob
import os
import random
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../guest"))
import kc

SEED = int(sys.argv.pop())
RND = random.Random(SEED)
DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK, LENGTH = 4096, 60 << 11
NR = LENGTH // 8
MUCH = 10000  # the first of many blocks
UIDS = {1: 0, 2: 1000, 3: 1001}  # slot -> user
TABLE = kc.separate(LENGTH, DATA, META, "allow_discards")
DEBUG = "/sys/kernel/debug/"
MEMORY = "failslab", "fail_page_alloc"
TIMES = 1000000


def put(path, value):
    with open(path, "w") as f:
        f.write(str(value))


def set_up(kind, **what):
    for name, value in what.items():
        put("%s%s/%s" % (DEBUG, kind, name.replace("_", "-")), value)


class Failing:
    """Allocations of this process fail, and of the module's workers, some in a hundred."""
    fd = os.open("/proc/self/make-it-fail", os.O_WRONLY)
    hits = {kind: 0 for kind in MEMORY}

    def __init__(self, percent, workers, interval=1):
        self.percent, self.workers, self.interval = percent, workers, interval

    def on_workers(self, value):
        for comm in glob.glob("/proc/[0-9]*/comm"):
            try:
                with open(comm) as f:
                    if "kc_" in f.read() or value == 0:
                        put(os.path.dirname(comm) + "/make-it-fail", value)
            except OSError:
                pass

    def __enter__(self):
        for kind in MEMORY:
            set_up(kind, probability=self.percent, interval=self.interval, times=TIMES)
        if self.workers:
            self.on_workers(1)

    def __exit__(self, *what):
        for kind in MEMORY:
            set_up(kind, probability=0)
            with open("%s%s/times" % (DEBUG, kind)) as f:
                Failing.hits[kind] += TIMES - int(f.read())
        if self.workers:
            self.on_workers(0)


def attempt(what, *args):
    """With failures in this process; Python's own allocations stay out of it as far as they can."""
    os.pwrite(Failing.fd, b"1", 0)
    try:
        result = what(*args)
        error = "none"
    except OSError as e:
        result, error = None, kc.ERRNO.get(e.errno, e.errno)
    except MemoryError:
        result, error = None, "ENOMEM"
    finally:
        os.pwrite(Failing.fd, b"0", 0)
    return error, result


class Disk(kc.Disk):
    """The device, and what each of its blocks may hold: (slot, first byte); None is anything."""

    def __init__(self):
        super().__init__(kc.create("kc", TABLE, new=True))
        self.may = {}
        self.count = 0
        self.unflushed = set()  # first writes, and whether they are in the map on disk
        self.fresh = NR - 1
        self.wrong = []

    def write_block(self, slot, block):
        """Tells the error. Whoever wrote a block before writes it again."""
        self.count += 1
        new = (slot, 1 + self.count % 250)
        old = self.may.get(block)
        self.buf[:BLOCK] = bytes([new[1]]) * BLOCK
        kc.libc.setfsuid(UIDS[slot])
        error, n = attempt(os.pwritev, self.fd, [memoryview(self.buf)[:BLOCK]], block * BLOCK)
        kc.libc.setfsuid(0)
        if old is None:
            self.unflushed.add(block)
        if error == "none" and n == BLOCK:
            self.may[block] = {new}
        elif old is None:
            self.may[block] = {None}  # logged or not, written or not
        else:
            self.may[block] = old | {new}
        return error

    def write_much(self):
        """More than the bounce pages that are kept"""
        self.count += 1
        self.buf[:] = bytes([self.count % 251]) * len(self.buf)
        error, n = attempt(os.pwritev, self.fd, [self.buf], MUCH * BLOCK)
        for block in range(MUCH, MUCH + len(self.buf) // BLOCK, 61):  # enough to look at
            self.may[block] = {(1, self.count % 251)}
        return error if n == len(self.buf) else error + " short"

    def flush(self):
        error = attempt(os.fsync, self.fd)[0]
        if error == "none":
            self.unflushed.clear()
        return error

    def lost(self):
        """The map was given up, and read from the disk again: what it may have lost."""
        for block in self.unflushed:
            self.may[block] = self.may[block] | {(0, 0)}

    def forget(self):
        """Of what may be this or that, no more is wanted."""
        for block in [b for b, may in self.may.items() if None in may or len(may) > 1]:
            del self.may[block]
        self.unflushed.clear()

    def check_block(self, block):
        error, n = attempt(os.preadv, self.fd, [memoryview(self.buf)[:BLOCK]], block * BLOCK)
        may = self.may[block]
        got = self.buf[:BLOCK]
        if error == "none" and None not in may and got not in [bytes([m[1]]) * BLOCK for m in may]:
            self.wrong.append("block %d: %s..., may be %s" % (block, got[:8].hex(), may))
        return error

    def check_all(self):
        slots = {}
        for row in kc.message("kc", "map 0 %d" % NR).split("\n"):
            first, count, slot = map(int, row.split())
            slots.update((b, slot) for b in self.may if first <= b < first + count)
        errors = [b for b in self.may if self.check_block(b) != "none"]
        for b, may in self.may.items():
            if None not in may and slots[b] not in [m[0] for m in may]:
                self.wrong.append("block %d has slot %d, may be %s" % (b, slots[b], may))
        return errors

    def own_block(self):
        """One that somebody has written for certain, and who."""
        block = RND.choice([b for b, may in self.may.items() if None not in may])
        return max(self.may[block])[0], block

    def fresh_block(self):
        """Of another map block each time, from the end"""
        self.fresh = (self.fresh - 1931) % NR
        while self.fresh in self.may or MUCH <= self.fresh < MUCH + 1024:
            self.fresh -= 1
        return self.fresh


def control():
    """What administrators do; each may fail, and is done again, or undone, without failures by settle()."""
    what = RND.choice((
        (kc.message, "kc", "owner lock bob"), (kc.message, "kc", "owner unlock bob"),
        (kc.message, "kc", "owner add carol 1002 :64:logon:kc:carol"), (kc.message, "kc", "owner destroy carol"),
        (kc.message, "kc", "owner list"), (kc.message, "kc", "map 0 %d" % NR), (kc.status, "kc"),
        (kc.suspend, "kc"), (kc.resume, "kc"), (kc.load, "kc", TABLE), (kc.clear, "kc")))
    return what[0].__name__, attempt(*what)[0]


def step(op):
    """One operation on the device; its error."""
    if op == "write":
        return dev.write_block(*dev.own_block())
    if op == "first write":
        return dev.write_block(RND.randint(1, 3), dev.fresh_block())
    if op == "read":
        return dev.check_block(dev.own_block()[1])
    if op == "much":
        return dev.write_much()
    if op == "fsync":
        return dev.flush()
    return attempt(kc.message, "kc", RND.choice(("commit", "owner list", "map 0 %d" % NR)))[0]


def settle(reload=False):
    if reload:
        kc.suspend("kc")
        kc.load("kc", TABLE)
    kc.resume("kc")
    if [row for row in kc.message("kc", "owner list").split("\n") if row.split()[::2][:2] == ["carol", "unlocked"]]:
        kc.message("kc", "owner destroy carol")
    kc.message("kc", "owner unlock bob")


kc.join_session()
for who in "root", "alice", "bob", "carol":
    kc.add_key("logon", "kc:" + who, os.urandom(64))
for kind in MEMORY:
    set_up(kind, task_filter="Y", verbose=0, ignore_gfp_wait="N")
set_up("fail_page_alloc", min_order=0, ignore_gfp_highmem="N")
set_up("fail_make_request", verbose=0)
kc.zero(META, 0, 8 << 20)
dev = Disk()
kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")
for i in range(48):
    dev.write_block(i % 3 + 1, i * 97)

# ---- no memory: I/O goes on ----

errors, tries = {}, {}
with Failing(10, True):
    for i in range(400):
        op = RND.choice(("write", "first write", "read", "fsync") if i % 20 else ("much",))
        error = step(op)
        tries[op] = tries.get(op, 0) + 1
        if error != "none":
            errors[op, error] = errors.get((op, error), 0) + 1
kc.diag("%s, errors %s, failed allocations %s" % (tries, errors, Failing.hits))
kc.ok("allocations fail", all(Failing.hits.values()))
kc.equal("without memory I/O goes on", errors, {})
kc.equal("and what is read is right", dev.wrong, [])

# ---- no memory: what fails changes nothing ----

errors = {}
for i in range(60):
    with Failing(RND.choice((1, 5)), False, RND.choice((1, 50))):
        for _ in range(4):
            error = control()
            errors[error] = errors.get(error, 0) + 1
    settle()
    if RND.random() < 0.5:
        dev.write_block(*dev.own_block())
kc.diag("messages and tables: %s" % errors)
kc.ok("some messages and tables failed, some did not",
      sum(n for (_, e), n in errors.items() if e == "ENOMEM") > 10 and errors.get(("load", "none")), errors)
# A second table is one too many, an owner there already or not: that is as it should be. And dm itself has
# no device (ENODEV) where it has no memory to look for one.
kc.equal("for no reason but memory, or the state they were in",
         {e for _, e in errors} - {"none", "ENOMEM", "EEXIST", "ENOENT", "ENODEV"}, set())
kc.equal("afterwards all can be read", dev.check_all(), [])
kc.equal("and is right, under its owner's key", dev.wrong, [])

# ---- a failing disk ----

kinds = {}
dev.flush()
for i in range(20):
    if dev.wrong:
        break
    for disk in (DATA,), (META,), (DATA, META):
        percent = RND.choice((2, 10, 50))
        for d in disk:
            put(kc.sysfs(d) + "/make-it-fail", 1)
        set_up("fail_make_request", probability=percent, times=-1)
        for _ in range(12):
            op = RND.choice(("write", "first write", "read", "fsync", "control"))
            error = step(op)
            kinds[op, error] = kinds.get((op, error), 0) + 1
        set_up("fail_make_request", probability=0)
        for d in disk:
            put(kc.sysfs(d) + "/make-it-fail", 0)
        settle(reload=True)
        dev.lost()
        if dev.check_all():
            dev.wrong.append("round %d: cannot be read" % i)
        dev.forget()
        if dev.wrong:
            break
kc.diag("a failing disk: %s" % kinds)
kc.ok("with a failing disk some I/O failed", kinds.get(("write", "EIO"), 0) > 5 and kinds.get(("fsync", "EIO"), 0) > 0, kinds)
kc.equal("with no error but EIO", {e for _, e in kinds} - {"none", "EIO"}, set())
kc.equal("what was written is there, once the disk is well", dev.wrong, [])

os.close(dev.fd)
kc.remove("kc")
dev.fd = os.open(kc.create("kc", TABLE), os.O_RDWR | os.O_DIRECT)
settle()
kc.equal("and after the device was opened anew", (dev.check_all(), dev.wrong), ([], []))
os.close(dev.fd)
kc.remove("kc")
kc.done()
