#!/usr/bin/python3
# What the tests in Python share. In the emulated VM a process costs a tenth of a second and some
# tests do thousands of steps, so device mapper, the keyrings and the kernel log are used directly
# here. Such a test prints "ok - name" and "not ok - name" lines; python.sh makes assertions of them.
#
# SPDX-License-Identifier: GPL-2.0-only

import ctypes
import errno
import fcntl
import mmap
import os
import re
import stat
import struct
import subprocess
import sys
import time

SECTOR = 512

# --- assertions -----------------------------------------------------------------------------------

count = 0


def diag(text):
    for line in str(text).splitlines()[:40]:
        print("#", line)


def ok(name, good, detail=""):
    global count
    count += 1
    print("ok -" if good else "not ok -", name)
    if not good and detail != "":
        diag(detail)
    return bool(good)


def equal(name, got, expected):
    return ok(name, got == expected, "     got: %s\nexpected: %s" % (got, expected))


def same(name, got, expected):
    """For data: tells only where it begins to differ."""
    if got == expected:
        return ok(name, True)
    n = min(len(got), len(expected))
    at = next((i for i in range(n) if got[i] != expected[i]), n)
    return ok(name, False, "%d bytes, %d expected, the first difference is at %d" %
              (len(got), len(expected), at))


def module_text():
    """Where the module's code begins and ends. The size in /proc/modules is that of text and data, which may
    lie apart with other modules between them."""
    with open("/proc/kallsyms") as symbols:
        rows = (line.split() for line in symbols)
        text = [int(row[0], 16) for row in rows if row[1] in "tT" and row[3:] == ["[dm_keyed_crypt]"]]
    return min(text), max(text) // mmap.PAGESIZE * mmap.PAGESIZE + mmap.PAGESIZE


def cryptd():
    """An asynchronous xts(aes) for the crypto API, or None: some kernels are without any."""
    if subprocess.run(("modprobe", "cryptd"), stderr=subprocess.DEVNULL).returncode:
        return None
    with open("/proc/crypto") as f:
        return "cryptd(xts(ecb(%s)))" % re.search(r"^name *: aes\ndriver *: (\S+)\n(?:.+\n)*type *: cipher$",
                                                  f.read(), re.M).group(1)


def wanted(name):
    """Arguments of the script choose what it tests: all whose name has one of them."""
    return len(sys.argv) < 2 or any(arg in name for arg in sys.argv[1:])


def done():
    print("done", count)
    sys.stdout.flush()


sys.stdout.reconfigure(line_buffering=True)

# --- device mapper --------------------------------------------------------------------------------

DM_READONLY = 1 << 0
DM_SUSPEND = 1 << 1
DM_STATUS_TABLE = 1 << 4
DM_BUFFER_FULL = 1 << 8
DM_NOFLUSH = 1 << 11
DM_SKIP_LOCKFS = 1 << 10
DM_DATA_OUT = 1 << 16
DM_IMA = 1 << 19
(DEV_CREATE, DEV_REMOVE, DEV_SUSPEND, DEV_STATUS, DEV_WAIT, TABLE_LOAD, TABLE_CLEAR, TABLE_STATUS,
 TARGET_MSG) = 3, 4, 6, 7, 8, 9, 10, 12, 14
HEAD = struct.Struct("=3I I I I i I I I Q 128s 129s 7x")
SPEC = struct.Struct("=QQiI16s")
CONTROL = "/dev/mapper/control"
control = -1


def dm(cmd, name, data=b"", flags=0, size=16384, targets=0, event=0):
    """One ioctl. Returns (dev, flags, event number, what came back)."""
    global control
    if control < 0:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    size = max(size, HEAD.size + len(data) + 8)
    buf = bytearray(size)
    HEAD.pack_into(buf, 0, 4, 0, 0, size, HEAD.size, targets, 0, flags, event, 0, 0,
                   name.encode(), b"")
    buf[HEAD.size:HEAD.size + len(data)] = data
    fcntl.ioctl(control, 0xc0000000 | HEAD.size << 16 | 0xfd << 8 | cmd, buf, True)
    h = HEAD.unpack_from(buf, 0)
    if h[7] & DM_BUFFER_FULL:
        return dm(cmd, name, data, flags, size * 4, targets, event)
    return h[10], h[7], h[8], bytes(buf[h[4]:h[3]])


