#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""owner destroy; started by 33-destroy.t."""

import os
import threading
import time

import kc

DATA = "/dev/disk/kc/data"
BLOCK = 4096
OFFSET = 16384
LENGTH = 65536
UIDS = {"alice": 1000, "bob": 1001, "carol": 1002}
log = kc.Log()


def table(*opts):
    opts = ("owner:uid",) + opts
    return "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:device 0 %s %d %d %s" % (
        LENGTH, DATA, OFFSET, len(opts), " ".join(opts))


def add(name, key=None, uid=None):
    kc.message("kc", "owner add %s %s :64:logon:kc:%s" % (name, uid or UIDS[name], key or name))


def listed():
    return kc.message("kc", "owner list").split("\n")


def put(dev, block, what, who=None):
    kc.write(dev, block * BLOCK, what * BLOCK, uid=UIDS.get(who))


def get(dev, block):
    data = kc.read(dev, block * BLOCK, BLOCK)
    return data[:1] if data == data[:1] * BLOCK else data


def gone(dev, *blocks):
    return {kc.errno_of(get, dev, b) for b in blocks} == {"EIO"}


def inflight(path):
    with open(kc.sysfs(path) + "inflight") as f:
        return int(f.read().split()[1])


def writers_state():
    return [row.split(":")[2] for row in kc.status("kc").split()[10:]]


def destroy_and_after():
    kc.zero(DATA, 0, OFFSET * 512)
    dev = kc.create("kc", table("allow_discards"), new=True)
    for name in UIDS:
        add(name)
    for block in range(10):
        put(dev, block, b"a", "alice")
    for block in range(10, 20):
        put(dev, block, b"b", "bob")
    put(dev, 20, b"r")
    kc.message("kc", "commit")
    put(dev, 30, b"n", "alice")  # not in the journal yet
    put(dev, 31, b"b", "bob")
    kc.message("kc", "commit")
    put(dev, 31, b"A", "alice")  # took bob's, in an intent

    disk = kc.disk_stat(DATA)
    kc.message("kc", "owner destroy alice")
    kc.ok("destroy is durable at once", kc.disk_stat(DATA)[3] > disk[3], kc.disk_stat(DATA))
    kc.equal("status says destroyed", writers_state(), ["destroyed", "unlocked", "unlocked"])
    kc.equal("the list too, with the blocks that name it", listed()[0], "alice 2 destroyed - - 12")
    kc.equal("its blocks stay in its slot", kc.message("kc", "map 0 32"),
             "0 10 2\n10 10 3\n20 1 1\n21 9 0\n30 2 2")
    disk = kc.disk_stat(DATA)
    failed = int(kc.status("kc").split()[6])
    kc.ok("and fail", gone(dev, *range(10), 30, 31))
    kc.equal("as locked ones do: counted", int(kc.status("kc").split()[6]) - failed, 12)
    kc.equal("without a look at the disk", kc.disk_stat(DATA)[0], disk[0])
    kc.equal("a copy that shares one does not turn into zeros unseen", kc.errno_of(kc.read, dev, 8 * BLOCK, 4 * BLOCK), "EIO")
    kc.equal("others are as they were", [get(dev, 10), get(dev, 20)], [b"b", b"r"])
    for text in "owner lock alice", "owner unlock alice", "owner ids alice 5", "owner destroy alice":
        log.new()
        kc.equal("%s: no such owner" % text, kc.errno_of(kc.message, "kc", text), "ENOENT")
        kc.ok("and the log says so", any("there is no owner alice" in line for line in log.new()))
    put(dev, 40, b"d", "alice")
    kc.equal("the ids are nobody's any more", kc.message("kc", "map 40 1"), "40 1 1")

    reassigned = kc.status("kc").split()[8]
    put(dev, 0, b"B", "bob")
    kc.equal("its blocks are free: no reassign", kc.status("kc").split()[8], reassigned)
    kc.equal("a write makes them another's", kc.message("kc", "map 0 2"), "0 1 3\n1 1 2")
    kc.equal("and has what was written", get(dev, 0), b"B")
    kc.equal("one block less names it", listed()[0], "alice 2 destroyed - - 11")
    kc.discard(dev, BLOCK, BLOCK)
    kc.equal("a discard one more", listed()[0], "alice 2 destroyed - - 10")
    kc.equal("which reads as zeros", get(dev, 1), b"\0")

    add("alice", uid=1000)
    kc.equal("the same name and key again: another slot, no blocks", listed()[3],
             "alice 5 unlocked 1000 :64:logon:kc:alice 0")
    kc.ok("the old blocks stay gone", gone(dev, *range(2, 10)))
    put(dev, 2, b"2", "alice")
    kc.equal("and are written under the new slot", kc.message("kc", "map 1 3"), "1 1 0\n2 1 5\n3 1 2")

    kc.remove("kc")
    dev = kc.create("kc", table("allow_discards"))
    kc.equal("all of that after another table load",
             [writers_state(), kc.message("kc", "map 0 41"), [get(dev, b) for b in (0, 1, 2, 10, 20)], gone(dev, 3, 31)],
             [["destroyed", "unlocked", "unlocked", "unlocked"],
              "0 1 3\n1 1 0\n2 1 5\n3 7 2\n10 10 3\n20 1 1\n21 9 0\n30 2 2\n32 8 0\n40 1 1",
              [b"B", b"\0", b"2", b"b", b"r"], True])

    kc.message("kc", "owner lock bob")
    kc.equal("a locked owner's block", kc.errno_of(get, dev, 10), "EIO")
    kc.message("kc", "owner destroy bob")
    kc.ok("can be destroyed as well", gone(dev, 10))
    kc.remove("kc")


