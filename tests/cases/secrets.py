#!/usr/bin/python3
"""Looks for what a key leaves behind.

  secrets.py memory DUMP DISK NAME=HEX...   in a dump of the VM's memory
  secrets.py text FILE DISK NAME=HEX...     in what the guest has printed
  secrets.py raw DUMP DISK NAME=HEX...      in a dump, these bytes themselves, as a line "<name> raw ..."

DISK is the disk's image, whose superblock has the salt and the UUID.  Prints a line "<name> <what>
<found> of <number>" for each name and each kind of trace of the key:

  enc           AES round keys, for both halves of an XTS key
  dec, tweakdec those of the equivalent inverse cipher, for the half that is the key of the data and
                the one that is the tweak's
  hex           the key in text
  words         the key as SHA-512 sees it, in 64-bit words of the other byte order
  prk           the pseudorandom key of HKDF, and as HMAC pads it
  seal, super, intent
                the keys derived for metadata (they exist for the device key only)
  check         the check value, as an owner's record has it

In pieces of 16 bytes, but for intent, which has 8.  The key itself is its own first round keys.
"""
# SPDX-License-Identifier: GPL-2.0-only

import hashlib
import hmac
import re
import sys

PAGE = 4096


# --- AES key schedules (FIPS 197) ---

def xtime(a):
    return (a << 1) ^ (0x11b if a & 0x80 else 0)


def mul(a, b):
    r = 0
    while b:
        if b & 1:
            r ^= a
        a, b = xtime(a), b >> 1
    return r


def make_sbox():
    box = [0x63] * 256
    p = q = 1
    while True:
        p ^= xtime(p)            # times 3
        q ^= q << 1              # divided by 3
        q ^= q << 2
        q ^= q << 4
        q &= 0xff
        if q & 0x80:
            q ^= 0x09
        rot = [((q << n) | (q >> (8 - n))) & 0xff for n in range(5)]
        box[p] = rot[0] ^ rot[1] ^ rot[2] ^ rot[3] ^ rot[4] ^ 0x63
        if p == 1:
            return box


SBOX = make_sbox()


def enc_schedule(key):
    nk = len(key) // 4
    w = [key[4 * i:4 * i + 4] for i in range(nk)]
    rcon = 1
    for i in range(nk, 4 * (nk + 7)):
        t = w[-1]
        if i % nk == 0:
            t = bytes(SBOX[b] for b in t[1:] + t[:1])
            t = bytes([t[0] ^ rcon]) + t[1:]
            rcon = xtime(rcon)
        elif nk > 6 and i % nk == 4:
            t = bytes(SBOX[b] for b in t)
        w.append(bytes(a ^ b for a, b in zip(w[i - nk], t)))
    return [b"".join(w[i:i + 4]) for i in range(0, len(w), 4)]


def inv_mix(rk):
    out = b""
    for c in range(0, 16, 4):
        col = rk[c:c + 4]
        for r in range(4):
            out += bytes([mul(col[r], 14) ^ mul(col[(r + 1) % 4], 11) ^
                          mul(col[(r + 2) % 4], 13) ^ mul(col[(r + 3) % 4], 9)])
    return out


def dec_schedule(key):
    return [inv_mix(rk) for rk in enc_schedule(key)[1:-1]]   # the outer two are those of enc


def self_test():
    # FIPS 197, appendix A.3; RFC 5869 is the same HKDF with SHA-256
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    assert enc_schedule(key)[14].hex() == "fe4890d1e6188d0b046df344706c631e"
    key = bytes(range(32))                                   # and C.3
    assert dec_schedule(key)[0].hex() == "1a1f181d1e1b1c191217101516131411"
    assert len(dec_schedule(key)) == 13


# --- what to look for ---

def pieces(data, n=16):
    return [data[i:i + n] for i in range(0, len(data), n)]


def traces(key, disk):
    with open(disk, "rb") as f:
        sb = f.read(512)
    assert sb.startswith(b"dm-keyed-crypt\0"), "no superblock"
    uuid, salt = sb[32:48], sb[48:80]
    prk = hmac.new(salt, key, hashlib.sha512).digest()

    def expand(context, size):
        info = b"dm-keyed-crypt" + bytes([context]) + uuid + b"\1"
        return hmac.new(prk, info, hashlib.sha512).digest()[:size]

    assert len(key) == 64
    halves = key[:32], key[32:]
    padded = [bytes(b ^ x for b in prk) for x in (0x36, 0x5c)]
    return {
        "enc": [rk for h in halves for rk in enc_schedule(h)],
        "dec": dec_schedule(halves[0]),
        "tweakdec": dec_schedule(halves[1]),
        "hex": [s.encode() for p in pieces(key) for s in (p.hex(), p.hex().upper())],
        "words": pieces(b"".join(p[::-1] for p in pieces(key, 8))),
        "prk": [p for k in [prk] + padded for p in pieces(k)],
        "seal": pieces(expand(2, 32)),
        "intent": [expand(4, 8)],
        "super": pieces(expand(3, 64)),
        "check": pieces(expand(1, 32)),
    }


def memory(path):
    """All pages that are not zero; neighbours stay neighbours."""
    zero, parts, run = bytes(64 * PAGE), [], True
    with open(path, "rb") as f:
        while True:
            data = f.read(64 * PAGE)
            if not data:
                return b"".join(parts)
            if data != zero[:len(data)]:
                parts.append(data)
                run = True
            elif run:
                parts.append(b"\0" * 64)
                run = False


def text(path):
    """As it is, and with nothing between the digits of a dump."""
    with open(path, "rb") as f:
        data = f.read()
    return data + b"\n" + re.sub(rb"[\s:,-]|\\x|0x", b"", data)


self_test()
how, path, disk = sys.argv[1:4]
data = {"memory": memory, "text": text, "raw": memory}[how](path)
for arg in sys.argv[4:]:
    name, key = arg.split("=")
    if how == "raw":
        print(name, "raw", int(data.find(bytes.fromhex(key)) >= 0), "of 1")
        continue
    for what, wanted in traces(bytes.fromhex(key), disk).items():
        found = sum(data.find(w) >= 0 for w in wanted)
        print(name, what, found, "of", len(wanted))
