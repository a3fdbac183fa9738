"""Lock.acquire() + release() when nobody else wants it, and two G's that both do.

'contended': the two are on different M's, and what they do while they hold it is
to count. Plain threads are the measure of both.
"""

from __future__ import annotations

from bench.model import SUBJECT, Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "Lock: acquire + release"
METRICS = (Metric("us", "us each"),)
MAX_ROUNDS = None


def runs(quick: bool) -> list[Run]:
    params = {"turns": 100_000 if quick else 200_000, "batches": 5}
    return [
        Run(1, params, only=(SUBJECT, "threads", "gevent", "asyncio")),
        Run(2, params, mode="contended", only=(SUBJECT, "threads")),
    ]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("lock", run)


def requirements() -> list[Requirement]:
    return [
        Requirement("1 P", "us", 1.5, peer="threads"),
        Requirement("2 P contended", "us", 1.0, peer="threads"),
    ]
