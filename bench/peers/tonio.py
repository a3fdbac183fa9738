"""tonio: coroutines on several threads, in its async/await notation."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Coroutine
from typing import Any

import tonio.colored as tonio
import tonio.colored.net.socket as tonio_socket
from tonio.colored.sync import channel

from bench.peers import kit
from bench.peers.kit import Params, Values

Main = Coroutine[Any, Any, Values]

WITHOUT: dict[str, str] = {}


def about(params: Params) -> dict[str, Any]:
    return kit.about("tonio")


def _run(params: Params, main: Main) -> Values:
    values: Values = tonio.run(main, threads=params["procs"])
    return values


async def _nothing() -> None:
    pass


def spawn(params: Params) -> Values:
    async def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            await tonio.spawn.without_results(*[_nothing() for _ in range(params["batch"])])
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["batch"])

    return _run(params, main())


def gosched(params: Params) -> Values:
    async def spin(turns: int) -> None:
        for _ in range(turns):
            await tonio.yield_now()

    async def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            ring = [spin(params["turns"]) for _ in range(params["ring"])]
            await tonio.spawn.without_results(*ring)
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["turns"] * params["ring"])

    return _run(params, main())


def pingpong(params: Params) -> Values:
    trips: int = params["trips"]
    threads: set[int] = set()

    async def main() -> Values:
        put_there, get_there = channel.channel(1)
        put_back, get_back = channel.channel(1)

        async def echo() -> None:
            for i in range(trips):
                message = await get_there.receive()
                await put_back.send(message)
                if i % 100 == 0:
                    threads.add(threading.get_ident())

        seconds = []
        for _ in range(params["batches"]):
            other = tonio.spawn.without_results(echo())
            start = time.perf_counter()
            for i in range(trips):
                await put_there.send(i)
                await get_back.receive()
            seconds.append(time.perf_counter() - start)
            await other
        threads.add(threading.get_ident())
        return {**kit.per_item(seconds, trips), "threads": len(threads)}

    return _run(params, main())


def cpu(params: Params) -> Values:
    async def work() -> None:
        kit.count_primes(params["limit"])

    async def main() -> Values:
        start = time.perf_counter()
        await tonio.spawn.without_results(*[work() for _ in range(params["tasks"])])
        return {"seconds": time.perf_counter() - start}

    return _run(params, main())


def echo(params: Params) -> Values:
    async def serve(connection: Any) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        with connection, contextlib.suppress(ConnectionError):
            while data := await connection.recv(65536):
                sent = 0
                while sent < len(data):
                    sent += await connection.send(data[sent:] if sent else data)

    async def main() -> Values:
        listener = tonio_socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        await listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        kit.end_with_stdin(listener.getsockname()[1])
        while True:
            connection, _ = await listener.accept()
            tonio.spawn.without_tracking(serve(connection))

    return _run(params, main())


def parked(params: Params) -> Values:
    count: int = params["count"]
    arrived: list[None] = []

    async def sleeper() -> None:
        arrived.append(None)
        await tonio.sleep(3600)

    async def main() -> Values:
        before = kit.rss_bytes()
        start = time.perf_counter()
        tonio.spawn.without_tracking(*[sleeper() for _ in range(count)])
        while len(arrived) < count:
            await tonio.sleep(0.001)
        kit.finish(kit.parked_values(count, start, time.perf_counter(), before))

    return _run(params, main())


def million(params: Params) -> Values:
    async def main() -> Values:
        start = time.perf_counter()
        seconds = params["seconds"]
        sleepers = [tonio.sleep(seconds) for _ in range(params["count"])]
        await tonio.spawn.without_results(*sleepers)
        kit.finish(kit.sleepers_values(time.perf_counter() - start))

    return _run(params, main())


def ticker(params: Params) -> Values:
    late: list[float] = []
    begin = time.perf_counter()
    until = begin + params["seconds"]

    async def tick() -> None:
        asked = begin
        while asked < until:
            await tonio.sleep(params["interval"])
            now = time.perf_counter()
            late.append(now - asked - params["interval"])
            asked = now

    async def hog() -> None:
        kit.hog(until)

    async def main() -> Values:
        await tonio.spawn.without_results(tick(), *[hog() for _ in range(params["procs"])])
        return kit.lateness(late)

    return _run(params, main())


def blockers(params: Params) -> Values:
    late: list[float] = []
    until = time.perf_counter() + params["seconds"]

    async def blocker() -> None:
        while time.perf_counter() < until:
            time.sleep(params["block"])
            await tonio.sleep(params["rest"])

    async def fresh(due: float) -> None:
        late.append(time.perf_counter() - due)

    async def main() -> Values:
        feeder = kit.feed(params, lambda due: tonio.spawn.without_tracking(fresh(due)))
        await tonio.spawn.without_results(*[blocker() for _ in range(params["procs"])])
        while feeder.is_alive():
            await tonio.sleep(0.01)
        await tonio.sleep(0.01)
        return kit.lateness(late)

    return _run(params, main())
