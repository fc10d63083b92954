# SPDX-License-Identifier: GPL-2.0-only
"""What the benchmarks in the VM share: modules, tables, the load generator, figures."""

import fnmatch
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
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
SMP = bool(os.environ.get("KC_BENCH_SMP"))
IO = "/run/kc-bench-io"


def note(text):
    print("#", text, file=sys.stderr, flush=True)


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
    return [n for n in names or CIPHERS if not only or n in only]


def setup(free=True):
    """Loads the modules and fetches what is needed while figures are taken."""
    # The fast implementations register only when they are there before the first use.
    for module in "cryptd", "aesni_intel", "chacha_x86_64", "nhpoly1305_avx2", "nhpoly1305_sse2":
        subprocess.run(("modprobe", "-q", module))
    for module in "dm-mod", "dm-crypt", "xts", "adiantum":
        call("modprobe", module)
    deps = subprocess.run(("modinfo", "-F", "depends", OUT + "/dm-keyed-crypt.ko"), check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip()
    for module in filter(None, deps.split(",")):
        call("modprobe", module)
    call("insmod", OUT + "/dm-keyed-crypt.ko")
    if free:
        call("insmod", OUT + "/freecipher.ko")
    shutil.copy(OUT + "/io", IO)
    os.chmod(IO, 0o755)
    for n in CIPHERS.values():
        kc.add_key("logon", "kc:bench%d" % n[1], bytes(range(n[1])))
        kc.add_key("logon", "kc:alice%d" % n[1], bytes(range(1, n[1] + 1)))
        kc.add_key("logon", "kc:bob%d" % n[1], bytes(range(2, n[1] + 2)))


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


def io(device, *args, passes=1):
    """Runs the load; returns nanoseconds (the median of the passes) and the number of requests."""
    cmd = [IO] + [str(a) for a in args] + (["-p", str(passes)] if passes > 1 else []) + [device]
    out = subprocess.run(cmd, stdout=subprocess.PIPE, text=True)
    if out.returncode:
        raise RuntimeError("%s: status %d" % (" ".join(cmd), out.returncode))
    lines = [[int(w) for w in line.split()] for line in out.stdout.splitlines()]
    if os.environ.get("KC_BENCH_VERBOSE"):
        note("%s: %s" % (" ".join(cmd[1:]), [line[0] for line in lines]))
    return median([line[0] for line in lines]), lines[0][1]
