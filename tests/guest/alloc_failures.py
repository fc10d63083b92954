#!/usr/bin/python3
# See 13-alloc-failures.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import collections
import itertools
import os
import re
import time

import kc
import kcformat as f

DATA, META = "/dev/disk/kc/data", "/dev/ram0"
BLOCK = 4096
LENGTH = 16 << 11
AREA = 440 * BLOCK
KC = "kc"
PARAMS = "/sys/module/failinject/parameters/"
ALL = 1 << 30
FEW = 40
EVERY = bool(os.environ.get("KC_EVERY"))
sites = collections.Counter()
log = kc.Log()


def put(name, value):
    with open(PARAMS + name, "w") as f:
        f.write(str(value))


def get(name):
    with open(PARAMS + name) as f:
        return f.read().strip()


class Failing:
    """Allocations fail, from number nth on, so many."""

    def __init__(self, nth, times):
        self.nth, self.times = nth, times

    def __enter__(self):
        put("times", self.times)
        put("nth", self.nth)
        return self

    def __exit__(self, *what):
        put("nth", 0)
        self.injected = int(get("injected"))
        self.site = get("site")
        if self.injected:
            sites[self.site] += 1


def table(*opts):
    return kc.separate(LENGTH, DATA, META, *opts)


def settled(state):
    """What a failure leaves locked is unlocked within half a second."""
    text = state()
    for _ in range(30):
        if ":locked" not in text:
            break
        time.sleep(0.1)
        text = state()
    return text


