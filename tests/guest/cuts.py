#!/usr/bin/python3 -B
"""Loads that a power cut ends, and what must be there afterwards: for 71-power-cuts.t.

  cuts.py load KIND LOGS BOOT SEED MS
                                    writes until the power goes, for which it asks MS milliseconds
                                    after all have begun
  cuts.py check KIND LOGS BOOT      compares with what the loads since the last check did, prints
                                    assertions, and notes what it found as the new beginning
  cuts.py scan KIND                 no block of the device holds a user's data under another key than his

KIND is raw for /dev/mapper/kc itself, else the name of the filesystem on it, mounted on /mnt. LOGS is
a folder on the host: what is in it outlives the cut. A writer notes there each operation before
it begins, and each flush when it has ended. Every 4096-byte block that is written tells its writer,
file, place and version all over.

A flush that has ended promises all that the writer did to the file before it. What was done to it
later may be there or not, block by block. On f2fs a block that was written again and not flushed may
hold anything: it writes to new places, and its checkpoints do not wait for such data.
"""
# SPDX-License-Identifier: GPL-2.0-only

import ctypes
import errno
import functools
import json
import mmap
import os
import random
import re
import signal
import sys
import time
import traceback

import kc

BLOCK = 4096
DEVICE = "/dev/mapper/kc"
ROOT = "/mnt"
USERS = 1000, 1001, 1002, 1003
LOCKED = 1003                   # is locked now and then while he writes
SLOT = {uid: 2 + i for i, uid in enumerate(USERS)}
RAW_WRITERS = 3
RAW_BLOCKS = 1024               # of each of them; fio has what comes after
ANY = -1                        # as a version: whatever
HEAD = b"kc-cut %04d %08d %06d %09d\n"


