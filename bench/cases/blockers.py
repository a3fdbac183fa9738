"""An unpatched time.sleep(0.2) in one G on every P, while fresh short G's arrive.

A plain thread outside the runtime says when each arrives; the time to start is
that from there to the first line of the fresh G. Between two sleeps a blocker
parks for 1 ms, so that runtimes that can't help it get a word in at all.
"""

from __future__ import annotations

from bench.model import Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "time.sleep(0.2) in a G on every P, fresh G's arriving"
METRICS = (
    Metric("p99_ms", "ms to start p99"),
    Metric("p50_ms", "ms p50", secondary=True),
    Metric("max_ms", "ms max", secondary=True),
    Metric("count", "started", less_is_better=False, secondary=True),
)
MAX_ROUNDS = 3


def runs(quick: bool) -> list[Run]:
    seconds = 1.5 if quick else 3.0
    params = {"block": 0.2, "rest": 0.001, "interval": 0.002, "seconds": seconds}
    return [Run(procs, params) for procs in (1, 2)]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("blockers", run)


def requirements() -> list[Requirement]:
    return [Requirement(run, "p99_ms", 15.0) for run in ("1 P", "2 P")]
