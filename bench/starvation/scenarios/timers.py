"""(e) A timer of 5 s every millisecond, never stopped (P4)."""

from __future__ import annotations

import gmpy_rt
from bench.starvation.lab import Lab, now
from bench.starvation.model import Figures, Params, seconds

TITLE = "a flood of timers that nobody stops"
PROGRAM = "P4"
ABOUT = (
    "A 5 s timer is made every millisecond and never stopped; the 5,000 that are alive in the "
    "long run are there from the start of the flood. A G that sleeps 1 ms at a time tells how "
    "late timers are (`tick`), before the flood (`tick before`) and with ten times as many "
    "(`tick x10`). Meanwhile five G's wait for a lock whose holder works for `held` seconds: "
    "the real blockage that the flood is said to hide."
)
HEADLINE = ("tick",)
PROCS = None


def also(figures: Figures) -> str:
    return f"making a timer took {seconds(figures['timer_made_s_last'])}"


def params(scale: float) -> Params:
    return {
        "seconds": max(0.2, 2 * scale),
        "tick": 0.001,
        "timer": 5.0,
        "alive": int(5000 * min(1.0, 5 * scale)),
        "held": max(0.05, 0.2 * scale),
    }


def run(lab: Lab, params: Params) -> None:
    timers: list[gmpy_rt.Timer] = []

    def ticks(kind: str, seconds: float) -> None:
        until = now() + int(seconds * 1e9)
        lab.sleep(params["tick"], kind=kind)
        while now() < until:
            lab.sleep(params["tick"], kind=kind)

    def flood(seconds: float) -> None:
        until = now() + int(seconds * 1e9)
        while now() < until:
            gmpy_rt.sleep(0.001)
            timers.append(gmpy_rt.Timer(params["timer"]))

    def phase(kind: str, with_flood: bool) -> None:
        gs = [lab.go(ticks, kind, params["seconds"])]
        if with_flood:
            gs.append(lab.go(flood, params["seconds"]))
        for g in gs:
            g.join()

    def make(count: int) -> float:
        """Seconds for each of so many timers."""
        since = now()
        timers.extend([gmpy_rt.Timer(params["timer"]) for _ in range(count)])
        return (now() - since) / count / 1e9

    lab.figures["alive"] = params["alive"]
    phase("tick before", with_flood=False)
    lab.figures["timer_made_s_first"] = make(params["alive"] // 5)
    make(params["alive"] * 3 // 5)
    lab.figures["timer_made_s_last"] = make(params["alive"] // 5)
    blocked = _blockage(lab, params)
    phase("tick", with_flood=True)
    for g in blocked:
        g.join()
    make(9 * params["alive"])
    phase("tick x10", with_flood=False)


def _blockage(lab: Lab, params: Params) -> list[gmpy_rt.G[None]]:
    """Five G's that wait for a held lock, and a look at who waits for what meanwhile."""
    lock = gmpy_rt.Lock()
    begun = gmpy_rt.Event()

    def hold() -> None:
        with lock:
            since = now()
            begun.set()
            gmpy_rt.sleep(params["held"])
            lab.span(since, "lock held")

    def want() -> None:
        begun.wait()
        with lock:
            pass

    lab.timeline.at(now() + int(params["held"] / 2 * 1e9), lab.count_states)
    return [lab.go(hold), *(lab.go(want) for _ in range(5))]
