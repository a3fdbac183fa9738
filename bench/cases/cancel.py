"""Cancelling 10,000 G's that are parked in a receive, until the last has ended."""

from __future__ import annotations

from bench.model import SUBJECT, Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "cancelling 10,000 parked G's"
METRICS = (Metric("ms", "ms for all"),)
MAX_ROUNDS = None


def runs(quick: bool) -> list[Run]:
    params = {"count": 10_000}
    return [
        Run(1, params, only=(SUBJECT, "gevent", "asyncio", "uvloop")),
        Run(2, params, only=(SUBJECT,)),
    ]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("cancel", run)


def requirements() -> list[Requirement]:
    return [Requirement(run, "ms", 100.0) for run in ("1 P", "2 P")]
