#!/usr/bin/python3
# See 16-kernel-bios.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import subprocess
import time

import kc

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
LENGTH = 64 << 11
PARAMS = "/sys/module/%s/parameters/%s"
COUNT = 1 << 30                         # that many would have to pass before one fails


def put(name, value, module="failinject"):
    with open(PARAMS % (module, name), "w") as f:
        f.write(str(value))


def get(name, module="failinject"):
    with open(PARAMS % (module, name)) as f:
        return f.read().strip()


def send(dev, what, uid=None):
    """Sends a bio as biosend.c reads it: what it ended with, and how many pages not its own were looked at."""
    fd = os.open(dev, os.O_RDWR)
    run = os.open(PARAMS % ("biosend", "run"), os.O_WRONLY)

    def go():
        os.write(run, ("%d %s" % (fd, what)).encode())

    try:
        if uid is None:
            go()
        else:
            kc.run_as(uid, go)
    finally:
        os.close(run)
        os.close(fd)
    status, foreign = get("result", "biosend").split()
    return "hangs" if status == "hangs" else kc.ERRNO.get(-int(status), "none"), int(foreign)


def opened(data, *opts):
    """A new device with two owners."""
    kc.zero(META, 0, 8 << 20)
    dev = kc.create("kc", kc.separate(LENGTH, data, META, *opts), new=True)
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")
    return dev


def null_disk(name, **attributes):
    """A disk in memory, /dev/<name>."""
    folder = "/sys/kernel/config/nullb/" + name
    os.mkdir(folder)
    for key, value in dict({"size": 64, "memory_backed": 1, "irqmode": 1}, **attributes, power=1).items():
        with open("%s/%s" % (folder, key), "w") as f:
            f.write(str(value))
    return "/dev/" + name


def null_gone(name):
    os.rmdir("/sys/kernel/config/nullb/" + name)


def data_io(before):
    return [b - a for a, b in zip(before, kc.disk_stat(DATA))]


# ---- vectors that are no blocks ----

def vectors():
    dev = opened(DATA)
    kc.equal("vectors of whole blocks are written", send(dev, "write 0 p:4096 p:8192 p:4096x5", 1000), ("none", 0))
    kc.same("and read", kc.read(dev, 0, 8 * BLOCK), b"\xa5" * (8 * BLOCK))
    kc.equal("they are the device's", kc.message("kc", "map 0 9"), "0 8 1\n8 1 0")
    # whole blocks in front may be written
    for i, (what, whole) in enumerate((("p:2048x8", 0), ("p:512x32", 0), ("p:6144 p:2048x5", 1),
                                       ("p:1024 p:4096x3 p:3072", 0), ("p:4096@2048x4", 0))):
        before, block = kc.disk_stat(DATA), 100 + 10 * i
        kc.equal("a write from vectors %s fails, and no page but its own is looked at" % what,
                 send(dev, "write %d %s" % (block * 8, what), 1000), ("EIO", 0))
        kc.ok("a write from vectors %s: the disk sees none of it" % what, data_io(before)[2] <= whole, data_io(before))
        first = block + whole
        kc.equal("a write from vectors %s: nor the map" % what, kc.message("kc", "map %d 4" % first), "%d 4 0" % first)
        kc.equal("a read into vectors %s fails" % what, send(dev, "read 0 " + what), ("EIO", 0))
    kc.equal("with whole blocks before them, too", send(dev, "write 800 p:4096 p:2048x6", 1000), ("EIO", 0))
    kc.same("what was there is what it was", kc.read(dev, 0, 8 * BLOCK), b"\xa5" * (8 * BLOCK))
    kc.remove("kc")


# ---- memory of the slab allocator ----

def slabs():
    """On some kernels the allocator counts free slabs where a page has its mapping."""
    dev = opened(DATA)
    kc.equal("slab memory is written", send(dev, "write+sync 0 s:6", 1000)[0], "none")
    kc.equal("and nobody's in particular", kc.message("kc", "map 0 6"), "0 6 1")
    kc.remove("kc")


# ---- polled reads ----

