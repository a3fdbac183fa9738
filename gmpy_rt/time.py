"""Go's timers: after(), Timer and Ticker, which deliver on channels.

What they send is the time.monotonic() (seconds) of the sending. One G per runtime, the
keeper, serves them all; it lives while something is armed. A timer whose channel was closed,
or is held by nobody any more, is dropped when its time comes: until then it could still wake
somebody, for all that a deadlock's detection knows.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from time import monotonic

from . import _load as _load
from ._door import Chan, ChanClosed, G, Lock, Waiters, go, gosched

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c
_BATCH = 256


def _check(seconds: float, name: str = "seconds") -> float:
    try:
        nan = math.isnan(seconds)
    except TypeError:
        raise TypeError(f"{name}={seconds!r}: give a number of seconds") from None
    if nan:
        raise ValueError(f"{name}=nan: give a number of seconds")
    return float(seconds)


def _take_stale(chan: Chan[float]) -> bool:
    """Take out the value of the time before; whether there was one."""
    try:
        return chan.try_recv()[0]
    except ChanClosed:
        return False


class _Entry:
    """A place in the keeper's heap. dead: stopped, or set anew elsewhere in the heap."""

    __slots__ = ("chan", "dead", "number", "period", "when")

    _numbers = count()

    def __init__(self, chan: Chan[float], when: float, period: float | None) -> None:
        self.chan = weakref.ref(chan)
        self.when = when
        self.period = period
        self.dead = False
        self.number = next(self._numbers)

    def __lt__(self, other: _Entry) -> bool:
        return (self.when, self.number) < (other.when, other.number)

    def fire(self, now: float) -> bool:
        """Sends, unless the channel is full. Returns whether it goes on."""
        chan = self.chan()
        if chan is None:
            return False
        try:
            chan.try_send(now)
        except ChanClosed:
            return False
        if self.period is None:
            return False
        self.when += self.period
        if self.when <= now:  # late by more than a period: don't try to catch up
            self.when = now + self.period - (now - self.when) % self.period
        return True


class _Keeper:
    """Sends when it is time. Its G sleeps in `awake` and ends when nothing is armed."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.heap: list[_Entry] = []
        self.awake = Waiters("timers")
        self.g: G[None] | None = None
        self.purge_at = 64

    def add(self, entry: _Entry) -> None:
        self.lock._acquire_anyway()
        try:
            if self.g is None or self.g.done():  # it may have ended with another run()
                self.heap.clear()
                self.g = go(self.loop)
                self.g.name = "timers"
            if len(self.heap) >= self.purge_at:
                self.heap = [e for e in self.heap if not e.dead and e.chan() is not None]
                heapify(self.heap)
                self.purge_at = max(64, 2 * len(self.heap))
            heappush(self.heap, entry)
            if self.heap[0] is entry:
                self.awake.wake()
        finally:
            self.lock.release()

    def stop(self, entry: _Entry) -> bool:
        """Whether it was still armed."""
        self.lock._acquire_anyway()
        armed, entry.dead = not entry.dead, True
        if self.heap and self.heap[0] is entry:
            self.awake.wake()  # so that the keeper can end if this was all
        self.lock.release()
        return armed

    def serve(self, now: float) -> float | None:
        """Sends what is due; returns how long to sleep, None if nothing is armed.

        0.0 after so many that others, and a cancel at the end of a run, should have their turn.
        """
        heap = self.heap
        for _ in range(_BATCH):
            if not heap:
                return None
            entry = heap[0]
            if not entry.dead and entry.chan() is not None and entry.when > now:
                return entry.when - now
            heappop(heap)
            if entry.dead:
                continue
            if entry.fire(now):
                heappush(heap, entry)
            else:
                entry.dead = True
        return 0.0

    def loop(self) -> None:
        while True:
            self.lock._acquire_anyway()
            delay = self.serve(monotonic())
            if delay is None:
                self.g = None
                self.lock.release()
                return
            ticket = self.awake.add() if delay else None
            self.lock.release()
            if ticket is None:
                gosched()
            else:
                ticket.wait(delay)


_keeper = _Keeper()


def _after_fork_in_child() -> None:
    global _keeper
    _keeper = _Keeper()  # the parent's G, and perhaps its lock held, are not this process's


os.register_at_fork(after_in_child=_after_fork_in_child)


def after(seconds: float) -> Chan[float]:
    """A channel that gets one value after so many seconds: a timeout case for select().

    Raises TypeError or ValueError for what isn't a number, RuntimeError outside a runtime.
    """
    chan: Chan[float] = Chan(1)
    _keeper.add(_Entry(chan, monotonic() + _check(seconds), None))
    return chan


class Timer:
    """One value on `chan` after so many seconds, unless stopped or reset before.

    As in Go 1.23: after stop() and reset() the channel holds no value of the time before.
    """

    def __init__(self, seconds: float) -> None:
        self.chan: Chan[float] = Chan(1)
        self._entry = self._arm(_check(seconds))

    def _arm(self, seconds: float) -> _Entry:
        entry = _Entry(self.chan, monotonic() + seconds, None)
        _keeper.add(entry)
        return entry

    def __repr__(self) -> str:
        return f"<Timer at {id(self):#x}: {'over' if self._entry.dead else 'armed'}>"

    def stop(self) -> bool:
        """Disarm it. Returns whether it was armed, or its value not received yet."""
        armed = _keeper.stop(self._entry)
        return _take_stale(self.chan) or armed

    def reset(self, seconds: float) -> bool:
        """Arm it again, from now on. Returns what stop() would."""
        seconds = _check(seconds)
        active = self.stop()
        self._entry = self._arm(seconds)
        return active


class Ticker:
    """A value on `chan` every so many seconds; ticks that nobody receives in time are dropped.

    Iterating receives: `for now in Ticker(1.0)`. Raises ValueError if the period isn't above 0.
    """

    def __init__(self, period: float) -> None:
        self._check(period)
        self.chan: Chan[float] = Chan(1)
        self._entry = self._arm(period)

    @staticmethod
    def _check(period: float) -> None:
        if not _check(period, "period") > 0:
            raise ValueError(f"period={period!r}: a Ticker's period is above 0 seconds")

    def _arm(self, period: float) -> _Entry:
        entry = _Entry(self.chan, monotonic() + period, float(period))
        _keeper.add(entry)
        return entry

    def stop(self) -> None:
        """No more ticks. The channel isn't closed: who waits for a tick goes on waiting.

        To end that one's loop, close `chan` yourself.
        """
        _keeper.stop(self._entry)
        _take_stale(self.chan)

    def reset(self, period: float) -> None:
        """Tick every `period` seconds from now on; a tick that nobody received yet is dropped."""
        self._check(period)
        self.stop()
        self._entry = self._arm(period)

    def __iter__(self) -> Iterator[float]:
        return iter(self.chan)

    def __enter__(self) -> Ticker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


__all__ = ["Ticker", "Timer", "after"]
