"""dump(), SIGQUIT, and deadlock reports that name the cycle."""

from __future__ import annotations

import io
import os
import re
import signal
import time

import pytest
from support import PATIENCE, is_parked, poll_until, run_script
from test_g import in_runtime

import gmpy_rt as rt
from gmpy_rt.dump import stacks


def of(text: str, g: rt.G) -> str:
    """The part of a dump about g."""
    return re.search(rf"^G {g.id} .*?(?=^G |\Z)", text, re.S | re.M)[0]


@in_runtime
def test_a_dump_shows_state_time_m_stack_and_creator():
    chan = rt.Chan()

    def receiver():
        chan.recv()

    g = rt.go(receiver)
    g.name = "me"
    poll_until(lambda: is_parked(g))
    out = io.StringIO()
    rt.dump(out)
    part = of(out.getvalue(), g)
    assert re.match(rf"G {g.id} 'me' \[chan receive, \d+\.\d s, m={g.m}\]:\n", part)
    assert "in test_a_dump_shows_state_time_m_stack_and_creator.<locals>.receiver" in part
    assert "    chan.recv()\n" in part
    if g.created is not None:  # 3.12 and newer
        assert re.search(rf"created by test_a_dump\w+ at {re.escape(__file__)}:\d+", part)
    me = of(out.getvalue(), rt.current())
    assert "[running, m=" in me
    chan.send(1)
    g.result(PATIENCE)


@in_runtime
def test_a_dump_of_many_that_run_and_park_is_whole():
    stop = []

    def body():
        while not stop:
            rt.gosched()
            rt.sleep(0.0001)

    gs = [rt.go(body) for _ in range(50)]
    for _ in range(100):
        text = stacks()
        for g in gs:
            assert of(text, g)
    stop.append(1)
    for g in gs:
        g.result(PATIENCE)


@in_runtime
def test_a_cycle_is_named():
    a, b = rt.Lock(), rt.RLock()
    both = rt.Barrier(2)  # each holds its first lock before it asks for the other's

    def one():
        with a:
            both.wait(PATIENCE)
            b.acquire()

    def two():
        with b:
            both.wait(PATIENCE)
            a.acquire()

    gs = [rt.go(one), rt.go(two)]
    with pytest.raises(rt.DeadlockError) as raised:
        gs[0].join()
    one_, two_ = (g.id for g in gs)
    text = str(raised.value)
    assert re.search(
        rf"deadlock: G {one_} waits for RLock \w+ held by G {two_}, "
        rf"which waits for Lock \w+ held by G {one_}",
        text,
    ) or re.search(rf"deadlock: G {two_} waits for Lock \w+ held by G {one_}, which", text)
    mine = rf"\[join, \d+\.\d s, m={rt.current().m}\] for the end of G {one_}"
    assert re.search(mine, text)


@in_runtime
def test_who_holds_a_lock_is_named_when_it_has_ended_with_it():
    lock = rt.Lock()
    holder = rt.go(lock.acquire)
    holder.result(PATIENCE)
    with pytest.raises(rt.DeadlockError, match=f"held by G {holder.id}, which ended without"):
        lock.acquire()


@in_runtime
def test_waiting_for_oneself_is_a_cycle_of_one():
    lock = rt.Lock()
    lock.acquire()
    me = rt.current().id
    with pytest.raises(
        rt.DeadlockError, match=rf"deadlock: G {me} waits for Lock \w+ held by G {me}"
    ):
        lock.acquire()


def test_sigquit_prints_a_dump_and_the_program_goes_on():
    done = run_script(
        """
        import os, signal
        def waiter():
            rt.Chan().recv()
        def main():
            g = go(waiter)
            while not g.waiting:
                rt.sleep(0.001)
            rt.dump_on_signal()
            os.kill(os.getpid(), signal.SIGQUIT)
            rt.sleep(0.2)
            print("goes on")
        run(main)
        """
    )
    assert "goes on" in done.stdout
    assert "[chan receive, " in done.stderr and "in waiter" in done.stderr


@in_runtime
def test_a_signal_may_be_chosen():
    before = signal.getsignal(signal.SIGUSR2)
    rt.dump_on_signal(signal.SIGUSR2)
    try:
        assert signal.getsignal(signal.SIGUSR2) is not before
        os.kill(os.getpid(), signal.SIGUSR2)
        rt.sleep(0.01)
    finally:
        from gmpy_rt.runtime import in_main_thread

        in_main_thread(lambda: signal.signal(signal.SIGUSR2, before))


def test_stacks_are_read_while_gs_come_and_go():
    """Where none was noted, live frames were walked, and gone meanwhile: a crash, 3 times of 3."""
    from gmpy_rt.debug import text

    def deep(n):
        if n:
            deep(n - 1)
        else:
            rt.sleep(0.0001)

    def worker():
        for i in range(4):
            deep(i * 3 + 2)

    def spawn():
        while not stop:
            for g in [rt.go(worker) for _ in range(60)]:
                g.join()

    def look():
        end = time.monotonic() + 3
        while time.monotonic() < end:
            text.goroutines()
        stop.append(True)

    def main():
        gs = [rt.go(spawn) for _ in range(2)]
        rt.blocking(look)
        for g in gs:
            g.result(PATIENCE)

    stop = []
    rt.run(main, procs=2)
