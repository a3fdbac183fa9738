"""TaskGroup, gather, map, map_as_completed, Pool, Executor."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest
from support import PATIENCE, excepthook_calls, is_parked, poll_until, preempts
from test_g import in_runtime, on_one_p

import gmpy_rt as rt


def fail():
    raise ZeroDivisionError("mine")


@in_runtime
def test_the_block_ends_after_its_children_and_grandchildren():
    done = []

    def child(tg, depth):
        if depth:
            tg.go(child, tg, depth - 1)
        rt.sleep(0.005)
        done.append(depth)

    with rt.TaskGroup() as tg:
        g = tg.go(child, tg, 3)
        assert isinstance(g, rt.G)
    assert sorted(done) == [0, 1, 2, 3]
    assert len(tg) == 0


@in_runtime
def test_the_first_failure_cancels_the_siblings_and_interrupts_the_body():
    with excepthook_calls() as calls:
        with pytest.raises(ExceptionGroup) as raised, rt.TaskGroup() as tg:
            sibling = tg.go(rt.sleep, PATIENCE)
            tg.go(fail)
            rt.sleep(PATIENCE)
        assert isinstance(sibling.exception(0), rt.Cancelled)
        del tg
    assert [type(e) for e in raised.value.exceptions] == [ZeroDivisionError]
    assert calls == []


@in_runtime
def test_a_failure_while_the_block_waits_cancels_the_siblings():
    with pytest.raises(ExceptionGroup), rt.TaskGroup() as tg:
        sibling = tg.go(rt.sleep, PATIENCE)
        tg.go(lambda: (rt.sleep(0.01), fail()))
    assert isinstance(sibling.exception(0), rt.Cancelled)


@in_runtime
def test_failures_of_body_and_children_come_together():
    def late():
        try:
            rt.sleep(PATIENCE)
        finally:
            raise ValueError("cleanup")

    with pytest.raises(ExceptionGroup) as raised, rt.TaskGroup() as tg:
        g = tg.go(late)
        poll_until(lambda: is_parked(g))
        raise KeyError("body")
    assert [type(e) for e in raised.value.exceptions] == [KeyError, ValueError]


@in_runtime
def test_a_cancelled_child_is_no_failure():
    with rt.TaskGroup() as tg:
        g = tg.go(rt.sleep, PATIENCE)
        other = tg.go(rt.sleep, 0.01)
        poll_until(lambda: is_parked(g))
        g.cancel()
    assert other.exception(0) is None


@in_runtime
def test_cancelling_the_parent_cancels_and_awaits_the_children():
    """Not before the child is parked: one that hasn't begun ends without its finally."""
    children, ended = [], []

    def child():
        try:
            rt.sleep(PATIENCE)
        finally:
            with rt.shield():
                rt.sleep(0.01)
            ended.append(1)

    def parent(in_body):
        with rt.TaskGroup() as tg:
            children.append(tg.go(child))
            if in_body:
                rt.sleep(PATIENCE)

    for in_body in (True, False):
        g = rt.go(parent, in_body)
        poll_until(lambda g=g: is_parked(g) and is_parked(children[-1]))
        g.cancel()
        assert isinstance(g.exception(PATIENCE), rt.Cancelled)
    assert ended == [1, 1]
    with pytest.raises(TimeoutError), rt.timeout(None) as scope, rt.TaskGroup() as tg:
        g = tg.go(child)
        poll_until(lambda: is_parked(g))
        scope.reschedule(0.01)
    assert ended == [1, 1, 1]


@in_runtime
def test_what_starts_in_a_cancelled_group_does_not_begin():
    """A child that was cancelled runs on to its next park: what it starts until then was
    forgotten, and the block waited for it for ever."""
    begun = []

    def cancel_all_and_spawn(tg):
        tg.cancel()  # this G, too: at its next park
        begun.append(tg.go(begun.append, "ran"))
        rt.Chan().recv()

    with rt.TaskGroup() as tg:
        tg.go(cancel_all_and_spawn, tg)
    late = begun.pop()
    assert not begun and isinstance(late.exception(PATIENCE), rt.Cancelled)

    def fail():
        raise KeyError

    def spawn_at_the_end(tg):
        try:
            rt.Chan().recv()
        finally:
            begun.append(tg.go(rt.Chan().recv))

    with pytest.raises(ExceptionGroup) as failures, rt.TaskGroup() as tg:
        tg.go(spawn_at_the_end, tg)
        rt.gosched()
        tg.go(fail)
    assert [type(exc) for exc in failures.value.exceptions] == [KeyError]
    assert all(isinstance(g.exception(PATIENCE), rt.Cancelled) for g in begun)


