"""What threading has, for G's and plain threads alike, and Go's RWMutex, Once, WaitGroup.

A wait parks the G, never its M. Cancelling a wait, or its timeout, leaves no waiter behind
and loses no wake-up: one that had come already goes to the next in line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from operator import index
from threading import BrokenBarrierError
from typing import Any, ParamSpec, Protocol, TypeVar

from . import _door
from . import _load as _load
from ._door import G, Lock, RLock, Scope, Waiters, checkpoint, current_or_none, go_anyway

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

T = TypeVar("T")
P = ParamSpec("P")


class AnyLock(Protocol):
    """What a Condition needs of its lock."""

    def acquire(self) -> Any: ...
    def release(self) -> None: ...


def _is_negative(timeout: float, for_ever: str = "None") -> bool:
    """timeout < 0. Raises TypeError for what isn't a number."""
    try:
        return timeout < 0
    except TypeError:
        raise TypeError(
            f"timeout={timeout!r}: give a number of seconds, or {for_ever} to wait for ever"
        ) from None


def at_least_one(name: str, value: int, hint: str) -> None:
    """Raises TypeError, ValueError."""
    try:
        ok = index(value) >= 1
    except TypeError:
        raise TypeError(f"{name}={value!r}: give an int; {hint}") from None
    if not ok:
        raise ValueError(f"{name}={value!r}: {hint}")


def _acquire_anyway(lock: AnyLock) -> None:
    if isinstance(lock, Lock):
        lock._acquire_anyway()
    elif current_or_none() is None:
        lock.acquire()
    else:
        with Scope(shield=True):
            lock.acquire()


class Condition:
    """threading.Condition's interface. lock: an RLock unless given; any lock will do."""

    def __init__(self, lock: AnyLock | None = None) -> None:
        self._lock: Any = RLock() if lock is None else lock
        self._waiters = Waiters("condition")
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> Any:
        return self._lock.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._lock.__exit__(*exc)

    def __repr__(self) -> str:
        return f"<Condition({self._lock!r}, {len(self._waiters)})>"

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()
        self._waiters = Waiters("condition")

    def _is_owned(self) -> bool:
        lock = self._lock
        if hasattr(lock, "_is_owned"):
            return bool(lock._is_owned())
        if isinstance(lock, Lock):
            return lock.locked()
        if lock.acquire(False):
            lock.release()
            return False
        return True

    def locked(self) -> bool:
        """Whether the lock is held."""
        return bool(self._lock.locked())

    def _check_owned(self, what: str) -> None:
        if not self._is_owned():
            raise RuntimeError(f"cannot {what} on un-acquired lock: acquire {self!r} first")

    def _release(self) -> Any:
        if hasattr(self._lock, "_release_save"):
            return self._lock._release_save()
        self._lock.release()
        return None

    def _restore(self, saved: Any) -> None:
        if hasattr(self._lock, "_acquire_restore"):
            self._lock._acquire_restore(saved)
        else:
            _acquire_anyway(self._lock)

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait for a notify, take the lock again; False after timeout seconds.

        The lock is held again however it ends. Raises RuntimeError if the lock isn't held,
        Cancelled.
        """
        self._check_owned("wait")
        ticket = self._waiters.add()
        saved = self._release()
        try:
            return ticket.wait(timeout)
        finally:
            self._restore(saved)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Wait until predicate() is true, at most timeout seconds; return its last value."""
        until = None
        if timeout is not None:
            until = time.monotonic() + (0 if _is_negative(timeout) else timeout)
        result = predicate()
        while not result:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wake the n that wait longest. Raises RuntimeError if the lock isn't held."""
        self._check_owned("notify")
        self._waiters.wake(n)

    def notify_all(self) -> None:
        """Wake everybody. Raises RuntimeError if the lock isn't held."""
        self._check_owned("notify")
        self._waiters.wake_all()


class Event:
    """threading.Event's interface: a flag to wait for."""

    def __init__(self) -> None:
        self._flag = False
        self._waiters = Waiters("event")

    def __repr__(self) -> str:
        return f"<gmpy_rt.Event at {id(self):#x}: {'set' if self._flag else 'unset'}>"

    def _at_fork_reinit(self) -> None:
        self._waiters = Waiters("event")

    def is_set(self) -> bool:
        """Whether the flag is up."""
        return self._flag

    def set(self) -> None:
        """Put the flag up and wake everybody."""
        self._flag = True
        self._waiters.wake_all()

    def clear(self) -> None:
        """Take the flag down."""
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the flag is up; False after timeout seconds. Raises Cancelled."""
        if self._flag:
            return True
        ticket = self._waiters.add()
        if self._flag:
            ticket.drop()
            return True
        return ticket.wait(timeout)


class Semaphore(_door.Semaphore):
    """threading.Semaphore's interface; first come, first served."""

    def __repr__(self) -> str:
        return f"<gmpy_rt.{type(self).__name__} at {id(self):#x}: value={self.value}>"


