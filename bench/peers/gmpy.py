"""gmpy_rt, through its public names only. GMPY_MAXPROCS sets the P's."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import gmpy_rt
from bench.peers import kit
from bench.peers.kit import Params, Values
from gmpy_rt import Chan, go, sleep
from gmpy_rt import gosched as yield_

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
    make_pair = _pair_apart if params["mode"] == "forced" else _pair

    def main() -> Values:
        threads = 0
        seconds = []
        for _ in range(params["batches"]):
            took, threads = make_pair(params["trips"])
            seconds.append(took)
        return {**kit.per_item(seconds, params["trips"]), "threads": threads}

    return _run(main)


def _pair(trips: int) -> tuple[float, int]:
    """A pair as anybody makes it: two G's, started one after the other."""
    there: Chan[int] = Chan(1)
    back: Chan[int] = Chan(1)
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


def _pair_apart(trips: int) -> tuple[float, int]:
    """A pair on two M's: one hogs its P until the other has started elsewhere.

    A started G never changes its M, so they stay apart.
    """
    there: Chan[int] = Chan(1)
    back: Chan[int] = Chan(1)
    here = threading.get_ident()
    elsewhere: list[int] = []

    def echo() -> None:
        elsewhere.append(threading.get_ident())
        if elsewhere[-1] != here:
            _echo(there, back, trips)

    for _ in range(100):
        before = len(elsewhere)  # first: a thief may run it before go() returns
        other = go(echo)
        while len(elsewhere) == before:
            # Preempted or not: an idle P steals it, or it runs here, and we try again.
            pass
        if elsewhere[-1] != here:
            took = _trips(there, back, trips)
            other.join()
            return took, 2
        other.join()
    raise kit.Skipped("100 G's in a row were not stolen by an idle P")


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
