"""A strict reader of Go's trace format: it replays the states as Go's own reader does, and
asserts that every event fits them. Where a go command is at hand, test_trace_go.py asks that, too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

NOBODY = (1 << 64) - 1
RUNNABLE, RUNNING, IN_CALL, WAITING = 1, 2, 3, 4
ARGS = {  # event -> name, number of arguments after the time
    9: ("procs", 2),
    10: ("proc start", 2),
    11: ("proc stop", 0),
    12: ("proc steal", 3),
    13: ("proc status", 2),
    14: ("create", 3),
    16: ("start", 2),
    17: ("destroy", 0),
    19: ("stop", 2),
    20: ("block", 2),
    21: ("unblock", 3),
    22: ("syscall", 2),
    23: ("syscall end", 0),
    24: ("syscall end blocked", 0),
    42: ("region", 3),
    43: ("region end", 3),
    44: ("log", 4),
    48: ("status", 4),
}


@dataclass
class GoTrace:
    events: list[tuple[int, int, str, tuple[int, ...]]] = field(default_factory=list)
    strings: dict[int, str] = field(default_factory=dict)
    stacks: dict[int, int] = field(default_factory=dict)  # its number -> that of the function
    names: dict[int, str] = field(default_factory=dict)  # G -> its function
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)  # why G's stopped or blocked
    logs: list[tuple[str, str]] = field(default_factory=list)
    regions: list[str] = field(default_factory=list)


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def take(self, n: int) -> bytes:
        self.at += n
        assert self.at <= len(self.data)
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def __bool__(self) -> bool:
        return self.at < len(self.data)


def read(path: Path) -> GoTrace:
    """Parse the file, and replay it."""
    trace, file, frequency = GoTrace(), _Bytes(path.read_bytes()), 0
    assert file.take(16) == b"go 1.23 trace\0\0\0"
    while file:
        assert file.byte() == 1
        generation, m, now, size = (file.varint() for _ in range(4))
        assert generation == 1 and 0 < size <= 64 << 10
        batch = _Bytes(file.take(size))
        kind = batch.data[0]
        if kind == 8:
            batch.byte()
            frequency = batch.varint()
        elif kind in (2, 4):
            batch.byte()
            while batch:
                _entry(trace, batch, kind)
        else:
            while batch:
                name, n = ARGS[batch.byte()]
                now += batch.varint()
                trace.events.append((now, m, name, tuple(batch.varint() for _ in range(n))))
    assert frequency == 10**9
    assert all(f in trace.strings for f in trace.stacks.values())
    trace.events.sort()
    times = [event[0] for event in trace.events]
    assert len(set(times)) == len(times), "the order isn't certain"
    _Replay(trace)
    return trace


def _entry(trace: GoTrace, batch: _Bytes, kind: int) -> None:
    assert batch.byte() == kind + 1
    number = batch.varint()
    if kind == 2:
        assert number and number not in trace.stacks and batch.varint() == 1
        _, trace.stacks[number], file, _ = (batch.varint() for _ in range(4))
        assert file
    else:
        assert number and number not in trace.strings
        size = batch.varint()
        assert size <= 1024
        trace.strings[number] = batch.take(size).decode()


class _Replay:
    def __init__(self, trace: GoTrace) -> None:
        self.trace = trace
        self.g: dict[int, list[int]] = {}  # state, seq
        self.p: dict[int, list[int]] = {}  # state (as a G's), seq
        self.m_g: dict[int, int] = {}
        self.m_p: dict[int, int] = {}
        self.regions: dict[int, list[str]] = {}
        for at, m, name, args in trace.events:
            trace.counts[name] += 1
            try:
                getattr(self, name.replace(" ", "_"))(m, *args)
            except (AssertionError, LookupError) as problem:
                raise AssertionError(f"{at}: {name} {args} on M {m}: {problem!r}") from problem

    def runs(self, m: int) -> int:
        number = self.m_g[m]
        assert m in self.m_p and self.g[number][0] == RUNNING
        return number

    def text(self, number: int) -> str:
        return self.trace.strings[number]

    def name(self, g: int, stack: int) -> None:
        self.trace.names[g] = self.text(self.trace.stacks[stack])

    def next(self, of: list[int], seq: int) -> None:
        assert seq == of[1] + 1
        of[1] = seq

    def proc_status(self, m: int, p: int, status: int) -> None:
        assert p not in self.p and status in (1, 2)
        self.p[p] = [RUNNING if status == 1 else WAITING, 0]
        if status == 1:
            assert m not in self.m_p
            self.m_p[m] = p

    def proc_start(self, m: int, p: int, seq: int) -> None:
        assert self.p[p][0] == WAITING and m not in self.m_p
        self.next(self.p[p], seq)
        self.p[p][0], self.m_p[m] = RUNNING, p

    def proc_stop(self, m: int) -> None:
        self.p[self.m_p.pop(m)][0] = WAITING

    def proc_steal(self, m: int, p: int, seq: int, victim: int) -> None:
        assert self.p[p][0] == IN_CALL and self.m_p.pop(victim) == p and m != victim
        self.next(self.p[p], seq)
        self.p[p][0] = WAITING

    def procs(self, m: int, n: int, stack: int) -> None:
        assert self.runs(m) and n > 0

    def status(self, m: int, g: int, on: int, state: int, stack: int) -> None:
        assert g not in self.g and on == NOBODY and state in (RUNNABLE, RUNNING, WAITING)
        self.g[g] = [state, 0]
        self.name(g, stack)
        if state == RUNNING:
            assert m in self.m_p and m not in self.m_g
            self.m_g[m] = g

    def create(self, m: int, g: int, stack: int, maker: int) -> None:
        assert g not in self.g and m in self.m_p
        assert m not in self.m_g or self.runs(m)
        self.g[g] = [RUNNABLE, 0]
        self.name(g, stack)

    def start(self, m: int, g: int, seq: int) -> None:
        assert self.g[g][0] == RUNNABLE and m in self.m_p and m not in self.m_g
        self.next(self.g[g], seq)
        self.g[g][0], self.m_g[m] = RUNNING, g

    def off(self, m: int, state: int) -> None:
        g = self.runs(m)
        self.g[g][0] = state
        del self.m_g[m]

    def destroy(self, m: int) -> None:
        del self.g[self.runs(m)], self.m_g[m]

    def stop(self, m: int, reason: int, stack: int) -> None:
        self.trace.reasons[self.text(reason)] += 1
        self.off(m, RUNNABLE)

    def block(self, m: int, reason: int, stack: int) -> None:
        self.trace.reasons[self.text(reason)] += 1
        self.off(m, WAITING)

    def unblock(self, m: int, g: int, seq: int, stack: int) -> None:
        assert self.g[g][0] == WAITING
        self.next(self.g[g], seq)
        self.g[g][0] = RUNNABLE

    def syscall(self, m: int, seq: int, stack: int) -> None:
        self.g[self.runs(m)][0] = IN_CALL
        p = self.p[self.m_p[m]]
        self.next(p, seq)
        p[0] = IN_CALL

    def syscall_end(self, m: int) -> None:
        g, p = self.g[self.m_g[m]], self.p[self.m_p[m]]
        assert g[0] == p[0] == IN_CALL
        g[0] = p[0] = RUNNING

    def syscall_end_blocked(self, m: int) -> None:
        g = self.g[self.m_g.pop(m)]
        assert g[0] == IN_CALL and (m not in self.m_p or self.p[self.m_p[m]][0] != IN_CALL)
        g[0] = RUNNABLE

    def region(self, m: int, task: int, name: int, stack: int) -> None:
        self.regions.setdefault(self.runs(m), []).append(self.text(name))
        self.trace.regions.append(self.text(name))

    def region_end(self, m: int, task: int, name: int, stack: int) -> None:
        assert self.regions[self.runs(m)].pop() == self.text(name)

    def log(self, m: int, task: int, key: int, text: int, stack: int) -> None:
        assert self.runs(m)
        self.trace.logs.append((self.text(key), self.text(text)))
