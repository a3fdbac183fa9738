"""The core's raw trace (csrc/trace.h): records of 32 bytes, ring after ring in chunks."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from struct import Struct
from typing import IO

from . import _load as _load
from ._core import ffi, lib

RECORD = Struct("<qQQHHHBx")  # trace_rec: when, g, arg, seq, p, m, type
NONE, SYSMON = 0xFFFF, 0xFFFE
THREAD = 1 << 63

Record = tuple[int, int, int, int, int, int, int]


def _types() -> dict[str, int]:
    found: dict[str, int] = {}
    while (name := lib.gmpy_trace_type(len(found))) != ffi.NULL:
        found[ffi.string(name).decode()] = len(found)
    return found


TYPES = _types()
COUNTERS = tuple(ffi.string(lib.gmpy_counter_name(i)).decode() for i in range(lib.gmpy_counters()))
_CHUNK, _COUNT, _LOST = TYPES["CHUNK"], TYPES["COUNT"], TYPES["LOST"]


@dataclass
class Raw:
    """What scan() finds."""

    chunks: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # ring -> offset, n
    names: dict[int, int] = field(default_factory=dict)  # G -> number of its name
    unpaired: set[int] = field(default_factory=set)  # g << 16 | seq
    counts: dict[tuple[int, int], int] = field(default_factory=dict)
    first: dict[int, tuple[int, int]] = field(default_factory=dict)  # P -> its M and G at first

    def count(self, snapshot: int, name: str) -> int:
        """A counter of gmpy_rt.stats: before (0), after (1) the start; before, after the stop."""
        return self.counts.get((snapshot, COUNTERS.index(name)), 0)

    def goroutines(self) -> int:
        """How many there were when it began."""
        return self.count(0, "created") - self.count(0, "ended")


@dataclass
class About:
    """What an exporter needs besides the events."""

    begin: int  # ns, as the events
    end: int
    lost: int
    exact: bool
    strings: dict[int, str]
    wait_reasons: tuple[str, ...]
    living: list[tuple[int, str, bool]]  # G's at the start: id, name, runnable
    threads: dict[int, str]

    def string(self, number: int) -> str:
        return self.strings.get(number, "(more strings than the trace keeps)")

    def reason(self, number: int) -> str:
        return self.wait_reasons[number] if number < len(self.wait_reasons) else "?"

    @cached_property
    def _started_with(self) -> dict[int, str]:
        return {g: name for g, name, _ in self.living}

    def name_of(self, g: int, found: Raw) -> str:
        """Its own or its function's."""
        name = self.strings.get(found.names.get(g, 0))
        return name or self._started_with.get(g, "G")


def scan(raw: IO[bytes]) -> Raw:
    """Names, wake-ups without their run, what was going on at the start."""
    found = Raw()
    runnable = {TYPES["CREATE"], TYPES["READY"], TYPES["YIELD"]}
    run, named, start = TYPES["RUN"], TYPES["NAME"], TYPES["P_START"]
    off = {TYPES["PARK"], TYPES["YIELD"], TYPES["END"], TYPES["RETAKE"]}
    on = {run, TYPES["RESUME"], start, TYPES["P_STOP"], TYPES["SPIN"], _LOST}
    open_ps: dict[int, int] = {}  # P's whose first G isn't known yet -> M
    seen: set[int] = set()
    unpaired = found.unpaired
    raw.seek(0)
    while header := raw.read(RECORD.size):
        _, which, n, snapshot, ring, _, type_ = RECORD.unpack(header)
        if type_ == _COUNT:
            found.counts[snapshot, which] = n
            continue
        found.chunks.setdefault(ring, []).append((raw.tell(), n))
        for _, g, arg, seq, _, m, type_ in RECORD.iter_unpack(raw.read(n * RECORD.size)):
            if ring != NONE and ring not in seen:
                seen.add(ring)
                if type_ != start:
                    open_ps[ring] = m
                    found.first[ring] = (m, 0)
            if ring in open_ps:
                if type_ in off:
                    found.first[ring] = (open_ps.pop(ring), g)
                elif type_ in on:
                    del open_ps[ring]
            if type_ == run or type_ in runnable:
                unpaired ^= {g << 16 | seq}
            elif type_ == named and (seq or g not in found.names):
                found.names[g] = arg
    return found


def merged(raw: IO[bytes], found: Raw, begin: int) -> Iterator[tuple[int, int, Record]]:
    """(ns since begin, ring, record) in the order of time, each ring in its own order."""

    def one(ring: int, chunks: list[tuple[int, int]]) -> Iterator[tuple[int, int, Record]]:
        last = 0
        for offset, n in chunks:
            raw.seek(offset)
            for record in RECORD.iter_unpack(raw.read(n * RECORD.size)):
                when = record[0] - begin
                if when > last:  # the clock's corrections
                    last = when
                yield last, ring, record

    rings = [one(ring, chunks) for ring, chunks in found.chunks.items()]
    return heapq.merge(*rings, key=lambda item: item[0])
