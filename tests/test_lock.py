"""Lock and WaitGroup."""

from __future__ import annotations

import threading

import pytest
from support import PATIENCE, is_parked, poll_until
from test_g import in_runtime

import gmpy_rt as rt


@in_runtime
def test_a_lock_excludes():
    lock, inside, worst = rt.Lock(), [0], [0]

    def body():
        for _ in range(50):
            with lock:
                inside[0] += 1
                worst[0] = max(worst[0], inside[0])
                rt.gosched()
                inside[0] -= 1

    gs = [rt.go(body) for _ in range(20)]
    for g in gs:
        g.result(PATIENCE)
    assert worst == [1] and inside == [0] and not lock.locked()


@in_runtime
def test_acquire_without_waiting_and_with_a_timeout():
    lock = rt.Lock()
    assert lock.acquire() is True
    assert lock.acquire(False) is False
    assert lock.acquire(blocking=False) is False
    assert lock.acquire(timeout=0.01) is False
    assert lock.acquire(True, 0.01) is False
    lock.release()
    assert lock.acquire(timeout=0.01) is True


@in_runtime
def test_release_of_a_free_lock_is_an_error():
    with pytest.raises(RuntimeError, match="nobody holds"):
        rt.Lock().release()


@in_runtime
def test_any_g_may_release():
    lock = rt.Lock()
    lock.acquire()
    g = rt.go(lock.acquire)
    poll_until(lambda: is_parked(g))
    rt.go(lock.release).result(PATIENCE)
    assert g.result(PATIENCE) is True


@in_runtime
def test_a_lock_names_its_owner_and_its_waiters():
    lock = rt.Lock()
    assert lock.owner is None
    with lock:
        g = rt.go(lock.acquire)
        poll_until(lambda: is_parked(g))
        assert lock.owner == rt.current().id and lock.waiters == 1
        assert "locked" in repr(lock)
    assert g.result(PATIENCE)
    assert lock.owner == g.id and lock.waiters == 0


@in_runtime
def test_a_lock_names_who_waits_in_the_order_they_came():
    for lock in (rt.Lock(), rt.RLock()):
        assert lock.waiting == ()
        lock.acquire()

        def take(lock=lock):
            with lock:
                pass

        first = rt.go(take)
        poll_until(lambda g=first: is_parked(g))
        thread = threading.Thread(target=take)
        thread.start()
        poll_until(lambda lock=lock: lock.waiters == 2)
        last = []
        for _ in range(20):
            last.append(rt.go(take))
            poll_until(lambda g=last[-1]: is_parked(g))
        assert lock.waiting == (first.id, None, *(g.id for g in last))
        last[3].cancel()
        assert last[3].join(PATIENCE) and last.pop(3).id not in lock.waiting
        assert len(lock.waiting) == 21
        lock.release()
        for g in (first, *last):
            g.result(PATIENCE)
        rt.blocking(thread.join, PATIENCE)
        assert lock.waiting == () and lock.waiters == 0


@in_runtime
def test_with_releases_when_the_block_raises():
    lock = rt.Lock()
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert not lock.locked()


@in_runtime
def test_who_waited_long_is_not_passed_by_for_ever():
    lock, stop = rt.Lock(), []

    def greedy():
        while not stop:
            with lock:
                rt.sleep(0.0005)

    gs = [rt.go(greedy) for _ in range(2)]
    for _ in range(20):
        assert lock.acquire(timeout=PATIENCE)
        lock.release()
        rt.gosched()
    stop.append(True)
    for g in gs:
        g.result(PATIENCE)


@in_runtime
def test_timeouts_and_releases_race_without_losing_the_lock():
    lock, done = rt.Lock(), [0]

    def body():
        for _ in range(100):
            if lock.acquire(timeout=0.0003):
                rt.gosched()
                lock.release()
                done[0] += 1

    gs = [rt.go(body) for _ in range(10)]
    for g in gs:
        g.result(PATIENCE)
    assert lock.acquire(timeout=1) and lock.waiters == 0
    assert done[0] > 0


def test_plain_threads_and_gs_share_a_lock():
    lock, count = rt.Lock(), [0]

    def body():
        for _ in range(300):
            with lock:
                count[0] += 1

    def main():
        threads = [threading.Thread(target=body) for _ in range(2)]
        gs = [rt.go(body) for _ in range(4)]
        for thread in threads:
            thread.start()
        for g in gs:
            g.result(PATIENCE)
        for thread in threads:
            rt.blocking(thread.join, PATIENCE)

    rt.run(main)
    assert count == [6 * 300]


@in_runtime
def test_wait_group_waits_for_all():
    wg, done = rt.WaitGroup(), []

    def body(i):
        rt.gosched()
        done.append(i)
        wg.done()

    wg.add(10)
    for i in range(10):
        rt.go(body, i)
    assert wg.wait(PATIENCE) is True
    assert sorted(done) == list(range(10)) and wg.count == 0


@in_runtime
def test_wait_group_times_out_and_wakes_all():
    wg = rt.WaitGroup()
    assert wg.wait() is True
    wg.add()
    assert wg.wait(0) is False
    assert wg.wait(timeout=0.01) is False
    gs = [rt.go(wg.wait) for _ in range(10)]
    poll_until(lambda: all(map(is_parked, gs)))
    wg.done()
    assert [g.result(PATIENCE) for g in gs] == [True] * 10


@in_runtime
def test_wait_group_can_be_used_again():
    wg = rt.WaitGroup()
    for _ in range(5):
        wg.add(2)
        rt.go(wg.done)
        rt.go(wg.done)
        assert wg.wait(PATIENCE)


@in_runtime
def test_wait_group_below_zero_is_an_error():
    wg = rt.WaitGroup()
    wg.add(1)
    with pytest.raises(ValueError, match="below 0"):
        wg.add(-2)
    assert wg.count == 1
    wg.done()
    with pytest.raises(ValueError, match="more done"):
        wg.done()
