#!/usr/bin/python3
"""I/O and keyctl calls for the tests, where a process for each would be too slow or too late.

kio.py DEV: reads commands, one a line, and answers each with one line.  Blocks are of 4096 bytes,
a result is "ok" or the name of an error.

  read BLOCK [COUNT]            direct read: the result
  bread BLOCK [COUNT]           buffered, nothing of it cached before
  readahead BLOCK [COUNT]       posix_fadvise(WILLNEED), then a buffered read
  write UID BLOCK [COUNT]       direct write of random bytes as that user
  mixed UID BLOCK DISK          direct write of two blocks as that user with one request: the first from memory
                                of its own, the second, of nobody's, from the page cache of a disk
  same BLOCK [COUNT]            direct read: "ok" if it is what was last written there, or "differs"
  discard BLOCK                 a discard: the result
  flush                         fsync of the device
  ms                            how long the last of these took
  steady MS BLOCK               direct reads for so long: "ok", or the first error
  after OP SERIAL BLOCK [discard]  a direct read, a keyctl operation, and at once a direct read, or a
                                discard
  expiry SERIAL SECONDS BLOCK   sets a key's timeout and reads until that fails: the error,
                                and ms from the last full second until then
  unlink SERIAL RING BLOCK      unlinks a key and reads until that fails: the error, ms from the call
"""
# SPDX-License-Identifier: GPL-2.0-only

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
import time

BLOCK = 4096
BLKDISCARD = 0x1277
SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "armv7l": 311, "s390x": 280}[os.uname().machine]
KEYCTL = {"revoke": 3, "unlink": 9, "timeout": 15, "invalidate": 21}

libc = ctypes.CDLL(None, use_errno=True)
dev = sys.argv[1]
written = {}
last = 0


def keyctl(op, *args):
    args = [ctypes.c_long(int(a)) for a in args]
    if libc.syscall(ctypes.c_long(SYS_KEYCTL), ctypes.c_long(KEYCTL[op]), *args) < 0:
        raise OSError(ctypes.get_errno(), "keyctl " + op)


def attempt(func, *args):
    global last
    start = time.monotonic()
    try:
        result = func(*args)
    except OSError as e:
        result = errno.errorcode[e.errno]
    last = round((time.monotonic() - start) * 1000)
    return result


def reading(fd, buf, block):
    return "ok" if os.preadv(fd, [buf], block * BLOCK) == len(buf) else "short"


def writing(fd, buf, block, uid):
    os.seteuid(uid)
    try:
        return "ok" if os.pwritev(fd, [buf], block * BLOCK) == len(buf) else "short"
    finally:
        os.seteuid(0)


def mixed(uid, block, disk):
    """All the same the second is what is written there, if it is."""
    fd, source = os.open(dev, os.O_RDWR | os.O_DIRECT), os.open(disk, os.O_RDONLY)
    own, other = mmap.mmap(-1, BLOCK), mmap.mmap(source, BLOCK, prot=mmap.PROT_READ)
    own[:] = os.urandom(BLOCK)
    written[block + 1] = other[:]
    os.seteuid(uid)
    try:
        return "ok" if os.pwritev(fd, [own, other], block * BLOCK) == 2 * BLOCK else "short"
    finally:
        os.seteuid(0)
        os.close(source)
        os.close(fd)


def discarding(fd, block):
    fcntl.ioctl(fd, BLKDISCARD, struct.pack("=QQ", block * BLOCK, BLOCK))
    return "ok"


def until_failure(fd, buf, block, seconds):
    result, end = "ok", time.monotonic() + seconds
    while result == "ok" and time.monotonic() < end:
        result = attempt(reading, fd, buf, block)
    return result


def io(op, args):
    direct = 0 if op in ("bread", "readahead") else os.O_DIRECT
    fd = os.open(dev, os.O_RDWR | direct)
    try:
        uid = int(args.pop(0)) if op == "write" else 0
        block = int(args[0])
        count = int(args[1]) if len(args) > 1 else 1
        buf = mmap.mmap(-1, count * BLOCK)  # O_DIRECT wants alignment
        if op == "write":
            buf[:] = os.urandom(len(buf))
            result = attempt(writing, fd, buf, block, uid)
            if result == "ok":
                for i in range(count):
                    written[block + i] = buf[i * BLOCK:(i + 1) * BLOCK]
            return result
        if not direct:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if op == "readahead":
            os.posix_fadvise(fd, block * BLOCK, count * BLOCK, os.POSIX_FADV_WILLNEED)
        result = attempt(reading, fd, buf, block)
        if op == "same" and result == "ok":
            for i in range(count):
                if buf[i * BLOCK:(i + 1) * BLOCK] != written[block + i]:
                    return "differs"
        return result
    finally:
        os.close(fd)


def keys(op, args):
    fd = os.open(dev, os.O_RDWR | os.O_DIRECT)
    try:
        if op == "discard":
            return attempt(discarding, fd, int(args[0]))
        then = args.pop() if args[-1] == "discard" else ""
        block, buf = int(args[-1]), mmap.mmap(-1, BLOCK)
        if op == "steady":
            return until_failure(fd, buf, block, int(args[0]) / 1000)
        if op == "after":
            before = attempt(reading, fd, buf, block)
            keyctl(args[0], args[1])
            after = attempt(discarding, fd, block) if then else attempt(reading, fd, buf, block)
            return before + " " + after
        if op == "expiry":
            keyctl("timeout", args[0], args[1])
            result = until_failure(fd, buf, block, int(args[1]) + 3)
            return "%s %d" % (result, time.time() % 1 * 1000)
        start = time.monotonic()
        keyctl("unlink", args[0], args[1])
        result = until_failure(fd, buf, block, 5)
        return "%s %d" % (result, (time.monotonic() - start) * 1000)
    finally:
        os.close(fd)


def fsync():
    fd = os.open(dev, os.O_RDWR)
    try:
        os.fsync(fd)
        return "ok"
    finally:
        os.close(fd)


for line in sys.stdin:
    op, *args = line.split()
    try:
        if op in ("read", "bread", "readahead", "write", "same"):
            answer = io(op, args)
        elif op == "mixed":
            answer = attempt(mixed, int(args[0]), int(args[1]), args[2])
        elif op == "flush":
            answer = attempt(fsync)
        elif op == "ms":
            answer = last
        else:
            answer = keys(op, args)
    except OSError as e:
        answer = errno.errorcode[e.errno]
    except Exception as e:  # a mistake in a test must not hang it
        answer = repr(e)
    print(answer, flush=True)
