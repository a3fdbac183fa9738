"""The bench on which a scenario of gmpy_rt runs: it notes waits, and measures around it."""

from __future__ import annotations

import bisect
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import psutil

import gmpy_rt
from bench.peers import kit
from bench.starvation.model import LIMIT, Params, Record, histogram_summary, summary
from bench.starvation.timeline import SNAPSHOT_NS, Timeline
from gmpy_rt import _door

COUNTERS = (
    "steals",
    "stolen",
    "steal_misses",
    "preempt_requests",
    "preemptions",
    "retakes_declared",
    "retakes_undeclared",
    "handoffs",
    "tokens",
    "globq_takes",
    "spread",
    "schedtick",
)

now = time.monotonic_ns


class Lab:
    """What a scenario gets to write its observations to. Callable from any thread."""

    def __init__(self, procs: int) -> None:
        self.procs = procs
        self.timeline = Timeline()
        self.figures: dict[str, float] = {}
        self._waits: dict[str, list[tuple[int, int]]] = {}
        self._spans: list[tuple[int, int, str]] = []
        self._started: list[None] = []
        self._ended: list[None] = []

    def go(self, fn: Callable[..., Any], *args: Any) -> gmpy_rt.G[Any]:
        """Start a G that is counted, so that a lost one is noticed."""
        self.started()
        return gmpy_rt.go(self._counted, fn, args)

    def started(self) -> None:
        """Count a G that the scenario starts itself: one whose entry function matters."""
        self._started.append(None)

    def ended(self) -> None:
        self._ended.append(None)

    def _counted(self, fn: Callable[..., Any], args: Any) -> None:
        try:
            fn(*args)
        finally:
            self.ended()

    def waited(self, kind: str, since: int, until: int | None = None) -> None:
        """A G was runnable from since to until (now): in monotonic_ns."""
        self._waits.setdefault(kind, []).append((since, now() if until is None else until))

    def span(self, since: int, what: str) -> None:
        """A culprit did that from since until now."""
        self._spans.append((since, now(), what))

    def starting(self, fn: Callable[..., Any], *args: Any, kind: str = "start") -> gmpy_rt.G[Any]:
        """Start a G and note how long it takes to its first instruction."""
        return self.go(self._first, kind, now(), fn, args)

    def _first(self, kind: str, since: int, fn: Callable[..., Any], args: Any) -> None:
        self.waited(kind, since)
        fn(*args)

    def sleep(self, seconds: float, kind: str = "wake") -> None:
        """Sleep in a G and note how late it goes on."""
        due = now() + int(seconds * 1e9)
        gmpy_rt.sleep(seconds)
        self.waited(kind, due)

    def count_states(self) -> None:
        """Figures of how many G's there are in each state just now. From any thread."""
        for reason, count in Counter(g.state for g, _, _ in _door.look(2**32 - 1)).items():
            self.figures[f"state: {reason}"] = count

    def result(self, headline: Sequence[str], before: Reading, after: Reading) -> Record:
        """The record; what is about the whole process lies between the two readings."""
        waits = {kind: list(w) for kind, w in self._waits.items()}
        chosen = [wait for kind in headline for wait in waits.get(kind, ())]
        zero = self.timeline.begin
        return {
            "seconds": (after.at - before.at) / 1e9,
            "measured": summary(_seconds(chosen)),
            "kinds": {kind: summary(_seconds(w)) for kind, w in sorted(waits.items())},
            "scheduler": _scheduler(after.stats),
            "cores": after.cores_since(before),
            "counters": {name: after.stats.total(name) for name in COUNTERS},
            "peaks": self.timeline.peaks,
            "figures": {**self.figures, **_unseen(chosen, self.timeline.snapshots)},
            "started": len(self._started),
            "ended": len(self._ended),
            "timeline": self.timeline.as_dict(),
            "gil": not kit.gil_off(),
            "spans": [
                [round((a - zero) / 1e9, 4), round((b - zero) / 1e9, 4), what]
                for a, b, what in sorted(self._spans)[:500]
            ],
        }


class Reading:
    """The counters and clocks of one moment inside the runtime."""

    def __init__(self) -> None:
        self.at = now()
        self.process_ns = time.process_time_ns()
        self.cpus = psutil.cpu_times(percpu=True)
        self.stats = gmpy_rt.stats()

    def cores_since(self, before: Reading) -> dict[str, Any]:
        """process: CPU seconds of this process a second; per_cpu: busy share of each CPU,
        whoever used it (the kernel counts that in ticks of 10 ms)."""
        seconds = (self.at - before.at) / 1e9
        shares = []
        for cpu in sorted(os.sched_getaffinity(0)):
            first, last = before.cpus[cpu], self.cpus[cpu]
            idle = last.idle + last.iowait - first.idle - first.iowait
            total = sum(last[:8]) - sum(first[:8])
            shares.append(round(max(0.0, 1 - idle / total), 3) if total else 0.0)
        return {
            "process": (self.process_ns - before.process_ns) / 1e9 / seconds,
            "per_cpu": shares,
        }


def _seconds(waits: Sequence[tuple[int, int]]) -> list[float]:
    return [max(0, until - since) / 1e9 for since, until in waits]


def _unseen(waits: Sequence[tuple[int, int]], snapshots: Sequence[int]) -> dict[str, int]:
    """How many starved for less and for more than the time between two snapshots, and how
    many of those lie between two."""
    found = {
        "starved_short": 0,
        "starved_short_unseen": 0,
        "starved_long": 0,
        "starved_long_unseen": 0,
    }
    for since, until in waits:
        if until - since > LIMIT * 1e9:
            kind = "starved_short" if until - since < SNAPSHOT_NS else "starved_long"
            i = bisect.bisect_left(snapshots, since)
            found[kind] += 1
            found[f"{kind}_unseen"] += i == len(snapshots) or snapshots[i] > until
    return found


def _scheduler(stats: Any) -> dict[str, Any] | None:
    """The runtime's own histogram, added up over the P's."""
    histograms = [p.latency for p in stats.per_p]
    if not histograms:
        return None
    counts = [sum(c) for c in zip(*(h.counts for h in histograms), strict=True)]
    return histogram_summary(histograms[0].bounds, counts, max(h.max for h in histograms))


def measure(scenario: Any, params: Params) -> Record:
    """Run a scenario's program under the runtime and return its record."""
    procs: int = params["procs"]
    lab = Lab(procs)
    readings: list[Reading] = []
    prepared = scenario.prepare(lab, params) if hasattr(scenario, "prepare") else None

    def main() -> None:
        lab.timeline.start()
        readings.append(Reading())
        try:
            scenario.run(lab, params, *([] if prepared is None else [prepared]))
        finally:
            readings.append(Reading())
            gmpy_rt.blocking(lab.timeline.stop)

    cpus = sorted(os.sched_getaffinity(0))[:procs]
    gmpy_rt.run(main, procs=procs, affinity=cpus, policy=params["policy"])
    # What the scenario left behind has to end, too: timers that nobody stopped.
    lab.figures["drain_s"] = (now() - lab.timeline.end) / 1e9
    return lab.result(scenario.HEADLINE, *readings)
