#!/usr/bin/python3
# See 16-late.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import time

import kc
import kcformat as f

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
OFFSET, META_LENGTH = 16384, 8192
LENGTH = (64 << 11) - OFFSET
KEYS = {who: os.urandom(64) for who in ("root", "alice", "bob", "carol")}
UIDS = {1: None, 2: 1000, 3: 1001}
LAYOUT = f.Layout(LENGTH // 8, 1, 128)
Later = kc.Later
SENDS_FLUSH = "blkdev_issue_flush"      # the kernel's, called by the journal's worker


def table(area):
    """The area is in front of the data, or on a disk of its own."""
    opts = ("owner:uid",) + (("meta_device:" + area,) if area != DATA else ())
    return "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:root 0 %s %d %d %s" % (LENGTH, DATA, OFFSET, len(opts), " ".join(opts))


def opened(area):
    kc.write(DATA if area == DATA else META, 0, bytes(f.make_area(KEYS["root"], LENGTH // 8)))
    dev = kc.create("kc", table(area))
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")
    return dev


def put(dev, block, slot=1):
    kc.write(dev, block * BLOCK, b"%d" % slot * BLOCK, uid=UIDS[slot])


def get(dev, block):
    try:
        return int(kc.read(dev, block * BLOCK, BLOCK)[:1].replace(b"\0", b"0"))
    except OSError as e:
        return kc.ERRNO[e.errno]
    except ValueError:
        return "garbage"


def fsync(dev):
    fd = os.open(dev, os.O_WRONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lost(dev, expected):
    """What the first blocks have, of those that have something else."""
    return {b: get(dev, b) for b, slot in enumerate(expected) if get(dev, b) != slot}


def state():
    return kc.status("kc").split()[3]


def half_full(dev):
    """Commits until the journal is so full that the next one writes the map back; the next free block."""
    for b in range(1, 200):
        if int(kc.status("kc").split()[5].split("/")[0]) >= 64:
            return b
        put(dev, b)
        fsync(dev)
    raise RuntimeError("the journal does not fill")


def meta_table(bad=None):
    if bad is None:
        return "0 %d linear %s 0" % (META_LENGTH, META)
    return "0 %d linear %s 0\n%d 8 error\n%d %d linear %s %d" % (
        bad * 8, META, bad * 8, bad * 8 + 8, META_LENGTH - bad * 8 - 8, META, bad * 8 + 8)


def fail_next(disk):
    """The next I/O to a disk fails."""
    rdev = os.stat(disk).st_rdev
    for name, value in ("disk", os.minor(rdev) & 0xff | os.major(rdev) << 8 | (os.minor(rdev) & ~0xff) << 12), ("times", 1), ("nth", 1):
        with open("/sys/module/failinject/parameters/" + name, "w") as param:
            param.write(str(value))


def injected():
    with open("/sys/module/failinject/parameters/injected") as param:
        return int(param.read())


# ---- a flush behind one that has failed ----

def lost_flush():
    """A flush from above fails, and what the disk had accepted is gone: map blocks just written back, too. The
    worker's own flush, sent before or after that, succeeds."""
    dev = opened(DATA)
    put(dev, 0, 2)
    last = half_full(dev)
    area = slice(LAYOUT.map * BLOCK, (LAYOUT.map + LAYOUT.map_blocks) * BLOCK)
    before = kc.read(DATA, 0, LAYOUT.end * BLOCK)
    put(dev, last, 2)
    held = kc.Held(SENDS_FLUSH)
    commit = Later(fsync, dev)
    kc.ok("a flush that fails: the worker has written map blocks back", held.waits())
    anchor = kc.read(DATA, LAYOUT.anchor * BLOCK, BLOCK)
    kc.equal("a flush that fails: the one before is done", commit.end(), "none")
    fail_next(DATA)
    kc.equal("a flush that fails: the one that does", kc.errno_of(fsync, dev), "EIO")
    kc.equal("a flush that fails: by what was planned", (injected(), state()), (1, "failed"))
    kc.write(DATA, area.start, before[area])
    held.go_on()
    time.sleep(1)
    kc.ok("a flush that fails: the worker's own does not move the tail", kc.read(DATA, LAYOUT.anchor * BLOCK, BLOCK) == anchor)
    kc.suspend("kc")
    kc.reload("kc", table(DATA))
    kc.equal("a flush that fails: with another table, all is there that was flushed",
             lost(dev, [2] + [1] * (last - 1) + [2]), {})
    kc.remove("kc")


# ---- a worker behind a recovery ----

def old_worker():
    """The metadata fails while the worker is in the middle of writing back; with another table it is recovered."""
    meta = kc.create("meta", meta_table())
    dev = opened(meta)
    put(dev, 0, 2)
    last = half_full(dev)
    put(dev, last, 2)
    held = kc.Held(SENDS_FLUSH)
    flush = Later(fsync, dev)
    kc.ok("a worker under way: it has written map blocks back", held.waits())
    kc.equal("a worker under way: the flush is done", flush.end(), "none")
    kc.reload("meta", meta_table(f.OWNER_START))
    kc.equal("a worker under way: a failure", kc.errno_of(kc.message, "kc", "owner add carol 1002 :64:logon:kc:carol"), "EIO")
    kc.reload("meta", meta_table())
    released = False
    suspend = Later(kc.suspend, "kc")
    if suspend.waits():
        held.go_on()
        released = True
    kc.equal("a worker under way: suspend", suspend.end(), "none")
    error = "EBUSY"
    for _ in range(20):
        load = Later(kc.load, "kc", table(meta))
        if load.waits() and not released:
            held.go_on()
            released = True
        error = load.end()
        if error != "EBUSY":
            break
        if not released:
            held.go_on()
            released = True
        time.sleep(0.5)
    kc.equal("a worker under way: the table is loaded, at once or after it", error, "none")
    # when it has been resumed, the old table goes, and waits for its worker
    resume = Later(kc.resume, "kc")
    if not released:
        time.sleep(1)
    put(dev, last + 1, 2)
    kc.equal("a worker under way: with it the map changes", kc.errno_of(fsync, dev), "none")
    if not released:
        kc.diag("the table was loaded while the worker was under way")
        held.go_on()
    kc.equal("a worker under way: resume", resume.end(), "none")
    time.sleep(1)
    copy = kc.read(META, 0, LAYOUT.end * BLOCK)
    kc.remove("kc")
    kc.write(META, 0, copy)
    error = kc.errno_of(kc.create, "kc", table(meta))
    if kc.equal("a worker under way: after a crash the device opens", error, "none"):
        kc.equal("a worker under way: with all that was flushed, before and after",
                 lost(dev, [2] + [1] * (last - 1) + [2, 2]), {})
        kc.remove("kc")
    kc.remove("meta")


# ---- another one has been here ----

def another_instance():
    """As with hibernation: a device is as it was when the image was made, and meanwhile another one has used the disk."""
    for name, leaves_clean, suspended in (("clean, suspended", True, True), ("not clean, suspended", False, True),
                                          ("clean, live", True, False)):
        dev = opened(META)
        put(dev, 0, 2)
        kc.remove("kc")
        old = kc.read(META, 0, LAYOUT.end * BLOCK)
        # the other one
        dev = kc.create("kc", table(META))
        put(dev, 1, 2)
        put(dev, 2, 3)
        fsync(dev)
        new = kc.read(META, 0, LAYOUT.end * BLOCK)
        kc.remove("kc")
        if leaves_clean:
            new = kc.read(META, 0, LAYOUT.end * BLOCK)
        # the one that goes on where it was
        kc.write(META, 0, old)
        dev = kc.create("kc", table(META))
        get(dev, 0)
        if suspended:
            kc.suspend("kc")
        kc.write(META, 0, new)
        if suspended:
            kc.resume("kc")
        say = "another one has used the disk, %s: " % name
        error = kc.errno_of(put, dev, 3, 2)
        flushed = kc.errno_of(fsync, dev)
        what = error, flushed, state(), get(dev, 1)
        kc.diag("%s%s" % (say, what))
        kc.ok(say + "it is seen before anything is written: failed, or read again",
              state() == "failed" and "EIO" in what[:2] or what == ("none", "none", "rw", 2), what)
        kc.remove("kc")
        error = kc.errno_of(kc.create, "kc", table(META))
        if kc.equal(say + "the device opens", error, "none"):
            kc.equal(say + "with what the other has flushed", [get(dev, b) for b in (0, 1, 2)], [2, 2, 3])
            kc.ok(say + "and the last write if that was flushed", get(dev, 3) == 2 or flushed != "none", get(dev, 3))
            kc.remove("kc")


kc.join_session()
for who, key in KEYS.items():
    kc.add_key("logon", "kc:" + who, key)
for check in lost_flush, old_worker, another_instance:
    if kc.wanted(check.__name__):
        started = time.monotonic()
        check()
        kc.diag("%s: %.1f s" % (check.__name__, time.monotonic() - started))
kc.done()
