#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Every I/O fails once, and from each on all do; started by 14-io-failures.t."""

import os

import kc

DATA, META = "/dev/disk/kc/data", "/dev/disk/kc/meta"
BLOCK = 4096
GONE = b"EIO"                           # what a destroyed owner's block is read as
LENGTH, AREA = 64 << 11, 8 << 20
MAP_BLOCK = 1920
PARAMS = "/sys/module/failinject/parameters/"
ALL = 1 << 30
UIDS = {1: None, 2: 1000, 3: 1001}     # by slot
# a few blocks in each map block; of one the journal has no intent; the last two are never written before a sweep
PLAIN = 4 * MAP_BLOCK
BLOCKS = [m * MAP_BLOCK + i for m in range(4) for i in range(3)] + [PLAIN, 5 * MAP_BLOCK, 6 * MAP_BLOCK]
FREE = BLOCKS[-2:]


def table(*opts):
    return kc.separate(LENGTH, DATA, META, "allow_discards", *opts)


def one_disk():
    return "0 %d keyed-crypt aes-xts-plain64 :64:logon:kc:root 0 %s %d 2 owner:uid allow_discards" % (
        LENGTH - (AREA >> 9), DATA, AREA >> 9)


def put(name, value):
    with open(PARAMS + name, "w") as f:
        f.write(str(value))


def get(name):
    with open(PARAMS + name) as f:
        return int(f.read())


class Failing:
    """I/O to a disk, or the cipher, fails, from number nth on, so often."""

    def __init__(self, disk, nth, times):
        self.disk, self.nth, self.times = disk, nth, times

    def __enter__(self):
        put("disk", os.stat(self.disk).st_rdev if self.disk else 0)
        put("times", self.times)
        put("nth", self.nth)
        return self

    def __exit__(self, *what):
        put("nth", 0)
        put("disk", 0)
        self.injected = get("injected")


