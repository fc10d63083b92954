#!/usr/bin/python3
# See 41-areas.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import fcntl
import os
import struct
import time

import kc

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
LENGTH, OFFSET = 16 << 11, 32768        # data in the middle of its disk
BEHIND = OFFSET + LENGTH
AREA = 17 * BLOCK                       # both superblocks of an area
log = kc.Log()


def table(*opts, disk=None, offset=OFFSET, length=LENGTH):
    opts = ("owner:uid",) + opts
    return "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:root 0 %s %d %d %s" % (
        length, disk or DATA, offset, len(opts), " ".join(opts))


def wipe():
    """Wherever these tests have an area."""
    for disk, sectors in (DATA, (0, 16384, OFFSET + 16384, BEHIND)), (META, (0, 16384)):
        for at in sectors:
            kc.zero(disk, at * 512, 2 << 20)


def zeros(disk, sector, size=AREA):
    """Is there nothing, where an area would be?"""
    return not any(kc.read(disk, sector * 512, size))


# ---- another area under a live device ----

def another_area():
    """Tables that name the metadata elsewhere, where it is all zeros. What is resumed with one of them sees an
    empty device, and writes over the data."""
    in_front, elsewhere = table(), table("meta_device:" + META)
    for name, live, new, place in (
            ("in front, meta_device elsewhere", in_front, elsewhere, (META, 0)),
            ("elsewhere, meta_device left out", elsewhere, in_front, (DATA, 0)),
            ("in front, another meta_offset", in_front, table("meta_offset:16384"), (DATA, 16384)),
            ("in front, meta_offset behind the data", in_front, table("meta_offset:%d" % BEHIND), (DATA, BEHIND)),
            ("elsewhere, another meta_offset", elsewhere, table("meta_device:" + META, "meta_offset:16384"), (META, 16384)),
            ("elsewhere, and the data too", elsewhere, table("meta_device:" + META, "meta_offset:16384", offset=0), (META, 16384))):
        wipe()
        dev = kc.create("kc", live, new=True)
        kc.write(dev, 0, b"a" * BLOCK, sync=True)
        before = kc.table_of("kc")
        refused(name, new, *place)
        kc.equal(name + ": the device has its table", kc.table_of("kc"), before)
        kc.equal(name + ": which may be loaded", kc.errno_of(kc.reload, "kc", live), "none")
        kc.same(name + ": the data is there", kc.read(dev, 0, BLOCK), b"a" * BLOCK)
        kc.remove("kc")

    wipe()
    dev = kc.create("kc", in_front, new=True)
    kc.write(dev, 0, b"a" * BLOCK, sync=True)
    kc.suspend("kc")
    refused("suspended", elsewhere, META, 0)
    kc.resume("kc")
    kc.same("suspended: the data is there", kc.read(dev, 0, BLOCK), b"a" * BLOCK)
    kc.remove("kc")

    # a device whose metadata has failed does not leave its place to another area, either
    wipe()
    size = kc.size_of(META) // 512
    meta = kc.create("meta", "0 %d linear %s 0" % (size, META))
    live = table("meta_device:" + meta)
    dev = kc.create("kc", live, new=True)
    kc.write(dev, 0, b"a" * BLOCK, sync=True)
    kc.reload("meta", "0 %d error" % size)
    kc.write(dev, BLOCK, b"b" * BLOCK)
    kc.equal("failed: commit says so", kc.errno_of(kc.message, "kc", "commit"), "EIO")
    kc.reload("meta", "0 %d linear %s 0" % (size, META))
    kc.suspend("kc")
    refused("failed", in_front, DATA, 0)
    kc.equal("failed: the same area may be loaded", kc.errno_of(kc.reload, "kc", live), "none")
    kc.same("failed: the data is there", kc.read(dev, 0, BLOCK), b"a" * BLOCK)
    kc.remove("kc", "meta")


def refused(name, new, *place):
    """A table for the live device that must not be taken."""
    log.new()
    error = kc.errno_of(kc.load, "kc", kc.formats(new))
    kc.errno_of(kc.clear, "kc")
    said = [line for line in log.new() if "table: " in line and "keyed-crypt: " in line]
    kc.equal(name + ": refused", error, "EBUSY")
    kc.equal(name + ": with one line in the log", len(said), 1)
    kc.ok(name + ": and nothing is written there", zeros(*place))


