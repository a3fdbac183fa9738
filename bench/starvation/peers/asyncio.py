"""asyncio: one thread, coroutines that yield only where they await."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from bench.peers import kit
from bench.starvation.peers import notes as n
from bench.starvation.peers.notes import Notes, now

Params = dict[str, Any]
Work = Coroutine[Any, Any, None]

WITHOUT = {"order": "has no run queues to steal from"}


class _Loop:
    """Tasks that are counted, on the loop that runs."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.tasks: list[asyncio.Task[None]] = []

    def run(self, work: Work) -> None:
        self.notes.started.append(None)
        self.tasks.append(asyncio.get_running_loop().create_task(self._counted(work)))

    async def _counted(self, work: Work) -> None:
        try:
            await work
        finally:
            self.notes.ended.append(None)

    def starting(self, make: Callable[[], Work], since: int | None = None) -> None:
        born = now() if since is None else since

        async def first() -> None:
            self.notes.waited("start", born)
            await make()

        self.run(first())

    async def sleep(self, seconds: float, kind: str) -> None:
        due = now() + int(seconds * 1e9)
        await asyncio.sleep(seconds)
        self.notes.waited(kind, due)

    async def all(self) -> None:
        while self.tasks:
            await self.tasks.pop()


def _scenario(fn: Callable[[_Loop, Params], Work]) -> Callable[[Params], dict[str, Any]]:
    def measure(params: Params) -> dict[str, Any]:
        async def main() -> dict[str, Any]:
            loop = _Loop()
            await fn(loop, params)
            await loop.all()
            return loop.notes.record()

        return asyncio.run(main())

    return measure


async def _nothing() -> None:
    pass


async def _hog(until: float) -> None:
    kit.hog(until)


@_scenario
async def sleeper(loop: _Loop, params: Params) -> None:
    ended: list[None] = []

    async def short() -> None:
        await loop.sleep(params["sleep"], "wake")
        ended.append(None)

    def look() -> None:
        loop.notes.figures["left"] = params["short"] - len(ended)

    loop.run(_hog(time.perf_counter() + params["work"]))
    n.at(params["work"] * params["look_after"], look)
    for _ in range(params["short"]):
        loop.starting(short)


@_scenario
async def locks(loop: _Loop, params: Params) -> None:
    lock = asyncio.Lock()

    async def hold() -> None:
        async with lock:
            kit.hog(time.perf_counter() + params["hold"])

    async def short() -> None:
        n.spin(params["loops"])
        loop.notes.figures["short_done_s"] = (now() - begin) / 1e9

    begin = now()

    for _ in range(params["holders"]):
        loop.run(hold())
    for _ in range(params["tasks"]):
        loop.starting(short)


@_scenario
async def hogs(loop: _Loop, params: Params) -> None:
    until = time.perf_counter() + params["seconds"]

    async def tick() -> None:
        while time.perf_counter() < until:
            await loop.sleep(params["tick"], "tick")

    loop.run(_hog(until))
    loop.starting(tick)
    running = asyncio.get_running_loop()
    feeder = kit.feed(
        params, lambda due: running.call_soon_threadsafe(loop.starting, _nothing, now())
    )
    await loop.all()
    await asyncio.to_thread(feeder.join)
    await asyncio.sleep(0.01)


@_scenario
async def blocking(loop: _Loop, params: Params) -> None:
    going, kind = [True], ["wake"]

    async def sleeps() -> None:
        while going[0]:
            await loop.sleep(params["sleep"], kind[0])

    for _ in range(params["sleepers"]):
        loop.run(sleeps())
    await asyncio.sleep(params["rest"])
    running = asyncio.get_running_loop()
    seconds = 2 * params["turns"] * (params["block"] + params["rest"])
    feeder = kit.feed(
        {"seconds": seconds, "interval": params["interval"]},
        lambda due: running.call_soon_threadsafe(loop.starting, _nothing, now()),
    )
    for turn in range(2 * params["turns"]):
        kind[0] = "wake" if turn < params["turns"] else "wake again"
        n.block(turn, params["block"])
        await asyncio.sleep(params["rest"])
    await asyncio.to_thread(feeder.join)
    await asyncio.sleep(0.01)
    going[0] = False


@_scenario
async def timers(loop: _Loop, params: Params) -> None:
    running = asyncio.get_running_loop()

    def make(count: int) -> float:
        since = now()
        for _ in range(count):
            running.call_later(params["timer"], int)
        return (now() - since) / count / 1e9

    async def ticks(kind: str) -> None:
        until = now() + int(params["seconds"] * 1e9)
        while now() < until:
            await loop.sleep(params["tick"], kind)

    async def flood() -> None:
        until = now() + int(params["seconds"] * 1e9)
        while now() < until:
            await asyncio.sleep(0.001)
            make(1)

    await ticks("tick before")
    loop.notes.figures["timer_made_s_first"] = make(1000)
    make(max(1, params["alive"] - 2000))
    loop.notes.figures["timer_made_s_last"] = make(1000)
    await asyncio.gather(ticks("tick"), flood())
    make(9 * params["alive"])
    await ticks("tick x10")


@_scenario
async def storm(loop: _Loop, params: Params) -> None:
    echoes = n.Echoes(loop.notes)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                message = await reader.readexactly(16)
                echoes.came(message)
                writer.write(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def short() -> None:
        n.spin(params["loops"])

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = n.start_client(params, server.sockets[0].getsockname()[1])
    await asyncio.sleep(params["seconds"])
    begin, bursts = now(), 0
    echoes.storm_begin = begin
    while now() < begin + params["seconds"] * 1e9:
        await asyncio.gather(*(short() for _ in range(params["burst"])))
        bursts += 1
    echoes.storm_end = now()
    loop.notes.figures["storm_g_per_s"] = bursts * params["burst"] / ((now() - begin) / 1e9)
    loop.notes.figures.update(await asyncio.to_thread(n.client_figures, client))
    server.close()
