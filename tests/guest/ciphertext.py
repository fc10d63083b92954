#!/usr/bin/python3
# See 10-ciphertext.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import os
import re

import kc

DISK = "/dev/disk/kc/"
NB = 2048  # blocks of a device: more than one map block has entries
UIDS = {"root": 0, "alice": 1000, "bob": 1001}
SLOTS = {"root": 1, "alice": 2, "bob": 3}
# Whose blocks are what: first block, number. The rest stays unassigned.
RANGES = (
    (0, 40, "root"), (40, 33, "alice"), (73, 7, "bob"), (80, 20, "root"), (100, 1, "alice"),
    (101, 99, "bob"), (210, 46, "alice"), (1900, 41, "bob"), (1941, 3, "alice"), (2047, 1, "root"),
)
MAP = """0 40 1
40 33 2
73 7 3
80 20 1
100 1 2
101 99 3
200 10 0
210 46 2
256 1644 0
1900 41 3
1941 3 2
1944 103 0
2047 1 1"""

plain = os.urandom(NB * 4096)


def pieces(data, bs, who):
    return b"".join(data[f * bs:(f + n) * bs] for f, n, w in RANGES if w == who)


def read_pieces(path, offset, bs, who):
    return b"".join(kc.read(path, offset * 512 + f * bs, n * bs) for f, n, w in RANGES if w == who)


def refs(key_size, bob):
    keys = {who: ":%d:logon:kc:%s%d" % (key_size, who, key_size) for who in UIDS}
    if bob:
        keys["bob"] = bob
    return keys


def check(name, cipher, key_size, bs, iv_offset, offset, large=False, opts="", bob=None):
    if not kc.wanted(name):
        return
    length = NB * bs // 512
    keys = refs(key_size, bob)
    common = ["sector_size:%d" % bs] + large * ["iv_large_sectors"]
    ours = common + ["owner:uid"] + opts.split()
    fmt = "0 %d %s %s %%s %d %%s %d %%d %%s" % (length, "%s", cipher, iv_offset, offset)
    table = fmt % ("keyed-crypt", keys["root"], DISK + "data", len(ours), " ".join(ours))
    expected = bytearray(NB * bs)
    for first, n, _ in RANGES:
        expected[first * bs:(first + n) * bs] = plain[first * bs:(first + n) * bs]

    kc.zero(DISK + "data", 0, 16 << 20)
    kc.zero(DISK + "data", 32 << 20, 8 << 20)
    kc.zero(DISK + "meta", 0, 8 << 20)
    dev = kc.create("kc", table, new=True)
    for who in "alice", "bob":
        kc.message("kc", "owner add %s %d %s" % (who, UIDS[who], keys[who]))
    for first, n, who in RANGES:
        kc.write(dev, first * bs, plain[first * bs:(first + n) * bs], uid=UIDS[who])
    kc.equal(name + ": the map has the owners", kc.message("kc", "map 0 %d" % NB), MAP)
    kc.remove("kc")
    for who in UIDS:
        args = keys[who], DISK + "data", len(common), " ".join(common)
        crypt = kc.create("crypt", fmt % (("crypt",) + args), ro=True)
        kc.same("%s: dm-crypt reads what %s wrote" % (name, who),
                read_pieces(crypt, 0, bs, who), pieces(plain, bs, who))
        kc.remove("crypt")
        args = keys[who], DISK + "twin", len(common), " ".join(common)
        twin = kc.create("twin", fmt % (("crypt",) + args))
        for first, n, owner in RANGES:
            if owner == who:
                kc.write(twin, first * bs, plain[first * bs:(first + n) * bs])
        kc.remove("twin")
        kc.same("%s: with the ciphertext of dm-crypt" % name,
                read_pieces(DISK + "data", offset, bs, who),
                read_pieces(DISK + "twin", offset, bs, who))
    dev = kc.create("kc", table)
    kc.same("%s: it reads its own after it was closed" % name,
            kc.read(dev, 0, NB * bs), bytes(expected))
    kc.remove("kc")


def check_huge(name, cipher, large=False):
    """Around sector 2^32 of a device that really has so many."""
    if not kc.wanted(name):
        return
    bs, length, offset = 4096, 4500000000, 4194304
    at, nb = (1 << 32) - 1024, 256
    key = refs(64, None)
    common = ["sector_size:%d" % bs] + large * ["iv_large_sectors"]
    ours = common + ["owner:uid"]
    fmt = "0 %d %%s %s %%s 0 %shuge %d %%d %%s" % (length, cipher, DISK, offset)
    table = fmt % ("keyed-crypt", key["root"], len(ours), " ".join(ours))

    kc.zero(DISK + "huge", 0, 8 << 20)
    dev = kc.create("kc", table, new=True)
    kc.message("kc", "owner add alice 1000 " + key["alice"])
    kc.write(dev, at * 512, plain[:nb * bs], uid=1000)
    kc.remove("kc")
    crypt = kc.create("crypt", fmt % ("crypt", key["alice"], len(common), " ".join(common)), ro=True)
    kc.same(name + ": dm-crypt reads what alice wrote around sector 2^32",
            kc.read(crypt, at * 512, nb * bs), plain[:nb * bs])
    kc.remove("crypt")
    dev = kc.create("kc", table)
    kc.same(name + ": and so does keyed-crypt", kc.read(dev, at * 512, nb * bs), plain[:nb * bs])
    block = at // 8
    kc.equal(name + ": under her key and nothing else", kc.message("kc", "map %d 9000" % (block - 100)),
             "%d 100 0\n%d %d 2\n%d %d 0" % (block - 100, block, nb, block + nb, 8900 - nb))
    kc.remove("kc")


