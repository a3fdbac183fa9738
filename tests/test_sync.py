"""RLock, Condition, Event, Semaphore, Barrier, RWMutex, Once, WaitGroup.go."""

from __future__ import annotations

import threading
import time

import pytest
from support import PATIENCE, is_parked, poll_until
from test_g import in_runtime, on_one_p

import gmpy_rt as rt
from gmpy_rt._door import Waiters


def parked(*gs):
    poll_until(lambda: all(map(is_parked, gs)))


# ---------------------------------------------------------------- RLock


@on_one_p
def test_an_rlock_belongs_to_a_g_not_to_its_thread():
    lock = rt.RLock()
    with lock, lock:
        assert lock.owner == rt.current().id
        assert rt.go(lock.acquire, False).result(PATIENCE) is False
        g = rt.go(lock.release)
        with pytest.raises(RuntimeError, match="doesn't hold it"):
            g.result(PATIENCE)
    assert not lock.locked()
    with pytest.raises(RuntimeError):
        lock.release()


def test_an_rlock_between_a_thread_and_a_g():
    lock = rt.RLock()
    with lock, lock:
        assert rt.run(lambda: lock.acquire(timeout=0.01)) is False
    assert rt.run(lambda: lock.acquire(timeout=1)) is True
    assert lock.acquire(False) is False


# ---------------------------------------------------------------- Condition


@in_runtime
def test_notify_wakes_that_many_in_order():
    cond, woken = rt.Condition(), []

    def body(n):
        with cond:
            cond.wait()
            woken.append(n)

    gs = []
    for n in range(5):
        gs.append(rt.go(body, n))
        parked(*gs)
    with cond:
        cond.notify(2)
    poll_until(lambda: len(woken) == 2)
    rt.sleep(0.01)
    assert sorted(woken) == [0, 1]
    with cond:
        cond.notify_all()
    for g in gs:
        g.result(PATIENCE)
    assert len(woken) == 5


@in_runtime
@pytest.mark.parametrize("make", [rt.Lock, rt.RLock, threading.Lock, threading.RLock])
def test_a_condition_takes_any_lock(make):
    cond = rt.Condition(make())
    with cond:
        assert cond.wait(0.01) is False
        assert cond.wait_for(lambda: 7) == 7
        assert cond.wait_for(lambda: 0, timeout=0.01) == 0
    for misuse in (cond.wait, cond.notify, cond.notify_all):
        with pytest.raises(RuntimeError, match="un-acquired"):
            misuse()


@in_runtime
def test_a_cancelled_wait_has_the_lock_again_and_passes_its_wake_up_on():
    for _ in range(100):
        cond, woken = rt.Condition(rt.Lock()), []

        def body(n, cond=cond, woken=woken):
            with cond:
                cond.wait()
                assert cond._lock.locked()
                woken.append(n)

        first = rt.go(body, 1)
        parked(first)
        second = rt.go(body, 2)
        parked(second)
        with cond:
            cond.notify()  # for the first, which has to wait for the lock
            first.cancel()
        first.join(PATIENCE)
        if not woken:
            second.result(PATIENCE)
        assert woken
        second.cancel()
        second.join(PATIENCE)
        assert not cond._lock.locked()


# ---------------------------------------------------------------- Event, Semaphore


@in_runtime
def test_an_event_wakes_everybody_and_stays_set():
    event = rt.Event()
    gs = [rt.go(event.wait) for _ in range(10)]
    parked(*gs)
    event.set()
    assert all(g.result(PATIENCE) for g in gs)
    assert event.wait(0) and event.is_set()
    event.clear()
    assert event.wait(0.01) is False


@in_runtime
def test_an_event_reaches_a_plain_thread():
    event, got = rt.Event(), rt.Chan(1)
    thread = threading.Thread(target=lambda: got.send(event.wait(PATIENCE)))
    thread.start()
    rt.sleep(0.01)
    event.set()
    assert got.recv(PATIENCE) is True
    rt.blocking(thread.join)


