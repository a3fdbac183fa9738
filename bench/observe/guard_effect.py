"""What the guard does for short G's beside hogs: p99 with it and without, in one run.

Pure-Python hogs on every P, three to a P; short protected G's arrive from a plain thread, one
every few milliseconds. Measured by the arrivals themselves: from go() until the function begins,
and until it has ended. The sides take turns, each in a process of its own:

    off      no guard
    guard    HungerGuard(): slices of 1 ms while somebody starves
    reserve  HungerGuard(reserve=1): and a P for the latency class, where guard.go starts its G's

    python bench/observe/guard_effect.py [--procs 2] [--seconds 6] [--rounds 3] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import gmpy_rt
from gmpy_rt import blocking, go, run
from gmpy_rt.guard import HungerGuard

SIDES = ("off", "guard", "reserve")
HOGS_PER_P = 3
WARM_UP = 0.5  # seconds that don't count: the guard's first samples are taken


def _short(went: float, began: list[tuple[float, float]]) -> None:
    now = time.perf_counter()
    for _ in range(100):
        pass
    began.append((now - went, time.perf_counter() - went))


def _hog(stop: threading.Event, turns: list[int], index: int) -> None:
    count = 0
    while not stop.is_set():
        count += 1
    turns[index] = count


def _arrivals(
    start: Callable[..., Any], seconds: float, gap: float
) -> tuple[list[tuple[float, float]], int]:
    """In a plain thread: starts a short G every `gap` seconds."""
    warm: list[tuple[float, float]] = []
    measured: list[tuple[float, float]] = []
    began, rejected = time.perf_counter(), 0
    while (now := time.perf_counter()) < began + WARM_UP + seconds:
        start(_short, now, measured if now > began + WARM_UP else warm)
        time.sleep(gap)
    return measured, rejected


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)]


def measure(side: str, procs: int, seconds: float, gap: float) -> dict[str, Any]:
    """One side, in this process."""

    def main() -> dict[str, Any]:
        stop, turns = threading.Event(), [0] * (HOGS_PER_P * procs)
        guard = HungerGuard(reserve=1 if side == "reserve" else 0)
        if side != "off":
            guard.start()
        hogs = [go(_hog, stop, turns, i) for i in range(len(turns))]
        began = time.perf_counter()
        start = go if side == "off" else guard.go
        try:
            times, rejected = blocking(_arrivals, start, seconds, gap)
        finally:
            stop.set()
        for g in hogs:
            g.join()
        took = time.perf_counter() - began
        stats = gmpy_rt.stats()
        result = {
            "arrivals": len(times),
            "rejected": rejected + guard.rejected,
            "start_p50_ms": _quantile([t[0] for t in times], 0.5) * 1e3,
            "start_p99_ms": _quantile([t[0] for t in times], 0.99) * 1e3,
            "start_max_ms": max(t[0] for t in times) * 1e3,
            "end_p99_ms": _quantile([t[1] for t in times], 0.99) * 1e3,
            "hogs_loops_per_s": sum(turns) / took,
            "preemptions_per_s": stats.total("preemptions") / took,
            "samples": guard.samples,
            "reliefs": guard.reliefs,
        }
        guard.stop()
        return result

    return run(main, procs=procs)


def _in_process(side: str, options: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, __file__, "--side", side]
    for name in ("procs", "seconds", "gap"):
        words += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{side}: exit code {done.returncode}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--procs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--gap", type=float, default=0.003, help="seconds between arrivals")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help="only this one, here; prints JSON")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.procs, options.seconds, options.gap)))
        return 0
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.rounds):
        for side in SIDES:
            rounds[side].append(_in_process(side, options))
    medians = {
        side: {name: median(one[name] for one in found) for name in found[0]}
        for side, found in rounds.items()
    }
    print(f"{options.procs} P's, {HOGS_PER_P * options.procs} hogs, a short G every")
    print(f"{options.gap * 1e3:.0f} ms; medians of {options.rounds} rounds\n")
    print("".join(["figure".ljust(20)] + [side.rjust(14) for side in SIDES]))
    for name in medians["off"]:
        print("".join([name.ljust(20)] + [f"{medians[s][name]:14.2f}" for s in SIDES]))
    ok = True
    for side in SIDES[1:]:
        share = medians[side]["start_p99_ms"] / medians["off"]["start_p99_ms"]
        good = share <= 1 / 3
        ok = ok and good
        print(
            f"p99 of {side} / p99 without: {share:.2f}  {'PASS' if good else 'FAIL'} (at most 1/3)"
        )
    if options.json is not None:
        options.json.write_text(
            json.dumps({"options": vars(options) | {"json": None}, "rounds": rounds})
        )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
