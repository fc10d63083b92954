#!/usr/bin/python3
# See 34-key-loss.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import time

import kc
import kcformat as f

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
LENGTH, META_LENGTH = 64 << 11, 8192
SLOW = 48 << 11                         # from this sector on, the data can be stopped
SLOW_BLOCK = SLOW // 8
KEYS = {who: os.urandom(64) for who in ("root", "alice", "bob", "carol", "dora")}
UIDS = {"alice": 1000, "bob": 1001, "carol": 1002, "dora": 1003}
LAYOUT = f.Layout(LENGTH // 8, 1, 128)
Later = kc.Later
# where the module is held up: names in its source
LOOKS_FOR_MAP_BLOCK, WIPES_SEALING_KEY, TAKES_KEY_OF_SLOT = "kc_mapblk_get", "kc_seal_wipe", "kc_keyslot_get"


def table():
    return kc.separate(LENGTH, data, meta, "allow_discards")


def put(dev, block, who=None, what=None):
    kc.write(dev, block * BLOCK, (what or (who or "root")[0].encode()) * BLOCK, uid=UIDS.get(who))


def get(dev, block):
    return kc.read(dev, block * BLOCK, BLOCK)[:1]


def opened(owners=("alice", "bob", "carol"), image=None):
    """A new device whose area has room for six owners."""
    kc.write(META, 0, bytes(image or f.make_area(KEYS["root"], LENGTH // 8)))
    dev = kc.create("kc", table())
    for who in owners:
        kc.message("kc", "owner add %s %d :64:logon:kc:%s" % (who, UIDS[who], who))
    return dev


def soon(later, seconds=5):
    """Ends without what is stopped."""
    end = time.monotonic() + seconds
    while later.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    return "waits" if later.poll() is None else later.end()


def lose(who="root"):
    kc.unlink_key(serial[who])


def find_again(who="root"):
    serial[who] = kc.add_key("logon", "kc:" + who, KEYS[who])


def authentic():
    """What of the fixed parts, and of the journal from its tail on, cannot be opened with the device key."""
    image = kc.read(META, 0, LAYOUT.end * BLOCK)
    s = f.super_parse(image)
    keys = f.Keys(KEYS["root"], s["salt"], s["uuid"])
    return [name for name, kind, at in (("owners", f.OWNER, f.OWNER_START), ("anchor", f.ANCHOR, LAYOUT.anchor),
                                        ("state", f.STATE, LAYOUT.state)) if keys.open_block(kind, at, image) is None]


# ---- the sealing key is wiped ----

def message_under_way():
    """A message that was let in before the device key went gets its turn when the sealing key has been wiped."""
    dev = opened()
    put(dev, 5, "alice")
    kc.message("kc", "commit")
    kc.suspend("meta")
    first = Later(kc.message, "kc", "owner ids bob 1001,7")
    time.sleep(1.5)                     # the keys' watch waits behind it,
    second = Later(kc.message, "kc", "owner ids alice 1000,8")
    time.sleep(0.5)                     # and this one behind that
    lose()
    time.sleep(0.1)
    kc.resume("meta")
    kc.equal("a message under way when the device key goes: it ends", first.end(), "none")
    kc.ok("a message behind it: it fails", second.end() not in ("none", "hangs"), second.end())
    kc.equal("nothing was sealed with another key", authentic(), [])
    find_again()
    kc.remove("kc")
    kc.equal("the device opens", kc.errno_of(kc.create, "kc", table()), "none")
    if kc.errno_of(kc.status, "kc") == "none" and len(kc.status("kc").split()) > 9:
        kc.equal("with the owners there were", [row.split()[:4] for row in kc.message("kc", "owner list").split("\n")],
                 [["alice", "2", "unlocked", "1000"], ["bob", "3", "unlocked", "7,1001"], ["carol", "4", "unlocked", "1002"]])
        kc.equal("and the data", get(dev, 5), b"a")
        kc.remove("kc")


def write_under_way():
    """A write that has its key still waits for its map block when the map is forgotten, and gets on before the
    sealing key is wiped; what it changes is logged later."""
    dev = opened()
    put(dev, 5, "alice")
    kc.remove("kc")
    dev = kc.create("kc", table())
    reading = kc.Held(LOOKS_FOR_MAP_BLOCK)
    write = Later(put, dev, 4000, "alice")
    kc.ok("a write on the slow path is held up", reading.waits())
    wiping = kc.Held(WIPES_SEALING_KEY)
    lose()
    kc.ok("the sealing key is about to be wiped", wiping.waits())
    reading.go_on()
    error = write.end()
    wiping.go_on()
    time.sleep(5.5)                     # what changed is logged in that time
    kc.diag("the write ended with " + error)
    kc.equal("a write under way when the device key goes: nothing was sealed with another key", authentic(), [])
    copy = kc.read(META, 0, META_LENGTH << 9)   # as a crash would find it
    find_again()
    time.sleep(1)
    kc.remove("kc")
    kc.write(META, 0, copy)
    kc.equal("a write under way when the device key goes: the device opens after a crash", kc.errno_of(kc.create, "kc", table()), "none")
    if kc.errno_of(get, dev, 5) == "none":
        kc.equal("with what was durable", get(dev, 5), b"a")
        kc.ok("and the write, or nothing of it", get(dev, 4000) in (b"a", b"\0"))
        kc.remove("kc")


kc.join_session()
serial = {who: kc.add_key("logon", "kc:" + who, key) for who, key in KEYS.items()}
slow = kc.create("slow", "0 %d linear %s %d" % (LENGTH - SLOW, DATA, SLOW))
data = kc.create("data", "0 %d linear %s 0\n%d %d linear %s 0" % (SLOW, DATA, SLOW, LENGTH - SLOW, slow))
meta = kc.create("meta", "0 %d linear %s 0" % (META_LENGTH, META))
for check in (message_under_way, write_under_way):
    if kc.wanted(check.__name__):
        started = time.monotonic()
        check()
        kc.diag("%s: %.1f s" % (check.__name__, time.monotonic() - started))
kc.remove("data", "slow", "meta")
kc.done()
