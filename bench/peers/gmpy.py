"""gmpy_rt, through its public names only. GMPY_MAXPROCS sets the P's."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import gmpy_rt
from bench.peers import kit
from bench.peers.kit import Params, Values
from gmpy_rt import Chan, go, sleep
from gmpy_rt import gosched as yield_

T = TypeVar("T")

WITHOUT: dict[str, str] = {}


def about(params: Params) -> dict[str, Any]:
    return kit.about("gmpy-rt")


def _run(main: Callable[[], Values]) -> Values:
    values: Values = gmpy_rt.run(main)
    return values


def _nothing() -> None:
    pass


def spawn(params: Params) -> Values:
    def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            for g in [go(_nothing) for _ in range(params["batch"])]:
                g.join()
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["batch"])

    return _run(main)


def gosched(params: Params) -> Values:
    def spin(turns: int) -> None:
        turn = yield_
        for _ in range(turns):
            turn()

    def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            for g in [go(spin, params["turns"]) for _ in range(params["ring"])]:
                g.join()
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["turns"] * params["ring"])

    return _run(main)


def _echo(there: Chan[int], back: Chan[int], trips: int) -> None:
    recv, send = there.recv, back.send
    for _ in range(trips):
        send(recv())


def _trips(there: Chan[int], back: Chan[int], trips: int) -> float:
    send, recv = there.send, back.recv
    start = time.perf_counter()
    for i in range(trips):
        send(i)
        recv()
    return time.perf_counter() - start


def pingpong(params: Params) -> Values:
    def main() -> Values:
        threads = 0
        seconds = []
        for _ in range(params["batches"]):
            if params["mode"] == "forced":
                took, threads = _pair_apart(params["trips"])
            else:
                took, threads = _pair(params["trips"], 0 if params["mode"] == "unbuffered" else 1)
            seconds.append(took)
        return {**kit.per_item(seconds, params["trips"]), "threads": threads}

    return _run(main)


def _pair(trips: int, capacity: int) -> tuple[float, int]:
    """A pair as anybody makes it: two G's, started one after the other."""
    there: Chan[int] = Chan(capacity)
    back: Chan[int] = Chan(capacity)
    threads: set[int] = set()

    def echo() -> None:
        threads.add(threading.get_ident())
        _echo(there, back, trips)

    def trip() -> float:
        threads.add(threading.get_ident())
        return _trips(there, back, trips)

    other = go(echo)
    took: float = go(trip).result()
    other.join()
    return took, len(threads)


def _apart(one: Callable[[], T], other: Callable[[], object]) -> T:
    """one() in this G and other() in one on another M; returns what one() does.

    This G hogs its P until the other has started elsewhere. A started G never changes its
    M, so they stay apart.
    """
    here = threading.get_ident()
    elsewhere: list[int] = []

    def begin() -> None:
        elsewhere.append(threading.get_ident())
        if elsewhere[-1] != here:
            other()

    for _ in range(100):
        before = len(elsewhere)  # first: a thief may run it before go() returns
        g = go(begin)
        while len(elsewhere) == before:
            # Preempted or not: an idle P steals it, or it runs here, and we try again.
            pass
        if elsewhere[-1] != here:
            result = one()
            g.join()
            return result
        g.join()
    raise kit.Skipped("100 G's in a row were not stolen by an idle P")


def _pair_apart(trips: int) -> tuple[float, int]:
    there: Chan[int] = Chan(1)
    back: Chan[int] = Chan(1)
    took = _apart(lambda: _trips(there, back, trips), lambda: _echo(there, back, trips))
    return took, 2


def select(params: Params) -> Values:
    kind, _, plain = params["mode"].partition(" ")
    side = _select_ready if kind == "ready" else _select_parked

    def main() -> Values:
        seconds = [side(params["turns"], bool(plain)) for _ in range(params["batches"])]
        return kit.per_item(seconds, params["turns"])

    return _run(main)


def _select_ready(turns: int, plain: bool) -> float:
    a: Chan[int] = Chan(turns)
    b: Chan[int] = Chan(turns)
    for i in range(turns):
        a.send(i)
        b.send(i)
    recv, choose = a.recv, gmpy_rt.select
    start = time.perf_counter()
    if plain:
        for _ in range(turns):
            recv()
    else:
        for _ in range(turns):
            choose(a, b)
    return time.perf_counter() - start


