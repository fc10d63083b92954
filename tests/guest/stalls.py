#!/usr/bin/python3
# See 15-stalls.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import mmap
import os
import re
import signal
import threading
import time

import kc
import kcformat as f

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
LENGTH, META_LENGTH = 64 << 11, 16384
SLOW = 48 << 11                         # from this sector on, the data can be stopped
SLOW_BLOCK = SLOW // 8
KEYS = {who: os.urandom(64) for who in ("root", "alice", "bob", "carl")}
UIDS = {1: None, 2: 1000, 3: 1001}
log = kc.Log()
Later = kc.Later


# ---- disks that stop, and break ----

def data_table(times=1):
    """The disk, so many times behind each other; the end of the first is on a device that can be stopped."""
    rows = ["0 %d linear %s 0" % (SLOW, DATA), "%d %d linear %s 0" % (SLOW, LENGTH - SLOW, slow)]
    rows += ["%d %d linear %s 0" % (n * LENGTH, LENGTH, DATA) for n in range(1, times)]
    return "\n".join(rows)


def meta_table(first=0, nr=0):
    """With so many bad area blocks."""
    first, nr = first * 8, nr * 8
    rows = [(0, first, "linear"), (first, nr, "error"), (first + nr, META_LENGTH - first - nr, "linear")]
    return "\n".join("%d %d %s" % (at, n, kind + (" %s %d" % (META, at) if kind == "linear" else ""))
                     for at, n, kind in rows if n)


def stop(name):
    kc.suspend(name)


def go_on(name):
    kc.resume(name)


def break_meta(first, nr):
    kc.reload("meta", meta_table(first, nr))


def mend_meta():
    kc.reload("meta", meta_table())


# ---- the device ----

def new_area(length=LENGTH, sector_size=4096, first=1):
    """A new area whose first journal block gets this number."""
    nr = length * 512 // sector_size
    layout = f.Layout(nr, 1, 128)
    image = f.make_area(KEYS["root"], nr, sector_size=sector_size)
    s = f.super_parse(image)
    anchor = f.ANCHOR_HEAD.pack(first, first, 1).ljust(8 * f.UNIT_PAYLOAD, b"\0")
    image[layout.anchor * BLOCK:(layout.anchor + 1) * BLOCK] = \
        f.Keys(KEYS["root"], s["salt"], s["uuid"]).seal_block(f.ANCHOR, layout.anchor, anchor)
    kc.write(META, 0, bytes(image))
    return layout


def table(*opts, length=LENGTH):
    return kc.separate(length, data, meta, *opts)


def opened(*opts, length=LENGTH, sector_size=4096, first=1):
    """A new device with two owners: (node, layout)."""
    layout = new_area(length, sector_size, first)
    if sector_size != 4096:
        opts += ("sector_size:%d" % sector_size,)
    dev = kc.create("kc", table(*opts, length=length))
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")
    return dev, layout


