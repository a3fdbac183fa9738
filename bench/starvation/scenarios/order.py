"""(g) Where an idle P takes work from first, seen from the order in which G's run.

Two P's. The main G keeps its P busy from outside the scheduler, so that whatever runs is what
the other P has found for itself.

    global first   400 new G's overflow the ring of 256: the 128 oldest move to the global
                   queue. Whose turn is first on the other P, one of them or one of the ring?
    head           64 new G's: 63 in the ring, the last in runnext. The other P takes half: are
                   those the oldest? And does it get runnext?
    degraded       the global queue was empty for 20 ms; then comes one G, while 200 wait in
                   rings. How many of the 200 run before it?
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import gmpy_rt
from bench.peers import kit
from bench.starvation.lab import Lab, now
from bench.starvation.model import Figures, Params

TITLE = "where an idle P looks for work first"
PROGRAM = ""
ABOUT = (
    "An idle P meets work in the global queue and in the ring of a busy P; the order in which "
    "the G's run tells which it took first, and from which end."
)
HEADLINE = ("start",)
PROCS = (2,)

T = TypeVar("T")

OVERFLOW, MOVED = 400, 128
HALF = 32
SLICE = 8_000_000  # ns; a little less than the time slice


def also(figures: Figures) -> str:
    return f"global queue first: {100 * figures['global_first']:.0f} % of {figures['trials']:.0f}"


def params(scale: float) -> Params:
    return {"trials": max(5, round(40 * scale)), "pause": 0.02, "ring": 200, "loops": 300}


def run(lab: Lab, params: Params) -> None:
    if not kit.gil_off():
        raise kit.Skipped("needs two P's that run Python at the same time")
    trials: int = params["trials"]
    overflows = _some(lambda: _trial(lab, OVERFLOW), trials)
    heads = _some(lambda: _trial(lab, 2 * HALF), trials)
    shares = _some(lambda: _degraded(lab, params), max(3, trials // 4))
    if not overflows or not heads or not shares:
        raise kit.Skipped("the two P's never ran at the same time: the machine is too busy")
    figures = lab.figures
    figures["trials"] = len(overflows)
    figures["global_first"] = sum(t[0] < MOVED for t in overflows) / len(overflows)
    taken = [sum(number < HALF for number in t[:HALF]) / HALF for t in heads]
    figures["from_head"] = sum(taken) / len(taken)
    last = 2 * HALF - 1
    figures["runnext_last"] = sum(last in t and t[-1] == last for t in heads) / len(heads)
    figures["before_global"] = statistics.median(shares)


def _some(trial: Callable[[], T | None], wanted: int) -> list[T]:
    """So many trials, or fewer if mostly another program has the CPU that one needs: then the
    first has more time than the rest."""
    found: list[T] = []
    begun = now()
    while len(found) < wanted and now() < begun + (3_000_000_000 if found else 15_000_000_000):
        one = trial()
        if one is not None:
            found.append(one)
    return found


def _trial(lab: Lab, count: int) -> list[int] | None:
    """The order in which the other P ran so many G's; None if it wasn't there in time."""
    gmpy_rt.sleep(0.002)  # a new time slice for this G, and the other P is idle
    order: list[int] = []
    there: list[None] = []
    leave: list[None] = []

    def hold_other_p() -> None:
        there.append(None)
        _spin_until(lambda: bool(leave), 0.05)

    since = now()
    holder = lab.go(hold_other_p)
    if not _spin_until(lambda: bool(there), 0.005):
        leave.append(None)
        holder.join()
        return None
    gs = [lab.starting(order.append, number) for number in range(count)]
    # A G of less than 50 us is left to its own P: the oldest must be older.
    _spin_until(lambda: False, 0.0003)
    in_time = now() - since < SLICE
    leave.append(None)
    _spin_until(lambda: len(order) >= count, 0.005)
    seen = list(order)
    for g in [holder, *gs]:
        g.join()
    # Who was preempted leaves by another way: to the global queue first.
    return seen if in_time and len(seen) >= HALF else None


def _spin_until(ready: object, seconds: float) -> bool:
    """Burn the CPU without a call into the runtime."""
    assert callable(ready)
    until = time.perf_counter() + seconds
    while not ready():
        if time.perf_counter() > until:
            return False
    return True


def _degraded(lab: Lab, params: Params) -> float | None:
    """The share of local G's that ran between the submission to the global queue and that G's
    start; None if it came too late to tell."""
    gmpy_rt.sleep(params["pause"])
    asked = threading.Event()
    done: list[None] = []
    before: list[int] = []
    after: list[int] = []
    seen: list[int] = []

    def submit() -> None:
        asked.wait(5)
        before.append(len(done))
        lab.starting(lambda: seen.append(len(done)))  # from outside: into the global queue
        after.append(len(done))

    def short() -> None:
        x = 0
        for _ in range(params["loops"]):
            x = (x * 5 + 1) & 0xFFFF
        done.append(None)

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    gs = [lab.starting(short) for _ in range(params["ring"])]
    asked.set()
    for g in gs:
        g.join()
    gmpy_rt.blocking(thread.join)
    while not seen:
        gmpy_rt.sleep(0.001)
    left = params["ring"] - before[0]
    # A submitter that lost its CPU in between says nothing about the P's.
    late = after[0] - before[0] > left / 4
    return (seen[0] - before[0]) / left if left > params["ring"] / 2 and not late else None