class BoundedSemaphore(Semaphore):
    """A Semaphore whose value never exceeds the first one: release() raises ValueError then."""

    def __init__(self, value: int = 1) -> None:
        super().__init__(value, True)

    def __repr__(self) -> str:
        bound = self._initial_value
        return f"<gmpy_rt.BoundedSemaphore at {id(self):#x}: value={self.value}/{bound}>"


class _Round:
    """Those who meet at a Barrier once."""

    def __init__(self, parties: int) -> None:
        self.free = list(range(parties - 1, -1, -1))  # numbers not given out yet
        self.waiters = Waiters("barrier")
        self.full = False  # the last one has come, and runs the action
        self.over = False
        self.broken = False


class Barrier:
    """threading.Barrier's interface: so many wait for each other.

    A wait that times out breaks the barrier, as there; one that is cancelled gives its place
    back, and the others go on waiting for somebody else.
    """

    def __init__(
        self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
    ) -> None:
        at_least_one("parties", parties, "parties must be >= 1")
        self._parties = parties
        self._action = action
        self._timeout = timeout
        self._lock = Lock()
        self._round = _Round(parties)

    def __repr__(self) -> str:
        if self.broken:
            return f"<gmpy_rt.Barrier at {id(self):#x}: broken>"
        return f"<gmpy_rt.Barrier at {id(self):#x}: waiters={self.n_waiting}/{self._parties}>"

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the others; return which of them this one is, 0 to parties - 1.

        The last to come runs the action first. timeout: seconds, else the constructor's.
        Raises BrokenBarrierError if the barrier is or gets broken, Cancelled.
        """
        timeout = self._timeout if timeout is None else timeout
        with self._lock:
            now = self._round
            if now.broken:
                raise BrokenBarrierError
            me = now.free.pop()
            last = now.full = not now.free
            if last:
                self._round = _Round(self._parties)
            else:
                ticket = now.waiters.add()
        if last:
            self._finish(now)
            return me
        try:
            if not ticket.wait(timeout):
                self._timed_out(now)
        except BaseException:
            self._lock._acquire_anyway()
            now.free.append(me)
            self._lock.release()
            raise
        if now.broken:
            raise BrokenBarrierError
        return me

    def _timed_out(self, now: _Round) -> None:
        """Break the barrier; but if the last one has come, that one's action decides."""
        self._lock._acquire_anyway()
        if not now.full:
            now.broken = True
        self._lock.release()
        if not now.full:
            now.waiters.wake_all()
            return
        ticket = now.waiters.add()
        if now.over or now.broken:
            ticket.drop()
        else:
            ticket.wait()

    def _finish(self, now: _Round) -> None:
        try:
            if self._action is not None:
                self._action()
        except BaseException:
            self._break(now)
            self._break(self._round)
            raise
        now.over = True
        now.waiters.wake_all()

    def _break(self, which: _Round) -> None:
        self._lock._acquire_anyway()
        if not which.over:
            which.broken = True
        self._lock.release()
        which.waiters.wake_all()

    def reset(self) -> None:
        """Back to the beginning; those who wait get BrokenBarrierError."""
        with self._lock:
            old, self._round = self._round, _Round(self._parties)
        self._break(old)

    def abort(self) -> None:
        """Break the barrier until reset(); those who wait or come get BrokenBarrierError."""
        self._break(self._round)

    @property
    def parties(self) -> int:
        """How many wait for each other."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        now = self._round
        return 0 if now.broken else self._parties - len(now.free)

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._round.broken


class RWMutex:
    """Go's sync.RWMutex: many readers or one writer; a waiting writer keeps new readers out.

    When a writer is done, the readers that wait go first, all together. Ownership is handed
    over under the lock: nobody overtakes. Not reentrant. `reader` and `writer` are its two
    sides as locks: `with rw.reader: ...`.
    """

    def __init__(self) -> None:
        self._mu = Lock()
        self._readers = 0
        self._writing = False
        self._writer: int | None = None
        self._read_queue = Waiters("read lock")
        self._write_queue = Waiters("write lock")
        self.reader = _Side(self.rlock, self.runlock)
        self.writer = _Side(self.lock, self.unlock)

    def __repr__(self) -> str:
        state = f"{self._readers} reading"
        if self._writing:
            state = "writing" if self.owner is None else f"G {self.owner} writing"
        waiting = f"{len(self._read_queue)}+{len(self._write_queue)} waiting"
        return f"<gmpy_rt.RWMutex at {id(self):#x}: {state}, {waiting}>"

    @property
    def owner(self) -> int | None:
        """The id of the G that holds it for writing; None if there's none, or it is a thread."""
        return self._writer if self._writing else None

    @property
    def waiters(self) -> int:
        """How many wait, for reading or writing."""
        return len(self._read_queue) + len(self._write_queue)

    def rlock(self, timeout: float | None = None) -> bool:
        """Lock for reading; False after timeout seconds. Raises Cancelled."""
        with self._mu:
            if not self._writing and not len(self._write_queue):
                self._readers += 1
                return True
            ticket = self._read_queue.add()
        try:
            return ticket.wait(timeout)
        except BaseException:
            if ticket.drop():
                self.runlock()
            raise

    def runlock(self) -> None:
        """Undo one rlock(). Raises RuntimeError if nobody reads."""
        self._mu._acquire_anyway()
        try:
            if not self._readers:
                raise RuntimeError(f"runlock of {self!r}, which nobody reads; rlock() it first")
            self._readers -= 1
            if not self._readers:
                self._hand_to_writer()
        finally:
            self._mu.release()

    def lock(self, timeout: float | None = None) -> bool:
        """Lock for writing; False after timeout seconds. Raises Cancelled."""
        with self._mu:
            if not self._writing and not self._readers:
                self._writing = True
                self._note_writer()
                return True
            ticket = self._write_queue.add()
        woken = False
        try:
            woken = ticket.wait(timeout)
            if woken:
                self._note_writer()
            return woken
        except BaseException:
            if ticket.drop():
                self.unlock()
            raise
        finally:
            if not woken:
                self._let_readers_in()

    def unlock(self) -> None:
        """Undo lock(). Raises RuntimeError if nobody writes."""
        self._mu._acquire_anyway()
        try:
            if not self._writing:
                raise RuntimeError(f"unlock of {self!r}, which nobody writes; lock() it first")
            self._writing = False
            self._writer = None
            self._readers = self._read_queue.wake_all()
            if not self._readers:
                self._hand_to_writer()
        finally:
            self._mu.release()

    def _note_writer(self) -> None:
        me = current_or_none()
        self._writer = None if me is None else me.id

    def _hand_to_writer(self) -> None:
        self._writing = True  # before it runs
        if not self._write_queue.wake():
            self._writing = False

    def _let_readers_in(self) -> None:
        """A writer gave up: readers may have waited only for it."""
        self._mu._acquire_anyway()
        if not self._writing and not len(self._write_queue):
            self._readers += self._read_queue.wake_all()
        self._mu.release()


