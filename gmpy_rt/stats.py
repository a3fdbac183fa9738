"""stats(): a snapshot of the scheduler's counters, per P and in total."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from . import _load as _load
from ._core import ffi, lib

_STATUS = ("retired", "idle", "running")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by nanoseconds: bucket i holds values from bounds[i] up to bounds[i + 1]."""

    bounds: tuple[int, ...]
    counts: tuple[int, ...]
    max: int

    @property
    def total(self) -> int:
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """The value below which a share q of all lies, in seconds; 0.0 if there are none.

        Accurate to the bucket's width, 12.5 %. Raises ValueError for q outside 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q={q!r}: a share from 0 to 1, such as 0.99")
        rank, seen = q * self.total, 0
        for i, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                upper = self.bounds[i + 1] if i + 1 < len(self.bounds) else self.max
                return min(upper, self.max) / 1e9
        return 0.0

    def __repr__(self) -> str:
        p50, p99 = self.quantile(0.5), self.quantile(0.99)
        return f"<Histogram: {self.total} values, p50 {p50:g} s, p99 {p99:g} s>"


@dataclass(frozen=True, slots=True)
class PStats:
    """Counters of one P since the runtime started."""

    id: int
    status: str  # running, idle or retired
    reserved: bool  # for the latency class
    m: int | None  # the M that holds it
    runq: int  # fresh G's in its queue now
    timers: int  # armed now
    timers_fired: int
    timers_worst_late: float  # seconds
    schedtick: int  # G's run, each time one is picked
    created: int
    ended: int
    steals: int  # successful raids on other P's
    stolen: int  # G's brought home by them
    robbed: int  # raids of other P's on this one
    steal_misses: int
    handoffs: int  # given to another M while its own blocked
    retakes_declared: int
    retakes_undeclared: int
    preempt_requests: int
    preemptions: int
    netpoll_wakes: int
    tokens: int  # handed to an M that had runnable G's and no P
    spread: int  # fresh G's left to others because this M has many
    globq_takes: int
    parks: int
    idle: float  # seconds without an M
    latency: Histogram  # from runnable to running


@dataclass(frozen=True, slots=True)
class Stats:
    """The runtime at one moment, more or less: each number is true, not all at one instant."""

    procs: int
    idle_procs: int
    reserve: int  # P's reserved for the latency class
    threads: int  # M's
    spinning: int
    blocked_threads: int  # M's that lost their P in a blocking call
    policy: str
    goroutines: int  # that haven't ended
    created: int
    globq: int
    latq: int  # the latency class's
    netpoll_waiters: int
    blocking_calls: int
    runnable: int
    running: int
    waiting: int
    fresh: int  # runnable and never started
    stranded: int  # runnable, but their M is blocked
    per_p: tuple[PStats, ...]

    def total(self, counter: str) -> Any:
        """The sum of one of PStats' counters (int, or float of seconds) over all P's."""
        return sum(getattr(p, counter) for p in self.per_p)


_bounds = tuple(int(lib.gmpy_hist_lower(i)) for i in range(lib.gmpy_hist_buckets()))
_names = tuple(ffi.string(lib.gmpy_counter_name(i)).decode() for i in range(lib.gmpy_counters()))


def _read_p(index: int, stat: Any, counts: Any) -> PStats | None:
    if lib.gmpy_p_stat(index, stat) < 0 or lib.gmpy_p_latency(index, counts) < 0:
        return None
    counters = dict(zip(_names, stat.counter, strict=False))
    return PStats(
        id=stat.id,
        status=_STATUS[stat.status],
        reserved=bool(stat.reserved),
        m=stat.m if stat.m >= 0 else None,
        runq=stat.runq,
        timers=stat.timers,
        timers_fired=stat.timers_fired,
        timers_worst_late=stat.timers_worst_late / 1e9,
        idle=stat.idle_ns / 1e9,
        latency=Histogram(_bounds, tuple(counts), stat.latency_max),
        **counters,
    )


def stats() -> Stats:
    """The counters of the runtime that runs, or all zero without one.

    Counts G's by state, which looks at every G: a few microseconds per thousand.
    """
    stat, p_stat = ffi.new("gmpy_stat *"), ffi.new("gmpy_pstat *")
    counts = ffi.new("uint64_t[]", len(_bounds))
    lib.gmpy_stat_read(stat, 1)
    per_p = [_read_p(i, p_stat, counts) for i in range(lib.gmpy_p_count())]
    plain = {f.name: getattr(stat, f.name) for f in fields(Stats) if hasattr(stat, f.name)}
    plain |= {
        "policy": ffi.string(lib.gmpy_policy_name(stat.policy)).decode(),
        "blocking_calls": stat.external,
    }
    return Stats(per_p=tuple(p for p in per_p if p is not None), **plain)