def text(slot, block, size=BLOCK):
    return (b"%d %8d " % (slot, block)).ljust(32, b".") * (size // 32)


def put(dev, block, slot=1):
    kc.write(dev, block * BLOCK, text(slot, block), uid=UIDS[slot])


def has(dev, block, slot=1):
    return kc.read(dev, block * BLOCK, BLOCK) == (text(slot, block) if slot else bytes(BLOCK))


def put_many(dev, blocks):
    disk = kc.Disk(dev)
    for b in blocks:
        disk.write(b * BLOCK, text(1, b))
    disk.close()


def slots(first, count):
    out = []
    for row in kc.message("kc", "map %d %d" % (first, count)).split("\n"):
        _, n, slot = map(int, row.split())
        out += [slot] * n
    return out


def used():
    return int(kc.status("kc").split()[5].split("/")[0])


def number():
    return int(kc.status("kc").split()[4])


def state():
    return kc.status("kc").split()[3]


def commit():
    kc.message("kc", "commit")


def fsync(dev):
    fd = os.open(dev, os.O_WRONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def crash(*opts, **kw):
    """What the disk holds now is what the next table finds."""
    copy = kc.read(META, 0, META_LENGTH << 9)
    kc.remove("kc")
    kc.write(META, 0, copy)
    return kc.create("kc", table(*opts, **kw))


def again(*opts, **kw):
    """The disk is well, and the table is loaded again after a failure."""
    mend_meta()
    kc.suspend("kc")
    kc.reload("kc", table(*opts, **kw))


def said(regex):
    return [line for line in log.new() if re.search(regex, line)]


# ---- the end of the journal ----

def many_at_once():
    """More changes than one journal write holds, and over the end of the journal."""
    dev, _ = opened(first=125)
    put(dev, 0)
    commit()
    put(dev, 2)
    stop("meta")
    first = Later(commit)
    kc.ok("many changes: a commit waits for its disk", first.waits())
    blocks = range(4, 4 + 2 * 4400, 2)
    put_many(dev, blocks)
    before = number()
    go_on("meta")
    kc.equal("many changes: it ends", first.end(), "none")
    commit()
    kc.equal("many changes: in 18 journal blocks behind its own", number() - before, 1 + 18)
    for when in "at once", "after a crash":
        kc.equal("many changes, %s: the map" % when, slots(0, 8804), [b % 2 ^ 1 for b in range(8804)])
        kc.ok("many changes, %s: the data" % when, all(has(dev, b) for b in (0, 2, 1000, 8802)))
        if when == "at once":
            dev = crash()
    kc.remove("kc")


def fails_at_the_end():
    """The last block of the journal cannot be written, and there is more to write."""
    dev, layout = opened(first=126)
    put(dev, 0)
    put(dev, 2000, 2)
    commit()
    break_meta(layout.journal + 127, 1)
    log.new()
    put_many(dev, range(2, 1202, 2))
    kc.equal("the last journal block is bad: commit says so", kc.errno_of(commit), "EIO")
    kc.equal("the last journal block is bad: status", state(), "failed")
    kc.equal("the last journal block is bad: one line in the log", len(said("writing the journal failed")), 1)
    again()
    kc.ok("the last journal block is bad: what was committed is there", has(dev, 0) and has(dev, 2000, 2))
    kc.equal("the last journal block is bad: nothing else", set(slots(1, 1500)), {0})
    kc.remove("kc")

    size = 1920 * 512
    dev, layout = opened(first=126, sector_size=512)
    kc.write(dev, 0, text(2, 0, size), uid=1000)
    commit()
    break_meta(layout.journal + 127, 1)
    kc.equal("nor can many intents: the write fails", kc.errno_of(kc.write, dev, 0, text(3, 0, size), uid=1001), "EIO")
    kc.equal("status", state(), "failed")
    for when in "at once", "with another table":
        kc.ok("nothing has changed, " + when, kc.read(dev, 0, size) == text(2, 0, size) and set(slots(0, 1920)) == {2})
        if when == "at once":
            again("sector_size:512")
    kc.equal("and it may be written", kc.errno_of(kc.write, dev, 0, text(3, 0, size), uid=1001), "none")
    dev = crash("sector_size:512")
    kc.ok("also after a crash", kc.read(dev, 0, size) == text(3, 0, size) and set(slots(0, 1920)) == {3})
    kc.remove("kc")

    # the intents of the first write just fill the block, those of the next begin with writing it
    dev, layout = opened(first=125, sector_size=512)
    kc.write(dev, 0, text(2, 0, 1024 * 512), uid=1000)
    commit()
    kc.write(dev, 1100 * 512, bytes(512))
    stop("meta")
    first = Later(commit)
    kc.ok("intents of several writes: a commit waits for its disk", first.waits())
    writes = []
    for at, nr in (0, 502), (600, 8), (700, 8):
        writes.append(Later(kc.write, dev, at * 512, text(3, at, nr * 512), os.O_DIRECT, 1001))
        time.sleep(0.5)
    break_meta(layout.journal + 127, 1)
    kc.equal("intents of several writes: the commit is done", first.end(), "none")
    kc.equal("intents of several writes: all fail", [w.end() for w in writes], ["EIO"] * 3)
    kc.equal("intents of several writes: status", state(), "failed")
    for when in "at once", "with another table":
        kc.ok("intents of several writes: nothing has changed, " + when,
              kc.read(dev, 0, 1024 * 512) == text(2, 0, 1024 * 512) and slots(0, 1101) == [2] * 1024 + [0] * 76 + [1])
        if when == "at once":
            again("sector_size:512")
    kc.remove("kc")


def fill(dev, first, limit):
    """Commits until the journal is that full; the block after the last one."""
    for b in range(first, first + 200):
        if used() >= limit:
            return b
        put(dev, b)
        commit()
    return first + 200


def full_journal(broken):
    """A commit that needs the room of an intent waits for its data, which is slow."""
    name = "full journal%s: " % ", bad disk" * broken
    dev, layout = opened()
    put(dev, SLOW_BLOCK, 2)
    commit()
    stop("slow")
    bob = Later(put, dev, SLOW_BLOCK, 3)
    kc.ok(name + "a write waits for its disk", bob.waits())
    last = fill(dev, 0, 94)
    kc.ok(name + "others go on meanwhile", used() == 94 and bob.poll() is None, (used(), last))
    put(dev, last)
    log.new()
    late = Later(commit)
    kc.ok(name + "then a commit waits for it", late.waits() and bob.poll() is None)
    if broken:
        break_meta(layout.journal, 128)
    go_on("slow")
    kc.equal(name + "the write ends well", bob.end(), "none")
    kc.equal(name + "and so does the commit" if not broken else name + "the commit says so", late.end(), "EIO" if broken else "none")
    kc.equal(name + "status", state(), "failed" if broken else "rw")
    if broken:
        kc.equal(name + "one line in the log", len(said("writing the journal failed")), 1)
        kc.ok(name + "live, all is there", has(dev, SLOW_BLOCK, 3) and all(has(dev, b) for b in range(last + 1)))
        again()
        kc.ok(name + "the last one was never durable", slots(last, 1) == [0] and has(dev, last, 0))
    else:
        kc.ok(name + "which has emptied the journal", used() < 3, used())
        dev = crash()
        kc.ok(name + "and what it committed is durable", has(dev, last) and slots(last, 1) == [1])
    kc.ok(name + "the write's block is his", has(dev, SLOW_BLOCK, 3) and slots(SLOW_BLOCK, 1) == [3])
    kc.ok(name + "and all that was committed is there", all(has(dev, b) for b in range(last)) and set(slots(0, last)) == {1})
    kc.remove("kc")


def full_and_bad():
    """The journal is full in the middle of a commit, whose first block cannot be written."""
    dev, layout = opened()
    put(dev, SLOW_BLOCK, 2)
    commit()
    stop("slow")
    bob = Later(put, dev, SLOW_BLOCK, 3)
    kc.ok("full in a commit: a write waits for its disk", bob.waits())
    last = fill(dev, 0, 92)
    put(dev, last)
    stop("meta")
    first = Later(commit)
    kc.ok("full in a commit: one waits for its disk", first.waits())
    put_many(dev, range(last + 2, last + 802, 2))
    break_meta(layout.journal + number() + 2, 1)    # number() is the last one written, and one is under way
    kc.equal("full in a commit: it ends well", first.end(), "none")
    kc.equal("full in a commit: the next one does not", kc.errno_of(commit), "EIO")
    go_on("slow")
    kc.equal("full in a commit: the write ends well", bob.end(), "none")
    again()
    kc.ok("full in a commit: its block is his", has(dev, SLOW_BLOCK, 3) and slots(SLOW_BLOCK, 1) == [3])
    # a map block that is written back has what was not committed yet, too
    got = slots(0, last + 802)
    kc.equal("full in a commit: what was committed is there", got[:last + 1], [1] * (last + 1))
    kc.equal("full in a commit: between its blocks there is nothing", set(got[last + 1::2]), {0})
    kc.ok("full in a commit: its blocks are what was written, or nothing",
          all(has(dev, b, got[b]) for b in range(last + 2, last + 802, 50)))
    kc.remove("kc")


def full_journals():
    full_journal(False)
    full_journal(True)
    full_and_bad()


# ---- what is under way when the metadata stops, and fails ----

def owners_added():
    """Two owners at once and a commit, when their disk fails."""
    dev, _ = opened()
    commit()
    log.new()
    events = kc.event_nr("kc")
    stop("meta")
    put(dev, 5)
    waiting = [Later(commit)]
    for n in range(2):
        waiting.append(Later(kc.message, "kc", "owner add %s %d :64:logon:kc:carl" % (("carl", "cora")[n], 1002 + n)))
        time.sleep(0.5)
    kc.ok("owners added: they wait", all(w.poll() is None for w in waiting))
    break_meta(0, 1024)
    kc.equal("owners added: none is done", [w.end() for w in waiting], ["EIO"] * 3)
    kc.equal("owners added: status", state(), "failed")
    kc.equal("owners added: one line in the log", len(said("writing the .* failed")), 1)
    kc.equal("owners added: one event", kc.event_nr("kc"), events + 1)
    again()
    kc.equal("owners added: there are none", [row.split()[0] for row in kc.message("kc", "owner list").split("\n")], ["alice", "bob"])
    kc.equal("owners added: nor what was not durable", slots(5, 1), [0])
    kc.remove("kc")


def unsettled():
    """The owner table fails while changes ride in memory."""
    dev, _ = opened()
    put(dev, 5, 2)
    commit()
    break_meta(f.OWNER_START, 1)
    put(dev, 5, 3)
    put(dev, 7)
    kc.equal("unsettled: a failure", kc.errno_of(kc.message, "kc", "owner add carl 1002 :64:logon:kc:carl"), "EIO")
    kc.equal("unsettled: a block that has just changed its owner cannot be written", kc.errno_of(put, dev, 5, 3), "EIO")
    kc.ok("unsettled: but read", has(dev, 5, 3))
    kc.equal("unsettled: a flush fails", kc.errno_of(fsync, dev), "EIO")
    kc.equal("unsettled: and a commit", kc.errno_of(commit), "EIO")
    kc.ok("unsettled: a new block is read", has(dev, 7))
    again()
    kc.ok("unsettled: the next table finds whose it is", has(dev, 5, 3) and slots(5, 1) == [3])
    kc.equal("unsettled: a new block was never durable", slots(7, 1), [0])
    kc.equal("unsettled: it can be written again", kc.errno_of(put, dev, 5, 3), "none")
    kc.remove("kc")


def settled_in_part():
    """A change of owner that ends while a commit of another one is under way is not settled by it."""
    dev, _ = opened()
    put(dev, SLOW_BLOCK, 2)
    put(dev, SLOW_BLOCK - 1, 2)
    commit()
    stop("slow")
    late = Later(put, dev, SLOW_BLOCK, 3)
    kc.ok("settled in part: a write waits for its disk", late.waits())
    reader = Later(has, dev, SLOW_BLOCK, 3)
    others = Later(has, dev, SLOW_BLOCK - 2, 0)
    kc.ok("settled in part: so does a read of the same block", reader.waits())
    kc.equal("settled in part: but not of another", others.end(), "none")
    put(dev, SLOW_BLOCK - 1, 3)
    first = Later(commit)       # a flush of the data is in its way
    kc.ok("settled in part: so does a commit", first.waits())
    stop("meta")
    go_on("slow")
    kc.equal("settled in part: the write ends", late.end(), "none")
    kc.equal("settled in part: and the read finds what it brought", reader.end(), "none")
    kc.ok("settled in part: the commit still waits", first.waits())
    go_on("meta")
    kc.equal("settled in part: the commit ends", first.end(), "none")
    before = number()
    put(dev, SLOW_BLOCK - 1, 3)
    kc.equal("settled in part: what it settled is written at once", number(), before)
    put(dev, SLOW_BLOCK, 3)
    kc.ok("settled in part: the other waits for a commit of its own", number() > before, (before, number()))
    dev = crash()
    kc.ok("settled in part: both are there after a crash", has(dev, SLOW_BLOCK, 3) and has(dev, SLOW_BLOCK - 1, 3))
    kc.equal("settled in part: with their owner", slots(SLOW_BLOCK - 1, 2), [3, 3])
    kc.remove("kc")


def readers():
    """Several want a map block that is being read, in vain."""
    dev, layout = opened()
    put(dev, 0)
    put(dev, 2000)
    kc.remove("kc")
    dev = kc.create("kc", table())
    stop("meta")
    waiting = [Later(kc.read, dev, 2000 * BLOCK, BLOCK) for _ in range(3)]
    kc.ok("readers: they wait", all([w.waits() for w in waiting]))
    break_meta(layout.map + 1, 1)
    kc.equal("readers: all fail", [w.end() for w in waiting], ["EIO"] * 3)
    kc.ok("readers: of other map blocks not", has(dev, 0))
    mend_meta()
    kc.ok("readers: nor when the disk is well", has(dev, 2000))
    kc.remove("kc")


def killed():
    """Who asks for much and is killed does not go on to the end."""
    dev, layout = opened()
    blocks = range(0, LENGTH // 8, f.ENTRIES)
    for b in blocks:
        put(dev, b)
    kc.remove("kc")
    for message in "map 0 %d" % (LENGTH // 8), "owner list":
        dev = kc.create("kc", table())
        stop("meta")
        before = kc.disk_stat(META)[0]
        pid = os.fork()
        if not pid:
            kc.errno_of(kc.message, "kc", message)
            os._exit(0)
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        go_on("meta")
        kc.equal("killed in %s: it ends" % message, os.waitpid(pid, 0)[1], signal.SIGKILL)
        kc.equal("killed in %s: after one of %d map blocks" % (message, len(blocks)), kc.disk_stat(META)[0] - before, 1)
        kc.ok("killed in %s: the device is well" % message, all(has(dev, b) for b in blocks))
        kc.remove("kc")


# ---- the device key goes ----

def key_lost(what):
    """Revokes the device key, what() meanwhile, and brings it back."""
    log.new()
    kc.keyctl(3, serial["root"])
    seen = []
    for _ in range(50):
        seen += said("device key is gone")
        if seen:
            break
        time.sleep(0.1)
    time.sleep(1.5)
    what()
    serial["root"] = kc.add_key("logon", "kc:root", KEYS["root"])
    back = []
    for _ in range(50):
        back += said("device key is back")
        if back:
            break
        time.sleep(0.1)
    return len(seen) == 1 and len(back) == 1


def key_goes():
    dev, layout = opened()
    put(dev, 0)
    put(dev, SLOW_BLOCK)
    put(dev, SLOW_BLOCK + 1, 2)
    commit()
    # a read and a change of owner on a slow disk: what they need of the map stays until they have ended
    stop("slow")
    read = Later(has, dev, SLOW_BLOCK)
    write = Later(put, dev, SLOW_BLOCK + 1, 3)
    kc.ok("key lost: I/O is under way", read.waits() and write.waits())

    def meanwhile():
        kc.equal("key lost: others fail", kc.errno_of(kc.read, dev, 0, BLOCK), "EIO")
        kc.ok("key lost: these still wait", read.poll() is None and write.poll() is None)
        go_on("slow")
        kc.equal("key lost: the write ends well", write.end(), "none")
        kc.equal("key lost: so does the read, or it fails", read.end() in ("none", "EIO"), True)
        time.sleep(2.5)
        kc.equal("key lost: then there is no map", kc.errno_of(kc.read, dev, 0, BLOCK), "EIO")

    kc.ok("key lost: it goes and comes", key_lost(meanwhile))
    kc.ok("key lost: and all is there", has(dev, 0) and has(dev, SLOW_BLOCK) and has(dev, SLOW_BLOCK + 1, 3))
    kc.equal("key lost: with its owner", slots(SLOW_BLOCK, 2), [1, 3])

    # what could not be written stays in memory
    break_meta(layout.journal, 128)
    put(dev, 10, 2)
    kc.equal("key lost after a failure: a failure", kc.errno_of(commit), "EIO")
    kc.ok("key lost after a failure: it goes and comes", key_lost(lambda: kc.equal(
        "key lost after a failure: nothing is read", [kc.errno_of(kc.read, dev, b * BLOCK, BLOCK) for b in (0, 10)], ["EIO"] * 2)))
    kc.ok("key lost after a failure: all is there", has(dev, 0) and has(dev, 10, 2))
    again()
    kc.remove("kc")

    # read-only, while a map block is being read
    dev = kc.create("kc", table(), ro=True)
    stop("meta")
    waiting = [Later(kc.read, dev, 0, BLOCK) for _ in range(2)]
    kc.ok("key lost, read-only: they wait", all([w.waits() for w in waiting]))

    def on_it_goes():
        go_on("meta")
        kc.equal("key lost, read-only: both fail", [w.end() for w in waiting], ["EIO"] * 2)

    kc.ok("key lost, read-only: it goes and comes", key_lost(on_it_goes))
    kc.ok("key lost, read-only: then it is read", has(dev, 0))
    kc.remove("kc")


# ---- a small cache ----

CACHE = 1 << 20
TIMES = 4
WIDE = TIMES * LENGTH
PER_BLOCK = f.ENTRIES * 512
HOLDS = CACHE // 5120                   # map blocks, see kc_cache_blocks()


def small_cache():
    """More map blocks than the cache holds."""
    kc.reload("data", data_table(TIMES))
    opts, wide = ("meta_cache:1",), {"length": WIDE, "sector_size": 512}
    again_opts = opts + ("sector_size:512",)
    nr = WIDE // f.ENTRIES              # whole map blocks

    def touch(which, slot=None):
        """A sector of each of these map blocks is written, or read."""
        disk = kc.Disk(dev)
        for m in which:
            if slot:
                disk.write(m * PER_BLOCK, text(slot, m, 512))
            else:
                disk.read(m * PER_BLOCK, 512)
        disk.close()

    dev, layout = opened(*opts, **wide)
    kc.ok("small cache: there are more map blocks", nr > HOLDS + 20, (nr, HOLDS))
    # the slow part begins within map block `held`
    held = SLOW // f.ENTRIES + 1
    kc.write(dev, held * PER_BLOCK, text(1, held, 512))
    kc.suspend("kc")
    kc.resume("kc")
    stop("slow")
    read = Later(lambda: kc.read(dev, held * PER_BLOCK, 512) == text(1, held, 512))
    kc.ok("small cache: a read waits for its disk", read.waits())
    touch(m for m in range(nr) if m != held)
    touch(m for m in range(nr) if m != held)
    kc.ok("small cache: all others are read meanwhile", read.poll() is None)
    go_on("slow")
    kc.equal("small cache: it ends, with the right data", read.end(), "none")

    # a map block that cannot be read leaves its place to the next
    touch(m for m in range(nr) if m != held)
    break_meta(layout.map + held, 1)
    for _ in range(2):
        kc.equal("small cache: a bad map block", kc.errno_of(kc.read, dev, held * PER_BLOCK, 512), "EIO")
    touch(range(10))
    mend_meta()
    kc.same("small cache: which is read when the disk is well", kc.read(dev, held * PER_BLOCK, 512), text(1, held, 512))

    # the anchor fails when some of the map has been written back
    for which in range(40), range(100, 140):
        touch(which, 1)
        commit()
    break_meta(layout.anchor, 1)
    log.new()
    kc.suspend("kc")
    kc.equal("small cache, bad anchor: one line in the log", len(said("writing the journal anchor failed")), 1)
    kc.resume("kc")
    kc.equal("small cache, bad anchor: status", state(), "failed")
    for when in "at once", "with another table":
        kc.ok("small cache, bad anchor: all is there, " + when,
              all(kc.read(dev, m * PER_BLOCK, 512) == text(1, m, 512) for m in (0, 39, 100, 139, held)))
        if when == "at once":
            again(*again_opts, length=WIDE)

    # and the journal, when the cache is full of what it should take
    touch(range(100), 1)
    commit()
    break_meta(layout.journal, 128)
    disk = kc.Disk(dev)
    errors = []
    for m in range(100, nr):
        errors.append(kc.errno_of(disk.write, m * PER_BLOCK + 512, text(1, m, 512)))
    disk.close()
    kc.equal("small cache, bad journal: errors", set(errors[:HOLDS - 110]) | set(errors[-5:]), {"none", "EIO"})
    kc.equal("small cache, bad journal: as soon as it is full", errors.index("EIO") in range(HOLDS - 110, HOLDS), True)
    kc.equal("small cache, bad journal: to the end", set(errors[errors.index("EIO"):]), {"EIO"})
    kc.equal("small cache, bad journal: status", state(), "failed")
    again(*again_opts, length=WIDE)
    kc.ok("small cache, bad journal: what was committed is there",
          all(kc.read(dev, m * PER_BLOCK, 512) == text(1, m, 512) for m in range(0, 100, 7)))

    # read-only it holds what recovery has changed, all of it
    touch(range(nr), 2 - 1)
    commit()
    kc.remove("kc")
    dev = kc.create("kc", table("sector_size:512", "meta_cache:4", length=WIDE))
    touch(range(nr), 1)
    disk = kc.Disk(dev)
    for m in range(nr):
        disk.write(m * PER_BLOCK + 1024, text(1, m, 512))
    disk.close()
    commit()
    copy = kc.read(META, 0, META_LENGTH << 9)
    memory = objects()
    kc.suspend("kc")
    kc.reload("kc", table(*again_opts, length=WIDE))
    kc.ok("a smaller cache: memory is given back", memory - objects() > (nr - HOLDS) // 2, (memory, objects(), nr, HOLDS))
    kc.ok("a smaller cache: nothing is lost", all(kc.read(dev, m * PER_BLOCK + 1024, 512) == text(1, m, 512) for m in range(nr)))
    kc.remove("kc")
    kc.write(META, 0, copy)
    dev = kc.create("kc", table(*again_opts, length=WIDE), ro=True)
    for when in "at once", "after suspend and resume":
        kc.ok("small cache, read-only: what recovery found is there, " + when,
              all(kc.read(dev, m * PER_BLOCK + 1024, 512) == text(1, m, 512) for m in range(nr)))
        if when == "at once":
            kc.suspend("kc")
            kc.resume("kc")
    kc.remove("kc")
    kc.reload("data", data_table())


def objects():
    """Objects in use of the size of a map block's entries."""
    with open("/sys/kernel/slab/kmalloc-4k/shrink", "w") as cache:
        cache.write("1")
    with open("/proc/slabinfo") as info:
        return sum(int(row.split()[1]) for row in info if row.startswith("kmalloc-4k "))


# ---- others' disks ----

def others_open():
    """A device whose disk stands still while it is opened keeps no other from coming and going."""
    dev, _ = opened()
    put(dev, 0)
    kc.remove("kc")
    kc.zero(META, 8 << 20, 8 << 20)
    other = "0 4096 keyed-crypt aes-xts-plain64 :64:logon:kc:carl 0 %s 24576 1 meta_offset:16384" % META
    kc.create("early", other, new=True)
    stop("meta")
    opening = Later(kc.create, "kc", table())
    kc.ok("others' disks: a device waits for its disk", opening.waits())
    gone = Later(kc.remove, "early")
    kc.equal("others' disks: another is removed meanwhile", gone.end(5), "none")
    created = Later(kc.create, "late", other) if gone.code == 0 else None
    kc.equal("others' disks: and one created", created and created.end(5), "none")
    kc.ok("others' disks: the first still waits", opening.poll() is None)
    go_on("meta")
    kc.equal("others' disks: until its disk goes on", opening.end(), "none")
    for later in gone, created:
        if later:
            later.end()
    kc.ok("others' disks: all is there", has(kc.node(kc.dm(kc.DEV_STATUS, "kc")[0]), 0))
    kc.remove("kc", *["late"] * (created is not None))


def walks():
    """Who reads the whole map from a slow disk does not hold up who suspends the device."""
    dev, _ = opened()
    blocks = range(0, LENGTH // 8, f.ENTRIES)
    for b in blocks:
        put(dev, b)
    kc.remove("kc")
    for message in "owner list", "map 0 %d" % (LENGTH // 8):
        dev = kc.create("kc", table())
        kc.reload("meta", "0 %d delay %s 0 700" % (META_LENGTH, META))
        walk = Later(kc.message, "kc", message)
        kc.ok("%s: it takes its time" % message, walk.waits())
        start = time.monotonic()
        kc.suspend("kc")
        took = time.monotonic() - start
        kc.ok("%s: the device is suspended meanwhile" % message, took < 2.5, "%.1f s" % took)
        reader = Later(has, dev, 0)
        mend_meta()
        kc.resume("kc")
        kc.ok("%s: it ends, or says why not" % message, walk.end() in ("none", "EBUSY", "EAGAIN", "EINTR"), walk.code)
        kc.equal("%s: what came meanwhile goes on" % message, reader.end(), "none")
        kc.remove("kc")


# ---- memory, where the device cannot write ----

def io_allocations(what, *args):
    """How many allocations the module has made meanwhile that may wait for I/O; and the first one's place."""
    for name, value in ("times", 0), ("io", 1), ("nth", 1 << 30):
        with open("/sys/module/failinject/parameters/" + name, "w") as param:
            param.write(str(value))
    what(*args)
    found = []
    for name in "seen", "site":
        with open("/sys/module/failinject/parameters/" + name) as param:
            found.append(param.read().strip())
    with open("/sys/module/failinject/parameters/nth", "w") as param:
        param.write("0")
    return int(found[0]), found[1]


def suspended_memory():
    """While it is suspended the device may be what memory would have to be written to."""
    for name, address in zip(("start", "end"), kc.module_text()):
        with open("/sys/module/failinject/parameters/" + name, "w") as param:
            param.write(str(address))
    dev, layout = opened()
    kc.message("kc", "owner add carl 1002 :64:logon:kc:carl")
    put(dev, 0)
    good = KEYS["carl"]
    serial["carl"] = kc.add_key("logon", "kc:carl", os.urandom(64))
    for _ in range(50):
        if ":wrong-key" in kc.status("kc"):
            break
        time.sleep(0.1)
    kc.ok("memory: an owner waits for his key", ":wrong-key" in kc.status("kc"), kc.status("kc"))
    kc.equal("memory: a message that has the owners waits for no I/O", io_allocations(kc.message, "kc", "owner ids carl 1003"), (0, ""))
    kc.equal("memory: nor does one that looks for a key",
             io_allocations(lambda: kc.errno_of(kc.message, "kc", "owner unlock carl")), (0, ""))
    kc.suspend("kc")
    kc.equal("memory: nor the watch, suspended", io_allocations(time.sleep, 1.5), (0, ""))
    kc.equal("memory: nor the resume", io_allocations(kc.resume, "kc"), (0, ""))
    break_meta(layout.journal, 128)
    put(dev, 2)
    kc.equal("memory: a failure", kc.errno_of(commit), "EIO")
    mend_meta()
    kc.suspend("kc")
    kc.equal("memory: nor another table, suspended after a failure", io_allocations(kc.load, "kc", table()), (0, ""))
    kc.equal("memory: and its resume", io_allocations(kc.resume, "kc"), (0, ""))
    kc.ok("memory: all is there", has(dev, 0) and state() == "rw")
    serial["carl"] = kc.add_key("logon", "kc:carl", good)
    kc.remove("kc")


# ---- a disk that lies ----

def changing_journal():
    """A journal block is another one when it is read for the second time."""
    dev, layout = opened()
    put(dev, 0)
    commit()
    tail = number() - used() + 1
    s = f.super_parse(kc.read(META, 0, BLOCK))
    dirty = kc.read(META, 0, META_LENGTH << 9)
    kc.remove("kc")
    at = layout.journal + tail % 128
    payload = f.JOURNAL_HEAD.pack(tail + 128, tail, 0, bytes(12)).ljust(f.JOURNAL_PAYLOAD, b"\0")
    other = f.Keys(KEYS["root"], s["salt"], s["uuid"]).seal_unit(f.JOURNAL, at * 8, payload)
    first, last = layout.journal * 8, (layout.journal + 112) * 8    # the first journal blocks are slow, the last ones counted
    counted = kc.create("counted", "0 128 linear %s %d" % (META, last))
    kc.reload("meta", "0 %d linear %s 0\n%d 128 delay %s %d 1500\n%d %d linear %s %d\n%d 128 linear %s 0\n%d %d linear %s %d" % (
        first, META, first, META, first, first + 128, last - first - 128, META, first + 128, last, counted, last + 128,
        META_LENGTH - last - 128, META, last + 128))
    for what, block in ("damaged", bytes(BLOCK)), ("another", other):
        kc.write(META, 0, dirty)
        log.new()
        before = kc.disk_stat(counted)[0]
        opening = Later(kc.create, "kc", table())
        while kc.disk_stat(counted)[0] == before and opening.poll() is None:
            time.sleep(0.01)
        kc.write(META, at * BLOCK, block)
        kc.equal("a journal block that is %s the second time: no device" % what, opening.end(), "EBADMSG")
        kc.equal("a journal block that is %s the second time: the log says so" % what,
                 len(said("journal block %d changes from one read to the next" % tail)), 1)
    kc.write(META, 0, dirty)
    mend_meta()
    dev = kc.create("kc", table())
    kc.ok("with the disk well all is there", has(dev, 0) and slots(0, 1) == [1])
    kc.remove("kc", "counted")


# ---- many that wait for one block ----

def trace(name, value):
    with open("/sys/kernel/tracing/" + name, "w") as file:
        file.write(value)


def work_done():
    """What workqueues have begun for the module since the trace was emptied."""
    with open("/sys/kernel/tracing/trace") as lines:
        return sum("[dm_keyed_crypt]" in line for line in lines)


def many_waiters():
    """Of writes that take the same block from each other, each is looked at where it may go on, not at each end."""
    trace("tracing_on", "0")
    trace("events/workqueue/workqueue_execute_start/enable", "1")
    for reassign in "lazy", "strict":
        name = "many waiters, %s: " % reassign
        dev, _ = opened("reassign:" + reassign)
        fd = os.open(dev, os.O_RDWR | os.O_DIRECT)
        bufs = {}
        for slot in 2, 3:
            bufs[slot] = mmap.mmap(-1, BLOCK)
            bufs[slot][:] = text(slot, SLOW_BLOCK)
        ended, works = [], []

        def write(slot):
            kc.libc.setfsuid(UIDS[slot])
            ended.append(os.pwrite(fd, bufs[slot], SLOW_BLOCK * BLOCK))

        for nr in 16, 64:
            put(dev, SLOW_BLOCK)
            ended.clear()
            stop("slow")
            threads = [threading.Thread(target=write, args=(2 + i % 2,)) for i in range(nr)]
            read = Later(lambda: kc.read(dev, SLOW_BLOCK * BLOCK, BLOCK) in [text(slot, SLOW_BLOCK) for slot in (1, 2, 3)])
            for t in threads:
                t.start()
            time.sleep(1)
            trace("trace", "")
            trace("tracing_on", "1")
            go_on("slow")
            for t in threads:
                t.join()
            trace("tracing_on", "0")
            kc.equal(name + "%d writes end" % nr, ended, [BLOCK] * nr)
            kc.equal(name + "a read among them finds one of them whole", read.end(), "none")
            works.append(work_done())
        kc.ok(name + "one of them was the last",
              [has(dev, SLOW_BLOCK, slot) for slot in slots(SLOW_BLOCK, 1)] == [True])
        kc.ok(name + "each was looked at, a few times", 32 < works[1] < 64 * 8, "%d for 16, %d for 64" % tuple(works))
        os.close(fd)
        kc.remove("kc")


kc.join_session()
serial = {who: kc.add_key("logon", "kc:" + who, KEYS[who]) for who in KEYS}
slow = kc.create("slow", "0 %d linear %s %d" % (LENGTH - SLOW, DATA, SLOW))
data = kc.create("data", data_table())
meta = kc.create("meta", meta_table())
for check in (many_at_once, fails_at_the_end, full_journals, owners_added, unsettled, settled_in_part, readers, killed,
              key_goes, small_cache, others_open, walks, suspended_memory, many_waiters, changing_journal):
    if kc.wanted(check.__name__):
        started = time.monotonic()
        check()
        kc.diag("%s: %.1f s" % (check.__name__, time.monotonic() - started))
kc.remove("data", "slow", "meta")
kc.done()
