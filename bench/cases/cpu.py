"""Eight G's of pure-Python CPU work: how much faster with more P's.

All numbers of P's are measured right after each other, so that the speed-up
compares like with like on a machine that others use, too.
"""

from __future__ import annotations

from bench.cases.sweep import PROCS
from bench.model import Metric, Requirement, Run, Skipped, Values
from bench.peer import Peer

TITLE = "8 CPU-bound G's, speed-up over 1 P"
METRICS = (
    Metric("speedup_2", "x with 2 P", less_is_better=False),
    Metric("speedup_4", "x with 4 P", less_is_better=False),
    Metric("seconds_1", "s with 1 P", secondary=True),
)
MAX_ROUNDS = None


def runs(quick: bool) -> list[Run]:
    return [Run(1, {"tasks": 8, "limit": 40_000 if quick else 60_000}, mode="to more")]


def measure(peer: Peer, run: Run) -> Values:
    values: Values = {}
    for procs in PROCS:
        if peer.max_procs is not None and procs > peer.max_procs:
            break
        try:
            values[f"seconds_{procs}"] = peer.call("cpu", run, procs)["seconds"]
        except Skipped:
            if not values:
                raise
            break
    for procs in PROCS[1:]:
        if f"seconds_{procs}" in values:
            values[f"speedup_{procs}"] = values["seconds_1"] / values[f"seconds_{procs}"]
    return values


def requirements() -> list[Requirement]:
    return [Requirement("1 P to more", "speedup_2", 1.85, at_least=True)]
