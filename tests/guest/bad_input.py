#!/usr/bin/python3
# See 40-bad-input.t.
#
# SPDX-License-Identifier: GPL-2.0-only

import hashlib
import os
import random
import re
import struct
import time

import kc
import kcformat as f

DISK = "/dev/disk/kc/"
DATA, META = DISK + "data", DISK + "meta"
LENGTH, OFFSET = 32 << 11, 32768
AREA = 4 << 20  # more than the metadata area
KEY = ":64:logon:kc:root"
BLOCK = 4096
OWNER_BLOCKS, JOURNAL_BLOCKS = 128, 256  # of a metadata area for so little data
OWNERS = 32  # its blocks
ANCHOR = OWNERS + OWNER_BLOCKS
JOURNAL = ANCHOR + 1
STATE = JOURNAL + JOURNAL_BLOCKS
MAP = STATE + 1
NEEDED = (MAP + -(-LENGTH // 8 // 1920)) * 8  # sectors
SECRET = os.urandom(64).hex()

ZEROS = "metadata area is all zeros: the option format makes a new one, if nothing is missing here"
HAS_SUPER = "format is for areas of zeros, this one has a superblock: nothing was written to it"

kmsg = kc.Log()
whole_log = []


def new_log():
    lines = kmsg.new()
    whole_log.extend(lines)
    return lines


def line(cipher="aes-xts-plain64", key=KEY, iv="0", disk=DATA, offset=str(OFFSET), opts="1 owner:uid",
         length=LENGTH):
    return ("0 %d keyed-crypt %s %s %s %s %s %s" % (length, cipher, key, iv, disk, offset, opts)).rstrip()


GOOD = line()


def writes():
    """What was done to the disks but reading."""
    return [kc.disk_stat(disk)[2:5] for disk in (DATA, META)]


def disk_sum():
    """Of both disks where metadata are; expensive in the emulated VM, so not for every case."""
    return [hashlib.sha256(kc.read(disk, 0, AREA)).hexdigest() for disk in (DATA, META)]


def outcome(what, *args, **kw):
    """(error, lines of the kernel log)"""
    new_log()
    error = kc.errno_of(what, *args, **kw)
    return error, [text for text in new_log() if "keyed-crypt" in text]


def refused(name, error, regex, what, *args, **kw):
    """what() fails with that error, says why in the log (None: may), and changes nothing on the disks."""
    before = writes()
    got, log = outcome(what, *args, **kw)
    if got == "none" and what is kc.create:
        kc.remove("kc")
    said = [text for text in log if re.search(regex, text)] if regex else [""]
    changed = writes() != before
    return kc.ok(name, got == error and len(said) == 1 and not changed,
                 "error %s, expected %s; disk changed: %s; expected in the log once: %s\n%s" %
                 (got, error, changed, regex, "\n".join(log)))


def others_errno(table):
    """What another target says to it."""
    error = kc.errno_of(kc.create, "other", table)
    if error == "none":
        kc.remove("other")
    return error


def no_table(name, error, regex, table, ro=False):
    return refused("table: " + name, error, "table: .*keyed-crypt: " + regex, kc.create, "kc", table, ro)


# ---- table lines ----

def bad_tables():
    e = "EINVAL"
    no_table("no arguments", e, "table line has 0 arguments, at least 5 are needed", "0 %d keyed-crypt" % LENGTH)
    for n in 1, 4:
        no_table("%d arguments" % n, e, "table line has %d arguments, at least 5 are needed" % n,
                 " ".join(GOOD.split()[:3 + n]))
    no_table("fewer options than it says", e, "number of options is 2, there are 1", line(opts="2 owner:uid"))
    no_table("more options than it says", e, "number of options is 1, there are 2",
             line(opts="1 owner:uid allow_discards"))
    no_table("no number of options", e, "number of options is owner:uid, there are 0", line(opts="owner:uid"))
    for opt in ("owner:cgroup", "owner:", "owner:UID"):
        no_table(opt, e, opt + " is not one of none, uid, gid, projid", line(opts="1 " + opt))
    for opt in ("on_locked:fail", "same_cpu_crypt", "submit_from_crypt_cpus", "owner", "meta_device",
                "integrity:16:none", "no_encrypt", "allow_discards:1", "sector_size=4096", "format:1", "Format"):
        no_table(opt, e, "unknown option " + opt, line(opts="1 " + opt))
    for value in ("", "no", "Strict"):
        no_table("reassign:" + value, e, "reassign:%s is not strict or lazy" % value, line(opts="1 reassign:" + value))
    for size in ("0", "256", "513", "3072", "8192", "-1", "4096x", ""):
        no_table("sector_size:" + size, e, "sector_size:%s is not 512, 1024, 2048 or 4096" % size,
                 line(opts="1 sector_size:" + size))
    for at in ("1", "4", "x", "-8", ""):
        no_table("meta_offset:" + at, e, "meta_offset:%s is not a multiple of 8 sectors" % at,
                 line(opts="1 meta_offset:" + at))
    for size in ("0", "x", "65537", "-1", "99999999999"):
        no_table("meta_cache:" + size, e, "meta_cache:%s is not a number of MiB from 1 to 65536" % size,
                 line(opts="1 meta_cache:" + size))
    # ENODEV, on newer kernels ENOENT
    gone = others_errno("0 8 linear /dev/none 0")
    no_table("meta_device: that is not there", gone, "cannot open meta_device /dev/none",
             line(opts="1 meta_device:/dev/none"))
    no_table("meta_offset: in the data", e, "meta_offset 40000 is in the data, which has sectors 32768 to 98303",
             line(opts="1 meta_offset:40000"))
    no_table("meta_offset: of the last data block", e, "meta_offset 98296 is in the data", line(opts="1 meta_offset:98296"))
    no_table("no room for metadata before the data", e, "meta_offset 0 is in the data", line(offset="0"))
    no_table("too little room for metadata", "ENOSPC", "metadata area needs %d sectors, there are %d" % (NEEDED, NEEDED - 8),
             line(offset=str(NEEDED - 1)))
    no_table("room for nothing", "ENOSPC", "metadata area has 256 sectors, it needs at least 264", line(offset="256"))
    no_table("a meta_device too small", "ENOSPC", "metadata area needs %d sectors, there are 320" % NEEDED,
             line(opts="2 meta_device:%s meta_offset:%d" % (META, kc.size_of(META) // 512 - 320)))
    no_table("meta_offset: behind the end", "ENOSPC", "metadata area has 0 sectors, it needs at least 264",
             line(opts="2 meta_device:%s meta_offset:%d" % (META, kc.size_of(META) // 512 + 800)))
    for ring, error, text in (("nonsense", e, "is neither a serial number nor"), ("1", "ENOKEY", "no such keyring"),
                              ("%:kc-none", "ENOKEY", "no such keyring"), (str(A_KEY), "ENOTDIR", "is a key, not a keyring")):
        no_table("keyring:" + ring, error, "keyring: %s: %s" % (text, ring) if text[0] == "n" else "keyring: " + text,
                 line(opts="1 keyring:" + ring))
    ring = kc.keyctl(0, kc.USER, 0)
    kc.keyctl(5, ring, 0x37370000)  # may not be searched
    no_table("a user keyring that may not be searched", "ENOKEY", "keyring: no such keyring: user keyring", GOOD)
    kc.keyctl(5, ring, 0x3f3f0000)
    no_table("a length that is no multiple of sector_size", e, "length of 65537 sectors is not a multiple of sector_size 4096",
             line(length=LENGTH + 1))
    no_table("more blocks than the format can count", "EFBIG", "device of 9007199254740992 blocks is too large",
             line(length=1 << 53, opts="1 sector_size:512"))
    no_table("data that ends behind the device", e, "device %s has 131072 sectors, the data needs 131072 from sector 32768 on" % DATA,
             line(length=131072))
    no_table("data that begins behind the device", e, "device .* has 131072 sectors, the data needs 65536 from sector 131080 on",
             line(offset="131080"))
    no_table("an offset of 2^64 - 8", e, "device .* has 131072 sectors, the data needs 65536 from sector 18446744073709551608 on",
             line(offset="18446744073709551608"))
    for at in ("x", "-1", "18446744073709551616"):
        no_table("offset " + at, e, "offset %s is not a number of sectors" % at, line(offset=at))
    for iv in ("x", "-8", "1", "4", "18446744073709551616"):
        no_table("iv_offset " + iv, e, "iv_offset %s is not a multiple of sector_size in sectors" % iv, line(iv=iv))
    no_table("a device that is not there", gone, "cannot open device /dev/none", line(disk="/dev/none"))

    # ENOENT, on newer kernels EINVAL
    no_skcipher = others_errno("0 8 crypt capi:gcm(aes)-plain64 %s 0 %s 0" % ("00" * 32, DATA))
    # Newer kernels have a cipher that does nothing in ecb mode only.
    null_cbc = e, "cipher has no key: it would write plaintext"
    if others_errno("0 8 crypt cipher_null-cbc-plain64 - 0 %s 0" % DATA) == "ENOENT":
        null_cbc = "ENOENT", "cipher is not known to the kernel"
    for cipher, error, text in (
            ("aes", e, "does not take"), ("aes-xts", e, "has no IV"), ("aes-xts-plain65", e, "IV is not one of"),
            ("aes-xts-", e, "IV is not one of"), ("-xts-plain64", e, "has no cipher"),
            ("aes-lrw-benbi", e, "IV is not one of"), ("aes-cbc-lmk", e, "IV is not one of"),
            ("aes-xts-random", e, "IV is not one of"), ("aes-xts-eboiv", e, "IV is not one of"),
            ("foo-xts-plain64", "ENOENT", "cipher is not known to the kernel"),
            ("capi:gcm(aes)-plain64", no_skcipher, "cipher is not known to the kernel"),
            ("capi:xts(aes)", e, "has no IV"), ("capi:xts(aes)-benbi", e, "IV is not one of"),
            ("capi:", e, "has no cipher"), ("aes(x)-xts-plain64", e, "parentheses but no capi:"),
            ("aes:2-cbc-plain64", e, "several keys"), ("aes-cbc-essiv", e, "essiv needs a digest"),
            ("aes-cbc-essiv:", e, "essiv needs a digest"), ("aes-cbc-essiv:foo", "ENOENT", "not known to the kernel"),
            ("aes-xts-plain64:sha256", e, "only essiv takes an option"),
            ("aes-xts-plain64-" + "x" * 128, e, "is too long"),
            # The kernel's name for it is longer.
            ("x" * 123 + "-ecb", e, "is too long"), ("aes-cbc-essiv:" + "x" * 113, e, "is too long"),
            ("aes-plain-plain64", "ENOENT", "cipher is not known to the kernel"),
            # What would write plaintext
            ("cipher_null-ecb", e, "cipher has no key: it would write plaintext"),
            ("cipher_null-ecb-null", e, "cipher has no key: it would write plaintext"),
            ("cipher_null-cbc-plain64", *null_cbc),
            ("capi:ecb(cipher_null)-null", e, "cipher has no key: it would write plaintext")):
        if cipher != "aes":
            no_table("cipher " + cipher[:60], error, "cipher .*: .*" + re.escape(text), line(cipher=cipher))

    ref = "key is not a keyring reference :<size>:<type>:<description>"
    no_table("a key in hex", e, ref, line(key=SECRET))
    no_table("a key in hex for read-only", e, ref, line(key=SECRET), ro=True)
    no_table("a key in hex behind a colon", e, "key has no size", line(key=":" + SECRET))
    no_table("a key in hex as type", e, "key type is not one of", line(key=":64:" + SECRET))
    no_table("no key", e, ref, line(key="-"))
    for key, text in (
            (":", "key has no size"), (":64", "key has no size"), (":64:", "key type is not one of"),
            (":64:logon", "key type is not one of"), ("::logon:kc:root", "key size is not a number from 1 to 256"),
            (":0:logon:kc:root", "key size is not a number from 1 to 256"),
            (":257:logon:kc:root", "key size is not a number from 1 to 256"),
            (":x:logon:kc:root", "key size is not a number from 1 to 256"),
            (":00000064:logon:kc:root", "key has no size"),
            (":64:keyring:kc:root", "key type is not one of logon, user, encrypted, trusted"),
            (":64:logonx:kc:root", "key type is not one of logon, user, encrypted, trusted"),
            (":64:logon:", "key has no description"),
            (":64:logon:" + "x" * 128, "key description is longer than 127 characters"),
            (":64:logon:kc:\x01x", "key description has white space or control characters")):
        no_table("key " + key[:40].replace("\x01", "^A"), e, text, line(key=key))
    for name, error, text, key in (
            ("that is not there", "ENOKEY", ":64:logon:kc:none not found", ":64:logon:kc:none"),
            ("of another type", "ENOKEY", ":64:user:kc:root not found", ":64:user:kc:root"),
            ("of another size", "EKEYREJECTED", ":32:logon:kc:root has another size", ":32:logon:kc:root"),
            ("that was revoked", "EKEYREVOKED", ":64:logon:kc:revoked not found", ":64:logon:kc:revoked"),
            ("the cipher does not take", e, ":63:logon:kc:odd is not one the cipher takes", ":63:logon:kc:odd")):
        no_table("a key " + name, error, "device key " + text, kc.formats(line(key=key)))
        no_table("an area of zeros, no format, and a key " + name, e, ZEROS, line(key=key))
    no_table("an area of zeros, and no format", e, ZEROS, GOOD)
    no_table("an area of zeros, no format, read-only", e, ZEROS, GOOD, ro=True)
    no_table("an area of zeros on another disk, and no format", e, ZEROS, line(opts="1 meta_device:" + META))
    no_table("format, read-only", "EROFS", "metadata area is all zeros: the table must be read-write to format it",
             kc.formats(GOOD), ro=True)


def bad_tables_live():
    """Over a live device: it goes on."""
    dev = kc.create("kc", GOOD, new=True)
    kc.write(dev, 0, b"z" * BLOCK)
    kc.message("kc", "commit")
    whole = kc.create("whole", "0 %d linear %s 0" % (kc.size_of(DATA) // 512, DATA))
    table, status, before = kc.table_of("kc"), kc.status("kc"), disk_sum()

    def try_load(table, ro=False):
        try:
            kc.load("kc", table, ro)
        finally:
            kc.clear("kc")

    for name, error, text, new, ro in (
            ("another cipher", "EINVAL", "made with cipher aes-xts-plain64, the table line says aes-cbc-plain64",
             line(cipher="aes-cbc-plain64"), False),
            ("another sector_size", "EINVAL", "made with sector_size 4096, the table line says 512",
             line(opts="1 sector_size:512"), False),
            ("another key", "EKEYREJECTED", "device key is the wrong one: the check value of :64:logon:kc:alice is not the recorded one",
             line(key=":64:logon:kc:alice"), False),
            ("a key of another size", "EINVAL", "made with a key size of 64, the table line says 32",
             line(key=":32:logon:kc:short"), False),
            ("another iv_offset", "EINVAL", "made with iv_offset 0, the table line says 8", line(iv="8"), False),
            ("iv_large_sectors", "EINVAL", "made with iv_large_sectors off, the table line says on",
             line(opts="1 iv_large_sectors"), False),
            ("a larger device", "EINVAL", "metadata maps 8192 blocks, the table line needs 8193",
             line(length=LENGTH + 8), False),
            ("format", "EINVAL", HAS_SUPER, kc.formats(GOOD), False),
            ("format and another cipher", "EINVAL", HAS_SUPER, kc.formats(line(cipher="aes-cbc-plain64")), False),
            ("format, metadata elsewhere", "EBUSY", "the live table has its metadata at",
             kc.formats(line(opts="1 meta_device:" + META)), False),
            ("read-only", "EBUSY", "the live table is read-write: remove the device to change that", GOOD, True),
            ("metadata inside the live one", "EBUSY", "metadata area is in use by 253:0",
             line(opts="1 meta_offset:8"), False),
            ("two targets with it", "EBUSY", "metadata area is in use by 253:0",
             GOOD + "\n" + GOOD.replace("0", str(LENGTH), 1), False),
            ("its data on another disk", "EBUSY", "the live table has its data at sector 32768 of vd.*, not at 32768 of dm-.*: remove",
             line(disk=whole, opts="2 owner:uid meta_device:" + DATA), False),
            ("its data elsewhere", "EBUSY", "the live table has its data at sector 32768 of vd.*, not at 32776 of vd.*: remove",
             line(offset="32776"), False)):
        refused("over a live device: " + name, error, "table: .*keyed-crypt: .*" + text, try_load, new, ro)
    refused("another device over the same metadata", "EBUSY", "metadata area is in use by 253:0",
            kc.create, "kc2", GOOD)
    refused("another device over a part of it", "EBUSY", "metadata area is in use by 253:0",
            kc.create, "kc2", line(opts="1 meta_offset:800"))
    kc.remove("whole")
    kc.equal("the live device kept its table", kc.table_of("kc"), table)
    kc.ok("which does not say format", "format" not in table, table)
    kc.equal("and its state", kc.status("kc"), status)
    kc.equal("the disks have the same hash as before", disk_sum(), before)
    kc.same("and its data", kc.read(dev, 0, BLOCK), b"z" * BLOCK)
    kc.equal("its line loads over it", kc.errno_of(kc.reload, "kc", table), "none")
    kc.same("with its data", kc.read(dev, 0, BLOCK), b"z" * BLOCK)
    kc.remove("kc")
    dev = kc.create("kc", table)
    kc.same("and loads again", kc.read(dev, 0, BLOCK), b"z" * BLOCK)
    kc.remove("kc")
    kc.create("kc", GOOD, ro=True)
    refused("over a live device that is read-only: read-write", "EBUSY",
            "table: .*keyed-crypt: the live table is read-only: remove the device to change that", try_load, GOOD)
    kc.remove("kc")
    # The same again when it is not live
    for name, text, new in (
            ("another cipher", "metadata was made with cipher aes-xts-plain64, the table line says aes-cbc-plain64",
             line(cipher="aes-cbc-plain64")),
            ("another spelling of the cipher", "metadata was made with cipher aes-xts-plain64, the table line says capi:xts.aes.-plain64",
             line(cipher="capi:xts(aes)-plain64")),
            ("another sector_size", "metadata was made with sector_size 4096, the table line says 512", line(opts="1 sector_size:512")),
            ("a key of another size", "metadata was made with a key size of 64, the table line says 32", line(key=":32:logon:kc:short")),
            ("another iv_offset", "metadata was made with iv_offset 0, the table line says 8", line(iv="8")),
            ("iv_large_sectors", "metadata was made with iv_large_sectors off, the table line says on", line(opts="1 iv_large_sectors")),
            ("a larger device", "metadata maps 8192 blocks, the table line needs 8193", line(length=LENGTH + 8))):
        no_table("a formatted area and " + name, "EINVAL", text, new)
    no_table("a formatted area and another key", "EKEYREJECTED",
             "device key is the wrong one: the check value of :64:logon:kc:alice is not the recorded one", line(key=":64:logon:kc:alice"))


def two_on_a_disk():
    """Each with its metadata area before its data, or both areas on another disk: they do not get in each
    other's way, whichever comes first."""
    length = 16384
    for where, tables in (
            ("a disk", {"kc": line(length=length, offset="4096"),
                        "kc2": line(length=length, offset="32768", opts="1 meta_offset:24576")}),
            ("two disks", {"kc": line(length=length, offset="0", opts="1 meta_device:" + META),
                           "kc2": line(length=length, offset="32768",
                                       opts="2 meta_device:%s meta_offset:8192" % META)})):
        kc.zero(DATA, 0, 32 << 20)
        kc.zero(META, 0, 8 << 20)
        for turn, names in enumerate((("kc", "kc2"), ("kc2", "kc"))):
            errors = [kc.errno_of(kc.create, name, tables[name], new=not turn) for name in names]
            kc.equal("two devices on %s, %s first" % (where, names[0]), errors, ["none", "none"])
            for name in names:
                dev = kc.node(kc.dm(kc.DEV_STATUS, name)[0])
                if not turn:
                    kc.write(dev, 0, name[-1].encode() * (length * 512))
                kc.ok("%s has its own data" % name,
                      kc.read(dev, 0, length * 512) == name[-1].encode() * (length * 512))
            kc.remove(*names)
    dev = kc.create("kc2", tables["kc2"])
    no_table("an area that would reach into a live one", "ENOSPC", "metadata area has 64 sectors, it needs at least 264",
             line(length=length, offset="0", opts="2 meta_device:%s meta_offset:8128" % META))
    kc.ok("kc2 has its own data", kc.read(dev, 0, length * 512) == b"2" * (length * 512))
    kc.remove("kc2")
    kc.zero(DATA, 0, 32 << 20)
    kc.zero(META, 0, 8 << 20)


# ---- messages ----

def bad_messages():
    dev = kc.create("kc", GOOD, new=True)
    kc.write(dev, 0, b"z" * BLOCK)
    kc.message("kc", "owner add alice 1000-1009 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 5,7-8 :64:logon:kc:bob")
    kc.write(dev, BLOCK, b"a" * BLOCK, uid=1000)
    kc.message("kc", "commit")
    state = [kc.message("kc", "owner list"), kc.message("kc", "map 0 100"), kc.status("kc"), disk_sum()]
    add = "owner add %s %s %s"
    ok_key = ":64:logon:kc:carl"
    e = "EINVAL"
    ids = "is neither an id, a range of ids, a list of these nor -"
    for text, error, said in (
            ("foo", e, "foo: not one of owner, map, commit"), ("assign 0 1 alice", e, "assign: not one of owner, map, commit"),
            ("Commit", e, "Commit: not one of"), ("commit now", e, "2 words, expected 1: commit"),
            ("owner", e, "owner : not one of add, ids, lock, unlock, destroy, list"),
            ("owner forget alice", e, "owner forget: not one of add, ids, lock, unlock, destroy, list"),
            ("owner destroy", e, "2 words, expected 3: owner destroy"), ("owner destroy carl", "ENOENT", "there is no owner carl"), ("owner list alice", e, "3 words, expected 2: owner list"),
            ("owner add", e, "2 words, expected 5: owner add"), ("owner add carl 3", e, "4 words, expected 5: owner add"),
            (add % ("carl", "3", ok_key) + " x", e, "6 words, expected 5: owner add"),
            (add % ("x" * 32, "3", ok_key), e, "name x{32} is not 1 to 31 of A-Za-z0-9._-"),
            (add % ("a/b", "3", ok_key), e, "name a/b is not 1 to 31"),
            (add % ("a:b", "3", ok_key), e, "name a:b is not 1 to 31"),
            (add % ("\xe4", "3", ok_key), e, "name .* is not 1 to 31"),
            (add % ("alice", "3", ok_key), "EEXIST", "there is an owner alice already"),
            (add % ("carl", "x", ok_key), e, "ids x: " + ids), (add % ("carl", "1-", ok_key), e, "ids 1-: " + ids),
            (add % ("carl", "-1", ok_key), e, "ids -1: " + ids), (add % ("carl", "1,", ok_key), e, "ids 1,: " + ids),
            (add % ("carl", ",", ok_key), e, "ids ,: " + ids), (add % ("carl", "1-2-3", ok_key), e, "ids 1-2-3: " + ids),
            (add % ("carl", "4294967296", ok_key), e, "ids 4294967296: " + ids),
            (add % ("carl", "3-2", ok_key), e, "ids 3-2: has a range that ends before it starts"),
            (add % ("carl", "1,0-2", ok_key), e, "ids 1,0-2: names an id twice"),
            (add % ("carl", "1" * 30, ok_key), e, "ids 1{30}: is not an id"),
            (add % ("carl", ",".join(str(i) for i in range(100, 133)), ok_key), e, "ids .*: has more than 32 ranges"),
            (add % ("carl", "1009", ok_key), "EEXIST", "ids 1009: 1009 is owner alice's"),
            (add % ("carl", "6-9", ok_key), "EEXIST", "ids 6-9: 7 is owner bob's"),
            (add % ("carl", "0-4294967295", ok_key), "EEXIST", "ids 0-4294967295: "),
            (add % ("carl", "3", SECRET), e, "owner carl: key is not a keyring reference"),
            (add % ("carl", "3", ":64:" + SECRET), e, "owner carl: key type is not one of"),
            (add % ("carl", "3", ":0:logon:x"), e, "owner carl: key size is not a number from 1 to 256"),
            (add % ("carl", "3", ":64:logon:kc:none"), "ENOKEY", "key :64:logon:kc:none not found"),
            (add % ("carl", "3", ":64:logon:kc:revoked"), "EKEYREVOKED", "key :64:logon:kc:revoked not found"),
            (add % ("carl", "3", ":32:logon:kc:carl"), "EKEYREJECTED", "key :32:logon:kc:carl has another size"),
            (add % ("carl", "3", ":63:logon:kc:odd"), e, "key :63:logon:kc:odd is not one the cipher takes"),
            (add % ("carl", "3", KEY), "EEXIST", "key :64:logon:kc:root is the device's already"),
            (add % ("carl", "3", ":64:logon:kc:alice"), "EEXIST", "key :64:logon:kc:alice is alice's already"),
            (add % ("carl", "3", ":64:user:kc-alice-too"), "EEXIST", "key :64:user:kc-alice-too is alice's already"),
            ("owner ids", e, "2 words, expected 4: owner ids"), ("owner ids carl 3", "ENOENT", "there is no owner carl"),
            ("owner ids alice x", e, "ids x: " + ids), ("owner ids alice 5", "EEXIST", "ids 5: 5 is owner bob's"),
            ("owner lock", e, "2 words, expected 3: owner lock"), ("owner lock carl", "ENOENT", "there is no owner carl"),
            ("owner unlock carl", "ENOENT", "there is no owner carl"),
            ("owner lock alice bob", e, "4 words, expected 3: owner lock"),
            ("map", e, "1 words, expected 3: map"), ("map 0", e, "2 words, expected 3: map"),
            ("map 0 1 2", e, "4 words, expected 3: map"), ("map x 1", e, "map: block x is not a number below 8192"),
            ("map -1 1", e, "map: block -1 is not a number below 8192"),
            ("map 8192 1", e, "map: block 8192 is not a number below 8192"),
            ("map 0 0", e, "map: count 0 is not a number from 1 to 8192"),
            ("map 1 8192", e, "map: count 8192 is not a number from 1 to 8191"),
            ("map 1 18446744073709551615", e, "map: count 18446744073709551615 is not a number from 1 to 8191"),
            ("map 0 -1", e, "map: count -1 is not a number from 1 to 8192")):
        refused("message: " + (text if len(text) < 60 else text[:56] + "..."), error,
                "keyed-crypt: 253:0: message: " + said, kc.message, "kc", text)
    kc.equal("bad messages changed nothing", [kc.message("kc", "owner list"), kc.message("kc", "map 0 100"),
                                              kc.status("kc"), disk_sum()], state)
    kc.message("kc", "owner lock alice")
    kc.equal("the module still works: lock", kc.errno_of(kc.read, dev, BLOCK, BLOCK), "EIO")
    kc.message("kc", "owner unlock alice")
    kc.same("and unlock", kc.read(dev, BLOCK, BLOCK), b"a" * BLOCK)
    kc.message("kc", "owner add carl 3,4294967295,20-30 " + ok_key)
    kc.message("kc", "owner ids bob -")
    listed = kc.message("kc", "owner list")
    kc.equal("and add and ids", [row.split()[:4] for row in listed.split("\n")],
             [["alice", "2", "unlocked", "1000-1009"], ["bob", "3", "unlocked", "-"],
              ["carl", "4", "unlocked", "3,4294967295,20-30"]])
    kc.remove("kc")
    kc.create("kc", GOOD, ro=True)
    kc.equal("it was durable", kc.message("kc", "owner list"), listed)
    for text in (add % ("dora", "9", ":64:logon:kc:dora"), "owner ids alice 1000"):
        refused("read-only: " + text, "EROFS", "keyed-crypt: 253:0: message: owner (add|ids): the metadata is read-only", kc.message, "kc", text)
    kc.remove("kc")


# ---- metadata areas ----

CRC = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82f63b78 if n & 1 else 0)
    CRC.append(n)


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 0xff]
    return crc


# struct kc_disk_super: offset and format of its fields
FIELDS = {"magic": (0, "16s"), "version": (16, "<I"), "compat": (20, "<I"), "ro_compat": (24, "<I"),
          "incompat": (28, "<I"), "uuid": (32, "16s"), "salt": (48, "32s"), "check": (80, "32s"),
          "cipher": (112, "128s"), "key_size": (240, "<I"), "sector_size": (244, "<I"), "flags": (248, "<I"),
          "owner_blocks": (252, "<I"), "journal_blocks": (256, "<I"), "place": (260, "<I"),
          "iv_offset": (264, "<Q"), "nr_blocks": (272, "<Q"), "reserved": (280, "196s"), "mac": (476, "32s"),
          "csum": (508, "<I")}
FIRST, SECOND = 0, 16 * BLOCK


def get(image, place, field):
    at, fmt = FIELDS[field]
    return struct.unpack_from(fmt, image, place + at)[0]


def put(image, place, field, value, csum=True):
    at, fmt = FIELDS[field]
    struct.pack_into(fmt, image, place + at, value)
    if csum:
        struct.pack_into("<I", image, place + 508, crc32c(image[place:place + 508]))


def flip(image, at, bit=0x10):
    image[at] ^= bit


def put_image(image):
    kc.write(DATA, 0, bytes(image) + bytes(-len(image) % BLOCK))


def no_area(name, error, regex, image, table=GOOD, ro=False):
    put_image(image)
    refused("metadata: " + name, error, "keyed-crypt: " + regex, kc.create, "kc", table, ro)
    if kc.read(DATA, 0, len(image)) != image:
        kc.ok("metadata: %s: the area is untouched" % name, False)


def opens(name, image, contents, ro=False, regex=None, unchanged=False):
    """The area is taken, and the device holds what it should."""
    put_image(image)
    before = writes()
    new_log()
    try:
        dev = kc.create("kc", GOOD, ro)
        got = [kc.read(dev, at, len(data)) == data for at, data in contents]
        kc.remove("kc")
    except OSError as e:
        got = repr(e)
    log = new_log()
    kc.ok("metadata: " + name, got == [True] * len(contents) and
          (not regex or any(re.search(regex, text) for text in log)) and
          (not unchanged or writes() == before),
          "%s, changed: %s, expected in the log: %s\n%s" % (got, writes() != before, regex, "\n".join(log)))


NO_SUPER = "metadata area has no valid superblock and is not all zeros: nothing was written to it"
NOT_ZEROS = "metadata area has no superblock and is not all zeros: nothing was written to it"
FORGED = "superblock is forged: it is not authentic under the device key"
clean = dirty = b""  # a metadata area after a clean stop, and one as after a crash
contents, more = [], []  # and what the device holds: (byte, data)
areas = {}  # other areas, by the name of their device key
seq = 0  # number of the first of three journal blocks that count in dirty


def make_areas():
    global clean, dirty, more, seq
    # A device with data of three owners in two map blocks, cleanly closed
    kc.zero(DATA, 0, AREA)
    dev = kc.create("kc", GOOD, new=True)
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")
    for at, uid in (0, None), (40960, 1000), (1 << 20, 1001), (16 << 20, 1000), (20 << 20, None):
        contents.append((at, os.urandom(8 * BLOCK)))
        kc.write(dev, at, contents[-1][1], uid=uid)
    kc.remove("kc")
    clean = kc.read(DATA, 0, AREA)
    # The same with commits since, as it is after a crash
    dev = kc.create("kc", GOOD)
    more = list(contents)
    for at, uid in ((2 << 20, 1000), (3 << 20, 1001), (17 << 20, 1001)):
        more.append((at, os.urandom(BLOCK)))
        kc.write(dev, at, more[-1][1], uid=uid)
        kc.message("kc", "commit")
    dirty = kc.read(DATA, 0, AREA)
    seq = int(kc.status("kc").split()[4]) - 2  # of the first of three journal blocks
    kc.remove("kc")
    # Somebody else's area, and one of our own key
    for name in "alice", "root":
        kc.zero(DATA, 0, AREA)
        kc.create("kc", line(key=":64:logon:kc:" + name), new=True)
        if name == "root":
            kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
        kc.remove("kc")
        areas[name] = kc.read(DATA, 0, AREA)


def changed(field, value, places=(FIRST, SECOND)):
    image = bytearray(clean)
    for place in places:
        put(image, place, field, value)
    return image


def sound_areas():
    opens("a sound one is taken", clean, contents)
    opens("an unclean one is recovered", dirty, more, regex="recovered the key map from 3 journal blocks")
    opens("and read-only, with nothing written", dirty, more, ro=True, unchanged=True)


def bad_fields():
    """Fields of the superblock that are wrong, with a right checksum"""
    e = "EINVAL"
    for name, error, text, image in (
            ("version 2", e, "metadata has format version 2, this module knows 1", changed("version", 2)),
            ("version 0", e, "metadata has format version 0", changed("version", 0)),
            ("an unknown incompatible feature", e, "metadata has unknown incompatible features 0x4", changed("incompat", 4)),
            ("an unknown read-only compatible feature", "EROFS", "metadata has unknown features 0x1: load the table read-only",
             changed("ro_compat", 1)),
            ("a forged compatible feature", "EBADMSG", FORGED, changed("compat", 1)),
            ("another uuid", "EKEYREJECTED", "device key is the wrong one", changed("uuid", bytes(16))),
            ("another salt", "EKEYREJECTED", "device key is the wrong one", changed("salt", bytes(32))),
            ("another check value", "EKEYREJECTED", "device key is the wrong one", changed("check", bytes(32))),
            ("another cipher", e, "metadata was made with cipher aes-cbc-plain64, the table line says aes-xts-plain64",
             changed("cipher", b"aes-cbc-plain64")),
            ("a cipher without end", e, "superblock has impossible values", changed("cipher", b"a" * 128)),
            ("no cipher", e, "metadata was made with cipher , the table line says", changed("cipher", b"")),
            ("another key size", e, "metadata was made with a key size of 32, the table line says 64", changed("key_size", 32)),
            ("no key size", e, "superblock has impossible values", changed("key_size", 0)),
            ("too large a key size", e, "superblock has impossible values", changed("key_size", 257)),
            ("another sector size", e, "metadata was made with sector_size 512, the table line says 4096", changed("sector_size", 512)),
            ("iv_large_sectors", e, "metadata was made with iv_large_sectors on, the table line says off", changed("flags", 1)),
            ("an unknown flag", e, "superblock has impossible values", changed("flags", 2)),
            ("no owner table", e, "superblock has impossible values", changed("owner_blocks", 0)),
            ("too large an owner table", e, "superblock has impossible values", changed("owner_blocks", 8193)),
            ("an owner table that does not fit", "ENOSPC", "metadata area needs .* sectors, there are 32768",
             changed("owner_blocks", 8192)),
            ("a smaller owner table", "EBADMSG", FORGED, changed("owner_blocks", OWNER_BLOCKS - 1)),
            ("too small a journal", e, "superblock has impossible values", changed("journal_blocks", 127)),
            ("too large a journal", e, "superblock has impossible values", changed("journal_blocks", 65537)),
            ("a smaller journal", "EBADMSG", FORGED, changed("journal_blocks", JOURNAL_BLOCKS - 1)),
            ("copies that belong elsewhere", e, NO_SUPER, changed("place", 5)),
            ("another iv_offset", e, "metadata was made with iv_offset 8, the table line says 0", changed("iv_offset", 8)),
            ("fewer blocks", e, "metadata maps 8191 blocks, the table line needs 8192", changed("nr_blocks", 8191)),
            ("no blocks", e, "superblock has impossible values", changed("nr_blocks", 0)),
            ("2^63 blocks", e, "superblock has impossible values", changed("nr_blocks", 1 << 63)),
            ("more blocks than fit", "ENOSPC", "metadata area needs .* sectors, there are 32768", changed("nr_blocks", 1 << 40)),
            ("more blocks", "EBADMSG", FORGED, changed("nr_blocks", 8193)),
            ("reserved bytes used", e, "superblock has impossible values", changed("reserved", b"\1")),
            ("another MAC", "EBADMSG", FORGED, changed("mac", bytes(32)))):
        no_area(name, error, text, image)
    no_area("an unknown feature that is read-only compatible, read-only: forged", "EBADMSG", FORGED,
            changed("ro_compat", 1), ro=True)


def bad_copies():
    """Damage that the checksum sees, in both copies or in one"""
    e = "EINVAL"
    for name, at in (("magic", 3), ("version", 16), ("uuid", 41), ("check value", 90), ("MAC", 480),
                     ("checksum", 509), ("what follows it", 512), ("the end of its block", 4095)):
        image = bytearray(clean)
        flip(image, FIRST + at)
        if at % 4:
            flip(image, SECOND + at)
            no_area("a bit flipped in both copies: " + name, e, NO_SUPER, image)
            continue
        opens("a bit of the first copy flipped: %s; it is written again" % name, image, contents,
              regex="superblock copy 1 was bad: written again")
        kc.ok("metadata: and is as it was", kc.read(DATA, 0, BLOCK) == clean[:BLOCK])
        flip(image, SECOND + at)
        no_area("in both copies: " + name, e, NO_SUPER, image)
        flip(image, FIRST + at)
        opens("in the second copy: %s; it is written again" % name, image, contents,
              regex="superblock copy 2 was bad: written again")
        kc.ok("metadata: and is as it was", kc.read(DATA, SECOND, BLOCK) == clean[SECOND:SECOND + BLOCK])
        opens("read-only it is not", image, contents, ro=True, regex="superblock copy 2 was bad: using the other",
              unchanged=True)
    for place, name in (FIRST, "first"), (SECOND, "second"):
        image = bytearray(clean)
        image[place:place + BLOCK] = bytes(BLOCK)
        opens("the %s copy overwritten with zeros" % name, image, contents, regex="was bad: written again")
        kc.ok("metadata: and is as it was", kc.read(DATA, place, BLOCK) == clean[place:place + BLOCK])
    image = bytearray(clean)
    image[FIRST:FIRST + BLOCK] = bytes(BLOCK)
    flip(image, SECOND + 480)
    put(image, SECOND, "compat", 1)
    no_area("one copy lost, the other one forged", "EBADMSG", FORGED, image)


def foreign_copies():
    """Copies that do not belong together"""
    e = "EINVAL"
    image = bytearray(clean)
    image[SECOND:SECOND + BLOCK] = areas["root"][SECOND:SECOND + BLOCK]
    no_area("the second copy is another area's of the same key", e, "superblock copies are of different metadata areas", image)
    image[SECOND:SECOND + BLOCK] = areas["alice"][SECOND:SECOND + BLOCK]
    no_area("the second copy is another device's", e, "superblock copies are of different metadata areas", image)
    image[:BLOCK], image[SECOND:SECOND + BLOCK] = clean[SECOND:SECOND + BLOCK], clean[:BLOCK]
    no_area("copies in each other's place", e, NO_SUPER, image)
    no_area("a forged second copy", e, "superblock copies are of different metadata areas",
            changed("compat", 1, (SECOND,)))
    no_area("a forged first copy", "EBADMSG", FORGED, changed("compat", 1, (FIRST,)))
    image = bytearray(clean)
    image[FIRST:FIRST + BLOCK] = areas["alice"][:BLOCK]
    no_area("the first copy is another device's", "EKEYREJECTED", "device key is the wrong one", image)
    no_area("the whole area is another device's", "EKEYREJECTED", "device key is the wrong one", areas["alice"])
    image = bytearray(clean)
    image[:17 * BLOCK] = areas["root"][:17 * BLOCK]
    no_area("superblocks of another area of the same key", "EBADMSG", "owner table block 0 is not authentic", image)


def not_to_format():
    """Areas that are not all zeros"""
    e = "EINVAL"
    image = bytearray(AREA)
    image[5 * BLOCK] = 1
    no_area("zeros but for one bit, no superblock", e, "metadata area has no superblock and is not all zeros: nothing", image)
    image[5 * BLOCK], image[16 * BLOCK + 9] = 0, 1
    no_area("zeros but for one bit in a superblock's place", e, NO_SUPER, image)
    image[16 * BLOCK + 9], image[MAP * BLOCK - 1] = 0, 1
    no_area("zeros but for the last bit before the map", e, "metadata area has no superblock and is not all zeros: nothing", image)
    image = bytearray(clean)
    image[:17 * BLOCK] = bytes(17 * BLOCK)
    no_area("superblocks overwritten with zeros", e, "metadata area has no superblock and is not all zeros: nothing", image)
    image = bytearray(clean)
    image[:MAP * BLOCK] = bytes(MAP * BLOCK)
    no_area("all before the map overwritten with zeros", e, ZEROS, image)
    no_area("read-only too", e, ZEROS, image, ro=True)


def format_over():
    """With format, areas that are there, or were"""
    e = "EINVAL"
    new = kc.formats(GOOD)
    no_area("format over an area", e, HAS_SUPER, clean, new)
    no_area("read-only too", e, HAS_SUPER, clean, new, ro=True)
    no_area("format over one that a crash has left", e, HAS_SUPER, dirty, new)
    no_area("format over another device's", e, HAS_SUPER, areas["alice"], new)
    no_area("format over one of another length", e, HAS_SUPER, clean, kc.formats(line(length=LENGTH // 2)))
    for name, place in ("first", FIRST), ("second", SECOND):
        image = bytearray(clean)
        flip(image, place + 90)
        no_area("format, a bit flipped in the %s superblock" % name, e, HAS_SUPER, image, new)
    flip(image, FIRST + 90)
    no_area("format, a bit flipped in both", e, NO_SUPER, image, new)
    image = bytearray(clean)
    image[:BLOCK] = image[SECOND:SECOND + BLOCK] = bytes(BLOCK)
    no_area("format, both overwritten with zeros", e, NOT_ZEROS, image, new)
    image = bytearray(clean)
    for place in FIRST, SECOND:
        image[place:place + BLOCK] = os.urandom(BLOCK)
    no_area("format, both overwritten with something else", e, NO_SUPER, image, new)
    no_area("format, a version to come", e, "metadata has format version 2", changed("version", 2), new)
    places = [(FIRST + 40, NO_SUPER), (SECOND + 4095, NO_SUPER), (5 * BLOCK, NOT_ZEROS), (MAP * BLOCK - 1, NOT_ZEROS)]
    places += [(block * BLOCK + random.randrange(BLOCK), NOT_ZEROS)
               for block in (1, 15, 17, 31, OWNERS, OWNERS + 77, ANCHOR, JOURNAL, JOURNAL + 200, STATE)]
    for at, text in places:
        image = bytearray(AREA)
        flip(image, at, 1 << random.randrange(8))
        no_area("format, zeros but for one bit of byte %d of block %d" % (at % BLOCK, at // BLOCK), e, text, image, new)
    # what is on the disk behind the fixed parts does not count
    image = bytearray(os.urandom(AREA))
    image[:MAP * BLOCK] = bytes(MAP * BLOCK)
    no_area("zeros before the map, and no format", e, ZEROS, image)
    kc.equal("metadata: with format they are taken", kc.errno_of(kc.create, "kc", new), "none")
    kc.ok("metadata: the table does not say format", "format" not in kc.table_of("kc"), kc.table_of("kc"))
    kc.equal("metadata: nor what was measured of it", kc.ima_of("kc").count("format"), 0)
    kc.remove("kc")
    refused("metadata: with format again they are not", e, "keyed-crypt: " + HAS_SUPER, kc.create, "kc", new)
    opens("without it they are, and empty", kc.read(DATA, 0, AREA), [(0, bytes(1 << 20))])


def bad_seals():
    for name, at, text in (
            ("the first owner block: nonce", OWNERS * BLOCK, "owner table block 0 is not authentic"),
            ("the first owner block: ciphertext", OWNERS * BLOCK + 1124, "owner table block 0 is not authentic"),
            ("the first owner block: tag", OWNERS * BLOCK + 1535, "owner table block 0 is not authentic"),
            ("the last owner block", (ANCHOR - 1) * BLOCK + 4095, "owner table block %d is not authentic" % (OWNER_BLOCKS - 1)),
            ("the anchor", ANCHOR * BLOCK + 20, "journal anchor is not authentic"),
            ("the rest of its block", ANCHOR * BLOCK + 4000, "journal anchor is not authentic"),
            ("the map state: nonce", STATE * BLOCK + 1, "map state block 0 is not authentic"),
            ("the map state", STATE * BLOCK + 16, "map state block 0 is not authentic"),
            ("the last unit of the map state", STATE * BLOCK + 4090, "map state block 0 is not authentic")):
        image = bytearray(clean)
        flip(image, at)
        no_area("a bit flipped in " + name, "EBADMSG", text, image)
        if at % BLOCK < 100:
            no_area("read-only too", "EBADMSG", text, image, ro=True)
    for name, dst, src, size, text in (
            ("alice's entry in bob's place", OWNERS * BLOCK + 1536, OWNERS * BLOCK + 1024, 512, "owner table block 0"),
            ("an owner block in another one's place", (OWNERS + 1) * BLOCK, OWNERS * BLOCK, BLOCK, "owner table block 1"),
            ("an owner block as anchor", ANCHOR * BLOCK, (ANCHOR - 1) * BLOCK, BLOCK, "journal anchor"),
            ("the anchor as map state", STATE * BLOCK, ANCHOR * BLOCK, BLOCK, "map state block 0")):
        image = bytearray(clean)
        image[dst:dst + size] = clean[src:src + size]
        no_area(name, "EBADMSG", text + " is not authentic", image)
    for name, block, text in (("owner block", OWNERS, "owner table block 0"), ("anchor", ANCHOR, "journal anchor"),
                              ("map state", STATE, "map state block 0")):
        image = bytearray(clean)
        image[block * BLOCK:(block + 1) * BLOCK] = bytes(BLOCK)
        no_area("%s of zeros" % name, "EBADMSG", text + " is not authentic", image)
        image[block * BLOCK:(block + 1) * BLOCK] = areas["root"][block * BLOCK:(block + 1) * BLOCK]
        no_area("%s of another area" % name, "EBADMSG", text + " is not authentic", image)


def owner_types():
    """An owner whose key is of a type this kernel has not got is locked; one whose key is of none is nobody's."""
    image = bytearray(f.make_area(ROOT_KEY, LENGTH // 8, owner_blocks=16))
    s = f.super_parse(image)
    keys = f.Keys(ROOT_KEY, s["salt"], s["uuid"])

    def owner(key_type):
        unit = f.OWNER_START * 8 + 2
        payload = f.OWNER_HEAD.pack(1, 64, key_type, 1, b"tina", os.urandom(32), b"kc:tina") + struct.pack("<2I", 1000, 1000)
        image[unit * 512:(unit + 1) * 512] = keys.seal_unit(f.OWNER, unit, payload.ljust(f.UNIT_PAYLOAD, b"\0"))

    for key_type in 0, 5, 255:
        owner(key_type)
        no_area("an owner's key of type %d" % key_type, "EINVAL", "owner table: slot 2 has impossible values", image)
    owner(4)
    put_image(image)
    dev = kc.create("kc", GOOD)
    kc.equal("metadata: an owner with a trusted key is locked", kc.message("kc", "owner list"),
             "tina 2 locked 1000 :64:trusted:kc:tina 0")
    refused("metadata: and cannot be unlocked", "EOPNOTSUPP", "owner tina: key :64:trusted:kc:tina not found", kc.message, "kc",
            "owner unlock tina")
    kc.equal("metadata: or write", kc.errno_of(kc.write, dev, 9 * BLOCK, bytes(BLOCK), uid=1000), "EIO")
    kc.equal("metadata: others do", kc.errno_of(kc.write, dev, 9 * BLOCK, bytes(BLOCK), uid=1001), "none")
    kc.remove("kc")


def bad_journals():
    """The journal counts after an unclean stop only"""
    image = bytearray(clean)
    for block in range(JOURNAL, STATE):
        flip(image, block * BLOCK + 77)
    opens("a journal of garbage does no harm after a clean stop", image, contents)
    for i, at in (0, 0), (0, 2048), (1, 4095):
        image = bytearray(dirty)
        flip(image, (JOURNAL + (seq + i) % JOURNAL_BLOCKS) * BLOCK + at)
        for ro in (False, True)[:1 + (at == 2048)]:
            no_area("a bit flipped in needed journal block %d, byte %d%s" % (i, at, ro * ", read-only"), "EBADMSG",
                    r"journal block %d is damaged: all up to \d+ were durable" % (seq + i), image, ro=ro)
    image = bytearray(dirty)
    a, b = ((JOURNAL + (seq + i) % JOURNAL_BLOCKS) * BLOCK for i in (0, 1))
    image[a:a + BLOCK], image[b:b + BLOCK] = dirty[b:b + BLOCK], dirty[a:a + BLOCK]
    no_area("two journal blocks exchanged", "EBADMSG", "journal block %d is damaged" % seq, image)
    image = bytearray(dirty)
    image[a:a + BLOCK] = bytes(BLOCK)
    no_area("a needed journal block of zeros", "EBADMSG", "journal block %d is damaged" % seq, image)


def bad_map_blocks():
    """Just their data cannot be reached"""
    other = clean[(MAP + 2) * BLOCK:(MAP + 3) * BLOCK]
    for name, data in (("a bit flipped", None), ("zeros", bytes(BLOCK)), ("another map block", other),
                       ("another area's", areas["root"][MAP * BLOCK:(MAP + 1) * BLOCK])):
        image = bytearray(clean)
        if data:
            image[MAP * BLOCK:(MAP + 1) * BLOCK] = data
        else:
            flip(image, MAP * BLOCK + 4000)
        put_image(image)
        dev = kc.create("kc", GOOD)
        for what, call, args in (("read", kc.read, (dev, 0, BLOCK)), ("write", kc.write, (dev, 0, bytes(BLOCK))),
                              ("read of an unassigned block", kc.read, (dev, 1 << 22, BLOCK)),
                              ("map", kc.message, ("kc", "map 0 1"))):
            refused("metadata: map block 0, %s: %s" % (name, what), "EBADMSG" if what == "map" else "EIO",
                    # the log is rate limited
                    "keyed-crypt: 253:0: map block 0 is not authentic" if not data else None, call, *args)
        kc.ok("metadata: the other map blocks are not harmed", kc.read(dev, 16 << 20, 8 * BLOCK) == contents[3][1])
        kc.write(dev, 24 << 20, b"n" * BLOCK)
        kc.message("kc", "commit")
        kc.ok("metadata: nor is writing there", kc.read(dev, 24 << 20, BLOCK) == b"n" * BLOCK)
        kc.remove("kc")
        kc.ok("metadata: and the bad block was not touched",
              kc.read(DATA, MAP * BLOCK, BLOCK) == image[MAP * BLOCK:(MAP + 1) * BLOCK])


def cut_short():
    e = "EINVAL"
    short = kc.create("short", "0 %d linear %s 0" % (OFFSET + LENGTH - 8, DATA))
    put_image(clean)
    no_table("a device cut short", e, "device .* has 98296 sectors, the data needs 65536 from sector 32768 on",
             line(disk=short))
    kc.remove("short")
    short = kc.create("short", "0 %d linear %s 0" % (NEEDED - 8, DATA))
    no_table("a metadata device cut short", "ENOSPC", "metadata area needs %d sectors, there are %d" % (NEEDED, NEEDED - 8),
             line(opts="1 meta_device:" + short))
    kc.remove("short")
    opens("the sound one is still taken", clean, contents)


def timed(what):
    if not kc.wanted(what.__name__):
        return
    started = time.monotonic()
    what()
    kc.diag("%s: %.1f s" % (what.__name__, time.monotonic() - started))


kc.join_session()
for desc, size in (("root", 64), ("alice", 64), ("bob", 64), ("carl", 64), ("dora", 64), ("short", 32), ("odd", 63),
                   ("revoked", 64)):
    payload = os.urandom(size)
    key = kc.add_key("logon", "kc:" + desc, payload)
    if desc == "root":
        ROOT_KEY = payload
    if desc == "alice":
        kc.add_key("user", "kc-alice-too", payload)
    if desc == "revoked":
        kc.keyctl(3, key)
A_KEY = kc.add_key("user", "kc-a-key", b"x")

kc.zero(DATA, 0, AREA)
kc.zero(META, 0, AREA)
before_tables = disk_sum()
timed(bad_tables)
kc.equal("bad table lines: the disks have the same hash as before", disk_sum(), before_tables)
kc.ok("the area is still all zeros", not any(kc.read(DATA, 0, AREA)))
timed(bad_tables_live)
timed(two_on_a_disk)
kc.zero(DATA, 0, AREA)
timed(bad_messages)
make_areas()
for check in (sound_areas, bad_fields, bad_copies, foreign_copies, not_to_format, format_over, bad_seals, owner_types,
              bad_journals, bad_map_blocks, cut_short):
    timed(check)
new_log()
kc.ok("no key in the log", not any(SECRET[:16] in text for text in whole_log), "SECRET was logged")
kc.ok("and the log was seen", len(whole_log) > 200, len(whole_log))
kc.done()
