#!/usr/bin/python3
"""Files of several owners on ext4, on a ramdisk, encrypted in the ways there are; see
Documentation/benchmarks.rst. Runs in the VM of tests/bench/bench, prints a line of JSON for each figure.

  fs.py [--list] [--contestant NAME]... [CASE-PATTERN...]

On a processor with AES instructions it compares with AES and Adiantum, on one without (booted with
clearcpuid=aes) with AES alone.

Contestants:
  raw              nothing is encrypted
  fscrypt          ext4 encrypts, each owner's folder under its own key
  crypt            ext4 on dm-crypt
  crypt-nowq       the same with no_read_workqueue and no_write_workqueue
  fscrypt+crypt    both: fscrypt on crypt; what there was for several owners on an encrypted disk
  fscrypt+crypt-nowq
  keyed            ext4 on keyed-crypt, an owner for each user id
  keyed-lazy       the same with reassign:lazy; only where blocks change their owner
"""
# SPDX-License-Identifier: GPL-2.0-only

import argparse
import fcntl
import fnmatch
import gc
import mmap
import os
import random
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import common
from common import MIB, kc

BLOCK = 4096
DISK = "/dev/ram0"
META = 4 * MIB              # keyed-crypt's metadata, before the data
FS_SIZE = 256 * MIB         # of every contestant's ext4
FS_REUSED = 72 * MIB        # the same, for ext4-seq-write-reused
ROOT = "/run/kc-bench"      # in memory. The processes of owners have it for /: not even a name is then looked up
                            # on the host's disk, and if it were the guest's clock would leap
MNT = ROOT + "/mnt"
TREE = ROOT + "/trees"      # what is copied
BUSYBOX = "/run/kc/busybox"  # static
OWNERS = (1001, 1002, 1003, 1004)
PREVIOUS = 1005             # whose blocks were freed
MARK = b"kc-bench: plaintext of a user: "
LABEL = "kc-bench-label"
UUID = "6b632d62-656e-4368-8000-000000000000"  # the same order in folders every time

SEQ = 8 * MIB               # written and read by each owner
REQUEST = 128 << 10
RANDOM = 512                # requests of 4 KiB of each owner, to a quarter of such a file
SMALL_FILES = 500
TREE_FILES = 375
SQL_TRANSACTIONS = 25
SQL_INSERTS = 20

# short name, as in CIPHER=: label of the figures, name in table lines, bytes of a key, fscrypt's modes for
# contents and names, its flags
CIPHERS = {
    "aes": ("aes-xts-plain64", "aes-xts-plain64", 64, 1, 4, 3),
    # with FSCRYPT_POLICY_FLAG_DIRECT_KEY, which is faster
    "adiantum": ("xchacha12,aes-adiantum-plain64", "xchacha12,aes-adiantum-plain64", 32, 9, 9, 3 | 4),
    # on a processor without AES instructions
    "aes-soft": ("aes-xts-plain64 in software", "aes-xts-plain64", 64, 1, 4, 3),
}
MCL_CURRENT, MCL_FUTURE = 1, 2
SYS_syncfs = 306
ALL = ["raw", "fscrypt", "crypt", "crypt-nowq", "fscrypt+crypt", "fscrypt+crypt-nowq", "keyed"]
# Without inline encryption fscrypt has no direct I/O: it falls back to buffered.
DIRECT = ["raw", "crypt", "crypt-nowq", "keyed"]
REUSED = ["crypt-nowq", "fscrypt+crypt-nowq", "keyed", "keyed-lazy"]

# name: unit
CASES = {
    "ext4-seq-write-buffered": "MiB/s",
    "ext4-seq-read-buffered": "MiB/s",
    "ext4-rand-write-4k-buffered": "MiB/s",
    "ext4-rand-read-4k-buffered": "MiB/s",
    "ext4-seq-write-direct": "MiB/s",
    "ext4-seq-read-direct": "MiB/s",
    "ext4-rand-write-4k-direct": "MiB/s",
    "ext4-rand-read-4k-direct": "MiB/s",
    "ext4-tree-copy": "MiB/s",
    "ext4-tree-tar": "MiB/s",
    "ext4-small-files": "files/s",
    "ext4-sqlite": "transactions/s",
    "ext4-seq-write-reused": "MiB/s",
    "ext4-write-memory": "KiB",
}


