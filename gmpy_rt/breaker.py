"""A circuit breaker that samples open and trial calls close: the guard's decisions.

After section 4.4 of the article 'Go 1.22 ... goroutine starvation':

    closed     every call is admitted. `bad_samples` bad samples in a row -> open.
    open       no call is admitted. After `open_seconds` -> half-open.
    half-open  trial calls: one at first, and one more at a time for each that succeeded. One
               that hasn't come back after `open_seconds` makes room for another.
               `success` of the last `trials` results good -> closed; `failures` in a row,
               or `bad_samples` bad samples in a row -> open.

It keeps no lock and reads no clock but the one it is given: guard.py does the locking, tests
move the time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Literal, NamedTuple

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

State = Literal["closed", "open", "half-open"]


class Rules(NamedTuple):
    """When a breaker changes its state. Seconds, counts, and a share from 0 to 1."""

    bad_samples: int = 3
    open_seconds: float = 30.0
    trials: int = 20
    success: float = 0.95
    failures: int = 3

    def check(self) -> Rules:
        """Return these rules, or raise ValueError that says which one can't be."""
        for name in ("bad_samples", "trials", "failures"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}: give a whole number from 1 up")
        if not self.open_seconds > 0:
            raise ValueError(f"open_seconds={self.open_seconds!r}: give seconds above 0")
        if not 0 < self.success <= 1:
            raise ValueError(f"success={self.success!r}: a share of good trials, above 0, up to 1")
        return self


_numbers = count(1)  # of calls, in all breakers


class Breaker:
    """One breaker, closed at first. Not for several threads at once: the caller locks."""

    def __init__(
        self, rules: Rules | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if rules is not None and not isinstance(rules, Rules):
            raise TypeError(f"rules={rules!r}: give Rules(...) of gmpy_rt.breaker, or None")
        self.rules = (rules or Rules()).check()
        self.opened = 0  # times
        self._clock = clock
        self._state: State = "closed"
        self._bad = 0  # bad samples in a row
        self._failed = 0  # failures in a row
        self._succeeded = 0  # in this half-open period
        self._trials: dict[int, float] = {}  # under way, and since when
        self._results: deque[bool] = deque(maxlen=self.rules.trials)
        self._half_open_at = 0.0

    @property
    def state(self) -> State:
        if self._state == "open" and self._clock() >= self._half_open_at:
            self._change("half-open")
        return self._state

    @property
    def retry_after(self) -> float:
        """Seconds until an open breaker tries again; 0.0 if it isn't open."""
        if self.state != "open":
            return 0.0
        return max(self._half_open_at - self._clock(), 0.0)

    def close(self) -> None:
        """Forget what was seen, and let everything in; `opened` stays."""
        self._change("closed")

    def sample(self, bad: bool) -> None:
        """Take note of one sample."""
        if self.state == "open":
            return
        self._bad = self._bad + 1 if bad else 0
        if self._bad >= self.rules.bad_samples:
            self._open()

    def admit(self) -> int | None:
        """May a call be made now? A number to give to done() afterwards, or None."""
        state, now = self.state, self._clock()
        if state == "open":
            return None
        number = next(_numbers)
        if state == "half-open":
            for trial, since in list(self._trials.items()):
                if now - since >= self.rules.open_seconds:
                    del self._trials[trial]
            if len(self._trials) > self._succeeded:
                return None
            self._trials[number] = now
        return number

    def done(self, admitted: int, ok: bool | None) -> None:
        """How the call ended that admit() gave this number to; None: it tells nothing."""
        if self._trials.pop(admitted, None) is None or ok is None:
            return
        self._results.append(ok)
        self._succeeded += ok
        self._failed = 0 if ok else self._failed + 1
        if self._failed >= self.rules.failures:
            self._open()
        elif (
            len(self._results) == self.rules.trials
            and sum(self._results) >= self.rules.success * self.rules.trials
        ):
            self._change("closed")

    def _open(self) -> None:
        self._half_open_at = self._clock() + self.rules.open_seconds
        self.opened += 1
        self._change("open")

    def _change(self, state: State) -> None:
        self._state = state
        self._bad = self._failed = self._succeeded = 0
        self._trials.clear()
        self._results.clear()