def destroy_under_load():
    """What was under way when it was destroyed ends before, and never comes back."""
    kc.zero(DATA, 0, OFFSET * 512)
    dev = kc.create("kc", table(), new=True)
    stop = threading.Event()
    for turn in range(10):
        name = "o%d" % turn
        kc.add_key("logon", "kc:" + name, os.urandom(64))
        add(name, uid=2000 + turn)
        stop.clear()
        errors = []

        def load():
            """Both sides of the device at once, the owner's and another's, over each other."""
            libc = kc.libc
            fd = os.open(dev, os.O_RDWR | os.O_DIRECT)
            buf = kc.mmap.mmap(-1, 16 * BLOCK)
            n = 0
            while not stop.is_set() or n < 20:
                uid = (2000 + turn, 0)[n % 2]
                buf[:] = (b"o", b"r")[n % 2] * (16 * BLOCK)
                libc.setfsuid(uid)
                try:
                    os.pwritev(fd, [buf], n * 16 % 512 * BLOCK)
                    os.preadv(fd, [buf], (n * 16 + 16) % 512 * BLOCK)
                    if buf[:].strip(b"\0") and set(buf[:]) - set(b"\0or"):
                        errors.append("neither zeros nor what anybody wrote")
                except OSError as e:
                    if e.errno != kc.errno.EIO:
                        errors.append(str(e))
                libc.setfsuid(0)
                n += 1
            os.close(fd)

        threads = [threading.Thread(target=load) for _ in range(2)]
        for t in threads:
            t.start()
        kc.message("kc", "commit")
        kc.message("kc", "owner destroy " + name)
        rows = [row for row in listed() if row.startswith(name)]
        left = int(rows[0].split()[5])
        slots = {int(line.split()[2]) for line in kc.message("kc", "map 0 600").split("\n")}
        stop.set()
        for t in threads:
            t.join()
        after = int([row for row in listed() if row.startswith(name)][0].split()[5])
        kc.equal("turn %d: reads gave nothing else" % turn, errors, [])
        kc.ok("turn %d: no block came to it afterwards" % turn, after <= left, (left, after))
        kc.ok("turn %d: the device key's blocks are left, and destroyed owners'" % turn,
              slots <= {0, 1} | {int(row.split()[1]) for row in listed()}, slots)
    kc.remove("kc")