# --- fscrypt --------------------------------------------------------------------------------------

FS_IOC_ADD_ENCRYPTION_KEY = 0xc0506617
FS_IOC_SET_ENCRYPTION_POLICY = 0x800c6613
KEY_SPEC_IDENTIFIER = 2
POLICY_V2 = 2


def fscrypt_add_key(mnt, raw):
    """Returns the key's identifier."""
    spec, head = "=II32s", "=II32x"
    arg = bytearray(struct.pack(spec, KEY_SPEC_IDENTIFIER, 0, b"") + struct.pack(head, len(raw), 0) + raw)
    fd = os.open(mnt, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_ADD_ENCRYPTION_KEY, arg, True)
    finally:
        os.close(fd)
    return struct.unpack_from(spec, arg)[2][:16]


def fscrypt_set_policy(folder, identifier, contents, names, flags):
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SET_ENCRYPTION_POLICY,
                    struct.pack("=BBBB4x16s", POLICY_V2, contents, names, flags, identifier))
    finally:
        os.close(fd)


# --- contestants ----------------------------------------------------------------------------------

def run(*cmd):
    r = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if r.returncode:
        raise RuntimeError("%s: status %d: %s" % (" ".join(cmd), r.returncode, r.stdout.decode(errors="replace")))


def key_of(number, size):
    """The same keys every time, none like another, and no two halves alike."""
    return bytes(random.Random(number).randbytes(size))


