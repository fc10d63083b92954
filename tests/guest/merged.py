#!/usr/bin/python3 -IS
"""Writes for tests/cases/21-merged.t, and looks at what became of them. Blocks are 4096 bytes.

  merged.py small ROOT NR UID...    NR files of three blocks for each UID in turn: ROOT/<uid>/<nr>
  merged.py gc ROOT                 remove every fourth of them, and have f2fs collect its garbage
  merged.py mmap FILE NR LETTER     write NR blocks of LETTER to FILE through a mapping, and msync
  merged.py direct FILE BUFFER NR   write NR blocks to FILE with O_DIRECT, from a mapping of the file
                                    BUFFER (never read before, nor copied)
  merged.py untouched FILE FIRST NR  write NR blocks from block FIRST on with O_DIRECT, from memory that
                                    was read but never written: the kernel's huge page of zeros
  merged.py redirty FILE NR LETTER  the same as mmap without msync
  merged.py bios TRACE MAP MINOR    of the bios written to the device: "<bios> <bios with blocks of
                                    several owners>"
  merged.py find DEVICE MAP TEXT    the slots of blocks in which TEXT is, one a line
"""
# SPDX-License-Identifier: GPL-2.0-only

import ctypes
import errno
import fcntl
import mmap
import os
import re
import struct
import sys

BLOCK = 4096
F2FS_IOC_GARBAGE_COLLECT = 0x4004F506


def slots_of(mapfile):
    slots = []
    with open(mapfile) as f:
        for line in f:
            _, count, slot = map(int, line.split())
            slots += [slot] * count
    return slots


def cmd_small(root, nr, *uids):
    for i in range(int(nr)):
        for uid in uids:
            path = f'{root}/{uid}/{i}'
            with open(path, 'wb') as f:
                f.write(f'{uid} {i} '.encode().ljust(16, b'.') * (3 * BLOCK // 16))
            os.chown(path, int(uid), int(uid))


def cmd_gc(root):
    for folder, _, names in os.walk(root):
        for name in names:
            if int(name) % 4 == 0:
                os.unlink(os.path.join(folder, name))
    fd = os.open(root, os.O_RDONLY)
    os.sync()
    for _ in range(8):
        try:
            fcntl.ioctl(fd, F2FS_IOC_GARBAGE_COLLECT, struct.pack('=I', 1))
        except OSError as e:
            if e.errno in (errno.EAGAIN, errno.ENODATA):
                break       # nothing left to collect
            raise


def dirty(path, nr, letter):
    size = int(nr) * BLOCK
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if os.fstat(fd).st_size < size:
        os.ftruncate(fd, size)
    m = mmap.mmap(fd, size)
    m[:] = letter.encode() * size
    return m


def cmd_mmap(path, nr, letter):
    dirty(path, nr, letter).flush()


def cmd_redirty(path, nr, letter):
    dirty(path, nr, letter)


def cmd_direct(path, source, nr):
    size = int(nr) * BLOCK
    buf = mmap.mmap(os.open(source, os.O_RDONLY), size, prot=mmap.PROT_READ)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o644)
    if os.pwritev(fd, [memoryview(buf)], 0) != size:
        sys.exit('short write')


def cmd_bios(trace, mapfile, minor):
    slots = slots_of(mapfile)
    bios = crossing = 0
    with open(trace) as f:
        for line in f:
            m = re.search(r'block_bio_queue: 25\d,' + minor + r' (\w*) (\d+) \+ (\d+) ', line)
            if m and 'W' in m[1] and int(m[3]):
                first, count = int(m[2]) // 8, int(m[3]) // 8
                bios += 1
                crossing += len(set(slots[first:first + count])) > 1
    print(bios, crossing)


def cmd_untouched(path, first, nr):
    huge = 2 << 20
    area = mmap.mmap(-1, 2 * huge, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    at = -ctypes.addressof(ctypes.c_char.from_buffer(area)) % huge
    if area[at]:
        sys.exit('new memory is not zero')
    with open('/proc/vmstat') as f:
        if 'thp_zero_page_alloc 0\n' in f:
            sys.exit('there is no huge page of zeros')
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    os.pwrite(fd, memoryview(area)[at:at + int(nr) * BLOCK], int(first) * BLOCK)


def cmd_find(device, mapfile, text):
    with open(device, 'rb') as dev, open(mapfile) as f:
        for line in f:
            first, count, slot = map(int, line.split())
            if not slot:
                continue
            dev.seek(first * BLOCK)
            for _ in range(count):
                if text.encode() in dev.read(BLOCK):
                    print(slot)


def main():
    commands = {name[4:]: f for name, f in globals().items() if name.startswith('cmd_')}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])


main()
