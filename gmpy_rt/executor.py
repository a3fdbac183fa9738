"""Executor: concurrent.futures.Executor on the runtime."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any, ParamSpec, TypeVar

from . import _load as _load
from ._door import Cancelled, checkpoint, go_anyway
from .sync import Condition, Event, Lock, Semaphore, WaitGroup, at_least_one

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

T = TypeVar("T")
P = ParamSpec("P")


class _Waiters(list[Any]):
    """Those of futures.wait() and as_completed(): with an Event that parks a G, not its M."""

    def append(self, waiter: Any) -> None:
        if not isinstance(waiter.event, Event):  # it may have come to another future before
            waiter.event = Event()
        super().append(waiter)


class _Future(futures.Future[T]):
    """A Future that a G can wait for without holding up its M."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()  # type: ignore[assignment]
        self._waiters = _Waiters()


class Executor(futures.Executor):
    """concurrent.futures.Executor on the runtime: each call is a G.

    For libraries that take an executor. Works from G's and from plain threads, while a runtime
    runs. max_workers: how many calls run at once; None: any number. A call that runs can't
    be cancelled through its future; shutdown(cancel_futures=True) drops those not yet begun.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None:
            at_least_one("max_workers", max_workers, "at least one, or None for any number")
        self._free = None if max_workers is None else Semaphore(max_workers)
        self._lock = Lock()
        self._closed = False
        self._pending: set[_Future[Any]] = set()
        self._running = WaitGroup()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Call fn(*args, **kwargs) in a G. Raises RuntimeError after shutdown()."""
        future: _Future[T] = _Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("submit() after shutdown(): make a new Executor")
            self._pending.add(future)
            self._running.add(1)
        try:
            go_anyway(self._call, future, fn, args, kwargs)
        except BaseException:
            self._forget(future)
            raise
        return future

    def _forget(self, future: _Future[Any]) -> None:
        self._lock._acquire_anyway()
        self._pending.discard(future)
        self._lock.release()
        self._running.done()

    def _call(self, future: _Future[T], fn: Callable[..., T], args: Any, kwargs: Any) -> None:
        try:
            checkpoint()  # cancelled before it began?
            if self._free is not None:
                self._free.acquire()
            try:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    result = fn(*args, **kwargs)
                except BaseException as exc:
                    future.set_exception(exc)
                    if isinstance(exc, Cancelled):
                        raise
                else:
                    future.set_result(result)
            finally:
                if self._free is not None:
                    self._free.release()
        except Cancelled as exc:
            if future.cancel():
                future.set_running_or_notify_cancel()
            elif not future.done():
                future.set_exception(exc)
            raise
        finally:
            self._forget(future)
            del future  # its exception knows this frame

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls. wait: for those there are. cancel_futures: drop those not yet begun."""
        with self._lock:
            self._closed = True
            pending = list(self._pending)
        if cancel_futures:
            for future in pending:
                future.cancel()
        if wait:
            self._running.wait()


__all__ = ["Executor"]
