#!/usr/bin/python3
# The benchmarks of the block device; see Documentation/benchmarks.rst. Runs in the VM of
# tests/bench/bench, prints a line of JSON for each figure.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import subprocess
import sys
import time
import traceback

sys.dont_write_bytecode = True
import common
from common import CIPHERS, CONTESTANTS, MIB, SMP, figure, io, kc, note

NAME = "kc-bench"
LENGTH = 64 * MIB
ALICE, BOB, MANY = 1000, 1001, 20000
DELAY = 250  # ms, of the disk that peak memory is measured on: more than it takes to encrypt a queue
STRIDE = 1920 * 4096  # what a map block covers
BIG = 4096 * MIB
WAYS = "crypt", "crypt-nowq", "keyed"


class Where:
    """Where the devices lie: data from sector offset on, metadata on meta or, if None, before it."""

    def __init__(self, data, meta, offset=0):
        self.data, self.meta, self.offset = data, meta, offset


BRD = Where("/dev/ram0", "/dev/ram1")
FACTOR = 1
if common.DEV:
    # A disk's own cache is not to hold it all; 8 MiB are for the metadata.
    FACTOR = int(os.environ.get("KC_BENCH_FACTOR", 16))
    if os.path.exists(common.DEV):
        LENGTH = min(1024, kc.size_of(common.DEV) // MIB - 8) * MIB

# --- devices --------------------------------------------------------------------------------------


def key(cipher, who="device"):
    return ":%d:logon:%s%s%d" % (CIPHERS[cipher][1], common.KEY, who, CIPHERS[cipher][1])


def table(contestant, cipher, where, length=LENGTH, opts=()):
    if contestant == "linear":
        return "0 %d linear %s %d" % (length // 512, where.data, where.offset)
    opts = ["sector_size:4096"] + list(opts)
    kind = "crypt"
    if contestant == "crypt-nowq":
        opts += ["no_read_workqueue", "no_write_workqueue"]
    elif contestant != "crypt":
        kind = "keyed-crypt"
        opts += ["owner:uid"] + (["meta_device:" + where.meta] if where.meta else [])
    return "0 %d %s %s %s 0 %s %d %d %s" % (
        length // 512, kind, CIPHERS[cipher][0], key(cipher), where.data, where.offset, len(opts),
        " ".join(opts))


def clear_meta(where, size=4 * MIB):
    """An old metadata area would be used again; and memory disks take memory at the first write."""
    kc.write(where.meta or where.data, 0, bytes(size))


NO_CIPHER = "raw", "linear"


class Device:
    """A contestant's device, its first bytes written by alice."""

    def __init__(self, contestant, cipher, fill=LENGTH, where=BRD, length=LENGTH, opts=()):
        self.contestant, self.mapped, self.path = contestant, contestant != "raw", where.data
        if self.mapped:
            if contestant == "keyed":
                clear_meta(where)
            self.path = common.patient(kc.create, NAME, table(contestant, cipher, where, length, opts),
                                       False, contestant == "keyed")
            if contestant == "keyed":
                kc.message(NAME, "owner add alice %d %s" % (ALICE, key(cipher, "alice")))
                kc.message(NAME, "owner add bob %d %s" % (BOB, key(cipher, "bob")))
        if fill:
            io(self.path, "-w", "-b", MIB, "-l", fill, "-Y", "-u", ALICE, whole=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.mapped:
            common.remove(NAME)
            os.unlink(self.path)


def plain(name, length, target):
    """A mapped device of another target over something."""
    return common.patient(kc.create, name, "0 %d %s" % (length // 512, target))


def devices(cases=None, names=CONTESTANTS, only=None, **kw):
    """Each contestant with each cipher: (device, short name of the cipher)"""
    for contestant in names:
        for cipher in [None] if contestant in NO_CIPHER else common.ciphers(*only or ()):
            with Device(contestant, cipher, **kw) as d:
                note("%s %s" % (contestant, cipher or ""))
                yield d, cipher


def rate(case, cipher, contestant, result, size):
    ns, ios = result
    figure(case, CIPHERS[cipher][0] if cipher else "", contestant, "MiB/s",
           round(ios * size * 1e9 / ns / MIB, 3), ns=round(ns / ios, 2), ios=ios, bytes=size)


def each(case, cipher, contestant, result, **more):
    """What a request costs."""
    figure(case, CIPHERS[cipher][0] if cipher else "", contestant, "ns" if SMP else "instructions",
           round(result[0] / result[1], 2), ios=result[1], **more)


# --- reads, and writes over own blocks ------------------------------------------------------------

SIZES = {"4k": 4096, "64k": 65536, "128k": 131072, "1m": MIB}
# name: options of the load, bytes of a request, bytes of the region, passes. Little is enough where
# figures are exact; a queue must fill.
GRID = {}


def add_to_grid(name, flags, size, qd):
    flags, passes = flags + ["-q", qd], 3
    amount = max(4 * MIB if size == 4096 else 2 * MIB, 4 * size, 32 * size * (qd > 1))
    if amount > 16 * MIB:
        flags, passes = flags + ["-k", 2], 1
    GRID["%s-qd%d" % (name, qd)] = flags, size, min(amount * FACTOR, LENGTH), passes


for order, flag in ("seq", []), ("rand", ["-R"]):
    for op in "write", "read":
        for size, bytes_ in SIZES.items():
            for qd in (1, 32) if size != "128k" else (1,):
                add_to_grid("%s-%s-%s" % (order, op, size), flag + ["-" + op[0]], bytes_, qd)
for qd in 1, 32:
    add_to_grid("randrw-4k", ["-R", "-m", 70], 4096, qd)


def grid(cases, where):
    # What dm itself costs matters where the instructions of a target are counted.
    names = CONTESTANTS + ("linear",) * (not SMP and bool(common.ciphers("free")))
    for d, cipher in devices(names=names, fill=max(GRID[c][2] for c in cases), where=where):
        for case in cases:
            flags, size, amount, passes = GRID[case]
            if d.contestant == "linear" and size > 4096:
                continue
            if d.contestant == "raw":
                passes = 7  # so short that the timer interrupt shows
            rate(case, cipher, d.contestant,
                 io(d.path, *flags, "-b", size, "-l", amount, "-u", ALICE, passes=passes), size)


# --- writes that change the map -------------------------------------------------------------------

# keyed: blocks that nobody had; keyed-own: the same writes once more
FIRST = {"first-%s-write-%s-qd1" % (order, size): (flag, SIZES[size])
         for order, flag in (("seq", []), ("rand", ["-R"])) for size in ("4k", "128k")}


def first(case, where):
    flags, size = FIRST[case]
    args = ["-w", "-b", size, "-l", 16 * MIB, "-k", 16, "-Y", "-u", ALICE] + flags
    for d, cipher in devices(only=("aes", "adiantum"), fill=0, where=where):
        if d.contestant != "keyed":
            io(d.path, *args, whole=True)
        rate(case, cipher, d.contestant, io(d.path, *args, whole=True), size)
        if d.contestant == "keyed":
            rate(case, cipher, "keyed-own", io(d.path, *args, whole=True), size)


# keyed: blocks of another owner; keyed-own: the same writes once more
REASSIGN = {"reassign-%s-256k-qd8" % mode: mode for mode in ("strict", "lazy")}


def reassign(case, where):
    args = ["-w", "-b", MIB // 4, "-q", 8, "-k", 8, "-Y", "-u", BOB, "-l", 32 * MIB]
    for d, cipher in devices(only=("aes", "adiantum"), names=CONTESTANTS[:3], fill=32 * MIB, where=where):
        rate(case, cipher, d.contestant, io(d.path, *args, whole=True), MIB // 4)
    for cipher in common.ciphers("aes", "adiantum"):
        with Device("keyed", cipher, 32 * MIB, where, opts=["reassign:" + REASSIGN[case]]) as d:
            for name in "keyed", "keyed-own":
                rate(case, cipher, name, io(d.path, *args, whole=True), MIB // 4)


class NullBlk:
    """A disk in memory that takes discards and has a write cache, so that flushes get to it."""

    config = "/sys/kernel/config/nullb/kc"

    def __enter__(self):
        if not os.path.exists("/sys/kernel/config/nullb"):
            common.call("modprobe", "null_blk", "nr_devices=0")
        if not os.path.exists("/sys/kernel/config/nullb"):
            common.call("mount", "-t", "configfs", "none", "/sys/kernel/config")
        os.mkdir(self.config)
        # A cache of the disk's size never writes back, so a flush costs nothing there.
        for name, value in (("memory_backed", 1), ("discard", 1), ("queue_mode", 0), ("blocksize", 4096),
                            ("size", LENGTH // MIB + 8), ("cache_size", LENGTH // MIB + 8), ("power", 1)):
            common.put(self.config + "/" + name, value)
        path = common.new_node("kc" if os.path.exists("/sys/block/kc") else "nullb0")
        io(path, "-w", "-b", MIB, "-l", LENGTH + 8 * MIB, whole=True)
        return Where(path, None, 8 * MIB // 512)

    def __exit__(self, *_):
        common.put(self.config + "/power", 0)
        os.rmdir(self.config)


FDATASYNC = {"fdatasync-write-4k": 8 * MIB, "fdatasync-first-write-4k": 0}


def fdatasync(case, where):
    if not common.DEV:
        with NullBlk() as where:
            fdatasync_on(case, where)
    else:
        fdatasync_on(case, where)


def fdatasync_on(case, where):
    args = ["-w", "-R", "-l", 8 * MIB, "-n", 1024, "-k", 16, "-y", "-u", ALICE]
    for d, cipher in devices(only=("aes", "adiantum"), fill=FDATASYNC[case], where=where):
        passes = 3 if FDATASYNC[case] or d.contestant != "keyed" else 1
        rate(case, cipher, d.contestant, io(d.path, *args, passes=passes), 4096)


DISCARD = {"discard-%s" % size: SIZES[size] for size in ("4k", "1m")}


def discard(case, _):
    size = DISCARD[case]
    count = min(32 * MIB // size, 1024)
    args = ["-d", "-b", size, "-l", count * size, "-R", "-k", count // 16]
    with NullBlk() as where:
        for contestant in CONTESTANTS:
            for cipher in [None] if contestant == "raw" else common.ciphers("aes"):
                opts = ["allow_discards"]
                with Device(contestant, cipher, count * size, where, opts=opts) as d:
                    each(case, cipher, contestant, io(d.path, *args))


# --- owners ---------------------------------------------------------------------------------------

LOCKED = {"locked-read-4k": "-r", "locked-write-4k": "-w"}


def locked(case, where):
    data = plain("lower", LENGTH, "linear %s 0" % where.data)
    meta = plain("meta", 8 * MIB, "linear %s 0" % where.meta)
    for cipher in common.ciphers("aes"):
        with Device("keyed", cipher, fill=8 * MIB, where=Where(data, meta)) as d:
            kc.message(NAME, "owner lock alice")
            args = [LOCKED[case], "-e", "-R", "-l", 8 * MIB, "-u", ALICE]
            io(d.path, *args)
            before = kc.disk_stat(data), kc.disk_stat(meta)
            result = io(d.path, *args, passes=3)
            after = kc.disk_stat(data), kc.disk_stat(meta)
            each(case, cipher, "keyed", result)
            figure(case, CIPHERS[cipher][0], "keyed", "disk I/Os",
                   sum(b[i] - a[i] for a, b in zip(before, after) for i in (0, 2, 4, 5)))
    common.remove("lower")
    common.remove("meta")


OWNERS = {"owners-rand-%s-4k-qd%d" % (op, qd): ("-" + op[0], qd) for op in ("write", "read") for qd in (1, 32)}


def owners(cases, where):
    for nr in 1000, 2:
        for cipher in common.ciphers("aes"):
            size = CIPHERS[cipher][1]
            with Device("keyed", cipher, fill=0, where=where) as d:
                began = time.monotonic()
                for i in range(nr):
                    if nr == 1000:
                        common.add_key("many%d" % i, i.to_bytes(size, "big"))
                    kc.message(NAME, "owner add many%d %d :%d:logon:%smany%d" %
                               (i, MANY + i, size, common.KEY, i))
                note("%d owners added in %.1f s" % (nr, time.monotonic() - began))
                args = ["-l", 16 * MIB, "-u", MANY, "-U", nr]
                io(d.path, "-w", "-Y", *args, whole=True)
                for case in cases:
                    op, qd = OWNERS[case]
                    rate(case, cipher, "keyed-%d" % nr,
                         io(d.path, op, "-R", "-q", qd, *args, passes=3), 4096)


# --- the map's cache ------------------------------------------------------------------------------

# Map blocks that are used in turn; meta_cache:1 holds 204 of them.
CACHE = {"map-cache-%s-%s-4k" % (what, op): (nr, "-" + op[0])
         for what, nr in (("hit", 100), ("miss", 500)) for op in ("write", "read")}


def cache(cases, where):
    for contestant in "raw", "crypt-nowq", "keyed":
        for cipher in [None] if contestant == "raw" else common.ciphers("aes"):
            if contestant == "keyed":
                clear_meta(where, 8 * MIB)
            with Device(contestant, cipher, fill=0, where=where, length=BIG,
                        opts=["meta_cache:1"] * (contestant == "keyed")) as d:
                args = ["-s", STRIDE, "-u", ALICE]
                io(d.path, "-w", "-l", 500 * STRIDE, "-Y", *args, whole=True)
                for case in cases:
                    nr, op = CACHE[case]
                    rate(case, cipher, contestant, io(
                        d.path, op, "-l", nr * STRIDE, "-n", 1000, "-k", nr, *args, passes=3), 4096)


# --- activation, memory ---------------------------------------------------------------------------


def activate(case, _):
    """Makes the device once, so that the metadata is formatted, and measures the second time."""
    common.call("modprobe", "loop")
    with open("/tmp/huge", "wb") as f:
        f.truncate((1 << 40) + 1024 * MIB)
    loop = subprocess.run(("losetup", "--find", "--show", "--direct-io=off", "/tmp/huge"), check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip()
    where = Where(loop, None, 1024 * MIB // 512)
    for contestant in WAYS:
        for cipher in common.ciphers("aes"):
            line = table(contestant, cipher, where, length=1 << 40)
            for when in "format", "again":
                common.drop_caches()
                memory = common.kernel_memory()
                ns = time.monotonic_ns()
                common.patient(kc.create, NAME, line, False, contestant == "keyed" and when == "format")
                ns = time.monotonic_ns() - ns
                memory = common.kernel_memory() - memory
                if contestant == "keyed" and when == "format":
                    figure(case, CIPHERS[cipher][0], "keyed-format", "s", round(ns / 1e9, 6))
                common.remove(NAME)
            figure(case, CIPHERS[cipher][0], contestant, "s", round(ns / 1e9, 6))
            figure(case, CIPHERS[cipher][0], contestant, "KiB", memory // 1024)
    common.call("losetup", "-d", loop)
    os.unlink("/tmp/huge")


def memory(case, where):
    """Kernel memory at the peak of the load, on a disk that takes its time, beyond that at rest
    before the device was made."""
    common.call("modprobe", "dm-delay")
    delayed = plain("delayed", LENGTH, "delay %s 0 %d" % (where.data, DELAY))
    for contestant in CONTESTANTS:
        for cipher in [None] if contestant == "raw" else common.ciphers("aes"):
            common.drop_caches()
            rest = common.kernel_memory()
            with Device(contestant, cipher, fill=LENGTH, where=Where(delayed, where.meta)) as d:
                load = subprocess.Popen([common.IO, "-w", "-b", str(MIB), "-q", "32", "-l", str(LENGTH),
                                         "-p", "4", "-u", str(ALICE), d.path], stdout=subprocess.PIPE)
                os.set_blocking(load.stdout.fileno(), False)
                peak = passes = 0
                # Not while it ends: its buffers go then, and belong to nobody for a while.
                while passes < 3 and load.poll() is None:
                    peak = max(peak, common.kernel_memory(quick=True))
                    time.sleep(0.005)
                    passes += (load.stdout.read() or b"").count(b"\n")
                if load.wait() or passes < 3:
                    raise RuntimeError("the load failed")
            figure(case, CIPHERS[cipher][0] if cipher else "", contestant, "KiB",
                   (peak - rest) // 1024)
    common.remove("delayed")


# --- two processors -------------------------------------------------------------------------------

PARALLEL = {}
if SMP:
    for op in "write", "read":
        for size in "4k", "1m":
            PARALLEL["parallel-%s-%s" % (op, size)] = ["-R", "-" + op[0]], SIZES[size]


def parallel(cases, where):
    """One job, and two that write as different owners, each with blocks of its own."""
    for d, cipher in devices(only=("aes",), fill=0, where=where):
        for jobs, split in (2, ["-j", 2, "-U", 2]), (1, []):
            io(d.path, "-w", "-b", MIB, "-l", LENGTH, "-u", ALICE, *split, whole=True)
            for case in cases:
                flags, size = PARALLEL[case]
                results = [io(d.path, *flags, "-b", size, "-l", min(LENGTH, 4096 * size),
                              "-u", ALICE, *split) for _ in range(5)]
                result = sorted(results, key=lambda r: r[0] / r[1])[2]
                rate(case, cipher, d.contestant + ("" if jobs == 2 else "-1job"), result, size)


# --- all of them ----------------------------------------------------------------------------------

# What is measured together, on one device of each contestant; and what has devices of its own
TOGETHER = (GRID, grid), (OWNERS, owners), (PARALLEL, parallel)
SINGLE = (FIRST, first), (REASSIGN, reassign), (FDATASYNC, fdatasync)
# These need memory disks.
if not common.DEV:
    TOGETHER += (CACHE, cache),
    SINGLE += ((DISCARD, discard), (LOCKED, locked), ({"activate-1t": 0}, activate),
               ({"memory-write-1m-qd32": 0}, memory))
CASES = [case for names, _ in TOGETHER[:1] + SINGLE + TOGETHER[1:] for case in names]


failed = []


def attempt(function, cases, where):
    """What fails does not stop the others."""
    try:
        function(cases, where)
    except (OSError, RuntimeError, subprocess.CalledProcessError):
        note("%s FAILED" % cases)
        traceback.print_exc()
        failed.append(cases)
        for name in NAME, "lower", "meta", "delayed":
            try:
                common.remove(name)
            except OSError:
                pass


def measure(cases, where):
    # All that is loaded on demand
    for _ in devices(fill=0, where=where):
        pass
    note("measuring")
    for names, function in TOGETHER:
        picked = [c for c in cases if c in names]
        if picked:
            note("%s ..." % picked[0])
            attempt(function, picked, where)
    for names, function in SINGLE:
        for case in (c for c in cases if c in names):
            note(case)
            attempt(function, case, where)
    for name, driver in common.drivers().items():
        if any(w in name for w in ("xts", "adiantum", "xchacha", "nhpoly", "kc-bench")):
            note("%s is %s" % (name, driver))


def main():
    cases = common.chosen(CASES)
    common.setup()
    where = BRD
    if common.DEV:
        where = Where(common.DEV, None, 8 * MIB // 512)
    else:
        common.call("modprobe", "brd", "rd_nr=2", "rd_size=%d" % (BIG // 1024))
        io(where.data, "-w", "-b", MIB, "-l", LENGTH, whole=True)
    try:
        measure(cases, where)
    finally:
        common.cleanup()
    sys.exit("failed: %s" % failed if failed else 0)


main()
