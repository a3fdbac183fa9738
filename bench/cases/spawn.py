"""go + join of an empty function, in batches.

All of a batch are started before the first is joined, so it is also the run
queue's overflow that is measured. The figure is that of a warm runtime: the
first batch, which also gets its memory from the system, is told apart, and
the mean has the collector's share in it.
"""

from __future__ import annotations

from bench.cases.sweep import PROCS
from bench.model import Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "go + join of an empty function, batches of 10,000"
METRICS = (
    Metric("us", "us each"),
    Metric("mean_us", "us mean", secondary=True),
    Metric("first_us", "us first batch", secondary=True),
)
MAX_ROUNDS = None


def runs(quick: bool) -> list[Run]:
    params = {"batch": 10_000, "batches": 7 if quick else 9}
    return [Run(procs, params) for procs in PROCS]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("spawn", run)


def requirements() -> list[Requirement]:
    return [
        Requirement("1 P", "us", 1.0, peer="tonio"),
        Requirement("1 P", "us", 1.0, peer="tonio-yield"),
        Requirement("1 P", "us", 1.0, peer="go", stretch=True),
    ]
