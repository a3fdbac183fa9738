"""asyncio: tasks, queues and protocols on one thread.

Tasks are started the ordinary way, not by the eager task factory: that runs
an empty coroutine as a plain call and would measure no scheduler at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

from bench.peers import kit
from bench.peers.kit import Params, Values

Main = Coroutine[Any, Any, Values]

_run: Callable[[Main], Values] = asyncio.run

WITHOUT: dict[str, str] = {}


def use(run: Callable[[Main], Values]) -> None:
    """Run the cases with another event loop's `run`."""
    global _run
    _run = run


def about(params: Params) -> dict[str, Any]:
    return kit.about(None)


async def _nothing() -> None:
    pass


def spawn(params: Params) -> Values:
    async def main() -> Values:
        create_task = asyncio.get_running_loop().create_task
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            tasks = [create_task(_nothing()) for _ in range(params["batch"])]
            for task in tasks:
                await task
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["batch"])

    return _run(main())


def gosched(params: Params) -> Values:
    async def spin(turns: int) -> None:
        sleep = asyncio.sleep
        for _ in range(turns):
            await sleep(0)

    async def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            await asyncio.gather(*(spin(params["turns"]) for _ in range(params["ring"])))
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["turns"] * params["ring"])

    return _run(main())


def pingpong(params: Params) -> Values:
    trips: int = params["trips"]

    async def echo(there: asyncio.Queue[int], back: asyncio.Queue[int]) -> None:
        for _ in range(trips):
            await back.put(await there.get())

    async def main() -> Values:
        there: asyncio.Queue[int] = asyncio.Queue(1)
        back: asyncio.Queue[int] = asyncio.Queue(1)
        seconds = []
        for _ in range(params["batches"]):
            other = asyncio.create_task(echo(there, back))
            start = time.perf_counter()
            for i in range(trips):
                await there.put(i)
                await back.get()
            seconds.append(time.perf_counter() - start)
            await other
        return kit.per_item(seconds, trips)

    return _run(main())


def lock(params: Params) -> Values:
    async def main() -> Values:
        mutex = asyncio.Lock()
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            for _ in range(params["turns"]):
                await mutex.acquire()
                mutex.release()
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["turns"])

    return _run(main())


def crowd(params: Params) -> Values:
    async def main() -> Values:
        chan: asyncio.Queue[int] = asyncio.Queue(params["capacity"] or 1)

        async def produce() -> None:
            for i in range(params["each"]):
                await chan.put(i)

        async def consume() -> None:
            for _ in range(params["each"]):
                await chan.get()

        start = time.perf_counter()
        await asyncio.gather(*(fn() for _ in range(params["pairs"]) for fn in (produce, consume)))
        return kit.throughput(params, time.perf_counter() - start)

    return _run(main())


def group(params: Params) -> Values:
    async def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            async with asyncio.TaskGroup() as tg:
                for _ in range(params["batch"]):
                    tg.create_task(_nothing())
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["batch"])

    return _run(main())


def cancel(params: Params) -> Values:
    async def main() -> Values:
        never: asyncio.Queue[int] = asyncio.Queue()
        parked = [asyncio.create_task(never.get()) for _ in range(params["count"])]
        await asyncio.sleep(0)
        start = time.perf_counter()
        for task in parked:
            task.cancel()
        await asyncio.wait(parked)
        return {"ms": (time.perf_counter() - start) * 1e3}

    return _run(main())


def cpu(params: Params) -> Values:
    async def work(limit: int) -> int:
        return kit.count_primes(limit)

    async def main() -> Values:
        start = time.perf_counter()
        await asyncio.gather(*(work(params["limit"]) for _ in range(params["tasks"])))
        return {"seconds": time.perf_counter() - start}

    return _run(main())


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self.write = cast(asyncio.Transport, transport).write

    def data_received(self, data: bytes) -> None:
        self.write(data)


def echo(params: Params) -> Values:
    async def main() -> Values:
        listener = kit.listener()
        server = await asyncio.get_running_loop().create_server(_Echo, sock=listener)
        kit.end_with_stdin(listener.getsockname()[1])
        await server.serve_forever()
        return {}

    return _run(main())


def parked(params: Params) -> Values:
    count: int = params["count"]
    arrived: list[None] = []

    async def sleeper() -> None:
        arrived.append(None)
        await asyncio.sleep(3600)

    async def main() -> Values:
        before = kit.rss_bytes()
        start = time.perf_counter()
        # The loop keeps only weak references to tasks.
        tasks = [asyncio.create_task(sleeper()) for _ in range(count)]
        while len(arrived) < count:
            await asyncio.sleep(0.001)
        end = time.perf_counter()
        kit.finish(kit.parked_values(len(tasks), start, end, before))

    return _run(main())


def million(params: Params) -> Values:
    async def main() -> Values:
        start = time.perf_counter()
        tasks = [
            asyncio.create_task(asyncio.sleep(params["seconds"])) for _ in range(params["count"])
        ]
        for task in tasks:
            await task
        kit.finish(kit.sleepers_values(time.perf_counter() - start))

    return _run(main())


def ticker(params: Params) -> Values:
    late: list[float] = []
    begin = time.perf_counter()
    until = begin + params["seconds"]

    async def tick() -> None:
        asked = begin
        while asked < until:
            await asyncio.sleep(params["interval"])
            now = time.perf_counter()
            late.append(now - asked - params["interval"])
            asked = now

    async def hog() -> None:
        kit.hog(until)

    async def main() -> Values:
        await asyncio.gather(tick(), *(hog() for _ in range(params["procs"])))
        return kit.lateness(late)

    return _run(main())


def blockers(params: Params) -> Values:
    late: list[float] = []
    until = time.perf_counter() + params["seconds"]

    async def blocker() -> None:
        while time.perf_counter() < until:
            time.sleep(params["block"])
            await asyncio.sleep(params["rest"])

    async def fresh(due: float) -> None:
        late.append(time.perf_counter() - due)

    async def main() -> Values:
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []

        def arrive(due: float) -> None:
            tasks.append(loop.create_task(fresh(due)))

        feeder = kit.feed(params, lambda due: loop.call_soon_threadsafe(arrive, due))
        await asyncio.gather(*(blocker() for _ in range(params["procs"])))
        await asyncio.to_thread(feeder.join)
        await asyncio.gather(*tasks)
        return kit.lateness(late)

    return _run(main())
