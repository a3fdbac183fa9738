"""Two G's that send one value to and fro over two channels of capacity 1.

'unbuffered': channels without capacity, for those that have such.
'forced' puts the two on different M's, which no peer can be asked for except
Go (LockOSThread) and plain threads (which are two by nature).
"""

from __future__ import annotations

from bench.cases.sweep import PROCS
from bench.model import SUBJECT, Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "channel ping-pong, capacity 1"
METRICS = (Metric("us", "us a round trip"), Metric("threads", "threads", secondary=True))
MAX_ROUNDS = None


def runs(quick: bool) -> list[Run]:
    params = {"trips": 5_000 if quick else 10_000, "batches": 3}
    ordinary = [Run(procs, params) for procs in PROCS]
    return [
        *ordinary,
        Run(2, params, mode="forced", only=(SUBJECT, "go", "threads")),
        Run(1, params, mode="unbuffered", only=(SUBJECT, "gevent")),
    ]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("pingpong", run)


def requirements() -> list[Requirement]:
    return [
        Requirement("1 P", "us", 0.8, peer="tonio"),
        Requirement("1 P", "us", 0.8, peer="tonio-yield"),
        Requirement("1 P", "us", 0.3, peer="asyncio"),
        Requirement("2 P", "us", 2.0, peer=SUBJECT, peer_run="1 P"),
        Requirement("2 P forced", "us", 5.0),
        Requirement("1 P unbuffered", "us", 1.3, peer=SUBJECT, peer_run="1 P"),
    ]
