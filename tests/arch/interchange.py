#!/usr/bin/python3
"""Disks that are carried from one architecture to another; started by interchange.t.

    interchange.py write ME       the disk named ME, from scratch
    interchange.py check [change ME] DISK...   what is on each is what it should be, under the keys
                            and in the slots it should be; with "change", it is changed then

A disk has two devices: one of aes-xts, of raw blocks, one of Adiantum with ext4 on it. What is on a
disk is written down beside it, in DISK.json. Writing and changing end with journals in use and
writes that were not flushed, for the power cut that follows.
"""
# SPDX-License-Identifier: GPL-2.0-only

import hashlib
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../guest"))
import kc  # noqa: E402

BLOCK = 4096
META = 8192                              # sectors
RAW_BLOCKS, FS_BLOCKS = 4096, 6144       # 16 and 24 MiB
FS_START = 2 * META + RAW_BLOCKS * 8
UIDS = {"device": 0, "alice": 1000, "bob": 1001, "amd64": 2000, "arm64": 2001, "armhf": 2002, "s390x": 2003}
SCRATCH = 3000                           # the block the unflushed writes go to
# Whose blocks are what at first, about the borders of map blocks (1920 entries) too
RANGES = ((0, 16, "device"), (16, 33, "alice"), (49, 7, "bob"), (60, 1, "alice"), (1900, 41, "bob"),
          (1941, 3, "alice"), (3836, 8, "device"), (SCRATCH, 16, "alice"), (4095, 1, "bob"))
OUT = os.environ["KC_OUT"]