def polled():
    """A disk whose polled requests end only if somebody polls."""
    disk = null_disk("polled", poll_queues=1)
    dev = opened(disk)
    kc.equal("polled: the device can be polled", kc.queue(dev, "io_poll"), "1")
    kc.equal("polled: a write", send(dev, "write+polled 0 p:4096x2", 1000)[0], "none")
    kc.write(dev, 2 * BLOCK, b"a" * BLOCK, uid=1000)
    kc.equal("polled: blocks of two owners and of none", kc.message("kc", "map 0 5"), "0 2 1\n2 1 2\n3 2 0")
    put("timeout", 3000, "biosend")
    for what, first, count in (("one owner's", 0, 2), ("two owners'", 0, 3), ("one's and unassigned", 2, 2),
                               ("two owners' and unassigned", 0, 5)):
        for when in "in memory", "not in memory":
            if when != "in memory":
                kc.remove("kc")
                dev = kc.create("kc", kc.separate(LENGTH, disk, META))
            kc.equal("polled: a read of %s blocks, their map %s" % (what, when),
                     send(dev, "read+polled %d p:4096x%d" % (first * 8, count))[0], "none")
            # what nobody has polled for ends now
            send(disk, "read+polled 0 p:4096")
    put("timeout", 10000, "biosend")
    kc.remove("kc")
    null_gone("polled")


# ---- large reads ----

def large():
    """How much of a read is decrypted in soft interrupt."""
    disk = null_disk("large", poll_queues=0)
    dev = opened(disk)
    for name, address in zip(("start", "end"), kc.module_text()):
        put(name, address)
    kc.write(dev, 0, os.urandom(4 << 20))

    def decrypted(size):
        """Calls of the cipher in soft interrupt; a driver may pass each on to another."""
        put("times", 0)
        put("cipher", 1)
        put("softirq", 1)
        put("nth", COUNT)
        status = send(dev, "read 0 p:%dx%d" % (min(size, 65536), max(size >> 16, 1)))[0]
        put("nth", 0)
        for name in "cipher", "softirq":
            put(name, 0)
        put("times", 1)
        kc.equal("large: a read of %d KiB" % (size >> 10), status, "none")
        return int(get("seen"))

    one = decrypted(BLOCK)
    kc.ok("large: one block is decrypted where its disk completes it", one in (1, 2), one)
    kib = decrypted(4 << 20) // max(one, 1) * BLOCK >> 10
    kc.ok("large: of 4 MiB no more than 256 KiB are", kib <= 256, "%d KiB" % kib)
    kc.remove("kc")
    null_gone("large")


# ---- processors that are busy ----

def busy():
    """The other processor decrypts a part of a large read, unless it has reads of its own to decrypt."""
    tracing = "/sys/kernel/tracing/"
    if not os.path.exists(tracing + "trace"):
        subprocess.run(("mount", "-t", "tracefs", "tracefs", tracing), check=True)

    def trace(name, value):
        with open(tracing + name, "w") as f:
            f.write(value)

    def reads():
        disk = kc.Disk(dev, os.O_RDONLY)
        for i in range(40):
            disk.read(i % 8 << 20, 1 << 20)
        disk.close()

    kc.zero(META, 0, 8 << 20)
    dev = kc.create("kc", kc.separate(8 << 11, "/dev/ram0", META), new=True)
    kc.write(dev, 0, bytes(8 << 20))
    items = []
    for jobs in 1, 2:
        trace("trace", "")
        trace("events/workqueue/workqueue_execute_start/enable", "1")
        children = []
        for _ in range(jobs):
            pid = os.fork()
            if not pid:
                reads()
                os._exit(0)
            children.append(pid)
        kc.equal("busy: %d readers end" % jobs, [os.waitpid(pid, 0)[1] for pid in children], [0] * jobs)
        trace("events/workqueue/workqueue_execute_start/enable", "0")
        with open(tracing + "trace") as lines:
            items.append(sum("[dm_keyed_crypt]" in line and "watch" not in line for line in lines))
    kc.diag("%d and %d work items for 40 and 80 reads" % tuple(items))
    kc.ok("busy: one reader has its reads decrypted by both processors", items[0] >= 20, items)
    kc.ok("busy: two do not take each other's processor", items[1] < 60, items)
    kc.remove("kc")


kc.join_session()
for who in "root", "alice", "bob":
    kc.add_key("logon", "kc:" + who, os.urandom(64))
for check in (vectors, slabs, polled, large, busy):
    if kc.wanted(check.__name__):
        start = time.monotonic()
        check()
        kc.diag("%s: %.1f s" % (check.__name__, time.monotonic() - start))
kc.done()
