"""What the peer programs share: the protocol, percentiles, memory, CPU work."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import statistics
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

Params = dict[str, Any]
Values = dict[str, float]


class Skipped(Exception):
    """Raised by a case that this peer can't run so; the text says why."""


def answer(what: dict[str, Any]) -> None:
    """Print one line of the protocol."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def finish(values: Values) -> NoReturn:
    """Answer and leave at once, without ending what still sleeps."""
    answer({"values": values})
    os._exit(0)


def about(package: str | None) -> dict[str, Any]:
    """The values of the case `about`."""
    free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    values: dict[str, Any] = {
        "runtime": f"Python {sys.version.split()[0]}{free}",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }
    if package is not None:
        values["package"] = f"{package} {_version(package)}"
    return values


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed, from a checkout)"


def per_item(seconds: Sequence[float], items: int) -> Values:
    """Microseconds for one item: the median of several batches of that many, mean and first."""
    each = [s / items * 1e6 for s in seconds]
    return {"us": statistics.median(each), "mean_us": statistics.fmean(each), "first_us": each[0]}


def lateness(seconds: Sequence[float]) -> Values:
    """Percentiles, in milliseconds, of how late things happened."""
    if not seconds:
        raise RuntimeError("nothing happened, so there is no lateness to tell")
    ordered = sorted(seconds)
    return {
        "p50_ms": percentile(ordered, 0.50) * 1e3,
        "p99_ms": percentile(ordered, 0.99) * 1e3,
        "max_ms": ordered[-1] * 1e3,
        "count": len(ordered),
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values."""
    rank = max(1, -(-int(share * 1000) * len(ordered) // 1000))
    return ordered[rank - 1]


def rss_bytes() -> int:
    return _status_kib("VmRSS") * 1024


def peak_rss_bytes() -> int:
    return _status_kib("VmHWM") * 1024


def _status_kib(key: str) -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key + ":"):
                return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def parked_values(count: int, started: float, parked: float, rss_before: int) -> Values:
    return {
        "start_us": (parked - started) / count * 1e6,
        "rss_kb": (rss_bytes() - rss_before) / count / 1024,
    }


def sleepers_values(seconds: float) -> Values:
    return {"seconds": seconds, "peak_gb": peak_rss_bytes() / 2**30}


class AnyLock(Protocol):
    """What the locks of all peers have."""

    def acquire(self) -> Any: ...
    def release(self) -> Any: ...


def locking(mutex: AnyLock, turns: int, batches: int) -> list[float]:
    """The seconds of each batch of turns of acquire + release."""
    acquire, release = mutex.acquire, mutex.release
    seconds = []
    for _ in range(batches):
        start = time.perf_counter()
        for _ in range(turns):
            acquire()
            release()
        seconds.append(time.perf_counter() - start)
    return seconds


class Fight:
    """Two sides, on two threads, that want the same lock all the time, to count under it."""

    def __init__(self, mutex: AnyLock, turns: int) -> None:
        self._mutex, self._turns = mutex, turns
        self._arrived: list[None] = []
        self._spans: list[tuple[float, float]] = []
        self.count = 0

    def side(self) -> None:
        """One side; the other has to run on another thread. They begin together."""
        self._arrived.append(None)
        while len(self._arrived) < 2:
            pass
        acquire, release = self._mutex.acquire, self._mutex.release
        start = time.perf_counter()
        for _ in range(self._turns):
            acquire()
            self.count += 1
            release()
        self._spans.append((start, time.perf_counter()))

    def seconds(self) -> float:
        """From the first's beginning to the last's end. RuntimeError if it didn't exclude."""
        if self.count != 2 * self._turns:
            raise RuntimeError(f"counted {self.count} of {2 * self._turns}: no mutual exclusion")
        return max(end for _, end in self._spans) - min(start for start, _ in self._spans)


def throughput(params: Params, seconds: float) -> Values:
    """Values per second, of pairs of a producer and a consumer with so many each."""
    return {"per_s": params["pairs"] * params["each"] / seconds}


def count_primes(limit: int) -> int:
    """CPU work in nothing but bytecode."""
    found = 0
    for n in range(2, limit):
        d = 2
        while d * d <= n:
            if n % d == 0:
                break
            d += 1
        else:
            found += 1
    return found


def hog(until: float) -> int:
    """Burn the CPU without a call into any runtime until that time."""
    x = 0
    while time.perf_counter() < until:
        for _ in range(1000):
            x = (x * 5 + 1) & 0xFFFF
    return x


def feed(params: Params, submit: Callable[[float], object]) -> threading.Thread:
    """A plain thread that hands over one arrival time after another.

    Outside every runtime, so that a runtime that stands still can't hold the
    arrivals back and so look punctual.
    """

    def arrivals() -> None:
        due = time.perf_counter()
        end = due + params["seconds"]
        while due < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            submit(time.perf_counter())
            due += params["interval"]

    thread = threading.Thread(target=arrivals, name="arrivals", daemon=True)
    thread.start()
    return thread


def listener() -> socket.socket:
    """A listening TCP socket on a free port of the loopback interface."""
    return socket.create_server(("127.0.0.1", 0), backlog=512)


def port_of(fd: int) -> int:
    """The local port of a socket that some other library owns."""
    with socket.socket(fileno=os.dup(fd)) as copy:
        port: int = copy.getsockname()[1]
        return port


def end_with_stdin(port: int) -> None:
    """Say the port; a plain thread ends the process when standard input is closed."""

    def watch() -> None:
        os.read(0, 1)
        os._exit(0)

    threading.Thread(target=watch, name="stdin", daemon=True).start()
    answer({"port": port})


def gil_off() -> bool:
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


def limit_cpus(procs: int) -> None:
    """For peers without P's of their own: as many CPUs as P's."""
    usable = sorted(os.sched_getaffinity(0))
    if procs > len(usable):
        raise Skipped(f"has no P's of its own, and there are {len(usable)} CPUs")
    os.sched_setaffinity(0, usable[:procs])
