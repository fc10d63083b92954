# SPDX-License-Identifier: GPL-2.0-only
"""What the benchmarks in the VM share: modules, tables, the load generator, figures."""

import errno
import fnmatch
import json
import os
import shutil
import stat
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../guest"))
import kc  # noqa: E402

MIB = 1 << 20
# Short names, as in CIPHER=; table name, bytes of a key
CIPHERS = {
    "aes": ("aes-xts-plain64", 64),
    "adiantum": ("xchacha12,aes-adiantum-plain64", 32),
    "free": ("capi:kc-bench-free-plain64", 64),
}
CONTESTANTS = "raw", "crypt", "crypt-nowq", "keyed"
OUT = os.environ.get("KC_OUT", ".")
DEV = os.environ.get("KC_BENCH_DEV")  # a device of this very machine
SMP = bool(DEV or os.environ.get("KC_BENCH_SMP"))  # wall-clock time
IO = ""
KEY = "kc-bench:"
keys = set()


began = time.monotonic()


def note(text):
    print("# %8.3f" % (time.monotonic() - began), text, file=sys.stderr, flush=True)


def figure(case, cipher, contestant, unit, value, **more):
    print(json.dumps(dict({"case": case, "cipher": cipher, "contestant": contestant, "unit": unit,
                           "value": value}, **more)), flush=True)


def call(*args):
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL)


def chosen(cases):
    """The cases that the arguments name, or prints the list and ends."""
    args = sys.argv[1:]
    if args[:1] == ["--list"]:
        print("\n".join(cases))
        sys.exit(0)
    picked = [c for c in cases if not args or any(fnmatch.fnmatch(c, a) for a in args)]
    if not picked:
        sys.exit("no case matches " + " ".join(args))
    return picked


def ciphers(*names):
    """Those of the given short names that CIPHER= leaves."""
    only = os.environ.get("KC_BENCH_CIPHER", "").split()
    return [n for n in names or CIPHERS if (not only or n in only) and not (DEV and n == "free")]


def add_key(name, payload):
    keys.add(kc.add_key("logon", KEY + name, payload))


def cleanup():
    """Where this is not a VM that goes away, too."""
    while keys:
        kc.unlink_key(keys.pop())


def setup():
    """Loads the modules and fetches what is needed while figures are taken."""
    global IO
    IO = OUT + "/io"
    if not DEV:
        # not by 9p while figures are taken
        IO = shutil.copy(IO, "/run/kc-bench-io")
        # A minute of an idle guest is soon over while it waits for the host.
        put("/proc/sys/kernel/hung_task_timeout_secs", 0)
    # The fast implementations register only when they are there before the first use.
    fast = ["cryptd", "aesni_intel", "chacha_x86_64", "nhpoly1305_avx2", "nhpoly1305_sse2",
            "aes_arm", "aes_arm_bs", "aes_neon_blk", "aes_neon_bs", "chacha_neon", "nhpoly1305_neon"]
    with_aes = ["aes_ce_cipher", "aes_ce_blk", "aes_ce_ccm", "aes_arm_ce"]
    if os.environ.get("KC_BENCH_NO_AES"):
        # a processor without AES instructions: nor may the kernel load what uses them
        with open("/etc/modprobe.d/kc-bench.conf", "w") as f:
            f.writelines("install %s /bin/false\n" % m for m in with_aes)
    else:
        fast += with_aes
    for module in fast:
        subprocess.run(("modprobe", "-q", module))
    for module in "dm-mod", "dm-crypt", "xts", "adiantum":
        call("modprobe", module)
    deps = subprocess.run(("modinfo", "-F", "depends", OUT + "/dm-keyed-crypt.ko"), check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip()
    for module in filter(None, deps.split(",")):
        call("modprobe", module)
    if not os.path.exists("/sys/module/dm_keyed_crypt"):
        call("insmod", OUT + "/dm-keyed-crypt.ko")
    if not DEV:
        call("insmod", OUT + "/freecipher.ko")
    for n in CIPHERS.values():
        for i, who in enumerate(("device", "alice", "bob")):
            add_key("%s%d" % (who, n[1]), bytes(range(i, n[1] + i)))


def patient(what, *args):
    """Does it again while it times out: the clock of an idle guest runs far ahead of the host's, which
    may be about to deliver a module that the kernel waits for."""
    for _ in range(10):
        try:
            return what(*args)
        except TimeoutError as e:
            note("%s, again" % e)
    raise TimeoutError()


def drivers():
    """name: driver of the highest priority, from /proc/crypto"""
    best = {}
    with open("/proc/crypto") as f:
        for entry in f.read().split("\n\n"):
            e = dict((k.strip(), v.strip()) for k, _, v in
                     (line.partition(":") for line in entry.split("\n")))
            if e.get("internal") == "no" and int(e["priority"]) > best.get(e["name"], (-1,))[0]:
                best[e["name"]] = int(e["priority"]), e["driver"]
    return dict((k, v[1]) for k, v in best.items())


def median(values):
    return sorted(values)[(len(values) - 1) // 2]


def io(device, *args, passes=1, whole=False):
    """Runs the load; returns nanoseconds (the median of the passes) and the number of requests. In real
    time a pass ends after some seconds, unless it must be whole."""
    cmd = [IO] + [str(a) for a in args] + (["-p", str(passes)] if passes > 1 else []) + [device]
    if SMP and not whole:
        cmd[1:1] = ["-t", "3"]
    out = subprocess.run(cmd, stdout=subprocess.PIPE, text=True)
    if out.returncode:
        raise RuntimeError("%s: status %d" % (" ".join(cmd), out.returncode))
    lines = [tuple(int(w) for w in line.split()) for line in out.stdout.splitlines()]
    if os.environ.get("KC_BENCH_VERBOSE"):
        note("%s: %s" % (" ".join(cmd[1:]), [line[0] for line in lines]))
    return sorted(lines, key=lambda line: line[0] / line[1])[(len(lines) - 1) // 2]


def remove(name):
    """A mapped device; where udev is, it may still be looking at it."""
    for _ in range(50):
        try:
            kc.remove(name)
            return
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
            time.sleep(0.1)
    kc.remove(name)


def put(path, value):
    with open(path, "w") as f:
        f.write(str(value))


def new_node(name):
    """Device node of a disk that has just come; there is no udev."""
    path = "/dev/" + name
    if not os.path.exists(path):
        with open("/sys/block/%s/dev" % name) as f:
            major, minor = f.read().strip().split(":")
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
    return path


def drop_caches():
    os.sync()
    put("/proc/sys/vm/drop_caches", 3)
    # Per-CPU slabs and empty ones kept for later
    for cache in os.listdir("/sys/kernel/slab"):
        try:
            put("/sys/kernel/slab/%s/shrink" % cache, 1)
        except OSError:
            pass


def kernel_memory(quick=False):
    """Bytes of memory that are neither free nor a process's nor page cache. Exact to a page, but the
    last objects of a slab hold all of it; quick: to some pages."""
    if not quick:
        drop_caches()
        open("/proc/sys/vm/stat_refresh").read()
    used = 0
    with open("/proc/zoneinfo") as f:
        for line in f:
            words = line.split()
            if words[0] == "managed":
                used += int(words[1])
            elif words[:2] == ["pages", "free"]:
                used -= int(words[2])
            elif words[0] == "count:":
                used -= int(words[1])
    with open("/proc/vmstat") as f:
        for line in f:
            name, value = line.split()
            if name in ("nr_file_pages", "nr_anon_pages"):
                used -= int(value)
    return used * 4096