# ---- two mapped devices ----

def overlaps():
    """Another device whose data or metadata would lie over those of an open one."""
    wipe()
    dev = kc.create("kc", table("meta_offset:%d" % BEHIND), new=True)
    kc.write(dev, 0, b"a" * BLOCK, sync=True)
    other = "meta_device:" + META
    for name, error, new, place in (
            ("its data over the data", "EBUSY", table(other), (META, 0)),
            ("its data over the data's end", "EBUSY", table(other, offset=BEHIND - 8, length=8192), (META, 0)),
            ("its data over the metadata", "EBUSY", table(other, offset=BEHIND + 1024, length=8192), (META, 0)),
            ("its metadata in the data", "EBUSY", table("meta_offset:%d" % (OFFSET + 16384), offset=0, length=8192),
             (DATA, OFFSET + 16384)),
            ("its data before the data", "none", table(other, offset=0, length=OFFSET), None)):
        kc.zero(META, 0, 2 << 20)
        log.new()
        got = kc.errno_of(kc.create, "kc2", new, new=True)
        if got == "none":
            kc.remove("kc2")
        kc.equal("another device, %s: %s" % (name, "refused" if place else "accepted"), got, error)
        if place:
            kc.equal("another device, %s: with one line in the log" % name,
                     len([line for line in log.new() if "table: " in line and "keyed-crypt: " in line]), 1)
            kc.ok("another device, %s: nothing is written there" % name, zeros(*place))
    kc.same("the first has its data", kc.read(dev, 0, BLOCK), b"a" * BLOCK)
    kc.remove("kc")


# ---- names ----

def uuid():
    """An area is found by its UUID, and none is opened twice, by whatever path."""
    wipe()
    dev = kc.create("kc", table(), new=True)
    kc.write(dev, 0, b"a" * BLOCK, sync=True)
    raw = kc.read(DATA, 0, BLOCK)[32:48].hex()
    own = "-".join((raw[:8], raw[8:12], raw[12:16], raw[16:20], raw[20:]))
    size = kc.size_of(DATA) // 512
    path = kc.create("path", "0 %d linear %s 0" % (size, DATA))

    def other(name, error, new, text=None, ro=False):
        log.new()
        before = kc.disk_stat(DATA)[3:5]
        kc.equal(name, kc.errno_of(kc.create, "kc2", new, ro), error)
        if text:
            lines = [line for line in log.new() if "table: " in line and "keyed-crypt: " in line]
            kc.ok(name + ": the log says why", len(lines) == 1 and text in lines[0], lines)
            kc.equal(name + ": nothing is written", kc.disk_stat(DATA)[3:5], before)

    twice = "metadata area with the UUID %s is open as " % own
    other("the same area by another path", "EBUSY", table(disk=path), twice)
    other("the same area by another path, read-only", "EBUSY", table(disk=path), twice, ro=True)
    kc.write(dev, 0, b"b" * BLOCK, sync=True)
    kc.same("the first device goes on", kc.read(dev, 0, BLOCK), b"b" * BLOCK)
    kc.remove("kc")

    # a copy of the disk, next to it
    kc.write(META, 0, kc.read(DATA, 0, 32 << 20))
    dev = kc.create("kc", table("uuid:" + own))
    kc.ok("the table line has the UUID", "uuid:" + own in kc.table_of("kc").split(), kc.table_of("kc"))
    kc.equal("and loads again", kc.errno_of(kc.reload, "kc", kc.table_of("kc")), "none")
    kc.equal("with another UUID it does not", kc.errno_of(kc.load, "kc", table("uuid:" + own[::-1])), "EINVAL")
    copy = dict(disk=META, length=4096)
    other("a copy", "EBUSY", table(**copy), twice)
    other("a copy, by its name", "EBUSY", table("uuid:" + own, **copy), twice)
    other("a copy, said to be one", "none", table("clone", **copy))
    kc.ok("the table line says so", "clone" in kc.table_of("kc2").split(), kc.table_of("kc2"))
    kc.equal("and loads again", kc.errno_of(kc.reload, "kc2", kc.table_of("kc2")), "none")
    kc.remove("kc2", "kc")

    wrong = own[:-1] + ("0" if own[-1] != "0" else "1")
    other("another UUID than that of the area", "EINVAL", table("uuid:" + wrong), "has the UUID %s, not %s" % (own, wrong))
    for text in "", "x", own[:-1], own.replace("-", "_"):
        other("uuid:" + text, "EINVAL", table("uuid:" + text), "uuid:%s is not a UUID" % text)
    other("the right one, on a path, when nobody has it open", "none", table("uuid:" + own, disk=path))
    kc.same("has the data", kc.read(kc.node(kc.dm(kc.DEV_STATUS, "kc2")[0]), 0, BLOCK), b"b" * BLOCK)
    kc.remove("kc2", "path")
    wipe()
    other("a new area with a given UUID", "EINVAL", kc.formats(table("uuid:" + own)), "not " + own)
    kc.ok("is not made", zeros(DATA, 0))


