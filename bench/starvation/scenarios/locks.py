"""(b) 990 tasks of a millisecond and ten that hold a lock for 500 ms (P3)."""

from __future__ import annotations

import threading
import time

import gmpy_rt
from bench.peers import kit
from bench.starvation.lab import Lab, now
from bench.starvation.model import Figures, Params, seconds

TITLE = "990 tasks of a millisecond beside ten that hold one lock for long"
PROGRAM = "P3"
ABOUT = (
    "Ten G's want the same lock and work for `hold` seconds in pure Python while they have it; "
    "990 tasks of about a millisecond each need no lock. Claimed: one P starves its G's while "
    "the others find nothing to do."
)
HEADLINE = ("start",)
PROCS = None


def also(figures: Figures) -> str:
    return f"the short ones were done after {seconds(figures['short_done_s'])}"


def params(scale: float) -> Params:
    return {"hold": 0.5 * scale, "holders": 10, "tasks": 990, "loops": 30_000 * min(1.0, 2 * scale)}


def run(lab: Lab, params: Params) -> None:
    lock = gmpy_rt.Lock()
    released = [0]
    holding: list[int] = []  # the thread whose G holds the lock
    loops = int(params["loops"])
    done: list[None] = []
    elsewhere: list[None] = []
    beside: list[None] = []

    def hold() -> None:
        with lock:
            since = now()
            if released[0]:
                lab.waited("lock", released[0], since)
            holding.append(threading.get_ident())
            kit.hog(time.perf_counter() + params["hold"])
            holding.pop()
            lab.span(since, "lock held")
            released[0] = now()

    def short() -> None:
        x = 0
        for _ in range(loops):
            x = (x * 5 + 1) & 0xFFFF
        at = holding[-1:]
        if at:
            (beside if at[0] == threading.get_ident() else elsewhere).append(None)
        done.append(None)
        if len(done) == params["tasks"]:
            # None of them is in a run queue while it waits.
            lab.figures["lock_waiters"] = sum(holder.state == "lock" for holder in holders)
            lab.figures["short_done_s"] = (now() - begin) / 1e9

    begin = now()
    holders = [lab.go(hold) for _ in range(params["holders"])]
    gs = [lab.starting(short) for _ in range(params["tasks"])]
    for g in [*holders, *gs]:
        g.join()
    # Of the tasks that ended while the lock was held: how many on the holder's own thread?
    lab.figures["done_elsewhere"] = len(elsewhere)
    lab.figures["done_beside"] = len(beside)
