"""Go's scheduler for Python: green threads in plain blocking style, on every core."""

from . import _load as _load
from ._door import (
    Cancelled,
    Chan,
    ChanClosed,
    DeadlockError,
    G,
    Lock,
    WaitGroup,
    current,
    go,
    gosched,
    select,
    sleep,
)
from .blocking import blocking
from .runtime import gomaxprocs, lock_os_thread, num_goroutine, run, unlock_os_thread
from .stats import stats

__version__ = "0.1.0"

__all__ = [
    "Cancelled",
    "Chan",
    "ChanClosed",
    "DeadlockError",
    "G",
    "Lock",
    "WaitGroup",
    "blocking",
    "current",
    "go",
    "gomaxprocs",
    "gosched",
    "lock_os_thread",
    "num_goroutine",
    "run",
    "select",
    "sleep",
    "stats",
    "unlock_os_thread",
]
