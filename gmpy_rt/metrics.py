"""The scheduler's numbers by name, as Go's runtime/metrics: what it does, and who starves.

    for metric in metrics.all():
        print(metric.name, metric.kind, metric.doc)
    now = metrics.read("/sched/goroutines:goroutines", "/sched/latencies:seconds")

A name ends with its unit. Gauges say how it is now, counters only rise while a runtime runs,
histograms count since it started. Without a runtime everything is zero: with a new one
counters begin anew, as Prometheus expects of a program that restarts.

Each number is true, not all at the same instant. Reading costs about 20 us plus what grows
with the number of P's and M's; how many G's there are doesn't matter.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from . import _load as _load
from ._core import ffi, lib

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """counts[i] values were at least buckets[i] and less than buckets[i + 1] seconds.

    There is one bucket boundary more than there are counts; the last is infinity. The bounds
    of a bucket differ by at most 12.5 %.
    """

    buckets: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float  # of all values, seconds
    max: float

    @property
    def total(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def quantile(self, q: float) -> float:
        """The value below which a share q (0 to 1) of all lies, in seconds; 0.0 without any.

        Not less than the true one, and at most 12.5 % more. Raises ValueError for another q.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q={q!r}: a share from 0 to 1, such as 0.99")
        rank, seen = q * self.total, 0
        for count, upper in zip(self.counts, self.buckets[1:], strict=True):
            seen += count
            if count and seen >= rank:
                return min(upper, self.max)
        return 0.0

    def count_from(self, seconds: float) -> int:
        """How many values lie in buckets that begin at `seconds` or above."""
        return sum(c for c, low in zip(self.counts, self.buckets, strict=False) if low >= seconds)

    def __repr__(self) -> str:
        p50, p99 = self.quantile(0.5), self.quantile(0.99)
        return f"<Histogram: {self.total} values, p50 {p50:g} s, p99 {p99:g} s>"


Value = int | float | Histogram


class Metric(NamedTuple):
    """What all() says of a metric."""

    name: str
    unit: str
    kind: Kind
    doc: str


class _Source(NamedTuple):
    kind: Kind
    doc: str
    read: Callable[[Any], int | float]  # from a gmpy_stat; of a histogram: which


_COUNTERS = tuple(ffi.string(lib.gmpy_counter_name(i)).decode() for i in range(lib.gmpy_counters()))
_BOUNDS = (
    *(int(lib.gmpy_hist_lower(i)) / 1e9 for i in range(lib.gmpy_hist_buckets())),
    math.inf,
)


def _gauge(field: str, doc: str) -> _Source:
    return _Source("gauge", doc, lambda stat: int(getattr(stat, field)))


def _counter(field: str, doc: str) -> _Source:
    return _Source("counter", doc, lambda stat: int(getattr(stat, field)))


def _seconds(field: str, doc: str) -> _Source:
    return _Source("counter", doc, lambda stat: getattr(stat, field) / 1e9)


def _events(counter: str, doc: str) -> _Source:
    index = _COUNTERS.index(counter)
    return _Source("counter", doc, lambda stat: int(stat.counter[index]))