@in_runtime
def test_misuse():
    tg = rt.TaskGroup()
    with pytest.raises(RuntimeError, match="outside its block"):
        tg.go(print)
    with tg:
        pass
    with pytest.raises(RuntimeError, match="outside its block"):
        tg.go(print)
    with pytest.raises(RuntimeError, match="once"), tg:
        pass
    with rt.TaskGroup() as tg, pytest.raises(TypeError, match="not callable"):
        tg.go(3)
    for call in (
        lambda: rt.map(abs, [1], limit=0),
        lambda: rt.map_as_completed(abs, [1], limit=0),
        lambda: rt.Pool(0),
        lambda: rt.Executor(0),
    ):
        with pytest.raises(ValueError, match="at least one"):
            call()


@in_runtime
def test_10_000_children():
    count = rt.WaitGroup()
    count.add(10_000)
    with rt.TaskGroup() as tg:
        for _ in range(10_000):
            tg.go(count.done)
    assert count.count == 0


@in_runtime
def test_gather_keeps_the_order():
    assert rt.gather(lambda: (rt.sleep(0.01), 1)[1], lambda: 2) == [1, 2]
    assert rt.gather() == []
    with pytest.raises(ExceptionGroup):
        rt.gather(fail, lambda: rt.sleep(PATIENCE))


@in_runtime
def test_map_keeps_order_and_limit():
    running, most, lock = [0], [0], rt.Lock()

    def fn(x):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        rt.sleep(0.001 * (x % 3))
        with lock:
            running[0] -= 1
        return x * x

    assert rt.map(fn, range(30), limit=4) == [x * x for x in range(30)]
    assert 1 < most[0] <= 4
    assert sorted(rt.map_as_completed(fn, range(30), limit=4)) == [x * x for x in range(30)]
    with pytest.raises(ExceptionGroup):
        rt.map(lambda x: 1 / x, [1, 0])
    with pytest.raises(ExceptionGroup):
        list(rt.map_as_completed(lambda x: 1 / x, [1, 0]))


@in_runtime
def test_as_completed_gives_the_fast_ones_first_and_may_be_left():
    """Who is fast, gates say and not the clock: it wouldn't know whom the machine stops."""
    before = rt.num_goroutine()
    gates = [rt.Event() for _ in range(3)]

    def call(i):
        assert gates[i].wait(PATIENCE)
        return i

    with excepthook_calls() as failed:
        results = rt.map_as_completed(call, range(3))
        for i in (2, 1):
            gates[i].set()
            assert next(results) == i
        results.close()
        poll_until(lambda: rt.num_goroutine() == before)
    assert not failed  # its own G was cancelled, and that is no failure


@in_runtime
def test_a_pool_calls_everything():
    out, lock = [], rt.Lock()

    def work(i):
        with lock:
            out.append(i)

    with rt.Pool(3) as pool:
        for i in range(50):
            pool.put(work, i)
    assert sorted(out) == list(range(50))
    with pytest.raises(ExceptionGroup), rt.Pool(2) as pool:
        pool.put(fail)
        rt.sleep(PATIENCE)


@in_runtime
def test_executor_has_the_interface_of_concurrent_futures():
    with rt.Executor(2) as executor:
        assert isinstance(executor, concurrent.futures.Executor)
        assert list(executor.map(abs, [-1, -2], timeout=PATIENCE)) == [1, 2]
        future = executor.submit(fail)
        assert isinstance(future.exception(PATIENCE), ZeroDivisionError)
        calls = []
        future = executor.submit(rt.sleep, 0.01)
        future.add_done_callback(calls.append)
    assert calls == [future]
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(print)


@in_runtime
def test_executor_drops_what_has_not_begun():
    executor, gate = rt.Executor(1), rt.Event()
    first = executor.submit(gate.wait)
    poll_until(first.running)
    waiting = [executor.submit(fail) for _ in range(5)]
    stopper = rt.go(executor.shutdown, cancel_futures=True)
    poll_until(lambda: all(f.cancelled() for f in waiting))
    gate.set()
    stopper.result(PATIENCE)
    assert first.result(0) is True


@in_runtime
def test_executor_from_a_plain_thread():
    executor, got = rt.Executor(), rt.Chan(1)
    thread = threading.Thread(
        target=lambda: got.send(executor.submit(lambda: rt.current().name).result(PATIENCE))
    )
    thread.start()
    assert got.recv(PATIENCE).startswith("G-")
    rt.blocking(thread.join)


