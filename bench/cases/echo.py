"""TCP echo: 64 connections, 64-byte messages, loaded by a C process on the same CPUs."""

from __future__ import annotations

import json

from bench.cases.sweep import PROCS
from bench.model import Metric, PeerFailed, Requirement, Run, Values
from bench.peer import Peer
from bench.registry import load_generator, run_load

TITLE = "TCP echo, 64 connections, 64-byte messages"
METRICS = (
    Metric("req_per_s", "req/s", less_is_better=False),
    Metric("p50_us", "us p50", secondary=True),
    Metric("p99_us", "us p99", secondary=True),
    Metric("errors", "errors", secondary=True),
)
MAX_ROUNDS = None


def runs(quick: bool) -> list[Run]:
    params = {"connections": 64, "size": 64, "seconds": 1.0 if quick else 2.0}
    return [Run(procs, params) for procs in PROCS]


def measure(peer: Peer, run: Run) -> Values:
    program = load_generator(peer.store)
    params = run.params
    with peer.serving("echo", run) as port:
        line = run_load(
            program, port, int(params["connections"]), int(params["size"]), params["seconds"]
        )
    values = {str(k): float(v) for k, v in json.loads(line).items()}
    if values["requests"] == 0:
        raise PeerFailed("not one reply")
    return values


def requirements() -> list[Requirement]:
    return [
        Requirement("2 P", "req_per_s", 1.0, at_least=True, peer="go"),
        *(Requirement(f"{procs} P", "errors", 0) for procs in PROCS),
    ]
