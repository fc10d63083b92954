#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Crash states of a keyed-crypt device, from a dm-log-writes log; started by 70-crash.t.

    crash.py load LOG-TARGET NAME DEVICE ORACLE SEED OPS
        writes to DEVICE, the device NAME, as several owners, with discards, locks, owners that
        come and go; marks in the log each fsync, and notes in ORACLE what was written and what
        each fsync acknowledged
    crash.py replay LOG ORACLE SEED STATES TABLE WORKER... [-- STATE]
        builds crash states from LOG, activates each, and compares it with ORACLE; with STATE only
        that one. TABLE is a table line with DISK for the device; a WORKER is DISK:LOG, a process
        that has these two devices

A state is all that was flushed at some point of the log, all FUA writes up to a point behind
that, and, when that is the next flush, a random part of the writes in between, metadata blocks torn
between sectors. Some are activated on top of dm-log-writes again, and a second crash state is made
of what recovery wrote. SEED and the number of a state choose all that is random in it.
"""

import array
import functools
import json
import mmap
import os
import random
import struct
import sys
import threading
import time

import kc

BLOCK = 4096
SECTOR = 512
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
DATA_OFFSET = 4096                  # sectors; the metadata area is before
MAP_BLOCK = 1920                    # entries of a map block
BLOCKS = 24 * MAP_BLOCK
OWNERS = {0: 1, 1000: 2, 1001: 3, 1002: 4}  # uid: key slot; 0 has no rule
NAMES = {1000: "alice", 1001: "bob", 1002: "carol"}
CHURN = 10                          # owners d0, d1, ... that are added and destroyed
SLOTS = {**OWNERS, **{2000 + i: 5 + i for i in range(CHURN)}}
DISCARDED = -1                      # in the place of a uid
# Added to a uid: the device was suspended meanwhile, and direct writes that wait for a resume have
# lost their writer and go under the device key (see limits.rst)
DEFERRED = 100000
# What is written to: around the borders between map blocks
REGION = 48
REGIONS = [MAP_BLOCK * i - REGION // 2 for i in range(1, 24)]
HOT = [b for r in REGIONS for b in range(r, r + REGION)]


def content(block, version, uid):
    """A block nobody else writes: its number, its version, its writer."""
    head = b"kc %08d %08d %08d " % (block, version, uid)
    return (head * (BLOCK // len(head) + 1))[:BLOCK]


@functools.lru_cache(maxsize=4096)
def parse(data):
    """(block, version, uid) of a block's content, or None."""
    try:
        word = data[:64].split()
        found = int(word[1]), int(word[2]), int(word[3])
    except (IndexError, ValueError):
        return None
    return found if data == content(*found) else None


def uid_of(version):
    return version - DEFERRED if version >= DEFERRED else version


def slots_of(version, free):
    """Under which slots the blocks of a write may be, when some owners' count as unassigned."""
    uid = uid_of(version)
    slots = {0 if uid in free else SLOTS[uid]}
    return slots | {1} if version >= DEFERRED else slots


# --- the load -------------------------------------------------------------------------------------