kc.join_session()
for size in 16, 32, 64:
    for user in UIDS:
        kc.add_key("logon", "kc:%s%d" % (user, size), os.urandom(size))
kc.add_key("user", "kc-bob32", os.urandom(32))

AES = "aes-xts-plain64"
ADIANTUM = "xchacha12,aes-adiantum-plain64"
ESSIV = "aes-cbc-essiv:sha256"
check("aes-xts-plain64, 4096", AES, 64, 4096, 0, 16384)
check("aes-xts-plain64 of 256 bits, 512", AES, 32, 512, 0, 16384)
check("4096, iv_offset, another data offset", AES, 64, 4096, 12345672, 16392)
check("4096, iv_offset, iv_large_sectors", AES, 64, 4096, 12345672, 20000, True)
check("512, iv_offset, odd data offset", AES, 64, 512, 12345, 16385)
check("512, iv_offset, iv_large_sectors", AES, 64, 512, 12345, 16385, True)
check("2048, iv_large_sectors", AES, 32, 2048, 4, 16384, True)
check("adiantum, 4096", ADIANTUM, 32, 4096, 800, 16384)
check("adiantum, 512, metadata behind the data", ADIANTUM, 32, 512, 0, 0, opts="meta_offset:65536")
check("metadata on another device", AES, 64, 4096, 0, 0, opts="meta_device:" + DISK + "meta")
check("metadata inside another device", AES, 64, 4096, 0, 1000,
      opts="meta_device:" + DISK + "meta meta_offset:8000")
check("aes-cbc-essiv:sha256, 4096", ESSIV, 32, 4096, 4294967288, 16384)
check("aes-cbc-essiv:sha256 of 128 bits, 512, iv_large_sectors", ESSIV, 16, 512, 0, 16384, True)
# iv_offset just below 2^32: what comes behind it does not fit plain's 32 bits
check("aes-cbc-plain across 2^32 sectors", "aes-cbc-plain", 32, 4096, 4294966272, 16384)
check("aes-xts-plain across 2^32 sectors, 512", "aes-xts-plain", 64, 512, 4294966272, 16384)
check("aes-xts-plain64 across 2^32 sectors, 512", AES, 64, 512, 4294966272, 16384)
check("aes-xts-plain across 2^32 large sectors", "aes-xts-plain", 64, 4096, 34359730176, 16384, True)
check("aes-xts-plain64 across 2^32 large sectors", AES, 64, 4096, 34359730176, 16384, True)
check("aes-cbc-plain64be across 2^32 sectors", "aes-cbc-plain64be", 32, 4096, 4294966272, 16384)
check("capi:xts(aes)-plain64", "capi:xts(aes)-plain64", 64, 4096, 8, 16384)
check("capi:essiv(cbc(aes),sha256)-plain64", "capi:essiv(cbc(aes),sha256)-plain64", 32, 4096, 8, 16384)
check("capi:cbc(aes)-essiv:sha256", "capi:cbc(aes)-essiv:sha256", 32, 4096, 8, 16384)
# What dm-crypt takes a short specification for
check("just aes", "aes", 32, 4096, 8, 16384)
check("aes-plain", "aes-plain", 32, 512, 0, 16384)
check("aes-ecb", "aes-ecb", 32, 512, 8, 16384)
check("an empty option", AES + ":", 64, 4096, 0, 16384)
check("aes-xts-null", "aes-xts-null", 64, 4096, 0, 16384)
check("an owner's key of another size and type", AES, 64, 4096, 0, 16384, bob=":32:user:kc-bob32")
check_huge("2.1 TiB, aes-xts-plain64", AES)
check_huge("2.1 TiB, aes-xts-plain", "aes-xts-plain")
# A driver that is asynchronous; 10-ciphertext.t keeps its queue short, so that requests wait in its backlog, too.
# cryptd takes no cipher by the name of any of its drivers.
CRYPTD = kc.cryptd()
if CRYPTD:
    check("cryptd, 4096", "capi:%s-plain64" % CRYPTD, 64, 4096, 8, 16384)
    check("cryptd, 512", "capi:%s-plain64" % CRYPTD, 64, 512, 0, 16384)
    with open("/proc/crypto") as f:
        kc.ok("cryptd is asynchronous",
              re.search(r"^driver *: %s\n(?:.+\n)*async *: yes$" % re.escape(CRYPTD), f.read(), re.M))
else:
    # Debian's 7.x is without it, and those for arm64 and s390x
    kernel = os.uname()
    kc.ok("there is no asynchronous cipher to be had",
          int(kernel.release.split(".")[0]) >= 7 or kernel.machine in ("aarch64", "s390x"))
kc.done()
