"""runloom: fibers with stacks of their own on several threads ("hubs").

With its C-level connections, as its own benchmarks do, and with its stack
arena: without it a start takes three times as long, and the kernel's limit of
mappings ends the program at some 35,000 fibers.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any

# Read when it is imported; the size is that of the largest case and a little more.
os.environ.setdefault("RUNLOOM_STACK_ARENA", "1")
os.environ.setdefault("RUNLOOM_STACK_ARENA_N", "1100000")

import runloom
from runloom.sync import WaitGroup

from bench.peers import kit
from bench.peers.kit import Params, Values

WITHOUT: dict[str, str] = {}


def about(params: Params) -> dict[str, Any]:
    return kit.about("runloom")


def _run(params: Params, main: Callable[[], Values], fed: bool = False) -> Values:
    """Run main as the root fiber; the process leaves as soon as it has its values.

    fed: plain threads start fibers, too, which its scheduler for one thread
    doesn't take; its M:N one does, with one hub as well.
    """
    failure: list[BaseException] = []

    def root() -> None:
        try:
            kit.finish(main())
        except BaseException as error:
            failure.append(error)

    if fed and params["procs"] == 1:
        runloom.mn_init(1)
        runloom.mn_fiber(root)
        runloom.mn_run()
        runloom.mn_fini()
    else:
        runloom.run(params["procs"], root)
    raise failure[0] if failure else RuntimeError("the root fiber never ran")


class _Group:
    """Fibers to be joined: under M:N a fiber has no handle to wait on."""

    def __init__(self) -> None:
        self._group = WaitGroup()

    def go(self, fn: Callable[..., object], *args: Any) -> None:
        self._group.add(1)
        runloom.fiber(self._body, fn, args)

    def _body(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        try:
            fn(*args)
        finally:
            self._group.done()

    def wait(self) -> None:
        self._group.wait()


def spawn(params: Params) -> Values:
    batch: int = params["batch"]

    def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            group = WaitGroup()
            group.add(batch)
            # Its `done` is the whole body of a fiber that does nothing else.
            done, fiber = group.done, runloom.fiber
            for _ in range(batch):
                fiber(done)
            group.wait()
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, batch)

    return _run(params, main)


def gosched(params: Params) -> Values:
    def spin(turns: int) -> None:
        yield_now = runloom.yield_now
        for _ in range(turns):
            yield_now()

    def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            group = _Group()
            for _ in range(params["ring"]):
                group.go(spin, params["turns"])
            group.wait()
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["turns"] * params["ring"])

    return _run(params, main)


def pingpong(params: Params) -> Values:
    trips: int = params["trips"]
    threads: set[int] = set()

    def main() -> Values:
        there, back = runloom.Chan(1), runloom.Chan(1)

        def echo() -> None:
            threads.add(threading.get_ident())
            for _ in range(trips):
                value, _ = there.recv()
                back.send(value)

        threads.add(threading.get_ident())
        seconds = []
        for _ in range(params["batches"]):
            group = _Group()
            group.go(echo)
            start = time.perf_counter()
            for i in range(trips):
                there.send(i)
                back.recv()
            seconds.append(time.perf_counter() - start)
            group.wait()
        return {**kit.per_item(seconds, trips), "threads": len(threads)}

    return _run(params, main)


def cpu(params: Params) -> Values:
    def main() -> Values:
        start = time.perf_counter()
        group = _Group()
        for _ in range(params["tasks"]):
            group.go(kit.count_primes, params["limit"])
        group.wait()
        return {"seconds": time.perf_counter() - start}

    return _run(params, main)


def echo(params: Params) -> Values:
    def serve(connection: Any) -> None:
        buffer = bytearray(65536)
        view = memoryview(buffer)
        recv_into, send_all = connection.recv_into, connection.send_all
        with contextlib.suppress(ConnectionError):
            while n := recv_into(buffer):
                send_all(view[:n])
        connection.close()

    def main() -> Values:
        listener = runloom.TCPConn.listen("127.0.0.1", 0, 512)
        kit.end_with_stdin(kit.port_of(listener.fileno()))
        while True:
            runloom.fiber(serve, listener.accept())

    return _run(params, main)


def parked(params: Params) -> Values:
    count: int = params["count"]
    arrived: list[None] = []

    def sleeper() -> None:
        arrived.append(None)
        runloom.sleep(3600)

    def main() -> Values:
        before = kit.rss_bytes()
        start = time.perf_counter()
        for _ in range(count):
            runloom.fiber(sleeper)
        while len(arrived) < count:
            runloom.sleep(0.001)
        return kit.parked_values(count, start, time.perf_counter(), before)

    return _run(params, main)


def million(params: Params) -> Values:
    def main() -> Values:
        start = time.perf_counter()
        group = WaitGroup()
        group.add(params["count"])
        seconds: float = params["seconds"]

        def sleeper() -> None:
            runloom.sleep(seconds)
            group.done()

        for _ in range(params["count"]):
            runloom.fiber(sleeper)
        group.wait()
        return kit.sleepers_values(time.perf_counter() - start)

    return _run(params, main)


def ticker(params: Params) -> Values:
    late: list[float] = []

    def main() -> Values:
        begin = time.perf_counter()
        until = begin + params["seconds"]

        def tick() -> None:
            asked = begin
            while asked < until:
                runloom.sleep(params["interval"])
                now = time.perf_counter()
                late.append(now - asked - params["interval"])
                asked = now

        group = _Group()
        group.go(tick)
        for _ in range(params["procs"]):
            group.go(kit.hog, until)
        group.wait()
        return kit.lateness(late)

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
                runloom.sleep(params["rest"])

        feeder = kit.feed(params, lambda due: runloom.fiber(fresh, due))
        group = _Group()
        for _ in range(params["procs"]):
            group.go(blocker)
        group.wait()
        while feeder.is_alive():
            runloom.sleep(0.01)
        runloom.sleep(0.01)
        return kit.lateness(late)

    return _run(params, main, fed=True)
