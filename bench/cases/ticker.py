"""A pure-Python hog on every P, and a G that wants to wake up every 1 ms.

Each tick is asked for 1 ms from 'now'; what it comes later is its lateness.
The hogs end by themselves, so a runtime without preemption shows how long
they ran.
"""

from __future__ import annotations

from bench.model import Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "a hog on every P, one ticker of 1 ms"
METRICS = (
    Metric("p99_ms", "ms late p99"),
    Metric("p50_ms", "ms p50", secondary=True),
    Metric("max_ms", "ms max", secondary=True),
    Metric("count", "ticks", less_is_better=False, secondary=True),
)
MAX_ROUNDS = 3


def runs(quick: bool) -> list[Run]:
    params = {"interval": 0.001, "seconds": 1.5 if quick else 3.0}
    return [Run(procs, params) for procs in (1, 2)]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("ticker", run)


def requirements() -> list[Requirement]:
    return [Requirement(run, "p99_ms", 25.0) for run in ("1 P", "2 P")]
