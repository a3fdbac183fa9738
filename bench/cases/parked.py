"""100,000 G's that sleep: what it takes to start and to keep one.

The time is that from the first go until the last G has run up to its sleep.
"""

from __future__ import annotations

from bench.model import Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "100,000 G's parked in sleep"
METRICS = (Metric("start_us", "us to start"), Metric("rss_kb", "KB of RSS"))
MAX_ROUNDS = 3


def runs(quick: bool) -> list[Run]:
    return [Run(1, {"count": 100_000})]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("parked", run)


def requirements() -> list[Requirement]:
    return [Requirement("1 P", "start_us", 2.5), Requirement("1 P", "rss_kb", 7.5)]
