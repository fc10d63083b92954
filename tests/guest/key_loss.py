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
LOOKS_FOR_MAP_BLOCK, WIPES_SEALING_KEY = "kc_mapblk_get", "kc_sealer_wipe"


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
    error = second.end()
    kc.equal("nothing was sealed with another key", authentic(), [])
    kc.ok("a message behind it: it fails, or was done before the key was lost",
          error in ("ENOKEY", "EIO") or error == "none" and not authentic(), error)
    find_again()
    kc.remove("kc")
    kc.equal("the device opens", kc.errno_of(kc.create, "kc", table()), "none")
    if kc.errno_of(kc.status, "kc") == "none" and len(kc.status("kc").split()) > 9:
        kc.equal("with the owners there were", [row.split()[:4] for row in kc.message("kc", "owner list").split("\n")],
                 [["alice", "2", "unlocked", "1000,8" if error == "none" else "1000"], ["bob", "3", "unlocked", "1001,7"],
                  ["carol", "4", "unlocked", "1002"]])
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


# ---- locks that wait for others ----

def locks(say, dev, block):
    """Bob is locked by message, and carol by the keyring, while something else waits for its disk; both may read
    these blocks: bob's, and the next one, carol's."""
    lock = Later(kc.message, "kc", "owner lock bob")
    kc.equal(say + "owner lock of another owner returns", soon(lock), "none")
    lose("carol")
    end = time.monotonic() + 5
    while kc.errno_of(get, dev, block + 1) == "none" and time.monotonic() < end:
        time.sleep(0.1)
    kc.equal(say + "a third one, whose key is unlinked, is locked", kc.errno_of(get, dev, block + 1), "EIO")
    find_again("carol")
    return lock


