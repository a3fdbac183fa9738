"""GMPY_DEBUG=schedtrace=1000: the scheduler's state on stderr, a line every 1,000 ms.

    SCHED 1001ms: gomaxprocs=2 idleprocs=0 threads=4 spinningthreads=0 needspinning=0
    idlethreads=1 runqueue=3 [4 0] bound=12 stranded=0

(one line) as Go's GODEBUG=schedtrace: runqueue counts the global queue, the brackets those of
the P's, which hold fresh G's only. Ours are bound, runnable G's that wait for their M, and
stranded, those of them whose M is blocked. needspinning is 1 while fresh G's wait, a P idles
and nobody looks. With scheddetail=1 a line follows for each P, M and G.

A plain thread writes them: it needs no P.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import _door
from . import _load as _load
from ._core import ffi, lib

MAX_G = 1000  # shown with scheddetail; the rest is counted

# Go's numbers of states.
_P_STATUS = (4, 0, 1)  # retired: dead, idle, running
_G_STATUS = (0, 1, 2, 4, 6)  # idle, runnable, running, waiting, dead

_KEYS = {
    "schedtrace": "schedtrace=1000 (milliseconds)",
    "scheddetail": "scheddetail=1",
}


def from_environment(text: str) -> Tracer | None:
    """What GMPY_DEBUG=text asks for; None if it is nothing.

    Raises ValueError for a key that doesn't exist or a value that makes no sense.
    """
    values = {"schedtrace": 0, "scheddetail": 0}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = part.partition("=")
        if key not in _KEYS:
            raise ValueError(
                f"GMPY_DEBUG={text!r}: no key {key!r}; there are {' and '.join(_KEYS.values())}, "
                "separated by commas"
            )
        if not (value.isascii() and value.isdecimal()):
            raise ValueError(f"GMPY_DEBUG={text!r}: {part!r} is no number; write {_KEYS[key]}")
        values[key] = int(value)
    if not values["schedtrace"]:
        return None
    return Tracer(values["schedtrace"] / 1000, detail=values["scheddetail"] > 0)


class Tracer:
    """Writes report() to stderr at once and then every `period` seconds, until stop()."""

    def __init__(self, period: float, detail: bool) -> None:
        self._period = period
        self._detail = detail
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gmpy-schedtrace", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        start = due = time.monotonic()
        while True:
            os.write(2, report(time.monotonic() - start, self._detail).encode())
            # What is late isn't made up for: after a stall the lines go on at their pace.
            due = max(due + self._period, time.monotonic())
            if self._stopped.wait(due - time.monotonic()):
                return


def report(seconds: float, detail: bool = False) -> str:
    """The line for a runtime that has run for so long, with a newline; detail: more lines."""
    stat, ps = read_stat(), list(read_ps())
    queues = [p.runq for p in ps]
    waits = stat.fresh > 0 and stat.idle_procs > 0 and stat.spinning == 0
    lines = [
        f"SCHED {seconds * 1000:.0f}ms: gomaxprocs={stat.procs} idleprocs={stat.idle_procs} "
        f"threads={stat.threads} spinningthreads={stat.spinning} needspinning={int(waits)} "
        f"idlethreads={stat.idle_threads} runqueue={stat.globq} [{' '.join(map(str, queues))}] "
        f"bound={stat.runnable - stat.fresh} stranded={stat.stranded}"
    ]
    if detail:
        lines += [*map(_p_line, ps), *map(_m_line, read_ms()), *_g_lines(stat.goroutines)]
    return "\n".join(lines) + "\n"


def read_stat() -> Any:
    """A gmpy_stat (csrc/api.h) of now."""
    stat = ffi.new("gmpy_stat *")
    lib.gmpy_stat_read(stat, 0)
    return stat


def read_ps() -> Iterator[Any]:
    """A gmpy_pstat of each P."""
    for i in range(lib.gmpy_p_count()):
        stat = ffi.new("gmpy_pstat *")
        if lib.gmpy_p_stat(i, stat) == 0:
            yield stat


class MState(NamedTuple):
    """One M, from a gmpy_mstat (csrc/api.h)."""

    id: int
    doing: str  # idle, running, syscall, blocked ...; see csrc/api.c
    p: int  # -1: none
    g: int  # -1: none
    bound: int  # runnable G's that are pinned to it
    pinned: int
    polling: bool
    solo: bool
    locked: bool
    run_seconds: float  # that g has run since it parked or yielded by itself


def read_ms() -> list[MState]:
    """Every M."""
    room = read_stat().threads + 8
    ms = ffi.new("gmpy_mstat[]", room)
    return [
        MState(
            m.id,
            ffi.string(lib.gmpy_m_doing(m.doing)).decode(),
            m.p,
            m.g,
            m.bound,
            m.pinned,
            bool(m.polling),
            bool(m.solo),
            bool(m.locked),
            m.run_ns / 1e9,
        )
        for m in ms[0 : lib.gmpy_m_stats(ms, room)]
    ]


def _or_nil(number: int) -> str:
    return str(number) if number >= 0 else "nil"


_COUNTERS = tuple(ffi.string(lib.gmpy_counter_name(i)).decode() for i in range(lib.gmpy_counters()))


def _p_line(p: Any) -> str:
    counters = dict(zip(_COUNTERS, p.counter, strict=False))
    return (
        f"  P{p.id}: status={_P_STATUS[p.status]} schedtick={counters['schedtick']} "
        f"m={_or_nil(p.m)} runqsize={p.runq} timerslen={p.timers} steals={counters['steals']} "
        f"handoffs={counters['handoffs']} preemptions={counters['preemptions']}"
    )


def _m_line(m: MState) -> str:
    def flag(value: bool) -> str:
        return "true" if value else "false"

    return (
        f"  M{m.id}: p={_or_nil(m.p)} curg={_or_nil(m.g)} doing={m.doing!r} bound={m.bound} "
        f"pinned={m.pinned} polling={flag(m.polling)} locked={flag(m.locked)} solo={flag(m.solo)}"
    )


def _g_lines(alive: int) -> Iterator[str]:
    gs, at = ffi.new("gmpy_gstat[]", MAX_G), ffi.new("uint32_t *")
    shown = lib.gmpy_g_stats(gs, MAX_G, at)
    for g in gs[0:shown]:
        reason = _door.wait_reasons[g.reason] if g.wait_ns else ""
        line = f"  G{g.id}: status={_G_STATUS[g.status]}({reason}) m={_or_nil(g.m)}"
        yield line + (f" waiting={g.wait_ns / 1e6:.0f}ms" if g.wait_ns else "")
    if alive > shown == MAX_G:
        yield f"  ... and {alive - shown} more G's"


__all__ = ["Tracer", "from_environment", "report"]