class Contestant:
    def __init__(self, name, cipher, fs_size=FS_SIZE):
        self.name, self.cipher, self.fs_size = name, cipher, fs_size
        _, self.table_name, self.size, *self.policy = CIPHERS[cipher]
        self.fscrypt = name.startswith("fscrypt")
        self.crypt = "crypt" in name.removeprefix("fscrypt").removeprefix("keyed")
        self.keyed = name.startswith("keyed")
        self.nowq = name.endswith("-nowq")
        self.device = DISK

    def __enter__(self):
        sectors = self.fs_size // kc.SECTOR
        if self.crypt:
            options = ["sector_size:4096"]
            if self.nowq:
                options += ["no_read_workqueue", "no_write_workqueue"]
            self.device = common.patient(kc.create, "bench", "0 %d crypt %s %s 0 %s 0 %d %s" % (
                sectors, self.table_name, key_of(0, self.size).hex(), DISK, len(options), " ".join(options)))
        if self.keyed:
            kc.zero(DISK, 0, META)
            for n in (0, PREVIOUS) + OWNERS:
                kc.add_key("logon", "kcbench:%d" % n, key_of(n, self.size))
            options = ["sector_size:4096", "owner:uid", "format"]
            if self.name == "keyed-lazy":
                options.append("reassign:lazy")
            self.device = common.patient(kc.create, "bench", "0 %d keyed-crypt %s :%d:logon:kcbench:0 0 %s %d %d %s" % (
                sectors, self.table_name, self.size, DISK, META // kc.SECTOR, len(options), " ".join(options)))
            for n in OWNERS + (PREVIOUS,):
                kc.message("bench", "owner add u%d %d :%d:logon:kcbench:%d" % (n, n, self.size, n))
        # everything is initialised now, not in the background while something is measured
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-N", "8192", "-O", "encrypt", "-L", LABEL, "-U", UUID,
            "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0,hash_seed=" + UUID,
            self.device, "%dM" % (self.fs_size // MIB))
        run("mount", "-t", "ext4", "-o", "noatime", self.device, MNT)
        for n in OWNERS:
            os.mkdir(self.folder(n))
            if self.fscrypt:
                fscrypt_set_policy(self.folder(n), fscrypt_add_key(MNT, key_of(n, 64)), *self.policy)
            os.chown(self.folder(n), n, n)
        return self

    def __exit__(self, *_):
        run("umount", MNT)
        if self.device != DISK:
            kc.remove("bench")
            os.unlink(self.device)

    @staticmethod
    def folder(owner):
        return "%s/%d" % (MNT, owner)

    def path(self, owner, name):
        return "%s/%d/%s" % (MNT, owner, name)


# --- measuring ------------------------------------------------------------------------------------

def idle():
    with open("/proc/uptime") as f:
        return float(f.read().split()[1])


def by_owners(work, prepare=lambda owner: None, sync=False):
    """Seconds that a process of each owner, all at once, each in its owner's folder, takes for
    work(owner, prepare(owner)), and syncfs() after them."""
    (go_r, go_w), (end_r, end_w), (leave_r, leave_w) = os.pipe(), os.pipe(), os.pipe()
    mnt = os.open(MNT, os.O_RDONLY)
    pids = []
    gc.collect()
    gc.freeze()
    for owner in OWNERS:
        pid = os.fork()
        if not pid:
            try:
                os.chroot(ROOT)
                os.chdir("/mnt/%d" % owner)
                os.setgroups([])
                os.setresgid(owner, owner, owner)
                os.setresuid(owner, owner, owner)
                prepared = prepare(owner)
                os.write(end_w, b".")
                os.read(go_r, 1)
                work(owner, prepared)
                os.write(end_w, b".")
                # what the end of a process costs is not to be measured
                os.read(leave_r, 1)
            except BaseException as e:
                common.note("process of owner %d: %r" % (owner, e))
                os.write(end_w, b"!")
                os._exit(1)
            os._exit(0)
        pids.append(pid)

    def all_there():
        for _ in pids:
            if os.read(end_r, 1) != b".":
                raise RuntimeError("a process failed")

    all_there()
    was_idle, start = idle(), time.monotonic()
    os.write(go_w, b"." * len(pids))
    all_there()
    if sync:
        kc.syscall(SYS_syncfs, mnt)
    seconds, idled = time.monotonic() - start, idle() - was_idle
    os.write(leave_w, b"." * len(pids))
    for pid in pids:
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("a process failed")
    for fd in (go_r, go_w, end_r, end_w, leave_r, leave_w, mnt):
        os.close(fd)
    if idled > seconds / 20 and not common.SMP:
        common.note("of the next %.2f s the guest did nothing in %.2f" % (seconds, idled))
    return seconds


def buffer(size, owner):
    """Page-aligned, as direct I/O needs it."""
    buf = mmap.mmap(-1, size)
    buf[:] = (MARK + b"%d\n" % owner).ljust(64, b".") * (size // 64)
    return buf


def opened(name, flags):
    return os.open(name, flags | os.O_CLOEXEC, 0o600)


def seq_write(name, flags=0):
    def work(owner, prepared):
        fd, buf = prepared
        for at in range(0, SEQ, REQUEST):
            os.pwrite(fd, buf, at)
        os.fsync(fd)

    return len(OWNERS) * SEQ / MIB / by_owners(
        work, lambda o: (opened(name, os.O_WRONLY | os.O_CREAT | flags), buffer(REQUEST, o)))


def seq_read(name, flags=0):
    def work(owner, prepared):
        fd, buf = prepared
        for at in range(0, SEQ, REQUEST):
            os.preadv(fd, [buf], at)

    common.drop_caches()
    return len(OWNERS) * SEQ / MIB / by_owners(
        work, lambda o: (opened(name, os.O_RDONLY | flags), buffer(REQUEST, o)))


def places(owner, what):
    return [n * BLOCK for n in random.Random("%s %d" % (what, owner)).sample(range(SEQ // BLOCK), RANDOM)]


def rand_write(name, flags=0):
    def work(owner, prepared):
        fd, buf, where = prepared
        for at in where:
            os.pwrite(fd, buf, at)
        os.fsync(fd)

    return len(OWNERS) * RANDOM * BLOCK / MIB / by_owners(
        work, lambda o: (opened(name, os.O_WRONLY | flags), buffer(BLOCK, o), places(o, "write")))


def rand_read(name, flags=0):
    def work(owner, prepared):
        fd, buf, where = prepared
        for at in where:
            os.preadv(fd, [buf], at)

    def prepare(owner):
        fd = opened(name, os.O_RDONLY | flags)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return fd, buffer(BLOCK, owner), places(owner, "read")

    common.drop_caches()
    return len(OWNERS) * RANDOM * BLOCK / MIB / by_owners(work, prepare)


def group_buffered(c):
    passes = 3 if c.cipher == "aes" else 1
    yield "ext4-seq-write-buffered", common.median([seq_write("b%d" % n) for n in range(passes)])
    yield "ext4-seq-read-buffered", common.median([seq_read("b%d" % n) for n in range(passes)])
    yield "ext4-rand-write-4k-buffered", rand_write("b0")
    yield "ext4-rand-read-4k-buffered", rand_read("b0")


def group_direct(c):
    yield "ext4-seq-write-direct", seq_write("d", os.O_DIRECT)
    yield "ext4-seq-read-direct", seq_read("d", os.O_DIRECT)
    yield "ext4-rand-write-4k-direct", rand_write("d", os.O_DIRECT)
    yield "ext4-rand-read-4k-direct", rand_read("d", os.O_DIRECT)


def group_reused(c):
    """Every block was somebody else's before. Another filesystem, which that can fill."""
    path = c.path(OWNERS[0], "old")

    def fill():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        buf = buffer(MIB, PREVIOUS)
        for at in range(0, os.statvfs(MNT).f_bavail * BLOCK * 9 // 10 // MIB * MIB, MIB):
            os.pwrite(fd, buf, at)
        os.fsync(fd)

    os.chmod(c.folder(OWNERS[0]), 0o777)
    kc.run_as(PREVIOUS, fill)
    os.unlink(path)
    os.sync()
    yield "ext4-seq-write-reused", seq_write("r")
    if c.keyed:
        reassigned = int(kc.status("bench").split()[8])
        if reassigned < len(OWNERS) * SEQ // BLOCK * 9 // 10:
            raise RuntimeError("only %d blocks changed their owner" % reassigned)


def make_trees():
    """The same files each time, as a source tree has them: most are small, a few have most of the bytes.
    Returns how many bytes."""
    total = 0
    shutil.rmtree(TREE, ignore_errors=True)
    for owner in OWNERS:
        rng = random.Random(owner)
        for n in range(TREE_FILES):
            folder = "%s/%d/d%02d/s%d" % (TREE, owner, n % 15, n % 3)
            os.makedirs(folder, exist_ok=True)
            size = min(int(rng.lognormvariate(8.8, 1.1)), 200000)
            line = MARK + b"%d %d\n" % (owner, n)
            with open("%s/file%d.c" % (folder, n), "wb") as f:
                f.write((line * (size // len(line) + 1))[:size])
            total += size
    return total


def busybox(*args):
    pid = os.posix_spawn("/busybox", ["busybox", *args], {})
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("busybox " + " ".join(args))


def group_tree(c):
    total = make_trees() / MIB
    yield "ext4-tree-copy", total / by_owners(
        lambda o, _: busybox("cp", "-r", "/trees/%d" % o, "tree"), sync=True)
    shutil.rmtree(TREE)
    common.drop_caches()
    yield "ext4-tree-tar", total / by_owners(
        lambda o, _: busybox("tar", "-c", "-f", "tar", "tree"), sync=True)


def group_small(c):
    def work(owner, prepared):
        buf, sizes = prepared
        for n, size in enumerate(sizes):
            fd = os.open("small/%d" % n, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(fd, buf[:size])
            os.close(fd)

    def prepare(owner):
        os.mkdir("small")
        rng = random.Random(owner)
        return memoryview(bytes(buffer(8192, owner))), [rng.randint(1024, 8192) for _ in range(SMALL_FILES)]

    yield "ext4-small-files", len(OWNERS) * SMALL_FILES / by_owners(work, prepare, sync=True)


def group_sqlite(c):
    def prepare(owner):
        db = sqlite3.connect("db", isolation_level=None)
        db.execute("pragma journal_mode = delete")
        db.execute("pragma synchronous = full")
        db.execute("create table t (id integer primary key, name text, data blob)")
        db.execute("create index i on t (name)")
        rng = random.Random(owner)
        return db, [[("%08x" % rng.getrandbits(32), rng.randbytes(400)) for _ in range(SQL_INSERTS)]
                    for _ in range(SQL_TRANSACTIONS)]

    def work(owner, prepared):
        db, transactions = prepared
        for rows in transactions:
            db.execute("begin")
            db.executemany("insert into t (name, data) values (?, ?)", rows)
            db.execute("commit")

    yield "ext4-sqlite", len(OWNERS) * SQL_TRANSACTIONS / by_owners(work, prepare)


def group_memory(c):
    """The most that kernel memory grew by, looked at every millisecond, while files are written."""
    r, w = os.pipe()
    base = common.kernel_memory()
    pid = os.fork()
    if not pid:
        most = base
        os.set_blocking(r, False)
        while True:
            most = max(most, common.kernel_memory(quick=True))
            try:
                os.read(r, 1)
                break
            except BlockingIOError:
                time.sleep(0.001)
        with open("/tmp/kc-bench-memory", "w") as f:
            f.write("%d" % ((most - base) // 1024))
        os._exit(0)
    seq_write("m")
    os.write(w, b".")
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("no figure of memory")
    os.close(r)
    os.close(w)
    with open("/tmp/kc-bench-memory") as f:
        yield "ext4-write-memory", int(f.read())


GROUPS = {
    # name: its cases, with which ciphers, who takes part, on a filesystem of which size
    group_buffered: (("ext4-seq-write-buffered", "ext4-seq-read-buffered",
                      "ext4-rand-write-4k-buffered", "ext4-rand-read-4k-buffered"), list(CIPHERS), ALL, FS_SIZE),
    group_direct: (("ext4-seq-write-direct", "ext4-seq-read-direct",
                    "ext4-rand-write-4k-direct", "ext4-rand-read-4k-direct"), ["aes", "adiantum"], DIRECT, FS_SIZE),
    group_tree: (("ext4-tree-copy", "ext4-tree-tar"), list(CIPHERS), ALL, FS_SIZE),
    group_small: (("ext4-small-files",), list(CIPHERS), ALL, FS_SIZE),
    group_sqlite: (("ext4-sqlite",), list(CIPHERS), ALL, FS_SIZE),
    group_memory: (("ext4-write-memory",), ["aes"], ALL, FS_SIZE),
    group_reused: (("ext4-seq-write-reused",), ["aes"], REUSED, FS_REUSED),
}


def groups_of(cases, cipher, name, fs_size):
    for group, (names, ciphers, who, size) in GROUPS.items():
        if size != fs_size or cipher not in ciphers or name not in who or not set(names) & set(cases):
            continue
        # Which of dm-crypt's configurations is faster does not depend on the cipher: with the others that is
        # looked at where there is a budget.
        if name in ("crypt", "fscrypt+crypt") and cipher != "aes" and group is not group_buffered:
            continue
        yield group


# --- is everybody what it says? -------------------------------------------------------------------

def find_on_disk(*what):
    """Which of these bytes are there in the clear?"""
    found = set()
    fd = os.open(DISK, os.O_RDONLY | os.O_DIRECT)
    buf = mmap.mmap(-1, MIB)
    at = 0
    while (n := os.preadv(fd, [buf], at)) == MIB:
        # they all have this; looking for one thing is what takes long
        if buf.find(b"kc-bench") >= 0:
            found |= {w for w in what if buf.find(w) >= 0}
        at += n
    os.close(fd)
    return found


def verify(c):
    size = 64 << 10

    def put(owner):
        fd = os.open(c.path(owner, "kc-bench-check"), os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, buffer(size, owner), 0)
        os.fsync(fd)

    def expect(what, good):
        if not good:
            raise RuntimeError("%s, %s: %s: not so" % (c.name, c.cipher, what))

    for owner in OWNERS:
        kc.run_as(owner, lambda: put(owner))
    common.drop_caches()
    for owner in OWNERS:
        with open(c.path(owner, "kc-bench-check"), "rb") as f:
            expect("files read back", f.read() == buffer(size, owner)[:])
    clear = find_on_disk(MARK, b"kc-bench-check", LABEL.encode())
    if c.name == "raw":
        expect("everything is in the clear", len(clear) == 3)
    elif c.name == "fscrypt":
        expect("only the label is in the clear", clear == {LABEL.encode()})
    else:
        expect("nothing is in the clear", not clear)
    if c.crypt and c.fscrypt:
        with open(c.device, "rb") as f:
            inner = f.read(c.fs_size)
        expect("two layers", LABEL.encode() in inner and MARK not in inner)
    if c.keyed:
        # <name> <slot> <state> <ids> <key> <blocks>
        blocks = {int(line.split()[3]): int(line.split()[5])
                  for line in kc.message("bench", "owner list").splitlines() if line.split()[3].isdigit()}
        for owner in OWNERS:
            used = sum(os.stat(os.path.join(top, name)).st_blocks // 8
                       for top, _, names in os.walk(c.folder(owner)) for name in names)
            expect("%d blocks of %d, %d in files" % (blocks[owner], owner, used), blocks[owner] >= used)


# --- main -----------------------------------------------------------------------------------------

def ready(kind, name):
    """The algorithm is there. While its module comes from the host's disk the guest has nothing to do, and
    its clock leaps from timer to timer: the kernel soon gives up waiting."""
    for attempt in range(20):
        with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET) as s:
            try:
                s.bind((kind, name))
                return
            except OSError as e:
                error = e
    raise RuntimeError("no %s: %s" % (name, error))


def load_modules():
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ko = os.path.join(os.environ.get("KC_OUT", "/nonexistent"), "dm-keyed-crypt.ko")
    if not os.path.exists(ko):
        ko = os.path.join(here, "dm-keyed-crypt.ko")
    depends = subprocess.check_output(["modinfo", "-F", "depends", ko], text=True).strip().split(",")
    # the fast ones, while nobody uses the others yet
    for name in ("cryptd", "aesni_intel", "chacha_x86_64", "nhpoly1305_sse2", "nhpoly1305_avx2", "sha512_ssse3",
                 "crc32c_intel"):
        subprocess.run(("modprobe", "-q", name))
    for name in ["dm-mod", "dm-crypt", "ext4", "hmac", "algif_skcipher", "algif_hash"] + depends:
        run("modprobe", name)
    for kind, name in (("hash", "sha512"), ("hash", "hmac(sha512)"), ("skcipher", "cts(cbc(aes))"),
                       ("skcipher", "xts(aes)"), ("skcipher", "adiantum(xchacha12,aes)")):
        ready(kind, name)
    if not os.path.exists("/sys/module/dm_keyed_crypt"):
        run("insmod", ko)
    if os.path.exists("/sys/module/brd"):
        run("rmmod", "brd")
    run("modprobe", "brd", "rd_nr=1", "max_part=0", "rd_size=%d" % ((META + FS_SIZE) // 1024))


def measure(cases, contestants):
    with open("/proc/cpuinfo") as f:
        has_aes = "aes" in f.read().split()
    load_modules()
    # Nothing that runs here is to be fetched from the host while the clock runs: caches are dropped.
    for folder in ROOT, MNT, ROOT + "/etc":
        os.makedirs(folder, exist_ok=True)
    shutil.copy(BUSYBOX, ROOT)
    kc.libc.mlockall(MCL_CURRENT | MCL_FUTURE)
    for cipher in common.ciphers(*(("aes", "adiantum") if has_aes else ("aes-soft",))):
        label = CIPHERS[cipher][0]
        for name in contestants:
            for fs_size in (FS_SIZE, FS_REUSED):
                groups = list(groups_of(cases, cipher, name, fs_size))
                if not groups:
                    continue
                # pages of the ramdisk are allocated now, not while it is measured; and nobody finds what
                # the one before left
                kc.zero(DISK, 0, META + fs_size)
                with Contestant(name, cipher, fs_size) as c:
                    for group in groups:
                        for case, value in group(c):
                            if case in cases:
                                common.figure(case, label, name, CASES[case], round(value, 3))
                    if fs_size == FS_SIZE or name == "keyed-lazy":
                        verify(c)
    drivers = common.drivers()
    for name in "xts(aes)", "adiantum(xchacha12,aes)", "cts(cbc(aes))", "hmac(sha512)":
        common.note("%s is %s" % (name, drivers.get(name)))


def main():
    p = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    p.add_argument("--list", action="store_true", help="print the names of the cases")
    p.add_argument("--contestant", action="append", choices=ALL + ["keyed-lazy"])
    p.add_argument("pattern", nargs="*", default=["*"])
    args = p.parse_args()
    if args.list:
        print("\n".join(CASES))
        return
    cases = [name for name in CASES if any(fnmatch.fnmatchcase(name, pattern) for pattern in args.pattern)]
    if not cases:
        sys.exit("no case matches " + " ".join(args.pattern))
    measure(cases, args.contestant or ALL + ["keyed-lazy"])


main()
