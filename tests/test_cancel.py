"""cancel(), timeout(), deadline(), shield()."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import threading
import time
import types
from pathlib import Path

import pytest
from support import PATIENCE, is_parked, poll_until, preempts
from test_g import in_runtime, on_one_p

import gmpy_rt as rt
from gmpy_rt import queue
from gmpy_rt._door import Poll, Waiters


@in_runtime
def test_a_timeout_that_expires_leaves_its_block_with_timeout_error():
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"0\.02 s") as raised, rt.timeout(0.02) as scope:
        rt.sleep(PATIENCE)
    assert scope.expired
    assert isinstance(raised.value.__context__, rt.Cancelled)
    assert 0.02 <= time.monotonic() - begun < PATIENCE / 2


@in_runtime
def test_a_timeout_that_does_not_expire_does_nothing():
    with rt.timeout(PATIENCE) as scope:
        rt.sleep(0)
    assert not scope.expired and scope.when > time.monotonic()
    with rt.timeout(None) as scope:
        rt.sleep(0)
    assert scope.when is None


@in_runtime
def test_the_outer_timeout_passes_through_the_inner_one():
    inner = []
    with pytest.raises(TimeoutError) as raised, rt.timeout(0.02) as outer:
        try:
            with rt.timeout(PATIENCE) as scope:
                rt.Chan().recv()
        except TimeoutError:
            inner.append("expired")
    assert inner == [] and outer.expired and not scope.expired
    assert "0.02" in str(raised.value)


@in_runtime
def test_the_inner_timeout_does_not_touch_the_outer_one():
    with rt.timeout(PATIENCE) as outer:
        with pytest.raises(TimeoutError), rt.timeout(0.01):
            rt.sleep(PATIENCE)
        rt.sleep(0.001)
    assert not outer.expired


@on_one_p
def test_both_expired_is_the_outer_ones_once():
    """One P has one heap of timers, which go off in order: both before the sleep's. And what
    expires in the shield isn't raised before its end, where both have."""
    got = []
    with pytest.raises(TimeoutError, match=r"0\.01 s"), rt.timeout(None) as outer:
        try:
            with rt.timeout(None) as inner:
                with rt.shield():
                    outer.reschedule(0.01)
                    inner.reschedule(0.001)
                    rt.sleep(0.05)
                rt.sleep(PATIENCE)
        except TimeoutError:
            got.append("inner")
        rt.sleep(PATIENCE)
    assert got == []
    assert outer.expired and not inner.expired


@in_runtime
def test_an_expiry_that_found_no_park_is_withdrawn_at_the_end_of_the_block():
    with rt.timeout(0.001) as scope:
        time.sleep(0.005)
    rt.sleep(0.001)
    assert not scope.expired


@in_runtime
def test_timeout_0_expires_at_the_first_park():
    steps = []
    with pytest.raises(TimeoutError), rt.timeout(0):
        steps.append("before")
        rt.gosched()
        steps.append("after")
    assert steps == ["before"]


@in_runtime
def test_deadline_is_a_time_of_the_monotonic_clock():
    with pytest.raises(TimeoutError, match="deadline"), rt.deadline(time.monotonic() + 0.01) as d:
        rt.sleep(PATIENCE)
    assert d.expired
    with pytest.raises(TimeoutError), rt.deadline(time.monotonic() - 1):
        rt.sleep(PATIENCE)


@in_runtime
def test_reschedule_moves_the_end():
    with rt.timeout(0.01) as scope:
        scope.reschedule(PATIENCE)
        rt.sleep(0.03)
        scope.reschedule(None)
        rt.sleep(0.01)
    with pytest.raises(TimeoutError), rt.timeout(PATIENCE) as scope:
        scope.reschedule(0.001)
        rt.sleep(PATIENCE)
    with pytest.raises(RuntimeError, match="inside the block"):
        scope.reschedule(1)


@in_runtime
def test_a_scope_can_be_cancelled_from_another_g_and_from_a_thread():
    for start in (rt.go, lambda fn: threading.Thread(target=fn).start()):
        with pytest.raises(TimeoutError, match="cancelled"), rt.timeout(None) as scope:
            start(scope.cancel)
            rt.sleep(PATIENCE)
        assert scope.cancel() is False