class Load:
    """Threads with blocks of their own, each write as a random owner."""

    def __init__(self, log_target, name, device, seed, ops):
        self.log_target = log_target
        self.name = name
        self.path = device
        self.seed = seed
        self.ops = ops
        self.lock = threading.Lock()
        self.versions = {b: [] for b in HOT}  # uids
        self.done = {b: 0 for b in HOT}       # the oldest version it may have, as far as is known
        self.acked = []                       # by fsync: done before it
        self.fsync_lock = threading.Lock()
        self.running = 0
        self.errors = 0
        self.suspends = 0                     # odd while suspended

    def open(self):
        return os.open(self.path, os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, 64 * BLOCK)

    def mark(self, text):
        kc.message(self.log_target, "mark " + text)

    def issue(self, block, count, uid):
        """Notes a write before it begins; returns its version of each block."""
        with self.lock:
            for b in range(block, block + count):
                self.versions[b].append(uid)
            return [len(self.versions[b]) for b in range(block, block + count)]

    def completed(self, block, versions):
        with self.lock:
            for i, version in enumerate(versions):
                self.done[block + i] = version

    def submit(self, fd, buf, block, versions, uid, fua):
        """The write itself; True if it succeeded. A locked owner's may fail."""
        size = len(versions) * BLOCK
        buf[:size] = b"".join(content(block + i, v, uid) for i, v in enumerate(versions))
        suspends = self.suspends
        kc.libc.setfsuid(uid)
        try:
            n = os.pwritev(fd, [memoryview(buf)[:size]], block * BLOCK, os.RWF_DSYNC if fua else 0)
            assert n == size
            return True
        except OSError as e:
            if e.errno != kc.errno.EIO:
                raise
            self.errors += 1
            return False
        finally:
            kc.libc.setfsuid(0)
            if suspends % 2 or suspends != self.suspends:
                with self.lock:
                    for i, version in enumerate(versions):
                        self.versions[block + i][version - 1] += DEFERRED

    def write(self, fd, buf, block, count, uid, fua=False):
        versions = self.issue(block, count, uid)
        if self.submit(fd, buf, block, versions, uid, fua):
            self.completed(block, versions)

    def discard(self, fd, block, count):
        versions = self.issue(block, count, DISCARDED)
        kc.fcntl.ioctl(fd, kc.BLKDISCARD, struct.pack("=QQ", block * BLOCK, count * BLOCK))
        self.completed(block, versions)

    def fsync(self, fd):
        with self.fsync_lock:
            with self.lock:
                done = [self.done[b] for b in HOT]
            os.fsync(fd)
            self.mark("fsync%d" % len(self.acked))
            self.acked.append(done)

    def writer(self, nr):
        rng = random.Random(self.seed * 10 + nr)
        fd, buf = self.open()
        regions = REGIONS[nr:19:3]
        for _ in range(self.ops):
            count = rng.choice((1, 1, 1, 2, 3, 8, 16))
            # most of the load on few blocks, which are written again and again
            region = rng.choice(regions) if rng.random() < 0.3 else regions[0]
            block = region + rng.randrange(REGION - count + 1)
            if rng.random() < 0.08:
                self.discard(fd, block, count)
            else:
                self.write(fd, buf, block, count, rng.choice(list(OWNERS)), rng.random() < 0.05)
            if rng.random() < 0.15:
                self.fsync(fd)
        os.close(fd)

    def racer(self):
        """Two writes to the same blocks at once; one of them stays."""
        rng = random.Random(self.seed * 10 + 3)
        fd, buf = self.open()
        other = mmap.mmap(-1, 64 * BLOCK)
        for _ in range(self.ops // 2):
            count = rng.choice((1, 2, 8))
            block = REGIONS[19] + rng.randrange(REGION - count + 1)
            uids = rng.sample(list(OWNERS), 2)
            pair = [self.issue(block, count, uid) for uid in uids]
            good = []
            t = threading.Thread(target=lambda: good.append(
                self.submit(fd, other, block, pair[1], uids[1], False)))
            t.start()
            good.append(self.submit(fd, buf, block, pair[0], uids[0], False))
            t.join()
            if all(good):
                self.completed(block, pair[0])  # or the other, which is newer
            if rng.random() < 0.2:
                self.fsync(fd)
        os.close(fd)

    def churner(self):
        """Owners that come, write and are destroyed."""
        rng = random.Random(self.seed * 10 + 4)
        fd, buf = self.open()
        for i in range(CHURN):
            uid = 2000 + i
            self.mark("adding%d" % i)
            kc.message(self.name, "owner add d%d %d :64:logon:kc:d%d" % (i, uid, i))
            self.mark("added%d" % i)
            for turn in range(14):
                if turn == 9:
                    if i == CHURN - 1:
                        break    # the last one stays
                    self.mark("destroying%d" % i)
                    kc.message(self.name, "owner destroy d%d" % i)
                    self.mark("destroyed%d" % i)
                count = rng.choice((1, 2, 8))
                block = REGIONS[rng.choice((20, 20, 21))] + rng.randrange(REGION - count + 1)
                self.write(fd, buf, block, count,
                           uid if turn < 9 and rng.random() < 0.6 else rng.choice(list(OWNERS)))
                if rng.random() < 0.2:
                    self.fsync(fd)
        os.close(fd)

    def disturber(self):
        rng = random.Random(self.seed * 10 + 5)
        while self.running:
            time.sleep(rng.random() * 0.2)
            what = rng.random()
            if what < 0.4:
                kc.message(self.name, "commit")
            elif what < 0.98:
                who = rng.choice(list(NAMES.values()))
                kc.message(self.name, "owner lock " + who)
                time.sleep(rng.random() * 0.05)
                kc.message(self.name, "owner unlock " + who)
            else:
                self.suspends += 1
                kc.suspend(self.name)
                kc.resume(self.name)
                self.suspends += 1

    def run(self, oracle):
        threads = [threading.Thread(target=self.writer, args=(i,)) for i in range(3)]
        threads += [threading.Thread(target=self.racer), threading.Thread(target=self.churner)]
        self.running = 1
        disturber = threading.Thread(target=self.disturber)
        for t in threads + [disturber]:
            t.start()
        for t in threads:
            t.join()
        self.running = 0
        disturber.join()
        with open(oracle, "w", encoding="ascii") as f:
            json.dump({"versions": [self.versions[b] for b in HOT], "acked": self.acked}, f)
        print("# %d fsyncs, %d block writes and discards, %d failed for a locked owner" %
              (len(self.acked), sum(len(v) for v in self.versions.values()), self.errors))


# --- logs and states ------------------------------------------------------------------------------

def read_log(path, rng):
    """[(sector, flags, data)] in log order; for a mark the data is its text."""
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
                # the mark's text follows the entry in its sector
                entries.append((0, flags, f.read(length).rstrip(b"\0").decode()))
            elif flags & DISCARD:
                # what is discarded may read as anything
                entries.append((sector, flags, rng.choice((b"", bytes(nr * SECTOR)))))
            else:
                f.seek(pos)
                entries.append((sector, flags, f.read(nr * SECTOR)))
                pos += -(-nr * SECTOR // size) * size
    return entries


def epochs_of(entries):
    """Entries up to and with a flush, one list after the other."""
    epochs = [[]]
    for entry in entries:
        epochs[-1].append(entry)
        if entry[1] & FLUSH:
            epochs.append([])
    return epochs if epochs[-1] else epochs[:-1]


def whole(epoch):
    """The writes of an epoch in the order they count."""
    # Of writes to one place the FUA one is later, see crash().
    return sorted((e for e in epoch if not e[1] & MARK), key=lambda e: bool(e[1] & FUA))


def crash(epoch, rng):
    """One crash between the last flush and the end of this epoch: writes, marks."""
    writes = [e for e in epoch if not e[1] & MARK and e[2]]
    # an entry that is a flush itself makes the others durable when it ends
    last = epoch[-1] if epoch[-1][1] & FLUSH else None
    fua = [e for e in epoch if e[1] & (FUA | MARK) and e is not last]
    rest = [e for e in writes if not e[1] & FUA and e is not last]
    cut = rng.choice((0, len(fua), len(fua), rng.randint(0, len(fua))))
    done = [(e[0], e[2]) for e in fua[:cut] if not e[1] & MARK]
    marks = [e[2] for e in fua[:cut] if e[1] & MARK]
    if cut < len(fua):
        return done, marks
    if last and last[2] and rng.random() < 0.3:
        # its flush is done, its own data is under way: here, not here, or torn
        keep = rest + [last]
    else:
        share = rng.choice((0.2, 0.5, 0.9))
        keep = [e for e in rest if rng.random() < share]
    # The log has FUA writes before others that ended earlier. The load's FUA writes end in a
    # flush, so of writes to one place the FUA one is later, and a disk keeps the later one.
    hard = {s for e in fua for s in range(e[0], e[0] + len(e[2]) // SECTOR) if not e[1] & MARK}
    for e in keep:
        if e is not last and not hard.isdisjoint(range(e[0], e[0] + len(e[2]) // SECTOR)):
            continue
        if e[0] < DATA_OFFSET and rng.random() < 0.5:
            done += [(e[0] + s, e[2][s * SECTOR:(s + 1) * SECTOR])
                     for s in range(len(e[2]) // SECTOR) if rng.random() < 0.5]
        else:
            done.append((e[0], e[2]))
    return done, marks


class Disk(kc.Disk):
    """What the log has written so far, and a device that is brought to one state after another."""

    META = DATA_OFFSET * SECTOR
    # what recovery writes: the anchor, map state and map, see format.h
    RECOVERY = (160, 1), (417, 25)

    def __init__(self, path):
        super().__init__(path)
        self.base = bytearray(self.META + BLOCKS * BLOCK)
        self.touched = set()    # regions written to since they were looked at

    def write(self, sector, data):
        super().write(sector * SECTOR, data)
        if sector >= DATA_OFFSET:
            first = (sector - DATA_OFFSET) * SECTOR // BLOCK - REGIONS[0]
            last = first + (len(data) - 1) // BLOCK
            self.touched.update(range(first // MAP_BLOCK, last // MAP_BLOCK + 1))

    def restore(self, sector, size):
        self.write(sector, self.base[sector * SECTOR:sector * SECTOR + size])

    def advance(self, writes):
        for sector, _, data in writes:
            self.base[sector * SECTOR:sector * SECTOR + len(data)] = data
            self.write(sector, data)

    def set(self, writes):
        for sector, data in writes:
            self.write(sector, data)

    def unset(self, writes):
        for sector, data in writes:
            self.restore(sector, len(data))
        for block, count in self.RECOVERY:
            self.restore(block * BLOCK // SECTOR, count * BLOCK)

    def meta_unchanged(self):
        """Nothing has been written but what was restored."""
        return self.read(0, self.META) == self.base[:self.META]


class Replay:
    """Goes through the log once, flush by flush, and makes states on the way."""

    def __init__(self, log, oracle, seed, states, table, disk, rec_log, nr, step, only):
        self.epochs = epochs_of(read_log(log, random.Random(seed)))
        with open(oracle, encoding="ascii") as f:
            known = json.load(f)
        self.versions = dict(zip(HOT, known["versions"]))
        self.acked = known["acked"]
        self.seed = seed
        self.states = states
        self.table = table
        self.disk_path = disk
        self.rec_log = rec_log
        self.disk = Disk(disk)
        self.nr, self.step, self.only = nr, step, only
        self.name = "state%d" % nr
        self.failed = 0
        self.made = 0
        self.again = 0
        self.seen = {"old": 0, "new": 0, "undefined": 0, "zero": 0}
        self.buf = mmap.mmap(-1, REGION * BLOCK)
        # what is durable after each fsync, as a state mostly has it: content and slots by region
        self.expected_for = [0] * len(HOT)
        self.expected = [[bytearray(REGION * BLOCK), array.array("H", bytes(2 * REGION))]
                         for _ in REGIONS]
        # slots of each region when it was last read and found right
        self.right = [None] * len(REGIONS)

    def run(self):
        # the first ones format the area: crash states begin behind these
        first = next(i for i, e in enumerate(self.epochs) if any(x[1] & MARK for x in e))
        per = self.states / (len(self.epochs) - first)
        marks = []
        nr = 0
        for i, epoch in enumerate(self.epochs):
            while i >= first and nr < (i - first + 1) * per:
                if nr % self.step == self.nr and self.only in (None, nr):
                    self.state(epoch, marks, nr)
                nr += 1
            self.disk.advance(whole(epoch))
            marks += [e[2] for e in epoch if e[1] & MARK]
        if not self.disk.meta_unchanged():
            self.bad(nr, "activation has written where it should not")
        return self.made, self.again, self.failed, self.seen

    def state(self, epoch, marks, nr):
        rng = random.Random("%d/%d" % (self.seed, nr))
        writes, new_marks = crash(epoch, rng)
        possible = marks + [e[2] for e in epoch if e[1] & MARK]
        self.made += 1
        self.disk.set(writes)
        if rng.random() < 0.1:
            self.again += 1
            recovery = self.recovery_writes(nr)
            if recovery:
                # all epochs before one, and a part of that
                at = rng.randrange(len(recovery))
                before = [(e[0], e[2]) for epoch in recovery[:at] for e in whole(epoch)]
                second, _ = crash(recovery[at], rng)
                self.disk.unset(writes)
                writes = writes + before + second
                self.disk.set(writes)
        self.check(self.disk_path, marks + new_marks, possible, nr)
        self.disk.unset(writes)

    def recovery_writes(self, nr):
        """What activation writes, by flush."""
        size = (DATA_OFFSET * SECTOR + BLOCKS * BLOCK) // SECTOR
        rec = "rec%d" % self.nr
        path = kc.create(rec, "0 %d log-writes %s %s" % (size, self.disk_path, self.rec_log))
        try:
            kc.create(self.name, self.table.replace("DISK", path))
            kc.remove(self.name)
        except OSError as e:
            self.bad(nr, "not activated: %s" % e)
        kc.remove(rec)
        return epochs_of(read_log(self.rec_log, random.Random(0)))

    def bad(self, nr, text):
        self.failed += 1
        if self.failed < 20:
            print("# state %d: %s" % (nr, text), flush=True)

    def expect(self, fsync):
        """Content and slots of each region when just what this fsync acknowledged is there."""
        acked = self.acked[fsync] if fsync >= 0 else [0] * len(HOT)
        for i, version in enumerate(acked):
            if version == self.expected_for[i]:
                continue
            self.expected_for[i] = version
            self.disk.touched.add(i // REGION)
            data, slots = self.expected[i // REGION]
            uid = uid_of(self.versions[HOT[i]][version - 1])
            at = i % REGION
            slots[at] = 0 if uid == DISCARDED else SLOTS[uid]
            data[at * BLOCK:(at + 1) * BLOCK] = (bytes(BLOCK) if uid == DISCARDED else
                                                 content(HOT[i], version, uid))
        return self.expected

    def check(self, disk, marks, possible, nr):
        try:
            path = kc.create(self.name, self.table.replace("DISK", disk))
        except OSError as e:
            self.bad(nr, "not activated: %s" % e)
            return
        try:
            reply = kc.message(self.name, "map 0 %d" % BLOCKS)
            status = kc.status(self.name).split()
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
            fsync = max((int(m[5:]) for m in marks if m.startswith("fsync")), default=-1)
            destroyed = self.check_owners(status[10:], marks, possible, nr)
            slots = self.slots(reply, nr)
            for i, (data, expected) in enumerate(self.expect(fsync)):
                # the same on disk, under the same slots: the same as last time
                if i not in self.disk.touched and self.right[i] == slots[i] and nr % 16:
                    self.seen["old"] += REGION
                    continue
                self.disk.touched.discard(i)
                self.right[i] = slots[i][:]
                self.read_region(fd, i, slots[i], {SLOTS[uid] for uid in destroyed}, nr)
                if slots[i] == expected and self.buf[:] == data:
                    self.seen["old"] += REGION
                    continue
                for at in range(REGION):
                    b = REGIONS[i] + at
                    acked = self.acked[fsync][i * REGION + at] if fsync >= 0 else 0
                    text = self.check_block(b, slots[i][at], self.buf[at * BLOCK:(at + 1) * BLOCK],
                                            acked, destroyed)
                    if text:
                        self.right[i] = None
                        self.bad(nr, "after fsync %d, block %d: %s" % (fsync, b, text))
            os.close(fd)
        except OSError as e:
            self.bad(nr, str(e))
        kc.remove(self.name)

    def read_region(self, fd, i, slots, gone, nr):
        """Reads it into self.buf. Blocks under a slot that is gone must fail; they count as unassigned then."""
        if gone.isdisjoint(slots):
            n = os.preadv(fd, [self.buf], REGIONS[i] * BLOCK)
            assert n == len(self.buf)
            return
        with memoryview(self.buf) as buf:
            for at in range(REGION):
                block = buf[at * BLOCK:(at + 1) * BLOCK]
                try:
                    os.preadv(fd, [block], (REGIONS[i] + at) * BLOCK)
                    if slots[at] in gone:
                        self.bad(nr, "block %d, of a destroyed owner, is read" % (REGIONS[i] + at))
                except OSError as e:
                    if slots[at] not in gone or e.errno != kc.errno.EIO:
                        raise
                    block[:] = bytes(BLOCK)
                    if slots[at] not in [SLOTS.get(uid_of(v)) for v in self.versions[REGIONS[i] + at]]:
                        self.bad(nr, "block %d: slot %d, which never wrote it" % (REGIONS[i] + at, slots[at]))
                    slots[at] = 0

    def slots(self, reply, nr):
        """Of each region, from the reply to map; nothing else may be assigned."""
        slots = [array.array("H", bytes(2 * REGION)) for _ in REGIONS]
        for line in reply.splitlines():
            first, count, slot = map(int, line.split())
            if not slot:
                continue
            at = first - REGIONS[0]
            i, at = at // MAP_BLOCK, at % MAP_BLOCK
            if first < REGIONS[0] or at + count > REGION:
                self.bad(nr, "%d blocks from %d in slot %d were never written" % (count, first, slot))
                continue
            for n in range(at, at + count):
                slots[i][n] = slot
        return slots

    def check_owners(self, owners, marks, possible, nr):
        """Those that were added are there, those destroyed are destroyed. Returns their uids."""
        states = dict((int(o.split(":")[0][1:]), o.split(":")[2]) for o in owners
                      if o.startswith("d"))
        for i in range(CHURN):
            if "added%d" % i in marks and i not in states:
                self.bad(nr, "owner d%d, added, is not there" % i)
            if "adding%d" % i not in possible and i in states:
                self.bad(nr, "owner d%d is there before it was added" % i)
            if "destroyed%d" % i in marks and states.get(i) != "destroyed":
                self.bad(nr, "owner d%d, destroyed, is %s" % (i, states.get(i)))
            if "destroying%d" % i not in possible and states.get(i) == "destroyed":
                self.bad(nr, "owner d%d is destroyed too early" % i)
            if states.get(i) not in (None, "destroyed", "unlocked"):
                self.bad(nr, "owner d%d is %s" % (i, states[i]))
        return {2000 + i for i, state in states.items() if state == "destroyed"}

    def check_block(self, b, slot, data, acked, destroyed):
        versions = self.versions[b]
        free = destroyed | {DISCARDED}
        # every version since the one acknowledged may be there; if there is none, nothing
        left = versions[acked - 1:] if acked else versions
        slots = set().union(*(slots_of(v, free) for v in left))
        if slot == 0:
            if any(data):
                return "unassigned, but not zeros"
            if acked and 0 not in slots:
                return "unassigned, acknowledged was version %d" % acked
            self.seen["zero"] += 1
            return None
        if slot not in slots:
            return "slot %d, which did not write it since version %d" % (slot, acked)
        found = parse(data)
        # Of what was unassigned when it was last flushed, or has been since (discarded, or its owner
        # destroyed), the content is undefined, and may be an old one of the same owner.
        undefined = not acked or not free.isdisjoint(map(uid_of, left))
        if undefined and not (found and found[1] >= acked):
            self.seen["undefined"] += 1
            return None
        if not found:
            return "slot %d, acknowledged version %d: content under another key" % (slot, acked)
        if found[0] != b or not acked <= found[1] <= len(versions):
            return "holds %r, acknowledged was version %d" % (found, acked)
        version = versions[found[1] - 1]
        if uid_of(version) != found[2] or slot not in slots_of(version, free):
            return "holds %r in slot %d" % (found, slot)
        self.seen["old" if found[1] == acked else "new"] += 1
        return None


def replay(log, oracle, seed, states, table, workers, only):
    """Each worker in a process of its own."""
    start = time.monotonic()
    pipes = []
    for nr, worker in enumerate(workers):
        r, w = os.pipe()
        if not os.fork():
            disk, rec_log = worker.split(":")
            result = Replay(log, oracle, seed, states, table, disk, rec_log, nr, len(workers),
                            only).run()
            os.write(w, json.dumps(result).encode())
            sys.stdout.flush()
            os._exit(0)
        os.close(w)
        pipes.append(r)
    made = again = failed = 0
    seen = {}
    for r in pipes:
        with open(r, "rb") as f:
            text = f.read()
        if not text:
            print("# a worker did not end")
            failed += 1
            continue
        result = json.loads(text)
        made, again, failed = made + result[0], again + result[1], failed + result[2]
        for key, value in result[3].items():
            seen[key] = seen.get(key, 0) + value
    if only is None and made != states:
        print("# %d states made, not %d" % (made, states))
        failed += 1
    print("# seed %d: %d states, %d of them with a crash during recovery, %d violations, in %d s; "
          "blocks %s" % (seed, made, again, failed, time.monotonic() - start, seen))
    return failed


def main():
    if sys.argv[1] == "load":
        log_target, name, device, oracle, seed, ops = sys.argv[2:]
        Load(log_target, name, device, int(seed), int(ops)).run(oracle)
        return 0
    args = sys.argv[2:]
    only = None
    if "--" in args:
        only = int(args.pop())
        args.pop()
    log, oracle, seed, states, table = args[:5]
    with open(table, encoding="ascii") as f:
        table = f.read()
    return 1 if replay(log, oracle, int(seed), int(states), table, args[5:], only) else 0


sys.exit(main())
