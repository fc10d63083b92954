#!/usr/bin/python3
# See 61-unreadable.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import re

import kc
import kcformat as f

DATA, META, COW = "/dev/disk/kc/data", "/dev/disk/kc/meta", "/dev/disk/kc/cow"
BLOCK = 4096
LENGTH, META_LENGTH = 64 << 11, 8192
KEYS = {who: os.urandom(64) for who in ("root", "alice", "bob")}
UIDS = {1: None, 2: 1000, 3: 1001}
LAYOUT = f.Layout(LENGTH // 8, 1, 128)
log = kc.Log()


def with_bad(disk, length, bad):
    """Table of a disk some of whose blocks cannot be read, nor written."""
    rows, at = [], 0
    for b in sorted(bad):
        rows += [(at, b * 8 - at, "linear %s %d" % (disk, at)), (b * 8, 8, "error")]
        at = b * 8 + 8
    rows.append((at, length - at, "linear %s %d" % (disk, at)))
    return "\n".join("%d %d %s" % row for row in rows if row[1])


def bad_data(*blocks):
    kc.reload("data", with_bad(DATA, LENGTH, blocks))


def bad_meta(*area_blocks):
    kc.reload("meta", with_bad(META, META_LENGTH, area_blocks))


def table():
    return kc.separate(LENGTH, data, meta)


def text(slot, block, version=0):
    return (b"%d %8d %2d " % (slot, block, version)).ljust(32, b".") * (BLOCK // 32)


def put(block, slot=1, version=0):
    kc.write(dev, block * BLOCK, text(slot, block, version), uid=UIDS[slot])


def get(block):
    """What a block has: (slot, version), None for an error, 0 for zeros, "other" for what nobody wrote there."""
    try:
        found = kc.read(dev, block * BLOCK, BLOCK)
    except OSError as e:
        return None if e.errno == kc.errno.EIO else e.errno
    if not any(found):
        return 0
    for slot in UIDS:
        for version in range(4):
            if found == text(slot, block, version):
                return slot, version
    return "other"


def slots(first, count):
    try:
        rows = kc.message("kc", "map %d %d" % (first, count)).split("\n")
    except OSError as e:
        return kc.ERRNO[e.errno]
    return [slot for row in rows for _, n, slot in [map(int, row.split())] for _ in range(n)]


def said(regex):
    return [line for line in log.new() if re.search("keyed-crypt.*" + regex, line)]


def opened():
    global dev
    kc.write(META, 0, bytes(f.make_area(KEYS["root"], LENGTH // 8)))
    dev = kc.create("kc", table())
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")


def used():
    return int(kc.status("kc").split()[5].split("/")[0])


def crashed():
    """The device goes as in a crash; returns what there was, for further crashes."""
    copy = kc.read(META, 0, META_LENGTH << 9)
    kc.remove("kc")
    return copy


def open_again(name, copy, ro=False):
    """Opens what a crash has left; True if that succeeds."""
    global dev
    if isinstance(copy, dict):
        for b, was in copy.items():
            kc.write(meta, b * BLOCK, was)
    elif copy:
        kc.write(META, 0, copy)
    log.new()
    error = kc.errno_of(kc.create, "kc", table(), ro)
    if kc.equal("%s, %s: the device opens" % (name, "read-only" if ro else "read-write"), error, "none"):
        dev = kc.node(kc.dm(kc.DEV_STATUS, "kc")[0])
        return True
    return False


def healing_meta(area_block):
    """One that cannot be read until it has been written, as on a real disk."""
    size = META_LENGTH
    kc.create("broken", with_bad(META, size, (area_block,)))
    kc.zero(COW, 0, 1 << 20)
    kc.reload("meta", "0 %d snapshot %s %s N 8" % (size, kc.node(kc.dm(kc.DEV_STATUS, "broken")[0]), COW))


def image_of(path):
    """Of the metadata; without what cannot be read."""
    blocks = {}
    for b in range(LAYOUT.end):
        try:
            blocks[b] = kc.read(path, b * BLOCK, BLOCK)
        except OSError:
            pass
    return blocks


def mend():
    bad_data()
    bad_meta()
    if kc.errno_of(kc.dm, kc.DEV_STATUS, "broken") == "none":
        kc.remove("broken")


# ---- what cannot be read ----

def intent():
    """A block that was given to another owner in an intent, and cannot be compared with it."""
    opened()
    for b in range(100, 104):
        put(b, 2)
    kc.message("kc", "commit")
    # in one write: the intent of another would settle it
    kc.write(dev, 100 * BLOCK, b"".join(text(3, b, 1) for b in range(100, 104)), uid=1001)
    copy = crashed()
    kept = kc.read(DATA, 100 * BLOCK, 4 * BLOCK)
    for ro in True, False:
        bad_data(101)
        name = "a data block named by an intent"
        if open_again(name, copy, ro):
            name += ", read-only" * ro
            kc.ok(name + ": the log says which", said(r"\b101\b"))
            kc.equal(name + ": it keeps its old slot", slots(100, 4), [3, 2, 3, 3])
            kc.equal(name + ": the others are read", [get(b) for b in (100, 101, 102, 103)], [(3, 1), None, (3, 1), (3, 1)])
            mend()
            if not ro:
                put(101, 3, 2)
                kc.equal(name + ": with the disk well it may be written", get(101), (3, 2))
            kc.remove("kc")
        mend()
    kc.write(DATA, 100 * BLOCK, kept)


def journal():
    """A journal block: not there; if it is known to have been durable, the table is refused, unless it is read-only."""
    opened()
    put(0, 2)
    put(2000, 2)
    kc.remove("kc")
    globals()["dev"] = kc.create("kc", table())
    for n in range(1, 7):
        put(n, 1)
        kc.message("kc", "commit")
    end = int(kc.status("kc").split()[4]) + 1
    tail = end - used()
    copy = crashed()
    at = [LAYOUT.journal + seq % 128 for seq in range(tail, end + 16)]
    n = end - tail
    for name, bad, there in (("a journal block behind the last one", at[n + 4], 6), ("the place of the next journal block", at[n], 6),
                             ("the last journal block", at[n - 1], 5)):
        for ro in True, False:
            bad_meta(bad)
            if open_again(name, copy, ro):
                kc.equal(name + ", read-only" * ro + ": all before is there", [get(b) for b in [0, 2000] + list(range(1, 7))],
                         [(2, 0)] * 2 + [(1, 0)] * there + [0] * (6 - there))
                mend()
                if not ro:
                    put(8, 1)
                    kc.equal(name + ": and it goes on", kc.errno_of(kc.message, "kc", "commit"), "none")
                kc.remove("kc")
            mend()
    name = "a journal block that others say was durable"
    bad_meta(at[n - 3])
    kc.write(META, 0, copy)
    log.new()
    error = kc.errno_of(kc.create, "kc", table())
    if error == "none":
        kc.remove("kc")
    kc.equal(name + ", read-write: refused", error, "EIO")
    kc.ok(name + ": the log says which", said("journal block %d cannot be read: all up to" % (end - 3)))
    if open_again(name, copy, True):
        kc.equal(name + ", read-only: what the journal does not name is read", [get(0), get(2000)], [(2, 0)] * 2)
        kc.ok(name + ", read-only: the rest is right, or not there", all(get(b) in ((1, 0), 0, None) for b in range(1, 7)),
              [get(b) for b in range(1, 7)])
        kc.remove("kc")
    mend()


def map_block():
    """A map block that the journal has changes of: 1,920 blocks cannot be read, or just those the journal names."""
    opened()
    old = {0: 2, 1: 1, 2000: 2, 2001: 1, 2002: 2, 4000: 3}
    for b, slot in old.items():
        put(b, slot)
    kc.remove("kc")
    globals()["dev"] = kc.create("kc", table())
    new = {1: 3, 3: 1, 2001: 3, 2002: 2, 2010: 2, 4001: 2}
    for b, slot in new.items():
        put(b, slot, 1)
    kc.message("kc", "commit")
    copy = crashed()
    kept = {b: kc.read(DATA, b * BLOCK, BLOCK) for b in list(old) + list(new)}
    truth = {b: (slot, 0) for b, slot in old.items()}
    truth.update({b: (slot, 1) for b, slot in new.items()})
    inside = [b for b in truth if b // f.ENTRIES == 1]
    for what in "cannot be read", "is damaged":
        for ro in True, False:
            for b, ciphertext in kept.items():
                kc.write(DATA, b * BLOCK, ciphertext)
            image = bytearray(copy)
            if what == "is damaged":
                at = (LAYOUT.map + 1) * BLOCK + 3 * 512
                image[at:at + 512] = bytes(512)
            kc.write(META, 0, bytes(image))
            if what == "cannot be read":
                healing_meta(LAYOUT.map + 1)
            name = "a map block that %s" % what
            if not open_again(name, None, ro):
                mend()
                continue
            name += ", read-only" * ro
            kc.ok(name + ": the log says which", said(r"map block 1\b"))
            kc.equal(name + ": the blocks of others are as they were", {b: get(b) for b in truth if b not in inside},
                     {b: true for b, true in truth.items() if b not in inside})

            def wrong():
                """Its own are right, or an error; unassigned ones are an error or zeros."""
                return [(b, get(b)) for b in inside if get(b) not in (None, truth[b])] + [b for b in (2020,) if get(b) not in (None, 0)]

            kc.equal(name + ": its own are an error, or right", wrong(), [])
            kc.equal(name + ": what the journal does not name is an error", get(2000), None)
            if not ro:
                put(5, 2)
                put(4005, 1)
                kc.equal(name + ": others may change, durably", kc.errno_of(kc.message, "kc", "commit"), "none")
                kc.equal(name + ": status", kc.status("kc").split()[3], "rw")
                for when in "after a crash", "opened again":
                    found = image_of(meta) if when == "after a crash" else None
                    kc.remove("kc")
                    if not open_again(name + ", " + when, found):
                        break
                    # what the journal said is not forgotten: an old entry would be read with the wrong key
                    kc.equal("%s, %s: nothing wrong is read" % (name, when), wrong(), [])
                    kc.equal("%s, %s: others are there" % (name, when), [get(5), get(4005), get(1)], [(2, 0), (1, 0), (3, 1)])
            if kc.errno_of(kc.dm, kc.DEV_STATUS, "kc") == "none":
                kc.remove("kc")
            mend()


def read_only():
    """What a table that writes is refused for."""
    opened()
    put(0, 1)
    put(2000, 2)
    copy = crashed() and None
    for name, area_block, alice in (("the owner table", f.OWNER_START, None), ("the map state", LAYOUT.state, (2, 0))):
        bad_meta(area_block)
        if open_again(name + " cannot be read", copy, True):
            kc.equal(name + " cannot be read: the device key's block is read", get(0), (1, 0))
            kc.equal(name + " cannot be read: an owner's", get(2000), alice)
            kc.remove("kc")
        mend()


def no_such_slot():
    """Entries of slots there are not: what is written over them is the writer's, also after a crash."""
    image = f.make_area(KEYS["root"], LENGTH // 8)
    keys = f.Keys(KEYS["root"], *(f.super_parse(image)[word] for word in ("salt", "uuid")))
    for kind, at, payload in ((f.MAP, LAYOUT.map, b"\xff\xff" * f.ENTRIES), (f.STATE, LAYOUT.state, b"\1".ljust(8 * f.UNIT_PAYLOAD, b"\0"))):
        image[at * BLOCK:(at + 1) * BLOCK] = keys.seal_block(kind, at, payload)
    kc.write(META, 0, bytes(image))
    globals()["dev"] = kc.create("kc", table())
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.equal("an entry of no slot is an error", get(7), None)
    put(7, 2)
    kc.message("kc", "commit")
    put(8, 2)
    put(9, 1)
    name = "a write over an entry of no slot"
    kc.equal(name, [get(b) for b in (7, 8, 9)], [(2, 0), (2, 0), (1, 0)])
    copy = crashed()
    for ro in True, False:
        if open_again(name + ", after a crash", copy, ro):
            kc.equal(name + ", after a crash%s: what was committed is there" % (", read-only" * ro), get(7), (2, 0))
            kc.ok(name + ", after a crash%s: the others are there, or an error" % (", read-only" * ro),
                  get(8) in ((2, 0), None) and get(9) in ((1, 0), None), (get(8), get(9)))
            kc.remove("kc")


kc.join_session()
for who, key in KEYS.items():
    kc.add_key("logon", "kc:" + who, key)
dev = None
data = kc.create("data", with_bad(DATA, LENGTH, ()))
meta = kc.create("meta", with_bad(META, META_LENGTH, ()))
for check in intent, journal, map_block, read_only, no_such_slot:
    if kc.wanted(check.__name__):
        check()
kc.remove("data", "meta")
kc.done()
