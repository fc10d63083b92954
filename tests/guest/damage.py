#!/usr/bin/python3
# See 60-damage.t.
#
#	damage.py SEED IMAGES [FIRST]
#
# Image n is made by the random numbers of seed and n alone, so FIRST = n and IMAGES = 1 make it again.
#
# SPDX-License-Identifier: GPL-2.0-only

import collections
import errno
import hashlib
import itertools
import os
import random
import re
import struct
import sys
import time

import kc
import kcformat as f
from kcformat import BLOCK, SECTOR

DATA, META = "/dev/ram0", "/dev/ram1"
META_REGION, DATA_REGION = 8 << 20, 64 << 20
UIDS = {0: 1, 1000: 2, 1001: 3, 1002: 4}  # whose writes have which slot
KINDS = {f.OWNER: "owner table", f.ANCHOR: "anchor", f.JOURNAL: "journal", f.STATE: "map state", f.MAP: "key map"}
log = kc.Log()
key_bytes = {}
seed, images = int(sys.argv[1]), int(sys.argv[2])
first = int(sys.argv[3]) if len(sys.argv) > 3 else 0


class Base:
    """A metadata area in order, its data, and what is true about it."""
    number = 0

    def __init__(self, name, nr_blocks=4 * f.ENTRIES - 100, sector_size=4096, owner_blocks=1, same=False, formatted=False,
                 opts=()):
        self.name = name
        self.nr = Base.number
        Base.number += 1
        self.nr_blocks = nr_blocks
        self.sector_size = sector_size
        self.meta = data if same else meta
        self.meta_at = self.nr * (DATA_REGION if same else META_REGION)
        self.data_at = self.nr * DATA_REGION + META_REGION
        self.same = same
        self.opts = list(opts)          # of the table an image is activated with
        self.truth = {}
        self.versions = collections.Counter()
        self.older = None
        if not formatted:
            image = f.make_area(key_bytes["root"], nr_blocks, owner_blocks, sector_size=sector_size)
            self.meta.write(self.meta_at, image)
            self.size = len(image)
        else:
            self.size = f.Layout(nr_blocks, 128, 256).end * BLOCK
        self.path = DATA if same else META
        self.oracle = f.Device(key_bytes["root"], nr_blocks, sector_size, data=self.ciphertext)
        self.raw = {}

    def table_line(self, meta_device, meta_offset):
        opts = ["owner:uid", "meta_offset:%d" % meta_offset] + self.opts
        if not self.same:
            opts.append("meta_device:" + meta_device)
        if self.sector_size != 4096:
            opts.append("sector_size:%d" % self.sector_size)
        return "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:root 0 %s %d %d %s" % (
            self.nr_blocks * self.sector_size // SECTOR, DATA, self.data_at // SECTOR, len(opts), " ".join(opts))

    def room(self):
        """Area blocks there is room for."""
        return (META_REGION if self.same else rd_bytes - self.meta_at) // BLOCK

    def ciphertext(self, block):
        if block not in self.raw:
            self.raw[block] = data.read(self.data_at + block * self.sector_size, self.sector_size)
        return self.raw[block]

    # making it

    def open(self, new=False):
        opts, self.opts = self.opts, []
        self.dev = kc.Disk(kc.create("base", self.table_line(self.path, self.meta_at // SECTOR), new=new))
        self.opts = opts

    def close(self):
        self.dev.close()
        kc.remove("base")

    def write(self, block, uid, count=1):
        new = {}
        for b in range(block, block + count):
            self.versions[b] += 1
            head = b"base %2d block %8d version %4d slot %d  " % (self.nr, b, self.versions[b], UIDS[uid])
            new[b] = UIDS[uid], (head * (self.sector_size // len(head) + 1))[:self.sector_size]
        kc.libc.setfsuid(uid)
        self.dev.write(block * self.sector_size, b"".join(text for _, text in new.values()))
        kc.libc.setfsuid(0)
        self.truth.update(new)

    def commit(self):
        kc.message("base", "commit")

    def owners(self, nr=0):
        for n, who in enumerate(("alice", "bob", "carol")):
            kc.message("base", "owner add %s %d :64:logon:kc:%s" % (who, 1000 + n, who))
        for n in range(nr):
            kc.message("base", "owner add more-%d %s :64:logon:kc:more-%d" %
                       (n, "-" if n % 5 == 0 else "%d-%d,%d" % (2000 + n * 20, 2009 + n * 20, 2015 + n * 20), n))

    def destroy(self, who):
        slot = next(int(row.split()[1]) for row in kc.message("base", "owner list").split("\n") if row.startswith(who))
        kc.message("base", "owner destroy " + who)
        self.truth = {b: true for b, true in self.truth.items() if true[0] != slot}

    def some_writes(self, rng, nr, commits=False):
        """Near the ends of map blocks, and over them."""
        for _ in range(nr):
            count = rng.choice((1, 1, 2, 3, 7))
            near = rng.choice((10, f.ENTRIES, f.ENTRIES, 3 * f.ENTRIES, self.nr_blocks - 20))
            self.write(near + rng.randrange(-10, 10), rng.choice(list(UIDS)), count)
            if commits and rng.random() < 0.4:
                self.commit()

    def read_area(self):
        return self.meta.read(self.meta_at, self.size)

    def freeze_older(self):
        self.older = self.read_area()

    def freeze(self):
        self.image = self.read_area()
        self.oracle.open(self.image, self.room())
        for b, (slot, _) in self.truth.items():
            entries = self.oracle.entries(b // f.ENTRIES)
            assert entries[b % f.ENTRIES] == slot, "%s, block %d: slot %d on disk, %d in truth" % (
                self.name, b, entries[b % f.ENTRIES], slot)
        self.true_entries = [self.oracle.entries(n) for n in range(self.oracle.layout.map_blocks)]
        assigned = sum(slot != 0 and slot not in self.oracle.destroyed for entries in self.true_entries for slot in entries)
        assert assigned == len(self.truth), "%s: %d blocks assigned on disk" % (self.name, assigned)
        self.layout = self.oracle.layout
        self.keys = self.oracle.k
        self.slots = sorted(self.oracle.owners)
        self.checks = {slot: owner["check"] for slot, owner in self.oracle.owners.items()}
        self.tail, self.end = self.oracle.tail, self.oracle.end
        self.written = [n for n in range(self.layout.map_blocks) if self.oracle.state[n // 8] >> n % 8 & 1] or [0]
        kc.diag("%s: %d area blocks, %d owners, %d blocks assigned, journal %d to %d%s" %
                (self.name, self.size // BLOCK, len(self.oracle.owners), assigned, self.tail, self.end,
                 ", clean" if self.oracle.clean else ""))

    def crash(self, rng, intents=0):
        """Takes image and data as they are now, lets the device go, and puts them back. Intents are pending for so many
        writes to blocks of others, and every second of these blocks has not reached the disk."""
        before = {b: (self.truth[b], self.ciphertext_now(b)) for b in self.truth}
        pending = []
        if intents:
            self.commit()
            time.sleep(5.2)             # a timer that is running would log them as done
        for _ in range(intents):
            b = rng.choice([b for b in sorted(self.truth) if b % f.ENTRIES < f.ENTRIES - 5 and b not in pending])
            run = [b]
            while run[-1] + 1 in self.truth and len(run) < 5 and run[-1] + 1 not in pending:
                run.append(run[-1] + 1)
            self.write(b, next(u for u in UIDS if UIDS[u] != self.truth[b][0]), len(run))
            pending += run
        area = self.read_area()
        kept = {b: self.ciphertext_now(b) for b in self.truth}
        for b in pending[::2]:
            self.truth[b], kept[b] = before[b]
        self.close()
        self.meta.write(self.meta_at, area)
        for b, text in kept.items():
            data.write(self.data_at + b * self.sector_size, text)

    def ciphertext_now(self, b):
        return data.read(self.data_at + b * self.sector_size, self.sector_size)


def make_bases():
    rng = random.Random("bases %d" % seed)

    clean = Base("clean")
    clean.open()
    clean.owners()
    clean.some_writes(rng, 20)
    clean.close()
    clean.freeze_older()
    clean.open()
    clean.some_writes(rng, 12)
    clean.close()

    def dirty(base):
        base.open()
        base.owners()
        base.some_writes(rng, 10)
        base.close()
        base.freeze_older()
        base.open()
        base.some_writes(rng, 18, commits=True)
        base.crash(rng, 1)              # with metadata elsewhere, the next intent's commit settles the one before
        return base

    def wrapped(base):
        base.open()
        base.owners()
        base.some_writes(rng, 10)
        while True:
            base.some_writes(rng, 1)
            base.commit()
            generation, used = (int(word) for word in re.split("[ /]", kc.status("base"))[4:6])
            if generation == 120:
                base.freeze_older()
            if generation > 128 and 8 < generation % 128 < used - 4:
                break
        base.crash(rng)
        return base

    many = Base("many owners", owner_blocks=8)
    many.open()
    many.owners(45)
    many.some_writes(rng, 10)
    many.freeze_older()
    many.some_writes(rng, 5, commits=True)
    many.destroy("carol")
    many.close()

    formatted = Base("formatted by the module, on the data device", same=True, formatted=True)
    formatted.open(new=True)
    formatted.owners(2)
    formatted.some_writes(rng, 12, commits=True)
    formatted.freeze_older()
    formatted.some_writes(rng, 4)
    formatted.crash(rng, 4)

    # more changed map blocks than a small cache holds: recovery writes back as it goes
    wide = Base("small cache", nr_blocks=110 * f.ENTRIES, sector_size=512, opts=["meta_cache:1"])
    wide.open()
    wide.owners()
    for n in range(0, 110, 2):
        wide.write(n * f.ENTRIES + n, 1000 + n % 3)
    wide.close()
    wide.freeze_older()
    wide.open()
    for n in range(110):
        wide.write(n * f.ENTRIES + f.ENTRIES // 2 + n, 1000 + n % 3, 2)
    wide.commit()
    wide.crash(rng)

    bases = [clean, dirty(Base("dirty")), wrapped(Base("wrapped journal")), many, dirty(Base("sectors of 512", sector_size=512)),
             formatted, wide]
    for base in bases:
        base.freeze()
    return bases, (12, 24, 12, 8, 12, 2, 1)


# --- damage ---------------------------------------------------------------------------------------

class Image:
    """A damaged copy of a base."""

    def __init__(self, base, others, rng):
        self.base = base
        self.others = others
        self.rng = rng
        self.data = bytearray(base.image)
        self.what = []
        self.authentic = False          # somebody with the device key has been here
        self.older = False              # or has put something back to what it was
        self.room = base.room()
        self.cut = None

    def say(self, text, *args):
        self.what.append(text % args)

    def pick(self):
        """An area block, of a kind that is read."""
        rng, layout = self.rng, self.base.layout
        live = list(range(self.base.tail, self.base.end)) or [self.base.end]
        return rng.choice((
            lambda: rng.choice(f.SUPERS),
            lambda: f.OWNER_START + rng.randrange(layout.owner_blocks),
            lambda: layout.anchor,
            lambda: layout.journal + rng.choice(live) % layout.journal_blocks,
            lambda: layout.journal + rng.choice(live) % layout.journal_blocks,
            lambda: layout.journal + (self.base.end + rng.randrange(3)) % layout.journal_blocks,
            lambda: layout.state,
            lambda: layout.map + rng.choice(self.base.written),
            lambda: layout.map + rng.choice(self.base.written),
            lambda: rng.randrange(layout.end)))()

    def place(self):
        """Bytes of a sector or a block."""
        block = self.pick()
        if self.rng.random() < 0.5:
            return block * BLOCK, BLOCK
        sector = 0 if block in f.SUPERS and self.rng.random() < 0.8 else self.rng.randrange(8)
        return block * BLOCK + sector * SECTOR, SECTOR

    def put(self, at, text):
        self.data[at:at + len(text)] = text

    def name(self, at):
        block = at // BLOCK
        kind = KINDS.get(self.base.layout.kind_of(block), "superblock" if block in f.SUPERS else "unused block")
        return "sector %d (%s)" % (at // SECTOR, kind)

    # without the key

    def flip(self):
        at, size = self.place()
        if at // BLOCK in f.SUPERS and size == BLOCK:
            size = SECTOR if self.rng.random() < 0.8 else BLOCK
        bits = [self.rng.randrange(size * 8) for _ in range(self.rng.choice((1, 1, 1, 2, 8, 100)))]
        for bit in bits:
            self.data[at + bit // 8] ^= 1 << bit % 8
        self.say("%d bits flipped in %s, first %d", len(bits), self.name(at), bits[0])

    def fill(self):
        at, size = self.place()
        size = min(size * self.rng.choice((1, 1, 1, 2, 5)), len(self.data) - at)
        how, text = self.rng.choice((("zeros", bytes(size)), ("ones", b"\xff" * size), ("garbage", self.rng.randbytes(size))))
        self.put(at, text)
        self.say("%s in %d bytes from %s", how, size, self.name(at))

    def copy(self):
        """Over another place; or the two change places."""
        at, size = self.place()
        to, _ = self.place()
        to -= to % size
        mine, theirs = bytes(self.data[at:at + size]), bytes(self.data[to:to + size])
        self.put(to, mine)
        swap = self.rng.random() < 0.5
        if swap:
            self.put(at, theirs)
        self.say("%d bytes of %s %s %s", size, self.name(at), "swapped with" if swap else "copied to", self.name(to))

    def foreign(self):
        """From another area, most often the same place."""
        other = self.rng.choice(self.others)
        at, size = self.place()
        start = at if self.rng.random() < 0.7 else self.rng.randrange(other.size // size) * size
        text = other.image[start:start + size]
        self.put(at, text)
        self.say("%d bytes of '%s' from %d in %s", len(text), other.name, start // SECTOR, self.name(at))

    def old(self):
        """From an older image of the area: in the same place not detected, in another place as any other data."""
        at, size = self.place()
        start = at if self.rng.random() < 0.5 else self.rng.randrange(self.base.size // size) * size
        self.older |= start == at
        self.put(at, self.base.older[start:start + size])
        self.say("%d older bytes of sector %d in %s", size, start // SECTOR, self.name(at))

    def torn(self):
        """Some sectors of a block are older, or garbage."""
        at = self.pick() * BLOCK
        older = self.rng.random() < 0.4
        self.older |= older
        which = [s for s in range(8) if self.rng.random() < 0.5] or [0]
        for s in which:
            start = at + s * SECTOR
            self.put(start, self.base.older[start:start + SECTOR] if older else self.rng.randbytes(SECTOR))
        self.say("%s sectors %s of the block of %s", "older" if older else "garbage", which, self.name(at))

    def no_super(self):
        for place in f.SUPERS:
            self.put(place * BLOCK, bytes(BLOCK))
        self.say("both superblocks zeroed")

    def truncate(self):
        if self.base.same:
            self.flip()
            return
        self.cut = self.rng.choice((8, 16 * 8, 32 * 8, 33 * 8, self.base.size // SECTOR - 1, self.base.size // SECTOR,
                                    self.rng.randrange(1, self.base.size // SECTOR)))
        self.room = self.cut // 8
        self.say("device of %d sectors", self.cut)

    def super_field(self, sealed=False):
        """A field of one or both superblocks with another value, and the right checksum."""
        rng = self.rng
        places = rng.choice((f.SUPERS, f.SUPERS, f.SUPERS[:1], f.SUPERS[1:]))
        field = rng.choice(f.SUPER_FIELDS[:-2 if sealed else -1])
        s = f.super_parse(self.base.image)
        old = s[field]
        if isinstance(old, bytes):
            new = bytearray(old)
            if rng.random() < 0.7:
                new[rng.randrange(len(new))] ^= 1 << rng.randrange(8)
            else:
                new[:] = rng.randbytes(len(new))
            new = bytes(new)
        else:
            top = U64 if field in ("iv_offset", "nr_blocks") else U32
            values = [0, 1, old + 1, old - 1, old * 2, old ^ 1 << rng.randrange(32), top, rng.randrange(top)]
            values += {"owner_blocks": [8192, 8193], "journal_blocks": [127, 128, 129, 256, 65536, 65537],
                       "nr_blocks": [f.MAX_BLOCKS, f.MAX_BLOCKS + 1, 1 << 63, old + f.ENTRIES],
                       "key_size": [32, 256, 257], "sector_size": [512, 4096, 8192, 513]}.get(field, [])
            new = rng.choice(values) & top
        s[field] = new
        keys = f.Keys(key_bytes["root"], s["salt"], s["uuid"])
        if field in ("salt", "uuid") and sealed and rng.random() < 0.5:
            s["check"] = keys.check
        for place in places:
            if field != "place":
                s["place"] = place
            self.put(place * BLOCK, f.super_pack(s, keys.super if sealed else None))
        self.authentic |= sealed
        self.say("%s of superblock at %s is %r%s", field, places, new, ", authentic" if sealed else "")

    # with the key

    def sealed_super(self):
        self.super_field(True)

    def unit(self, kind, area_block, number, change):
        """Changes the payload of a unit of a block and seals it again."""
        payload = self.base.keys.open_block(kind, area_block, self.base.image)
        size = f.JOURNAL_PAYLOAD if kind == f.JOURNAL else f.UNIT_PAYLOAD
        payload = bytearray(payload[number * size:(number + 1) * size] if payload else size)
        change(payload)
        sector = area_block * 8 + number
        self.put(sector * SECTOR, self.base.keys.seal_unit(kind, sector, bytes(payload)))
        self.authentic = True

    def sealed_owner(self):
        rng = self.rng
        used = self.base.slots
        slot = rng.choice((rng.choice(used), rng.randrange(self.base.layout.owner_blocks * 8), rng.randrange(2)))
        field = rng.choice(("state", "destroyed", "key_size", "key_type", "nr_ids", "name", "check", "desc", "ids", "copy", "garbage"))

        def change(p):
            if field == "copy":
                other = rng.choice(used)
                block = self.base.keys.open_block(f.OWNER, f.OWNER_START + other // 8, self.base.image)
                p[:] = block[other % 8 * f.UNIT_PAYLOAD:][:f.UNIT_PAYLOAD]
            elif field == "destroyed":
                p[:4] = struct.pack("<I", 2)
                if rng.random() < 0.7:
                    p[4:8], p[40:] = bytes(4), bytes(len(p) - 40)
            elif field == "garbage":
                p[:] = rng.randbytes(len(p))
                if rng.random() < 0.7:  # as far as it can be right
                    p[:8] = struct.pack("<IHBB", rng.choice((1, 1, 2)), rng.choice((0, 64, 256)), rng.randrange(1, 5), rng.randrange(33))
                    p[39] = p[199] = 0
            elif field in ("state", "key_size", "key_type", "nr_ids"):
                at, form = {"state": (0, "<I"), "key_size": (4, "<H"), "key_type": (6, "B"), "nr_ids": (7, "B")}[field]
                values = {"state": (0, 1, 2, 3, 1 << 24), "key_size": (0, 1, 32, 256, 257, 65535),
                          "key_type": (0, 1, 2, 3, 4, 5, 255), "nr_ids": (0, 1, 31, 32, 33, 255)}[field]
                struct.pack_into(form, p, at, rng.choice(values))
            elif field == "ids":
                p[7] = nr = rng.randrange(1, 33)
                for i in range(2 * nr):
                    struct.pack_into("<I", p, 200 + 4 * i, rng.choice((0, 1000, 1001, U32, rng.randrange(U32))))
            else:
                at, size = {"name": (8, 32), "check": (40, 32), "desc": (72, 128)}[field]
                text = rng.choice((bytes(size), b"x" * size, rng.randbytes(size), b"alice".ljust(size, b"\0"),
                                   b"kc:bob".ljust(size, b"\0"), b"a\nb %s".ljust(size, b"\0")))
                p[at:at + size] = text

        self.unit(f.OWNER, f.OWNER_START + slot // 8, slot % 8, change)
        self.say("%s of owner slot %d, authentic", field, slot)

    def sealed_anchor(self):
        rng, base = self.rng, self.base
        j = base.layout.journal_blocks
        near = (0, 1, base.tail, base.end, base.tail + 1, base.end - 1, base.end + 1, base.end + j, base.tail + j,
                base.tail + j + 1, f.MAX_SEQ - 8 * j, f.MAX_SEQ + 1, 1 << 63, U64, U64 - j, rng.randrange(U64))
        tail = rng.choice(near)
        durable = rng.choice(near + (tail,) * 5)
        flags = rng.choice((0, 0, 0, 1, 1, 2, 3, 1 << 31))

        def change(p):
            f.ANCHOR_HEAD.pack_into(p, 0, tail & U64, durable & U64, flags)

        self.unit(f.ANCHOR, base.layout.anchor, 0, change)
        self.say("anchor with tail %d, durable %d, flags %d, authentic", tail, durable, flags)

    def record(self):
        rng, base = self.rng, self.base
        n, slots = base.nr_blocks, base.layout.owner_blocks * 8
        kind = rng.choice((1, 1, 1, 2, 2, 0, 3, 255))
        block = rng.choice((0, 1, n - 1, n, f.ENTRIES - 1, rng.randrange(n), rng.choice(list(base.truth)), (1 << 48) - 1))
        count = rng.choice((1, 1, 2, 3, 5, 0, U32, n, 1 << 31, 502, 503, f.ENTRIES))
        if block + count > n and rng.random() < 0.5:
            count = max(n - block, 1)
        slot, old = (rng.choice((0, 1, 2, 3, 4, slots - 1, slots, 65535)) for _ in range(2))
        if kind == 1 and rng.random() < 0.9:
            old = 0
        bits = rng.choice((0,) * 9 + (1 << rng.randrange(48, 56),))
        return f.RECORD.pack(kind << 56 | block | bits, count, slot, old)

    def sealed_journal(self):
        rng, base = self.rng, self.base
        live = list(range(base.tail, base.end)) or [base.end]
        seq = rng.choice(live + [base.end])
        field = rng.choice(("seq", "durable", "nr_records", "record", "record", "record", "more", "garbage"))

        def change(p):
            s, durable, nr, _ = f.JOURNAL_HEAD.unpack_from(p)
            if seq == base.end:
                s, durable, nr = seq, base.end, 0
            if field == "garbage":
                p[:] = rng.randbytes(len(p))
                if rng.random() < 0.7:
                    f.JOURNAL_HEAD.pack_into(p, 0, seq, base.end, rng.randrange(253), bytes(12))
                return
            if field == "seq":
                s = rng.choice((0, seq + 1, seq - 1, seq + base.layout.journal_blocks, U64))
            elif field == "durable":
                durable = rng.choice((0, 1, base.end, base.end + 1, base.end + 2, U64, 1 << 63))
            elif field == "nr_records":
                nr = rng.choice((0, nr - 1, nr + 1, 252, 253, U32)) & U32
            else:
                at = rng.randrange(max(min(nr, 252), 1))
                put = 1 if field == "record" else rng.choice((2, 10, 252))
                for i in range(at, min(at + put, 252)):
                    p[32 + 16 * i:48 + 16 * i] = self.record()
                nr = max(nr, min(at + put, 252))
            f.JOURNAL_HEAD.pack_into(p, 0, s & U64, durable, nr, bytes(12))

        self.unit(f.JOURNAL, base.layout.journal + seq % base.layout.journal_blocks, 0, change)
        self.say("%s of journal block %d, authentic", field, seq)

    def sealed_state(self):
        bits = [self.rng.choice((self.rng.randrange(6), self.rng.randrange(f.STATE_BITS))) for _ in range(self.rng.choice((1, 2, 20)))]
        unit = self.rng.choice((0, 0, 0, 1, 7))

        def change(p):
            for bit in bits:
                p[bit // 8] ^= 1 << bit % 8

        self.unit(f.STATE, self.base.layout.state, unit, change)
        self.say("bits %s of unit %d of the map state, authentic", bits, unit)

    def sealed_map(self):
        rng = self.rng
        slots = self.base.layout.owner_blocks * 8
        index, unit = rng.choice(self.base.written), rng.randrange(8)
        entries = {rng.randrange(f.UNIT_ENTRIES): rng.choice((0, 1, 2, 3, slots - 1, slots, 65535)) for _ in range(rng.choice((1, 3, 10)))}

        def change(p):
            for at, slot in entries.items():
                struct.pack_into("<H", p, 2 * at, slot)

        self.unit(f.MAP, self.base.layout.map + index, unit, change)
        self.say("entries of unit %d of map block %d are %s, authentic", unit, index, entries)

    def damage(self):
        plain = ["flip"] * 6 + ["fill"] * 4 + ["copy"] * 4 + ["foreign"] * 3 + ["old"] * 2 + ["torn"] * 3 + \
            ["no_super", "truncate", "super_field", "super_field", "super_field"]
        sealed = ["sealed_super"] * 2 + ["sealed_owner"] * 3 + ["sealed_anchor"] * 2 + ["sealed_journal"] * 5 + \
            ["sealed_state", "sealed_map", "sealed_map"]
        for _ in range(self.rng.choice((1, 1, 1, 1, 2, 2, 3))):
            getattr(self, self.rng.choice(plain if self.rng.random() < 0.55 else sealed))()


U32, U64 = (1 << 32) - 1, (1 << 64) - 1


# --- what chance may leave out ---------------------------------------------------------------------

def one_by_one(dirty):
    """(what it is, whether it must be refused, what to do to an image): values that only somebody with the device key can
    seal, one at a time."""
    def record(kind, block, count, slot, old):
        def change(p):
            f.JOURNAL_HEAD.pack_into(p, 0, dirty.tail, dirty.tail, 1, bytes(12))
            f.RECORD.pack_into(p, 32, kind << 56 | block, count, slot, old)
        return lambda image: image.unit(f.JOURNAL, image.base.layout.journal + dirty.tail % image.base.layout.journal_blocks, 0, change)

    def owner(form, at, *values):
        def change(p):
            struct.pack_into(form, p, at, *values)
        return lambda image: image.unit(f.OWNER, f.OWNER_START, dirty.slots[0], change)

    def anchor(*values):
        return lambda image: image.unit(f.ANCHOR, image.base.layout.anchor, 0, lambda p: f.ANCHOR_HEAD.pack_into(p, 0, *values))

    def full_journal(image):
        """The last block there is room for is the one before the tail."""
        layout = image.base.layout
        anchor(dirty.tail, dirty.tail, 0)(image)
        for seq in range(dirty.tail, dirty.tail + layout.journal_blocks):
            payload = bytearray(f.JOURNAL_PAYLOAD)
            f.JOURNAL_HEAD.pack_into(payload, 0, seq, dirty.tail, 1, bytes(12))
            f.RECORD.pack_into(payload, 32, f.RECORD_MAP << 56 | f.ENTRIES + seq % 1000, 1, 2 + seq % 2, 0)
            at = layout.journal + seq % layout.journal_blocks
            image.put(at * BLOCK, image.base.keys.seal_unit(f.JOURNAL, at * 8, bytes(payload)))

    def no_slot(image):
        """Entries of slots there are not."""
        image.unit(f.MAP, image.base.layout.map + image.base.written[0], 3,
                   lambda p: struct.pack_into("<3H", p, 20, image.base.layout.owner_blocks * 8, 65535, 2))

    n, slots, j = dirty.nr_blocks, dirty.layout.owner_blocks * 8, dirty.layout.journal_blocks
    t = dirty.tail
    return (
        ("a record that is in order", False, record(1, n - 1, 1, 2, 0)),
        ("a record of no kind", True, record(3, 0, 1, 2, 0)),
        ("a record with a bit too many", True, record(1, 1 << 48, 1, 2, 0)),
        ("a record of a block behind the last", True, record(1, n, 1, 2, 0)),
        ("a record of no blocks", True, record(1, 0, 0, 2, 0)),
        ("a record of one block too many", True, record(1, n - 1, 2, 2, 0)),
        ("a record of 2^32 - 1 blocks", True, record(1, n - 1, U32, 2, 0)),
        ("a record with too high a slot", True, record(1, 0, 1, slots, 0)),
        ("a record with an old slot", True, record(1, 0, 1, 2, 1)),
        ("an intent without its checksums", True, record(2, 0, 1, 2, 3)),
        ("an intent with too high a slot", True, record(2, 0, 1, slots, 3)),
        ("an intent with too high an old slot", True, record(2, 0, 1, 2, slots)),
        ("an owner with an unknown state", True, owner("<I", 0, 3)),
        ("an owner with too long a key", True, owner("<H", 4, 257)),
        ("an owner with a key of no type", True, owner("B", 6, 5)),
        ("an owner with too many ids", True, owner("B", 7, 33)),
        ("an owner whose name has no end", True, owner("32s", 8, b"x" * 32)),
        ("an owner whose key's description has no end", True, owner("128s", 72, b"x" * 128)),
        ("an anchor without a tail", True, anchor(0, t, 0)),
        ("an anchor with a tail behind its end", True, anchor(t + 1, t, 0)),
        ("an anchor with too long a journal", True, anchor(t, t + j + 1, 0)),
        ("an anchor with too high a number", True, anchor(f.MAX_SEQ + 1, f.MAX_SEQ + 1, 0)),
        ("an anchor with an unknown flag", True, anchor(t, t, 2)),
        ("a journal that is full", False, full_journal),
        ("a map with slots there are not", False, no_slot))


def check_counts(trial):
    """owner list counts the blocks of the owners there are."""
    slots = collections.Counter(slot for index, entries in enumerate(trial.entries)
                                for slot in entries[:trial.base.nr_blocks - index * f.ENTRIES])
    rows = [row.split() for row in kc.message("kc", "owner list").split("\n")]
    check([(int(row[1]), int(row[-1])) for row in rows] == [(slot, slots[slot]) for slot in sorted(trial.oracle.owners)],
          "owner list: %s, in the map %s", rows, slots)


def definite(bases):
    dirty = next(base for base in bases if base.name == "dirty")
    for what, refused, do in one_by_one(dirty):
        for rw in True, False:
            image = Image(dirty, [], None)
            do(image)
            trial = Trial(image, rw)
            trial.more = check_counts
            try:
                outcome = trial.run()
            except Wrong as e:
                outcome = "wrong: %s" % e
            kc.ok("%s%s: %s" % (what, ", read-only" * (not rw), "refused" if refused else "accepted"),
                  outcome.startswith("refused" if refused else "accepted"), outcome)


# --- activation -----------------------------------------------------------------------------------

class Wrong(Exception):
    pass


def check(good, text, *args):
    if not good:
        raise Wrong(text % args)


def owner_state(owner, keys):
    """What a status line must say of it."""
    if owner["destroyed"]:
        return b"destroyed"
    who = owner["desc"].decode("latin-1")
    if owner["key_type"] != "logon" or not who.startswith("kc:") or who[3:] not in key_bytes:
        return b"locked"
    if owner["key_size"] != 64 or f.hkdf(key_bytes[who[3:]], keys.salt, 1, keys.uuid, 32) != owner["check"]:
        return b"wrong-key"
    return b"unlocked"


class Trial:
    """One damaged image is activated."""
    dev = None

    def more(self, _):
        """What else is to be checked."""

    def __init__(self, image, rw, new=False):
        self.image = image
        self.base = image.base
        self.oracle = self.base.oracle
        self.rw = rw
        self.new = new                  # with format in its table, which must never be taken
        self.table = self.base.table_line(self.base.path, self.base.meta_at // SECTOR)

    def changed_blocks(self, a, b):
        """Runs of area blocks that differ."""
        at = 0
        while at < self.base.size:
            if a[at:at + BLOCK] == b[at:at + BLOCK]:
                at += BLOCK
                continue
            end = at + BLOCK
            while end < self.base.size and a[end:end + BLOCK] != b[end:end + BLOCK]:
                end += BLOCK
            yield at, end
            at = end

    def write(self, old, new):
        for at, end in self.changed_blocks(old, new):
            self.base.meta.write(self.base.meta_at + at, new[at:end])

    def run(self):
        """Returns what has become of it."""
        image, base = self.image, self.base
        want = None
        try:
            self.oracle.open(bytes(image.data), image.room, self.rw, self.new)
        except f.Refused as e:
            want = str(e)
        self.write(base.image, image.data)
        if image.cut:
            cut = kc.create("cut", "0 %d linear %s %d" % (image.cut, META, base.meta_at // SECTOR))
            self.table = base.table_line(cut, 0)
        log.new()
        try:
            outcome = self.activate(want)
        finally:
            after = base.read_area()
            if image.cut:
                kc.remove("cut")
            self.write(after, base.image)
        if outcome != "accepted" or not self.rw:
            check(after == image.data, "the area was written: sectors %s",
                  [(a // SECTOR, b // SECTOR) for a, b in self.changed_blocks(image.data, after)])
        else:
            self.check_after(after)
            if image.damaged_super:
                return "accepted, superblock mended"
            if self.bad_blocks:
                return "accepted, with bad map blocks"
            if self.lost:
                return "accepted, older or shorter journal"
        return outcome

    def activate(self, want):
        if not Trial.dev:               # one without a table, of the last image that was refused, does as well
            Trial.dev = kc.dm(kc.DEV_CREATE, "kc")[0]
        refused = False
        try:
            try:
                kc.load("kc", kc.formats(self.table) if self.new else self.table, not self.rw)
            except OSError as e:
                refused = True
                lines = [m[1] for m in (re.search("table: .*keyed-crypt: (.*)", line) for line in log.new()) if m]
                check(want is not None, "refused (%s): %s", e, lines)
                check(len(lines) == 1 and re.search(want, lines[0]), "refused with %s, expected: %s", lines, want)
                check(e.errno in (errno.EINVAL, errno.EBADMSG, errno.ENOSPC, errno.EROFS, errno.EKEYREJECTED),
                      "refused with %s", e)
                return "refused: " + re.sub("[0-9]+", "N", re.sub("^metadata was made with.*", "other parameters", want))
            check(want is None, "accepted, expected: %s", want)
            kc.resume("kc")
            self.path = kc.node(Trial.dev)
            self.check_map()
            self.check_owners()
            self.check_data()
            self.more(self)
        finally:
            if not refused:
                kc.dm(kc.DEV_REMOVE, "kc")
                Trial.dev = None
        return "accepted"

    def check_map(self):
        """As the oracle has it; and that is the truth, but for what the threat model names."""
        oracle, base = self.oracle, self.base
        self.image.damaged_super = oracle.damaged_super
        self.entries = []
        for index in range(base.layout.map_blocks):
            start = index * f.ENTRIES
            entries = oracle.entries(index)
            self.entries.append(entries)
            nr = min(f.ENTRIES, base.nr_blocks - start)
            try:
                reply = kc.message("kc", "map %d %d" % (start, nr))
            except OSError as e:
                check((entries is None or index in oracle.lost) and e.errno in (errno.EIO, errno.EBADMSG),
                      "map block %d: %s", index, e)
                continue
            check(entries is not None, "map block %d is damaged, and read as %s", index, reply)
            got = []
            for line in reply.split("\n"):
                block, count, slot = (int(word) for word in line.split())
                check(block == start + len(got), "map: %s", line)
                got += [slot] * count
            if index in oracle.lost:
                check(all(g >= oracle.nr_slots or g == e for g, e in zip(got, entries)), "lost map block %d: %s", index, got)
                continue
            check(got == entries[:nr], "map block %d: %s", index,
                  [(start + i, g, e) for i, (g, e) in enumerate(zip(got, entries)) if g != e][:10])
        self.bad_blocks = [n for n, e in enumerate(self.entries) if e is None]
        self.lost = False
        for index, entries in enumerate(self.entries):
            if entries == base.true_entries[index]:
                continue
            for i, slot in enumerate(entries or ()):
                block = index * f.ENTRIES + i
                true = base.truth[block][0] if block in base.truth else base.true_entries[index][i]
                if slot != true and slot is not None:
                    self.lost = True
                    check(self.image.authentic or self.image.older or oracle.end < base.end,
                          "block %d: slot %d, in truth %d", block, slot, true)

    def check_owners(self):
        data = kc.dm(kc.TABLE_STATUS, "kc")[3][kc.SPEC.size:].split(b"\0", 1)[0]
        self.unlocked = {1}
        text = b""
        keys = collections.namedtuple("Keys", "salt uuid")(self.base.image[48:80], self.base.image[32:48])
        for slot, owner in sorted(self.oracle.owners.items()):
            state = owner_state(owner, keys)
            if state == b"unlocked":
                self.unlocked.add(slot)
            text += b" %s:%d:%s" % (owner["name"], slot, state)
        words = data.split(b" ", 6)
        check(words[0] == (b"rw" if self.rw else b"ro"), "status: %r", data)
        check(words[6].endswith(b"%d%s" % (len(self.oracle.owners), text)), "status: %r, expected %r", data, text)

    def check_data(self):
        base, size = self.base, self.base.sector_size
        blocks = set(base.truth)
        self.checks = {slot: owner["check"] for slot, owner in self.oracle.owners.items()}
        more = (index * f.ENTRIES + i for index, entries in enumerate(self.entries) if entries != base.true_entries[index]
                for i, slot in enumerate(entries or ()) if slot)
        blocks.update(b for b in itertools.islice(more, 100) if b < base.nr_blocks)
        blocks.update(b + 1 for b in list(blocks)[:5] if b + 1 < base.nr_blocks)

        def expected(b):
            """The content; None: an error; "any": garbage, but no error."""
            entries = self.entries[b // f.ENTRIES]
            slot = entries and entries[b % f.ENTRIES]
            if slot == 0:
                return bytes(size)
            if slot not in self.unlocked:
                return None
            true = base.truth.get(b)
            same_key = self.checks.get(slot) == base.checks.get(slot)
            return true[1] if true and true[0] == slot and same_key else "any"

        disk = kc.Disk(self.path, os.O_RDWR if self.rw else os.O_RDONLY)
        try:
            run = []
            for b in sorted(blocks) + [None]:
                want = b is not None and expected(b)
                if run and (b != run[-1][0] + 1 or want is None or run[-1][1] is None or b % f.ENTRIES == 0):
                    self.check_run(disk, run)
                    run = []
                run.append((b, want))
            for index in self.bad_blocks[:1]:
                try:
                    if self.rw:
                        disk.write(index * f.ENTRIES * size, bytes(size))
                        raise Wrong("a block of bad map block %d was written" % index)
                except OSError as e:
                    check(e.errno == errno.EIO, "write to a bad map block: %s", e)
        finally:
            disk.close()

    def check_run(self, disk, run):
        start, size = run[0][0], self.base.sector_size
        try:
            got = disk.read(start * size, len(run) * size)
        except OSError as e:
            check(e.errno == errno.EIO and (run[0][1] is None or start // f.ENTRIES in self.oracle.lost), "blocks %d to %d: %s", start, run[-1][0], e)
            return
        for n, (b, want) in enumerate(run):
            text = got[n * size:(n + 1) * size]
            check(want is not None, "block %d was read: %r", b, text[:50])
            check(want == "any" or text == want, "block %d: %r, expected %r", b, text[:50], want[:50])

    def check_after(self, after):
        """What a device that has gone leaves: a clean journal, and the same map."""
        oracle, before = self.oracle, self.entries
        owners, lost = dict(oracle.owners), oracle.lost
        try:
            oracle.open(after, self.image.room)
        except f.Refused as e:
            raise Wrong("left what will be refused: %s" % e) from e
        check(oracle.clean, "left an unclean journal")
        check(not oracle.damaged_super, "left a bad superblock")
        check(oracle.owners == owners, "left other owners")
        for index, entries in enumerate(before):
            if index not in lost:
                check(oracle.entries(index) == entries, "left another map block %d", index)


def main():
    global meta, data, rd_bytes
    kc.join_session()
    for who in ["root", "alice", "bob", "carol"] + ["more-%d" % n for n in range(45)]:
        key_bytes[who] = hashlib.shake_256(("%d %s" % (seed, who)).encode()).digest(64)
        kc.add_key("logon", "kc:" + who, key_bytes[who])
    rd_bytes = kc.size_of(META)
    meta, data = kc.Disk(META), kc.Disk(DATA)
    bases, weights = make_bases()
    marks = [data.read(base.data_at, 4 << 20) for base in bases]
    seen, wrong, start = collections.Counter(), 0, time.monotonic()
    for nr in range(first, first + images):
        rng = random.Random("%d %d" % (seed, nr))
        base = rng.choices(bases, weights)[0]
        image = Image(base, [b for b in bases if b is not base], rng)
        image.damage()
        rw = rng.random() < 0.8
        new = rng.random() < 0.05
        try:
            seen[Trial(image, rw, new).run()] += 1
        except Wrong as e:
            wrong += 1
            if wrong <= 20:
                kc.diag("image %d, '%s', %s%s, %s: %s" % (nr, base.name, "rw" if rw else "ro", ", format" * new,
                                                       "; ".join(image.what), e))
    spent = time.monotonic() - start
    definite(bases)
    if Trial.dev:
        kc.remove("kc")
    kc.diag("seed %d: %d images in %d s, %d ms each" % (seed, images, spent, spent * 1000 / images))
    for what, n in sorted(seen.items()):
        kc.diag("%5d %s" % (n, what))
    kc.equal("%d damaged images: refused and not written, or with the right map, owners and data" % images, wrong, 0)
    kc.ok("and no data was written", marks == [data.read(base.data_at, 4 << 20) for base in bases])
    kc.done()


main()
