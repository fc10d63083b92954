#!/usr/bin/python3 -IS
"""A small checker for litmus tests in herd7's format, for machines that have no herd7.

  litmus.py FILE...     a line for each: "<name> Never|Sometimes <executions that are allowed>"

It enumerates all executions, and keeps those that the axioms of the kernel's memory model allow
(tools/memory-model/linux-kernel.cat: coherence, atomicity, happens-before, propagation), of what these tests
need: marked accesses, barriers, atomics, dependencies of control and data; no locks, no RCU, no plain accesses.
What else there is in a test is an error.
"""
# SPDX-License-Identifier: GPL-2.0-only

import itertools
import re
import sys

BARRIERS = {"smp_mb": "mb", "smp_rmb": "rmb", "smp_wmb": "wmb", "smp_mb__before_atomic": "before",
            "smp_mb__after_atomic": "after"}
READS = {"READ_ONCE": "", "smp_load_acquire": "acquire", "atomic_read": "", "atomic_read_acquire": "acquire"}
WRITES = {"WRITE_ONCE": "", "smp_store_release": "release", "atomic_set": ""}
# name: (what is added, whether the new value comes back, with a full barrier)
ATOMICS = {"atomic_inc": (1, False), "atomic_dec": (-1, False), "atomic_inc_return": (1, True),
           "atomic_dec_return": (-1, True)}


# ---- reading ----

