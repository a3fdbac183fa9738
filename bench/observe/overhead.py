"""A workload without instruments, with metrics.read() every 100 ms, and with the live page
open (its events read by another process, as a browser would).

    python -P bench/observe/overhead.py [--rounds 5] [--seconds 2] [--procs 1] [--alive 10000]

The workload: pairs of G's that talk over channels, beside `--alive` parked ones. Each round
measures every variant once, in another order; shown are medians, and the share lost. With
several P's that is mostly noise on a machine that does other things, too. The CPU time that
the instruments' own threads take is shown besides.
"""

from __future__ import annotations

import argparse
import json
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
from gmpy_rt.debug import live

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
    """Round trips per second; with one P, per second of CPU."""
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
    # With one P all of them run on this thread: by its CPU time, the machine's other work
    # doesn't count.
    clock = time.thread_time if rt.gomaxprocs() == 1 else time.perf_counter
    start, before = clock(), sum(done)
    rt.sleep(seconds)
    rate = (sum(done) - before) / (clock() - start)
    stop.append(1)
    for g in gs:
        g.join()
    for _ in parked:
        never.send(0)
    return rate


def cpu_shares(repeat: int = 20) -> tuple[float, float]:
    """Shares of a core that reading every 100 ms and the page's sampler take."""
    view = live.View()
    start = time.thread_time()
    for _ in range(repeat):
        metrics.read()
    read, start = time.thread_time() - start, time.thread_time()
    for _ in range(repeat):
        for _ in range(live.SAMPLES_PER_EVENT):
            view.sample()
        json.dumps(view.event(), separators=(",", ":")).encode()
    event = time.thread_time() - start
    per_second = 1 / (live.SAMPLE * live.SAMPLES_PER_EVENT)
    return read / repeat * 10, event / repeat * per_second


def shares_beside_a_hog(alive: int) -> tuple[float, float]:
    stop: list[int] = []
    never: rt.Chan[int] = rt.Chan()
    parked = [rt.go(never.recv) for _ in range(alive)]

    def hog() -> None:
        while not stop:
            pass

    g = rt.go(hog)
    shares = rt.blocking(cpu_shares)
    stop.append(1)
    g.join()
    for _ in parked:
        never.send(0)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--procs", type=int, default=1)
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
    read, page = rt.run(shares_beside_a_hog, args.alive, procs=args.procs)
    print(
        f"CPU beside a hog: metrics.read() every 100 ms {read:.3%}, live page {page:.2%} of a core"
    )


if __name__ == "__main__":
    main()
