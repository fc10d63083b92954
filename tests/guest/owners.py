#!/usr/bin/python3 -IS
"""Checks the data that tests/guest/owners.sh has written. Every 4096-byte block of an owner's file repeats
a tag: "owner", the id in four digits, "b" for a buffered or "d" for a direct write, and the byte
offset of the write in its file, in eight bytes.

  owners.py scan DEVICE MAP  the whole device against the whole map: prints, sorted, how
                          many blocks have which content under which slot, as
                          "<content> <slot> <blocks>", content being <id><b or d>, "zeros" for
                          unassigned blocks that are, or "other"
  owners.py job ROOT BY SIZE KINDS ID...  makes the files that fio is to write, of SIZE KiB, and prints
                          the job file for it; KINDS is b, d, bd for both, or b/d in turn, and BY is
                          uid, gid or projid: what of the writer is ID. ID 9999 is that of root's data
  owners.py files ROOT    every file below ROOT, <id>/b and <id>/d, is its owner's data, and
                          complete; prints how many are
"""
# SPDX-License-Identifier: GPL-2.0-only

import collections
import os
import subprocess
import sys

BLOCK = 4096
CHUNK = 256


def tag(block):
    at = block.find(b'owner', 0, 64)
    if at < 0 or block.count(block[at:at + 18]) < BLOCK // 18 - 1:
        return None
    return block[at + 5:at + 10].decode('ascii', 'replace'), \
        int.from_bytes(block[at + 10:at + 18], 'little')


def cmd_scan(device, mapfile):
    found = collections.Counter()
    zeros = bytes(BLOCK)
    expected = 0
    with open(mapfile) as f, open(device, 'rb') as dev:
        size = dev.seek(0, os.SEEK_END) // BLOCK
        dev.seek(0)
        for line in f:
            first, count, slot = map(int, line.split())
            if first != expected:
                sys.exit(f'the map has {first}, expected {expected}')
            expected = first + count
            while count:
                n = min(count, CHUNK)
                data = dev.read(n * BLOCK)
                if len(data) != n * BLOCK:
                    sys.exit('short read')
                count -= n
                if slot == 0 and data == zeros * n:
                    found['zeros', slot] += n
                    continue
                for i in range(0, len(data), BLOCK):
                    who = tag(data[i:i + BLOCK])
                    found[who[0] if who else 'other', slot] += 1
    if expected != size:
        sys.exit(f'the map ends at {expected}, the device at {size}')
    for (content, slot), count in sorted(found.items()):
        print(content, slot, count)


def kinds_of(kinds, index):
    return kinds.split('/')[index % (kinds.count('/') + 1)]


def cmd_job(root, by, size, kinds, *ids):
    print('[global]\nioengine=psync\nrw=randwrite\nverify=pattern\ndo_verify=1\nverify_fatal=1\n'
          f'verify_state_save=0\nfallocate=none\ngtod_reduce=1\nsize={size}k')
    for index, ident in enumerate(ids):
        number = 0 if ident == '9999' else int(ident)
        uid = number if by == 'uid' else 2000
        gid = number if by == 'gid' else 2000
        folder = os.path.join(root, ident)
        os.makedirs(folder, exist_ok=True)
        os.chown(folder, uid, gid)
        for kind in kinds_of(kinds, index):
            path = os.path.join(folder, kind)
            # of its size, or fio makes it anew, as root
            with open(path, 'ab') as f:
                f.truncate(int(size) * 1024)
            os.chown(path, uid, gid)
            if by == 'projid':
                subprocess.run(['chattr', '-p', str(number), path], check=True)
            print(f'[{ident}{kind}]\nfilename={path}\nverify_pattern="owner{ident}{kind}"%o\n'
                  f'uid={uid}\ngid={gid}')
            print('bs=4k\nend_fsync=1' if kind == 'b' else 'bs=16k\ndirect=1')


def cmd_files(root):
    good = 0
    for name in sorted(os.listdir(root)):
        if not name.isdigit():
            continue
        for kind, unit in ('b', 4096), ('d', 16384):
            path = os.path.join(root, name, kind)
            if not os.path.exists(path):
                continue
            with open(path, 'rb') as f:
                data = f.read()
            if not data:
                sys.exit(f'{path} is empty')
            for i in range(0, len(data), BLOCK):
                if tag(data[i:i + BLOCK]) != (name + kind, i - i % unit):
                    sys.exit(f'{path} at {i}: {data[i:i + 32]}')
            good += 1
    print(good)


def main():
    commands = {name[4:]: f for name, f in globals().items() if name.startswith('cmd_')}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])


main()
