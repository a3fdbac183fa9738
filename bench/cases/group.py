"""A TaskGroup of 10,000 empty children, beside go + join of as many ('join')."""

from __future__ import annotations

from bench.model import SUBJECT, Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "TaskGroup of 10,000 empty children"
METRICS = (
    Metric("us", "us each"),
    Metric("mean_us", "us mean", secondary=True),
    Metric("first_us", "us first batch", secondary=True),
)
MAX_ROUNDS = None


def runs(quick: bool) -> list[Run]:
    params = {"batch": 10_000, "batches": 7 if quick else 9}
    return [
        Run(1, params, only=(SUBJECT, "asyncio", "uvloop")),
        Run(1, params, mode="join", only=(SUBJECT,)),
        Run(2, params, only=(SUBJECT,)),
        Run(2, params, mode="join", only=(SUBJECT,)),
    ]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("spawn" if run.mode == "join" else "group", run)


def requirements() -> list[Requirement]:
    return [
        Requirement(f"{procs} P", "us", 1.5, peer=SUBJECT, peer_run=f"{procs} P join")
        for procs in (1, 2)
    ]
