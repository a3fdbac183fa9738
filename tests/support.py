"""What the runtime's tests share: which rules hold on this interpreter, and small helpers."""

from __future__ import annotations

import ctypes
import functools
import inspect
import os
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

import gmpy_rt
from gmpy_rt import _door, metrics, runtime

T = TypeVar("T")

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and not sys._is_gil_enabled()
PREEMPTION = runtime.preemption_mechanism()
CPUS = sorted(os.sched_getaffinity(0))

parallel = pytest.mark.skipif(
    not FREE_THREADED or len(CPUS) < 2, reason="Python code runs in parallel only without a GIL"
)
sees_blocking = pytest.mark.skipif(
    not FREE_THREADED, reason="with a GIL, 'detached' may also mean 'waits for the GIL'"
)
preempts = pytest.mark.skipif(PREEMPTION == "none", reason="no preemption before 3.12")


def on_procs(*numbers: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test's body as the main G, once with each of these numbers of P's."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def wrapper(*args: object, procs: int, **kwargs: object) -> None:
            gmpy_rt.run(lambda: test(*args, **kwargs), procs=procs)

        signature = inspect.signature(test)
        more = inspect.Parameter("procs", inspect.Parameter.KEYWORD_ONLY)
        wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), more]
        )
        return pytest.mark.parametrize("procs", numbers)(wrapper)

    return decorate


PATIENCE = 20.0  # seconds; the end of every wait that should be over at once

_libc = ctypes.CDLL(None)


def current_cpu() -> int:
    return int(_libc.sched_getcpu())


def spin_until(ready: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Burn CPU, never parking, until ready() is true."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise AssertionError(f"not ready after {seconds} s of spinning: {ready}")


def poll_until(ready: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Look again and again, parking in between; for what no event tells."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise AssertionError(f"not ready after {seconds} s: {ready}")
        if _door.current_or_none() is None:
            time.sleep(0.001)
        else:
            gmpy_rt.sleep(0.001)


@contextmanager
def unpreempted() -> Iterator[None]:
    """The G keeps its M in the block, as long as it doesn't park: however long the machine stops it
    between what it wakes and what it does then, nobody else runs there."""
    _door.no_preempt(1)
    try:
        yield
    finally:
        _door.no_preempt(-1)


def handoffs() -> int:
    """How many P's have been handed off. One of an M that the machine stopped, detached, is seen by
    this only: what it started runs somewhere else."""
    name = "/sched/handoffs:events"
    return int(metrics.read(name)[name])


def undisturbed(attempt: Callable[[], T | None]) -> T:
    """What the first attempt returns that doesn't return None, as one does that was disturbed."""
    for _ in range(20):
        if (got := attempt()) is not None:
            return got
    raise AssertionError("each of 20 attempts was disturbed")


def is_parked(g: gmpy_rt.G) -> bool:
    return g.waiting > 0


class Ran(subprocess.CompletedProcess[str]):
    """A script's outcome; `words` is its stdout, split."""

    @property
    def words(self) -> list[str]:
        return self.stdout.split()


def interpreter(*options: str) -> list[str]:
    return [sys.executable, "-P", "-X", "faulthandler", *options]  # -P: not the checkout


def environment(**more: str) -> dict[str, str]:
    package = str(Path(gmpy_rt.__file__).resolve().parent.parent)
    path = os.pathsep.join([package, str(Path(__file__).parent)])
    drop = ("GMPY_MAXPROCS", "GMPY_SCHED")
    kept = {key: value for key, value in os.environ.items() if key not in drop}
    return kept | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | more


# Makes a script that hangs say where: its own G's, then every thread.
_PREAMBLE = """
import faulthandler, sys
faulthandler.dump_traceback_later({seconds}, exit=True)
import gmpy_rt as rt
from gmpy_rt import go, run
"""


def run_script(
    source: str, *options: str, timeout: float = 60.0, code: int | None = 0, **env: str
) -> Ran:
    """Run source in an interpreter of its own; it has gmpy_rt as rt, and go and run.

    code: the exit code that it must have; None: any but death by a signal.
    """
    text = _PREAMBLE.format(seconds=timeout * 0.8) + textwrap.dedent(source)
    done = subprocess.run(
        [*interpreter(*options), "-c", text],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**env),
        check=False,
    )
    story = f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    if code is None:
        assert done.returncode >= 0, story
    else:
        assert done.returncode == code, story
    return Ran(done.args, done.returncode, done.stdout, done.stderr)


@contextmanager
def excepthook_calls() -> Iterator[list[gmpy_rt.G]]:
    """Collects the G's that excepthook is called with."""
    calls: list[gmpy_rt.G] = []
    before = runtime.excepthook
    runtime.excepthook = calls.append
    try:
        yield calls
    finally:
        runtime.excepthook = before
