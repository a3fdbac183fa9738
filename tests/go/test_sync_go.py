"""What Go's own tests ask of sync (mutex, rwmutex, cond, once, waitgroup), in this API's words."""

from __future__ import annotations

import contextlib
import time

import pytest
from support import PATIENCE, is_parked, on_procs, poll_until

import gmpy_rt as rt


def parked(*gs):
    for g in gs:
        poll_until(lambda g=g: is_parked(g))


# ---------------------------------------------------------------- Lock


@pytest.mark.parametrize("make", [rt.Lock, rt.RLock])
@on_procs(1, 2, 4)
def test_hammering_a_lock_by_all_ways_to_take_it(make):
    lock, inside, count = make(), [], [0]

    def hammer(me):
        for i in range(300):
            if i % 3 == 0:
                if not lock.acquire(False):
                    continue
            elif i % 3 == 1:
                if not lock.acquire(timeout=PATIENCE):
                    raise AssertionError("not within the time")
            else:
                lock.acquire()
            inside.append(me)
            if i % 10 == 0:
                rt.gosched()
            assert inside == [me]
            inside.pop()
            count[0] += 1
            lock.release()

    gs = [rt.go(hammer, me) for me in range(10)]
    for g in gs:
        g.result(PATIENCE)
    assert 2000 <= count[0] <= 3000
    assert not lock.locked() and lock.waiters == 0


@on_procs(2, 4)
def test_a_lock_is_fair_to_one_that_wants_it_seldom():
    """One G holds the lock nearly all the time; another wants it ten times, and gets it."""
    lock, stop = rt.Lock(), []

    def hog():
        while not stop:
            with lock:
                rt.sleep(0.0001)

    def seldom():
        for _ in range(10):
            rt.sleep(0.0001)
            with lock:
                pass

    g = rt.go(hog)
    rt.go(seldom).result(PATIENCE)
    stop.append(1)
    g.result(PATIENCE)


# ---------------------------------------------------------------- RWMutex


@on_procs(1, 2, 4)
def test_readers_hold_it_at_the_same_time():
    for n in (1, 3, 10):
        rw, locked, go_on = rt.RWMutex(), rt.Chan(), rt.Chan()

        def read(rw=rw, locked=locked, go_on=go_on):
            with rw.reader:
                locked.send(None)
                go_on.recv()

        gs = [rt.go(read) for _ in range(n)]
        for _ in range(n):  # all of them are inside
            locked.recv(PATIENCE)
        assert not rw.lock(timeout=0) and not rw.writer.acquire(False)
        for _ in range(n):
            go_on.send(None)
        for g in gs:
            g.result(PATIENCE)
        assert rw.lock(timeout=0)


@pytest.mark.parametrize("readers", [1, 3, 10])
@on_procs(1, 2, 4)
def test_hammering_a_rwmutex(readers):
    rw, activity = rt.RWMutex(), rt.Semaphore(0)
    mu, level = rt.Lock(), [0]

    def add(n):
        with mu:
            level[0] += n
            return level[0]

    def read():
        for _ in range(60):
            with rw.reader:
                assert 0 < add(1) < 10_000
                rt.gosched()
                add(-1)

    def write():
        for _ in range(60):
            with rw.writer:
                assert add(10_000) == 10_000
                rt.gosched()
                add(-10_000)

    gs = [rt.go(write), rt.go(write), *(rt.go(read) for _ in range(readers))]
    for g in gs:
        g.result(PATIENCE)
    assert level == [0] and activity.value == 0 and rw.waiters == 0


# ---------------------------------------------------------------- Condition


@on_procs(1, 2, 4)
def test_notify_wakes_one_at_a_time():
    n = 10
    cond, running, awake = rt.Condition(rt.Lock()), rt.Chan(n), rt.Chan(n)

    def wait():
        with cond:
            running.send(None)
            cond.wait()
            awake.send(None)

    gs = [rt.go(wait) for _ in range(n)]
    for _ in gs:
        running.recv(PATIENCE)
    for left in range(n, 0, -1):
        assert awake.try_recv() == (False, None)
        with cond:  # whoever said that it runs waits by now, or we'd not have the lock
            assert len(cond._waiters) == left
            cond.notify()
        awake.recv(PATIENCE)
    with cond:
        cond.notify()
    for g in gs:
        g.result(PATIENCE)


@on_procs(1, 2, 4)
def test_notify_serves_generations_in_order():
    n = 50
    cond, running, awake = rt.Condition(rt.Lock()), rt.Chan(n), rt.Chan(n)

    def wait(number):
        with cond:
            running.send(None)
            cond.wait()
            awake.send(number)

    for number in range(n):
        rt.go(wait, number)
        if number > 0:
            assert awake.recv(PATIENCE) == number - 1
        running.recv(PATIENCE)
        with cond:
            cond.notify()
    assert awake.recv(PATIENCE) == n - 1


@on_procs(1, 2, 4)
def test_notify_all_wakes_everybody_again_and_again():
    n = 50
    cond, running, awake = rt.Condition(rt.Lock()), rt.Chan(n), rt.Chan(n)
    leave = [False]

    def wait():
        with cond:
            while not leave[0]:
                running.send(None)
                cond.wait()
                awake.send(None)

    gs = [rt.go(wait) for _ in range(n)]
    for round_ in range(5):
        for _ in range(n):
            running.recv(PATIENCE)
        assert awake.try_recv() == (False, None)
        with cond:
            leave[0] = round_ == 4
            cond.notify_all()
        for _ in range(n):
            awake.recv(PATIENCE)
    for g in gs:
        g.result(PATIENCE)