def node(dev):
    """A device node of ours that everybody may open."""
    dev = os.makedev(dev >> 8 & 0xfff, dev & 0xff | dev >> 12 & 0xfff00)
    path = "/dev/kc-%d-%d" % (os.major(dev), os.minor(dev))
    if not os.path.exists(path):
        os.mknod(path, stat.S_IFBLK | 0o666, dev)
        os.chmod(path, 0o666)
    return path


def targets(table):
    out = b""
    lines = [line for line in table.split("\n") if line]
    for line in lines:
        start, length, kind, params = (line.split(" ", 3) + [""])[:4]
        text = params.encode() + b"\0"
        text += b"\0" * (-len(text) % 8)
        out += SPEC.pack(int(start), int(length), 0, SPEC.size + len(text), kind.encode()) + text
    return out, len(lines)


def separate(length, data, meta, *opts):
    """A table line with the metadata on a disk of its own, and users as owners."""
    return "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:root 0 %s 0 %d meta_device:%s owner:uid%s" % (
        length, data, len(opts) + 2, meta, "".join(" " + opt for opt in opts))


def load(name, table, ro=False):
    data, nr = targets(table)
    dm(TABLE_LOAD, name, data, DM_READONLY if ro else 0, targets=nr)


def clear(name):
    dm(TABLE_CLEAR, name)


def suspend(name, flags=DM_SKIP_LOCKFS):
    dm(DEV_SUSPEND, name, flags=DM_SUSPEND | flags)


def resume(name):
    dm(DEV_SUSPEND, name)


def formats(table):
    """The same table line with the option format."""
    words = table.split(" ")
    words[8:9] = [str(int(words[8]) + 1), "format"] if len(words) > 8 else ["1", "format"]
    return " ".join(words)


def create(name, table, ro=False, new=False):
    """Returns the path of a node. If it is new, the metadata area is formatted."""
    table = formats(table) if new else table
    dev = dm(DEV_CREATE, name)[0]
    try:
        load(name, table, ro)
        resume(name)
    except OSError:
        dm(DEV_REMOVE, name)
        raise
    return node(dev)


def remove(*names):
    for name in names:
        dm(DEV_REMOVE, name)


def reload(name, table, ro=False):
    load(name, table, ro)
    resume(name)


def text_status(name, flags):
    data = dm(TABLE_STATUS, name, flags=flags)[3]
    start, length, _, _, kind = SPEC.unpack_from(data)
    params = data[SPEC.size:].split(b"\0", 1)[0].decode()
    return "%d %d %s %s" % (start, length, kind.rstrip(b"\0").decode(), params)


def status(name):
    return text_status(name, 0)


def table_of(name):
    return text_status(name, DM_STATUS_TABLE)


def ima_of(name):
    return text_status(name, DM_IMA)


def event_nr(name):
    return dm(DEV_STATUS, name)[2]


def message(name, text):
    """Returns the reply."""
    _, flags, _, data = dm(TARGET_MSG, name, struct.pack("=Q", 0) + text.encode() + b"\0")
    return data.split(b"\0", 1)[0].decode() if flags & DM_DATA_OUT else ""


# --- keyrings -------------------------------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
SESSION, USER = -3, -4
# (add_key, keyctl)
SYS_add_key, SYS_keyctl = {"x86_64": (248, 250), "aarch64": (217, 219), "armv7l": (309, 311),
                           "s390x": (278, 280)}[os.uname().machine]


def syscall(*args):
    r = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if r < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return r


def add_key(kind, desc, payload, keyring=USER):
    return syscall(SYS_add_key, kind.encode(), desc.encode(), payload, len(payload), keyring)


def keyctl(op, *args):
    return syscall(SYS_keyctl, op, *args)


def unlink_key(key, keyring=USER):
    keyctl(9, key, keyring)


def join_session():
    """A session keyring of our own, with root's user keyring in it."""
    keyctl(1, None)
    keyctl(8, USER, SESSION)


# --- data -----------------------------------------------------------------------------------------

def run_as(uid, what):
    """Runs what() in a child that is that user, with no capabilities; an OSError comes back."""
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            what()
        except OSError as e:
            os._exit(e.errno)
        except BaseException as e:
            diag(repr(e))
            os._exit(255)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 255 or code < 0:
        raise RuntimeError("child ended with %d" % code)
    if code:
        raise OSError(code, os.strerror(code))


def read(path, offset, size, flags=os.O_DIRECT):
    fd = os.open(path, os.O_RDONLY | flags)
    try:
        buf = mmap.mmap(-1, max(size, 1))
        at = 0
        while at < size:
            n = os.preadv(fd, [memoryview(buf)[at:size]], offset + at)
            if not n:
                break
            at += n
        return buf[:at]
    finally:
        os.close(fd)


