"""1,000 producers and 1,000 consumers on one channel.

Without a buffer it is gevent's Channel and, as asyncio has none without, a Queue(1).
"""

from __future__ import annotations

from bench.model import SUBJECT, Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "1,000 producers and 1,000 consumers on one channel"
METRICS = (Metric("per_s", "values/s", less_is_better=False),)
MAX_ROUNDS = None
PEERS = (SUBJECT, "gevent", "asyncio", "uvloop")


def runs(quick: bool) -> list[Run]:
    params = {"pairs": 1_000, "each": 50 if quick else 200}
    return [
        Run(1, {**params, "capacity": 0}, only=PEERS),
        Run(2, {**params, "capacity": 0}, only=(SUBJECT,)),
        Run(1, {**params, "capacity": 100}, mode="buffered", only=PEERS),
        Run(2, {**params, "capacity": 100}, mode="buffered", only=(SUBJECT,)),
    ]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("crowd", run)


def requirements() -> list[Requirement]:
    return [
        Requirement(f"{procs} P{mode}", "per_s", 2.0, True, peer=peer, peer_run=f"1 P{mode}")
        for mode in ("", " buffered")
        for procs in (1, 2)
        for peer in ("gevent", "asyncio")
    ]
