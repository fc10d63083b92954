#!/usr/bin/python3
"""Reads and writes that know what every block may hold, and locks that come in between.

  hammer.py io FILE BLOCKS direct|buffered CONTROL
      Fills FILE, makes CONTROL/ready.<its name>, and reads and writes it at random until CONTROL/stop is
      there; then waits for CONTROL/verify and reads all of it.  Prints a line
      "<reads> <of these EIO> <writes> <of these EIO> <wrong> <unreadable at the end>".  Wrong is any other
      error, and any content but what was last written, or written later without success.
  hammer.py locks DEV COUNT OWNER:SLOT:KEYHEX...
      Locks and unlocks owners (keys logon kc:OWNER in the user keyring) COUNT times, each time in
      another way.  Prints how often each way was taken.
  hammer.py inflight DEV BLOCK COUNT MS OWNER
      Starts COUNT direct reads of a disk that takes MS milliseconds, locks OWNER meanwhile.  Prints
      "<ms the lock took> <ms the first read took> <reads that failed> <reads that succeeded>".
  hammer.py racing DEV BLOCK COUNT OWNER
      Reads in a loop of four threads while OWNER is locked and unlocked COUNT times.  Prints
      "<reads while it was locked> <of these successful>".
"""
# SPDX-License-Identifier: GPL-2.0-only

import errno
import mmap
import os
import random
import sys
import threading
import time

import kc

BLOCK = 4096


