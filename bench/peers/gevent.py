"""gevent: greenlets on one thread, its own sockets and queues, nothing patched."""

from __future__ import annotations

import contextlib
import socket
import time
from functools import partial
from typing import Any

import gevent
import gevent.lock
import gevent.server
from gevent.queue import Channel, Queue

from bench.peers import kit
from bench.peers.kit import Params, Values

WITHOUT: dict[str, str] = {}


def about(params: Params) -> dict[str, Any]:
    return kit.about("gevent")


def _nothing() -> None:
    pass


def spawn(params: Params) -> Values:
    seconds = []
    for _ in range(params["batches"]):
        start = time.perf_counter()
        gevent.joinall([gevent.spawn(_nothing) for _ in range(params["batch"])])
        seconds.append(time.perf_counter() - start)
    return kit.per_item(seconds, params["batch"])


def gosched(params: Params) -> Values:
    def spin(turns: int) -> None:
        sleep = gevent.sleep
        for _ in range(turns):
            sleep(0)

    seconds = []
    for _ in range(params["batches"]):
        start = time.perf_counter()
        gevent.joinall([gevent.spawn(spin, params["turns"]) for _ in range(params["ring"])])
        seconds.append(time.perf_counter() - start)
    return kit.per_item(seconds, params["turns"] * params["ring"])


def pingpong(params: Params) -> Values:
    trips: int = params["trips"]
    there, back = (Channel(), Channel()) if params["mode"] else (Queue(1), Queue(1))

    def echo() -> None:
        for _ in range(trips):
            back.put(there.get())

    def trip() -> float:
        start = time.perf_counter()
        for i in range(trips):
            there.put(i)
            back.get()
        return time.perf_counter() - start

    seconds = []
    for _ in range(params["batches"]):
        pair = [gevent.spawn(trip), gevent.spawn(echo)]
        gevent.joinall(pair)
        seconds.append(pair[0].get())
    return kit.per_item(seconds, trips)


def lock(params: Params) -> Values:
    mutex = gevent.lock.BoundedSemaphore(1)
    return kit.per_item(kit.locking(mutex, params["turns"], params["batches"]), params["turns"])


def crowd(params: Params) -> Values:
    capacity: int = params["capacity"]
    chan = Queue(capacity) if capacity else Channel()

    def produce() -> None:
        for i in range(params["each"]):
            chan.put(i)

    def consume() -> None:
        for _ in range(params["each"]):
            chan.get()

    start = time.perf_counter()
    workers = [gevent.spawn(fn) for _ in range(params["pairs"]) for fn in (produce, consume)]
    gevent.joinall(workers)
    return kit.throughput(params, time.perf_counter() - start)


def cancel(params: Params) -> Values:
    never = Queue()
    parked = [gevent.spawn(never.get) for _ in range(params["count"])]
    gevent.sleep(0)
    start = time.perf_counter()
    gevent.killall(parked)
    return {"ms": (time.perf_counter() - start) * 1e3}


def cpu(params: Params) -> Values:
    start = time.perf_counter()
    gevent.joinall(
        [gevent.spawn(kit.count_primes, params["limit"]) for _ in range(params["tasks"])]
    )
    return {"seconds": time.perf_counter() - start}


def echo(params: Params) -> Values:
    def serve(connection: socket.socket, address: Any) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        with contextlib.suppress(ConnectionError):
            recv, sendall = connection.recv, connection.sendall
            while data := recv(65536):
                sendall(data)

    server = gevent.server.StreamServer(("127.0.0.1", 0), serve, backlog=512)
    server.start()
    kit.end_with_stdin(server.server_port)
    server.serve_forever()
    return {}


def parked(params: Params) -> Values:
    count: int = params["count"]
    arrived: list[None] = []

    def sleeper() -> None:
        arrived.append(None)
        gevent.sleep(3600)

    before = kit.rss_bytes()
    start = time.perf_counter()
    sleepers = [gevent.spawn(sleeper) for _ in range(count)]
    while len(arrived) < count:
        gevent.sleep(0.001)
    kit.finish(kit.parked_values(len(sleepers), start, time.perf_counter(), before))


def million(params: Params) -> Values:
    start = time.perf_counter()
    gevent.joinall([gevent.spawn(gevent.sleep, params["seconds"]) for _ in range(params["count"])])
    kit.finish(kit.sleepers_values(time.perf_counter() - start))


def ticker(params: Params) -> Values:
    late: list[float] = []
    begin = time.perf_counter()
    until = begin + params["seconds"]

    def tick() -> None:
        asked = begin
        while asked < until:
            gevent.sleep(params["interval"])
            now = time.perf_counter()
            late.append(now - asked - params["interval"])
            asked = now

    hogs = [gevent.spawn(kit.hog, until) for _ in range(params["procs"])]
    gevent.joinall([gevent.spawn(tick), *hogs])
    return kit.lateness(late)


def blockers(params: Params) -> Values:
    late: list[float] = []
    until = time.perf_counter() + params["seconds"]

    def blocker() -> None:
        while time.perf_counter() < until:
            time.sleep(params["block"])
            gevent.sleep(params["rest"])

    def fresh(due: float) -> None:
        late.append(time.perf_counter() - due)

    loop = gevent.get_hub().loop
    feeder = kit.feed(params, partial(loop.run_callback_threadsafe, gevent.spawn, fresh))
    gevent.joinall([gevent.spawn(blocker) for _ in range(params["procs"])])
    while feeder.is_alive():
        gevent.sleep(0.01)
    gevent.sleep(0.01)
    return kit.lateness(late)