_SOURCES: dict[str, _Source] = {
    "/sched/gomaxprocs:threads": _gauge("procs", "P's: how many G's may run at once."),
    "/sched/goroutines:goroutines": _gauge("goroutines", "G's that haven't ended."),
    "/sched/goroutines/runnable:goroutines": _gauge(
        "runnable", "G's that could run but don't: they wait for a P or for their M."
    ),
    "/sched/goroutines/running:goroutines": _gauge(
        "running", "G's that an M runs, those in a call that blocks included."
    ),
    "/sched/goroutines/waiting:goroutines": _gauge(
        "waiting", "Parked G's: on a channel, a lock, a timer, a socket."
    ),
    "/sched/goroutines/fresh:goroutines": _gauge(
        "fresh", "Runnable G's that have never run: any M may take them."
    ),
    "/sched/goroutines/stranded:goroutines": _gauge(
        "stranded", "Runnable G's whose M is blocked: nobody else can run them."
    ),
    "/sched/goroutines-created:goroutines": _counter("created", "G's made."),
    "/sched/goroutines-preempted:events": _events(
        "preemptions", "G's made to yield after a time slice, as others waited."
    ),
    "/sched/preempt-requests:events": _events(
        "preempt_requests", "Requests to yield: one that isn't heeded is repeated."
    ),
    "/sched/latencies:seconds": _Source("histogram", "From runnable to running.", lambda _: 0),
    "/sched/switches:events": _events("schedtick", "G's picked to run."),
    "/sched/parks:events": _events("parks", "G's that went to wait."),
    "/sched/procs/idle:procs": _gauge("idle_procs", "P's without an M."),
    "/sched/procs/idle:seconds": _seconds("idle_ns", "Time of P's without an M, of all P's."),
    "/sched/threads/total:threads": _gauge(
        "threads", "M's. Not counted: sysmon, and the pool behind blocking()."
    ),
    "/sched/threads/idle:threads": _gauge("idle_threads", "M's without a P that ask for none."),
    "/sched/threads/spinning:threads": _gauge("spinning", "M's that look for work."),
    "/sched/threads/blocked:threads": _gauge(
        "blocked_threads", "M's that lost their P in a call that blocks."
    ),
    "/sched/blocking-calls:calls": _gauge("external", "Calls of blocking() under way."),
    "/sched/steals:events": _events("steals", "Raids on another P that found G's."),
    "/sched/steals/goroutines:goroutines": _events("stolen", "G's that raids brought home."),
    "/sched/steals/misses:events": _events("steal_misses", "Rounds over all P's in vain."),
    "/sched/handoffs:events": _events("handoffs", "P's given to another M: theirs blocked."),
    "/sched/retakes/declared:events": _events(
        "retakes_declared", "P's taken from an M in a call that was known to block."
    ),
    "/sched/retakes/undeclared:events": _events(
        "retakes_undeclared", "P's taken from an M whose thread was seen to block."
    ),
    "/sched/tokens:events": _events("tokens", "P's handed to an M that had runnable G's and no P."),
    "/sched/spread:goroutines": _events(
        "spread", "Fresh G's left to other M's, as this one had many already."
    ),
    "/sched/runqueue/global:entries": _gauge(
        "globq", "In the global queue: fresh G's, and M's that want a P."
    ),
    "/sched/runqueue/global-takes:events": _events(
        "globq_takes", "Looks into the global queue that found something."
    ),
    "/sched/netpoll/waiting:goroutines": _gauge("netpoll_waiters", "G's that wait for a socket."),
    "/sched/netpoll/wakes:events": _events("netpoll_wakes", "G's woken by a look at the sockets."),
    "/sched/netpoll/wait:seconds": _seconds(
        "poll_ns", "Time that idle M's slept in the netpoller, one at a time."
    ),
    "/sched/timers:timers": _gauge("timers", "Timers set: sleeps, and waits with a timeout."),
    "/sched/timers/fired:events": _counter("timers_fired", "Timers that ran out."),
    "/sched/timers/lateness:seconds": _Source(
        "histogram", "By how much they were late.", lambda _: 1
    ),
}


def all() -> list[Metric]:
    """Every metric: name, unit, kind and a sentence."""
    return [
        Metric(name, name.rpartition(":")[2], source.kind, source.doc)
        for name, source in _SOURCES.items()
    ]


def read(*names: str) -> dict[str, Value]:
    """The values of the metrics with these names; without names, of all.

    A gauge or counter is an int, or a float where the unit is seconds; a histogram is a
    Histogram. Raises ValueError for a name that all() doesn't have. From any thread, also
    without a runtime (everything is zero then).
    """
    wanted = {name: _source(name) for name in names} if names else _SOURCES
    stat = ffi.new("gmpy_stat *")
    lib.gmpy_stat_read(stat, 0)
    return {
        name: _histogram(int(source.read(stat)))
        if source.kind == "histogram"
        else source.read(stat)
        for name, source in wanted.items()
    }


def _source(name: str) -> _Source:
    source = _SOURCES.get(name)
    if source is None:
        near = difflib.get_close_matches(str(name), _SOURCES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "metrics.all() lists them"
        raise ValueError(f"metrics.read({name!r}): no such metric; {hint}")
    return source


def _histogram(which: int) -> Histogram:
    hist = ffi.new("gmpy_hist *")
    lib.gmpy_hist_read(which, hist)
    return Histogram(
        _BOUNDS, tuple(ffi.unpack(hist.count, len(_BOUNDS) - 1)), hist.sum / 1e9, hist.max / 1e9
    )


def prometheus_collector() -> Any:
    """A collector for prometheus_client: REGISTRY.register(metrics.prometheus_collector()).

    Raises ImportError without that package; it comes with the extra gmpy_rt[prometheus].
    """
    from .metrics_prometheus import Collector

    return Collector()


__all__ = ["Histogram", "Metric", "all", "prometheus_collector", "read"]
