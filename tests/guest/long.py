#!/usr/bin/python3 -B
"""What 80-long.t does to the devices fs and raw while they are in use, for so many seconds:

  long.py SECONDS SEED MOUNTPOINT NAME=DISK...

locks and unlocks bob and dave, commits, loads other tables, suspends and resumes, changes ids, adds owners, reads
the map, drops the caches, trims the filesystem. Prints how often, and an assertion that all went well.
"""
# SPDX-License-Identifier: GPL-2.0-only

import fcntl
import os
import random
import struct
import sys
import time
import traceback

import kc

FITRIM = 0xC0185879
START = 16384

seconds, seed, mount = int(sys.argv[1]), sys.argv[2], sys.argv[3]
disks = dict(arg.split("=", 1) for arg in sys.argv[4:])
rng = random.Random(seed)
discards = dict.fromkeys(disks, True)
added = 0


def table(name):
    """A line for the device with other options each time; raw always takes discards."""
    opts = ["owner:uid"]
    discards[name] = name == "raw" or rng.random() < 0.5
    if discards[name]:
        opts.append("allow_discards")
    opts += rng.choice(([], ["reassign:lazy"], ["reassign:strict"]))
    opts += rng.choice(([], ["meta_cache:1"], ["meta_cache:8"]))
    return "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:0 0 %s %d %d %s" % (
        kc.size_of(disks[name]) // 512 - START, disks[name], START, len(opts), " ".join(opts))


def lock(name):
    who = rng.choice(("o1001", "o1003"))
    kc.message(name, "owner lock " + who)
    time.sleep(rng.random() * 0.3)
    kc.message(name, "owner unlock " + who)


def commit(name):
    kc.message(name, "commit")


def reload(name):
    kc.reload(name, table(name))


def suspend(name):
    kc.suspend(name, rng.choice((0, kc.DM_SKIP_LOCKFS, kc.DM_SKIP_LOCKFS | kc.DM_NOFLUSH)))
    time.sleep(rng.random() * 0.3)
    if rng.random() < 0.3:
        kc.load(name, table(name))
    kc.resume(name)


def ids(name):
    """For a moment bob's files and dave's are the other's."""
    kc.message(name, "owner ids o1001 -")
    kc.message(name, "owner ids o1003 1001")
    time.sleep(rng.random() * 0.2)
    kc.message(name, "owner ids o1003 1003")
    kc.message(name, "owner ids o1001 1001")


def add(name):
    global added
    added += 1
    kc.add_key("logon", "kc:new%d" % added, b"%064d" % (10000 + added))
    kc.message(name, "owner add new%d %d :64:logon:kc:new%d" % (added, 10000 + added, added))


def look(name):
    kc.message(name, "owner list")
    kc.message(name, "map 0 5000")
    kc.status(name)
    kc.table_of(name)


def drop(_):
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write(rng.choice("13"))


def trim(name):
    if name == "fs" and discards[name]:
        fd = os.open(mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FITRIM, struct.pack("=QQQ", 0, 2**64 - 1, 0))
        finally:
            os.close(fd)


actions = [lock] * 6 + [commit] * 3 + [reload] * 3 + [suspend] * 2 + [ids, add, look, drop, trim]
counts = {f.__name__: 0 for f in actions}
end = time.monotonic() + seconds
error = ""
try:
    while time.monotonic() < end:
        time.sleep(rng.random() * 0.3)
        action = rng.choice(actions)
        # each of them once, whatever the time
        action = next((f for f in actions if not counts[f.__name__]), action)
        action(rng.choice(list(disks)) if action is not trim else "fs")
        counts[action.__name__] += 1
except OSError:
    error = traceback.format_exc()
kc.diag(" ".join("%s %d" % c for c in counts.items()))
kc.ok("locks, commits, tables and so on all succeed, and each came", not error and all(counts.values()),
      error or counts)
kc.done()