def waits_for_the_last():
    """A write that is still going to a slow disk when its owner is locked, then destroyed."""
    kc.zero(DATA, 0, OFFSET * 512)
    slow = kc.create("slow", "0 %d delay %s 0 0 %s 0 4000" % (kc.size_of(DATA) // 512, DATA, DATA))
    dev = kc.create("kc", table("meta_device:" + DATA).replace(DATA, slow, 1), new=True)
    add("alice")
    writer = threading.Thread(target=put, args=(dev, 3, b"a", "alice"))
    writer.start()
    while inflight(dev) < 1 and writer.is_alive():
        time.sleep(0.01)
    time.sleep(0.2)
    kc.message("kc", "owner lock alice")
    kc.ok("lock does not wait for a write under way", writer.is_alive())
    kc.message("kc", "owner destroy alice")
    kc.equal("destroy does", listed(), ["alice 2 destroyed - - 1"])
    writer.join()
    kc.equal("and its block is gone", [gone(dev, 3), kc.message("kc", "map 3 1")], [True, "3 1 2"])
    kc.remove("kc", "slow")


def slots_run_out():
    """A slot is used again, but not while a block names it."""
    kc.zero(DATA, 0, OFFSET * 512)
    dev = kc.create("kc", table(), new=True)
    add("alice")
    add("bob")
    put(dev, 5, b"a", "alice")
    put(dev, 6, b"b", "bob")
    kc.message("kc", "owner destroy alice")
    for i in range(1020):
        kc.add_key("logon", "kc:n%d" % i, os.urandom(64))
        kc.message("kc", "owner add n%d - :64:logon:kc:n%d" % (i, i))
    kc.add_key("logon", "kc:late", os.urandom(64))
    late = "owner add late - :64:logon:kc:late"
    log.new()
    kc.equal("all slots are in use, one by a block of a destroyed owner",
             kc.errno_of(kc.message, "kc", late), "ENOSPC")
    kc.ok("and the log says so", any("all 1024 slots are in use" in line for line in log.new()))
    kc.message("kc", "owner destroy n7")
    put(dev, 5, b"b", "bob")
    kc.message("kc", late)
    rows = listed()
    kc.equal("the one without blocks is used again", [rows[0], len(rows), rows[9].split()[0]],
             ["late 2 unlocked - :64:logon:kc:late 0", 1022, "n7"])
    kc.message("kc", "owner add alice - :64:logon:kc:alice")
    kc.equal("and so is the other", listed()[9], "alice 11 unlocked - :64:logon:kc:alice 0")
    kc.equal("bob has his", [get(dev, 5), get(dev, 6), kc.message("kc", "map 5 2")], [b"b", b"b", "5 2 3"])
    kc.remove("kc")
    dev = kc.create("kc", table())
    kc.equal("after another table load too", [get(dev, 5), get(dev, 6), listed()[0]],
             [b"b", b"b", "late 2 unlocked - :64:logon:kc:late 0"])
    kc.remove("kc")


def read_only():
    kc.zero(DATA, 0, OFFSET * 512)
    dev = kc.create("kc", table(), new=True)
    add("alice")
    put(dev, 0, b"a", "alice")
    kc.remove("kc")
    dev = kc.create("kc", table(), ro=True)
    kc.equal("a read-only device refuses it", kc.errno_of(kc.message, "kc", "owner destroy alice"), "EROFS")
    kc.equal("and has what it had", get(dev, 0), b"a")
    kc.remove("kc")


kc.join_session()
for who in "device", *UIDS:
    kc.add_key("logon", "kc:" + who, os.urandom(64))
for check in destroy_and_after, destroy_under_load, waits_for_the_last, slots_run_out, read_only:
    if kc.wanted(check.__name__):
        check()
kc.done()
