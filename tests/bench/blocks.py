#!/usr/bin/python3
# The benchmarks of the block device; see Documentation/benchmarks.rst. Runs in the VM of
# tests/bench/bench, prints a line of JSON for each figure.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import sys

sys.dont_write_bytecode = True
import common
from common import CIPHERS, CONTESTANTS, MIB, figure, io, kc, note

DATA, META = "/dev/ram0", "/dev/ram1"
LENGTH = 64 * MIB
ALICE, BOB = 1000, 1001

SIZES = {"4k": 4096, "64k": 65536, "128k": 131072, "1m": MIB}
# Of each size, what is read or written in a pass
AMOUNT = {"4k": 8 * MIB, "64k": 16 * MIB, "128k": 16 * MIB, "1m": 32 * MIB}

# name: options of the load, bytes of a request, bytes of the region
GRID = {}
for order, flag in ("seq", []), ("rand", ["-R"]):
    for op, opflag in ("write", "-w"), ("read", "-r"):
        for size, qds in ("4k", (1, 32)), ("64k", (1, 32)), ("128k", (1,)), ("1m", (1, 32)):
            for qd in qds:
                GRID["%s-%s-%s-qd%d" % (order, op, size, qd)] = (
                    flag + [opflag, "-q", qd], SIZES[size], AMOUNT[size])
for qd in 1, 32:
    GRID["randrw-4k-qd%d" % qd] = ["-R", "-m", 70, "-q", qd], 4096, 8 * MIB
CASES = list(GRID)


def key(cipher, who="bench"):
    size = CIPHERS[cipher][1]
    return ":%d:logon:kc:%s%d" % (size, who, size)


def table(contestant, cipher, length=LENGTH, data=DATA, meta=META, opts=()):
    name = CIPHERS[cipher][0]
    opts = ["sector_size:4096"] + list(opts)
    kind = "crypt"
    if contestant == "crypt-nowq":
        opts += ["no_read_workqueue", "no_write_workqueue"]
    elif contestant != "crypt":
        kind = "keyed-crypt"
        opts += ["owner:uid", "meta_device:" + meta]
    return "0 %d %s %s %s 0 %s 0 %d %s" % (length // 512, kind, name, key(cipher), data, len(opts),
                                          " ".join(opts))


class Device:
    """A contestant's device, with what goes on beneath it in DATA; all of it written once."""

    def __init__(self, contestant, cipher, fill=LENGTH, **kw):
        self.contestant, self.mapped = contestant, contestant != "raw"
        self.path = kw.get("data", DATA)
        if self.mapped:
            if contestant.startswith("keyed"):
                # An old metadata area would be used again
                kc.write(kw.get("meta", META), 0, bytes(4 * MIB))
            self.path = common.patient(kc.create, "bench", table(contestant, cipher, **kw))
            if contestant.startswith("keyed"):
                kc.message("bench", "owner add alice %d %s" % (ALICE, key(cipher, "alice")))
                kc.message("bench", "owner add bob %d %s" % (BOB, key(cipher, "bob")))
        if fill:
            io(self.path, "-w", "-b", MIB, "-l", fill, "-Y", "-u", ALICE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.mapped:
            kc.remove("bench")


def rate(case, cipher, contestant, ns, ios, size):
    figure(case, CIPHERS[cipher][0] if cipher else "", contestant, "MiB/s",
           round(ios * size * 1e9 / ns / MIB, 3), ns=round(ns / ios, 2), ios=ios, bytes=size)


def grid(cases):
    for contestant in CONTESTANTS:
        for cipher in [None] if contestant == "raw" else common.ciphers():
            amount = max(GRID[case][2] for case in cases)
            with Device(contestant, cipher, fill=amount) as d:
                for case in cases:
                    flags, size, amount = GRID[case]
                    ns, ios = io(d.path, *flags, "-b", size, "-l", amount, "-u", ALICE, passes=3)
                    rate(case, cipher, contestant, ns, ios, size)


def main():
    cases = common.chosen(CASES)
    common.setup()
    common.call("modprobe", "brd", "rd_nr=4", "rd_size=%d" % (4 * MIB))
    io(DATA, "-w", "-b", MIB, "-l", LENGTH)
    for contestant in CONTESTANTS:
        for cipher in common.ciphers():
            with Device(contestant, cipher, fill=0):
                pass
    if [c for c in cases if c in GRID]:
        grid([c for c in cases if c in GRID])
    for name, driver in common.drivers().items():
        if any(w in name for w in ("xts", "adiantum", "xchacha", "nhpoly", "kc-bench")):
            note("%s is %s" % (name, driver))


main()
