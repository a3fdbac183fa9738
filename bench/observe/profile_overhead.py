"""What each profile costs while it is being taken: the same work with and without, in turns.

    python bench/observe/profile_overhead.py [--rounds 5] [--procs 2]

Prints, for each kind of work, the median time and CPU time (of the whole process) without a
profile, and for each profile the median of its rounds relative to the plain ones beside them; and
how long the M's stood still for reading stacks. "off again" is work after all that: nothing should
remain. On a machine that does other things, too, CPU time is what to look at.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import gmpy_rt as rt
from gmpy_rt import pprof
from gmpy_rt._profile_proto import decode


def hogs() -> None:
    """Pure Python on every P, two G's for each."""

    def hog() -> int:
        total = 0
        for i in range(1_000_000):
            total += i & 3
        return total

    for g in [rt.go(hog) for _ in range(2 * rt.gomaxprocs())]:
        g.join()


def channel() -> None:
    """Two G's that send a value to and fro: nothing but parks."""
    there: rt.Chan[int] = rt.Chan()
    back: rt.Chan[int] = rt.Chan()

    def echo() -> None:
        for value in there:
            back.send(value)

    g = rt.go(echo)
    for i in range(50_000):
        there.send(i)
        back.recv()
    there.close()
    g.join()


def locks() -> None:
    """Eight G's, one lock, a yield while it is held: every acquire waits."""
    lock = rt.Lock()

    def worker() -> None:
        for _ in range(4_000):
            with lock:
                rt.gosched()

    for g in [rt.go(worker) for _ in range(8)]:
        g.join()


def _events(kind: str, rate: int) -> Callable[[], Callable[[], bytes]]:
    change = pprof.set_block_profile_rate if kind == "block" else pprof.set_mutex_profile_fraction

    def begin() -> Callable[[], bytes]:
        change(rate)

        def end() -> bytes:
            change(0)
            return pprof.block() if kind == "block" else pprof.mutex()

        return end

    return begin


PROFILES: dict[str, Callable[[], Callable[[], bytes]]] = {
    "cpu, 100 Hz": lambda: pprof.begin("cpu"),
    "starvation, 100 Hz": lambda: pprof.begin("starvation"),
    "block, every wait": _events("block", 1),
    "block, rate 10 us": _events("block", 10_000),
    "mutex, every case": _events("mutex", 1),
    "mutex, 1 of 10": _events("mutex", 10),
    "off again": lambda: lambda: b"",
}


def timed(work: Callable[[], None]) -> tuple[float, float]:
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(rounds: int) -> None:
    for work in (hogs, channel, locks):
        work()  # warm
        plain: list[tuple[float, float]] = []
        ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in PROFILES}
        comments: dict[str, str] = {}
        for _ in range(rounds):
            for name, begin in PROFILES.items():
                before = timed(work)
                end = begin()
                profiled = timed(work)
                data = end()
                after = timed(work)
                plain += [before, after]
                ratios[name].append(
                    (
                        2 * profiled[0] / (before[0] + after[0]),
                        2 * profiled[1] / (before[1] + after[1]),
                    )
                )
                if data:
                    comments[name] = "; ".join(decode(data).comments)
        wall, cpu = (statistics.median(t[i] for t in plain) * 1e3 for i in (0, 1))
        print(f"\n{work.__name__}: {wall:.0f} ms, {cpu:.0f} ms of CPU")
        for name, found in ratios.items():
            wall, cpu = ((statistics.median(r[i] for r in found) - 1) * 100 for i in (0, 1))
            spread = f"{min(r[1] for r in found):.2f} to {max(r[1] for r in found):.2f}"
            print(
                f"  {name:<20} time {wall:+6.1f} %, CPU {cpu:+6.1f} % ({spread})  "
                f"{comments.get(name, '')}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--procs", type=int, default=None)
    args = parser.parse_args()
    rt.run(measure, args.rounds, procs=args.procs)


if __name__ == "__main__":
    main()
