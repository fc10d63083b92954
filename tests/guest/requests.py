#!/usr/bin/python3
# See 11-requests.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import mmap
import os
import random
import re
import struct
import subprocess
import threading
import time

import kc

DISK = "/dev/disk/kc/"
DATA, META = DISK + "data", DISK + "meta"
OFFSET = 32768
AES = "aes-xts-plain64"
UIDS = {1: 0, 2: 1000, 3: 1001}  # slot -> user
RND = random.Random(4711)


def table(length, *opts, disk=DATA, offset=OFFSET):
    return "0 %d keyed-crypt %s :64:logon:kc:root 0 %s %d %d %s" % (
        length, AES, disk, offset, len(opts), " ".join(opts))


def make(length, *opts, **kw):
    """A new device with its owners."""
    kc.zero(kw.get("disk", DATA), 0, 8 << 20)
    kc.zero(META, 0, 8 << 20)
    dev = kc.create("kc", table(length, *opts, **kw), new=True)
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")
    return dev


def runs(owners, first=0):
    out, start = [], 0
    for i in range(1, len(owners) + 1):
        if i == len(owners) or owners[i] != owners[start]:
            out.append("%d %d %d" % (first + start, i - start, owners[start]))
            start = i
    return "\n".join(out)


def count_lines(owners):
    return ["%s %d unlocked %d :64:logon:kc:%s %d" % (name, slot, UIDS[slot], name, owners.count(slot))
            for slot, name in ((2, "alice"), (3, "bob"))]


# ---- what is written, by whom, in whatever sizes: a model of the device in memory ----

