"""blocking(): calls that would hold up their M, on threads that need no P."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from . import _door

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

T = TypeVar("T")

MAX_THREADS = 512  # as tokio's max_blocking_threads

_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()
_busy: set[int] = set()  # idents of pool threads inside a call


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        with _pool_lock:
            if _pool is None:
                _pool = ThreadPoolExecutor(MAX_THREADS, "gmpy-blocking", _on_thread_start)
    return _pool


def _on_thread_start() -> None:
    from .runtime import unpin

    unpin()


def is_idle_worker(thread: threading.Thread) -> bool:
    """Whether thread belongs to the pool and is in no call."""
    return thread.name.startswith("gmpy-blocking") and thread.ident not in _busy


def _call(ctx: contextvars.Context, fn: Callable[..., T], args: Any, kwargs: Any) -> T:
    ident = threading.get_ident()
    _busy.add(ident)
    try:
        return ctx.run(fn, *args, **kwargs)
    finally:
        _busy.discard(ident)


def blocking(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Run fn(*args, **kwargs) on a thread of a pool, and park this G until it returns.

    For calls that block outside Python's reach: database drivers in C, big files, DNS. The
    call sees a copy of the G's contextvars. At most MAX_THREADS calls run at once, others
    queue. Returns what fn returns, raises what it raises. If the G is cancelled meanwhile it
    gets Cancelled at once; the call goes on, and its outcome is dropped. In a plain thread
    fn is simply called.
    """
    if _door.current_or_none() is None:
        return fn(*args, **kwargs)
    if not _door.tracing():
        return _on_pool(fn, args, kwargs)
    from . import trace

    with trace.blocking_region(getattr(fn, "__qualname__", type(fn).__name__)):
        return _on_pool(fn, args, kwargs)


def _on_pool(fn: Callable[..., T], args: Any, kwargs: Any) -> T:
    done = _door.Waiters("blocking call")
    ticket = done.add()
    _door.external(1)

    def finished(future: Future[T]) -> None:
        done.wake()
        _door.external(-1)

    # submit() holds locks of threads; a G that was preempted in there would keep them, and the
    # next G of its M would block the M on them for ever.
    _door.no_preempt(1)
    try:
        future = _get_pool().submit(_call, contextvars.copy_context(), fn, args, kwargs)
    except BaseException:
        _door.external(-1)
        raise
    finally:
        _door.no_preempt(-1)
    future.add_done_callback(finished)
    ticket.wait()
    return future.result()


def _after_fork_in_child() -> None:
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()
    _busy.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
