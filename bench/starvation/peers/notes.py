"""What the Python peers write their observations to."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

now = time.monotonic_ns


class Notes:
    """Waits by kind in nanoseconds, figures, and the CPU time from here on."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}
        self.started: list[None] = []
        self.ended: list[None] = []
        self._waits: dict[str, list[int]] = {}
        self._begin, self._cpu = now(), time.process_time()

    def waited(self, kind: str, since: int) -> None:
        self._waits.setdefault(kind, []).append(now() - since)

    def record(self) -> dict[str, Any]:
        return {
            "waits": {kind: list(waits) for kind, waits in self._waits.items()},
            "figures": self.figures,
            "started": len(self.started),
            "ended": len(self.ended),
            "seconds": (now() - self._begin) / 1e9,
            "cpu_seconds": time.process_time() - self._cpu,
            "threads": len(os.listdir("/proc/self/task")),
            "scheduler": None,
        }


def spin(loops: float) -> None:
    x = 0
    for _ in range(int(loops)):
        x = (x * 5 + 1) & 0xFFFF


def read_slow_pipe(seconds: float) -> None:
    """A raw read of one byte that comes after so many seconds."""
    reader, writer = os.pipe()
    timer = threading.Timer(seconds, os.write, (writer, b"x"))
    timer.start()
    try:
        os.read(reader, 1)
    finally:
        timer.join()
        os.close(reader)
        os.close(writer)


def hash_for(seconds: float) -> None:
    """hashlib at work for about so long, in one call."""
    import hashlib

    sample = 20_000
    since = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"gmpy_rt", b"salt", sample)
    took = time.perf_counter() - since
    hashlib.pbkdf2_hmac("sha256", b"gmpy_rt", b"salt", max(1, int(sample * (seconds / took - 1))))


def block(turn: int, seconds: float) -> None:
    (hash_for if turn % 2 else read_slow_pipe)(seconds)


def start_client(params: dict[str, Any], port: int) -> subprocess.Popen[bytes]:
    words = [*params["client"], str(port), str(params["connections"])]
    words += [str(params["interval"])]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def client_figures(client: subprocess.Popen[bytes]) -> dict[str, float]:
    """Ends the client, and blocks until it has ended."""
    output, _ = client.communicate(timeout=30)
    figures: dict[str, float] = json.loads(output)
    return figures


class Echoes:
    """Notes how long messages waited, by when they were sent: one that the storm held up
    counts as such."""

    NEVER = 1 << 62

    def __init__(self, notes: Notes) -> None:
        self.storm_begin = self.storm_end = self.NEVER
        self._notes = notes

    def came(self, message: bytes) -> None:
        sent = now() - (time.time_ns() - int.from_bytes(message[:8], "little"))
        quiet, over = sent < self.storm_begin, sent >= self.storm_end
        kind = "echo quiet" if quiet else "echo after" if over else "echo storm"
        self._notes.waited(kind, sent)


def at(seconds: float, fn: Callable[[], None]) -> None:
    """fn() after so long, on a plain thread."""
    timer = threading.Timer(seconds, fn)
    timer.daemon = True
    timer.start()