def content(block, version):
    return (b"%016d%016d" % (block, version)) * (BLOCK // 32)


def io(path, blocks, mode, control):
    blocks = int(blocks)
    flags = os.O_DIRECT if mode == "direct" else 0
    rand = random.Random(path)
    may = [{0} for _ in range(blocks)]
    buf = mmap.mmap(-1, 16 * BLOCK)
    reads = read_errors = writes = write_errors = wrong = 0

    def check(first, count, size):
        bad = int(size != count * BLOCK and mode == "direct")
        for i in range(size // BLOCK):
            got = buf[i * BLOCK:(i + 1) * BLOCK]
            if got not in [content(first + i, v) for v in may[first + i]]:
                print("# block", first + i, "holds", got[:32], "not one of", may[first + i])
                bad += 1
        return bad

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for b in range(blocks):
        os.write(fd, content(b, 0))
    os.fsync(fd)
    os.close(fd)
    fd = os.open(path, os.O_RDWR | flags)
    open("%s/ready.%s" % (control, path.replace("/", ".")), "w").close()
    version = 0
    while not os.path.exists(control + "/stop"):
        count = rand.choice((1, 1, 1, 4, 16))
        first = rand.randrange(blocks - count + 1)
        if rand.random() < 0.5:
            reads += 1
            if mode == "buffered":
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            try:
                size = os.preadv(fd, [memoryview(buf)[:count * BLOCK]], first * BLOCK)
                wrong += check(first, count, size)
            except OSError as e:
                read_errors += 1
                wrong += e.errno != errno.EIO
        else:
            writes += 1
            version += 1
            for i in range(count):
                buf[i * BLOCK:(i + 1) * BLOCK] = content(first + i, version)
                may[first + i].add(version)
            try:
                size = os.pwritev(fd, [memoryview(buf)[:count * BLOCK]], first * BLOCK)
                if mode == "buffered":
                    os.fsync(fd)
                for i in range(size // BLOCK):
                    may[first + i] = {version}
            except OSError as e:
                write_errors += 1
                wrong += e.errno != errno.EIO
    while not os.path.exists(control + "/verify"):
        time.sleep(0.1)
    last = 0
    if mode == "buffered":
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    for b in range(blocks):
        try:
            wrong += check(b, 1, os.preadv(fd, [memoryview(buf)[:BLOCK]], b * BLOCK))
        except OSError:
            last += 1
    print(reads, read_errors, writes, write_errors, wrong, last)


def unlink(key):
    """A key that was revoked or ran out may have gone by itself."""
    try:
        kc.unlink_key(key)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREVOKED):
            raise


def add_key(owner, key):
    return kc.add_key("logon", "kc:" + owner, key)


def message(dev, *words):
    """As dmsetup message, without the time a process takes to start."""
    kc.message(dev, " ".join(words))


def locks(dev, count, *owners):
    rand = random.Random(4711)
    count = int(count)
    owners = [(n, s, bytes.fromhex(k)) for n, s, k in (o.split(":") for o in owners)]
    serial = {n: add_key(n, k) for n, s, k in owners}
    ways = {w: 0 for w in ("message", "revoke", "invalidate", "unlink", "timeout", "wrong", "same")}
    # The same share of each, in random order: messages are the cheap ones.
    todo = [w for w in ways for _ in range(count // 10)]
    todo += ["message"] * (count - len(todo))
    rand.shuffle(todo)
    for way in todo:
        name, _, key = rand.choice(owners)
        ways[way] += 1
        pause = rand.random() * 0.2
        if way == "message":
            message(dev, "owner", "lock", name)
            time.sleep(pause)
            message(dev, "owner", "unlock", name)
            continue
        if way == "same":  # a key put there once more is no other key
            kc.unlink_key(serial[name])
        elif way == "wrong":
            add_key(name, os.urandom(len(key)))
            time.sleep(0.7 + pause)
        elif way == "revoke":
            kc.keyctl(3, serial[name])
        elif way == "invalidate":
            kc.keyctl(21, serial[name])
        elif way == "unlink":
            kc.unlink_key(serial[name])
            time.sleep(0.6)
        else:
            kc.keyctl(15, serial[name], 1)
            time.sleep(1)
        if way not in ("same", "wrong"):
            time.sleep(pause)
            unlink(serial[name])
        serial[name] = add_key(name, key)
    print(*["%s %d" % w for w in ways.items()])


def reader(fd, block, results, stop=None):
    buf = mmap.mmap(-1, BLOCK)
    while True:
        start = time.monotonic()
        try:
            os.preadv(fd, [buf], block * BLOCK)
            result = "ok"
        except OSError as e:
            result = errno.errorcode[e.errno]
        results.append((start, time.monotonic(), result))
        if stop is None or stop.is_set():
            return


def inflight(dev, block, count, ms, owner):
    fd, results, begin = os.open(dev, os.O_RDONLY | os.O_DIRECT), [], time.monotonic()
    threads = [threading.Thread(target=reader, args=(fd, int(block) + i, results))
               for i in range(int(count))]
    for t in threads:
        t.start()
    time.sleep(int(ms) / 10000)
    message(os.path.basename(dev), "owner", "lock", owner)
    lock = time.monotonic()
    for t in threads:
        t.join()
    failed = [r for r in results if r[2] == "EIO"]
    ok = [r for r in results if r[2] == "ok"]
    print(round((lock - begin) * 1000), round((min(r[1] for r in results) - begin) * 1000),
          len(failed), len(ok))


def racing(dev, block, count, owner):
    fd, results, stop, locked = os.open(dev, os.O_RDONLY | os.O_DIRECT), [], threading.Event(), []
    threads = [threading.Thread(target=reader, args=(fd, int(block) + i, results, stop))
               for i in range(4)]
    for t in threads:
        t.start()
    for _ in range(int(count)):
        time.sleep(0.1)
        message(os.path.basename(dev), "owner", "lock", owner)
        start = time.monotonic()
        time.sleep(0.1)
        locked.append((start, time.monotonic()))
        message(os.path.basename(dev), "owner", "unlock", owner)
    stop.set()
    for t in threads:
        t.join()
    # Threads stop anywhere: only what was begun and ended between the two calls is sure
    sure = [r for r in results if any(a < r[0] and r[1] < b for a, b in locked)]
    bad = [r for r in sure if r[2] != "EIO"]
    print(len(sure), len(bad))


{"io": io, "locks": locks, "inflight": inflight, "racing": racing}[sys.argv[1]](*sys.argv[2:])