# ---- a device that is only looked at ----

def looked_at():
    """Read and closed again, the disk is as it was, whatever the table may do."""
    dev = fresh("allow_discards")
    kc.remove("kc")
    image, before = kc.read(DATA, 0, 16 << 20), kc.disk_stat(DATA)[3:5]
    dev = kc.create("kc", table("allow_discards"))
    kc.same("looked at: reads", kc.read(dev, 0, BLOCK), b"a" * BLOCK)
    kc.message("kc", "owner list")
    kc.message("kc", "map 0 10")
    kc.message("kc", "owner lock alice")
    kc.message("kc", "owner unlock alice")
    fsync(dev)
    kc.message("kc", "commit")
    kc.suspend("kc")
    kc.resume("kc")
    kc.reload("kc", table("allow_discards"))
    kc.remove("kc")
    kc.equal("looked at: nothing is written", kc.disk_stat(DATA)[3:5], before)
    kc.same("looked at: the disk is as it was", kc.read(DATA, 0, 16 << 20), image)


# ---- tables and disks that are read-only ----

BLKROSET = 0x125d


def set_ro(path, ro):
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, BLKROSET, struct.pack("=i", ro))
    finally:
        os.close(fd)


def fsync(dev):
    fd = os.open(dev, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fresh(*opts):
    """A device with an owner, whose block 0 is his, and block 1 the device key's."""
    wipe()
    dev = kc.create("kc", table(*opts), new=True)
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.write(dev, 0, b"a" * BLOCK, uid=1000)
    kc.write(dev, BLOCK, b"r" * BLOCK, sync=True)
    return dev


def read_only_table():
    """What is in the kernel, as a filesystem or another target, does not ask whether a disk is read-only: Linux only
    warns, and lets its writes through."""
    dev = fresh("allow_discards")
    kc.remove("kc")
    before = kc.disk_stat(DATA)[3:5]
    dev = kc.create("kc", table("allow_discards"), ro=True)
    try:
        top = kc.create("top", "0 %d linear %s 0" % (LENGTH, dev))
    except OSError:
        top = None                      # newer kernels do not open it for writing
    if top:
        for name, what, *args in (("a write of an own block", kc.write, BLOCK, b"x" * BLOCK),
                                  ("of a new one", kc.write, 5 * BLOCK, b"x" * BLOCK),
                                  ("a discard", kc.discard, BLOCK, BLOCK)):
            kc.equal("read-only table, from within the kernel: %s" % name, kc.errno_of(what, top, *args), "EIO")
        kc.same("the block has what it had", kc.read(top, BLOCK, BLOCK), b"r" * BLOCK)
        kc.equal("a flush does no harm", kc.errno_of(fsync, top), "none")
        kc.remove("top")
    kc.equal("read-only table: nothing was written to the disk", kc.disk_stat(DATA)[3:5], before)
    kc.remove("kc")


def disk_read_only():
    """The disk below is made read-only for a while, with a change in memory that is not durable yet."""
    for name, disk, opts in (("the disk", DATA, ()), ("the metadata's disk", META, ("meta_device:" + META,)),
                             ("the data's disk", DATA, ("meta_device:" + META,))):
        name += " is read-only: "
        dev = fresh(*opts)
        kc.write(dev, 10 * BLOCK, b"n" * BLOCK)
        log.new()
        set_ro(disk, 1)
        before = kc.disk_stat(disk)[3:5]
        errors = [kc.errno_of(kc.write, dev, 11 * BLOCK, b"x" * BLOCK)]
        kc.ok(name + "a new block is refused", errors[0] in ("EIO", "EROFS", "EPERM"), errors)
        if disk == DATA:
            kc.ok(name + "an own block too", kc.errno_of(kc.write, dev, BLOCK, b"x" * BLOCK) in ("EIO", "EROFS", "EPERM"))
        if name != "the data's disk is read-only: ":
            kc.ok(name + "a flush fails, for a change that cannot be logged", kc.errno_of(fsync, dev) in ("EIO", "EROFS"))
            kc.equal(name + "so does a message", kc.errno_of(kc.message, "kc", "owner add bob 1001 :64:logon:kc:bob"), "EROFS")
        time.sleep(0.2)
        kc.equal(name + "nothing is written to it", kc.disk_stat(disk)[3:5], before)
        kc.ok(name + "the log says it", [line for line in log.new() if "keyed-crypt" in line and "read-only" in line])
        kc.ok(name + "status does not say failed", kc.status("kc").split()[3] in ("ro", "rw"), kc.status("kc"))
        kc.same(name + "reads go on", kc.read(dev, 0, BLOCK), b"a" * BLOCK)
        kc.same(name + "of what is not durable, too", kc.read(dev, 10 * BLOCK, BLOCK), b"n" * BLOCK)
        set_ro(disk, 0)
        name = name.replace("is read-only", "is writable again")
        kc.equal(name + "the change in memory becomes durable", kc.errno_of(fsync, dev), "none")
        kc.equal(name + "a new block is written", kc.errno_of(kc.write, dev, 12 * BLOCK, b"m" * BLOCK, sync=True), "none")
        kc.equal(name + "a message is taken", kc.errno_of(kc.message, "kc", "owner add bob 1001 :64:logon:kc:bob"), "none")
        kc.equal(name + "status", kc.status("kc").split()[3], "rw")
        kc.remove("kc")
        dev = kc.create("kc", table(*opts))
        kc.equal(name + "all is there", [kc.read(dev, b * BLOCK, 1 * BLOCK)[:1] for b in (0, 1, 10, 11, 12)],
                 [b"a", b"r", b"n", b"\0", b"m"])
        kc.remove("kc")


def device_read_only():
    """The mapped device itself is: nothing changes by messages, nor by what is in the kernel and writes all the same."""
    dev = fresh()
    top = kc.create("top", "0 %d linear %s 0" % (LENGTH, dev))
    fd = os.open(dev, os.O_RDWR | os.O_DIRECT)
    buf = kc.mmap.mmap(-1, BLOCK)
    set_ro(dev, 1)
    log.new()
    before = kc.disk_stat(DATA)[3:5]
    kc.equal("the device is read-only: writes of programs are refused", kc.errno_of(os.pwritev, fd, [buf], BLOCK), "EPERM")
    for name, block in ("of an own block", 1), ("of a new one", 5):
        kc.equal("the device is read-only: a write from within the kernel, %s" % name,
                 kc.errno_of(kc.write, top, block * BLOCK, b"x" * BLOCK), "EIO")
    kc.equal("the device is read-only: a message", kc.errno_of(kc.message, "kc", "owner add bob 1001 :64:logon:kc:bob"), "EROFS")
    kc.ok("the device is read-only: the log says it", [line for line in log.new() if "keyed-crypt" in line and "read-only" in line])
    kc.equal("the device is read-only: nothing was written", kc.disk_stat(DATA)[3:5], before)
    kc.same("the device is read-only: reads go on", kc.read(dev, BLOCK, BLOCK), b"r" * BLOCK)
    set_ro(dev, 0)
    kc.equal("the device is writable again: programs", kc.errno_of(os.pwritev, fd, [buf], BLOCK), "none")
    kc.equal("the device is writable again: the kernel", kc.errno_of(kc.write, top, 5 * BLOCK, b"x" * BLOCK), "none")
    kc.equal("the device is writable again: messages",
             kc.errno_of(kc.message, "kc", "owner add bob 1001 :64:logon:kc:bob"), "none")
    os.close(fd)
    kc.remove("top", "kc")


kc.join_session()
for who in "root", "alice", "bob":
    kc.add_key("logon", "kc:" + who, os.urandom(64))
for check in another_area, overlaps, uuid, looked_at, read_only_table, disk_read_only, device_read_only:
    if kc.wanted(check.__name__):
        check()
kc.done()