def test_a_future_settles_even_if_its_call_never_began():
    """As main returned, 299 futures stayed pending for ever, and shutdown() hung."""
    executor, futures = rt.Executor(), []
    rt.run(lambda: futures.extend(executor.submit(rt.sleep, PATIENCE) for _ in range(50)), procs=1)
    assert all(f.done() for f in futures)
    executor.shutdown()


@on_one_p
@pytest.mark.parametrize("limit", [1, None])
def test_wait_and_as_completed_park_the_g_that_waits_for_futures(limit):
    """They wait on a threading.Event of their own: it blocked the very M that had to run them."""
    gate = rt.Event()
    with rt.Executor(limit) as executor:

        def body():
            futures = [executor.submit(rt.sleep, 0.01) for _ in range(4)]
            rt.gosched()  # they begin, on this very M
            done, left = concurrent.futures.wait(futures, PATIENCE)
            assert len(done) == 4 and not left
            again = [executor.submit(abs, -n) for n in range(4)]
            done = concurrent.futures.as_completed([*futures, *again], PATIENCE)
            assert len({id(f) for f in done}) == 8
            slow = executor.submit(gate.wait, PATIENCE)
            some = [slow] if limit else [slow, executor.submit(abs, 1)]
            done, left = concurrent.futures.wait(
                some, 0.01 if limit else PATIENCE, "FIRST_COMPLETED"
            )
            assert left == {slow}

        rt.go(body).result(PATIENCE)
        gate.set()


@in_runtime
def test_a_group_entered_again_still_waits_for_its_children():
    children = []
    with pytest.raises(ExceptionGroup) as raised, rt.TaskGroup() as tg:
        children.append(tg.go(rt.sleep, PATIENCE))
        with tg:
            pass
    assert "entered once" in str(raised.value.exceptions[0])
    assert children[0].done()


@preempts
@in_runtime
def test_a_timeout_in_a_busy_body_still_waits_for_the_children():
    """It was raised where __exit__ called a function, before that had waited."""
    children = []

    def body():
        with rt.TaskGroup() as tg:
            children.append(tg.go(rt.sleep, PATIENCE))
            rt.gosched()
            sum(range(4_000_000))  # in C: what interrupts waits for the end of it, so for __exit__

    for _ in range(5):
        with pytest.raises(TimeoutError), rt.timeout(0.01):
            body()
            while True:  # should the timeout be later than the block
                pass
        assert children[-1].done()


@in_runtime
def test_a_call_that_meets_something_cancelled_has_no_result():
    """map() left it out, and returned the others as if they were all."""
    gone, fine = rt.go(rt.sleep, PATIENCE), rt.go(lambda: 1)
    gone.cancel()
    for order in ([gone, fine], [fine, gone]):
        with pytest.raises(rt.Cancelled):
            rt.map(rt.G.result, order)
        with pytest.raises(rt.Cancelled):
            list(rt.map_as_completed(rt.G.result, order))
        with pytest.raises(rt.Cancelled):
            rt.gather(*[g.result for g in order])
    done = []
    with rt.Pool(1) as pool:
        pool.put(gone.result)
        for i in range(5):
            pool.put(done.append, i)
    assert done == list(range(5))


@in_runtime
def test_a_pool_takes_work_in_its_block_only():
    pool = rt.Pool(1)
    with pytest.raises(RuntimeError, match="before its block"):
        pool.put(fail)
    with pool:
        pass
    with pytest.raises(RuntimeError, match="after its block"):
        pool.put(fail)
    for make in (rt.Pool, rt.Executor, rt.Barrier, lambda n: rt.map(abs, [1], limit=n)):
        with pytest.raises(TypeError, match="'2'"):
            make("2")


def test_a_group_whose_block_another_g_leaves_is_cancelled():
    ended = []

    def child():
        try:
            rt.sleep(PATIENCE)
        finally:
            ended.append(1)
            raise ValueError("reported")  # by whom, if nobody waits?

    def block():
        with rt.TaskGroup() as tg:
            yield tg.go(child)

    def main():
        b = block()
        g = next(b)
        poll_until(lambda: is_parked(g))
        with pytest.raises(RuntimeError, match="by the G that entered it"):
            rt.go(b.close).result(PATIENCE)
        g.join(PATIENCE)

    with excepthook_calls() as calls:
        rt.run(main, procs=1)
        poll_until(lambda: len(calls) == 1)
    assert ended == [1] and isinstance(calls[0].exception(0), ValueError)
