#!/usr/bin/python3
# The on-disk format, written from Documentation/format.rst alone: makes metadata areas, seals what a
# test wants to find in one, and tells what an activation must make of any image. Tests compare the
# module with it.
#
# SPDX-License-Identifier: GPL-2.0-only

import ctypes
import hashlib
import hmac
import os
import struct

BLOCK, SECTOR, UNIT_PAYLOAD, JOURNAL_PAYLOAD = 4096, 512, 480, 4064
MAGIC = b"dm-keyed-crypt\0\0"
SUPERS = 0, 16
OWNER_START = 32
OWNER, ANCHOR, JOURNAL, STATE, MAP = range(1, 6)
ENTRIES, UNIT_ENTRIES = 1920, 240
STATE_BITS = 3840
RECORDS = 252
SUPER = struct.Struct("<16s4I16s32s32s128s6I2Q196s32sI")
SUPER_FIELDS = ("magic", "version", "compat", "ro_compat", "incompat", "uuid", "salt", "check", "cipher", "key_size",
                "sector_size", "flags", "owner_blocks", "journal_blocks", "place", "iv_offset", "nr_blocks", "reserved",
                "mac", "csum")
OWNER_HEAD = struct.Struct("<IHBB32s32s128s")
ANCHOR_HEAD = struct.Struct("<QQI")
JOURNAL_HEAD = struct.Struct("<QQI12s")
RECORD = struct.Struct("<QIHH")
RECORD_MAP, RECORD_INTENT = 1, 2
KEY_TYPES = {1: "logon", 2: "user", 3: "encrypted", 4: "trusted"}
MAX_BLOCKS = 0xfffffff0 * ENTRIES
MAX_SEQ = 1 << 62
U64 = (1 << 64) - 1

# --- cryptography ---------------------------------------------------------------------------------

lib = ctypes.CDLL("libcrypto.so.3")
for name in "EVP_CIPHER_CTX_new", "EVP_chacha20", "EVP_chacha20_poly1305":
    getattr(lib, name).restype = ctypes.c_void_p
P, I = ctypes.c_void_p, ctypes.c_int
lib.EVP_CipherInit_ex.argtypes = P, P, P, ctypes.c_char_p, ctypes.c_char_p, I
lib.EVP_CipherUpdate.argtypes = P, P, P, ctypes.c_char_p, I
lib.EVP_CipherFinal_ex.argtypes = P, P, P
lib.EVP_CIPHER_CTX_ctrl.argtypes = P, I, I, P
stream, aead = lib.EVP_CIPHER_CTX_new(), lib.EVP_CIPHER_CTX_new()
lib.EVP_CipherInit_ex(stream, lib.EVP_chacha20(), None, None, None, 1)
lib.EVP_CipherInit_ex(aead, lib.EVP_chacha20_poly1305(), None, None, None, 1)
GET_TAG, SET_TAG = 0x10, 0x11
SIGMA = struct.unpack("<4I", b"expand 32-byte k")
out, length = ctypes.create_string_buffer(BLOCK + 64), ctypes.c_int()


def hchacha20(key, nonce):
    """The ChaCha20 block function without its last addition, which is taken back here."""
    lib.EVP_CipherInit_ex(stream, None, None, key, nonce, 1)
    lib.EVP_CipherUpdate(stream, out, ctypes.byref(length), bytes(64), 64)
    words = struct.unpack("<16I", out.raw[:64])
    first = SIGMA + struct.unpack("<4I", nonce)
    return struct.pack("<8I", *((w - f) & 0xffffffff for w, f in zip(words[:4] + words[12:], first)))


def xchacha(key, nonce, ad, data, tag):
    """Opens data if there is a tag, and seals it if not. None: not authentic."""
    encrypt = 0 if tag else 1
    lib.EVP_CipherInit_ex(aead, None, None, hchacha20(key, nonce[:16]), bytes(4) + nonce[16:], encrypt)
    if tag:
        lib.EVP_CIPHER_CTX_ctrl(aead, SET_TAG, 16, ctypes.c_char_p(tag))
    lib.EVP_CipherUpdate(aead, None, ctypes.byref(length), ad, len(ad))
    lib.EVP_CipherUpdate(aead, out, ctypes.byref(length), data, len(data))
    result = out.raw[:len(data)]
    if not lib.EVP_CipherFinal_ex(aead, out, ctypes.byref(length)):
        return None
    if encrypt:
        lib.EVP_CIPHER_CTX_ctrl(aead, GET_TAG, 16, out)
        result += out.raw[:16]
    return result


