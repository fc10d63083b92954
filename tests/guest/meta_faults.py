#!/usr/bin/python3
# See 12-meta-faults.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import re
import signal
import time

import kc

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
LENGTH, META_LENGTH = 64 << 11, 16384
# Blocks of this metadata area: first, number
PARTS = {"superblock 1": (0, 1), "superblock 2": (16, 1), "owner table": (32, 128), "journal anchor": (160, 1),
         "journal": (161, 256), "map state": (417, 1), "key map": (418, 9)}
log = kc.Log()


def part(length, bad, start, nr, below):
    """Table of a device whose sectors from start on are bad."""
    out = []
    for first, n, kind in ((0, start, "linear"), (start, nr, "error" if bad else "linear"),
                           (start + nr, length - start - nr, "linear")):
        if n:
            out.append("%d %d %s" % (first, n, kind + (" %s %d" % (below, first) if kind == "linear" else "")))
    return "\n".join(out)


def break_meta(name):
    first, nr = PARTS[name]
    kc.reload("meta", part(META_LENGTH, True, first * 8, nr * 8, META))


def mend_meta():
    kc.reload("meta", "0 %d linear %s 0" % (META_LENGTH, META))


def lines(regex):
    return [text for text in log.new() if re.search(regex, text)]


meta = data = ""


def table(*opts):
    return kc.separate(LENGTH, data, meta, *opts)


def waiter():
    """Waits for the next event of the device as `dmsetup wait` does."""
    nr = kc.event_nr("kc")
    pid = os.fork()
    if not pid:
        signal.alarm(20)
        kc.dm(kc.DEV_WAIT, "kc", event=nr)
        os._exit(0)
    return pid


def waited(pid):
    return os.waitpid(pid, 0)[1]


