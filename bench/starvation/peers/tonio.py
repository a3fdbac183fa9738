"""tonio: coroutines on several threads, in its async/await notation."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import tonio.colored as tonio
import tonio.colored.net.socket as tonio_socket
import tonio.colored.sync as tonio_sync

from bench.peers import kit
from bench.starvation.peers import notes as n
from bench.starvation.peers.notes import Notes, now

Params = dict[str, Any]
Work = Coroutine[Any, Any, None]

WITHOUT = {
    "order": "doesn't document its run queues",
    "timers": "has no timer that can be left alone: only sleeping coroutines",
}


class _Runtime:
    """Coroutines that are counted."""

    def __init__(self) -> None:
        self.notes = Notes()

    async def counted(self, work: Work) -> None:
        try:
            await work
        finally:
            self.notes.ended.append(None)

    def run(self, work: Work) -> Work:
        """To be awaited with others by spawn.without_results."""
        self.notes.started.append(None)
        return self.counted(work)

    def starting(self, make: Callable[[], Work], since: int | None = None) -> Work:
        born = now() if since is None else since

        async def first() -> None:
            self.notes.waited("start", born)
            await make()

        return self.run(first())

    async def sleep(self, seconds: float, kind: str) -> None:
        due = now() + int(seconds * 1e9)
        await tonio.sleep(seconds)
        self.notes.waited(kind, due)

    def feeder(self, params: Params) -> Any:
        return kit.feed(
            params,
            lambda due: tonio.spawn.without_tracking(self.starting(_nothing, now())),
        )

    async def settled(self) -> None:
        while len(self.notes.ended) < len(self.notes.started):
            await tonio.sleep(0.005)


def _scenario(fn: Callable[[_Runtime, Params], Work]) -> Callable[[Params], dict[str, Any]]:
    def measure(params: Params) -> dict[str, Any]:
        async def main() -> dict[str, Any]:
            runtime = _Runtime()
            await fn(runtime, params)
            return runtime.notes.record()

        record: dict[str, Any] = tonio.run(main(), threads=params["procs"])
        return record

    return measure


async def _nothing() -> None:
    pass


async def _hog(until: float) -> None:
    kit.hog(until)


@_scenario
async def sleeper(runtime: _Runtime, params: Params) -> None:
    ended: list[None] = []

    async def short() -> None:
        await runtime.sleep(params["sleep"], "wake")
        ended.append(None)

    def look() -> None:
        runtime.notes.figures["left"] = params["short"] - len(ended)

    n.at(params["work"] * params["look_after"], look)
    long = runtime.run(_hog(time.perf_counter() + params["work"]))
    shorts = [runtime.starting(short) for _ in range(params["short"])]
    await tonio.spawn.without_results(long, *shorts)


@_scenario
async def locks(runtime: _Runtime, params: Params) -> None:
    lock = tonio_sync.Lock()

    async def hold() -> None:
        async with lock:
            kit.hog(time.perf_counter() + params["hold"])

    async def short() -> None:
        n.spin(params["loops"])
        runtime.notes.figures["short_done_s"] = (now() - begin) / 1e9

    begin = now()

    holders = [runtime.run(hold()) for _ in range(params["holders"])]
    shorts = [runtime.starting(short) for _ in range(params["tasks"])]
    await tonio.spawn.without_results(*holders, *shorts)


@_scenario
async def hogs(runtime: _Runtime, params: Params) -> None:
    until = time.perf_counter() + params["seconds"]

    async def tick() -> None:
        while time.perf_counter() < until:
            await runtime.sleep(params["tick"], "tick")

    feeder = runtime.feeder(params)
    gs = [runtime.run(_hog(until)) for _ in range(params["procs"])]
    await tonio.spawn.without_results(*gs, runtime.starting(tick))
    while feeder.is_alive():
        await tonio.sleep(0.01)
    await runtime.settled()


@_scenario
async def blocking(runtime: _Runtime, params: Params) -> None:
    going, kind = [True], ["wake"]

    async def sleeps() -> None:
        while going[0]:
            await runtime.sleep(params["sleep"], kind[0])

    async def block(turn: int) -> None:
        n.block(turn, params["block"])

    count = params["sleepers"] * params["procs"]
    tonio.spawn.without_tracking(*[runtime.run(sleeps()) for _ in range(count)])
    await tonio.sleep(params["rest"])
    seconds = 2 * params["turns"] * (params["block"] + params["rest"])
    feeder = runtime.feeder({"seconds": seconds, "interval": params["interval"]})
    for turn in range(2 * params["turns"]):
        kind[0] = "wake" if turn < params["turns"] else "wake again"
        blockers = [runtime.run(block(turn)) for _ in range(params["procs"])]
        await tonio.spawn.without_results(*blockers)
        await tonio.sleep(params["rest"])
    while feeder.is_alive():
        await tonio.sleep(0.01)
    going[0] = False
    await runtime.settled()


@_scenario
async def storm(runtime: _Runtime, params: Params) -> None:
    echoes = n.Echoes(runtime.notes)

    async def serve(connection: Any) -> None:
        with connection, contextlib.suppress(ConnectionError):
            while message := await connection.recv(16):
                echoes.came(message)
                await connection.send(message)

    async def short() -> None:
        n.spin(params["loops"])

    listener = tonio_socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    with contextlib.closing(listener):
        client = n.start_client(params, listener.getsockname()[1])
        for _ in range(params["connections"]):
            connection, _ = await listener.accept()
            tonio.spawn.without_tracking(runtime.run(serve(connection)))
        await tonio.sleep(params["seconds"])
        begin, bursts = now(), 0
        echoes.storm_begin = begin
        while now() < begin + params["seconds"] * 1e9:
            await tonio.spawn.without_results(*[short() for _ in range(params["burst"])])
            bursts += 1
        echoes.storm_end = now()
        rate = bursts * params["burst"] / ((now() - begin) / 1e9)
        runtime.notes.figures["storm_g_per_s"] = rate
        assert client.stdin is not None
        client.stdin.close()
        while client.poll() is None:
            await tonio.sleep(0.01)
        client.stdin = None
        runtime.notes.figures.update(n.client_figures(client))
        await runtime.settled()
