"""Runs CPython's own lock_tests or test_queue, as installed, against our classes.

    python runner.py locks|queue PROCS [NAME ...]

Everything happens inside a runtime: the test suite in its main G, and what the tests start
as threads are G's. Prints one line of JSON: the result of each test by name.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import threading
import time
import traceback
import unittest
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import gmpy_rt as rt
from gmpy_rt import queue as our_queue
from gmpy_rt import sync
from gmpy_rt._door import current_or_none


class Shim(ModuleType):
    """A module with some names replaced."""

    def __init__(self, real: ModuleType, **names: Any) -> None:
        super().__init__(real.__name__)
        self.__dict__["_real"] = real
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class GThread:
    """As much of threading.Thread as the tests use, on a G."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str | None = None,
        args: Any = (),
        kwargs: Any = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self._call = (target, args, kwargs or {})
        self.daemon, self._g = daemon, None

    def run(self) -> None:
        target, args, kwargs = self._call
        if target is not None:
            target(*args, **kwargs)

    def start(self) -> None:
        self._g: Any = rt.go(self.run)

    def join(self, timeout: float | None = None) -> None:
        self._g.join(timeout)

    def is_alive(self) -> bool:
        return self._g is not None and not self._g.done()


class TriggerThread(GThread):
    """test_queue's _TriggerThread: calls fn(*args) a moment after its start."""

    def __init__(self, fn: Callable[..., Any], args: Any) -> None:
        super().__init__(target=fn, args=args)
        self.startedEvent = sync.Event()

    def run(self) -> None:
        rt.sleep(0.1)
        self.startedEvent.set()
        super().run()


@contextlib.contextmanager
def start_threads(
    threads: list[GThread], unlock: Callable[[], Any] | None = None
) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        if unlock:
            unlock()
        for thread in threads:
            thread.join(20)


@contextlib.contextmanager
def wait_threads_exit(timeout: float | None = None) -> Iterator[None]:
    yield


def ident() -> int:
    g = current_or_none()
    return threading.get_ident() if g is None else g.id


def start_new_thread(fn: Callable[..., Any], args: Any = ()) -> int:
    return rt.go(fn, *args).id


SLEEP = Shim(time, sleep=rt.sleep)
THREADING = Shim(
    threading,
    get_ident=ident,
    Thread=GThread,
    Lock=sync.Lock,
    RLock=sync.RLock,
    Event=sync.Event,
    Condition=sync.Condition,
    Barrier=sync.Barrier,
    Semaphore=sync.Semaphore,
    BoundedSemaphore=sync.BoundedSemaphore,
)


def load(name: str) -> ModuleType:
    """The test module, with G's for its threads."""
    from test import support
    from test.support import threading_helper

    module = importlib.import_module(f"test.{name}")
    helper = Shim(
        threading_helper,
        start_threads=start_threads,
        wait_threads_exit=wait_threads_exit,
        threading_setup=lambda: (),
        threading_cleanup=lambda *a: None,
        join_thread=lambda t, timeout=None: t.join(timeout),
    )
    support.time = SLEEP  # type: ignore[attr-defined]
    replacements = {
        "time": SLEEP,
        "threading": THREADING,
        "threading_helper": helper,
        "start_new_thread": start_new_thread,
        "_TriggerThread": TriggerThread,
    }
    for key, value in replacements.items():
        if hasattr(module, key):
            setattr(module, key, value)
    return module


def lock_cases() -> list[type[unittest.TestCase]]:
    tests: Any = load("lock_tests")
    kinds: dict[str, dict[str, Any]] = {
        "LockTests": {"locktype": sync.Lock},
        "RLockTests": {"locktype": sync.RLock},
        "EventTests": {"eventtype": sync.Event},
        "ConditionTests": {"condtype": sync.Condition, "locktype": sync.Lock},
        "SemaphoreTests": {"semtype": sync.Semaphore},
        "BoundedSemaphoreTests": {"semtype": sync.BoundedSemaphore},
        "BarrierTests": {"barriertype": sync.Barrier},
    }
    return [
        type(name, (getattr(tests, name),), {k: staticmethod(v) for k, v in attrs.items()})
        for name, attrs in kinds.items()
    ]


def queue_cases() -> list[type[unittest.TestCase]]:
    tests: Any = load("test_queue")
    bases = {
        "QueueTest": "QueueTest",
        "LifoQueueTest": "LifoQueueTest",
        "PriorityQueueTest": "PriorityQueueTest",
        "FailingQueueTest": "FailingQueueTest",
        "BaseSimpleQueueTest": "SimpleQueueTest",
    }
    cases = []
    for base, name in bases.items():
        cls = getattr(tests, base)
        attrs: dict[str, Any] = {"queue": our_queue}
        if name == "SimpleQueueTest":
            attrs["type2test"] = staticmethod(our_queue.SimpleQueue)
        cases.append(type(name, (cls, unittest.TestCase), attrs))
    return cases


class Result(unittest.TestResult):
    """Keeps one word per test."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, str] = {}

    def note(self, test: unittest.TestCase, word: str) -> None:
        self.by_name[".".join(test.id().split(".")[-2:])] = word

    def addSuccess(self, test: Any) -> None:
        self.note(test, "ok")

    def addSkip(self, test: Any, reason: str) -> None:
        self.note(test, f"skipped: {reason}")

    def addError(self, test: Any, err: Any) -> None:
        self.note(test, "error: " + "".join(traceback.format_exception(*err)[-3:]))

    def addFailure(self, test: Any, err: Any) -> None:
        self.note(test, "failed: " + "".join(traceback.format_exception(*err)[-3:]))


def main(kind: str, names: list[str]) -> dict[str, str]:
    loader, suite = unittest.TestLoader(), unittest.TestSuite()
    for case in lock_cases() if kind == "locks" else queue_cases():
        for test in loader.loadTestsFromTestCase(case):
            if not names or any(name in test.id() for name in names):  # type: ignore[union-attr]
                suite.addTest(test)
    result = Result()
    for test in suite:
        with rt.timeout(60):
            test(result)
    return result.by_name


if __name__ == "__main__":
    print(json.dumps(rt.run(main, sys.argv[1], sys.argv[3:], procs=int(sys.argv[2]))))
