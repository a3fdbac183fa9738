"""select() over two channels beside a plain recv(), of which it may cost twice as much.

'ready': both have values. 'parked': neither has, the G parks, and another one sends to
one of them in turn (the figure is a round trip).
"""

from __future__ import annotations

from bench.model import SUBJECT, Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "select over 2 channels"
METRICS = (Metric("us", "us each"),)
MAX_ROUNDS = None
KINDS = ("ready", "parked")


def runs(quick: bool) -> list[Run]:
    params = {"turns": 10_000 if quick else 30_000, "batches": 5}
    return [
        Run(1, params, mode=mode, only=(SUBJECT,))
        for kind in KINDS
        for mode in (kind, f"{kind} recv")
    ]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("select", run)


def requirements() -> list[Requirement]:
    return [
        Requirement(f"1 P {kind}", "us", 2.0, peer=SUBJECT, peer_run=f"1 P {kind} recv")
        for kind in KINDS
    ]