class _Side:
    """One side of an RWMutex with a lock's methods."""

    def __init__(self, take: Callable[[float | None], bool], give: Callable[[], None]) -> None:
        self._take, self.release = take, give

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As Lock.acquire: timeout in seconds, -1 waits for ever."""
        if timeout == -1:
            return self._take(None if blocking else 0)
        if not blocking:
            raise ValueError("can't specify a timeout for a non-blocking call")
        if _is_negative(timeout, "-1"):
            raise ValueError(f"timeout={timeout!r}: give seconds >= 0, or -1 to wait for ever")
        return self._take(timeout)

    def __enter__(self) -> bool:
        return self._take(None)

    def __exit__(self, *exc: object) -> None:
        self.release()


class Once:
    """Go's sync.Once: something that happens once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._started = False
        self._by: G[Any] | int | None = None  # a plain thread's number
        self._done = Event()
        self._done._waiters = Waiters("once")

    def do(self, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call fn(*args, **kwargs) if this is the first do(); else wait until that has ended.

        If fn raises, the caller gets that, and it counts as done. Raises RuntimeError when fn
        itself calls do() (it would wait for ever).
        """
        if self._done.is_set():
            return
        with self._lock:
            first, self._started = not self._started, True
        me = current_or_none() or threading.get_ident()
        if not first:
            if self._by == me:
                raise RuntimeError("Once.do() inside the function that it runs would wait for ever")
            self._done.wait()
            return
        self._by = me
        try:
            fn(*args, **kwargs)
        finally:
            self._by = None
            self._done.set()


class WaitGroup(_door.WaitGroup):
    """Go's sync.WaitGroup: add() before, done() after, wait() for all; or go(fn) for all that."""

    def go(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> G[T]:
        """Start fn(*args, **kwargs) as a G that wait() waits for, and return it."""
        self.add(1)
        try:
            return go_anyway(self._run, fn, args, kwargs)
        except BaseException:
            self.done()
            raise

    def _run(self, fn: Callable[..., T], args: Any, kwargs: Any) -> T:
        try:
            checkpoint()  # cancelled before it began?
            return fn(*args, **kwargs)
        finally:
            self.done()


__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Condition",
    "Event",
    "Lock",
    "Once",
    "RLock",
    "RWMutex",
    "Semaphore",
    "WaitGroup",
]
