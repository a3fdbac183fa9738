"""Between the runtime and what lives outside it: plain threads, asyncio, signals.

Channels, locks, queues and G.result() work from plain threads as they are; here is the rest.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from . import _load as _load
from . import runtime
from ._door import Cancelled, Chan, ChanClosed, G, Scope, go, go_anyway

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

P = ParamSpec("P")
T = TypeVar("T")


def call_from_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run fn(*args, **kwargs) as a G and wait for it in this plain thread.

    Returns what fn returns, raises what it raises. Raises RuntimeError outside a runtime.
    """
    return go(fn, *args, **kwargs).result()


def awaitable(g: G[T]) -> asyncio.Future[T]:
    """A view of g for asyncio code in another thread: `await awaitable(g)`.

    Call it in that thread, inside its running loop. Awaiting gives g's result or raises its
    exception; asyncio.CancelledError if g was cancelled. Cancelling the future cancels g.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle() -> None:
        if future.done():
            return
        exc = g.exception(0)
        if exc is None:
            future.set_result(g.result(0))
        elif isinstance(exc, Cancelled):
            future.cancel()
        else:
            future.set_exception(exc)

    def watch() -> None:
        with Scope(shield=True):  # g ends; cancelled with it as a run ends, who awaits must hear
            g.join()
        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            return  # the loop was closed: nobody waits

    def cancelled(f: asyncio.Future[T]) -> None:
        if f.cancelled():
            g.cancel()

    if g.done():
        settle()
        return future
    go_anyway(watch).name = f"watch {g.id}"
    future.add_done_callback(cancelled)
    return future


_signals: dict[int, list[Chan[int]]] = {}
_previous: dict[int, Any] = {}


def notify(*signums: int, chan: Chan[int] | None = None) -> Chan[int]:
    """A channel that gets the number of each of these signals that comes.

    chan: one to use; its capacity says how many may wait (1 unless given); what finds it full
    is dropped. From then on the signal does nothing else, until denotify(). Raises ValueError
    for a number that isn't a signal's or without any, OSError for one that can't be caught,
    RuntimeError outside a runtime (but in the main thread) or when run() wasn't called in the
    main thread.
    """
    if not signums:
        raise ValueError("notify(): name the signals, such as signal.SIGTERM")
    numbers = list(dict.fromkeys(int(signal.Signals(n)) for n in signums))
    target: Chan[int] = Chan(1) if chan is None else chan

    def install() -> None:
        before = {}
        try:
            for n in numbers:
                if n not in _signals:
                    before[n] = signal.signal(n, _deliver)
        except OSError as exc:
            for done, handler in before.items():
                signal.signal(done, handler)
            name = signal.Signals(n).name
            raise OSError(exc.errno, f"notify({name}): this signal can't be caught") from None
        _previous.update(before)
        for n in numbers:
            chans = _signals.setdefault(n, [])
            if not any(c is target for c in chans):
                chans.append(target)
                added.append(n)

    added: list[int] = []
    try:
        runtime.in_main_thread(install)
    except BaseException:
        if added:  # cancelled just then: who asked has no channel to say denotify() of
            with Scope(shield=True):
                runtime.in_main_thread(lambda: _remove(target, added))
        raise
    return target


def denotify(chan: Chan[int]) -> None:
    """No more signals to chan; those that nobody else wants do again what they did before."""

    runtime.in_main_thread(lambda: _remove(chan, list(_signals)))


def _remove(chan: Chan[int], numbers: list[int]) -> None:
    for n in numbers:
        chans = _signals[n]
        chans[:] = [c for c in chans if c is not chan]
        if not chans:
            del _signals[n]
            signal.signal(n, _previous.pop(n))


def _deliver(signum: int, frame: object) -> None:
    for chan in list(_signals.get(signum, ())):
        with suppress(ChanClosed):
            chan.try_send(signum)


__all__ = ["awaitable", "call_from_thread", "denotify", "notify"]