class Model:
    """What a block may hold, as (slot, content); content None is undefined."""

    def __init__(self, blocks):
        self.blocks = {b: set(what) for b, what in blocks.items()}
        self.now = {b: next(iter(what)) for b, what in blocks.items()}
        self.failed = []
        self.moved = set()      # blocks that went from one owner to another

    def change(self, block, slot, what):
        """Runs what(), which brings slot and its content to a block."""
        new = (slot, bytes([slot + 64 + len(self.blocks[block])]) * BLOCK if slot else bytes(BLOCK))
        self.blocks[block].add(new)
        if self.now[block] and not self.now[block][0] or not slot:
            self.blocks[block].add((slot, None))
            self.blocks[block].add((self.now[block][0] if self.now[block] else slot, None))
        elif self.now[block] and self.now[block][0] != slot:
            self.moved.add(block)
        error = kc.errno_of(what, new[1])
        self.now[block] = new if error == "none" else None
        return error

    def write(self, dev, block, slot, flags=os.O_DIRECT):
        return self.change(block, slot, lambda data: kc.write(dev, block * BLOCK, data, flags, UIDS[slot]))

    def discard(self, dev, block):
        return self.change(block, 0, lambda data: kc.discard(dev, block * BLOCK, BLOCK))

    def durable(self, *blocks):
        """These have been flushed, if their last write succeeded."""
        for b in blocks or self.blocks:
            if self.now[b]:
                self.blocks[b] = {self.now[b]}

    def look(self, dev, when, live):
        """Live, a block holds what was written last."""
        slots = {}
        for row in kc.message("kc", "map 0 %d" % (LENGTH // 8)).split("\n"):
            first, count, slot = map(int, row.split())
            slots.update((b, slot) for b in self.blocks if first <= b < first + count)
        for b, may in self.blocks.items():
            got = (slots[b], content(dev, b))
            if live and self.now[b]:
                may = {self.now[b]}
            if got not in may and (got[0], None) not in may:
                self.failed.append("%s: block %d is %s, may be %s" % (when, b, show(got), [show(m) for m in may]))

    def crashed(self, dev):
        """From now on they hold what is found."""
        for b in self.blocks:
            if len(self.blocks[b]) > 1:
                slot = int(kc.message("kc", "map %d 1" % b).split()[2])
                self.now[b] = (slot, content(dev, b))
                self.blocks[b] = {self.now[b]}


def content(dev, block):
    try:
        return kc.read(dev, block * BLOCK, BLOCK)
    except OSError as e:
        if e.errno != kc.errno.EIO:
            raise
        return GONE


def show(what):
    return "%d:%s" % (what[0], "any" if what[1] is None else what[1][:2].hex())


def fsync(dev, flags=os.O_WRONLY):
    fd = os.open(dev, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- what a sweep begins with ----

class Image:
    """Metadata, the blocks' ciphertext, and what they hold."""

    def __init__(self, model):
        self.meta = kc.read(META, 0, AREA)
        self.data = {b: kc.read(DATA, b * BLOCK, BLOCK) for b in BLOCKS}
        self.blocks = {b: set(what) for b, what in model.blocks.items()}
        self.now = dict(model.now)

    def restore(self):
        kc.write(META, 0, self.meta)
        for b, data in self.data.items():
            kc.write(DATA, b * BLOCK, data)
        model = Model(self.blocks)
        model.now = dict(self.now)
        return model


def make_images():
    """A clean device with two owners; a dirty one, with records and intents to replay."""
    kc.zero(META, 0, AREA)
    dev = kc.create("kc", table(), new=True)
    kc.message("kc", "owner add alice 1000 :64:logon:kc:alice")
    kc.message("kc", "owner add bob 1001 :64:logon:kc:bob")
    model = Model({b: {(0, bytes(BLOCK))} for b in BLOCKS})
    for i, b in enumerate(BLOCKS[:-2]):
        kc.equal("block %d is written" % b, model.write(dev, b, i % 3 + 1), "none")
    model.blocks = {b: {model.now[b]} for b in BLOCKS}
    kc.remove("kc")
    clean = Image(model)
    dev = kc.create("kc", table())
    for i, b in enumerate(BLOCKS[:-3:2]):
        model.write(dev, b, (i * 2 + 1) % 3 + 1)
        fsync(dev)
        model.durable(b)
    model.discard(dev, PLAIN)
    fsync(dev)
    model.durable(PLAIN)
    model.write(dev, BLOCKS[1], 1)      # its intent has not been settled
    fsync_less = Image(model)           # the copy is as a crash would find it
    model.blocks = {b: {model.now[b]} for b in BLOCKS}
    kc.remove("kc")
    kc.ok("there is a journal to replay", fsync_less.meta != clean.meta)
    return clean, fsync_less


# ---- the sweeps ----

def sweep(name, image, do, disk=META, opened=True, rest=None):
    """Each I/O of do() fails once, then all from each on."""
    failed = []
    injected = refused = stopped = 0
    for times in 1, ALL:
        nth = 0
        while nth < 400:
            nth += 1
            model = image.restore()
            dev = kc.create("kc", table()) if opened else None
            events = kc.event_nr("kc") if opened else 0
            with Failing(disk, nth, times) as fail:
                errors = do(model, dev)
            if not opened and "none" in errors:
                dev = kc.node(kc.dm(kc.DEV_STATUS, "kc")[0])

            def bad(text):
                failed.append("%s I/O %d: %s, after %s" % ("just" if times == 1 else "from", nth, text, errors))

            if set(errors) - {"none", "EIO"}:
                bad("other errors")
            if not fail.injected and set(errors) != {"none"}:
                bad("an error without a failure")
            injected += bool(fail.injected)
            refused += set(errors) != {"none"}
            if dev:
                state = kc.status("kc").split()[3]
                if state == "failed":
                    stopped += 1
                    if opened and kc.event_nr("kc") == events:
                        bad("no event")
                    # what the map says stays right, and blocks of one's own can be written
                    model.look(dev, "failed", True)
                    # (but not blocks that have just changed their owner)
                    own = next(b for b in BLOCKS if model.now[b] and model.now[b][0] in (1, 3) and
                               b not in model.moved)
                    if model.write(dev, own, model.now[own][0]) != "none":
                        bad("an own block cannot be written")
                    kc.suspend("kc")
                    kc.reload("kc", table())
                    model.look(dev, "loaded again", False)
                    model.crashed(dev)
                elif state != "rw":
                    bad("status says " + state)
                model.look(dev, "with the disk well", True)
                if model.blocks and model.write(dev, FREE[0], 3) != "none":
                    bad("a new block cannot be written, with the disk well")
                if kc.errno_of(fsync, dev) != "none":
                    bad("no flush, with the disk well")
                model.durable()
                kc.remove("kc")
            elif rest:
                rest(bad)
            dev = kc.create("kc", table())
            if rest is None:
                model.look(dev, "opened again", False)
            kc.remove("kc")
            failed += ["%s I/O %d: %s, after %s" % ("just" if times == 1 else "from", nth, text, errors)
                       for text in model.failed]
            if not fail.injected:
                break
    kc.diag("%s: %d I/Os failed, alone or with all after them; %d times it said so, %d times the map was stopped" %
            (name, injected, refused, stopped))
    kc.ok("%s: %s" % (name, "no failure does harm"), not failed and injected, "\n".join(failed[:12]))


def create(model, dev):
    return [kc.errno_of(kc.create, "kc", table())]


def formatting():
    class Zeros:
        def restore(self):
            kc.zero(META, 0, AREA)
            return Model({})

    def format_it(model, dev):
        return [kc.errno_of(kc.create, "kc", table(), new=True)]

    def half_formatted(bad):
        """What was begun is not taken for anything, nor formatted over: with its second superblock it is an area, with
        nothing zeros, otherwise neither. Zeros are formatted again."""
        area = kc.read(META, 0, AREA)
        seen["area" if any(area[16 * BLOCK:17 * BLOCK]) else "neither" if any(area) else "zeros"] += 1
        for new in True, False:
            error = kc.errno_of(kc.create, "kc", table(), new=new)
            wanted = not any(area) if new else any(area[16 * BLOCK:17 * BLOCK])
            if error != ("none" if wanted else "EINVAL"):
                bad("the next, %s, says %s" % ("with format" if new else "without", error))
            if error == "none":
                kc.remove("kc")
                kc.write(META, 0, area)
            elif kc.read(META, 0, AREA) != area:
                bad("the next, %s, says %s and has written" % ("with format" if new else "without", error))
        kc.zero(META, 0, AREA)
        kc.create("kc", table(), new=True)
        kc.remove("kc")

    seen = dict.fromkeys(("area", "neither", "zeros"), 0)
    sweep("format", Zeros(), format_it, opened=False, rest=half_formatted)
    kc.ok("format: it was cut off before anything was written, before a superblock was, and before the first one",
          all(seen.values()), seen)


def opening():
    sweep("open", clean, create, opened=False)
    sweep("recover", dirty, create, opened=False)
    sweep("recover, data", dirty, create, DATA, opened=False)


def messages():
    def message(text):
        def do(model, dev):
            if "destroy" in text:
                for b in BLOCKS:
                    if model.now[b][0] == 2:
                        model.blocks[b].add((2, GONE))
            error = kc.errno_of(kc.message, "kc", text)
            if "destroy" in text:
                for b in BLOCKS:
                    if model.now[b][0] == 2:
                        # it is locked if it could not be destroyed
                        if error != "none":
                            kc.errno_of(kc.message, "kc", "owner unlock alice")
                        else:
                            model.now[b] = (2, GONE)
                            model.blocks[b] = {model.now[b]}
            return [error]
        return do

    for text in ("owner add carl 1002 :64:logon:kc:carl", "owner ids alice 1000,7", "owner list",
                 "map 0 %d" % (LENGTH // 8), "owner destroy alice"):
        sweep(text, clean, message(text))


def writes():
    def go(what, sync):
        def do(model, dev):
            errors = [what(model, dev)]
            errors.append(kc.errno_of(sync, dev))
            if errors == ["none", "none"]:
                model.durable()
            return errors
        return do

    def commit(dev):
        kc.message("kc", "commit")

    def suspend(dev):
        kc.message("kc", "commit")
        kc.suspend("kc")
        kc.resume("kc")

    def several(model, dev):
        return max((model.write(dev, b, i % 3 + 1) for i, b in enumerate(BLOCKS)), key=lambda e: e != "none")

    for disk in META, DATA:
        where = ", data" if disk == DATA else ""
        sweep("first write, flush" + where, clean, go(lambda m, d: m.write(d, FREE[1], 2), fsync), disk)
        sweep("first write, commit" + where, clean, go(lambda m, d: m.write(d, FREE[1], 2), commit), disk)
        sweep("FUA write" + where, clean, go(lambda m, d: m.write(d, FREE[1], 2, os.O_DIRECT | os.O_DSYNC),
                                             fsync), disk)
        sweep("reassign, flush" + where, clean, go(lambda m, d: m.write(d, BLOCKS[0], 3), fsync), disk)
        sweep("discard, flush" + where, clean, go(lambda m, d: m.discard(d, BLOCKS[4]), fsync), disk)
        sweep("several owners, suspend" + where, clean, go(several, suspend), disk)


def flushes():
    """What the disk had accepted before a flush that failed may be lost, and the next one succeed: the map stops."""
    for disks, line, area in ("one disk", one_disk(), DATA), ("two disks", table(), META):
        for name, block in ("nothing has changed", 0), ("a new block", 1):
            failed, nth = [], 0
            while True:
                nth += 1
                kc.zero(area, 0, AREA)
                dev = kc.create("kc", line, new=True)
                kc.write(dev, 0, bytes(BLOCK))
                fsync(dev)
                kc.write(dev, block * BLOCK, b"x" * BLOCK)
                events = kc.event_nr("kc")
                with Failing(DATA, nth, 1) as fail:
                    error = kc.errno_of(fsync, dev)
                if not fail.injected:
                    break
                got = (error, kc.status("kc").split()[3], kc.event_nr("kc") - events, kc.errno_of(fsync, dev),
                       kc.errno_of(kc.write, dev, 2 * BLOCK, bytes(BLOCK)), kc.errno_of(kc.message, "kc", "commit"),
                       kc.errno_of(kc.write, dev, 0, b"y" * BLOCK), kc.read(dev, 0, BLOCK) == b"y" * BLOCK)
                if got != ("EIO", "failed", 1, "EIO", "EIO", "EIO", "none", True):
                    failed.append("I/O %d: %s" % (nth, got))
                kc.suspend("kc")
                kc.reload("kc", line)
                got = (kc.status("kc").split()[3], kc.errno_of(kc.write, dev, 2 * BLOCK, bytes(BLOCK)),
                       kc.errno_of(fsync, dev))
                if got != ("rw", "none", "none"):
                    failed.append("I/O %d, loaded again: %s" % (nth, got))
                kc.remove("kc")
            kc.equal("%s: a flush with the disk well" % disks, error, "none")
            kc.remove("kc")
            kc.ok("%s: a flush that fails, %s: the map stops, and no later flush succeeds" % (disks, name),
                  not failed and nth > 1, "\n".join(failed))
        dev = kc.create("kc", line, ro=True)
        with Failing(DATA, 1, 1) as fail:
            error = kc.errno_of(fsync, dev, os.O_RDONLY)
        kc.equal("%s: a flush that fails changes nothing of a read-only table" % disks,
                 (fail.injected, error, kc.status("kc").split()[3], kc.errno_of(fsync, dev, os.O_RDONLY)),
                 (1, "EIO", "ro", "none"))
        kc.remove("kc")


def ciphers():
    """A cipher fails at each block: that write or read does, nothing is written, and the rest goes on."""
    big = 1 << 20           # both processors have a part of it
    old, new = os.urandom(big), os.urandom(big)
    disk = 16 << 20
    clean.restore()
    dev = kc.create("kc", table())
    kc.write(dev, disk, old)
    text = kc.read(DATA, disk, big)
    for name, what, sizes in (
            ("encryption", lambda size: kc.write(dev, disk, new[:size]), (BLOCK, 16 * BLOCK, big)),
            ("decryption", lambda size: kc.read(dev, disk, size), (BLOCK, 16 * BLOCK, big))):
        failed, injected = [], 0
        for size in sizes:
            for nth in sorted({1, 2, size // BLOCK // 2 + 1, size // BLOCK}):
                for times in 1, ALL:
                    put("cipher", 1)
                    with Failing(None, nth, times) as fail:
                        error = kc.errno_of(what, size)
                    put("cipher", 0)
                    injected += fail.injected
                    if error != ("EIO" if fail.injected else "none"):
                        failed.append("%d bytes, block %d: %s" % (size, nth, error))
                    if fail.injected:
                        if kc.read(DATA, disk, big) != text:
                            failed.append("%d bytes, block %d: something was written" % (size, nth))
                        if kc.read(dev, disk, big) != old:
                            failed.append("%d bytes, block %d: the old data is not there" % (size, nth))
                    elif name == "encryption":
                        kc.write(dev, disk, old)
                        kc.same("the same ciphertext again", kc.read(DATA, disk, big), text)
        kc.diag("%d of each %s failed" % (injected, name))
        kc.ok("a block whose %s fails is an error and nothing else" % name, not failed and injected >= 18,
              "\n".join(failed[:12]))
    # a block that was nobody's: its first owner may have it, and then nothing is in it
    put("cipher", 1)
    with Failing(None, 1, ALL) as fail:
        error = kc.errno_of(kc.write, dev, FREE[0] * BLOCK, new[:BLOCK])
    put("cipher", 0)
    kc.equal("a first write whose encryption fails", (error, fail.injected), ("EIO", 1))
    kc.ok("its plaintext is not on the disk", new[:512] not in kc.read(DATA, FREE[0] * BLOCK, BLOCK))
    kc.write(dev, FREE[0] * BLOCK, new[:BLOCK])
    kc.same("the next one succeeds", kc.read(dev, FREE[0] * BLOCK, BLOCK), new[:BLOCK])
    # another owner's block: no intent for what was not encrypted
    put("cipher", 1)
    with Failing(None, 1, ALL) as fail:
        error = kc.errno_of(kc.write, dev, disk, new[:BLOCK], uid=1000)
    put("cipher", 0)
    kc.equal("a write that changes the owner, whose encryption fails", (error, fail.injected), ("EIO", 1))
    kc.same("nothing is written", kc.read(DATA, disk, BLOCK), text[:BLOCK])
    kc.equal("the block is still its first owner's", kc.message("kc", "map %d 1" % (disk // BLOCK)),
             "%d 1 1" % (disk // BLOCK))
    kc.same("who reads it as before", kc.read(dev, disk, big), old)
    kc.remove("kc")


kc.join_session()
for name, address in zip(("start", "end"), kc.module_text()):
    put(name, address)
for who in "root", "alice", "bob", "carl":
    kc.add_key("logon", "kc:" + who, os.urandom(64))
clean, dirty = make_images()
for check in formatting, opening, messages, writes, flushes, ciphers:
    if kc.wanted(check.__name__):
        check()
kc.done()
