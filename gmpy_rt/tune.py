"""GOMAXPROCS follows what the process may use: a container's CPU quota may change while it runs.

As Go since 1.25: looked at about once a second, and only where nobody said how many P's there
shall be (run(procs=), GMPY_MAXPROCS, gomaxprocs(n)). The main thread does it: it waits in run()
anyway.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from . import _door
from . import _load as _load
from . import procs as _procs
from ._core import ffi, lib
from ._door import Lock

ENV = "GMPY_TUNE_SECONDS"
DEFAULT_SECONDS = 1.0

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c


def interval() -> float | None:
    """Seconds between two looks: GMPY_TUNE_SECONDS, 1.0 unless set; None if that is 0.

    Raises ValueError if it is no number of seconds.
    """
    text = os.environ.get(ENV, "").strip()
    try:
        seconds = float(text) if text else DEFAULT_SECONDS
    except ValueError:
        seconds = -1.0
    if not (seconds == 0 or 0.01 <= seconds <= 3600):
        raise ValueError(
            f"{ENV}={text!r}: seconds between two looks at the CPU quota, from 0.01 to 3600; "
            "0 switches it off, unset it is 1"
        )
    return seconds or None


class Tuner:
    """Sets the number of P's to what may be used, but never below the reserve and one more.

    available: how many CPUs may be used now. clock: seconds.
    """

    def __init__(
        self,
        seconds: float,
        available: Callable[[], int] = _procs.available_procs,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changes = 0
        self._seconds, self._available, self._clock = seconds, available, clock
        self._next = clock() + seconds
        self._stat = ffi.new("gmpy_stat *")
        self._lock = Lock()
        self._off = False

    def left(self) -> float:
        """Seconds until the next look is due."""
        return max(self._next - self._clock(), 0.0)

    def tick(self) -> None:
        """Look, if it is time to."""
        if self.left() > 0:
            return
        self._next = self._clock() + self._seconds
        try:
            available = self._available()
        except OSError:
            return  # no file can be opened now
        with self._lock:
            lib.gmpy_stat_read(self._stat, 0)
            wanted = at_least(available, self._stat.reserve)
            if not self._off and wanted != self._stat.procs:
                _door.gomaxprocs(wanted)
                self.changes += 1

    def stop(self) -> None:
        """Somebody else chooses from now on: when this returns, nothing will be set any more."""
        with self._lock:
            self._off = True


def at_least(available: int, reserve: int) -> int:
    """P's for so many CPUs: at least one beside the reserved ones, at most MAX_PROCS."""
    return min(max(available, reserve + 1), _procs.MAX_PROCS)
