"""A deadline for every test: a hang shows the stacks of all G's and threads, and ends the run."""

from __future__ import annotations

import _thread
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import IO

import pytest

DEADLINE = float(os.environ.get("GMPY_TEST_DEADLINE", "60"))

_until: float | None = None
_test = ""
_changed = threading.Event()
_left = ""
_out: IO[str] | None = None  # stderr as it was before pytest captures it


def _watch() -> None:
    """Started with _thread: in threading.enumerate() it would look like a thread of the user's,
    which may wake a G, and so hide deadlocks."""
    while True:
        until = _until
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            break
        _changed.wait(left)
        _changed.clear()
    # Threads first, and with an end: what hangs the test may hang the dump of the G's, too.
    out = _out or sys.__stderr__
    print(f"\n\n{_test}: not over after its deadline", file=out, flush=True)
    faulthandler.dump_traceback_later(10, exit=True, file=out)
    faulthandler.dump_traceback(file=out, all_threads=True)
    try:
        from gmpy_rt import stats
        from gmpy_rt.dump import stacks

        print(f"\n{stats()}\n\n{stacks()}", file=out, flush=True)
    except BaseException:
        traceback.print_exc(file=out)
    os._exit(70)


_thread.start_new_thread(_watch, ())

# A shell ignores SIGINT for what it starts in the background, and ignoring is inherited: the
# programs that the tests start and interrupt would never notice.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# CPython without a GIL crashes when the first gc callback is added while another thread collects
# (gc_free_threading.c, invoke_gc_callback, makes `info` only if there is one). Hypothesis adds its
# own in its first test, amid the stress suite's collector: so there is always one from here on.
gc.callbacks.append(lambda phase, info: None)


def _set_deadline(test: str, seconds: float | None) -> None:
    global _until, _test
    _test = test
    _until = None if seconds is None else time.monotonic() + seconds
    _changed.set()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("deadline")
    seconds = float(marker.args[0]) if marker else DEADLINE
    _set_deadline(item.nodeid, seconds)
    try:
        yield
    finally:
        _set_deadline("", None)


def pytest_configure(config: pytest.Config) -> None:
    global _out
    _out = os.fdopen(os.dup(2), "w")
    config.addinivalue_line("markers", "deadline(seconds): how long this test may take")


@pytest.fixture(autouse=True)
def collector_stays_on() -> Iterator[None]:
    """Nothing that the runtime does may switch the garbage collector off."""
    assert gc.isenabled()
    yield
    assert gc.isenabled(), "the garbage collector was left switched off"


@pytest.fixture(autouse=True)
def no_runtime_left() -> Iterator[None]:
    """A test that leaves its runtime running spoils all that follow."""
    yield
    from gmpy_rt import runtime
    from gmpy_rt._core import ffi, lib

    assert runtime._active is None, "run() is still under way"
    global _left
    left = ffi.string(lib.gmpy_left_told()).decode()
    if left != _left:  # told once in a process, so also here: a later hang would take it along
        _left = left
        print(f"\na lost wake-up, in {_test}: {left}", file=_out or sys.__stderr__, flush=True)
        pytest.fail(f"a lost wake-up: {left}")
