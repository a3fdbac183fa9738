"""pyroutine-rt: greenlets on several threads, each with its own loop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pyroutine
from pyroutine import Queue, Socket, gather, sleep, yield_
from pyroutine import spawn as start

from bench.peers import kit
from bench.peers.kit import Params, Values

WITHOUT: dict[str, str] = {}


def about(params: Params) -> dict[str, Any]:
    return kit.about("pyroutine-rt")


def _run(params: Params, main: Callable[[], Values]) -> Values:
    """Run main as a task: from the main thread every join would wait on an OS event."""
    pyroutine.set_max_procs(params["procs"])
    values: Values = start(main).result()
    # Its exit hook may wait for threads that will not end.
    kit.finish(values)


def _nothing() -> None:
    pass


def spawn(params: Params) -> Values:
    def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            begin = time.perf_counter()
            for task in [start(_nothing) for _ in range(params["batch"])]:
                task.join()
            seconds.append(time.perf_counter() - begin)
        return kit.per_item(seconds, params["batch"])

    return _run(params, main)


def gosched(params: Params) -> Values:
    def spin(turns: int) -> None:
        for _ in range(turns):
            yield_()

    def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            begin = time.perf_counter()
            gather(*[start(spin, params["turns"]) for _ in range(params["ring"])])
            seconds.append(time.perf_counter() - begin)
        return kit.per_item(seconds, params["turns"] * params["ring"])

    return _run(params, main)


def pingpong(params: Params) -> Values:
    trips: int = params["trips"]
    threads: set[int] = set()

    def main() -> Values:
        there, back = Queue(1), Queue(1)

        def echo() -> None:
            threads.add(threading.get_ident())
            for _ in range(trips):
                back.put(there.get())

        threads.add(threading.get_ident())
        seconds = []
        for _ in range(params["batches"]):
            other = start(echo)
            begin = time.perf_counter()
            for i in range(trips):
                there.put(i)
                back.get()
            seconds.append(time.perf_counter() - begin)
            other.join()
        return {**kit.per_item(seconds, trips), "threads": len(threads)}

    return _run(params, main)


def cpu(params: Params) -> Values:
    def main() -> Values:
        begin = time.perf_counter()
        gather(*[start(kit.count_primes, params["limit"]) for _ in range(params["tasks"])])
        return {"seconds": time.perf_counter() - begin}

    return _run(params, main)


def echo(params: Params) -> Values:
    def serve(connection: Any) -> None:
        with connection, contextlib.suppress(ConnectionError):
            recv, sendall = connection.recv, connection.sendall
            while data := recv(65536):
                sendall(data)

    def main() -> Values:
        listener = Socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        kit.end_with_stdin(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            start(serve, connection)

    return _run(params, main)


def parked(params: Params) -> Values:
    count: int = params["count"]
    arrived: list[None] = []

    def sleeper() -> None:
        arrived.append(None)
        sleep(3600)

    def main() -> Values:
        before = kit.rss_bytes()
        begin = time.perf_counter()
        tasks = [start(sleeper) for _ in range(count)]
        while len(arrived) < count:
            sleep(0.001)
        kit.finish(kit.parked_values(len(tasks), begin, time.perf_counter(), before))

    return _run(params, main)


def million(params: Params) -> Values:
    def main() -> Values:
        begin = time.perf_counter()
        for task in [start(sleep, params["seconds"]) for _ in range(params["count"])]:
            task.join()
        kit.finish(kit.sleepers_values(time.perf_counter() - begin))

    return _run(params, main)


def ticker(params: Params) -> Values:
    late: list[float] = []

    def main() -> Values:
        begin = time.perf_counter()
        until = begin + params["seconds"]

        def tick() -> None:
            asked = begin
            while asked < until:
                sleep(params["interval"])
                now = time.perf_counter()
                late.append(now - asked - params["interval"])
                asked = now

        gather(start(tick), *[start(kit.hog, until) for _ in range(params["procs"])])
        return kit.lateness(late)

    # Off by default there.
    pyroutine.enable_preemption()
    return _run(params, main)


def blockers(params: Params) -> Values:
    late: list[float] = []

    def fresh(due: float) -> None:
        late.append(time.perf_counter() - due)

    def main() -> Values:
        until = time.perf_counter() + params["seconds"]

        def blocker() -> None:
            while time.perf_counter() < until:
                time.sleep(params["block"])
                sleep(params["rest"])

        feeder = kit.feed(params, lambda due: start(fresh, due))
        gather(*[start(blocker) for _ in range(params["procs"])])
        while feeder.is_alive():
            sleep(0.01)
        sleep(0.01)
        return kit.lateness(late)

    return _run(params, main)