def lock_and_walk():
    """owner add looks for a slot that no block names any more, and reads the map for that."""
    rest = [(slot, "more%d" % slot, "kc:more%d" % slot, os.urandom(64), [2000 + slot]) for slot in (5, 6)]
    image = f.make_area(KEYS["root"], LENGTH // 8)
    f.add_owners(image, KEYS["root"], rest)
    dev = opened(("alice", "bob", "carol"), image)
    kc.message("kc", "owner add dora 1003 :64:logon:kc:dora")
    put(dev, 0, "alice")
    put(dev, 1, "bob")
    put(dev, 2, "carol")
    put(dev, 4000, "dora")
    kc.message("kc", "owner destroy dora")
    kc.remove("kc")
    dev = kc.create("kc", table())
    kc.equal("the map block of these is in memory", [get(dev, b) for b in (1, 2)], [b"b", b"c"])
    kc.suspend("meta")
    adding = Later(kc.message, "kc", "owner add dora 1003 :64:logon:kc:dora")
    kc.ok("owner add waits for its disk", adding.waits())
    lock = locks("while owner add reads the map: ", dev, 1)
    kc.resume("meta")
    kc.equal("owner add ends: no slot is free", adding.end(), "ENOSPC")
    lock.end()
    kc.remove("kc")


def lock_and_destroy():
    """A destroyed owner's last write is on its way to a disk that stands still."""
    dev = opened()
    for b, who in (0, "alice"), (1, "bob"), (2, "carol"), (SLOW_BLOCK, "alice"):
        put(dev, b, who)
    kc.message("kc", "commit")
    kc.suspend("slow")
    write = Later(put, dev, SLOW_BLOCK, "alice")
    kc.ok("a write waits for its disk", write.waits())
    kc.equal("its owner is locked", soon(Later(kc.message, "kc", "owner lock alice")), "none")
    kc.message("kc", "owner add dora 1003 :64:logon:kc:dora")
    other = Later(kc.message, "kc", "owner destroy dora")
    kc.equal("another owner is destroyed meanwhile, which waits for his own bios only", soon(other), "none")
    lock = locks("while that is destroyed: ", dev, 1)
    own = Later(kc.message, "kc", "owner destroy alice")
    kc.ok("the owner is destroyed, which waits for the write", own.waits())
    if other.poll() is not None:
        kc.message("kc", "owner unlock bob")
        time.sleep(1)
        lock = locks("while the owner is destroyed: ", dev, 1)
    kc.resume("slow")
    kc.equal("then it ends", [own.end(), write.end(), other.end(), lock.end()], ["none"] * 4)
    kc.remove("kc")


# ---- what the watch costs ----

def busy(seconds):
    """Milliseconds in a second that workqueues take."""
    def taken():
        total = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/comm" % pid) as comm, open("/proc/%s/schedstat" % pid) as stat:
                    if comm.read().startswith("kworker"):
                        total += int(stat.read().split()[0])
            except OSError:
                pass
        return total

    before, start = taken(), time.monotonic()
    time.sleep(seconds)
    return (taken() - before) / 1e6 / (time.monotonic() - start)


def watch():
    """A thousand owners, whose keys are there, or are all wrong ones. What it takes is compared with as many
    searches for keys, made from here: how long anything takes in a virtual machine depends on its host."""
    owners = [(slot, "o%d" % slot, "kc:o%d" % slot, os.urandom(64), [slot + 5000]) for slot in range(2, 1002)]
    image = f.make_area(KEYS["root"], LENGTH // 8, owner_blocks=128)
    f.add_owners(image, KEYS["root"], owners)
    kc.write(META, 0, bytes(image))
    idle = busy(4)
    took = {}
    for name, state, twist in ("their keys there", ":unlocked", 1), ("wrong keys", ":wrong-key", -1):
        serials = [kc.add_key("logon", desc, key[::twist]) for _, _, desc, key, _ in owners]
        kc.create("kc", table())
        kc.equal("a thousand owners, %s" % name, kc.status("kc").count(state), 1000)
        time.sleep(2)
        start = time.process_time()
        for _, _, desc, _, _ in owners:
            kc.keyctl(10, kc.USER, b"logon", desc.encode(), 0)
        search = (time.process_time() - start) * 1000
        took[name] = busy(6) - idle
        kc.diag("%s: %.1f ms a second (without a device %.1f), a thousand searches %.1f ms" % (name, took[name], idle, search))
        for key in serials:
            kc.unlink_key(key)
        kc.remove("kc")
        if twist > 0:
            kc.ok("the watch of a thousand owners: not more than two searches a second for each", took[name] < 2.2 * search + 5)
    kc.ok("and no more when all keys are wrong ones", took["wrong keys"] < 1.4 * took["their keys there"] + 5, took)


# ---- keys that look the same ----

def same_address():
    """A key is updated twice, with other bytes: where they are is where the first ones were, now and then."""
    owners = [(slot, "o%d" % slot, "kc:o%d" % slot, os.urandom(64), [slot + 5000]) for slot in range(2, 62)]
    image = f.make_area(KEYS["root"], LENGTH // 8, owner_blocks=8)
    f.add_owners(image, KEYS["root"], owners)
    kc.write(META, 0, bytes(image))
    for _, _, desc, key, _ in owners:
        kc.add_key("logon", desc, key)
    kc.create("kc", table())
    kc.equal("sixty owners are unlocked", kc.status("kc").count(":unlocked"), 60)
    os.sched_setaffinity(0, {0})
    for _, _, desc, _, _ in owners:
        kc.add_key("logon", desc, os.urandom(64))
        time.sleep(0.1)                 # a grace period, and the memory is free
        kc.add_key("logon", desc, os.urandom(64))
    os.sched_setaffinity(0, {0, 1})
    time.sleep(2.5)
    states = kc.status("kc").split()[10:]
    kc.equal("keys with other bytes: all are wrong ones", [s for s in states if not s.endswith(":wrong-key")], [])
    kc.remove("kc")


# ---- slots that change hands ----

kc.join_session()
serial = {who: kc.add_key("logon", "kc:" + who, key) for who, key in KEYS.items()}
slow = kc.create("slow", "0 %d linear %s %d" % (LENGTH - SLOW, DATA, SLOW))
data = kc.create("data", "0 %d linear %s 0\n%d %d linear %s 0" % (SLOW, DATA, SLOW, LENGTH - SLOW, slow))
meta = kc.create("meta", "0 %d linear %s 0" % (META_LENGTH, META))
for check in (message_under_way, write_under_way, lock_and_walk, lock_and_destroy, watch, same_address):
    if kc.wanted(check.__name__):
        started = time.monotonic()
        check()
        kc.diag("%s: %.1f s" % (check.__name__, time.monotonic() - started))
kc.remove("data", "slow", "meta")
kc.done()
