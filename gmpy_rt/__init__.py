"""Go's scheduler for Python: green threads in plain blocking style, on every core."""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import _load as _load
from ._door import (
    Cancelled,
    Chan,
    ChanClosed,
    DeadlockError,
    G,
    Lock,
    current,
    go,
    gosched,
    select,
    sleep,
)
from .blocking import blocking
from .cancel import deadline, shield, timeout
from .dump import dump, dump_on_signal
from .executor import Executor
from .group import Pool, TaskGroup, gather, map_as_completed
from .group import map as map
from .local import Local
from .outside import awaitable, call_from_thread, denotify, notify
from .runtime import (
    gomaxprocs,
    latency_class,
    lock_os_thread,
    num_goroutine,
    reserve,
    run,
    unlock_os_thread,
)
from .stats import stats
from .sync import (
    Barrier,
    BoundedSemaphore,
    BrokenBarrierError,
    Condition,
    Event,
    Once,
    RLock,
    RWMutex,
    Semaphore,
    WaitGroup,
)
from .time import Ticker, Timer, after

if _TYPE_CHECKING:
    from . import debug as debug
    from . import guard as guard
    from . import metrics as metrics
    from . import pprof as pprof
    from . import queue as queue
    from . import socket as socket
    from . import trace as trace

__version__ = "0.1.0"

_MODULES = ("breaker", "debug", "guard", "metrics", "pprof", "queue", "socket", "trace")


def __getattr__(name: str) -> _Any:
    """gmpy_rt.queue and the like, imported when they are first asked for."""
    if name in _MODULES:
        return _importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "BrokenBarrierError",
    "Cancelled",
    "Chan",
    "ChanClosed",
    "Condition",
    "DeadlockError",
    "Event",
    "Executor",
    "G",
    "Local",
    "Lock",
    "Once",
    "Pool",
    "RLock",
    "RWMutex",
    "Semaphore",
    "TaskGroup",
    "Ticker",
    "Timer",
    "WaitGroup",
    "after",
    "awaitable",
    "blocking",
    "call_from_thread",
    "current",
    "deadline",
    "denotify",
    "dump",
    "dump_on_signal",
    "gather",
    "go",
    "gomaxprocs",
    "gosched",
    "latency_class",
    "lock_os_thread",
    "map_as_completed",
    "notify",
    "num_goroutine",
    "reserve",
    "run",
    "select",
    "shield",
    "sleep",
    "stats",
    "timeout",
    "unlock_os_thread",
]