def live():
    """All there is to know about the device, but what it has counted."""
    words = kc.status(KC).split()
    return "%s\n%s\n%s\n%s" % (" ".join(words[3:4] + words[9:]), kc.table_of(KC), kc.message(KC, "owner list"),
                               kc.message(KC, "map 0 %d" % (LENGTH // 8)))


def nothing():
    return ""


class Sweep:
    """Allocations of do() fail: each one, then all from each one on; if there are many, from each call chain that has not had its
    turn yet. After a failure the state must be as before, and do() must work; after a success good() says what is wrong.
    undo() takes back what do() has done, and is called first."""

    def __init__(self, name, do, undo=nothing, state=live, good=nothing, errors=("ENOMEM",), mapped=False, none=False):
        self.do, self.undo, self.state, self.good = do, undo, state, good
        self.errors = errors
        self.mapped = mapped            # the log must say that it was memory
        self.failed = []
        do()
        undo()
        with Failing(ALL, 1):
            do()
        total = int(get("seen"))
        undo()
        chains = total > FEW and not EVERY
        put("chains", int(chains))
        runs = refused = 0
        for times in 1, ALL:
            for nth in itertools.count(1):
                injected, error = self.run(1 if chains else nth, times)
                if not injected:
                    break
                runs += 1
                refused += error != "none"
        put("chains", 0)
        kc.diag("%s: %d allocations, %d runs, %d refused" % (name, total, runs, refused))
        if not total and not none:
            self.failed.append("no allocation was seen")
        kc.ok("%s: an error that says so and changes nothing, or it works in spite of it" % name, not self.failed,
              "\n".join(self.failed))

    def bad(self, fail, text):
        self.failed.append("allocation %d and %s more, in %s: %s" %
                           (fail.nth, "no" if fail.times == 1 else "all", fail.site, text))

    def run(self, nth, times):
        before = settled(self.state)
        log.new()
        with Failing(nth, times) as fail:
            error = kc.errno_of(self.do)
        if error != "none":
            said = [line for line in log.new() if "keyed-crypt" in line]
            # dm says ENODEV when it has no memory to look up a device
            if error not in self.errors and not any("cannot open" in line for line in said):
                self.bad(fail, "%s, %s" % (error, said))
            elif error == "ENOMEM" and self.mapped and not any(re.search("keyed-crypt.*out of memory", line) for line in said):
                self.bad(fail, "the log says %s" % said)
            after = settled(self.state)
            if after != before:
                self.bad(fail, "was %s\nis %s" % (before, after))
            again = kc.errno_of(self.do)
            if again != "none":
                self.bad(fail, "and again, with memory: %s, %s" % (again, log.new()))
                return fail.injected, error
        wrong = self.good()
        if wrong:
            self.bad(fail, wrong)
        self.undo()
        return fail.injected, error


def create(*opts, ro=False):
    kc.create(KC, table("allow_discards", *opts), ro)


def create_new():
    """What a table formatted that then failed for want of memory is there already."""
    kc.create(KC, table("allow_discards"), new=not any(kc.read(META, 0, 17 * 4096)))


def remove():
    kc.remove(KC)


def new_area(owner_blocks=16, sector_size=4096):
    """A small one, so that tables load fast."""
    kc.write(META, 0, f.make_area(device_key, LENGTH * 512 // sector_size, owner_blocks, sector_size=sector_size))


def expect(text, state=live):
    """For good(): the state is this one."""
    def check():
        now = settled(state)
        return "" if now == text else "expected %s\nis %s" % (text, now)
    return check


def tables():
    kc.zero(META, 0, AREA)

    def format_again():
        remove()
        kc.zero(META, 0, AREA)

    # what is formatted stays so when memory runs out behind that
    Sweep("create, with an area of zeros", create_new, format_again, nothing, mapped=True)

    new_area()
    create()
    for n, who in enumerate(("alice", "bob")):
        kc.message(KC, "owner add %s %d :64:logon:kc:%s" % (who, 1000 + n, who))
    for b in range(40):
        kc.write(dev(), b * 50 * BLOCK, b"%4d" % b * 1024, uid=(0, 1000, 1001)[b % 3])
    all_of_it = live()
    remove()
    clean = kc.read(META, 0, AREA)

    def meta():
        return str(hash(kc.read(META, 0, AREA)))

    Sweep("create, with a clean journal", create, remove, meta, expect(all_of_it), mapped=True)

    def spoil():
        remove()
        kc.write(META, 16 * BLOCK, bytes(BLOCK))

    kc.write(META, 16 * BLOCK, bytes(BLOCK))
    # which may be written again before memory runs out
    Sweep("create, with a bad superblock", create, spoil, nothing, expect(all_of_it), mapped=True)
    kc.write(META, 0, clean)

    create()
    for b in range(40):
        kc.write(dev(), (b * 50 + b % 2) * BLOCK, b"%4d" % b * 1024, uid=(1000, 1001, 0)[b % 3])
    kc.message(KC, "commit")
    dirty = kc.read(META, 0, AREA)
    all_of_it = live()
    remove()
    kc.write(META, 0, dirty)

    def again():
        remove()
        kc.write(META, 0, dirty)

    Sweep("create, with a journal to recover", create, again, nothing, expect(all_of_it), mapped=True)
    kc.write(META, 0, clean)
    wide_map()
    kc.write(META, 0, clean)

    create()
    ring = kc.keyctl(0, kc.USER, 0)
    Sweep("load a table", lambda: kc.load(KC, table("allow_discards", "reassign:lazy", "keyring:%d" % ring)), lambda: kc.clear(KC),
          mapped=True)
    all_of_it = live()
    Sweep("load and resume a table", lambda: kc.reload(KC, table("allow_discards")), good=expect(all_of_it), mapped=True)
    change()
    Sweep("suspend and resume", lambda: (kc.suspend(KC), kc.resume(KC)), change)
    remove()


def full():
    """Read-only, what recovery has changed stays in memory: with no memory for more, a read must end."""
    per_map, last = 1920, LENGTH // 1920
    kc.write(META, 0, f.make_area(device_key, LENGTH, owner_blocks=16, sector_size=512))
    kc.create(KC, table("sector_size:512"))
    kc.message(KC, "owner add alice 1000 :64:logon:kc:alice")
    kc.write(dev(), last * per_map * 512, b"l" * BLOCK)
    remove()
    kc.create(KC, table("sector_size:512"))
    for i in range(last):
        kc.write(dev(), i * per_map * 512, b"%4d" % i * 1024)
    kc.message(KC, "commit")
    dirty = kc.read(META, 0, AREA)
    remove()
    kc.write(META, 0, dirty)
    kc.create(KC, table("sector_size:512"), ro=True)
    with Failing(1, ALL) as fail:
        error = kc.errno_of(kc.read, dev(), last * per_map * 512, BLOCK)
    kc.ok("read-only, with all of the map in memory changed: a read ends when there is no memory for more", error == "ENOMEM" and
          fail.injected >= 100, "%s, %d" % (error, fail.injected))
    kc.ok("what is in memory is read", kc.read(dev(), 0, BLOCK) == b"   0" * 1024)
    kc.ok("and with memory the rest", kc.read(dev(), last * per_map * 512, BLOCK) == b"l" * BLOCK)
    remove()


def wide_map():
    """More map blocks than there are from the beginning."""
    opts = "sector_size:512",
    nr = LENGTH // f.ENTRIES + 1
    new_area(sector_size=512)
    create(*opts)

    def put(m, at):
        kc.write(dev(), (m * f.ENTRIES + at) * 512, b"%4d" % m * 128)

    def right(m, at):
        return kc.read(dev(), (m * f.ENTRIES + at) * 512, 512) == b"%4d" % m * 128

    for m in range(nr):
        put(m, m)

    def forget_all():
        remove()
        create(*opts)
        for m in range(16):
            kc.read(dev(), (m * f.ENTRIES + m) * 512, 512)

    forget_all()
    Sweep("a read of a map block more", lambda: kc.read(dev(), (16 * f.ENTRIES + 16) * 512, 512), forget_all, nothing,
          lambda: "" if right(16, 16) else "other data is read", errors=())
    for m in range(nr):
        put(m, m + 100)
        if m % 3 == 0:
            kc.message(KC, "commit")
    kc.message(KC, "commit")
    dirty = kc.read(META, 0, AREA)
    remove()
    kc.write(META, 0, dirty)

    def meta():
        return str(hash(kc.read(META, 0, AREA)))

    def all_right():
        wrong = [m for m in range(nr) if not right(m, m) or not right(m, m + 100)]
        return "map blocks %s" % wrong if wrong else ""

    Sweep("create, read-only, with a journal for more map blocks", lambda: create(*opts, ro=True), remove, meta, all_right,
          mapped=True)


def dev():
    return kc.node(kc.dm(kc.DEV_STATUS, KC)[0])


def messages():
    new_area()
    create()
    kc.message(KC, "owner add alice 1000 :64:logon:kc:alice")
    kc.write(dev(), 0, bytes(BLOCK), uid=1000)

    number = [0]

    def add():
        nr = number[0]
        kc.message(KC, "owner add o%d %d-%d :64:logon:kc:o%d" % (nr, 2000 + nr * 10, 2005 + nr * 10, nr))

    def added():
        row = "o%d %d unlocked %d-%d :64:logon:kc:o%d 0" % (number[0], number[0] + 3, 2000 + number[0] * 10, 2005 + number[0] * 10, number[0])
        found = [line for line in settled(live).split("\n") if line.startswith("o%d " % number[0])]
        # its ids count: a write of his goes under his key
        kc.write(dev(), 0, bytes(BLOCK), uid=2003 + number[0] * 10)
        slot = kc.message(KC, "map 0 1")
        kc.write(dev(), 0, bytes(BLOCK), uid=1000)
        return "" if found == [row] and slot == "0 1 %d" % (number[0] + 3) else "%s, a write goes to %s" % (found, slot)

    def next_owner():
        number[0] += 1
        kc.add_key("logon", "kc:o%d" % number[0], os.urandom(64))

    kc.add_key("logon", "kc:o0", os.urandom(64))
    Sweep("owner add", add, next_owner, good=added)
    kc.add_key("logon", "kc:victim", os.urandom(64))

    def victim():
        kc.message(KC, "owner add victim - :64:logon:kc:victim")

    def destroyed():
        rows = [line for line in live().split("\n") if line.startswith("victim ") and " destroyed " not in line]
        return "\n".join(rows)

    victim()
    Sweep("owner destroy", lambda: kc.message(KC, "owner destroy victim"), victim, good=destroyed)

    ids = ["1000", "1000,1100-1199"]

    def other_ids():
        kc.message(KC, "owner ids alice " + ids[1])

    def have_ids():
        kc.write(dev(), BLOCK, bytes(BLOCK), uid=1150)
        slot = kc.message(KC, "map 1 1")
        kc.write(dev(), BLOCK, bytes(BLOCK), uid=1000)
        return "" if "alice 2 unlocked %s " % ids[1] in live() and (slot == "1 1 2") == ("-" in ids[1]) else live() + slot

    def swap_ids():
        ids.reverse()

    kc.write(dev(), BLOCK, bytes(BLOCK), uid=1000)
    Sweep("owner ids", other_ids, swap_ids, good=have_ids)

    def lock():
        kc.message(KC, "owner lock alice")

    def unlock():
        kc.message(KC, "owner unlock alice")

    def readable():
        return kc.errno_of(kc.read, dev(), 0, BLOCK)

    Sweep("owner lock", lock, unlock, none=True, good=lambda: "" if readable() == "EIO" else "is not locked")
    lock()
    Sweep("owner unlock", unlock, lock, readable, good=lambda: "" if readable() == "none" else "is locked")
    unlock()
    rows = kc.message(KC, "owner list")
    answer = []

    def ask(text):
        answer[:] = [kc.message(KC, text)]

    Sweep("owner list", lambda: ask("owner list"), good=lambda: "" if answer == [rows] else str(answer))

    def ask_table():
        answer[:] = [kc.table_of(KC)]

    line = kc.table_of(KC)
    Sweep("table", ask_table, good=lambda: "" if answer == [line] else str(answer), none=True)

    def same_key():
        kc.add_key("logon", "kc:alice", payloads["alice"])
        time.sleep(0.7)

    # The same bytes again, which is seen within half a second, by a worker; it needs no memory
    Sweep("a key is renewed", same_key, good=lambda: settled(live) and ("" if readable() == "none" else "is locked"), none=True)
    forget()
    runs = kc.message(KC, "map 0 4")
    Sweep("map", lambda: ask("map 0 4"), forget, nothing, lambda: "" if answer == [runs] else str(answer))
    change()
    Sweep("commit", lambda: kc.message(KC, "commit"), change)
    remove()


def last_slot():
    """All slots are in use, and one of them by a destroyed owner without blocks."""
    new_area(owner_blocks=1)
    create()
    for n in range(6):
        kc.add_key("logon", "kc:p%d" % n, os.urandom(64))
        kc.message(KC, "owner add p%d - :64:logon:kc:p%d" % (n, n))
    kc.add_key("logon", "kc:late", os.urandom(64))
    kc.equal("all slots are in use, none by a destroyed owner",
             kc.errno_of(kc.message, KC, "owner add late - :64:logon:kc:late"), "ENOSPC")
    kc.message(KC, "owner destroy p3")

    def added():
        rows = settled(live).split("\n")
        return "" if "late 5 unlocked - :64:logon:kc:late 0" in rows else str(rows)

    Sweep("owner add, in a destroyed one's slot", lambda: kc.message(KC, "owner add late - :64:logon:kc:late"),
          lambda: kc.message(KC, "owner destroy late"), good=added)
    remove()


def forget():
    """Nothing of the map in memory any more."""
    remove()
    create()


at = [100]


def change():
    """A block that was unassigned is not any more."""
    at[0] += 1
    kc.write(dev(), at[0] * BLOCK, b"%4d" % at[0] * 1024, uid=1000)


def io():
    """Must not fail at all: there are pools for it."""
    new_area()
    create()
    for n, who in enumerate(("alice", "bob")):
        kc.message(KC, "owner add %s %d :64:logon:kc:%s" % (who, 1000 + n, who))
    text = os.urandom(16 * BLOCK)
    uid = [1000]

    def write():
        kc.write(dev(), 0, text, uid=uid[0])

    def written():
        return "" if kc.read(dev(), 0, len(text)) == text else "other data is read"

    def other():
        uid[0] = 2001 - uid[0]

    def fsync():
        fd = os.open(dev(), os.O_WRONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    none = {"errors": (), "state": nothing}
    Sweep("a first write", write, lambda: (kc.discard(dev(), 0, len(text)), kc.message(KC, "commit")), good=written, **none)
    write()
    Sweep("a write over own blocks", write, good=written, **none)
    Sweep("a write over blocks of another owner", write, other, good=written, **none)
    got = []

    def read():
        got[:] = [kc.read(dev(), 0, len(text))]

    Sweep("a read", read, none=True, good=lambda: "" if got == [text] else "other data is read", **none)
    Sweep("a read whose map block is not in memory", read, forget, good=lambda: "" if got == [text] else "other data is read", **none)
    change()
    Sweep("a flush", fsync, change, **none)

    def discard():
        kc.discard(dev(), 0, len(text))

    def zeros():
        return "" if not any(kc.read(dev(), 0, len(text))) else "data is read"

    def put_back():
        write()
        forget()

    Sweep("a discard whose map block is not in memory", discard, put_back, good=zeros, **none)
    remove()


kc.join_session()
for name, address in zip(("start", "end"), kc.module_text()):
    put(name, address)
device_key = os.urandom(64)
kc.add_key("logon", "kc:root", device_key)
payloads = {who: os.urandom(64) for who in ("alice", "bob")}
for who in payloads:
    kc.add_key("logon", "kc:" + who, payloads[who])
for check in tables, full, messages, last_slot, io:
    if kc.wanted(check.__name__):
        check()
kc.diag("%d runs with failures, the last one in one of %d functions: %s" % (
    sum(sites.values()), len(sites), ", ".join("%s %d" % (name.split(" ")[0], n) for name, n in sites.most_common())))
kc.done()
