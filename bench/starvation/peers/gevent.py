"""gevent: greenlets on one thread, nothing patched."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.lock
import gevent.server

from bench.peers import kit
from bench.starvation.peers import notes as n
from bench.starvation.peers.notes import Notes, now

Params = dict[str, Any]

WITHOUT = {"order": "has no run queues to steal from"}


class _Hub:
    """Greenlets that are counted."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.greenlets: list[Any] = []

    def run(self, fn: Callable[..., object], *args: Any) -> None:
        self.notes.started.append(None)
        self.greenlets.append(gevent.spawn(self._counted, fn, args))

    def _counted(self, fn: Callable[..., object], args: Any) -> None:
        try:
            fn(*args)
        finally:
            self.notes.ended.append(None)

    def starting(self, fn: Callable[[], object], since: int | None = None) -> None:
        self.run(self._first, fn, now() if since is None else since)

    def _first(self, fn: Callable[[], object], born: int) -> None:
        self.notes.waited("start", born)
        fn()

    def sleep(self, seconds: float, kind: str) -> None:
        due = now() + int(seconds * 1e9)
        gevent.sleep(seconds)
        self.notes.waited(kind, due)

    def all(self) -> None:
        while self.greenlets:
            self.greenlets.pop().join()

    def feeder(self, params: Params) -> Any:
        """Starts greenlets from a plain thread, at each interval."""
        submit = gevent.get_hub().loop.run_callback_threadsafe
        return kit.feed(params, lambda due: submit(self.starting, int, now()))


def _scenario(fn: Callable[[_Hub, Params], None]) -> Callable[[Params], dict[str, Any]]:
    def measure(params: Params) -> dict[str, Any]:
        hub = _Hub()
        fn(hub, params)
        hub.all()
        return hub.notes.record()

    return measure


@_scenario
def sleeper(hub: _Hub, params: Params) -> None:
    ended: list[None] = []

    def short() -> None:
        hub.sleep(params["sleep"], "wake")
        ended.append(None)

    def look() -> None:
        hub.notes.figures["left"] = params["short"] - len(ended)

    hub.run(kit.hog, time.perf_counter() + params["work"])
    n.at(params["work"] * params["look_after"], look)
    for _ in range(params["short"]):
        hub.starting(short)


@_scenario
def locks(hub: _Hub, params: Params) -> None:
    lock = gevent.lock.BoundedSemaphore(1)

    def hold() -> None:
        with lock:
            kit.hog(time.perf_counter() + params["hold"])

    begin = now()

    def short() -> None:
        n.spin(params["loops"])
        hub.notes.figures["short_done_s"] = (now() - begin) / 1e9

    for _ in range(params["holders"]):
        hub.run(hold)
    for _ in range(params["tasks"]):
        hub.starting(short)


@_scenario
def hogs(hub: _Hub, params: Params) -> None:
    until = time.perf_counter() + params["seconds"]

    def tick() -> None:
        while time.perf_counter() < until:
            hub.sleep(params["tick"], "tick")

    hub.run(kit.hog, until)
    hub.starting(tick)
    feeder = hub.feeder(params)
    hub.all()
    while feeder.is_alive():
        gevent.sleep(0.01)
    gevent.sleep(0.01)


@_scenario
def blocking(hub: _Hub, params: Params) -> None:
    going, kind = [True], ["wake"]

    def sleeps() -> None:
        while going[0]:
            hub.sleep(params["sleep"], kind[0])

    for _ in range(params["sleepers"]):
        hub.run(sleeps)
    gevent.sleep(params["rest"])
    seconds = 2 * params["turns"] * (params["block"] + params["rest"])
    feeder = hub.feeder({"seconds": seconds, "interval": params["interval"]})
    for turn in range(2 * params["turns"]):
        kind[0] = "wake" if turn < params["turns"] else "wake again"
        n.block(turn, params["block"])
        gevent.sleep(params["rest"])
    while feeder.is_alive():
        gevent.sleep(0.01)
    gevent.sleep(0.01)
    going[0] = False


@_scenario
def timers(hub: _Hub, params: Params) -> None:
    kept: list[Any] = []
    loop = gevent.get_hub().loop

    def make(count: int) -> float:
        since = now()
        for _ in range(count):
            timer = loop.timer(params["timer"])
            timer.start(int)
            kept.append(timer)
        return (now() - since) / count / 1e9

    def ticks(kind: str) -> None:
        until = now() + int(params["seconds"] * 1e9)
        while now() < until:
            hub.sleep(params["tick"], kind)

    def flood() -> None:
        until = now() + int(params["seconds"] * 1e9)
        while now() < until:
            gevent.sleep(0.001)
            make(1)

    ticks("tick before")
    hub.notes.figures["timer_made_s_first"] = make(1000)
    make(max(1, params["alive"] - 2000))
    hub.notes.figures["timer_made_s_last"] = make(1000)
    hub.run(flood)
    ticks("tick")
    hub.all()
    make(9 * params["alive"])
    ticks("tick x10")


@_scenario
def storm(hub: _Hub, params: Params) -> None:
    echoes = n.Echoes(hub.notes)

    def serve(connection: Any, address: Any) -> None:
        while message := connection.recv(16):
            echoes.came(message)
            connection.sendall(message)

    server = gevent.server.StreamServer(("127.0.0.1", 0), serve, backlog=512)
    server.start()
    client = n.start_client(params, server.server_port)
    gevent.sleep(params["seconds"])
    begin, bursts = now(), 0
    echoes.storm_begin = begin
    while now() < begin + params["seconds"] * 1e9:
        gevent.joinall([gevent.spawn(n.spin, params["loops"]) for _ in range(params["burst"])])
        bursts += 1
    echoes.storm_end = now()
    hub.notes.figures["storm_g_per_s"] = bursts * params["burst"] / ((now() - begin) / 1e9)
    pool = gevent.get_hub().threadpool
    hub.notes.figures.update(pool.apply(n.client_figures, (client,)))
    server.stop()