@in_runtime
def test_a_semaphore_is_first_come_first_served():
    sem, order = rt.Semaphore(0), []

    def body(n):
        sem.acquire()
        order.append(n)

    gs = []
    for n in range(5):
        gs.append(rt.go(body, n))
        parked(*gs)
    for _ in range(5):
        sem.release()
        assert not sem.acquire(False)
    for g in gs:
        g.result(PATIENCE)
    assert sorted(order) == list(range(5))


@in_runtime
def test_semaphore_misuse():
    with pytest.raises(ValueError, match=">= 0"):
        rt.Semaphore(-1)
    with pytest.raises(ValueError, match="one or more"):
        rt.Semaphore().release(0)
    bounded = rt.BoundedSemaphore(2)
    with pytest.raises(ValueError, match="too many"):
        bounded.release()
    with bounded:
        assert bounded.value == 1
    with pytest.raises(ValueError, match="non-blocking"):
        bounded.acquire(False, 1)
    with pytest.raises(TypeError, match="number"):
        rt.Event().wait("soon")


@in_runtime
def test_units_are_not_lost_to_waits_that_time_out():
    sem, taken = rt.Semaphore(0), [0] * 8

    def body(n):
        for _ in range(200):
            taken[n] += sem.acquire(timeout=0.0002)

    gs = [rt.go(body, n) for n in range(8)]
    given = 0
    while not all(g.done() for g in gs):
        sem.release()
        given += 1
        rt.gosched()
    for g in gs:
        g.result(PATIENCE)
    assert sum(taken) + sem.value == given


# ---------------------------------------------------------------- Barrier


@in_runtime
def test_a_barrier_numbers_its_parties_and_runs_the_action_once():
    actions = []
    barrier = rt.Barrier(4, lambda: actions.append(1))
    for _ in range(5):
        gs = [rt.go(barrier.wait) for _ in range(4)]
        assert sorted(g.result(PATIENCE) for g in gs) == [0, 1, 2, 3]
    assert len(actions) == 5


@in_runtime
def test_a_cancelled_party_gives_its_place_back():
    barrier = rt.Barrier(3)
    lost = rt.go(barrier.wait)
    parked(lost)
    lost.cancel()
    lost.join(PATIENCE)
    gs = [rt.go(barrier.wait) for _ in range(3)]
    assert sorted(g.result(PATIENCE) for g in gs) == [0, 1, 2]