def hkdf(key, salt, context, uuid, size):
    prk = hmac.new(salt, key, hashlib.sha512).digest()
    return hmac.new(prk, MAGIC[:14] + bytes([context]) + uuid + b"\1", hashlib.sha512).digest()[:size]


def crc32c_table():
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
        yield n


CRC = list(crc32c_table())


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 0xff]
    return crc


P1, P2, P3, P4, P5 = (0x9e3779b185ebca87, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0x85ebca77c2b2ae63,
                      0x27d4eb2f165667c5)


def rol(x, n):
    return (x << n | x >> 64 - n) & U64


def xxh64(data, seed):
    """Of a multiple of 32 bytes."""
    acc = [(seed + P1 + P2) & U64, (seed + P2) & U64, seed, (seed - P1) & U64]
    words = struct.unpack("<%dQ" % (len(data) // 8), data)
    for at in range(0, len(words), 4):
        acc = [rol((a + w * P2) & U64, 31) * P1 & U64 for a, w in zip(acc, words[at:at + 4])]
    h = sum(rol(a, n) for a, n in zip(acc, (1, 7, 12, 18)))
    for a in acc:
        h = ((h ^ rol(a * P2 & U64, 31) * P1 & U64) * P1 + P4) & U64
    h = (h + len(data)) & U64
    h = (h ^ h >> 33) * P2 & U64
    h = (h ^ h >> 29) * P3 & U64
    return h ^ h >> 32


# --- layout ---------------------------------------------------------------------------------------

class Layout:
    """In area blocks."""

    def __init__(self, nr_blocks, owner_blocks, journal_blocks):
        self.nr_blocks = nr_blocks
        self.owner_blocks = owner_blocks
        self.journal_blocks = journal_blocks
        self.map_blocks = -(-nr_blocks // ENTRIES)
        self.state_blocks = -(-self.map_blocks // (STATE_BITS * 8))
        self.anchor = OWNER_START + owner_blocks
        self.journal = self.anchor + 1
        self.state = self.journal + journal_blocks
        self.map = self.state + self.state_blocks
        self.end = self.map + self.map_blocks

    def kind_of(self, area_block):
        """What is sealed in a block, or None."""
        for kind, first in (MAP, self.map), (STATE, self.state), (JOURNAL, self.journal), (ANCHOR, self.anchor), (OWNER, OWNER_START):
            if area_block >= first:
                return kind
        return None


class Keys:
    """What is derived from a device key for a superblock's salt and UUID."""

    def __init__(self, key, salt, uuid):
        self.check = hkdf(key, salt, 1, uuid, 32)
        self.seal = hkdf(key, salt, 2, uuid, 32)
        self.super = hkdf(key, salt, 3, uuid, 64)
        self.intent = int.from_bytes(hkdf(key, salt, 4, uuid, 8), "little")
        self.opened = {}

    def seal_unit(self, kind, sector, payload):
        nonce = os.urandom(16)
        return nonce + xchacha(self.seal, nonce + struct.pack("<Q", sector), struct.pack("<I", kind), payload, None)

    def open_unit(self, kind, sector, unit):
        """The payload, or None."""
        cached = kind, sector, unit
        if cached not in self.opened:
            if len(self.opened) > 20000:
                self.opened.clear()
            self.opened[cached] = xchacha(self.seal, unit[:16] + struct.pack("<Q", sector), struct.pack("<I", kind),
                                          unit[16:-16], unit[-16:])
        return self.opened[cached]

    def seal_block(self, kind, area_block, payload):
        if kind == JOURNAL:
            return self.seal_unit(kind, area_block * 8, payload)
        return b"".join(self.seal_unit(kind, area_block * 8 + u, payload[u * UNIT_PAYLOAD:(u + 1) * UNIT_PAYLOAD])
                        for u in range(8))

    def open_block(self, kind, area_block, image):
        """The payload of a block of an image, or None if any of its units is bad."""
        at = area_block * BLOCK
        if kind == JOURNAL:
            return self.open_unit(kind, area_block * 8, bytes(image[at:at + BLOCK]).ljust(BLOCK, b"\0"))
        units = [self.open_unit(kind, area_block * 8 + u,
                                bytes(image[at + u * SECTOR:at + (u + 1) * SECTOR]).ljust(SECTOR, b"\0"))
                 for u in range(8)]
        return None if None in units else b"".join(units)


def super_parse(block):
    return dict(zip(SUPER_FIELDS, SUPER.unpack_from(block)))


def super_pack(s, super_key=None):
    """A block; sealed anew with a key, and with the checksum set right in any case."""
    data = SUPER.pack(*(s[field] for field in SUPER_FIELDS))
    if super_key:
        data = data[:476] + hmac.new(super_key, data[:476], hashlib.sha512).digest()[:32] + data[508:]
    data = data[:508] + struct.pack("<I", crc32c(data[:508]))
    return data + bytes(BLOCK - len(data))


def make_area(key, nr_blocks, owner_blocks=1, journal_blocks=128, sector_size=4096, cipher="aes-xts-plain64"):
    """A new area, smaller than the module would make it."""
    layout = Layout(nr_blocks, owner_blocks, journal_blocks)
    salt, uuid = os.urandom(32), os.urandom(16)
    keys = Keys(key, salt, uuid)
    image = bytearray(layout.end * BLOCK)
    s = dict.fromkeys(SUPER_FIELDS, 0)
    s.update(magic=MAGIC, version=1, uuid=uuid, salt=salt, check=keys.check, cipher=cipher.encode(), key_size=len(key),
             sector_size=sector_size, owner_blocks=owner_blocks, journal_blocks=journal_blocks, nr_blocks=nr_blocks,
             reserved=b"", mac=b"")
    for place in SUPERS:
        s["place"] = place
        image[place * BLOCK:(place + 1) * BLOCK] = super_pack(s, keys.super)
    zeros = bytes(8 * UNIT_PAYLOAD)
    for kind, first, nr in (OWNER, OWNER_START, owner_blocks), (STATE, layout.state, layout.state_blocks):
        for b in range(first, first + nr):
            image[b * BLOCK:(b + 1) * BLOCK] = keys.seal_block(kind, b, zeros)
    anchor = ANCHOR_HEAD.pack(1, 1, 1)
    b = layout.anchor
    image[b * BLOCK:(b + 1) * BLOCK] = keys.seal_block(ANCHOR, b, anchor + zeros[len(anchor):])
    return image


def add_owners(image, device_key, owners):
    """Puts owners into a new area: (slot, name, key description, key, ids) of each."""
    s = super_parse(image)
    keys = Keys(device_key, s["salt"], s["uuid"])
    for slot, name, desc, key, ids in owners:
        check = hkdf(key, s["salt"], 1, s["uuid"], 32)
        payload = OWNER_HEAD.pack(1, len(key), 1, len(ids), name.encode(), check, desc.encode())
        payload += b"".join(struct.pack("<II", i, i) for i in ids)
        at = OWNER_START * BLOCK + slot * SECTOR
        image[at:at + SECTOR] = keys.seal_unit(OWNER, at // SECTOR, payload.ljust(UNIT_PAYLOAD, b"\0"))


# --- reading --------------------------------------------------------------------------------------

class Refused(Exception):
    """Metadata that must not be used; the text is a regular expression of what the log says."""


def c_string(data):
    return data.split(b"\0", 1)[0]


def owner_parse(payload, slot):
    """A unit of the owner table: None if it is free."""
    state, key_size, key_type, nr_ids, name, check, desc = OWNER_HEAD.unpack_from(payload)
    if not state:
        return None
    if (slot < 2 or state not in (1, 2) or nr_ids > 32 or b"\0" not in name or b"\0" not in desc or key_size > 256 or
            state == 1 and key_type not in KEY_TYPES):
        raise Refused("owner table: slot %d has impossible values" % slot)
    ids = struct.unpack_from("<64I", payload, OWNER_HEAD.size)
    return {"slot": slot, "destroyed": state == 2, "key_size": key_size, "key_type": KEY_TYPES.get(key_type), "name": c_string(name), "check": check,
            "desc": c_string(desc), "ids": [ids[2 * i:2 * i + 2] for i in range(nr_ids)]}


class Device:
    """What a table line says, and what an activation finds on disk."""

    def __init__(self, key, nr_blocks, sector_size, cipher="aes-xts-plain64", data=None):
        self.key = key
        self.nr_blocks = nr_blocks      # of the table
        self.sector_size = sector_size
        self.cipher = cipher
        self.data = data                # block number: its ciphertext
        self.keys_cache = {}
        self.sums = {}

    def keys(self, salt, uuid):
        if (salt, uuid) not in self.keys_cache:
            self.keys_cache[salt, uuid] = Keys(self.key, salt, uuid)
        return self.keys_cache[salt, uuid]

    def sound(self, image, place):
        block = bytes(image[place * BLOCK:(place + 1) * BLOCK])
        s = super_parse(block)
        return (s["magic"] == MAGIC and s["place"] == place and not any(block[SECTOR:]) and
                s["csum"] == crc32c(block[:508]))

    def open(self, image, area_blocks, rw=True, new=False):
        """Activates an image with room for so many area blocks, with the option format if it is to be new. Raises
        Refused, or sets the attributes below."""
        self.image = image
        if area_blocks <= OWNER_START:
            raise Refused("metadata area has [0-9]+ sectors, it needs at least")
        sound = [self.sound(image, place) for place in SUPERS]
        if not any(sound):
            if any(any(image[p * BLOCK:(p + 1) * BLOCK]) for p in SUPERS):
                raise Refused("no valid superblock and is not all zeros: nothing was written")
            layout = Layout(self.nr_blocks, min(max(self.nr_blocks >> 12, 128), 512), 256)
            if layout.end > area_blocks:
                raise Refused("metadata area needs %d sectors, there are %d" % (layout.end * 8, area_blocks * 8))
            if any(image[:layout.map * BLOCK]):
                raise Refused("no superblock and is not all zeros: nothing was written")
            if new and rw:
                raise Refused("test made an area that is formatted")
            raise Refused("metadata area is all zeros: " + ("the table must be read-write to format it" if new else
                                                            "the option format makes a new one"))
        self.damaged_super = not all(sound)
        s = super_parse(image[SUPERS[0 if sound[0] else 1] * BLOCK:][:SECTOR])
        self.check_super(s, area_blocks, rw, new)
        k = self.k = self.keys(s["salt"], s["uuid"])
        if s["check"] != k.check:
            raise Refused("device key is the wrong one")
        place = SUPERS[0 if sound[0] else 1] * BLOCK
        if s["mac"] != hmac.new(k.super, bytes(image[place:place + 476]), hashlib.sha512).digest()[:32]:
            raise Refused("superblock is forged")
        if all(sound) and image[:260] != image[SUPERS[1] * BLOCK:][:260]:
            raise Refused("superblock copies are of different metadata areas")
        self.load_owners()
        self.state = b""
        for b in range(self.layout.state_blocks):
            payload = k.open_block(STATE, self.layout.state + b, image)
            if payload is None:
                raise Refused("map state block %d is not authentic" % b)
            self.state += payload
        self.changed = {}               # map block: entries, as the journal left them
        self.lost = set()               # those of them that could not be read; with entries of None
        self.recover()

    def check_super(self, s, area_blocks, rw, new):
        if s["version"] != 1:
            raise Refused("metadata has format version %d, " % s["version"])
        if s["incompat"]:
            raise Refused("unknown incompatible features %#x" % s["incompat"])
        if s["ro_compat"] and rw:
            raise Refused("unknown features %#x: load the table read-only" % s["ro_compat"])
        if (any(s["reserved"]) or b"\0" not in s["cipher"] or s["flags"] & ~1 or not 1 <= s["owner_blocks"] <= 8192 or
                not 128 <= s["journal_blocks"] <= 65536 or not 1 <= s["nr_blocks"] <= MAX_BLOCKS or
                not 1 <= s["key_size"] <= 256):
            raise Refused("superblock has impossible values")
        if new:
            raise Refused("format is for areas of zeros, this one has a superblock")
        for field, mine in (("cipher", self.cipher.encode()), ("sector_size", self.sector_size),
                            ("key_size", len(self.key)), ("flags", 0), ("iv_offset", 0)):
            theirs = c_string(s[field]) if field == "cipher" else s[field]
            if theirs != mine:
                raise Refused("metadata was made with (a key size of|iv_large_sectors)?" if field in ("key_size", "flags")
                              else "metadata was made with " + field)
        if s["nr_blocks"] < self.nr_blocks:
            raise Refused("metadata maps %d blocks, the table line needs" % s["nr_blocks"])
        self.layout = Layout(s["nr_blocks"], s["owner_blocks"], s["journal_blocks"])
        if self.layout.end > area_blocks:
            raise Refused("metadata area needs %d sectors, there are %d" % (self.layout.end * 8, area_blocks * 8))
        self.nr_slots = s["owner_blocks"] * 8

    def load_owners(self):
        self.owners = {}
        for b in range(self.layout.owner_blocks):
            payload = self.k.open_block(OWNER, OWNER_START + b, self.image)
            if payload is None:
                raise Refused("owner table block %d is not authentic" % b)
            for u in range(8):
                owner = owner_parse(payload[u * UNIT_PAYLOAD:(u + 1) * UNIT_PAYLOAD], b * 8 + u)
                if owner:
                    self.owners[b * 8 + u] = owner
        self.destroyed = {slot for slot, owner in self.owners.items() if owner["destroyed"]}

    def stored(self, index):
        """Entries of a map block as they are on disk; None if they cannot be read."""
        if not self.state[index // 8] >> index % 8 & 1:
            return [0] * ENTRIES
        payload = self.k.open_block(MAP, self.layout.map + index, self.image)
        return payload and list(struct.unpack("<%dH" % ENTRIES, payload))

    def entries(self, index):
        """Entries of a map block; None: whoever needs them gets an error."""
        return self.changed[index] if index in self.changed else self.stored(index)

    def journal(self, seq):
        """A valid block where this one would be: (seq, durable, nr_records, payload), or None."""
        payload = self.k.open_block(JOURNAL, self.layout.journal + seq % self.layout.journal_blocks, self.image)
        return payload and JOURNAL_HEAD.unpack_from(payload)[:3] + (payload,)

    def recover(self):
        payload = self.k.open_block(ANCHOR, self.layout.anchor, self.image)
        if payload is None:
            raise Refused("journal anchor is not authentic")
        self.tail, self.durable, flags = ANCHOR_HEAD.unpack_from(payload)
        blocks = self.layout.journal_blocks
        if (not 0 < self.tail <= self.durable or self.durable - self.tail > blocks or flags & ~1 or
                self.durable > MAX_SEQ):
            raise Refused("journal anchor has impossible values")
        self.clean = flags & 1
        self.end = self.durable
        if self.clean:
            return
        durable = self.durable
        last = self.tail + blocks
        seq = self.tail
        while seq < last:
            found = self.journal(seq)
            if not found or found[0] != seq:
                break
            durable = max(durable, found[1])
            if found[2] > RECORDS:
                raise Refused("journal block %d has %d records, at most 252 fit" % (seq, found[2]))
            self.replay(found[3], found[2], seq)
            seq += 1
        self.end = seq
        for behind in range(seq, last):
            found = self.journal(behind)
            if found and found[0] > seq:
                durable = max(durable, found[1])
        if self.end < durable:
            raise Refused("journal block %d is damaged: all up to %d were durable" % (self.end, durable - 1))

    def replay(self, payload, nr, seq):
        words = [RECORD.unpack_from(payload, JOURNAL_HEAD.size + i * RECORD.size) for i in range(nr)]
        i = 0
        while i < nr:
            word, count, slot, old = words[i]
            kind, block = word >> 56, word & (1 << 48) - 1
            used = 1 + (count + 1) // 2 if kind == RECORD_INTENT else 1
            if (kind not in (RECORD_MAP, RECORD_INTENT) or word >> 48 & 0xff or not count or
                    block + count > self.layout.nr_blocks or slot >= self.nr_slots or old >= self.nr_slots or
                    old and kind == RECORD_MAP or i + used > nr):
                raise Refused("journal block %d has an impossible record" % seq)
            at = JOURNAL_HEAD.size + (i + 1) * RECORD.size
            for n in range(count):
                value = slot
                if kind == RECORD_INTENT:
                    wanted, = struct.unpack_from("<Q", payload, at + 8 * n)
                    value = slot if self.sum(block + n) == wanted else old
                self.assign(block + n, value)
            i += used

    def sum(self, block):
        known = self.data(block), self.k.intent
        if known not in self.sums:
            self.sums[known] = xxh64(*known)
        return self.sums[known]

    def assign(self, block, slot):
        index = block // ENTRIES
        if index not in self.changed:
            entries = self.stored(index)
            if entries is None:
                # What the journal does not say of it is not known; what it says may count, or not.
                self.lost.add(index)
                entries = [None] * ENTRIES
            self.changed[index] = entries
        self.changed[index][block % ENTRIES] = slot
