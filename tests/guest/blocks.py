#!/usr/bin/python3 -IS
"""What lies where on a device, for tests and the demo. Blocks are 4096 bytes; a MAP is a file
with the reply to `dmsetup message <dev> 0 map 0 <nr_blocks>`.

  blocks.py slots MAP                    how many blocks each key slot has
  blocks.py extents PATH...              where the files below PATHs lie: a line for each extent,
                                         <block in the file> <block on the device> <count> <file>
  blocks.py owners MAP EXTENTS           how many of these blocks each key slot has
  blocks.py copy MAP SLOT FROM TO        copy the blocks of SLOT from one device to the same place
                                         on another
  blocks.py same MAP SLOT A OFFSET B     compare the blocks of SLOT on A, where block 0 is at
                                         byte OFFSET, with those on B; prints how many are equal
  blocks.py files EXTENTS ROOT DEVICE    put the files below ROOT together again from what is on
                                         DEVICE and compare; prints how many are equal
  blocks.py search DEVICE PATH...        how many of the sectors of the files below PATHs can be
                                         found in any sector of DEVICE

Counts come as "<count> of <total>"; same and files fail if they differ.
"""
# SPDX-License-Identifier: GPL-2.0-only

import collections
import fcntl
import os
import struct
import sys

BLOCK = 4096
SECTOR = 512
FS_IOC_FIEMAP = 0xC020660B
FIEMAP_FLAG_SYNC = 1
FIEMAP_EXTENT_LAST = 1
# unknown, delalloc, encoded, inline, tail, unwritten: not the file's bytes at that place
FIEMAP_EXTENT_UNUSABLE = 0x2 | 0x4 | 0x8 | 0x200 | 0x400 | 0x800


def runs(path):
    with open(path) as f:
        for line in f:
            first, count, slot = map(int, line.split())
            yield first, count, slot


def regular_files(paths):
    for path in paths:
        if os.path.isfile(path):
            yield path
        for folder, _, names in os.walk(path):
            for name in sorted(names):
                full = os.path.join(folder, name)
                if os.path.isfile(full) and not os.path.islink(full):
                    yield full


def fiemap(path):
    """Yields (block in the file, block on the device, count)."""
    with open(path, 'rb') as f:
        start = 0
        while True:
            buf = bytearray(struct.pack('=QQIIII', start, 2**63 - 1 - start,
                                        FIEMAP_FLAG_SYNC, 0, 64, 0) + bytes(64 * 56))
            fcntl.ioctl(f, FS_IOC_FIEMAP, buf)
            count = struct.unpack_from('=I', buf, 20)[0]
            for i in range(count):
                logical, physical, length, _, _, flags = \
                    struct.unpack_from('=QQQQQI', buf, 32 + 56 * i)
                if not flags & FIEMAP_EXTENT_UNUSABLE:
                    yield logical // BLOCK, physical // BLOCK, -(-length // BLOCK)
                start = logical + length
                if flags & FIEMAP_EXTENT_LAST:
                    return
            if not count:
                return


def read_extents(path):
    with open(path) as f:
        for line in f:
            logical, physical, count, name = line.rstrip('\n').split(' ', 3)
            yield int(logical), int(physical), int(count), name


def print_counts(counts):
    for slot in sorted(counts):
        print(slot, counts[slot])


def cmd_slots(mapfile):
    counts = collections.Counter()
    for _, count, slot in runs(mapfile):
        counts[slot] += count
    print_counts(counts)


def cmd_extents(*paths):
    for path in regular_files(paths):
        for extent in fiemap(path):
            print(*extent, path)


def cmd_owners(mapfile, extents):
    slots = {}
    for first, count, slot in runs(mapfile):
        for block in range(first, first + count):
            slots[block] = slot
    counts = collections.Counter()
    for _, physical, count, _ in read_extents(extents):
        for block in range(physical, physical + count):
            counts[slots[block]] += 1
    print_counts(counts)


def cmd_copy(mapfile, slot, source, target):
    with open(source, 'rb') as src, open(target, 'r+b', buffering=0) as dst:
        for first, count, s in runs(mapfile):
            if s != int(slot):
                continue
            src.seek(first * BLOCK)
            dst.seek(first * BLOCK)
            while count:
                n = min(count, 256)
                dst.write(src.read(n * BLOCK))
                count -= n
        os.fsync(dst.fileno())


def cmd_same(mapfile, slot, a, offset, b):
    same = total = 0
    with open(a, 'rb') as fa, open(b, 'rb') as fb:
        for first, count, s in runs(mapfile):
            if s != int(slot):
                continue
            fa.seek(int(offset) + first * BLOCK)
            fb.seek(first * BLOCK)
            for _ in range(count):
                total += 1
                same += fa.read(BLOCK) == fb.read(BLOCK)
    print(same, 'of', total)
    return total > 0 and same == total


def cmd_files(extents, root, device):
    where = collections.defaultdict(list)
    for logical, physical, count, name in read_extents(extents):
        where[name].append((logical, physical, count))
    same = total = 0
    with open(device, 'rb') as dev:
        for path in regular_files([root]):
            with open(path, 'rb') as f:
                want = f.read()
            got = bytearray(-(-len(want) // BLOCK) * BLOCK)
            for logical, physical, count in where[path]:
                dev.seek(physical * BLOCK)
                data = dev.read(count * BLOCK)
                end = min(len(got), logical * BLOCK + len(data))
                got[logical * BLOCK:end] = data[:end - logical * BLOCK]
            if want:
                total += 1
                same += got[:len(want)] == want
    print(same, 'of', total)
    return total > 0 and same == total


def cmd_search(device, *paths):
    wanted = {}
    for path in regular_files(paths):
        with open(path, 'rb') as f:
            data = f.read()
        for i in range(0, len(data) - SECTOR + 1, SECTOR):
            sector = data[i:i + SECTOR]
            if sector.count(sector[0]) < SECTOR // 2:
                wanted[sector] = False
    with open(device, 'rb') as dev:
        zeros = bytes(1 << 20)
        while True:
            data = dev.read(1 << 20)
            if not data:
                break
            if data == zeros:
                continue
            for i in range(0, len(data), SECTOR):
                if data[i:i + SECTOR] in wanted:
                    wanted[data[i:i + SECTOR]] = True
    print(sum(wanted.values()), 'of', len(wanted))


def main():
    commands = {name[4:]: f for name, f in globals().items() if name.startswith('cmd_')}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    sys.exit(0 if commands[sys.argv[1]](*sys.argv[2:]) in (None, True) else 1)


main()