def content(disk, block, version, owner):
    head = ("%s block %d version %d of %s; " % (disk, block, version, owner)).encode()
    return (head * (BLOCK // len(head) + 1))[:BLOCK]


def file_data(name, version, size):
    head = ("file %s version %d; " % (name, version)).encode()
    return (head * (size // len(head) + 1))[:size]


def add_keys():
    for name in UIDS:
        kc.add_key("logon", "kc:" + name, hashlib.sha512(name.encode()).digest())
        kc.add_key("logon", "kc32:" + name, hashlib.sha256(name.encode()).digest())


def tables(disk):
    path = "/dev/disk/kc/" + disk
    return ("0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:device 0 %s %d 1 owner:uid" %
            (RAW_BLOCKS * 8, path, META),
            "0 %d keyed-crypt xchacha12,aes-adiantum-plain64 :32:logon:kc32:device 8 %s %d 3 owner:uid "
            "meta_device:%s meta_offset:%d" % (FS_BLOCKS * 8, path, FS_START, path, FS_START - META))


def run(*cmd):
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if p.returncode:
        raise RuntimeError("%s: %d: %s" % (" ".join(cmd), p.returncode, p.stdout))
    return p.stdout


class Disk:
    def __init__(self, name, fresh=False):
        self.name = name
        self.note = os.path.join(OUT, name + ".json")
        self.fresh = fresh
        if fresh:
            self.state = {"owners": [], "blocks": {}, "files": {}, "version": 0}
        else:
            with open(self.note) as f:
                self.state = json.load(f)
        self.mnt = "/mnt/" + name
        os.makedirs(self.mnt, exist_ok=True)

    def open(self):
        raw, fs = tables(self.name)
        self.raw = kc.create("raw-" + self.name, raw, new=self.fresh)
        self.fs = kc.create("fs-" + self.name, fs, new=self.fresh)
        self.fresh = False

    def close(self):
        kc.remove("raw-" + self.name, "fs-" + self.name)

    def slot(self, owner):
        return 1 if owner == "device" else 2 + self.state["owners"].index(owner)

    def save(self):
        with open(self.note, "w") as f:
            json.dump(self.state, f)

    def add_owner(self, name):
        for dev, key in ("raw-", "64:logon:kc:"), ("fs-", "32:logon:kc32:"):
            kc.message(dev + self.name, "owner add %s %d :%s%s" % (name, UIDS[name], key, name))
        self.state["owners"].append(name)

    def put(self, first, count, owner, sync=True):
        """Blocks of an owner's; not flushed, either content may be found."""
        data, version = b"", self.state["version"]
        for b in range(first, first + count):
            data += content(self.name, b, version, owner)
            may = [] if sync else self.state["blocks"].get(str(b), [])
            self.state["blocks"][str(b)] = may + [[version, owner]]
        self.save()
        kc.write(self.raw, first * BLOCK, data, uid=UIDS[owner], sync=sync)

    def write_file(self, owner, name, size):
        version = self.state["version"]
        path = os.path.join(self.mnt, owner, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.chown(os.path.dirname(path), UIDS[owner], UIDS[owner])

        def go():
            with open(path, "wb") as f:
                f.write(file_data(self.name + name, version, size))
                f.flush()
                os.fsync(f.fileno())
        kc.run_as(UIDS[owner], go)
        self.state["files"][owner + "/" + name] = [version, size]

    # --- what is on it ---

    def check_raw(self):
        found = {}
        slots = [int(slot) for first, count, slot in
                 (line.split() for line in kc.message("raw-" + self.name, "map 0 %d" % RAW_BLOCKS).split("\n") if line)
                 for _ in range(int(count))]
        if len(slots) != RAW_BLOCKS:
            return "the map has %d blocks" % len(slots)
        data = kc.read(self.raw, 0, RAW_BLOCKS * BLOCK)
        for b in range(RAW_BLOCKS):
            got, may = data[b * BLOCK:(b + 1) * BLOCK], self.state["blocks"].get(str(b))
            if not may:
                if slots[b] or got.strip(b"\0"):
                    return "block %d: slot %d, %r, and nothing was written there" % (b, slots[b], got[:40])
                continue
            for version, owner in may:
                if got == content(self.name, b, version, owner):
                    break
            else:
                return "block %d: slot %d, %r, expected one of %s" % (b, slots[b], got[:40], may)
            if slots[b] != self.slot(owner):
                return "block %d: %s's, in slot %d" % (b, owner, slots[b])
            found[str(b)] = [[version, owner]]
        self.state["blocks"] = found
        return ""

    def owner_list(self, dev, key, count):
        return "\n".join("%s %d unlocked %d :%s%s %s" % (o, self.slot(o), UIDS[o], key, o, count(o))
                         for o in self.state["owners"])

    def check(self):
        name = self.name
        kc.equal("%s: what is on it is right, and under the right keys" % name, self.check_raw(), "")
        counts = {}
        for (_, owner), in self.state["blocks"].values():
            counts[owner] = counts.get(owner, 0) + 1
        kc.equal("%s: the owners are there, with their blocks" % name,
                 kc.message("raw-" + name, "owner list").rstrip("\n"),
                 self.owner_list("raw-", "64:logon:kc:", lambda o: counts.get(o, 0)))
        run("mount", "-o", "noatime", self.fs, self.mnt)
        wrong = []
        for path, (version, size) in self.state["files"].items():
            with open(os.path.join(self.mnt, path), "rb") as f:
                if f.read() != file_data(name + path.split("/")[1], version, size):
                    wrong.append(path)
        kc.equal("%s: files on ext4 are right" % name, wrong, [])
        kc.message("fs-" + name, "commit")
        open("/tmp/map", "w").write(kc.message("fs-" + name, "map 0 %d" % FS_BLOCKS))
        wrong = []
        for owner in self.state["owners"]:
            if not os.path.isdir(os.path.join(self.mnt, owner)):
                continue
            blocks = os.path.join(os.path.dirname(kc.__file__), "blocks.py")
            open("/tmp/extents", "w").write(run(blocks, "extents", os.path.join(self.mnt, owner)))
            got = run(blocks, "owners", "/tmp/map", "/tmp/extents").split()
            if len(got) != 2 or int(got[0]) != self.slot(owner):
                wrong.append((owner, got))
        kc.equal("%s: and their blocks under their owners' keys" % name, wrong, [])
        run("umount", self.mnt)
        kc.equal("%s: the filesystem is clean" % name, run("e2fsck", "-fn", self.fs)[:0], "")

    # --- changes ---

    def change(self, me):
        self.state["version"] += 1
        if me not in self.state["owners"]:
            self.add_owner(me)
        v = self.state["version"]
        # over one's own, over another's, where nothing was; one block here and there
        self.put(16 + v, 9, "alice")
        self.put(45, 8, "bob" if v % 2 else "alice")
        self.put(1915 + 3 * v, 6, me)
        self.put(3833 - v, 3, me)
        self.put(100 + 20 * v, 20, me)
        run("mount", "-o", "noatime", self.fs, self.mnt)
        self.write_file("alice", "a", 100000 + v)
        self.write_file("bob", "b%d" % v, 30000 * v)
        self.write_file(me, me, 50000)
        run("sync")
        self.save()

    def cut(self):
        """Leaves all in the middle of it, for a power cut."""
        used = [kc.status(dev + self.name).split()[5] for dev in ("raw-", "fs-")]
        kc.diag("%s: journals in use: %s" % (self.name, " ".join(used)))
        kc.ok("%s: there is something in the journals" % self.name,
              all(not u.startswith("0/") for u in used), used)
        self.put(SCRATCH, 8, "bob" if self.state["version"] % 2 else "alice", sync=False)
        self.put(SCRATCH + 8, 8, self.state["owners"][-1], sync=False)


def main():
    add_keys()
    os.makedirs("/mnt", exist_ok=True)
    words = sys.argv[1:]
    if words[0] == "write":
        me = words[1]
        d = Disk(me, fresh=True)
        d.open()
        for name in "alice", "bob":
            d.add_owner(name)
        for first, count, owner in RANGES:
            d.put(first, count, owner)
        run("mkfs.ext4", "-q", d.fs)
        d.change(me)
        d.cut()
    else:
        me = words[2] if words[1] == "change" else None
        for name in words[3 if me else 1:]:
            d = Disk(name)
            d.open()
            d.check()
            if me:
                d.change(me)
                d.cut()
            else:
                d.close()
    kc.done()


main()
