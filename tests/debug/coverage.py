#!/usr/bin/python3
# tests/debug/coverage.py FOLDER COUNTERS...: what tests run of the module, which was built in that folder with
# KERNEL=gcov.
#
# The guests left their counters in COUNTERS/<boot>, which tests/check keeps with the record of each part; they are of
# the same sources, so of the same branches, whenever it was that the module was built. They are added up,
# and gcov makes lines and branches of them. Printed are a table by file, and each branch of a line that was run but
# the branch not, and each function never called, for which uncovered.txt has no reason. Code that is
# only reached by such a branch is not listed again. Fails if there is any, or a reason that no longer
# applies.
#
# SPDX-License-Identifier: GPL-2.0-only

import collections
import glob
import json
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(TOP, "build/coverage")


def stamp(path):
    """What ties counters to their build (gcc/gcov-io.h: magic, version, stamp): the same one in all, with -frandom-seed;
    gcov-tool and gcov also compare a checksum of each function."""
    with open(path, "rb") as f:
        return f.read(12)[8:]


def gather(objects, counters):
    """Adds up the counters; the folder with the sum, beside what gcc wrote of the sources."""
    notes = {os.path.basename(p)[:-5]: p for p in glob.glob(os.path.join(objects, "*.gcno"))
             if not p.endswith(".mod.gcno")}
    if not notes:
        sys.exit("coverage: %s was not built with KERNEL=gcov" % objects)
    shutil.rmtree(OUT, ignore_errors=True)
    work = os.path.join(OUT, "sum")
    os.makedirs(work)
    boots = other = 0
    for boot in sorted(b for c in counters for b in glob.glob(os.path.join(c, "*"))):
        have = os.path.join(OUT, "boot")
        os.makedirs(have)
        for name, note in notes.items():
            data = os.path.join(boot, name + ".gcda")
            if os.path.exists(data) and stamp(data) == stamp(note):
                shutil.copy(data, have)
        if not os.listdir(have):
            other += 1
        elif not boots:
            os.rmdir(work)
            os.rename(have, work)
            boots += 1
        else:
            added = os.path.join(OUT, "added")
            subprocess.run(("gcov-tool", "merge", "-o", added, work, have), check=True)
            shutil.rmtree(work)
            os.rename(added, work)
            boots += 1
        shutil.rmtree(have, ignore_errors=True)
    print("%d boots%s" % (boots, ", and %d without the module, or with another build of it" % other if other else ""))
    if not boots:
        sys.exit("coverage: no test was run with this build")
    for name, note in notes.items():
        shutil.copy(note, work)
    return work, sorted(notes)


def reasons():
    """(what, ...) -> why: see the head of uncovered.txt"""
    why, what = {}, []
    with open(os.path.join(HERE, "uncovered.txt")) as f:
        for line in f:
            if line.startswith("#") or not line.strip():
                continue
            if not line[0].isspace():
                if what and why.get(what[-1]):
                    what = []
                what.append(" ".join(line.split()))
                why[what[-1]] = ""
            else:
                for w in what:
                    why[w] += line.strip() + " "
    without = [w for w in why if not why[w]]
    if without:
        sys.exit("coverage: no reason given for %s" % without)
    return why


def main():
    work, names = gather(os.path.realpath(sys.argv[1]), sys.argv[2:])
    lines = collections.defaultdict(lambda: collections.defaultdict(int))
    branches = collections.defaultdict(lambda: collections.defaultdict(list))
    owner, calls = {}, collections.defaultdict(int)
    for name in names:
        out = subprocess.run(("gcov", "--json-format", "--stdout", "--branch-probabilities", name + ".gcda"),
                             cwd=work, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        for file in (f for doc in out.decode().splitlines() for f in json.loads(doc)["files"]):
            source = os.path.basename(file["file"])
            if not os.path.exists(os.path.join(TOP, source)) or "/include/" in file["file"]:
                continue
            for f in file["functions"]:
                calls[source, f["name"]] += f["execution_count"]
            for l in file["lines"]:
                at = source, l["line_number"]
                lines[source][at[1]] += l["count"]
                owner.setdefault(at, l.get("function_name", "?"))
                # copies of a function add up where they are alike
                counts = [b["count"] for b in l["branches"]]
                old = branches[source].get(at[1])
                if old and len(old) == len(counts):
                    counts = [a + b for a, b in zip(old, counts)]
                elif old and len(old) > len(counts):
                    counts = old
                if counts:
                    branches[source][at[1]] = counts
    open_ = {}
    print("%-22s %18s %22s" % ("", "lines", "branches"))
    total = [0] * 4
    for source in sorted(lines):
        with open(os.path.join(TOP, source)) as f:
            text = [" ".join(l.split()) for l in f]
        row = [sum(c > 0 for c in lines[source].values()), len(lines[source]),
               sum(c > 0 for cs in branches[source].values() for c in cs), sum(map(len, branches[source].values()))]
        print("%-22s %6d of %5d %5.1f%% %6d of %5d %5.1f%%" % (
            source, row[0], row[1], 100 * row[0] / max(row[1], 1), row[2], row[3], 100 * row[2] / max(row[3], 1)))
        total = [a + b for a, b in zip(total, row)]
        for number, counts in branches[source].items():
            if lines[source][number] and not all(counts):
                what = "%s:%s: %s" % (source, owner[source, number], text[number - 1])
                open_.setdefault(what, []).append(number)
    print("%-22s %6d of %5d %5.1f%% %6d of %5d %5.1f%%" % (
        "all", total[0], total[1], 100 * total[0] / total[1], total[2], total[3], 100 * total[2] / total[3]))
    for (source, function), count in calls.items():
        if not count:
            open_["%s:%s: never called" % (source, function)] = [0]
    why = reasons()
    used = {}
    for w in open_:
        text = w.split(": ", 1)[1]
        used[w] = [k for k in why if k == w or k.startswith("*: ") and text.startswith(k[3:])]
    unknown = sorted((w for w in open_ if not used[w]), key=lambda w: (w.split(":")[0], open_[w][0]))
    stale = sorted(k for k in set(why) - {k for keys in used.values() for k in keys}
                   if not why[k].startswith("Sometimes"))
    print("%d lines have a branch that is never taken, %d of them without a reason" % (len(open_), len(unknown)))
    for w in unknown:
        print("  %s  (line %s)" % (w, ", ".join(map(str, open_[w]))))
    if stale:
        print("%d reasons for what is taken, or is no more:" % len(stale))
    for w in stale:
        print("  " + w)
    sys.exit(1 if unknown or stale else 0)


main()
