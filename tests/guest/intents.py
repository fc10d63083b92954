#!/usr/bin/python3
# See 71-intents.t. The metadata is copied while a crash would find it as the copy is.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import time

import kc

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
LENGTH, META_SIZE = 48 << 11, 8 << 20
ALICE, BOB = b"a" * BLOCK, b"b" * BLOCK
DELAY = 1500
PLACE = (16384 << 9) + 5 * BLOCK


def used():
    return int(kc.status("kc").split()[5].split("/")[0])


def layout(delay=0):
    """The device below: metadata, and behind it data whose writes may be slow."""
    return "0 16384 linear %s 0\n16384 %d delay %s 16384 0 %s 16384 %d" % (DATA, LENGTH, DATA, DATA, delay)


def attempt(table, meta):
    """
    Bob writes over what alice has just written. Copies of the metadata while his data is under way and when
    his write has ended, and her ciphertext; None if the commit timer may have come between.
    """
    kc.zero(meta, 0, META_SIZE)
    dev = kc.create("kc", table, new=True)
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")
    start = time.monotonic()
    kc.write(dev, 5 * BLOCK, ALICE, uid=1000)
    old = kc.read(DATA, PLACE, BLOCK)
    kc.reload("below", layout(DELAY))
    pid = os.fork()
    if not pid:
        kc.write(dev, 5 * BLOCK, BOB, uid=1001)
        os._exit(0)
    while not used():
        time.sleep(0.01)
    # the intent is there; now what a flush does for alice
    kc.message("kc", "commit")
    early = kc.read(meta, 0, META_SIZE)
    waiting = os.waitpid(pid, os.WNOHANG) == (0, 0)
    if waiting:
        os.waitpid(pid, 0)
    # nothing has settled his block yet
    late = kc.read(meta, 0, META_SIZE)
    took = time.monotonic() - start
    kc.equal("bob writes over alice's block", kc.message("kc", "map 5 1"), "5 1 3")
    kc.reload("below", layout())
    kc.remove("kc")
    if waiting and took < 4:
        return early, late, old
    kc.diag("too slow: %.1f s" % took)
    return None


def run(name, separate, lands):
    """Recovers the copies, with his data or without it."""
    meta = META if separate else DATA
    table = "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:root 0 %s 16384 %s owner:uid" % (
        LENGTH, below, "2 meta_device:" + META if separate else "1")
    copies = None
    for _ in range(20):
        copies = copies or attempt(table, meta)
    if not kc.ok(name + "the writes are as close as this needs", copies):
        return
    early, late, old = copies
    if not lands:
        kc.write(DATA, PLACE, old)
    for when, copy in ("while it was under way", early), ("when it had ended", late):
        kc.write(meta, 0, copy)
        flushes = kc.disk_stat(DATA)[5]
        kc_dev = kc.create("kc", table)
        say = "%sa crash %s: " % (name, when)
        kc.ok(say + "recovery makes durable what it has found", kc.disk_stat(DATA)[5] > flushes)
        kc.equal(say + "the entry", kc.message("kc", "map 5 1"), "5 1 3" if lands else "5 1 2")
        kc.same(say + "the content", kc.read(kc_dev, 5 * BLOCK, BLOCK), BOB if lands else ALICE)
        kc.remove("kc")


kc.join_session()
for who in "root", "alice", "bob":
    kc.add_key("logon", "kc:" + who, os.urandom(64))
below = kc.create("below", layout())
for separate in False, True:
    for lands in True, False:
        run("%s, his data %s: " % ("two disks" if separate else "one disk", "lands" if lands else "is lost"),
            separate, lands)
kc.remove("below")
kc.done()