class Model:
    def __init__(self, dev, length, bs):
        self.dev, self.bs, self.size = dev, bs, length * 512
        self.data = bytearray(self.size)
        self.owners = [0] * (self.size // bs)
        self.pattern = os.urandom(8 << 20)

    def where(self, size):
        return RND.randrange((self.size - size) // self.bs + 1) * self.bs

    def write(self, at, size, slot):
        p = RND.randrange(len(self.pattern) - size)
        data = self.pattern[p:p + size]
        kc.write(self.dev, at, data, uid=UIDS[slot] or None)
        self.data[at:at + size] = data
        self.owners[at // self.bs:(at + size) // self.bs] = [slot] * (size // self.bs)

    def discard(self, at, size):
        kc.discard(self.dev, at, size)
        self.data[at:at + size] = bytes(size)
        self.owners[at // self.bs:(at + size) // self.bs] = [0] * (size // self.bs)

    def read_ok(self, at, size, flags=os.O_DIRECT):
        return kc.read(self.dev, at, size, flags) == self.data[at:at + size]

    def check(self, name, flags=os.O_DIRECT):
        kc.same(name + ": data", kc.read(self.dev, 0, self.size, flags), bytes(self.data))
        kc.equal(name + ": map", whole_map(len(self.owners)), runs(self.owners))


def whole_map(nr):
    """Asked for in pieces, whose ends must not show."""
    out = []
    at = 0
    while at < nr:
        n = min(nr - at, 3001)
        for line in kc.message("kc", "map %d %d" % (at, n)).split("\n"):
            first, length, slot = [int(w) for w in line.split()]
            if out and out[-1][2] == slot and out[-1][0] + out[-1][1] == first:
                out[-1][1] += length
            else:
                out.append([first, length, slot])
        at += n
    return "\n".join("%d %d %d" % tuple(run) for run in out)


def check_sizes(bs, length):
    name = "sector_size %d" % bs
    dev = make(length, "owner:uid", "allow_discards", "sector_size:%d" % bs)
    m = Model(dev, length, bs)
    sizes = [4096, 8192, 12288, 36864, 65536, 102400, 131072, 262144, 1 << 20, (1 << 20) + 4096, 3 << 20]
    if bs < 4096:
        sizes += [512, 1024, 1536, 3584, 4608, 66048]
    bad = []
    for size in sizes:
        for i in range(3):
            at = m.where(size)
            m.write(at, size, i % 3 + 1)
            if not m.read_ok(at, size):
                bad.append((at, size))
    kc.equal(name + ": writes of every size read back", bad, [])
    m.check(name + ": first writes")
    # over each other's blocks, discards in between, and reads that lie across anything
    before = int(kc.status("kc").split()[8])
    for i in range(60):
        size = RND.choice([bs, 4096, 8192, 12288, 36864, 102400])
        at = m.where(size)
        if RND.random() < 0.2:
            m.discard(at, size)
        else:
            m.write(at, size, RND.choice((1, 2, 3)))
    kc.ok(name + ": blocks were reassigned", int(kc.status("kc").split()[8]) > before, kc.status("kc"))
    for i in range(60):
        size = RND.randrange(1, (512 << 10) // bs) * bs
        at = m.where(size)
        if not m.read_ok(at, size):
            bad.append((at, size))
    kc.equal(name + ": reads across owners and holes", bad, [])
    m.check(name + ": writes across owners, and discards")
    kc.same(name + ": with readahead", kc.read(dev, 0, m.size, 0), bytes(m.data))
    kc.message("kc", "commit")
    kc.equal(name + ": map after commit", whole_map(len(m.owners)), runs(m.owners))
    kc.equal(name + ": blocks are counted", kc.message("kc", "owner list").split("\n"),
             count_lines(m.owners))
    kc.reload("kc", table(length, "owner:uid", "allow_discards", "sector_size:%d" % bs))
    m.check(name + ": another table loaded")
    kc.remove("kc")
    m.dev = kc.create("kc", table(length, "owner:uid", "sector_size:%d" % bs))
    m.check(name + ": removed and created again")
    # every block once more, one after the other
    data = os.urandom(m.size)
    kc.write(m.dev, 0, data, uid=1001)
    m.data[:], m.owners = data, [3] * len(m.owners)
    m.check(name + ": the whole device overwritten")
    kc.remove("kc")
    m.dev = kc.create("kc", table(length, "owner:uid", "sector_size:%d" % bs))
    m.check(name + ": and created again")
    kc.remove("kc")


# ---- requests no disk with such blocks takes ----

def errors(dev, mis):
    """What it makes of odd requests; mis: of memory that is not aligned too."""
    out = []
    end = kc.size_of(dev)
    buf = mmap.mmap(-1, 65536)
    for shift in (0, 512, 4) if mis else (0,):
        for at, size in ((0, 512), (512, 4096), (512, 512), (0, 6144), (4096, 2048), (0, 1), (1, 4096),
                         (0, 4097), (end, 4096), (end - 4096, 4096), (end - 4096, 8192), (end - 512, 512),
                         (end - 512, 4096), (0, 4096), (8192, 32768)):
            for flags in os.O_RDONLY, os.O_WRONLY:
                fd = os.open(dev, flags | os.O_DIRECT)
                view = [memoryview(buf)[shift:shift + size]]
                try:
                    n = os.pwritev(fd, view, at) if flags else os.preadv(fd, view, at)
                except OSError as e:
                    n = os.strerror(e.errno)
                os.close(fd)
                out.append((shift, "end%+d" % (at - end) if at >= end - 4096 else at, size, flags, n))
    for at, size in ((512, 4096), (0, 512), (1, 4096), (0, 6144), (end - 4096, 8192), (end, 4096)):
        for op in kc.zero, kc.discard:
            out.append((op.__name__, at - end if at >= end - 4096 else at, size,
                        kc.errno_of(op, dev, at, size)))
    return out


def check_errors():
    length = 32 << 11
    for bs, disk in (4096, DISK + "fourk"), (512, DISK + "half"):
        dev = make(length, "allow_discards", "sector_size:%d" % bs)
        for name in "logical_block_size", "physical_block_size", "minimum_io_size":
            kc.equal("sector_size %d: %s is that of such a disk" % (bs, name), kc.queue(dev, name),
                     kc.queue(disk, name))
        for line, disk_line in zip(errors(dev, False), errors(disk, False)):
            kc.equal("sector_size %d: request %s ends as on such a disk" % (bs, line[:-1]), line, disk_line)
        crypt = kc.create("crypt", "0 %d crypt %s :64:logon:kc:root 0 %s %d 2 sector_size:%d allow_discards" %
                          (length, AES, DATA, OFFSET + length, bs))
        kc.equal("sector_size %d: odd requests, odd memory too, end as in dm-crypt" % bs,
                 errors(dev, True), errors(crypt, True))
        kc.remove("kc", "crypt")


# ---- unassigned blocks, discards ----

def data_io(before):
    return [b - a for a, b in zip(before, kc.disk_stat(DATA))]


def check_holes():
    length = 16 << 11
    opts = "owner:uid", "meta_device:" + META
    dev = make(length, *opts, offset=0)
    kc.zero(DATA, 0, 16 << 20)
    kc.write(DATA, 0, b"\xa5" * (1 << 20))
    before = kc.disk_stat(DATA)
    kc.same("unassigned blocks are zeros, whatever is on the disk", kc.read(dev, 0, 4 << 20), bytes(4 << 20))
    kc.same("in the page cache too", kc.read(dev, 0, 4 << 20, 0), bytes(4 << 20))
    kc.equal("and nothing is read for them", data_io(before), [0] * 6)
    kc.write(dev, 8192, b"x" * 4096)
    before = kc.disk_stat(DATA)
    kc.same("with a written block between", kc.read(dev, 0, 65536),
            bytes(8192) + b"x" * 4096 + bytes(65536 - 12288))
    kc.equal("just that one is read", data_io(before), [1, 8, 0, 0, 0, 0])

    kc.equal("without allow_discards there are none", kc.errno_of(kc.discard, dev, 8192, 4096), "EOPNOTSUPP")
    kc.equal("and the queue says so", kc.queue(dev, "discard_max_bytes"), "0")
    kc.equal("the block stays", kc.message("kc", "map 0 4"), "0 2 0\n2 1 1\n3 1 0")
    kc.same("with its data", kc.read(dev, 8192, 4096), b"x" * 4096)

    kc.reload("kc", table(length, *opts, "allow_discards", offset=0))
    data = os.urandom(8 << 20)
    kc.write(dev, 0, data, uid=1000)
    reassigned = kc.status("kc").split()[8]
    before = kc.disk_stat(DATA)
    kc.discard(dev, 1 << 20, 6 << 20)
    kc.discard(dev, 4096, 4096)
    kc.ok("with allow_discards the disk gets them", data_io(before)[4] >= 2, data_io(before))
    kc.equal("and no write", data_io(before)[2:4], [0, 0])
    holes = "0 1 2\n1 1 0\n2 254 2\n256 1536 0\n1792 256 2\n2048 2048 0"
    expected = bytearray(data)
    expected[1 << 20:7 << 20] = bytes(6 << 20)
    expected[4096:8192] = bytes(4096)
    for what in "discarded", "committed", "reloaded", "removed and created":
        if what == "committed":
            kc.message("kc", "commit")
        elif what == "reloaded":
            kc.reload("kc", table(length, *opts, "allow_discards", offset=0))
        elif what[:3] == "rem":
            kc.remove("kc")
            dev = kc.create("kc", table(length, *opts, offset=0))
        kc.equal(what + ": blocks are unassigned", kc.message("kc", "map 0 4096"), holes)
        kc.same(what + ": and zeros", kc.read(dev, 0, 8 << 20), bytes(expected))
        before = kc.disk_stat(DATA)
        kc.read(dev, 1 << 20, 6 << 20)
        # the timer may commit meanwhile, so writes do not count
        kc.equal(what + ": with no read of the disk", data_io(before)[:2], [0, 0])
        if what == "discarded":
            kc.equal("a discarded block is nobody's: no reassignment", kc.status("kc").split()[8], reassigned)
    kc.write(dev, 1 << 20, data[:1 << 20], uid=1001)
    kc.equal("another owner may write there", kc.message("kc", "map 250 270"),
             "250 6 2\n256 256 3\n512 8 0")
    kc.equal("which reassigns nothing", kc.status("kc").split()[8], "0")
    kc.remove("kc")


# ---- whose direct writes are ----

def check_owners():
    dev = make(16 << 11, "owner:projid")
    kc.write(dev, 0, bytes(4096), uid=1000)
    kc.equal("owner:projid: a direct write is nobody's in particular", kc.message("kc", "map 0 2"), "0 1 1\n1 1 0")
    kc.remove("kc")

    dev = make(16 << 11, "owner:uid", "meta_device:" + META, offset=0)
    # memory of root, who is no owner, and the page cache of a disk, which is nobody's
    page = mmap.mmap(-1, 4096)
    page[:] = b"p" * 4096
    fd = os.open(DISK + "half", os.O_RDONLY)
    other = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
    os.close(fd)
    before = kc.disk_stat(DATA)
    fd = os.open(dev, os.O_WRONLY | os.O_DIRECT)
    n = os.pwritev(fd, [page, other, page], 0)
    os.close(fd)
    kc.equal("pages of several sources and one owner are written", n, 12288)
    kc.equal("with one request", data_io(before)[2:4], [1, 24])
    kc.same("which is right", kc.read(dev, 0, 12288), page[:] + other[:] + page[:])
    kc.equal("and under the device key", kc.message("kc", "map 0 4"), "0 3 1\n3 1 0")

    # Pages of the kernel, written in the context of root, who is an owner now
    kc.message("kc", "owner ids alice 0")
    kc.write(dev, 0, bytes(65536))
    kc.equal("root's direct writes are alice's", kc.message("kc", "map 0 16"), "0 16 2")
    kc.create("pool", "0 16384 thin-pool %s %sfourk 128 0" % (dev, DISK))
    kc.message("pool", "create_thin 0")
    kc.remove("pool")
    first = kc.message("kc", "map 0 16").split("\n")[0].split()
    kc.ok("metadata of a thin pool on it is nobody's in particular", first[0] == "0" and first[2] == "1", first)
    kc.create("pool", "0 16384 thin-pool %s %sfourk 128 0" % (dev, DISK))
    kc.equal("and is read again", kc.errno_of(kc.message, "pool", "create_thin 0"), "EEXIST")
    kc.remove("pool", "kc")


def check_stacked():
    """A target above it keeps its limits when another table with larger blocks is loaded."""
    length = 16 << 11
    dev = make(length, "owner:uid", "sector_size:512")
    upper = kc.create("upper", "0 %d linear %s 0" % (length, dev))
    # not while the mapped device has the other area
    kc.reload("kc", "0 %d error" % length)
    kc.reload("kc", kc.formats(table(length, "owner:uid", "meta_device:" + META, offset=OFFSET + length)))
    kc.equal("a stacked device still says that it takes sectors", kc.queue(upper, "logical_block_size"), "512")
    kc.write(upper, 0, b"s" * 8192)
    before = kc.disk_stat(DATA)
    for at, size in (512, 512), (0, 512), (3584, 1024), (512, 4096):
        kc.equal("a read of %d bytes at %d fails" % (size, at), kc.errno_of(kc.read, upper, at, size), "EIO")
        kc.equal("a write too", kc.errno_of(kc.write, upper, at, bytes(size)), "EIO")
    kc.equal("the disk saw none of them", data_io(before)[:4], [0] * 4)
    kc.same("blocks are as they were", kc.read(upper, 0, 8192), b"s" * 8192)
    kc.remove("upper", "kc")


# ---- trace events ----

def mount_tracing():
    tracing = "/sys/kernel/tracing/"
    if not os.path.exists(tracing + "trace"):
        subprocess.run(("mount", "-t", "tracefs", "tracefs", tracing), check=True)
    return tracing


class Perf:
    """Counts an event on all processors, as perf does."""

    def __init__(self, event):
        attr = struct.pack("=IIQQQQQ16x", 2, 64, event, 0, 0, 0, 0)
        nr = {"x86_64": 298, "aarch64": 241, "armv7l": 364, "s390x": 331}[os.uname().machine]
        self.fds = [kc.syscall(nr, attr, -1, cpu, -1, 0) for cpu in range(os.cpu_count())]

    def read(self):
        return sum(struct.unpack("=Q", os.read(fd, 8))[0] for fd in self.fds)

    def close(self):
        for fd in self.fds:
            os.close(fd)


def check_trace():
    """The trace events, with a reader of each kind at once: tracefs and perf."""
    tracing = mount_tracing()
    names = "io", "key", "commit"

    def put(name, value):
        with open(tracing + name, "w") as f:
            f.write(value)

    dev = make(16 << 11, "owner:uid")
    kc.message("kc", "commit")
    perf = {}
    for name in names:
        with open(tracing + "events/keyed_crypt/keyed_crypt_%s/id" % name) as f:
            perf[name] = Perf(int(f.read()))
    put("trace", "")
    put("events/keyed_crypt/enable", "1")
    start = {name: perf[name].read() for name in names}
    kc.write(dev, 0, bytes(16384), uid=1000)
    kc.read(dev, 4096, 8192)
    kc.read(dev, 16384, 4096)
    kc.message("kc", "commit")
    kc.message("kc", "owner lock alice")
    kc.errno_of(kc.read, dev, 0, 4096)
    kc.message("kc", "owner unlock alice")
    counted = {name: perf[name].read() - start[name] for name in names}
    put("events/keyed_crypt/enable", "0")
    for name in names:
        perf[name].close()
    with open(tracing + "trace") as f:
        seen = [re.sub(r".* keyed_crypt_(\w+: )\d+:\d+ (seq \d+ )?", r"\1", line.rstrip()) for line in f
                if " keyed_crypt_" in line]
    kc.equal("trace events", sorted(seen), sorted((
        "io: write block 0 count 4 slot 2 change", "io: read block 1 count 2 slot 2 own",
        "io: read block 4 count 1 slot 0 unassigned", "commit: blocks 1 error 0", "key: slot 2 locked",
        "io: read block 0 count 1 slot 2 locked", "key: slot 2 unlocked")))
    kc.equal("perf counts as many", counted, {"io": 4, "key": 2, "commit": 1})
    kc.remove("kc")


# ---- table lines and status ----

def check_tables():
    length = 16 << 11
    ring = kc.libc.syscall(kc.SYS_keyctl, 0, -4, 1)
    for name, line, opts in (
            ("no options", table(length), ""),
            ("all options", table(length, "owner:gid", "reassign:lazy", "sector_size:512", "iv_large_sectors", "allow_discards",
                                  "meta_offset:16", "meta_device:" + META, "meta_cache:2", "keyring:%d" % ring), 9),
            ("defaults spelled out", table(length, "owner:none", "sector_size:4096", "meta_cache:4",
                                           "meta_offset:0", "reassign:strict"), "")):
        kc.zero(DATA, 0, 8 << 20)
        kc.zero(META, 0, 8 << 20)
        dev = kc.create("kc", line, new=True)
        kc.write(dev, 0, b"y" * 4096, uid=1000)
        printed = kc.table_of("kc")
        with open(kc.sysfs(DATA) + "dev") as f:
            nr = f.read().strip()
        kc.ok(name + ": the line has the arguments of dm-crypt",
              printed.startswith("0 %d keyed-crypt %s :64:logon:kc:root 0 %s %d" % (length, AES, nr, OFFSET)), printed)
        kc.equal(name + ": number of options", printed.split()[8:9], [str(opts)] if opts else [])
        if opts:
            kc.equal(name + ": all of them are printed", sorted(o.split(":")[0] for o in printed.split()[9:]),
                     sorted(o.split(":")[0] for o in line.split()[9:]))
        kc.reload("kc", printed)
        kc.equal(name + ": loads over itself", kc.table_of("kc"), printed)
        kc.remove("kc")
        dev = kc.create("kc", printed)
        kc.equal(name + ": loads again", kc.table_of("kc"), printed)
        kc.same(name + ": and is the same device", kc.read(dev, 0, 4096), b"y" * 4096)
        kc.ok(name + ": status", re.fullmatch(r"0 %d keyed-crypt rw \d+ \d+/256 0 0 0 0 *" % length, kc.status("kc")),
              kc.status("kc"))
        kc.ok(name + ": IMA", re.fullmatch(
            r"0 %d keyed-crypt target_name=keyed-crypt,target_version=1\.\d+\.\d+,allow_discards=%s,"
            r"iv_large_sectors=%s,sector_size=%d,cipher_string=%s,key_size=64,owner=%s,reassign=%s,uuid=[-0-9a-f]{36};" %
            ((length,) + (("y", "y", 512, AES, "gid", "lazy") if opts else ("n", "n", 4096, AES, "none", "strict"))),
            kc.ima_of("kc")), kc.ima_of("kc"))
        kc.remove("kc")


# ---- more map than fits the cache ----

def slab(name):
    with open("/sys/kernel/slab/%s/shrink" % name, "w") as f:
        f.write("1")  # or KASAN keeps what has been freed for a while
    with open("/proc/slabinfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(name + " "))


def check_cache():
    bs, per_map = 512, 1920 * 512
    length = 1 << 21  # 1 GiB: 1093 map blocks
    dev = make(length, "owner:uid", "sector_size:512", "meta_cache:1")
    nr = length * 512 // per_map
    order = list(range(0, nr - 1, 4)) + [nr - 1]  # more than fit the cache

    def where(i):
        """Across the end of a map block, but for the last one"""
        return (i + 1) * per_map - (4 if i < nr - 1 else 8) * bs

    before = slab("kmalloc-4k")
    content = {}
    for turn in range(2):
        RND.shuffle(order)
        for slot in 1, 2:
            def go():
                fd = os.open(dev, os.O_WRONLY | os.O_DIRECT)
                buf = mmap.mmap(-1, 4096)
                for i in order:
                    if (i + turn) % 2 + 1 != slot:
                        continue
                    buf[:] = content[i]
                    os.pwritev(fd, [buf], where(i))
                os.close(fd)
            for i in order:
                if (i + turn) % 2 + 1 == slot:
                    content[i] = os.urandom(8) * 512
            kc.run_as(UIDS[slot], go)
        kc.ok("turn %d: the cache keeps to meta_cache:1" % turn, 100 < slab("kmalloc-4k") - before < 250,
              slab("kmalloc-4k") - before)
        if turn:
            kc.remove("kc")
            dev = kc.create("kc", table(length, "owner:uid", "sector_size:512", "meta_cache:1"))
        RND.shuffle(order)
        fd = os.open(dev, os.O_RDONLY | os.O_DIRECT)
        buf = mmap.mmap(-1, 4096)
        bad = []
        for i in order:
            os.preadv(fd, [buf], where(i))
            if buf[:] != content[i]:
                bad.append(i)
        os.close(fd)
        kc.equal("turn %d: all map blocks, in any order, hold what was written" % turn, bad, [])
        a = sum(8 for i in order if (i + turn) % 2)
        kc.ok("turn %d: and count right" % turn,
              kc.message("kc", "owner list").startswith("alice 2 unlocked 1000 :64:logon:kc:alice %d\n" % a),
              kc.message("kc", "owner list"))
    kc.remove("kc")


# ---- the journal goes round ----

def check_journal():
    length = 32 << 11
    opts = "owner:uid", "sector_size:512"
    dev = make(length, *opts)
    data = os.urandom(512)
    first = int(kc.status("kc").split()[4])
    fd = os.open(dev, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
    buf = mmap.mmap(-1, 512)
    buf[:] = data
    used = []
    flushes = kc.disk_stat(DATA)[5]
    for i in range(900):
        os.pwritev(fd, [buf], (i * 69 % 60000) * 512)
        if i % 10 == 0:
            u, n = kc.status("kc").split()[4 + 1].split("/")
            used.append(int(u))
    os.close(fd)
    words = kc.status("kc").split()
    kc.ok("every durable first write is one journal block", 900 <= int(words[4]) - first <= 930, words)
    kc.equal("the journal has its size", n, "256")
    kc.ok("it is reused and never overfull", 64 <= max(used) <= 256, used)
    kc.ok("and emptied meanwhile", sum(b < a for a, b in zip(used, used[1:])) >= 3, used)
    kc.ok("each was made durable by a flush", kc.disk_stat(DATA)[5] - flushes >= 900,
          kc.disk_stat(DATA)[5] - flushes)
    blocks = {i * 69 % 60000 for i in range(900)}
    owners = [int(i in blocks) for i in range(65536)]
    kc.equal("the map is right", whole_map(65536), runs(owners))
    before = kc.status("kc").split()[4]
    fd = os.open(dev, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
    for i in range(20):
        os.pwritev(fd, [buf], 0)
    os.close(fd)
    kc.equal("writes over one's own blocks need no journal", kc.status("kc").split()[4], before)
    kc.remove("kc")
    dev = kc.create("kc", table(length, *opts))
    kc.equal("a clean stop leaves the journal empty", kc.status("kc").split()[5], "0/256")
    kc.equal("and the map as it was", whole_map(65536), runs(owners))
    bad = [i for i in sorted(blocks)[::9] if kc.read(dev, i * 512, 512) != data]
    kc.equal("and the data", bad, [])
    kc.remove("kc")


def check_bounce_pages():
    tracing = mount_tracing()

    def put(name, value):
        with open(tracing + name, "w") as f:
            f.write(value)

    def freed(by):
        """How many pages before the last write ended, and how many after it."""
        with open(tracing + "trace") as f:
            lines = [line for line in f if " tracing_mark_write: " in line or by in line and " mm_page_free: " in line]
        at = next(i for i, line in enumerate(lines) if " tracing_mark_write: " in line)
        return at, len(lines) - at - 1

    dev = make(16 << 11, "owner:uid")
    fd = os.open(dev, os.O_WRONLY | os.O_DIRECT)
    buf = mmap.mmap(-1, 1 << 20)
    put("buffer_size_kb", "8192")
    os.pwritev(fd, [buf], 0)
    put("trace", "")
    put("events/kmem/mm_page_free/enable", "1")
    for i in range(64):
        os.pwritev(fd, [buf], i % 16 << 20)
    put("trace_marker", "the last write ended")
    time.sleep(3)
    put("events/kmem/mm_page_free/enable", "0")
    os.close(fd)
    meanwhile, _ = freed("")
    _, later = freed(" kworker/")
    kc.ok("a write gets the bounce pages of the one before", meanwhile < 64 * 256 // 4, meanwhile)
    kc.ok("and they are freed soon after the last", 200 < later < 256 * os.cpu_count() + 100, later)
    kc.remove("kc")


def check_memory():
    """A disk that does not answer: what waits for it must not take all the memory."""
    def used():
        with open("/proc/meminfo") as f:
            m = {l.split(":")[0]: int(l.split()[1]) for l in f}
        return (m["MemTotal"] - m["MemFree"] - m["Buffers"] - m["Cached"] - m["SReclaimable"]) >> 10

    def write(i):
        go.wait()
        ended.append(os.pwritev(fd, [buf], i << 20))

    go = threading.Event()
    go.set()
    lower = kc.create("lower", "0 %d linear %s 0" % (kc.size_of(DATA) >> 9, DATA))
    fd = os.open(make(192 << 11, "owner:uid", disk=lower), os.O_WRONLY | os.O_DIRECT)
    buf = mmap.mmap(-1, 1 << 20)
    ended = []
    for i in range(192):
        write(i)  # a second write has nothing to wait for but memory
    ended.clear()
    kc.suspend("lower")
    go.clear()
    writers = [threading.Thread(target=write, args=(i,)) for i in range(192)]
    for w in writers:
        w.start()
    before = used()         # the memory of the threads is none of ours
    go.set()
    time.sleep(5)
    taken, limit = used() - before, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 50 >> 20
    kc.resume("lower")
    for w in writers:
        w.join()
    os.close(fd)
    kc.ok("192 writes of 1 MiB that wait for the disk take 2 % of the memory", limit // 2 < taken < limit + 8,
          "%d MiB, 2 %% are %d" % (taken, limit))
    kc.equal("and end when it goes on", (len(ended), set(ended)), (192, {1 << 20}))
    kc.remove("kc", "lower")


def check_fio():
    for bs, how in ((4096, "--direct=0 --end_fsync=1"), (512, "--direct=1 --fsync=8")):
        dev = make(16 << 11, "owner:uid", "sector_size:%d" % bs)
        cmd = ("fio --name=v --filename=%s --rw=randwrite --bsrange=%d-256k --blockalign=%d --size=4M %s "
               "--ioengine=libaio --iodepth=8 --verify=crc32c --do_verify=1 --verify_fatal=1 "
               "--randrepeat=1 --output=/dev/null" % (dev, bs, bs, how)).split()
        r = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        kc.ok("sector_size %d: fio verifies with %s" % (bs, how), r.returncode == 0, r.stdout.decode())
        kc.remove("kc")


kc.join_session()
for who in "root", "alice", "bob":
    kc.add_key("logon", "kc:" + who, os.urandom(64))
ALL = {f.__name__: f for f in (check_errors, check_holes, check_owners, check_stacked, check_trace, check_tables, check_cache, check_journal,
                                check_bounce_pages, check_memory, check_fio)}
ALL["check_sizes4096"] = lambda: check_sizes(4096, 24 << 11)
ALL["check_sizes512"] = lambda: check_sizes(512, 8 << 11)
for check_name, check in ALL.items():
    if not kc.wanted(check_name):
        continue
    start = time.monotonic()
    check()
    kc.diag("%s: %.1f s" % (check_name, time.monotonic() - start))
kc.done()