def _select_parked(turns: int, plain: bool) -> float:
    a: Chan[int] = Chan(1)
    b: Chan[int] = Chan(1)
    back: Chan[int] = Chan(1)

    def receiver() -> None:
        send, recv, choose = back.send, a.recv, gmpy_rt.select
        if plain:
            for _ in range(turns):
                send(recv())
        else:
            for _ in range(turns):
                send(choose(a, b)[1])

    def sender() -> float:
        to_a, recv = a.send, back.recv
        to_b = to_a if plain else b.send
        start = time.perf_counter()
        for i in range(turns // 2):
            to_a(i)
            recv()
            to_b(i)
            recv()
        return time.perf_counter() - start

    g = go(receiver)
    took = go(sender).result()
    g.join()
    return took


def lock(params: Params) -> Values:
    turns: int = params["turns"]
    mutex = gmpy_rt.Lock()

    def fight() -> float:
        two = kit.Fight(mutex, turns)
        _apart(two.side, two.side)
        return two.seconds()

    def main() -> Values:
        if params["mode"] != "contended":
            return kit.per_item(kit.locking(mutex, turns, params["batches"]), turns)
        return kit.per_item([fight() for _ in range(params["batches"])], 2 * turns)

    return _run(main)


def crowd(params: Params) -> Values:
    chan: Chan[int] = Chan(params["capacity"])

    def produce() -> None:
        send = chan.send
        for i in range(params["each"]):
            send(i)

    def consume() -> None:
        recv = chan.recv
        for _ in range(params["each"]):
            recv()

    def main() -> Values:
        start = time.perf_counter()
        for g in [go(fn) for _ in range(params["pairs"]) for fn in (produce, consume)]:
            g.join()
        return kit.throughput(params, time.perf_counter() - start)

    return _run(main)


def group(params: Params) -> Values:
    def main() -> Values:
        seconds = []
        for _ in range(params["batches"]):
            start = time.perf_counter()
            with gmpy_rt.TaskGroup() as tg:
                start_child = tg.go
                for _ in range(params["batch"]):
                    start_child(_nothing)
            seconds.append(time.perf_counter() - start)
        return kit.per_item(seconds, params["batch"])

    return _run(main)


def cancel(params: Params) -> Values:
    never: Chan[int] = Chan()

    def main() -> Values:
        parked = [go(never.recv) for _ in range(params["count"])]
        while not all(g.waiting for g in parked):
            sleep(0.001)
        start = time.perf_counter()
        for g in parked:
            g.cancel()
        for g in parked:
            g.join()
        return {"ms": (time.perf_counter() - start) * 1e3}

    return _run(main)


def cpu(params: Params) -> Values:
    def main() -> Values:
        start = time.perf_counter()
        for g in [go(kit.count_primes, params["limit"]) for _ in range(params["tasks"])]:
            g.join()
        return {"seconds": time.perf_counter() - start}

    return _run(main)


def echo(params: Params) -> Values:
    from gmpy_rt import socket as g_socket

    def serve(connection: Any) -> None:
        connection.setsockopt(g_socket.IPPROTO_TCP, g_socket.TCP_NODELAY, True)
        with connection, contextlib.suppress(ConnectionError):
            recv, sendall = connection.recv, connection.sendall
            while data := recv(65536):
                sendall(data)

    def main() -> Values:
        listener = g_socket.create_server(("127.0.0.1", 0), backlog=512)
        kit.end_with_stdin(listener.getsockname()[1])
        while True:
            connection, _ = listener.accept()
            go(serve, connection)

    return _run(main)


def parked(params: Params) -> Values:
    count: int = params["count"]
    arrived: list[None] = []

    def sleeper() -> None:
        arrived.append(None)
        sleep(3600)

    def main() -> Values:
        before = kit.rss_bytes()
        start = time.perf_counter()
        sleepers = [go(sleeper) for _ in range(count)]
        while len(arrived) < count:
            sleep(0.001)
        kit.finish(kit.parked_values(len(sleepers), start, time.perf_counter(), before))

    return _run(main)


def million(params: Params) -> Values:
    def main() -> Values:
        start = time.perf_counter()
        for g in [go(sleep, params["seconds"]) for _ in range(params["count"])]:
            g.join()
        return kit.sleepers_values(time.perf_counter() - start)

    return _run(main)


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

        for g in [go(tick), *(go(kit.hog, until) for _ in range(params["procs"]))]:
            g.join()
        return kit.lateness(late)

    return _run(main)


def blockers(params: Params) -> Values:
    late: list[float] = []

    def fresh(due: float) -> None:
        late.append(time.perf_counter() - due)

    def main() -> Values:
        # What a G that starts others does where code may block undeclared: an M
        # of its own, so that no blocker can strand it.
        gmpy_rt.lock_os_thread()
        arrivals: Chan[float] = Chan(100_000)
        until = time.perf_counter() + params["seconds"]

        def blocker() -> None:
            while time.perf_counter() < until:
                time.sleep(params["block"])
                sleep(params["rest"])

        blocking = [go(blocker) for _ in range(params["procs"])]

        def submit(due: float) -> None:
            arrivals.send(due)

        feeder = kit.feed(params, submit)

        def close() -> None:
            feeder.join()
            arrivals.close()

        threading.Thread(target=close, daemon=True).start()
        fresh_ones = [go(fresh, due) for due in arrivals]
        for g in [*blocking, *fresh_ones]:
            g.join()
        return kit.lateness(late)

    return _run(main)