def parse(text):
    """(name, initial values, bodies, condition)"""
    text = re.sub(r"\(\*\s.*?\*\)|/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)
    name = re.match(r"\s*C\s+(\S+)", text).group(1)
    start = text.index("{")
    init = dict((var, int(value)) for var, value in re.findall(r"(\w+)\s*=\s*(-?\d+)", text[start:text.index("}")]))
    bodies = []
    for m in re.finditer(r"\bP(\d+)\s*\([^)]*\)\s*\{", text):
        depth, at = 1, m.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        bodies.append(block(re.findall(r"\w+|==|!=|\S", text[m.end():at - 1]), name))
    return name, init, bodies, re.search(r"exists\s*(\(.*\))", text, re.S).group(1)


def block(tokens, name):
    """Statements: (target, function, arguments), or ("if", condition, then, else)."""
    out = []
    while tokens:
        word = tokens[0]
        if word == "int":
            tokens = tokens[tokens.index(";") + 1:]
        elif word == "if":
            condition, tokens = braces(tokens[1:], "(", ")")
            then, tokens = branch(tokens)
            other = []
            if tokens[:1] == ["else"]:
                other, tokens = branch(tokens[1:])
            out.append(("if", condition, block(then, name), block(other, name)))
        else:
            end = tokens.index(";")
            words, tokens = tokens[:end], tokens[end + 1:]
            target = words.pop(0) if words[1] == "=" else None
            if target:
                words.pop(0)
            arguments = [[]]
            for w in words[2:-1]:
                if w == ",":
                    arguments.append([])
                elif w not in "*&":
                    arguments[-1].append(w)
            if words[0] not in list(BARRIERS) + list(READS) + list(WRITES) + list(ATOMICS):
                sys.exit("%s: what is %s?" % (name, " ".join(words)))
            out.append((target, words[0], arguments))
    return out


def branch(tokens):
    if tokens[0] == "{":
        return braces(tokens, "{", "}")
    end = tokens.index(";") + 1
    return tokens[:end], tokens[end:]


def braces(tokens, left, right):
    assert tokens[0] == left, tokens
    depth = 0
    for i, word in enumerate(tokens):
        depth += (word == left) - (word == right)
        if not depth:
            return tokens[1:i], tokens[i + 1:]
    raise ValueError(tokens)


# ---- what a thread may do ----

class Event:
    def __init__(self, thread, kind, var=None, value=None, mark="", deps=(), ctrl=()):
        self.thread, self.kind, self.var, self.value, self.mark = thread, kind, var, value, mark
        self.deps, self.ctrl = frozenset(deps), frozenset(ctrl)     # places of reads in the trace
        self.rmw = None                                             # of its read, the place of an atomic's write


def evaluate(words, regs):
    """(value, the reads it depends on)"""
    deps = set()
    for w in words:
        deps |= regs[w][1] if w in regs else set()
    text = " ".join(str(regs[w][0]) if w in regs else "not" if w == "!" else w for w in words)
    return int(eval(text, {"__builtins__": {}})), deps


def traces(thread, body, values):
    """All (events, registers) of a thread, whatever its reads find."""
    def go(statements, events, regs, ctrl):
        if not statements:
            yield events, regs
            return
        head, rest = statements[0], statements[1:]
        if head[0] == "if":
            value, deps = evaluate(head[1], regs)
            # what comes behind it depends on it, too
            yield from go((head[2] if value else head[3]) + rest, events, regs, ctrl | deps)
            return
        target, function, arguments = head
        at = len(events)
        if function in BARRIERS:
            yield from go(rest, events + [Event(thread, "F", mark=BARRIERS[function])], regs, ctrl)
            return
        var = arguments[-1 if function in ATOMICS else 0][0]
        if function in WRITES:
            value, deps = evaluate(arguments[1], regs)
            event = Event(thread, "W", var, value, WRITES[function], deps, ctrl)
            yield from go(rest, events + [event], regs, ctrl)
            return
        for value in values:
            if function in READS:
                more = [Event(thread, "R", var, value, READS[function], ctrl=ctrl)]
                result, place = value, at
            else:
                add, full = ATOMICS[function]
                result, place = value + add, at + full
                more = [Event(thread, "R", var, value, "" if full else "noreturn", ctrl=ctrl),
                        Event(thread, "W", var, result, "", {place}, ctrl)]
                more[0].rmw = place + 1
                if full:
                    more = [Event(thread, "F", mark="mb")] + more + [Event(thread, "F", mark="mb")]
            new = dict(regs, **{target: (result, {place})}) if target else regs
            yield from go(rest, events + more, new, ctrl)

    yield from go(body, [], {}, frozenset())


# ---- relations: sets of pairs of events' numbers ----

def seq(*relations):
    out = relations[0]
    for r in relations[1:]:
        after = {}
        for a, b in r:
            after.setdefault(a, []).append(b)
        out = {(a, c) for a, b in out for c in after.get(b, ())}
    return out


def closure(r):
    while True:
        more = r | seq(r, r)
        if more == r:
            return r
        r = more


def acyclic(r):
    return all(a != b for a, b in closure(r))


class Program:
    """What is the same in all executions of these traces."""

    def __init__(self, init, threads):
        self.events = [Event(-1, "W", var, value) for var, value in init.items()]
        po, ident, self.rmw, rwdep, dep = set(), set(), set(), set(), set()
        for trace in threads:
            base = len(self.events)
            for i, e in enumerate(trace):
                po |= {(base + j, base + i) for j in range(i)}
                if e.kind == "W":
                    rwdep |= {(base + j, base + i) for j in e.deps | e.ctrl}
                    dep |= {(base + j, base + i) for j in e.deps}
                if e.rmw is not None:
                    self.rmw.add((base + i, base + e.rmw))
            self.events += trace
        ev = self.events
        self.all = range(len(ev))
        access = {i for i in self.all if ev[i].kind != "F"}
        ident = {(i, i) for i in access}
        writes = {i for i in access if ev[i].kind == "W"}
        self.ident, self.po, self.dep, self.writes = ident, po, dep, writes
        acc = {(a, b) for a, b in po if a in access and b in access}

        def fence(mark, ok=lambda i: True):
            return {(a, b) for a, b in acc if ok(a) and ok(b) and
                    any(ev[f].mark == mark and (a, f) in po and (f, b) in po for f in self.all if ev[f].kind == "F")}

        def around(mark, before):
            """Barriers that need an atomic on one side."""
            out = set()
            for r, w in self.rmw:
                for f in (f for f in self.all if ev[f].kind == "F" and ev[f].mark == mark):
                    if before and (f, r) in po:
                        out |= {(a, b) for a in access for b in access if (a, f) in po and (b in (r, w) or (w, b) in po)}
                    if not before and (w, f) in po:
                        out |= {(a, b) for a in access for b in access if (f, b) in po and (a in (r, w) or (a, r) in po)}
            return out

        self.strong = fence("mb") | around("before", True) | around("after", False)
        rmb = fence("rmb", lambda i: ev[i].kind == "R" and ev[i].mark != "noreturn")
        self.wmb = fence("wmb", lambda i: i in writes)
        self.po_rel = {(a, b) for a, b in acc if ev[b].mark == "release"}
        acq_po = {(a, b) for a, b in acc if ev[a].mark == "acquire"}
        self.ppo = rwdep | self.strong | self.po_rel | acq_po | self.wmb | rmb
        self.po_loc = {(a, b) for a, b in acc if ev[a].var == ev[b].var}

    def internal(self, r):
        return {(a, b) for a, b in r if self.events[a].thread == self.events[b].thread}

    def allowed(self, rf, co):
        ident = self.ident
        fr = {(r, w) for r, source in {(b, a) for a, b in rf} for s, w in co if s == source}
        rfe, fre, coe = (r - self.internal(r) for r in (rf, fr, co))
        if not acyclic(self.po_loc | rf | co | fr) or self.rmw & seq(fre, coe):
            return False
        overwrite = co | fr
        ppo = self.ppo | self.internal(overwrite) | seq(self.dep, self.internal(rf))
        cumul = seq(seq(rfe | ident, self.strong | self.po_rel) | self.wmb, closure(seq(rf, self.rmw)) | ident)
        prop = seq((overwrite - self.internal(overwrite)) | ident, closure(cumul) | ident, rfe | ident)
        hb = ppo | rfe | (self.internal(prop) - ident)
        return acyclic(hb) and acyclic(seq(prop, self.strong, closure(hb) | ident))


def executions(program):
    """All (rf, co) of these traces."""
    ev = program.events
    sources = []
    for i in program.all:
        if ev[i].kind == "R":
            sources.append([(w, i) for w in program.writes if (ev[w].var, ev[w].value) == (ev[i].var, ev[i].value)])
    orders = []
    for var in {ev[w].var for w in program.writes}:
        first, *others = sorted(w for w in program.writes if ev[w].var == var)
        orders.append([(first,) + order for order in itertools.permutations(others)])
    for order in itertools.product(*orders):
        co = {pair for row in order for pair in itertools.combinations(row, 2)}
        for rf in itertools.product(*sources):
            yield set(rf), co, {ev[row[-1]].var: ev[row[-1]].value for row in order}


def holds(condition, regs, memory):
    def value(m):
        if m.group(1):
            found = regs[int(m.group(1))].get(m.group(2), (None,))[0]
        else:
            found = memory[m.group(2)]
        return str(found == int(m.group(3)))

    text = re.sub(r"(?:(\d+):)?\[?(\w+)\]?\s*=\s*(-?\d+)", value, condition)
    return eval(text.replace("/\\", " and ").replace("\\/", " or ").replace("~", " not ").replace("\n", " "),
                {"__builtins__": {}})


def check(path):
    with open(path) as f:
        name, init, bodies, condition = parse(f.read())
    with open(path) as f:
        for var in re.findall(r"(?:int|atomic_t)\s*\*(\w+)", f.read()):
            init.setdefault(var, 0)
    numbers = {int(n) for n in re.findall(r"\b\d+\b", str(bodies))} | set(init.values()) | {0, 1, 2}
    allowed, found = 0, False
    for threads in itertools.product(*(list(traces(i, body, sorted(numbers))) for i, body in enumerate(bodies))):
        written = set(init.items()) | {(e.var, e.value) for t in threads for e in t[0] if e.kind == "W"}
        if any(e.kind == "R" and (e.var, e.value) not in written for t in threads for e in t[0]):
            continue
        program = Program(init, [t[0] for t in threads])
        for rf, co, memory in executions(program):
            if program.allowed(rf, co):
                allowed += 1
                found = found or holds(condition, [t[1] for t in threads], memory)
    print(name, "Sometimes" if found else "Never", allowed)


for file in sys.argv[1:]:
    check(file)
