"""A workload without instruments, with metrics.read() every 100 ms, and with the live page
open (its events read by another process, as a browser would).

    python -m bench.observe.overhead [--rounds 5] [--seconds 2] [--procs 2] [--alive 10000]

The workload: pairs of G's that talk over channels, beside `--alive` parked ones. Each round
measures every variant once, in another order; shown are medians, and the share lost.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import gmpy_rt as rt
from gmpy_rt import debug, metrics

READER = """
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1] + "/debug/gmp/events") as events:
    while events.readline():
        pass
"""


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def reading() -> Iterator[None]:
    over = threading.Event()

    def read() -> None:
        while not over.wait(0.1):
            metrics.read()

    thread = threading.Thread(target=read, name="gmpy-debug-bench")
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def page_open() -> Iterator[None]:
    with debug.serve("127.0.0.1:0") as server:
        reader = subprocess.Popen([sys.executable, "-c", READER, server.url])
        while server._http.sampler._readers == 0:
            time.sleep(0.01)
        yield
        reader.kill()
        reader.wait()


VARIANTS = {"nothing": nothing, "metrics.read() every 100 ms": reading, "live page": page_open}


def workload(seconds: float, alive: int, pairs: int = 8) -> float:
    """Round trips per second."""
    stop: list[int] = []
    done = [0] * pairs
    never: rt.Chan[int] = rt.Chan()
    parked = [rt.go(never.recv) for _ in range(alive)]

    def pair(number: int) -> None:
        there: rt.Chan[int] = rt.Chan()
        back: rt.Chan[int] = rt.Chan()

        def echo() -> None:
            for value in there:
                back.send(value)

        g = rt.go(echo)
        while not stop:
            there.send(1)
            back.recv()
            done[number] += 1
        there.close()
        g.join()

    gs = [rt.go(pair, number) for number in range(pairs)]
    rt.sleep(0.2)
    start, before = time.perf_counter(), sum(done)
    rt.sleep(seconds)
    rate = (sum(done) - before) / (time.perf_counter() - start)
    stop.append(1)
    for g in gs:
        g.join()
    for _ in parked:
        never.send(0)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--procs", type=int, default=2)
    parser.add_argument("--alive", type=int, default=10_000)
    args = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(args.rounds):
        for name in random.sample(list(VARIANTS), len(VARIANTS)):
            with VARIANTS[name]():
                rate = rt.run(workload, args.seconds, args.alive, procs=args.procs)
            rates[name].append(rate)
    base = statistics.median(rates["nothing"])
    print(f"round trips per second, {args.procs} P's, {args.alive} parked G's, median of rounds")
    for name, values in rates.items():
        median = statistics.median(values)
        print(
            f"{name:30} {median:12,.0f}   {100 * (1 - median / base):+5.1f} % lost"
            f"   ({min(values):,.0f} to {max(values):,.0f})"
        )


if __name__ == "__main__":
    main()
