"""gmpy_rt.queue; the interface itself is tested by CPython's test_queue, see cpython/."""

from __future__ import annotations

import queue as stdlib
import threading

import pytest
from support import PATIENCE, is_parked, poll_until, preempts
from test_g import in_runtime

import gmpy_rt as rt
from gmpy_rt import queue


def test_exceptions_are_the_stdlibs():
    assert queue.Empty is stdlib.Empty and queue.Full is stdlib.Full
    assert queue.ShutDown is getattr(stdlib, "ShutDown", queue.ShutDown)


@in_runtime
@pytest.mark.parametrize(
    ("kind", "order"),
    [
        (queue.Queue, [3, 1, 2]),
        (queue.LifoQueue, [2, 1, 3]),
        (queue.PriorityQueue, [1, 2, 3]),
        (queue.SimpleQueue, [3, 1, 2]),
    ],
)
def test_the_order_of_each_kind(kind, order):
    q = kind()
    for item in (3, 1, 2):
        q.put(item)
    assert [q.get() for _ in range(3)] == order
    with pytest.raises(queue.Empty):
        q.get(timeout=0.01)
    with pytest.raises(ValueError, match="non-negative"):
        q.get(timeout=-1)


@in_runtime
@pytest.mark.parametrize("kind", [queue.Queue, queue.SimpleQueue, queue.PriorityQueue])
def test_many_producers_and_consumers_lose_and_double_nothing(kind):
    q, out = kind(), rt.Chan(100)
    each, producers, consumers = 200, 8, 8

    def produce(n):
        for i in range(each):
            q.put(n * each + i)

    def consume():
        while (item := q.get()) != 10**9:
            out.send(item)

    made = [rt.go(produce, n) for n in range(producers)]
    eaten = [rt.go(consume) for _ in range(consumers)]
    got = [out.recv(PATIENCE) for _ in range(each * producers)]
    for _ in eaten:
        q.put(10**9)
    for g in made + eaten:
        g.result(PATIENCE)
    assert sorted(got) == list(range(each * producers))


@in_runtime
def test_items_survive_gets_and_puts_that_time_out():
    q, got, put = queue.Queue(2), [], []

    def produce(n):
        for i in range(100):
            try:
                with rt.timeout(0.0005):
                    q.put((n, i))
                put.append((n, i))
            except TimeoutError:
                pass

    def consume():
        while True:
            try:
                with rt.timeout(0.0005):
                    item = q.get()
                if item is None:
                    return
                got.append(item)
            except TimeoutError:
                rt.gosched()

    makers = [rt.go(produce, n) for n in range(4)]
    eaters = [rt.go(consume) for _ in range(4)]
    for g in makers:
        g.result(PATIENCE)
    for _ in eaters:
        q.put(None)
    for g in eaters:
        g.result(PATIENCE)
    assert sorted(got) == sorted(put)


@in_runtime
def test_between_a_thread_and_a_g():
    there, back = queue.Queue(1), queue.SimpleQueue()

    def thread():
        while (item := there.get()) is not None:
            back.put(item + 1)

    t = threading.Thread(target=thread)
    t.start()
    for i in range(100):
        there.put(i)
        assert back.get(timeout=PATIENCE) == i + 1
    there.put(None)
    rt.blocking(t.join)


@in_runtime
def test_shutdown_wakes_who_waits():
    q, full = queue.Queue(), queue.Queue(1)
    full.put(0)
    gs = [rt.go(q.get), rt.go(full.put, 1)]
    poll_until(lambda: all(map(is_parked, gs)))
    q.shutdown()
    full.shutdown()
    for g in gs:
        with pytest.raises(queue.ShutDown):
            g.result(PATIENCE)
    assert full.get() == 0
    with pytest.raises(queue.ShutDown):
        full.get()


@in_runtime
def test_join_waits_for_task_done():
    q = queue.Queue()
    for i in range(5):
        q.put(i)
    joined = rt.go(q.join)
    for _ in range(5):
        assert not joined.done()
        q.get()
        q.task_done()
    joined.result(PATIENCE)
    with pytest.raises(ValueError, match="too many"):
        q.task_done()


@in_runtime
def test_a_simple_queues_item_goes_to_who_waits_and_to_nobody_else():
    """As it was a semaphore beside a deque, a get in between took the item of the one that had
    been woken, which then took a later one, though the queue had been seen empty before that."""
    q = queue.SimpleQueue()
    g = rt.go(q.get)
    poll_until(lambda: is_parked(g))
    q.put("first")  # g is woken, and hasn't run yet
    with pytest.raises(queue.Empty):
        q.get(False)
    q.put("second")
    assert q.get(False) == "second"
    assert g.result(PATIENCE) == "first"


@in_runtime
def test_a_simple_queue_holds_any_number():
    q = queue.SimpleQueue()
    for i in range(10_000):
        q.put(i)
        if i % 3 == 0:
            assert q.get() == i // 3
    assert q.qsize() == 10_000 - 3334 and not q.empty()
    assert [q.get_nowait() for _ in range(q.qsize())] == list(range(3334, 10_000))
    with pytest.raises(queue.Empty):
        q.get(timeout=0.001)


@preempts
@in_runtime
@pytest.mark.parametrize("what", ["get", "put"])
def test_an_interrupt_in_an_items_own_lt_spoils_no_priority_queue(what):
    """Raised in there it left the heap amid a move: the item that was being taken was gone."""
    slow = False

    class Item:
        def __init__(self, n):
            self.n = n

        def key(self):
            return self.n

        def __lt__(self, other):
            if slow:
                sum(range(100_000))
            return self.key() < other.key()

    q = queue.PriorityQueue()
    got = []
    if what == "get":
        for n in range(100):
            q.put(Item(n))
    slow = True
    with pytest.raises(TimeoutError), rt.timeout(0.05):
        if what == "get":
            got.extend(iter(q.get, None))  # in C: what get() returns can't get lost here
        else:
            for n in range(1_000_000):
                q.put(Item(-n))
    slow = False
    left = [q.get() for _ in range(q.qsize())]
    assert q.unfinished_tasks == len(got) + len(left)
    assert [i.n for i in left] == sorted(i.n for i in left)
    assert what == "put" or len(got) + len(left) == 100