@in_runtime
def test_a_party_that_times_out_breaks_the_barrier_until_reset():
    barrier = rt.Barrier(3)
    other = rt.go(barrier.wait)
    parked(other)
    with pytest.raises(rt.BrokenBarrierError):
        barrier.wait(0.01)
    with pytest.raises(rt.BrokenBarrierError):
        other.result(PATIENCE)
    with pytest.raises(rt.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    gs = [rt.go(barrier.wait) for _ in range(3)]
    assert len({g.result(PATIENCE) for g in gs}) == 3


@in_runtime
def test_an_action_that_fails_breaks_the_barrier():
    barrier = rt.Barrier(2, lambda: 1 / 0)
    g = rt.go(barrier.wait)
    parked(g)
    with pytest.raises(ZeroDivisionError):
        barrier.wait()
    with pytest.raises(rt.BrokenBarrierError):
        g.result(PATIENCE)
    assert barrier.broken


# ---------------------------------------------------------------- RWMutex


@on_one_p
def test_readers_together_writers_alone():
    """Sets, not numbers: an M whose P was handed on runs until it next enters the core, so even on
    one P two may count at once."""
    rw, readers, writers, together = rt.RWMutex(), set(), set(), []

    def read():
        me = rt.current().id
        for _ in range(50):
            with rw.reader:
                readers.add(me)
                together.append(len(readers))
                assert not writers
                rt.gosched()
                readers.discard(me)

    def write():
        me = rt.current().id
        for _ in range(20):
            with rw.writer:
                writers.add(me)
                assert writers == {me} and not readers
                rt.gosched()
                writers.discard(me)

    gs = [rt.go(fn) for fn in [read, write, read, read, write, read] * 3]
    for g in gs:
        g.result(PATIENCE)
    assert max(together) > 1


@in_runtime
def test_a_waiting_writer_keeps_new_readers_out():
    rw = rt.RWMutex()
    rw.rlock()
    writer = rt.go(rw.lock)
    parked(writer)
    assert rw.rlock(timeout=0.01) is False
    reader = rt.go(rw.rlock)
    parked(reader)
    rw.runlock()
    assert writer.result(PATIENCE) is True
    assert is_parked(reader)
    rw.unlock()
    assert reader.result(PATIENCE) is True


@in_runtime
def test_a_writer_that_gives_up_lets_the_readers_in():
    rw = rt.RWMutex()
    rw.rlock()
    writer = rt.go(rw.lock)
    parked(writer)
    readers = [rt.go(rw.rlock) for _ in range(3)]
    parked(*readers)
    writer.cancel()
    for g in readers:
        assert g.result(PATIENCE) is True
    assert rw._readers == 4


@in_runtime
def test_an_rwmutex_names_its_writer_and_counts_who_waits():
    rw = rt.RWMutex()
    assert rw.owner is None and rw.waiters == 0
    rw.lock()
    assert rw.owner == rt.current().id and f"G {rw.owner} writing" in repr(rw)
    reader, writer = rt.go(rw.rlock), rt.go(rw.lock)
    parked(reader, writer)
    assert rw.waiters == 2
    rw.unlock()
    assert reader.result(PATIENCE) and rw.owner is None and rw.waiters == 1
    rw.runlock()
    assert writer.result(PATIENCE) and rw.owner == writer.id and rw.waiters == 0
    rw.unlock()
    thread = threading.Thread(target=rw.lock)
    thread.start()
    rt.blocking(thread.join, PATIENCE)
    assert rw.owner is None and "writing" in repr(rw)


@in_runtime
def test_rwmutex_misuse():
    rw = rt.RWMutex()
    with pytest.raises(RuntimeError, match="nobody reads"):
        rw.runlock()
    with pytest.raises(RuntimeError, match="nobody writes"):
        rw.unlock()
    assert rw.lock(timeout=0) and not rw.lock(timeout=0) and not rw.reader.acquire(False)


# ---------------------------------------------------------------- Once, WaitGroup, Waiters


@in_runtime
def test_once_runs_once_and_the_others_wait_for_it():
    once, calls = rt.Once(), []

    def slow():
        rt.sleep(0.01)
        calls.append(1)

    def body():
        once.do(slow)
        assert calls == [1]

    gs = [rt.go(body) for _ in range(20)]
    for g in gs:
        g.result(PATIENCE)
    failing = rt.Once()
    with pytest.raises(ZeroDivisionError):
        failing.do(lambda: 1 / 0)
    failing.do(lambda: 1 / 0)
    again = rt.Once()
    with pytest.raises(RuntimeError, match="for ever"):
        again.do(lambda: again.do(print))


def test_once_in_itself_says_so_in_a_plain_thread_too():
    once = rt.Once()
    with pytest.raises(RuntimeError, match="wait for ever"):
        once.do(lambda: once.do(print))


@in_runtime
def test_waitgroup_go_counts_for_the_caller():
    wg, out = rt.WaitGroup(), []
    for n in range(20):
        wg.go(out.append, n)
    g = wg.go(lambda: 1 / 0)
    assert wg.wait(PATIENCE) and wg.count == 0
    assert sorted(out) == list(range(20))
    with pytest.raises(ZeroDivisionError):
        g.result(PATIENCE)
    with pytest.raises(ValueError, match="below 0"):
        wg.done()


@in_runtime
def test_a_wake_up_between_add_and_wait_is_not_lost():
    waiters = Waiters()
    ticket = waiters.add()
    assert waiters.wake() == 1
    assert ticket.wait(0) is True
    dropped, second = waiters.add(), waiters.add()
    waiters.wake()
    del dropped  # woken, dies without a wait: the next one gets it
    assert second.wait(0) is True
    assert len(waiters) == 0
    with pytest.raises(RuntimeError, match="once"):
        second.wait()


@in_runtime
def test_primitives_die_quietly_with_their_waiters_gone():
    for make in (rt.Condition, rt.Event, rt.RLock, rt.RWMutex, rt.Once):
        make()
    begun = time.monotonic()
    assert rt.Event().wait(0.01) is False
    assert time.monotonic() - begun >= 0.01


@in_runtime
def test_waitgroup_counts_one_that_was_cancelled_before_it_began():
    wg = rt.WaitGroup()

    def before_it_began():
        ran = []
        g = wg.go(ran.append, 1)
        g.cancel()
        assert wg.wait(PATIENCE)
        cancelled = isinstance(g.exception(PATIENCE), rt.Cancelled)
        assert cancelled != bool(ran)
        return cancelled

    poll_until(before_it_began)  # another M may be quicker than the cancel


@in_runtime
@pytest.mark.parametrize("kind", [rt.Condition, rt.Event])
def test_a_wait_with_a_bad_timeout_leaves_no_waiter(kind):
    """It stayed in the queue for as long as the exception lived, and took a notify."""
    waited = kind()
    kept = []
    for bad in ("x", float("nan")):
        try:
            if kind is rt.Condition:
                with waited:
                    waited.wait(bad)
            else:
                waited.wait(bad)
        except (TypeError, ValueError) as exc:
            kept.append(exc)
    assert len(kept) == 2 and len(waited._waiters) == 0


def timed_out_in_the_action(fails):
    """(barrier, first, last, Event): the last one's action goes on until the Event, and the first
    one's timeout is over. It begins with the action: how long a busy machine takes to bring the
    last one in, nobody knows."""
    acting, over, go_on = rt.Event(), rt.Event(), rt.Event()

    class FromTheAction:
        def __float__(self):  # asked for when the first one has its place, before it parks
            assert acting.wait(PATIENCE)
            return 0.01

    class Barrier(rt.Barrier):
        def _timed_out(self, now):
            over.set()
            super()._timed_out(now)

    def action():
        acting.set()
        assert go_on.wait(PATIENCE)
        if fails:
            raise ZeroDivisionError

    barrier = Barrier(2, action)
    first = rt.go(barrier.wait, FromTheAction())
    poll_until(lambda: barrier.n_waiting == 1)
    last = rt.go(barrier.wait)
    assert over.wait(PATIENCE)
    parked(first)
    return barrier, first, last, go_on


@in_runtime
def test_a_timeout_does_not_break_a_barrier_whose_last_one_has_come():
    """As in threading, where that one holds the lock while it runs the action."""
    barrier, first, last, go_on = timed_out_in_the_action(fails=False)
    go_on.set()
    assert {first.result(PATIENCE), last.result(PATIENCE)} == {0, 1}
    assert not barrier.broken


@in_runtime
def test_a_barriers_failed_action_reaches_one_that_timed_out_meanwhile():
    barrier, first, last, go_on = timed_out_in_the_action(fails=True)
    go_on.set()
    assert isinstance(last.exception(PATIENCE), ZeroDivisionError)
    assert isinstance(first.exception(PATIENCE), rt.BrokenBarrierError)
    assert barrier.broken


@in_runtime
@pytest.mark.parametrize("base", [rt.Semaphore, rt.BoundedSemaphore])
def test_a_subclass_of_a_semaphore_has_an_init_of_its_own(base):
    class Named(base):
        def __init__(self, name, value=2):
            super().__init__(value)
            self.name = name

    named = Named("db")
    assert named.name == "db" and named.value == 2
    assert named.acquire() and named.acquire() and not named.acquire(False)
    with pytest.raises(ValueError, match="-1"):
        Named("bad", -1)


@in_runtime
def test_a_side_of_an_rwmutex_takes_what_a_lock_takes():
    rw = rt.RWMutex()
    for side in (rw.reader, rw.writer):
        assert side.acquire(True, 0.1) is True
        side.release()
        with pytest.raises(ValueError, match="-5"):
            side.acquire(timeout=-5)
        with pytest.raises(ValueError, match="non-blocking"):
            side.acquire(False, 5)
        with pytest.raises(TypeError, match="None"):
            side.acquire(timeout=None)
    assert not rt.Condition().locked()
    with rt.Condition() as held:
        assert held
