"""Structured concurrency: TaskGroup, gather, map, as_completed, Pool, Executor.

Nothing that is started here outlives the block or call that started it, except what is
submitted to an Executor or a Pool, which end with theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from . import _load as _load
from ._door import Cancelled, Chan, Group, Scope, go
from .sync import Condition, Lock, Semaphore, WaitGroup

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


class TaskGroup(Group):
    """`with TaskGroup() as tg: tg.go(fn, *args)`: every child has ended when the block has.

    The first child that fails cancels the others and interrupts the body; so does an exception
    in the body. Failures are raised together as an ExceptionGroup; a child that was cancelled
    is no failure. When the G itself is cancelled or timed out, the children are cancelled and
    waited for, then that is raised. Children may start children with go(); what is started in
    a group that was cancelled is cancelled before it begins.
    """

    def __enter__(self) -> TaskGroup:
        self._scope = Scope(silent=True)
        self._open(self._scope)
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        self._body_ended()
        interrupted_by_child = self._scope.__exit__(kind, exc, tb)
        if exc is not None:
            self.cancel()
        late = self._wait_for_children()
        if interrupted_by_child:
            exc = None
        if exc is not None and not isinstance(exc, Exception | Cancelled | BaseExceptionGroup):
            return False  # KeyboardInterrupt, SystemExit: as it is
        errors: list[BaseException] = list(self._errors)
        if exc is not None and not isinstance(exc, Cancelled):
            errors.insert(0, exc)
        try:
            if late is not None and not isinstance(late, Cancelled):
                raise late
            if errors:
                raise BaseExceptionGroup("failures in a TaskGroup", errors) from None
            if late is not None:
                raise late
        finally:
            del errors, late, exc, tb  # no cycle through this frame
            self._errors.clear()
        return interrupted_by_child

    def _wait_for_children(self) -> BaseException | None:
        late: BaseException | None = None
        while True:
            try:
                if self._wait():
                    return late
            except BaseException as interrupt:
                if late is None or isinstance(late, Cancelled):
                    late = interrupt
            self.cancel()


def gather(*fns: Callable[[], T]) -> list[T]:
    """Call them all at once, each in a G; return what they return, in order.

    If one fails the others are cancelled, and an ExceptionGroup is raised.
    """
    with TaskGroup() as tg:
        gs = [tg.go(fn) for fn in fns]
    return [g.result() for g in gs]


def _started(
    fn: Callable[[T], R], items: Iterable[T], limit: int | None, done: Callable[[int, R], None]
) -> TaskGroup:
    """Inside the group: fn over items, at most `limit` at once; done(index, result) as they end."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: at least one call at a time, or None for no limit")
    free = None if limit is None else Semaphore(limit)
    tg = TaskGroup()

    def one(index: int, item: T) -> None:
        try:
            done(index, fn(item))
        finally:
            if free is not None:
                free.release()

    with tg:
        for index, item in enumerate(items):
            if free is not None:
                free.acquire()
            tg.go(one, index, item)
    return tg


def map(fn: Callable[[T], R], items: Iterable[T], *, limit: int | None = None) -> list[R]:
    """[fn(item) for item in items], each call in a G, at most `limit` at once; in order.

    items is read as calls become possible. If one fails the others are cancelled, and an
    ExceptionGroup is raised. Raises ValueError for limit < 1.
    """
    results: dict[int, R] = {}
    _started(fn, items, limit, results.__setitem__)
    return [results[i] for i in range(len(results))]


def map_as_completed(
    fn: Callable[[T], R], items: Iterable[T], *, limit: int | None = None
) -> Iterator[R]:
    """As map(), but an iterator that gives each result as soon as it is there.

    Leaving it early cancels what still runs: close() it, or let it be collected.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: at least one call at a time, or None for no limit")
    return _as_completed(fn, items, limit)


def _as_completed(fn: Callable[[T], R], items: Iterable[T], limit: int | None) -> Iterator[R]:
    results: Chan[R] = Chan(0)

    def produce() -> None:
        try:
            _started(fn, items, limit, lambda _, result: results.send(result))
        finally:
            results.close()

    g = go(produce)
    try:
        # Not `yield from`, which closes the channel when it is left.
        for result in results:  # noqa: UP028
            yield result
        g.result()
    finally:
        if not g.done():
            g.cancel()


class Pool:
    """A fixed number of worker G's that call what is put in: `with Pool(4) as pool: ...`.

    The block ends when everything put in has been called. If a call fails, the others are
    cancelled and the block raises an ExceptionGroup. Raises ValueError for workers < 1.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers}: a pool needs at least one")
        self._workers = workers
        self._work: Chan[Callable[[], object]] = Chan(workers)
        self._group = TaskGroup()

    def __enter__(self) -> Pool:
        self._group.__enter__()
        for _ in range(self._workers):
            self._group.go(self._serve)
        return self

    def _serve(self) -> None:
        for call in self._work:
            call()

    def put(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a worker call fn(*args, **kwargs); wait while all are busy. Raises Cancelled."""
        self._work.send(lambda: fn(*args, **kwargs))

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        self._work.close()
        return self._group.__exit__(kind, exc, tb)


class _Future(futures.Future[T]):
    """A Future that a G can wait for without holding up its M."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()  # type: ignore[assignment]


class Executor(futures.Executor):
    """concurrent.futures.Executor on the runtime: each call is a G.

    For libraries that take an executor. Works from G's and from plain threads, while a runtime
    runs. max_workers: how many calls run at once; None: any number. A call that runs can't
    be cancelled through its future; shutdown(cancel_futures=True) drops those not yet begun.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers={max_workers}: at least one, or None for any number")
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
            go(self._call, future, fn, args, kwargs)
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


__all__ = ["Executor", "Pool", "TaskGroup", "gather", "map", "map_as_completed"]
