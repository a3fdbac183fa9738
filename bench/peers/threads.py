"""Plain threads of a free-threaded Python: one OS thread for each task.

P's are CPUs here: with fewer of them the process is kept to as many CPUs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.peers import kit
from bench.peers.kit import Params, Values

WITHOUT = {
    # Measured with 20,000: 212 KB of RSS each.
    "parked": "100,000 threads would need some 20 GB",
    "million": "1,000,000 threads are more than the system gives",
}


def about(params: Params) -> dict[str, Any]:
    return kit.about(None)


def _start(fn: Callable[..., object], *args: object) -> threading.Thread:
    thread = threading.Thread(target=fn, args=args)
    thread.start()
    return thread


def _nothing() -> None:
    pass


def spawn(params: Params) -> Values:
    kit.limit_cpus(params["procs"])
    seconds = []
    # Some hundred times the others' cost: more batches would only take time.
    for _ in range(min(params["batches"], 2)):
        start = time.perf_counter()
        for thread in [_start(_nothing) for _ in range(params["batch"])]:
            thread.join()
        seconds.append(time.perf_counter() - start)
    return kit.per_item(seconds, params["batch"])


def gosched(params: Params) -> Values:
    kit.limit_cpus(params["procs"])

    def spin(turns: int) -> None:
        sched_yield = os.sched_yield
        for _ in range(turns):
            sched_yield()

    seconds = []
    for _ in range(params["batches"]):
        start = time.perf_counter()
        for thread in [_start(spin, params["turns"]) for _ in range(params["ring"])]:
            thread.join()
        seconds.append(time.perf_counter() - start)
    return kit.per_item(seconds, params["turns"] * params["ring"])


def pingpong(params: Params) -> Values:
    kit.limit_cpus(params["procs"])
    if params["procs"] > 1 and params["mode"] != "forced":
        raise kit.Skipped("two threads are always two M's: see 'forced'")
    trips: int = params["trips"]
    there: queue.Queue[int] = queue.Queue(1)
    back: queue.Queue[int] = queue.Queue(1)

    def echo() -> None:
        for _ in range(trips):
            back.put(there.get())

    seconds = []
    for _ in range(params["batches"]):
        other = _start(echo)
        start = time.perf_counter()
        for i in range(trips):
            there.put(i)
            back.get()
        seconds.append(time.perf_counter() - start)
        other.join()
    return {**kit.per_item(seconds, trips), "threads": 2}


def lock(params: Params) -> Values:
    kit.limit_cpus(params["procs"])
    mutex = threading.Lock()
    turns: int = params["turns"]
    if params["mode"] != "contended":
        return kit.per_item(kit.locking(mutex, turns, params["batches"]), turns)
    seconds = []
    for _ in range(params["batches"]):
        fight = kit.Fight(mutex, turns)
        for thread in [_start(fight.side) for _ in range(2)]:
            thread.join()
        seconds.append(fight.seconds())
    return kit.per_item(seconds, 2 * turns)


def cpu(params: Params) -> Values:
    kit.limit_cpus(params["procs"])
    start = time.perf_counter()
    for thread in [_start(kit.count_primes, params["limit"]) for _ in range(params["tasks"])]:
        thread.join()
    return {"seconds": time.perf_counter() - start}


def echo(params: Params) -> Values:
    kit.limit_cpus(params["procs"])
    listener = kit.listener()

    def serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        with connection, contextlib.suppress(ConnectionError):
            recv, sendall = connection.recv, connection.sendall
            while data := recv(65536):
                sendall(data)

    kit.end_with_stdin(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        _start(serve, connection)


def ticker(params: Params) -> Values:
    kit.limit_cpus(params["procs"])
    late: list[float] = []
    begin = time.perf_counter()
    until = begin + params["seconds"]
    hogs = [_start(kit.hog, until) for _ in range(params["procs"])]
    asked = begin
    while asked < until:
        time.sleep(params["interval"])
        now = time.perf_counter()
        late.append(now - asked - params["interval"])
        asked = now
    for thread in hogs:
        thread.join()
    return kit.lateness(late)


def blockers(params: Params) -> Values:
    kit.limit_cpus(params["procs"])
    late: list[float] = []
    started: list[threading.Thread] = []
    until = time.perf_counter() + params["seconds"]

    def blocker() -> None:
        while time.perf_counter() < until:
            time.sleep(params["block"])

    def fresh(due: float) -> None:
        late.append(time.perf_counter() - due)

    feeder = kit.feed(params, lambda due: started.append(_start(fresh, due)))
    blocking = [_start(blocker) for _ in range(params["procs"])]
    for thread in [feeder, *blocking]:
        thread.join()
    for thread in started:
        thread.join()
    return kit.lateness(late)
