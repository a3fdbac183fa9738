"""Structured concurrency: TaskGroup, gather, map, map_as_completed, Pool.

Nothing that is started here outlives the block or call that started it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import ParamSpec, TypeVar

from . import _load as _load
from ._door import Cancelled, Chan, ChanClosed, Group, Scope, go_anyway
from .sync import Semaphore, at_least_one

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
        scope = Scope(silent=True)
        self._open(scope)
        self._scope = scope
        scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        # All of it in here: no interrupt is raised between two bytecodes of a special method, but
        # one might be where another function begins, and the children be left behind.
        self._body_ended()
        try:
            interrupted_by_child = self._scope.__exit__(kind, exc, tb)
        except RuntimeError as elsewhere:  # a generator's, say, that another G closed
            self._abandon()
            if self._errors:
                failures = [elsewhere, *self._errors]
                raise BaseExceptionGroup("failures in a TaskGroup", failures) from None
            raise
        if exc is not None:
            self.cancel()
        late: BaseException | None = None
        while True:
            try:
                if self._wait():
                    break
            except BaseException as interrupt:
                if late is None or isinstance(late, Cancelled):
                    late = interrupt
            self.cancel()
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


def gather(*fns: Callable[[], T]) -> list[T]:
    """Call them all at once, each in a G; return what they return, in order.

    If one fails the others are cancelled, and an ExceptionGroup is raised. Raises Cancelled if
    one was cancelled for another reason.
    """
    with TaskGroup() as tg:
        gs = [tg.go(fn) for fn in fns]
    return [g.result() for g in gs]


def _check_limit(limit: int | None) -> None:
    if limit is not None:
        at_least_one("limit", limit, "at least one call at a time, or None for no limit")


def _call_all(
    fn: Callable[[T], R], items: Iterable[T], limit: int | None, done: Callable[[int, R], object]
) -> None:
    """fn over items, at most `limit` at once; done(index, result) as they end.

    Raises an ExceptionGroup of what failed, or Cancelled if a call was (fn waited for something
    that was cancelled): there is no result then.
    """
    cancelled: list[Cancelled] = []
    free = None if limit is None else Semaphore(limit)

    def one(index: int, item: T) -> None:
        try:
            done(index, fn(item))
        except Cancelled as exc:
            cancelled.append(exc)
            raise
        finally:
            if free is not None:
                free.release()

    with TaskGroup() as tg:
        for index, item in enumerate(items):
            if free is not None:
                free.acquire()
            tg.go(one, index, item)
    if cancelled:
        raise cancelled.pop()


def map(fn: Callable[[T], R], items: Iterable[T], *, limit: int | None = None) -> list[R]:
    """[fn(item) for item in items], each call in a G, at most `limit` at once; in order.

    items is read as calls become possible. If one fails the others are cancelled, and an
    ExceptionGroup is raised. Raises Cancelled if a call did, ValueError for limit < 1.
    """
    _check_limit(limit)
    results: dict[int, R] = {}
    _call_all(fn, items, limit, results.__setitem__)
    return [results[i] for i in range(len(results))]


def map_as_completed(
    fn: Callable[[T], R], items: Iterable[T], *, limit: int | None = None
) -> Iterator[R]:
    """As map(), but an iterator that gives each result as soon as it is there.

    Leaving it early cancels what still runs: close() it, or let it be collected.
    """
    _check_limit(limit)
    return _as_completed(fn, items, limit)


def _as_completed(fn: Callable[[T], R], items: Iterable[T], limit: int | None) -> Iterator[R]:
    results: Chan[R] = Chan(0)

    def produce() -> None:
        try:
            _call_all(fn, items, limit, lambda _, result: results.send(result))
        finally:
            results.close()

    g = go_anyway(produce)  # it closes the channel
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
    cancelled and the block raises an ExceptionGroup. A call that raises Cancelled (it waited for
    what was cancelled) is no failure, as in a TaskGroup. Raises ValueError for workers < 1.
    """

    def __init__(self, workers: int) -> None:
        at_least_one("workers", workers, "a pool needs at least one")
        self._workers = workers
        self._work: Chan[Callable[[], object]] = Chan(workers)
        self._group = TaskGroup()
        self._begun = False

    def __enter__(self) -> Pool:
        self._group.__enter__()
        self._begun = True
        for _ in range(self._workers):
            self._group.go(self._serve)
        return self

    def _serve(self) -> None:
        for call in self._work:
            try:
                call()
            except Cancelled:
                if self._group._cancelling:
                    raise

    def put(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Have a worker call fn(*args, **kwargs); wait while all are busy.

        Raises Cancelled, RuntimeError outside the block.
        """
        if not self._begun:
            raise RuntimeError("Pool.put() before its block: `with Pool(n) as pool: pool.put(fn)`")
        try:
            self._work.send(lambda: fn(*args, **kwargs))
        except ChanClosed:
            raise RuntimeError("Pool.put() after its block: make a new Pool") from None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        self._work.close()
        return self._group.__exit__(kind, exc, tb)


__all__ = ["Pool", "TaskGroup", "gather", "map", "map_as_completed"]
