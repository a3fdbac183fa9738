"""`gmpy-rt demo`: the HTTP example under load, with one P and then with two.

The server and the load are processes of their own; this one only starts them,
asks the server for its counters and prints what both say.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from . import loadgen
from .info import gil
from .loadgen import Load, LoadError

PAGES = {"/": "a line of text", "/work": "a page with some Python work to do"}
PROCS = (1, 2)
START_SECONDS = 15.0
STOP_SECONDS = 5.0


class DemoError(Exception):
    """The demo can't go on; the message says why."""


class Measured(NamedTuple):
    load: Load
    cores: float  # CPU seconds of the server per second


class Run(NamedTuple):
    pages: dict[str, Measured]
    counters: list[dict[str, Any]]  # one dict per P


def demo(seconds: float, connections: int) -> int:
    """Prints the report; returns the exit code: 0 if there was not one error."""
    tool = loadgen.choose(example("http_load.py"))
    print(f"CPython {sys.version.split()[0]}, GIL {gil()}; {os.cpu_count()} cores")
    print(f"load: {tool.name}, {connections} keep-alive connections, {seconds:g} s per figure\n")
    try:
        runs = {procs: measure(tool, procs, seconds, connections) for procs in PROCS}
    except LoadError as problem:
        raise DemoError(str(problem)) from problem

    for page in PAGES:
        print_page(page, {procs: run.pages[page] for procs, run in runs.items()})
    print_counters({procs: run.counters for procs, run in runs.items()})
    errors = sum(each.load.errors for run in runs.values() for each in run.pages.values())
    if errors:
        print(f"\n{errors} requests went wrong", file=sys.stderr)
    return 1 if errors else 0


def example(name: str) -> Path:
    """An example: beside this file in an installed package, one up in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "examples", here.parent / "examples"):
        if (folder / name).is_file():
            return folder / name
    raise DemoError(f"{name} is not here; install gmpy_rt again, the package is incomplete")


# ---- measuring


def measure(tool: loadgen.Tool, procs: int, seconds: float, connections: int) -> Run:
    with server(procs) as (process, url):
        pages = {}
        for page in PAGES:
            cpu, began = cpu_seconds(process), time.monotonic()
            load = tool.load(url + page, connections, seconds)
            cores = (cpu_seconds(process) - cpu) / (time.monotonic() - began)
            pages[page] = Measured(load, cores)
        with urllib.request.urlopen(url + "/stats", timeout=10) as response:
            counters = json.load(response)
    return Run(pages, per_p(counters))


@contextmanager
def server(procs: int) -> Iterator[tuple[psutil.Process, str]]:
    """The HTTP example with this many P's, on a free port, until the block ends."""
    command = [sys.executable, str(example("http_server.py")), "--port=0", f"--procs={procs}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    # It says its address once it listens. If it never does, ending it ends the wait.
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        watchdog.cancel()
        found = re.search(r"http://\S+?(?=/?$)", line.strip())
        if found is None:
            raise DemoError(
                f"the HTTP server did not start with {procs} P's"
                f" (exit code {process.wait(STOP_SECONDS)}); it said {line!r}"
            )
        yield psutil.Process(process.pid), found[0]
        process.send_signal(signal.SIGINT)
        if (code := process.wait(STOP_SECONDS)) != 0:
            raise DemoError(f"the HTTP server with {procs} P's ended with exit code {code}")
    except subprocess.TimeoutExpired:
        raise DemoError(
            f"the HTTP server did not stop within {STOP_SECONDS:g} s of Ctrl-C"
        ) from None
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# ---- printing


def print_page(page: str, by_procs: dict[int, Measured]) -> None:
    names = [f"{procs} P" if procs == 1 else f"{procs} P's" for procs in by_procs]
    print(f"GET {page} ({PAGES[page]})")
    print_row("", names)
    print_row("requests/s", [f"{each.load.requests_per_second:,.0f}" for each in by_procs.values()])
    print_row("p50", [f"{each.load.p50_ms:.2f} ms" for each in by_procs.values()])
    print_row("p99", [f"{each.load.p99_ms:.2f} ms" for each in by_procs.values()])
    print_row("errors", [str(each.load.errors) for each in by_procs.values()])
    print_row("cores used", [f"{each.cores:.2f}" for each in by_procs.values()])
    print()


def print_counters(by_procs: dict[int, list[dict[str, Any]]]) -> None:
    print("Counters of each P, over both pages")
    columns = [
        (f"P{number} of {procs}", counters)
        for procs, all_ps in by_procs.items()
        for number, counters in enumerate(all_ps)
    ]
    print_row("", [name for name, _ in columns])
    for counter in counter_names(columns[0][1]):
        values = [counters.get(counter) for _, counters in columns]
        print_row(counter, [f"{value:,}" if isinstance(value, int) else "-" for value in values])


def print_row(name: str, cells: list[str]) -> None:
    print(f"  {name:<18}" + "".join(f"{cell:>13}" for cell in cells))


def counter_names(counters: dict[str, Any]) -> list[str]:
    return [name for name, value in counters.items() if type(value) is int]


def per_p(counters: dict[str, Any]) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = counters["per_p"]
    return every
