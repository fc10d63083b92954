#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Two crashes, one after the other; started by 72-second-crash.t.

A copy of the metadata, taken while the device is open, is what a crash would find.
"""

import os

import kc

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
LENGTH = 32 << 11
AREA = 8 << 20
JOURNAL, JOURNAL_BLOCKS = 161, 256  # of this metadata area, see format.h
TABLE = "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:root 0 %s 0 2 meta_device:%s owner:uid" % (LENGTH, DATA, META)
# More runs of changed entries than two journal blocks have records
ALICE = range(0, 1800, 3)


def generation():
    return int(kc.status("kc").split()[4])


def crash(lost=()):
    """Stops the device; brings back the metadata as it was, without these journal blocks; starts it."""
    copy = bytearray(kc.read(META, 0, AREA))
    for seq in lost:
        at = (JOURNAL + seq % JOURNAL_BLOCKS) * BLOCK
        copy[at:at + BLOCK] = bytes(BLOCK)
    kc.remove("kc")
    kc.write(META, 0, bytes(copy))
    return kc.create("kc", TABLE)


def slots(blocks):
    found = {}
    for row in kc.message("kc", "map 0 %d" % (LENGTH // 8)).split("\n"):
        first, count, slot = map(int, row.split())
        found.update((b, slot) for b in range(first, first + count))
    return {found[b] for b in blocks}


kc.join_session()
for who in "root", "alice", "bob":
    kc.add_key("logon", "kc:" + who, os.urandom(64))
kc.zero(META, 0, AREA)
dev = kc.create("kc", TABLE, new=True)
kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")


def alice():
    fd = os.open(dev, os.O_WRONLY | os.O_DIRECT)
    buf = kc.mmap.mmap(-1, BLOCK)
    for b in ALICE:
        os.pwritev(fd, [buf], b * BLOCK)
    os.close(fd)


kc.run_as(1000, alice)
before = generation()
kc.message("kc", "commit")
after = generation()
kc.ok("one commit of three journal blocks", after - before == 3, (before, after))
kc.equal("the blocks are alice's", slots(ALICE), {2})

dev = crash(lost=[before + 1])
kc.equal("a crash that loses the first of them: nothing is alice's", slots(ALICE), {0})
kc.write(dev, ALICE[0] * BLOCK, b"b" * BLOCK, uid=1001)
kc.message("kc", "commit")
kc.equal("bob takes one, in one journal block", slots(ALICE[:1]), {3})

dev = crash()
kc.equal("after the next crash it is bob's", slots(ALICE[:1]), {3})
kc.equal("and the others are still nobody's", slots(ALICE[1:]), {0})
kc.same("with what he wrote", kc.read(dev, ALICE[0] * BLOCK, BLOCK), b"b" * BLOCK)
kc.remove("kc")
kc.done()
