"""(a) One G works for seconds without a pause; a thousand short ones want to run (P1)."""

from __future__ import annotations

import time

import gmpy_rt
from bench.peers import kit
from bench.starvation.lab import Lab, now
from bench.starvation.model import Figures, Params

TITLE = "a long worker beside 1,000 short sleepers"
PROGRAM = "P1"
ABOUT = (
    "One G works for `work` seconds in pure Python. A thousand others start, sleep 10 ms and "
    "end; the article expects many to be left after 3 of 5 s."
)
HEADLINE = ("start", "wake")
PROCS = None


def also(figures: Figures) -> str:
    return f"{figures['left']:.0f} left at 60 % of the work"


def params(scale: float) -> Params:
    return {"work": 5 * scale, "short": 1000, "sleep": 0.01, "look_after": 0.6}


def run(lab: Lab, params: Params) -> None:
    def long() -> None:
        since = now()
        kit.hog(time.perf_counter() + params["work"])
        lab.span(since, "work")

    ended: list[None] = []

    def short() -> None:
        lab.sleep(params["sleep"])
        ended.append(None)

    def look() -> None:
        lab.figures["left"] = params["short"] - len(ended)

    worker = lab.go(long)
    lab.timeline.at(now() + int(params["work"] * params["look_after"] * 1e9), look)
    gs = [lab.starting(short) for _ in range(params["short"])]
    for g in [worker, *gs]:
        g.join()
    lab.figures.setdefault("left", 0)  # all had ended before it was time to look
    gmpy_rt.sleep(0)