def write(path, offset, data, flags=os.O_DIRECT, uid=None, sync=False):
    def go():
        fd = os.open(path, os.O_WRONLY | flags)
        try:
            buf = mmap.mmap(-1, len(data))
            buf[:] = data
            at = 0
            while at < len(data):
                at += os.pwritev(fd, [memoryview(buf)[at:len(data)]], offset + at)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    if uid is None:
        go()
    else:
        run_as(uid, go)


class Disk:
    """A block device, read and written past the page cache."""

    def __init__(self, path, flags=os.O_RDWR):
        self.fd = os.open(path, flags | os.O_DIRECT)
        self.buf = mmap.mmap(-1, 4 << 20)

    def read(self, offset, size):
        n = os.preadv(self.fd, [memoryview(self.buf)[:size]], offset)
        assert n == size, "%d of %d bytes" % (n, size)
        return self.buf[:size]

    def write(self, offset, data):
        self.buf[:len(data)] = data
        n = os.pwritev(self.fd, [memoryview(self.buf)[:len(data)]], offset)
        assert n == len(data)

    def close(self):
        os.close(self.fd)


ERRNO = dict(errno.errorcode)
ERRNO[errno.EOPNOTSUPP] = "EOPNOTSUPP"  # ENOTSUP is the same number


def errno_of(what, *args, **kw):
    """Name of the error that what() ends with, or "none"."""
    try:
        what(*args, **kw)
    except OSError as e:
        return ERRNO.get(e.errno, e.errno)
    return "none"



class Later:
    """Something that takes its time, in a process of its own; a False it returns is an error, too."""

    def __init__(self, what, *args):
        self.code = None
        self.pid = os.fork()
        if not self.pid:
            try:
                code = 200 if what(*args) is False else 0
            except OSError as e:
                code = e.errno
            except BaseException as e:
                diag(repr(e))
                code = 201
            os._exit(code)

    def poll(self):
        if self.code is None:
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(code)
        return self.code

    def waits(self):
        time.sleep(0.5)
        return self.poll() is None

    def end(self, seconds=60):
        """Name of the error it ended with, or "none"; "hangs" if it takes longer."""
        for _ in range(seconds * 10):
            if self.poll() is not None:
                break
            time.sleep(0.1)
        return {None: "hangs", 0: "none", 200: "wrong data"}.get(self.code) or ERRNO.get(self.code, self.code)


class Held:
    """Somebody is held up where he calls this function: a kernel thread, or a process; see failinject/holdup.c."""

    def __init__(self, function, pid=0):
        self.function = function
        self.put("hold", "%s %d" % (function, pid))

    def put(self, name, value):
        with open("/sys/module/holdup/parameters/" + name, "w") as param:
            param.write(value)

    def waits(self, seconds=10):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with open("/sys/module/holdup/parameters/waiting") as param:
                if self.function in param.read().split():
                    return True
            time.sleep(0.05)
        return False

    def go_on(self):
        self.put("release", self.function)


BLKDISCARD, BLKZEROOUT = 0x1277, 0x127f


def blk_range(path, op, offset, size):
    fd = os.open(path, os.O_WRONLY)
    try:
        fcntl.ioctl(fd, op, struct.pack("=QQ", offset, size))
    finally:
        os.close(fd)


def zero(path, offset, size):
    blk_range(path, BLKZEROOUT, offset, size)


def discard(path, offset, size):
    blk_range(path, BLKDISCARD, offset, size)


def size_of(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def sysfs(path):
    rdev = os.stat(path).st_rdev
    return "/sys/dev/block/%d:%d/" % (os.major(rdev), os.minor(rdev))


def queue(path, name):
    with open(sysfs(path) + "queue/" + name) as f:
        return f.read().strip()


def disk_stat(path):
    """(reads, sectors read, writes, sectors written, discards, flushes)"""
    with open(sysfs(path) + "stat") as f:
        s = [int(word) for word in f.read().split()]
    return s[0], s[2], s[4], s[6], s[11], s[15]


# --- kernel log -----------------------------------------------------------------------------------

class Log:
    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def new(self):
        """Lines since the last call."""
        lines = []
        while True:
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines
            except BrokenPipeError:
                continue
            lines.append(record.split(";", 1)[1].split("\n", 1)[0])
