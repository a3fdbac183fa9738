"""(c) A pure-Python hog on every P, short G's and a ticker beside them."""

from __future__ import annotations

import time

import gmpy_rt
from bench.peers import kit
from bench.starvation.lab import Lab, now
from bench.starvation.model import Params

TITLE = "pure-Python hogs on every P beside short G's and a ticker"
PROGRAM = ""
ABOUT = (
    "As many G's as P's compute without a pause. A G sleeps 1 ms at a time, and every 5 ms "
    "a thread outside the runtime starts a G that ends at once."
)
HEADLINE = ("start", "tick")
PROCS = None


def params(scale: float) -> Params:
    return {"seconds": 3 * scale, "tick": 0.001, "interval": 0.005}


def run(lab: Lab, params: Params) -> None:
    until = time.perf_counter() + params["seconds"]

    def hog() -> None:
        since = now()
        kit.hog(until)
        lab.span(since, "hog")

    def tick() -> None:
        lab.sleep(params["tick"], kind="tick")
        while time.perf_counter() < until:
            lab.sleep(params["tick"], kind="tick")

    hogs = [lab.go(hog) for _ in range(lab.procs)]
    short: list[gmpy_rt.G[None]] = []
    ticker = lab.starting(tick)
    feeder = kit.feed(params, lambda due: short.append(lab.starting(int)))
    for g in [*hogs, ticker]:
        g.join()
    gmpy_rt.blocking(feeder.join)
    for g in short:
        g.join()
