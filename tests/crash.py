#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Crash states of a keyed-crypt device, from a dm-log-writes log.

    crash.py load LOG-TARGET DEVICE ORACLE SEED OPS
        writes to DEVICE as several owners, marks each fsync in the log, and
        notes in ORACLE what was written and what each fsync acknowledged
    crash.py replay LOG DISK TABLE ORACLE SEED STATES SIZE DATA-OFFSET
        builds crash states from the log on DISK, activates each with TABLE
        (a file), and compares it with ORACLE

A state is all that was flushed at some point of the log, all FUA writes up
to a point behind that, and, when that is the next flush, a random part of the
writes in between, metadata blocks torn between sectors.
"""

import ctypes
import functools
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import threading
import time

BLOCK = 4096
SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
OWNERS = {0: 1, 1000: 2, 1001: 3, 1002: 4}  # uid: key slot; 0 has no rule
libc = ctypes.CDLL(None, use_errno=True)


def content(block, version, uid):
    """A block nobody else writes: its number, its version, its writer."""
    head = b"kc %08d %08d %08d " % (block, version, uid)
    return (head * (BLOCK // len(head) + 1))[:BLOCK]


@functools.lru_cache(maxsize=None)
def parse(data):
    """(block, version, uid) of a block's content, or None."""
    try:
        word = data[:64].split()
        found = int(word[1]), int(word[2]), int(word[3])
    except (IndexError, ValueError):
        return None
    return found if data == content(*found) else None


