#!/usr/bin/python3
# See 17-cache.t.
#
#	cache.py counted|raised [NAME]
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import signal
import sys
import time

import kc
import kcformat as f

META = "/dev/disk/kc/meta"
BLOCK = 4096
KEY = {who: os.urandom(64) for who in ("root", "alice")}
HOLDS = (1 << 20) // 5120               # map blocks of meta_cache:1


def opened(map_blocks, *opts):
    """A device that large whose data is nowhere: reads of what was written give other data. What of its key map
    has no place on the disk was never written."""
    global length, dev, data, meta
    layout = f.Layout(map_blocks * f.ENTRIES, 1, 128)
    image = f.make_area(KEY["root"], map_blocks * f.ENTRIES)
    kc.write(META, 0, bytes(image[:layout.map * BLOCK]))
    have = min(kc.size_of(META) // BLOCK, layout.end) * 8
    length = map_blocks * f.ENTRIES * 8
    data = kc.create("data", "0 %d zero" % length)
    rest = "\n%d %d zero" % (have, layout.end * 8 - have) if layout.end * 8 > have else ""
    meta = kc.create("meta", "0 %d linear %s 0%s" % (have, META, rest))
    dev = kc.create("kc", table(*opts))
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")


def closed():
    kc.remove("kc", "data", "meta")


def table(*opts):
    return kc.separate(length, data, meta, *opts)


def touch(which, write=False):
    """A block of each of these map blocks."""
    disk = kc.Disk(dev, os.O_RDWR if write else os.O_RDONLY)
    for m in which:
        if write:
            disk.write(m * f.ENTRIES * BLOCK, bytes(BLOCK))
        else:
            disk.read((m * f.ENTRIES + 1) * BLOCK, BLOCK)
    disk.close()


def objects():
    """Objects in use of the size of a map block's entries."""
    with open("/sys/kernel/slab/kmalloc-4k/shrink", "w") as cache:
        cache.write("1")
    with open("/proc/slabinfo") as info:
        return sum(int(row.split()[1]) for row in info if row.startswith("kmalloc-4k "))


def read_only():
    """A read-only table with changes of more map blocks in its journal than the cache holds: these it keeps, no others."""
    global dev
    opened(2000, "meta_cache:8")
    touch(range(0, 600, 2), True)
    kc.message("kc", "commit")
    copy = kc.read(META, 0, 2 << 20)
    kc.remove("kc")
    for name, replay in ("an empty journal", False), ("a journal to replay", True):
        if replay:
            kc.write(META, 0, copy)
        before = objects()
        dev = kc.create("kc", table("meta_cache:1"), ro=True)
        opening = objects() - before
        touch(range(2000))
        touch(range(2000))
        grown = objects() - before
        kc.diag("%s: %d objects when it was open, then %d; meta_cache holds %d" % (name, opening, grown, HOLDS))
        kc.ok("read-only, %s: reading all of the device keeps within meta_cache" % name,
              grown <= max(HOLDS, opening) + 64, (opening, grown))
        kc.equal("read-only, %s: all changes are there" % name,
                 {kc.message("kc", "map %d 2" % (m * f.ENTRIES)) for m in range(0, 600, 2)},
                 {"%d 1 1\n%d 1 0" % (m * f.ENTRIES, m * f.ENTRIES + 1) for m in range(0, 600, 2)})
        kc.remove("kc")
    kc.remove("data", "meta")


def count():
    """Blocks are counted while others look for a place in the cache, which is full of map blocks that are not on
    disk yet: a destroyed owner's slot is free when none has it."""
    opened(2000, "meta_cache:1")
    kc.libc.setfsuid(1000)
    touch(range(90), True)
    kc.libc.setfsuid(0)
    kc.message("kc", "commit")
    touch(range(100, 100 + HOLDS))
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        while True:
            touch(range(100, 2000))
    counts = set()
    end = time.monotonic() + 8
    n = 0
    while time.monotonic() < end and n < 400 and len(counts) < 2:
        counts.add(int(kc.message("kc", "owner list").split()[-1]))
        n += 1
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    kc.diag("%d times" % n)
    kc.equal("an owner's blocks are counted while the cache is full", counts, {90})
    closed()


def raised():
    """Instructions of a read whose map block is in a large cache, when that was there from the beginning and when it
    was made so later."""
    nr, reads = 20000, 2000
    took = {}
    for how in "at first", "later":
        opened(nr, "meta_cache:%d" % (120 if how == "at first" else 1))
        if how == "later":
            kc.suspend("kc")
            kc.reload("kc", table("meta_cache:120"))
        kc.message("kc", "map 0 %d" % (nr * f.ENTRIES))
        touch(range(reads))
        start = time.monotonic_ns()
        touch(range(reads))
        took[how] = (time.monotonic_ns() - start) // reads
        closed()
    kc.diag("%(at first)d instructions a read, %(later)d when the cache was made larger later" % took)
    kc.ok("a cache that was made larger later is as fast", took["later"] < took["at first"] * 1.02, took)


length = dev = data = meta = None
kc.join_session()
for who, key in KEY.items():
    kc.add_key("logon", "kc:" + who, key)
boot = sys.argv.pop(1)
for check in (read_only, count) if boot == "counted" else (raised,):
    if kc.wanted(check.__name__):
        started = time.monotonic()
        check()
        kc.diag("%s: %.1f s" % (check.__name__, time.monotonic() - started))
kc.done()