def content(uid, file, block, version):
    head = HEAD % (uid, file, block, version)
    return (head * (BLOCK // len(head) + 1))[:BLOCK]


@functools.lru_cache(maxsize=8192)
def parse(data):
    """(uid, file, block, version) of a whole block, or None."""
    try:
        found = tuple(int(w) for w in data[:64].split(b"\n", 1)[0].split()[1:])
        return found if content(*found) == data else None
    except (TypeError, ValueError, IndexError):
        return None


# --- what happened --------------------------------------------------------------------------------

class Log:
    def __init__(self, folder, who, boot):
        self.fd = os.open("%s/log.%s.%03d" % (folder, who, boot),
                          os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def __call__(self, *words):
        os.write(self.fd, (" ".join(map(str, words)) + "\n").encode())


def lines_of(folder, who, since):
    """The operations of a writer from that boot on, in order."""
    for name in sorted(os.listdir(folder)):
        part = name.split(".")
        if part[0] == "log" and part[1] == str(who) and int(part[2]) >= since:
            with open(folder + "/" + name) as f:
                for line in f:
                    if line.endswith("\n"):  # the cut may have come in the middle of one
                        op, *args = line.split()
                        yield op, args


def load_base(folder):
    try:
        with open(folder + "/base") as f:
            return json.load(f)
    except FileNotFoundError:
        return {"since": 0, "found": {}, "doomed": {}, "owners": {}}


def save_base(folder, base):
    with open(folder + "/base.new", "w") as f:
        json.dump(base, f)
    os.rename(folder + "/base.new", folder + "/base")


class File:
    """What may be in a file: sizes in blocks, versions of a block, 0 for zeros."""

    def __init__(self, name, absent=True, size=0, blocks=()):
        self.name, self.names = name, {name}
        self.absent = absent        # may be absent
        self.unlinked = False
        self.size = self.low = self.high = size
        self.now = dict(blocks)
        self.may = {b: {v} for b, v in self.now.items()}
        self.doomed = False         # to be removed: holds what is not known

    def put(self, first, count, version):
        for b in range(first, first + count):
            self.may.setdefault(b, {self.now.get(b, 0)}).add(version)
            self.now[b] = version

    def resize(self, size):
        self.size = size
        self.low, self.high = min(self.low, size), max(self.high, size)

    def flushed(self):
        self.low = self.high = self.size
        self.may = {b: {v} for b, v in self.now.items()}
        self.absent = self.unlinked


def replay(files, lines):
    """Brings files, {number: File}, to what the log says. Returns [(new, old)] of replacements under
    way, and how many flushes there were."""
    replaced = []
    flushes = 0
    for op, args in lines:
        if op == "dir":
            flushes += 1
            replaced = []
            for number, f in list(files.items()):
                f.names = {f.name}
                if f.unlinked:
                    del files[number]
            continue
        number, args = int(args[0]), args[1:]
        f = files.get(number)
        if op == "create":
            files[number] = File(args[0])
        elif op == "write":
            version, first, count = map(int, args)
            if first > f.size:
                f.put(f.size, first - f.size, 0)
            f.put(first, count, version)
            f.resize(max(f.size, first + count))
        elif op == "truncate":
            size = int(args[0])
            f.put(min(size, f.size), abs(f.size - size), 0)
            f.resize(size)
        elif op == "punch":
            f.put(int(args[0]), int(args[1]), 0)
        elif op == "rename":
            f.name = args[0]
            f.names.add(f.name)
        elif op == "replace":
            victim = [n for n, g in files.items() if g.name == args[0] and not g.unlinked]
            f.name = args[0]
            f.names.add(f.name)
            for n in victim:
                files[n].unlinked = files[n].absent = True
                replaced.append((number, n))
        elif op == "unlink":
            f.unlinked = f.absent = True
        elif op == "fsync":
            flushes += 1
            f.flushed()
        elif op == "failed":
            for b, may in f.may.items():
                if len(may) > 1:
                    may.add(ANY)
    return replaced, flushes


# --- checks ---------------------------------------------------------------------------------------

class Wrong(list):
    def __call__(self, *words):
        self.append(" ".join(map(str, words)))

    def ok(self, name):
        kc.ok(name, not self, "\n".join(self[:20]))


def check_file(uid, number, f, path, kind, wrong):
    """Returns (size, {block: version}), or None if it holds what is not known any more."""
    where = "%s (%d)" % (path, number)
    with open(path, "rb") as stream:
        data = stream.read()
    size, rest = divmod(len(data), BLOCK)
    if rest or not f.low <= size <= f.high:
        wrong("%s has %d bytes, not %d to %d blocks" % (where, len(data), f.low, f.high))
        return None
    found, known = {}, True
    for b in range(size):
        block = data[b * BLOCK:(b + 1) * BLOCK]
        may = f.may.get(b, {0})
        if not any(block):
            version = 0
        else:
            tag = parse(block)
            version = tag[3] if tag and tag[:3] == (uid, number, b) else None
        if version in may:
            found[b] = version
        elif len(may) > 1 and (ANY in may or kind == "f2fs"):
            known = False
        else:
            wrong("%s block %d of %d: %r, may be %s" % (where, b, size, block[:32], sorted(may)))
            known = False
    return (size, found) if known else None


def check_files(kind, folder, base, wrong):
    nr = flushes = open_ends = 0
    for uid in USERS:
        files = {int(n): File(name, False, size, {int(b): v for b, v in blocks.items()})
                 for n, (name, size, blocks) in base["found"].get(str(uid), {}).items()}
        for number, name in base["doomed"].get(str(uid), []):
            files[number] = File(name)
            files[number].doomed = True
        replaced, n = replay(files, lines_of(folder, uid, base["since"]))
        flushes += n
        top = "%s/%d" % (ROOT, uid)
        present, found, doomed = {}, {}, []
        for name in os.listdir(top):
            path = top + "/" + name
            if name == "r":     # the one name that files take from each other
                with open(path, "rb") as stream:
                    tag = parse(stream.read(BLOCK))
                number = tag[1] if tag else 0
            else:
                number = int(name.split(".")[0])
            if number not in files or name not in files[number].names:
                # Seen on btrfs: a file that was fsynced, renamed, and replaced by another under its
                # new name, comes back under the first one, also after an fsync of the folder.
                if kind == "btrfs":
                    doomed.append((number, name))
                    kc.diag(path + " has come back")
                else:
                    wrong(path, "should not be there")
            elif number in present:
                wrong(path, "and", present[number], "are the same file")
            else:
                present[number] = name
        for number, f in sorted(files.items()):
            if number not in present:
                if not f.absent:
                    wrong("%s/%s is not there" % (top, " or ".join(sorted(f.names))))
                continue
            nr += 1
            open_ends += any(len(m) > 1 for m in f.may.values()) or f.low < f.high
            result = not f.doomed and check_file(uid, number, f, top + "/" + present[number], kind, wrong)
            if result:
                found[number] = (present[number], *result)
            else:
                doomed.append((number, present[number]))
        # as above, where the first name may still be the file's
        back = {old for new, old in replaced if kind == "btrfs" and present.get(new) == "r" and old in present}
        for new, old in replaced:
            if old in back:
                kc.diag("%s/%s has come back" % (top, present[old]))
            elif new in present and new not in back and (present[new] == "r") == (old in present):
                wrong("%s/r: neither %d nor %d, or both" % (top, old, new))
        base["found"][str(uid)] = found
        base["doomed"][str(uid)] = doomed
    kc.diag("%d files, of these %d written to after the last flush; %d flushes had ended" %
            (nr, open_ends, flushes))
    return nr


def slots(first, count):
    reply = kc.message("kc", "map %d %d" % (first, count))
    for line in reply.splitlines():
        yield tuple(map(int, line.split()))


def check_raw(folder, base, wrong):
    flushes = 0
    seen = {"acknowledged": 0, "later": 0, "never flushed": 0}
    slot = []
    for _, count, s in slots(0, RAW_WRITERS * RAW_BLOCKS):
        slot += [s] * count
    data = kc.read(DEVICE, 0, len(slot) * BLOCK)
    for nr in range(RAW_WRITERS):
        # block: [(version, uid)], the first of them if flushed
        may = {int(b): [tuple(x) if x else None for x in v]
               for b, v in base["found"].get(str(nr), {}).items()}
        for op, args in lines_of(folder, nr, base["since"]):
            if op == "write":
                version, uid, first, count = map(int, args)
                for b in range(first, first + count):
                    may.setdefault(b, [None]).append((version, uid))
            else:
                flushes += 1
                blocks = list(may)
                if op == "dsync":
                    blocks = range(int(args[0]), int(args[0]) + int(args[1]))
                for b in blocks:
                    may[b] = may[b][-1:]
        found = {}
        for b, versions in may.items():
            block = data[b * BLOCK:(b + 1) * BLOCK]
            tag = parse(block)
            what = (tag[3], tag[0]) if tag and tag[1:3] == (0, b) else None
            if what and what in versions and slot[b] == SLOT[what[1]]:
                found[b] = [what]
                seen["later" if what != versions[0] else "acknowledged"] += 1
            elif versions[0] is None and slot[b] == 0 and not any(block):
                seen["never flushed"] += 1
            elif versions[0] is None and slot[b] in [SLOT[v[1]] for v in versions[1:]]:
                # undefined content, but one of those who wrote
                found[b] = versions
                seen["never flushed"] += 1
            else:
                wrong("block %d: slot %d, %r; may be %s" % (b, slot[b], block[:40], versions))
        base["found"][str(nr)] = found
    kc.diag("blocks: %s; %d flushes had ended" % (seen, flushes))
    return len(slot)


def check_owners(folder, base, wrong):
    """Owners that were added, and whose ids were changed"""
    may = {name: [ids] for name, ids in base["owners"].items()}
    for op, args in lines_of(folder, "owners", base["since"]):
        if op == "begin":
            may.setdefault(args[0], [None]).append(args[1])
        else:
            may[args[0]] = [args[1]]
    there = {w[0]: w[3] for w in (line.split() for line in kc.message("kc", "owner list").splitlines())}
    for name, ids in may.items():
        if there.get(name) not in ids:
            wrong("owner %s has ids %s, may have %s" % (name, there.get(name), ids))
    base["owners"] = {name: ids for name, ids in there.items() if name in may}


def cmd_check(kind, folder, boot):
    base = load_base(folder)
    try:
        with open(folder + "/state") as f:
            kc.diag("before the cut: " + f.read())
        os.unlink(folder + "/state")
    except FileNotFoundError:
        pass
    wrong = Wrong()
    if kind == "raw":
        kc.ok("there is something to check", check_raw(folder, base, wrong))
        wrong.ok("raw: every block holds what was flushed, or was written later, under its writer's key")
    else:
        kc.ok("there is something to check", check_files(kind, folder, base, wrong))
        wrong.ok("%s: every flushed file is whole" % kind)
    wrong = Wrong()
    check_owners(folder, base, wrong)
    wrong.ok("%s: owners are as the messages that had returned made them" % kind)
    base["since"] = int(boot)
    save_base(folder, base)
    kc.done()


def cmd_scan(kind):
    """The whole device: the content of a block and its key fit."""
    uid_of = {s: u for u, s in SLOT.items()}
    seen = dict.fromkeys(USERS, 0)
    other = 0
    wrong = Wrong()
    fd = os.open(DEVICE, os.O_RDONLY | os.O_DIRECT)
    buf = mmap.mmap(-1, 256 * BLOCK)
    for first, count, slot in slots(0, kc.size_of(DEVICE) // BLOCK):
        if slot == 0:
            continue
        for at in range(first, first + count, 256):
            n = os.preadv(fd, [memoryview(buf)[:min(256, first + count - at) * BLOCK]], at * BLOCK)
            data = buf[:n]
            if slot not in uid_of:
                # Whole blocks: xfs copies parts of stale ones into metadata, see limits.rst.
                for i in range(n // BLOCK if data.find(HEAD[:7]) >= 0 else 0):
                    if parse(data[i * BLOCK:(i + 1) * BLOCK]):
                        wrong("block %d: a user's data under slot %d" % (at + i, slot))
                continue
            for i in range(n // BLOCK):
                tag = parse(data[i * BLOCK:(i + 1) * BLOCK])
                if not tag:
                    other += 1
                elif tag[0] != uid_of[slot]:
                    wrong("block %d: data of %d under slot %d" % (at + i, tag[0], slot))
                else:
                    seen[tag[0]] += 1
    os.close(fd)
    kc.diag("blocks of the users: %s; %d of another content" % (seen, other))
    wrong.ok("%s: no user's data is under another key than his" % kind)
    kc.ok("data of everybody was found", all(seen.values()), seen)
    kc.done()


# --- loads ----------------------------------------------------------------------------------------

class Writer:
    """A user with a folder of his own."""

    def __init__(self, kind, folder, uid, boot, seed):
        base = load_base(folder)
        self.top = "%s/%d" % (ROOT, uid)
        self.uid = uid
        self.rng = random.Random("%s %s %s" % (kind, uid, seed))
        self.log = Log(folder, uid, boot)
        self.next = boot * 1000000
        self.files = {int(n): [name, size] for n, (name, size, _)
                      in base["found"].get(str(uid), {}).items()}
        self.doomed = base["doomed"].get(str(uid), [])
        self.buf = mmap.mmap(-1, 256 * BLOCK)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        self.dir = os.open(self.top, os.O_RDONLY)

    def run(self):
        for number, name in self.doomed:
            self.log("unlink", number)
            os.unlink(name, dir_fd=self.dir)
        ops = [self.create] * 4 + [self.overwrite] * 8 + [self.append] * 3 + [self.truncate] * 2 + \
              [self.punch] * 2 + [self.replace] * 3 + [self.rename, self.unlink, self.unlink]
        while True:
            op = self.rng.choice(ops)
            if len(self.files) < 4:
                op = self.create
            elif len(self.files) > 20:
                op = self.unlink
            number = None if op in (self.create, self.replace) else self.rng.choice(list(self.files))
            try:
                op(number)
            except OSError as e:
                # He was locked: what was not flushed of this file may be lost.
                if e.errno != errno.EIO or self.uid != LOCKED:
                    raise
                self.log("failed", self.at)
                self.log("unlink", self.at)
                os.unlink(self.files.pop(self.at)[0], dir_fd=self.dir)

    def number(self):
        self.next += 1
        return self.next

    def open(self, number, flags=0):
        self.at = number
        return os.open(self.files[number][0], os.O_RDWR | flags, 0o644, dir_fd=self.dir)

    def write(self, fd, number, first, count):
        version = self.number()
        self.log("write", number, version, first, count)
        self.files[number][1] = max(self.files[number][1], first + count)
        for i in range(count):
            self.buf[i * BLOCK:(i + 1) * BLOCK] = content(self.uid, number, first + i, version)
        n = os.pwritev(fd, [memoryview(self.buf)[:count * BLOCK]], first * BLOCK)
        if n != count * BLOCK:
            raise OSError(errno.EIO, "short write")

    def fsync(self, fd, number, often):
        if self.rng.random() < often:
            os.fsync(fd)
            self.log("fsync", number)

    def fsync_dir(self, often):
        if self.rng.random() < often:
            os.fsync(self.dir)
            self.log("dir")

    def direct(self, often):
        return os.O_DIRECT if self.rng.random() < often else 0

    def create(self, _, name=None, often=0.7):
        number = self.number()
        self.files[number] = [str(number), 0]
        self.log("create", number, number)
        fd = self.open(number, os.O_CREAT | os.O_EXCL | self.direct(0.2))
        at, size = 0, self.rng.choice((1, 2, 8, 8, 32, 128))
        while at < size:
            count = self.rng.randint(1, size - at)
            self.write(fd, number, at, count)
            at += count
        self.fsync(fd, number, often)
        os.close(fd)
        self.fsync_dir(0.2)
        return number

    def overwrite(self, number):
        fd = self.open(number, self.direct(0.3))
        for _ in range(self.rng.choice((1, 1, 4))):
            size = self.files[number][1]
            if size:
                count = self.rng.randint(1, min(8, size))
                self.write(fd, number, self.rng.randint(0, size - count), count)
        self.fsync(fd, number, 0.4)
        os.close(fd)

    def append(self, number):
        fd = self.open(number, self.direct(0.2))
        size = self.files[number][1]
        if size < 256:
            hole = self.rng.choice((0, 0, 3))
            self.write(fd, number, size + hole, self.rng.randint(1, 16))
        self.fsync(fd, number, 0.5)
        os.close(fd)

    def truncate(self, number):
        fd = self.open(number)
        size = self.rng.randint(0 if self.files[number][0] != "r" else 1, self.files[number][1] + 4)
        self.log("truncate", number, size)
        self.files[number][1] = size
        os.ftruncate(fd, size * BLOCK)
        self.fsync(fd, number, 0.5)
        os.close(fd)

    def punch(self, number):
        fd = self.open(number)
        # the first block of "r" tells which file it is
        first = self.rng.randint(1, max(1, self.files[number][1]))
        count = min(4, self.files[number][1] - first)
        if count > 0:
            self.log("punch", number, first, count)
            if kc.libc.fallocate64(fd, 3, ctypes.c_int64(first * BLOCK), ctypes.c_int64(count * BLOCK)):
                raise OSError(ctypes.get_errno(), "fallocate")
        self.fsync(fd, number, 0.5)
        os.close(fd)

    def replace(self, _):
        number = self.create(None, often=1)
        self.log("replace", number, "r")
        os.rename(self.files[number][0], "r", src_dir_fd=self.dir, dst_dir_fd=self.dir)
        for n in [n for n, f in self.files.items() if f[0] == "r"]:
            del self.files[n]
        self.files[number][0] = "r"
        self.fsync_dir(0.5)

    def rename(self, number):
        if self.files[number][0] == "r":
            return
        name = "%d.%d" % (number, self.number())
        self.log("rename", number, name)
        os.rename(self.files[number][0], name, src_dir_fd=self.dir, dst_dir_fd=self.dir)
        self.files[number][0] = name
        self.fsync_dir(0.5)

    def unlink(self, number):
        self.log("unlink", number)
        os.unlink(self.files.pop(number)[0], dir_fd=self.dir)
        self.fsync_dir(0.2)


def raw_writer(folder, nr, boot, seed):
    """Writes blocks of his own as one user, then as another."""
    rng = random.Random("raw %s %s" % (nr, seed))
    log = Log(folder, nr, boot)
    buf = mmap.mmap(-1, 64 * BLOCK)
    fd = os.open(DEVICE, os.O_RDWR | os.O_DIRECT)
    version = boot * 1000000
    while True:
        version += 1
        uid = rng.choice(USERS[:3])
        count = rng.choice((1, 1, 1, 2, 5, 16, 32))
        # most of the load on few blocks, which are written again and again
        span = rng.choice((64, 64, RAW_BLOCKS))
        first = nr * RAW_BLOCKS + rng.randint(0, span - count)
        for i in range(count):
            buf[i * BLOCK:(i + 1) * BLOCK] = content(uid, 0, first + i, version)
        dsync = rng.random() < 0.05
        log("write", version, uid, first, count)
        kc.libc.setfsuid(uid)
        n = os.pwritev(fd, [memoryview(buf)[:count * BLOCK]], first * BLOCK,
                       os.RWF_DSYNC if dsync else 0)
        kc.libc.setfsuid(0)
        if n != count * BLOCK:
            raise OSError(errno.EIO, "short write")
        if dsync:
            log("dsync", first, count)
        elif rng.random() < 0.15:
            os.fsync(fd)
            log("fsync")


def disturber(kind, folder, boot, seed):
    """Commits, locks, new owners, and whatever else an administrator does"""
    rng = random.Random("disturber %s" % seed)
    log = Log(folder, "owners", boot)
    locked = "o%d" % LOCKED
    owner = "x%d" % boot
    changes = 0
    kc.add_key("logon", "kc:" + owner, b"%064d" % (2000 + boot))
    while True:
        time.sleep(rng.random() * 0.3)
        what = rng.choice(("commit", "commit", "lock", "lock", "owner", "owner", "list", "sync", "drop"))
        if what == "commit":
            kc.message("kc", "commit")
        elif what == "lock":
            kc.message("kc", "owner lock " + locked)
            time.sleep(rng.random() * 0.2)
            kc.message("kc", "owner unlock " + locked)
        elif what == "owner":
            changes += 1
            ids = str(boot * 10000 + changes)
            log("begin", owner, ids)
            if changes == 1:
                kc.message("kc", "owner add %s %s :64:logon:kc:%s" % (owner, ids, owner))
            else:
                kc.message("kc", "owner ids %s %s" % (owner, ids))
            log("end", owner, ids)
        elif what == "list":
            kc.message("kc", "owner list")
        elif what == "sync" and rng.random() < 0.2:
            os.sync()
        elif what == "drop":
            with open("/proc/sys/vm/drop_caches", "w") as f:
                f.write("1")
        with open(folder + "/state.new", "w") as f:
            f.write(re.sub(r" \S+:\d+:unlocked", "", kc.status("kc")))
        os.rename(folder + "/state.new", folder + "/state")


def cmd_load(kind, folder, boot, seed, delay):
    """Returns only if something fails, which it prints."""
    boot = int(boot)
    todo = [lambda: disturber(kind, folder, boot, seed)]
    if kind == "raw":
        todo += [functools.partial(raw_writer, folder, nr, boot, seed) for nr in range(RAW_WRITERS)]
    else:
        todo += [lambda uid=uid: Writer(kind, folder, uid, boot, seed).run() for uid in USERS]
    pids = []
    for what in todo:
        pid = os.fork()
        if not pid:
            try:
                what()
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        pids.append(pid)
    wait = time.monotonic() + 30
    while time.monotonic() < wait and len([n for n in os.listdir(folder)
                                           if n.endswith(".%03d" % boot)]) < len(todo):
        time.sleep(0.05)
    # What the disturber does flushes the disk, and would hide that something else does not: two times
    # in three he stops on the way.
    delay = int(delay) / 1000
    if int(seed) % 3:
        time.sleep(delay * 0.3)
        os.kill(pids[0], signal.SIGSTOP)
        delay *= 0.7
    time.sleep(delay)
    print("kc-power-cut")
    os.wait()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    sys.exit(1)


{"load": cmd_load, "check": cmd_check, "scan": cmd_scan}[sys.argv[1]](*sys.argv[2:])