@on_procs(1, 2, 4)
def test_who_begins_to_wait_after_a_notify_does_not_steal_it():
    for _ in range(50):
        cond, started = rt.Condition(rt.Lock()), rt.Chan()

        def early(cond=cond, started=started):
            with cond:
                started.send(None)
                cond.wait()
                return "early"

        first = rt.go(early)
        started.recv(PATIENCE)
        late = [False]
        with cond:
            cond.notify()

        def second(cond=cond, late=late):
            with cond:
                while not late[0]:
                    cond.wait()

        g = rt.go(second)
        assert first.result(PATIENCE) == "early"
        with cond:
            late[0] = True
            cond.notify_all()
        g.result(PATIENCE)


# ---------------------------------------------------------------- Once


@on_procs(1, 2, 4)
def test_once_is_over_for_everybody_when_do_returns():
    for _ in range(30):
        once, done = rt.Once(), [0]

        def fn(done=done):
            rt.gosched()
            done[0] += 1

        def do(once=once, done=done, fn=fn):
            once.do(fn)
            return done[0]

        gs = [rt.go(do) for _ in range(10)]
        assert [g.result(PATIENCE) for g in gs] == [1] * 10


@on_procs(1, 2)
def test_once_counts_a_failure_as_done():
    once = rt.Once()
    with pytest.raises(ZeroDivisionError):
        once.do(lambda: 1 // 0)
    once.do(lambda: pytest.fail("called twice"))

    def twice():
        fresh.do(lambda: fresh.do(print))

    fresh = rt.Once()
    with pytest.raises(RuntimeError, match="would wait for ever"):
        rt.go(twice).result(PATIENCE)


# ---------------------------------------------------------------- WaitGroup


@on_procs(1, 2, 4)
def test_a_wait_group_can_be_used_round_after_round():
    first, second, n = rt.WaitGroup(), rt.WaitGroup(), 16
    for _ in range(8):
        first.add(n)
        second.add(n)
        exited = rt.Chan(n)

        def meet(exited=exited):
            first.done()
            second.wait()
            exited.send(None)

        gs = [rt.go(meet) for _ in range(n)]
        first.wait()
        for _ in range(n):
            assert exited.try_recv() == (False, None)
            second.done()
        for _ in range(n):
            exited.recv(PATIENCE)
        for g in gs:
            g.result(PATIENCE)


@on_procs(1, 2, 4)
def test_wait_returns_after_the_last_done_and_not_before():
    for _ in range(500):
        wg, n = rt.WaitGroup(), rt.Semaphore(0)

        def work(n=n):
            n.release()

        wg.go(work)
        wg.go(work)
        wg.wait()
        assert n.value == 2 and wg.count == 0


@on_procs(1)
def test_wait_group_misuse():
    wg = rt.WaitGroup()
    wg.add(1)
    wg.done()
    with pytest.raises(ValueError, match="below 0"):
        wg.done()
    with pytest.raises(ValueError, match="below 0"):
        wg.add(-3)
    assert wg.count == 0 and wg.wait(0)
    with pytest.raises(TypeError):
        wg.add("one")
    with pytest.raises(ZeroDivisionError):
        wg.go(lambda: 1 // 0).result(PATIENCE)
    assert wg.wait(PATIENCE)  # one that fails is done, too


# ---------------------------------------------------------------- unlocking what isn't locked


@on_procs(1)
def test_unlocking_what_is_not_locked():
    lock, rlock, rw = rt.Lock(), rt.RLock(), rt.RWMutex()
    misuses = [
        (lock.release, "nobody holds"),
        (rlock.release, "doesn't hold"),
        (rw.unlock, "nobody writes"),
        (rw.runlock, "nobody reads"),
        (rt.Condition().notify, "un-acquired"),
        (rt.Condition().wait, "un-acquired"),
    ]
    for misuse, message in misuses:
        with pytest.raises(RuntimeError, match=message):
            misuse()
    rw.rlock()
    with pytest.raises(RuntimeError, match="nobody writes"):
        rw.unlock()
    rw.runlock()
    rw.lock()
    with pytest.raises(RuntimeError, match="nobody reads"):
        rw.runlock()
    rlock.acquire()
    with pytest.raises(RuntimeError, match="doesn't hold"):
        rt.go(rlock.release).result(PATIENCE)
    # And all of them still work.
    rw.unlock()
    rlock.release()
    for good in (lock, rlock, rw.reader, rw.writer, rt.Condition()):
        with good:
            pass


@on_procs(1, 2)
def test_a_lock_whose_holder_ended_can_be_freed_by_another():
    lock = rt.Lock()
    rt.go(lock.acquire).result(PATIENCE)
    g = rt.go(lock.acquire)
    parked(g)
    lock.release()
    assert g.result(PATIENCE)
    with contextlib.suppress(RuntimeError):
        lock.release()
    begun = time.monotonic()
    assert lock.acquire(timeout=PATIENCE) and time.monotonic() - begun < PATIENCE