@in_runtime
def test_other_exceptions_pass_unchanged():
    with pytest.raises(KeyError), rt.timeout(0.001):
        try:
            rt.sleep(PATIENCE)
        finally:
            raise KeyError("mine")


@in_runtime
def test_misuse_of_a_scope():
    scope = rt.timeout(1)
    with scope, pytest.raises(RuntimeError, match="once"):
        scope.__enter__()
    with pytest.raises(RuntimeError, match="left once"):
        scope.__exit__(None, None, None)
    entered = rt.timeout(1)
    entered.__enter__()
    with pytest.raises(RuntimeError, match="by the G that entered"):
        rt.go(entered.__exit__, None, None, None).result(PATIENCE)
    with pytest.raises(RuntimeError, match="left once"):
        entered.__exit__(None, None, None)
    with pytest.raises(TypeError, match="number of seconds"):
        rt.timeout("1")
    with pytest.raises(ValueError, match="nan"):
        rt.timeout(math.nan)
    with pytest.raises(ValueError, match="nan"):
        rt.deadline(math.nan)


def test_outside_a_g_it_says_so():
    with pytest.raises(RuntimeError, match="on a G"), rt.timeout(1):
        pass


@in_runtime
def test_a_g_that_ends_inside_a_scope_leaves_no_timer():
    def body():
        rt.timeout(0.01).__enter__()

    rt.go(body).result(PATIENCE)
    rt.sleep(0.03)
    assert sum(p.timers for p in rt.stats().per_p) == 0


@in_runtime
def test_shield_holds_cancel_back_until_its_end():
    steps = []

    def body():
        with rt.shield():
            rt.sleep(0.02)
            steps.append("inside")
        steps.append("left")
        rt.sleep(PATIENCE)
        steps.append("never")

    g = rt.go(body)
    poll_until(lambda: is_parked(g))
    g.cancel()
    assert isinstance(g.exception(PATIENCE), rt.Cancelled)
    assert steps == ["inside", "left"]


@in_runtime
def test_a_timeout_inside_a_shield_works_and_one_outside_waits():
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"0\.01 s"), rt.timeout(0.01):
        with rt.shield():
            with pytest.raises(TimeoutError, match=r"0\.02 s"), rt.timeout(0.02):
                rt.sleep(PATIENCE)
            rt.sleep(0.02)
        rt.sleep(PATIENCE)
    assert time.monotonic() - begun >= 0.04


@in_runtime
@preempts
def test_a_hog_is_interrupted_though_nobody_else_wants_its_p():
    with pytest.raises(TimeoutError), rt.timeout(0.02):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            pass

    def hog():
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            pass

    g = rt.go(hog)
    rt.sleep(0.02)
    g.cancel()
    assert isinstance(g.exception(PATIENCE), rt.Cancelled)


# The compiler leaves the jump back of these loops out of the handlers around them: what was raised
# there passed by them all, 20 times of 20 (3.14.7t).
def branch_at_the_end(never, note):
    try:
        while True:
            if never.done():
                note("never")
    except rt.Cancelled:
        note("except")
        raise
    finally:
        note("finally")


def branch_in_a_with(never, note):
    lock = rt.Lock()
    try:
        while True:
            with lock:
                if never.done():
                    note("never")
    finally:
        note("except")
        note("held" if lock.locked() else "finally")


def branch_inside_a_with(never, note):
    lock = rt.Lock()
    try:
        with lock:
            for _ in iter(int, 1):
                if never.done():
                    note("never")
    finally:
        note("except")
        note("held" if lock.locked() else "finally")


@in_runtime
@preempts
@pytest.mark.parametrize("hog", [branch_at_the_end, branch_in_a_with, branch_inside_a_with])
def test_what_stands_around_a_hogs_loop_sees_the_interrupt(hog):
    for _ in range(20):
        notes, before_the_loop = [], [True]
        never = types.SimpleNamespace(done=before_the_loop.clear)  # in C, as that of a G
        g = rt.go(hog, never, notes.append)
        # One that is cancelled earlier has nothing around it yet.
        poll_until(lambda before_the_loop=before_the_loop: not before_the_loop)
        g.cancel()
        assert isinstance(g.exception(PATIENCE), rt.Cancelled)
        assert notes == ["except", "finally"]


