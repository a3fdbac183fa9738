"""Ten G's that do nothing but yield to each other."""

from __future__ import annotations

from bench.cases.sweep import PROCS
from bench.model import Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "gosched among 10 G's"
METRICS = (Metric("us", "us each"),)
MAX_ROUNDS = None


def runs(quick: bool) -> list[Run]:
    params = {"ring": 10, "turns": 5_000 if quick else 10_000, "batches": 3}
    return [Run(procs, params) for procs in PROCS]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("gosched", run)


def requirements() -> list[Requirement]:
    return [
        requirement
        for run in ("1 P", "2 P")
        for requirement in (
            Requirement(run, "us", 0.8, peer="tonio"),
            Requirement(run, "us", 0.4, peer="asyncio", peer_run="1 P"),
            # A bare yield to the loop that drives the generators: no stack is switched.
            Requirement(run, "us", 0.8, peer="tonio-yield", stretch=True),
        )
    ]
