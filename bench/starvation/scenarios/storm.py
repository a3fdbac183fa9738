"""(f) A network service on busy P's while others steal as fast as they can."""

from __future__ import annotations

import json
import socket as plain_socket
import subprocess
import time

import gmpy_rt
from bench.peers import kit
from bench.starvation.lab import Lab, now
from bench.starvation.model import Figures, Params, seconds
from gmpy_rt import socket

TITLE = "a TCP echo service with a stealing storm beside it"
PROGRAM = ""
ABOUT = (
    "A client in another process sends a message with its time every `interval` seconds, over "
    "`connections` loopback connections; a G for each answers. The wait is from sending to the "
    "G's next instruction. Half of the time nothing else runs (`echo quiet`), then one G starts "
    "64 short G's at a time, which the other P's have to steal (`echo storm`)."
)
HEADLINE = ("echo storm",)
PROCS = None

NEVER = 1 << 62
Prepared = tuple[plain_socket.socket, subprocess.Popen[bytes]]


def also(figures: Figures) -> str:
    rate, trip = figures["storm_g_per_s"], figures["trip_p99"]
    return f"{rate:,.0f} short G's a second; round trip p99 {seconds(trip)}"


def params(scale: float) -> Params:
    return {
        "seconds": max(0.4, 2 * scale),
        "interval": 0.001,
        "connections": 16,
        "burst": 64,
        "loops": 1000,
    }


def start_client(port: int, params: Params) -> subprocess.Popen[bytes]:
    """It sends until its standard input is closed."""
    words = [*params["client"], str(port), str(params["connections"])]
    words += [str(params["interval"])]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def prepare(lab: Lab, params: Params) -> Prepared:
    listener = kit.listener()
    return listener, start_client(listener.getsockname()[1], params)


def run(lab: Lab, params: Params, prepared: Prepared) -> None:
    listener, client = prepared
    # By when a message was sent, so that one the storm held up counts as such.
    storm_begin, storm_end = [NEVER], [NEVER]
    server = socket.socket(fileno=listener.detach())

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(16):
                # Both clocks are the machine's: the client is on it.
                waited = time.time_ns() - int.from_bytes(data[:8], "little")
                until = now()
                sent = until - waited
                quiet, over = sent < storm_begin[0], sent >= storm_end[0]
                kind = "echo quiet" if quiet else "echo after" if over else "echo storm"
                lab.waited(kind, sent, until)
                connection.sendall(data)

    def short() -> None:
        x = 0
        for _ in range(params["loops"]):
            x = (x * 5 + 1) & 0xFFFF

    def storm(until: int) -> None:
        bursts = 0
        since = now()
        while now() < until:
            for g in [gmpy_rt.go(short) for _ in range(params["burst"])]:
                g.join()
            bursts += 1
        lab.span(since, "storm")
        lab.figures["storm_g_per_s"] = bursts * params["burst"] / ((now() - since) / 1e9)

    serving = [lab.go(serve, server.accept()[0]) for _ in range(params["connections"])]
    lab.timeline.at(now() + int(params["seconds"] / 2 * 1e9), lab.count_states)
    gmpy_rt.sleep(params["seconds"])
    before = gmpy_rt.stats()
    storm_begin[0] = now()
    lab.go(storm, now() + int(params["seconds"] * 1e9)).join()
    storm_end[0] = now()
    after = gmpy_rt.stats()
    lab.figures["storm_s"] = params["seconds"]
    for name in ("steals", "stolen", "schedtick", "created"):
        lab.figures[f"storm_{name}"] = after.total(name) - before.total(name)
    gmpy_rt.blocking(note_client, lab.figures, client)
    for g in serving:
        g.join()
    server.close()


def note_client(figures: dict[str, float], client: subprocess.Popen[bytes]) -> None:
    """Ends the client; what it saw: round trips, in seconds."""
    output, _ = client.communicate(timeout=30)
    figures.update(json.loads(output))
