"""Plain threads, asyncio and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest
from support import PATIENCE, poll_until
from test_g import in_runtime

import gmpy_rt as rt
from gmpy_rt import runtime


def in_thread(fn):
    """fn() in a plain thread, from a G."""
    result = rt.Chan(1)

    def body():
        try:
            result.send((fn(), None))
        except BaseException as exc:
            result.send((None, exc))

    thread = threading.Thread(target=body)
    thread.start()
    value, exc = result.recv(PATIENCE)
    rt.blocking(thread.join)
    if exc is not None:
        raise exc
    return value


@in_runtime
def test_call_from_thread_runs_a_g_and_gives_its_outcome():
    def fn(a, *, b):
        assert rt.current() is not None
        rt.sleep(0.001)
        return a + b

    assert in_thread(lambda: rt.call_from_thread(fn, 1, b=2)) == 3
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: rt.call_from_thread(lambda: 1 / 0))


def test_call_from_thread_outside_a_runtime():
    with pytest.raises(RuntimeError, match="outside a runtime"):
        rt.call_from_thread(print)


@in_runtime
def test_asyncio_in_another_thread_awaits_gs():
    async def main():
        good = rt.go(lambda: (rt.sleep(0.005), 7)[1])
        bad = rt.go(lambda: 1 / 0)
        gone = rt.go(rt.sleep, PATIENCE)
        gone.cancel()
        assert await rt.awaitable(good) == 7
        with pytest.raises(ZeroDivisionError):
            await rt.awaitable(bad)
        with pytest.raises(asyncio.CancelledError):
            await rt.awaitable(gone)
        slow = rt.go(rt.sleep, PATIENCE)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(rt.awaitable(slow), 0.01)
        return slow

    slow = in_thread(lambda: asyncio.run(main()))
    assert isinstance(slow.exception(PATIENCE), rt.Cancelled)


def test_signals_come_on_a_channel_until_denotify():
    before = signal.getsignal(signal.SIGUSR1)

    def main():
        chan, other = rt.notify(signal.SIGUSR1, signal.SIGUSR2), rt.notify(signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert chan.recv(PATIENCE) == other.recv(PATIENCE) == signal.SIGUSR1
        os.kill(os.getpid(), signal.SIGUSR2)
        assert chan.recv(PATIENCE) == signal.SIGUSR2
        rt.denotify(other)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
        poll_until(lambda: len(chan) == 1)  # the others found it full
        chan.recv(PATIENCE)
        rt.denotify(chan)
        with pytest.raises(ValueError, match="name the signals"):
            rt.notify()
        with pytest.raises(ValueError, match="12345"):
            rt.notify(12345)

    rt.run(main)
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_signal_named_twice_comes_once():
    before = signal.getsignal(signal.SIGUSR1)

    def main():
        chan = rt.notify(signal.SIGUSR1, signal.SIGUSR1, chan=rt.Chan(4))
        rt.notify(signal.SIGUSR1, chan=chan)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert chan.recv(PATIENCE) == signal.SIGUSR1
        assert chan.try_recv() == (False, None)
        rt.denotify(chan)

    rt.run(main)
    assert signal.getsignal(signal.SIGUSR1) == before


def test_signals_need_run_in_the_main_thread():
    got = []

    def body():
        def main():
            with pytest.raises(RuntimeError, match="main thread"):
                rt.notify(signal.SIGUSR1)
            got.append(True)

        rt.run(main)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(PATIENCE)
    assert got == [True]


def test_who_awaits_a_g_hears_of_the_end_of_its_run():
    heard, waits = [], threading.Event()

    async def wait(g):
        future = rt.awaitable(g)
        waits.set()
        try:
            await future
        except asyncio.CancelledError:
            heard.append("cancelled")

    def slow_to_end():
        try:
            rt.sleep(PATIENCE)
        finally:
            with rt.shield():
                rt.sleep(0.02)

    def main():
        g = rt.go(slow_to_end)
        thread = threading.Thread(target=lambda: asyncio.run(wait(g)))
        thread.start()
        rt.blocking(waits.wait)
        return thread

    rt.run(main).join(PATIENCE)
    assert heard == ["cancelled"]


def test_a_signal_that_cannot_be_caught_changes_nothing():
    before = signal.getsignal(signal.SIGUSR1)

    def main():
        with pytest.raises(OSError, match="SIGKILL"):
            rt.notify(signal.SIGUSR1, signal.SIGKILL)

    rt.run(main)
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_handler_may_wait_while_its_thread_waits():
    """Both sat on the thread's one seat, and the queue of the outer wait was spoiled."""
    lock, chan, got = rt.Lock(), rt.Chan(), []

    def handler(signum, frame):
        got.append(lock.acquire(timeout=0.01))
        sent.start()

    lock.acquire()
    sent = threading.Thread(target=chan.send, args=(1, PATIENCE))
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert chan.recv(PATIENCE) == 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert got == [False] and not chan.try_send(1)
    sent.join(PATIENCE)


def test_a_notify_that_was_cancelled_has_not_happened():
    before = signal.getsignal(signal.SIGUSR1)
    begun, release = threading.Event(), threading.Event()

    def hold():
        begun.set()
        release.wait(PATIENCE)

    def main():
        holder = rt.go(runtime.in_main_thread, hold)
        poll_until(begun.is_set)
        with pytest.raises(TimeoutError), rt.timeout(0.01):
            rt.notify(signal.SIGUSR1)
        release.set()
        holder.result(PATIENCE)
        rt.denotify(rt.Chan())  # comes after what was asked before

    rt.run(main, procs=1)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_who_asks_the_main_thread_as_the_run_ends_is_answered():
    got = []
    thread = threading.Thread(target=lambda: got.append(rt.notify(signal.SIGUSR1)))

    def late():
        if not thread.ident:
            thread.start()
        poll_until(lambda: runtime._active.calls)

    rt.run(lambda: runtime.at_stop(late))
    thread.join(PATIENCE)
    (chan,) = got
    os.kill(os.getpid(), signal.SIGUSR1)
    assert chan.recv(PATIENCE) == signal.SIGUSR1
    rt.denotify(chan)


def test_a_done_g_can_be_awaited_after_its_run():
    g = rt.run(lambda: rt.go(lambda: 5))
    failed = rt.run(lambda: rt.go(lambda: 1 / 0))

    async def view():
        with pytest.raises(ZeroDivisionError):
            await rt.awaitable(failed)
        return await rt.awaitable(g)

    assert asyncio.run(view()) == 5


def test_what_the_main_thread_raises_comes_to_who_asked():
    def main():
        g = rt.go(runtime.in_main_thread, [].pop)
        with pytest.raises(IndexError):
            g.result(PATIENCE)
        return "main"

    assert rt.run(main, procs=1) == "main"