class Load:
    """Three writers with blocks of their own, each write as a random owner."""

    def __init__(self, log_target, device, seed, ops):
        self.log_target = log_target
        self.path = device
        with open(device, "rb") as f:
            self.blocks = f.seek(0, 2) // BLOCK
        self.seed = seed
        self.ops = ops
        self.lock = threading.Lock()
        self.versions = [[] for _ in range(self.blocks)]  # block: [uid, ...]
        self.done = [0] * self.blocks  # versions completed
        self.acked = []                # by fsync: versions completed before it
        self.fsync_lock = threading.Lock()

    def write(self, fd, buf, rng, block, count, fua):
        uid = rng.choice(list(OWNERS))
        with self.lock:
            for b in range(block, block + count):
                self.versions[b].append(uid)
        data = b"".join(content(b, len(self.versions[b]), uid)
                        for b in range(block, block + count))
        buf[:len(data)] = data
        libc.setfsuid(uid)
        n = os.pwritev(fd, [memoryview(buf)[:len(data)]], block * BLOCK,
                       os.RWF_DSYNC if fua else 0)
        libc.setfsuid(0)
        assert n == len(data)
        with self.lock:
            for b in range(block, block + count):
                self.done[b] = len(self.versions[b])

    def fsync(self, fd):
        with self.fsync_lock:
            with self.lock:
                done = list(self.done)
            os.fsync(fd)
            subprocess.run(["dmsetup", "message", self.log_target, "0", "mark",
                            "fsync%d" % len(self.acked)], check=True)
            self.acked.append(done)

    def writer(self, nr):
        rng = random.Random(self.seed * 10 + nr)
        buf = mmap.mmap(-1, 64 * BLOCK)
        fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        part = self.blocks // 3
        for _ in range(self.ops):
            count = rng.choice((1, 1, 1, 2, 3, 8, 16))
            # most of the load on few blocks, which are written again and again
            span = part if rng.random() < 0.3 else 48
            self.write(fd, buf, rng, nr * part + rng.randrange(span - count + 1),
                       count, rng.random() < 0.05)
            if rng.random() < 0.15:
                self.fsync(fd)
        os.close(fd)

    def run(self, oracle):
        threads = [threading.Thread(target=self.writer, args=(i,)) for i in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        with open(oracle, "w", encoding="ascii") as f:
            json.dump({"versions": self.versions, "acked": self.acked}, f)
        print("# %d fsyncs, %d block writes" %
              (len(self.acked), sum(len(v) for v in self.versions)))


def read_log(path):
    """[(sector, flags, data)] in log order."""
    entries = []
    with open(path, "rb") as f:
        magic, _, count, size = struct.unpack("<QQQI", f.read(28))
        assert magic == 0x6A736677736872, "no dm-log-writes log"
        pos = size
        for _ in range(count):
            f.seek(pos)
            sector, nr, flags, length = struct.unpack("<QQQQ", f.read(32))
            pos += size
            if flags & MARK:
                f.seek(pos - size + 32)
                entries.append((0, flags, f.read(length).rstrip(b"\0").decode()))
                # the mark's text follows the entry in its sector, or behind it
            else:
                f.seek(pos)
                data = b"" if flags & DISCARD else f.read(nr * SECTOR)
                entries.append((sector, flags, data))
                if not flags & DISCARD:
                    pos += -(-nr * SECTOR // size) * size
    return entries


def put(image, sector, data):
    image[sector * SECTOR:sector * SECTOR + len(data)] = data


class Replay:
    """Goes through the log once, flush by flush, and makes states on the way."""

    def __init__(self, log, disk, table, oracle, seed, states, size, data_offset):
        self.entries = read_log(log)
        self.disk = disk
        with open(table, encoding="ascii") as f:
            self.table = f.read()
        with open(oracle, encoding="ascii") as f:
            known = json.load(f)
        self.versions, self.acked = known["versions"], known["acked"]
        self.rng = random.Random(seed)
        self.seed = seed
        self.states = states
        self.image = bytearray(size)
        self.data_offset = data_offset  # in sectors
        self.failed = 0
        self.seen = {"old": 0, "new": 0, "undefined": 0, "zero": 0}

    def epochs(self):
        """(entries up to and with a flush) one after the other."""
        epoch = []
        for entry in self.entries:
            epoch.append(entry)
            if entry[1] & FLUSH:
                yield epoch
                epoch = []
        if epoch:
            yield epoch

    def run(self):
        start = time.monotonic()
        epochs = list(self.epochs())
        # the first ones format the area: crash states begin behind the last of these
        first = next(i for i, e in enumerate(epochs)
                     if any(x[1] & MARK for x in e))
        per = self.states / (len(epochs) - first)
        mark = -1
        made = 0
        for i, epoch in enumerate(epochs):
            while i >= first and made < (i - first + 1) * per:
                self.state(epoch, mark, made)
                made += 1
            # Of writes to one place the FUA one is later, see state().
            for sector, flags, data in sorted(epoch, key=lambda e: bool(e[1] & (FUA | MARK))):
                if not flags & MARK:
                    put(self.image, sector, data)
                elif data.startswith("fsync"):
                    mark = int(data[5:])
        print("# seed %d: %d states of %d flushes in %d s; blocks %s" %
              (self.seed, made, len(epochs), time.monotonic() - start, self.seen))
        return self.failed

    def state(self, epoch, mark, nr):
        """One crash between the last flush and the end of this epoch."""
        image = bytearray(self.image)
        writes = [e for e in epoch if not e[1] & (MARK | DISCARD) and e[2]]
        # an entry that is a flush itself makes the others durable when it ends
        last = epoch[-1] if epoch[-1][1] & FLUSH else None
        fua = [e for e in epoch if e[1] & (FUA | MARK) and e is not last]
        rest = [e for e in writes if not e[1] & FUA and e is not last]
        cut = self.rng.choice((0, len(fua), len(fua), self.rng.randint(0, len(fua))))
        for sector, flags, data in fua[:cut]:
            if not flags & MARK:
                put(image, sector, data)
            elif data.startswith("fsync"):
                mark = int(data[5:])
        if cut == len(fua):
            if last and last[2] and self.rng.random() < 0.3:
                # its flush is done, its own data is under way: here, not here, or torn
                keep = rest + [last]
            else:
                share = self.rng.choice((0.2, 0.5, 0.9))
                keep = [e for e in rest if self.rng.random() < share]
            # The log has FUA writes before others that ended earlier. The load's FUA
            # writes end in a flush, so of writes to one place the FUA one is later,
            # and a disk keeps the later one.
            hard = {s for e in fua for s in range(e[0], e[0] + len(e[2]) // SECTOR)
                    if not e[1] & MARK}
            keep = [e for e in keep if e is last or
                    hard.isdisjoint(range(e[0], e[0] + len(e[2]) // SECTOR))]
            for sector, _, data in keep:
                if sector < self.data_offset and self.rng.random() < 0.5:
                    for s in range(len(data) // SECTOR):
                        if self.rng.random() < 0.5:
                            put(image, sector + s, data[s * SECTOR:(s + 1) * SECTOR])
                else:
                    put(image, sector, data)
        with open(self.disk, "r+b") as f:
            f.write(image)
            f.flush()
            os.fsync(f.fileno())
        self.check(mark, nr)

    def check(self, mark, nr):
        def bad(text):
            self.failed += 1
            print("# state %d, after fsync %d: %s" % (nr, mark, text))

        r = subprocess.run(["dmsetup", "create", "kcstate"], input=self.table,
                           text=True, capture_output=True, check=False)
        if r.returncode:
            bad("not activated: " + r.stderr.strip())
            return
        try:
            reply = subprocess.run(["dmsetup", "message", "kcstate", "0", "map", "0",
                                    str(len(self.versions))],
                                   text=True, capture_output=True, check=True).stdout
            slots = [0] * len(self.versions)
            for line in reply.splitlines():
                first, count, slot = map(int, line.split())
                slots[first:first + count] = [slot] * count
            with open("/dev/mapper/kcstate", "rb") as f:
                data = f.read(len(slots) * BLOCK)
        finally:
            subprocess.run(["dmsetup", "remove", "--retry", "kcstate"], check=True)
        acked = self.acked[mark] if mark >= 0 else [0] * len(slots)
        for b, slot in enumerate(slots):
            text = self.check_block(b, slot, data[b * BLOCK:(b + 1) * BLOCK], acked[b])
            if text:
                bad("block %d: %s" % (b, text))

    def check_block(self, b, slot, data, acked):
        versions = self.versions[b]
        if not acked:
            # never flushed: what it holds is undefined, but not whose it is
            if slot == 0:
                self.seen["zero"] += 1
                return None if not any(data) else "unassigned, but not zeros"
            if slot not in (OWNERS[u] for u in versions):
                return "slot %d, which never wrote it" % slot
            self.seen["undefined"] += 1
            return None
        found = parse(data)
        if not found:
            return "slot %d, acknowledged version %d: content under another key" % (slot, acked)
        if found[0] != b or not acked <= found[1] <= len(versions):
            return "holds %r, acknowledged was version %d" % (found, acked)
        if OWNERS[found[2]] != slot or versions[found[1] - 1] != found[2]:
            return "holds %r in slot %d" % (found, slot)
        self.seen["old" if found[1] == acked else "new"] += 1
        return None


def main():
    if sys.argv[1] == "load":
        log_target, device, oracle, seed, ops = sys.argv[2:]
        Load(log_target, device, int(seed), int(ops)).run(oracle)
        return 0
    log, disk, table, oracle, seed, states, size, offset = sys.argv[2:]
    return 1 if Replay(log, disk, table, oracle, int(seed), int(states), int(size),
                       int(offset)).run() else 0


sys.exit(main())