def fsync(dev):
    fd = os.open(dev, os.O_WRONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_faults():
    """A write of each part of the metadata fails."""
    content = {}

    def put(block, uid=None):
        content[block] = os.urandom(BLOCK)
        kc.write(dev, block * BLOCK, content[block], uid=uid)

    kc.zero(META, 0, 8 << 20)
    dev = kc.create("kc", table("allow_discards"), new=True)
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    put(0, 1000)
    put(1)
    put(2000, 1000)
    # a clean journal, and every map block in memory
    kc.remove("kc")
    dev = kc.create("kc", table("allow_discards"))
    for n, (name, how) in enumerate((("journal anchor", "commit"), ("journal", "commit"), ("owner table", "owner"),
                                     ("key map", "suspend"), ("map state", "suspend"))):
        if name == "journal":
            # the anchor says already that the journal is not clean
            put(100)
            kc.message("kc", "commit")
        say = "a failed write of the %s: " % name
        # map blocks 0 and 1 are in memory; the first block of map block n + 2 is new to the map state
        kc.read(dev, 0, BLOCK), kc.read(dev, 2000 * BLOCK, BLOCK)
        new = (n + 2) * 1920
        kc.read(dev, new * BLOCK, BLOCK)
        kc.equal(say + "the device is well before", kc.status("kc").split()[3], "rw")
        log.new()
        event = waiter()
        break_meta(name)
        if how != "owner":
            put(new, 1000)
        if how == "commit":
            kc.equal(say + "commit says so", kc.errno_of(kc.message, "kc", "commit"), "EIO")
            kc.equal(say + "a flush too", kc.errno_of(fsync, dev), "EIO")
        elif how == "owner":
            kc.equal(say + "owner add says so",
                     kc.errno_of(kc.message, "kc", "owner add bob 1001 :64:logon:kc:bob"), "EIO")
            kc.ok(say + "and there is no such owner", "bob" not in kc.message("kc", "owner list"))
        else:
            kc.message("kc", "commit")
            kc.suspend("kc")
            kc.resume("kc")
        kc.equal(say + "a dm event", waited(event), 0)
        kc.equal(say + "status failed", kc.status("kc").split()[3], "failed")
        kc.equal(say + "changes are refused: a new block", kc.errno_of(kc.write, dev, 30000 // 4 * BLOCK, bytes(BLOCK)), "EIO")
        kc.equal(say + "a block of another owner", kc.errno_of(kc.write, dev, BLOCK, bytes(BLOCK), uid=1000), "EIO")
        kc.equal(say + "a discard", kc.errno_of(kc.discard, dev, 0, BLOCK), "EIO")
        for text in "owner add carl 5 :64:logon:kc:bob", "owner ids alice 1000-1001":
            kc.equal(say + text, kc.errno_of(kc.message, "kc", text), "EIO")
        put(0, 1000)
        put(1)
        put(2000, 1000)
        kc.ok(say + "own blocks are written and read as before",
              all(kc.read(dev, b * BLOCK, BLOCK) == content[b] for b in content), str(list(content)))
        said = lines("keyed-crypt.*writing the")
        kc.ok(say + "one line in the log", len(said) == 1 and "writing the %s failed" % name in said[0], "\n".join(said))
        mend_meta()
        if n % 2:
            kc.remove("kc")
            dev = kc.create("kc", table("allow_discards"))
        else:
            kc.equal(say + "another table must wait", kc.errno_of(kc.load, "kc", table("allow_discards")), "EBUSY")
            kc.suspend("kc")
            kc.reload("kc", table("allow_discards"))
        kc.equal(say + "another table brings it back", kc.status("kc").split()[3], "rw")
        if how == "commit":
            del content[new]  # was never durable
        kc.ok(say + "with all that was durable",
              all(kc.read(dev, b * BLOCK, BLOCK) == content[b] for b in content),
              str([b for b in content if kc.read(dev, b * BLOCK, BLOCK) != content[b]]))
        kc.equal(say + "and the owners there were", [row.split()[0:4] for row in
                 kc.message("kc", "owner list").split("\n")], [["alice", "2", "unlocked", "1000"]])
        put(10 + n, 1000)
        kc.equal(say + "and may change", kc.errno_of(fsync, dev), "none")
    kc.remove("kc")


def read_faults():
    """A read of a map block fails, then that of a data block."""
    kc.zero(META, 0, 8 << 20)
    dev = kc.create("kc", table("allow_discards"), new=True)
    for block in 0, 2000, 4000:
        kc.write(dev, block * BLOCK, b"%4d" % block * 1024)
    kc.remove("kc")
    dev = kc.create("kc", table("allow_discards"))
    PARTS["a map block"] = 419, 1
    break_meta("a map block")
    log.new()
    for name, what, args in (("read", kc.read, (dev, 2000 * BLOCK, BLOCK)), ("write", kc.write, (dev, 2000 * BLOCK, bytes(BLOCK))),
                             ("write of a new block", kc.write, (dev, 2001 * BLOCK, bytes(BLOCK))),
                             ("discard", kc.discard, (dev, 2000 * BLOCK, BLOCK)), ("map", kc.message, ("kc", "map 2000 1"))):
        kc.equal("a map block that cannot be read: %s" % name, kc.errno_of(what, *args), "EIO")
        kc.ok("and the log says so", lines("keyed-crypt: 253:.*: map block 1 cannot be read"))
    for block in 0, 4000:
        kc.same("others go on", kc.read(dev, block * BLOCK, BLOCK), b"%4d" % block * 1024)
        kc.write(dev, (block + 1) * BLOCK, b"%4d" % block * 1024)
    kc.equal("and may change", kc.errno_of(fsync, dev), "none")
    kc.equal("nothing has failed for good", kc.status("kc").split()[3], "rw")
    mend_meta()
    kc.same("and it is read when the disk is well", kc.read(dev, 2000 * BLOCK, BLOCK), b"2000" * 1024)
    kc.equal("with its entry", kc.message("kc", "map 1999 3"), "1999 1 0\n2000 1 1\n2001 1 0")

    kc.reload("data", part(LENGTH, True, 64, 64, DATA))
    before = kc.message("kc", "map 0 100")
    kc.equal("a failed write of data fails its bio", kc.errno_of(kc.write, dev, 8 * BLOCK, bytes(BLOCK)), "EIO")
    kc.equal("and the map stays", kc.message("kc", "map 0 100"), before)
    kc.equal("others are written", kc.errno_of(kc.write, dev, 20 * BLOCK, b"x" * BLOCK), "none")
    kc.reload("data", part(LENGTH, True, 160, 8, DATA))
    kc.equal("a failed read of data fails its bio", kc.errno_of(kc.read, dev, 20 * BLOCK, BLOCK), "EIO")
    kc.same("others are read", kc.read(dev, 0, BLOCK), b"   0" * 1024)
    kc.reload("data", "0 %d linear %s 0" % (LENGTH, DATA))
    kc.same("and it is read when the disk is well", kc.read(dev, 20 * BLOCK, BLOCK), b"x" * BLOCK)
    kc.equal("the device is well", kc.status("kc").split()[3], "rw")
    kc.remove("kc")


def lost_key():
    """The device key goes while the disk does not answer a read, and comes back in another keyring."""
    kc.zero(META, 0, 8 << 20)
    dev = kc.create("kc", table(), new=True)
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.write(dev, 0, b"r" * BLOCK)
    kc.message("kc", "commit")
    kc.suspend("data")
    pid = os.fork()
    if not pid:
        os._exit(kc.errno_of(kc.read, dev, 0, BLOCK) != "EIO")
    time.sleep(0.5)
    log.new()
    kc.unlink_key(device_key[0])
    said = []
    end = time.monotonic() + 10
    while not said and time.monotonic() < end:
        said = lines("keyed-crypt: 253:.*: device key is gone")
        time.sleep(0.1)
    kc.ok("the device key goes with a read under way", said)
    time.sleep(1.5)
    kc.equal("a read meanwhile fails", kc.errno_of(kc.read, dev, 0, BLOCK), "EIO")
    kc.resume("data")
    kc.equal("the one under way too, when the disk has answered", waited(pid), 0)
    time.sleep(1.5)
    kc.suspend("kc")
    kc.resume("kc")
    kc.ok("suspend and resume unlock nobody", " alice:2:locked" in kc.status("kc"), kc.status("kc"))
    before = kc.disk_stat(META)[0]
    pid = os.fork()
    if not pid:
        kc.keyctl(1, None)
        kc.add_key("logon", "kc:root", device_key[1], kc.SESSION)
        kc.load("kc", table())
        os._exit(kc.errno_of(kc.read, dev, 0, BLOCK) != "none")
    kc.equal("a table loaded from a session that has the key unlocks the device at once", waited(pid), 0)
    kc.same("with the data that was there", kc.read(dev, 0, BLOCK), b"r" * BLOCK)
    kc.ok("the map had been forgotten", kc.disk_stat(META)[0] > before)
    kc.resume("kc")
    kc.ok("and the table can be resumed, with its owners", " alice:2:unlocked" in kc.status("kc"), kc.status("kc"))
    kc.remove("kc")
    kc.add_key("logon", "kc:root", device_key[1])


def open_faults():
    """The metadata cannot be read when the table is loaded."""
    kc.zero(META, 0, 8 << 20)
    dev = kc.create("kc", table(), new=True)
    kc.write(dev, 40 * BLOCK, b"j" * BLOCK)
    kc.message("kc", "commit")
    kc.remove("kc")
    # of the journal, see 61-unreadable.t
    for name in "owner table", "journal anchor", "map state":
        break_meta(name)
        log.new()
        kc.equal("the %s cannot be read: no device" % name, kc.errno_of(kc.create, "kc", table()), "EIO")
        kc.ok("and the log says so", lines("keyed-crypt: cannot read (the )?%s" % name))
        mend_meta()
    PARTS["superblocks"] = 0, 17
    break_meta("superblocks")
    log.new()
    kc.equal("no superblock can be read: no device", kc.errno_of(kc.create, "kc", table()), "EIO")
    kc.ok("and the log says so", lines("keyed-crypt: cannot read the metadata area"))
    for name in "superblock 1", "superblock 2":
        break_meta(name)
        log.new()
        dev = kc.create("kc", table(), ro=True)
        kc.same(name + " cannot be read: the other one does", kc.read(dev, 40 * BLOCK, BLOCK), b"j" * BLOCK)
        kc.remove("kc")
        kc.ok("and the log says so", lines("superblock copy %s was bad: using the other" % name[-1]))
        log.new()
        dev = kc.create("kc", table())
        kc.same("it cannot be written either: the other one still does", kc.read(dev, 40 * BLOCK, BLOCK), b"j" * BLOCK)
        kc.remove("kc")
        kc.ok("and the log says so", lines("superblock copy %s was bad: using the other" % name[-1]))
    mend_meta()
    dev = kc.create("kc", table())
    kc.same("all is there when the disk is well", kc.read(dev, 40 * BLOCK, BLOCK), b"j" * BLOCK)
    kc.remove("kc")


kc.join_session()
for who in "alice", "bob", "root":
    payload = os.urandom(64)
    device_key = kc.add_key("logon", "kc:" + who, payload), payload
meta = kc.create("meta", "0 %d linear %s 0" % (META_LENGTH, META))
data = kc.create("data", "0 %d linear %s 0" % (LENGTH, DATA))
for check in write_faults, read_faults, lost_key, open_faults:
    if kc.wanted(check.__name__):
        check()
kc.remove("meta", "data")
kc.done()