@in_runtime
@preempts
def test_a_hog_that_takes_items_is_interrupted_without_losing_one():
    for _ in range(20):
        q = queue.SimpleQueue()
        q.put("item")

        def hog(q=q):
            while True:
                q.put(q.get_nowait())

        g = rt.go(hog)
        rt.sleep(0.005)
        g.cancel()
        assert isinstance(g.exception(PATIENCE), rt.Cancelled)
        assert q.qsize() == 1


PARKS = {
    "sleep": lambda env: rt.sleep(PATIENCE),
    "recv": lambda env: env.chan.recv(),
    "send": lambda env: env.chan.send(1),
    "select": lambda env: rt.select(env.chan, (env.other, 2)),
    "lock": lambda env: env.lock.acquire(),
    "rlock": lambda env: env.rlock.acquire(),
    "condition": lambda env: env.wait_condition(),
    "event": lambda env: env.event.wait(),
    "semaphore": lambda env: env.semaphore.acquire(),
    "barrier": lambda env: env.barrier.wait(),
    "read lock": lambda env: env.rw.rlock(),
    "write lock": lambda env: env.rw.lock(),
    "wait group": lambda env: env.wg.wait(),
    "queue get": lambda env: env.empty.get(),
    "queue put": lambda env: env.full.put(1),
    "simple queue": lambda env: env.simple.get(),
    "join": lambda env: env.g.join(),
    "blocking": lambda env: rt.blocking(env.thread_event.wait, PATIENCE),
    "socket": lambda env: env.socket_wait(False),
    "full socket": lambda env: env.socket_wait(True),
    "once": lambda env: env.once.do(print),
    "queue join": lambda env: env.full.join(),
    "task group": lambda env: env.group_wait(),
    "park": lambda env: env.plain.wait(),
    "after": lambda env: rt.after(PATIENCE).recv(),
    "gather": lambda env: rt.gather(env.chan.recv, env.event.wait),
}


class Env:
    """Things that everybody waits for in vain."""

    def __init__(self):
        self.chan, self.other = rt.Chan(), rt.Chan()
        self.lock, self.rlock, self.rw = rt.Lock(), rt.RLock(), rt.RWMutex()
        self.condition, self.event = rt.Condition(), rt.Event()
        self.semaphore, self.barrier = rt.Semaphore(0), rt.Barrier(100)
        self.wg = rt.WaitGroup()
        self.empty, self.full, self.simple = queue.Queue(), queue.Queue(1), queue.SimpleQueue()
        self.thread_event = threading.Event()
        self.ends = socket.socketpair()
        self.ends[0].setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.ends[0].send(bytes(100_000))
        self.once, self.plain = rt.Once(), Waiters()
        self.lock.acquire()
        self.rw.lock()
        self.wg.add(1)
        self.full.put(0)
        self.stop = rt.Chan()
        self.g = rt.go(self.hold)
        poll_until(lambda: is_parked(self.g))

    def hold(self):
        with self.rlock:
            self.once.do(self.stop.recv)

    def wait_condition(self):
        with self.condition:
            try:
                self.condition.wait()
            finally:
                assert self.condition._is_owned()

    def socket_wait(self, for_writing):
        poll = Poll(os.dup(self.ends[0].fileno()))
        try:
            poll.wait(for_writing, None)
        finally:
            poll.close()

    def group_wait(self):
        with rt.TaskGroup() as tg:
            tg.go(self.chan.recv)

    def close(self):
        self.thread_event.set()
        for end in self.ends:
            end.close()
        self.stop.send(None)
        self.g.result(PATIENCE)

    def assert_nothing_waits(self):
        queues = [
            self.condition._waiters,
            self.event._waiters,
            self.barrier._round.waiters,
            self.rw._read_queue,
            self.rw._write_queue,
            self.empty.not_empty._waiters,
            self.full.not_full._waiters,
            self.full.all_tasks_done._waiters,
            self.once._done._waiters,
            self.plain,
        ]
        assert [len(q) for q in queues] == [0] * len(queues)
        assert self.lock.waiters == self.rlock.waiters == 0
        assert self.chan.try_send(1) is False and self.other.try_recv() == (False, None)
        assert self.barrier.n_waiting == 0
        self.semaphore.release()
        assert self.semaphore.value == 1
        self.simple.put(5)
        assert self.simple.get(False) == 5
        assert not self.condition._lock.locked()


