"""tonio in its `yield` notation: what its scheduler alone costs.

A bare `yield` is its gosched and wakes nobody, so it is cheaper than what its
async/await notation has for that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any

import tonio
from tonio.sync import channel

from bench.peers import kit
from bench.peers.kit import Params, Values

Coro = Generator[Any, Any, Any]

WITHOUT = dict.fromkeys(
    ("cpu", "echo", "parked", "million", "ticker", "blockers"),
    "see tonio: it is the scheduler's own cost that is measured here",
)


def about(params: Params) -> dict[str, Any]:
    return kit.about("tonio")


def _run(params: Params, main: Coro) -> Values:
    values: Values = tonio.run(main, threads=params["procs"])
    return values


def _nothing() -> Coro:
    return
    yield


def spawn(params: Params) -> Values:
    def main() -> Coro:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            yield tonio.spawn.without_results(*[_nothing() for _ in range(params["batch"])])
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["batch"])

    return _run(params, main())


def gosched(params: Params) -> Values:
    def spin(turns: int) -> Coro:
        for _ in range(turns):
            yield

    def main() -> Coro:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            ring = [spin(params["turns"]) for _ in range(params["ring"])]
            yield tonio.spawn.without_results(*ring)
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["turns"] * params["ring"])

    return _run(params, main())


def pingpong(params: Params) -> Values:
    trips: int = params["trips"]
    threads: set[int] = set()

    def main() -> Coro:
        put_there, get_there = channel.channel(1)
        put_back, get_back = channel.channel(1)

        def echo() -> Coro:
            for i in range(trips):
                message = yield get_there.receive()
                yield put_back.send(message)
                if i % 100 == 0:
                    threads.add(threading.get_ident())

        seconds = []
        for _ in range(params["batches"]):
            other = tonio.spawn.without_results(echo())
            start = time.perf_counter()
            for i in range(trips):
                yield put_there.send(i)
                yield get_back.receive()
            seconds.append(time.perf_counter() - start)
            yield other
        threads.add(threading.get_ident())
        return {**kit.per_item(seconds, trips), "threads": len(threads)}

    return _run(params, main())
