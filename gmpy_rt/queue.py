"""The stdlib's queue module for G's and plain threads alike: a wait parks the G.

A get() or put() that is cancelled or timed out took nothing and put nothing.
"""

from __future__ import annotations

import queue as _stdlib
from collections import deque
from heapq import heappop, heappush
from time import monotonic
from typing import Any, Generic, TypeVar

from . import _load as _load
from ._door import Chan, Lock, Waiters, no_preempt
from .sync import Condition, _is_negative

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

T = TypeVar("T")

Empty = _stdlib.Empty
Full = _stdlib.Full

if hasattr(_stdlib, "ShutDown"):  # 3.13
    ShutDown = _stdlib.ShutDown
else:

    class ShutDown(Exception):  # type: ignore[no-redef]
        """Raised by put() and get() of a queue that was shut down."""


class Queue(Generic[T]):
    """queue.Queue's interface. maxsize: how many items it holds; 0 or less: any number."""

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self.mutex = Lock()
        self.not_empty = Condition(self.mutex)
        self.not_full = Condition(self.mutex)
        self.all_tasks_done = Condition(self.mutex)
        self.not_empty._waiters = Waiters("queue get")
        self.not_full._waiters = Waiters("queue put")
        self.unfinished_tasks = 0
        self.is_shutdown = False
        self._init(maxsize)

    # A subclass may order the items otherwise: these run with the mutex held.

    def _init(self, maxsize: int) -> None:
        self.queue: Any = deque()

    def _qsize(self) -> int:
        return len(self.queue)

    def _put(self, item: T) -> None:
        self.queue.append(item)

    def _get(self) -> T:
        item: T = self.queue.popleft()
        return item

    def qsize(self) -> int:
        """How many items there are."""
        with self.mutex:
            return self._qsize()

    def empty(self) -> bool:
        """Whether there are none."""
        return not self.qsize()

    def full(self) -> bool:
        """Whether put() would wait."""
        with self.mutex:
            return self._is_full()

    def _is_full(self) -> bool:
        return 0 < self.maxsize <= self._qsize()

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put item in; wait while the queue is full.

        timeout: seconds. Raises Full at once if not block, or after timeout; ShutDown; Cancelled.
        """
        if block and timeout is not None and _is_negative(timeout):
            raise ValueError(f"timeout={timeout!r}: 'timeout' must be a non-negative number")
        with self.mutex:
            if self.is_shutdown:
                raise ShutDown
            if self._is_full():
                if not block:
                    raise Full
                until = None if timeout is None else monotonic() + timeout
                while self._is_full():
                    if not self._wait(self.not_full, until):
                        raise Full
                    if self.is_shutdown:
                        raise ShutDown
            self._put(item)
            self.unfinished_tasks += 1
            self.not_empty._waiters.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take an item out; wait while there is none.

        timeout: seconds. Raises Empty at once if not block, or after timeout; ShutDown once the
        queue is shut down and empty; Cancelled.
        """
        if block and timeout is not None and _is_negative(timeout):
            raise ValueError(f"timeout={timeout!r}: 'timeout' must be a non-negative number")
        with self.mutex:
            if not self._qsize():
                if self.is_shutdown:
                    raise ShutDown
                if not block:
                    raise Empty
                until = None if timeout is None else monotonic() + timeout
                while not self._qsize():
                    if not self._wait(self.not_empty, until):
                        raise Empty
                    if self.is_shutdown and not self._qsize():
                        raise ShutDown
            item = self._get()
            self.not_full._waiters.wake()
            return item

    @staticmethod
    def _wait(condition: Condition, until: float | None) -> bool:
        if until is None:
            return condition.wait()
        left = until - monotonic()
        if left <= 0:
            return False
        condition.wait(left)
        return True  # look once more, even if it timed out

    def put_nowait(self, item: T) -> None:
        """put(item, block=False)."""
        self.put(item, False)

    def get_nowait(self) -> T:
        """get(block=False)."""
        return self.get(False)

    def task_done(self) -> None:
        """One item that was got is dealt with. Raises ValueError if that is one too many."""
        with self.mutex:
            if self.unfinished_tasks <= 0:
                raise ValueError("task_done() called too many times: more often than put()")
            self.unfinished_tasks -= 1
            if not self.unfinished_tasks:
                self.all_tasks_done.notify_all()

    def join(self) -> None:
        """Wait until every item that was put in is dealt with. Raises Cancelled."""
        with self.mutex:
            while self.unfinished_tasks:
                self.all_tasks_done.wait()

    def shutdown(self, immediate: bool = False) -> None:
        """put() raises ShutDown from now on, and get() once the queue is empty.

        immediate: drop what is in it, and count that as dealt with.
        """
        with self.mutex:
            self.is_shutdown = True
            if immediate and (dropped := self._qsize()):
                for _ in range(dropped):
                    self._get()
                self.unfinished_tasks = max(0, self.unfinished_tasks - dropped)
                if not self.unfinished_tasks:
                    self.all_tasks_done.notify_all()
            self.not_empty.notify_all()
            self.not_full.notify_all()


class PriorityQueue(Queue[T]):
    """A Queue that gives the smallest item first."""

    def _init(self, maxsize: int) -> None:
        self.queue = []

    # An interrupt raised in an item's own __lt__ would leave the heap amid a move.

    def _put(self, item: T) -> None:
        no_preempt(1)
        try:
            heappush(self.queue, item)
        finally:
            no_preempt(-1)

    def _get(self) -> T:
        no_preempt(1)
        try:
            item: T = heappop(self.queue)
        finally:
            no_preempt(-1)
        return item


class LifoQueue(Queue[T]):
    """A Queue that gives the newest item first."""

    def _init(self, maxsize: int) -> None:
        self.queue = []

    def _get(self) -> T:
        item: T = self.queue.pop()
        return item


class SimpleQueue(Generic[T]):
    """queue.SimpleQueue's interface: any number of items; put() never waits."""

    def __init__(self) -> None:
        self._items: Chan[T] = Chan._growing()

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put item in; block and timeout are there for Queue's sake. Finalizers may call it."""
        self._items.try_send(item)

    def put_nowait(self, item: T) -> None:
        """put(item)."""
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item out; wait while there is none. As Queue.get."""
        if not block:
            return self.get_nowait()
        if timeout is not None and _is_negative(timeout):
            raise ValueError(f"timeout={timeout!r}: 'timeout' must be a non-negative number")
        try:
            return self._items.recv(timeout)
        except TimeoutError:
            raise Empty from None

    def get_nowait(self) -> T:
        """get(block=False)."""
        there, item = self._items.try_recv()
        if not there:
            raise Empty
        # No cast(): an interrupt may be raised where a function begins, and the item be lost.
        return item  # type: ignore[return-value]

    def qsize(self) -> int:
        """How many items there are."""
        return len(self._items)

    def empty(self) -> bool:
        """Whether there are none."""
        return not len(self._items)


__all__ = ["Empty", "Full", "LifoQueue", "PriorityQueue", "Queue", "ShutDown", "SimpleQueue"]
