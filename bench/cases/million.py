"""1,000,000 G's that each sleep for 1 s, all joined.

Whoever takes longer than 1 s to start them has fewer of them asleep at a time:
read the memory together with `parked`, which has all of them asleep at once.
"""

from __future__ import annotations

from bench.model import SUBJECT, Metric, Requirement, Run, Values
from bench.peer import Peer

TITLE = "1,000,000 G's sleeping 1 s"
METRICS = (Metric("seconds", "s"), Metric("peak_gb", "GB at the peak"))
# One round takes up to a minute and several GB for some peers.
MAX_ROUNDS = 1


def runs(quick: bool) -> list[Run]:
    params = {"count": 1_000_000, "seconds": 1.0}
    # With one P only beside those that can't have more. The size stays what it
    # is: the bound is on it. quick leaves out those that take half a minute.
    one_thread: tuple[str, ...] = (SUBJECT, "asyncio", "uvloop")
    if quick:
        return [Run(1, params, only=one_thread), Run(2, params, only=(SUBJECT, "go", "tonio"))]
    return [Run(1, params, only=(*one_thread, "gevent")), Run(2, params)]


def measure(peer: Peer, run: Run) -> Values:
    return peer.call("million", run)


def requirements() -> list[Requirement]:
    return [Requirement(run, "peak_gb", 8.0) for run in ("1 P", "2 P")]