@pytest.mark.parametrize("kind", PARKS)
@pytest.mark.parametrize("how", ["cancel", "timeout", "both"])
@in_runtime
def test_an_interrupted_wait_leaves_nothing_behind(kind, how):
    env, before = Env(), rt.num_goroutine()

    def body():
        if how == "cancel":
            PARKS[kind](env)
        else:
            with rt.timeout(0.01):
                PARKS[kind](env)

    gs = [rt.go(body) for _ in range(5)]
    if how != "timeout":
        for g in gs:
            if how == "cancel":
                poll_until(lambda g=g: is_parked(g))
            g.cancel()
    for g in gs:
        assert isinstance(g.exception(PATIENCE), rt.Cancelled | TimeoutError)
    poll_until(lambda: rt.num_goroutine() <= before + (kind == "after"))
    env.assert_nothing_waits()
    env.close()


PYLOOK = Path(__file__).resolve().parent.parent / "csrc" / "bridge" / "pylook.c"


@pytest.mark.skipif(not PYLOOK.exists(), reason="needs the core's source, which names the parks")
@in_runtime
def test_every_kind_of_park_is_interrupted_here():
    source = PYLOOK.read_text()
    names = source[source.index("wait_reasons[WAIT_REASONS] = {") :]
    reasons = set(re.findall(r'\[WAIT_\w+\] = "(.*)"', names[: names.index("};")]))
    reasons -= {"waiting"}  # none
    reasons -= {"timers"}  # the timers' own G; it isn't given out
    env, seen = Env(), set()
    for kind in PARKS.values():
        g = rt.go(kind, env)
        poll_until(lambda g=g: is_parked(g))
        seen.add(g.state)
        g.cancel()
        assert isinstance(g.exception(PATIENCE), rt.Cancelled)
    env.close()
    assert seen == reasons


@in_runtime
def test_10_000_parked_gs_are_cancelled():
    chan = rt.Chan()
    gs = [rt.go(chan.recv) for _ in range(10_000)]
    poll_until(lambda: all(map(is_parked, gs)))
    for g in gs:
        g.cancel()
    for g in gs:
        assert g.join(PATIENCE)
    assert chan.try_send(1) is False


@in_runtime
def test_what_a_wake_up_carried_is_kept_when_the_cancel_comes_after_it():
    """Woken with a value and cancelled before it ran: it has the value, then the cancel."""
    for _ in range(200):
        chan, got = rt.Chan(), []

        def body(chan=chan, got=got):
            got.append(chan.recv())
            rt.sleep(PATIENCE)

        g = rt.go(body)
        poll_until(lambda g=g: is_parked(g))
        chan.send(7)
        g.cancel()
        assert isinstance(g.exception(PATIENCE), rt.Cancelled)
        assert got == [7]


@in_runtime
def test_reschedule_does_not_undo_a_cancel():
    with pytest.raises(TimeoutError), rt.timeout(None) as scope:
        assert scope.cancel()
        with pytest.raises(RuntimeError, match="cancelled"):
            scope.reschedule(10)
        rt.sleep(PATIENCE)


@in_runtime
def test_reschedule_asks_for_the_number_once():
    class Odd:
        def __init__(self, *answers):
            self.answers = list(answers)

        def __float__(self):
            return self.answers.pop(0)()

    def fails():
        raise ZeroDivisionError

    with rt.timeout(10) as scope:
        scope.reschedule(Odd(lambda: 20.0, fails))
        with pytest.raises(ZeroDivisionError):
            scope.reschedule(Odd(fails))
    scope = rt.timeout(10)
    scope.__enter__()
    with pytest.raises(RuntimeError, match="inside the block"):
        scope.reschedule(Odd(lambda: float(scope.__exit__(None, None, None))))


def test_a_block_that_another_g_leaves_is_over():
    """A generator's, say. Its G was interrupted for it later, wherever it was then."""

    def main():
        def block():
            with rt.timeout(0.02):
                yield

        def shielded():
            with rt.shield():
                yield

        blocks = [block(), shielded()]
        for b in blocks:
            next(b)
        for b in blocks:
            with pytest.raises(RuntimeError, match="by the G that entered it"):
                rt.go(b.close).result(PATIENCE)
        rt.sleep(0.05)
        rt.current().cancel()
        with pytest.raises(rt.Cancelled):
            rt.sleep(PATIENCE)

    rt.run(main, procs=1)
