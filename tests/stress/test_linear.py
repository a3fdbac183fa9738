"""Histories of channels, locks and queues are linearizable; and the checker knows when not."""

from __future__ import annotations

import os
import random
from functools import partial

import pytest
from linear import Chans, Locks, Op, Queues, Recorder, RLocks, RWMutexes, unlinearizable
from support import PATIENCE

import gmpy_rt as rt
from gmpy_rt import queue

ROUNDS = int(os.environ.get("GMPY_LINEAR_ROUNDS", "6"))

# ---------------------------------------------------------------- the checker


def ops(*each):
    """(name, args, result, invoked, returned) ..."""
    return [Op(*one) for one in each]


def test_an_order_that_the_times_allow_is_found():
    model = Queues(0)
    one = ops(("put", (1,), None, 0, 10))
    other = ops(("get", (), 2, 3, 4), ("get", (), 1, 5, 20))
    third = ops(("put", (2,), None, 1, 12))
    assert unlinearizable([one, other, third], model) is None


def test_a_value_from_the_future_is_rejected():
    history = [ops(("get", (), 1, 0, 1)), ops(("put", (1,), None, 2, 3))]
    assert "get() -> 1" in unlinearizable(history, Queues(0))
    history = [ops(("get", (), 1, 0, 2)), ops(("put", (1,), None, 2, 3))]
    assert unlinearizable(history, Queues(0)) is None  # they overlap


@pytest.mark.parametrize(
    "history",
    [
        # overtaken: 1 was in before 2 was put
        [ops(("put", (1,), None, 0, 1), ("put", (2,), None, 2, 3)), ops(("get", (), 2, 4, 5))],
        # doubled
        [ops(("put", (1,), None, 0, 1)), ops(("get", (), 1, 0, 9)), ops(("get", (), 1, 0, 9))],
        # lost
        [ops(("put", (1,), None, 0, 1)), ops(("get", (), "empty", 2, 3))],
        # one too many
        [ops(*[("put", (i,), None, 2 * i, 2 * i + 1) for i in range(3)])],
        # refused, though there was room all the time
        [ops(("put", (1,), "full", 0, 1))],
    ],
)
def test_wrong_queues_are_rejected(history):
    assert unlinearizable(history, Queues(2)) is not None


def test_lifo_and_smallest_first():
    puts = [("put", (i,), None, k, k) for k, i in enumerate((2, 1, 3))]
    for take, order in ((lambda s: s[-1], (3, 1, 2)), (min, (1, 2, 3))):
        gets = [("get", (), i, 10 + k, 10 + k) for k, i in enumerate(order)]
        assert unlinearizable([ops(*puts, *gets)], Queues(0, take)) is None
        assert unlinearizable([ops(*puts, *gets)], Queues(0)) is not None


def test_the_ends_of_an_unbuffered_channel_must_overlap():
    send, recv = ("send", (0, 1), None, 0, 5), ("recv", (0,), (True, 1), 3, 9)
    late = ("recv", (0,), (True, 1), 6, 9)
    assert unlinearizable([ops(send), ops(recv)], Chans(0)) is None
    assert unlinearizable([ops(send), ops(late)], Chans(0)) is not None
    assert unlinearizable([ops(send), ops(late)], Chans(1)) is None
    tries = [ops(("try_send", (0, 1), True, 0, 9)), ops(("try_recv", (0,), (True, 1), 0, 9))]
    assert unlinearizable(tries, Chans(0)) is not None  # neither waits for the other
    wrong = [ops(send), ops(("recv", (0,), (True, 2), 3, 9))]
    assert unlinearizable(wrong, Chans(0)) is not None


@pytest.mark.parametrize(
    ("wrong", "history"),
    [
        (True, [ops(("close", (0,), None, 0, 1), ("send", (0, 1), None, 2, 3))]),
        (False, [ops(("close", (0,), None, 0, 1), ("send", (0, 1), "closed", 2, 3))]),
        (True, [ops(("send", (0, 1), "closed", 0, 1), ("close", (0,), None, 2, 3))]),
        (True, [ops(("close", (0,), None, 0, 1), ("close", (0,), None, 2, 3))]),
        (
            True,  # what was sent before the close has to be received before the close shows
            [
                ops(("send", (0, 1), None, 0, 1), ("close", (0,), None, 2, 3)),
                ops(("recv", (0,), "closed", 4, 5)),
            ],
        ),
        (True, [ops(("send", (0, 1), None, 0, 1), ("select", ((0,), (1,)), (None, None), 2, 3))]),
        (False, [ops(("send", (0, 1), None, 0, 1), ("select", ((0, 9), (1,)), "timeout", 2, 3))]),
        (
            False,
            [ops(("select", ((0, 9), (1,)), (0, None), 2, 3), ("recv", (0,), (True, 9), 4, 5))],
        ),
        (True, [ops(("select", ((0, 9), (1,)), (0, None), 2, 3), ("recv", (0,), (True, 8), 4, 5))]),
        (
            True,  # one value, at both ends of a select
            [
                ops(("select", ((0, 9), (1, 9)), (0, None), 0, 1)),
                ops(("recv", (0,), (True, 9), 2, 3), ("recv", (1,), (True, 9), 4, 5)),
            ],
        ),
    ],
)
def test_channels_closed_and_selected(wrong, history):
    assert (unlinearizable(history, Chans(1, 1)) is not None) is wrong


@pytest.mark.parametrize(
    ("model", "history"),
    [
        (Locks(), [ops(("acquire", (), True, 0, 3)), ops(("acquire", (), True, 1, 5))]),
        (Locks(), [ops(("acquire", (), "timeout", 0, 3))]),
        (Locks(2), [ops(("release", (1,), None, 0, 1)), ops(("acquire", (), False, 2, 3))]),
        (RLocks(), [ops(("acquire", (0,), True, 0, 1)), ops(("acquire", (1,), True, 2, 3))]),
        (RLocks(), [ops(("acquire", (0,), True, 0, 1), ("release", (0,), "misuse", 2, 3))]),
        (RWMutexes(), [ops(("lock", (), True, 0, 9)), ops(("rlock", (), True, 0, 9))]),
        (RWMutexes(), [ops(("rlock", (), True, 0, 1)), ops(("lock", (), True, 0, 9))]),
        (RWMutexes(), [ops(("rlock", (), False, 0, 1))]),
    ],
)
def test_wrong_locks_are_rejected(model, history):
    assert unlinearizable(history, model) is not None


# ---------------------------------------------------------------- what the runtime does


def record(step, workers=6, cancels=True):
    """Each worker G does step(recorder, random, number); some of them are cancelled meanwhile."""
    recorders = [Recorder() for _ in range(workers)]
    seed = random.randrange(2**32)
    print(f"seed {seed}")

    def work(number):
        rng = random.Random(seed + number)
        step(recorders[number], rng, number)

    gs = [rt.go(work, number) for number in range(workers)]
    rng = random.Random(seed)
    while cancels and not all(g.done() for g in gs):
        rng.choice(gs).cancel()
        rt.sleep(0.0002)
    for g in gs:
        exc = g.exception(PATIENCE)
        assert exc is None or isinstance(exc, rt.Cancelled), exc
    return [recorder.ops for recorder in recorders]


def rest(rng):
    """Now and then, so that the G's meet in ever other ways. A cancel waits for an operation."""
    if rng.random() < 0.3:
        with rt.shield():
            rt.gosched()


def check(procs, make):
    """make() -> (step, model), for each round anew."""

    def main():
        for _ in range(ROUNDS):
            step, model = make()
            assert unlinearizable(record(step), model) is None

    rt.run(main, procs=procs)


N = 30  # operations of each G
SHORT = 0.0003  # seconds; every wait has an end, so that no G is left without a partner

procs_1_2_4 = pytest.mark.parametrize("procs", [1, 2, 4])


@pytest.mark.parametrize("capacities", [(0,), (1,), (3,), (0, 2)])
@pytest.mark.parametrize("closes", [False, True])
@procs_1_2_4
def test_channels(procs, capacities, closes):
    def make():
        chans = [rt.Chan(capacity) for capacity in capacities]

        def step(recorder, rng, number):
            for i in range(N):
                c, value = rng.randrange(len(chans)), (number, i)
                chan, kind = chans[c], rng.randrange(8)
                if kind < 2:
                    recorder.call("send", chan.send, value, SHORT, about=(c, value))
                elif kind < 4:
                    recorder.call("recv", lambda c=chan: (True, c.recv(SHORT)), about=(c,))
                elif kind == 4:
                    recorder.call("try_send", chan.try_send, value, about=(c, value))
                elif kind == 5:
                    recorder.call("try_recv", chan.try_recv, about=(c,))
                elif closes and rng.random() < 0.02:
                    recorder.call("close", chan.close, about=(c,))
                else:
                    d = rng.randrange(len(chans))
                    cases = [((c, value), (chan, value)), ((d,), chans[d])]
                    rng.shuffle(cases)
                    how = {"timeout": SHORT} if kind == 6 else {"default": True}
                    select = partial(rt.select, *(real for _, real in cases), **how)
                    recorder.call("select", select, about=tuple(case for case, _ in cases))
                rest(rng)

        return step, Chans(*capacities)

    check(procs, make)


def take_and_give(recorder, rng, takes, gives):
    """Takes what it can get, in one of its ways, and gives back what it has."""
    for _ in range(N):
        name, take, *args = rng.choice(takes)
        if recorder.call(name, take, *args[:-1], about=args[-1]) is True:
            rest(rng)
            give, fn, about = gives[name]
            recorder.call(give, fn, about=about)
        rest(rng)


@procs_1_2_4
def test_lock(procs):
    def make():
        lock = rt.Lock()
        ways = [
            ("acquire", lock.acquire, ()),
            ("acquire", lock.acquire, False, ()),
            ("acquire", lock.acquire, True, SHORT, ()),
        ]
        gives = {"acquire": ("release", lock.release, (1,))}
        return lambda rec, rng, _: take_and_give(rec, rng, ways, gives), Locks()

    check(procs, make)


@procs_1_2_4
def test_rlock(procs):
    def make():
        lock = rt.RLock()

        def step(recorder, rng, me):
            held = 0
            for _ in range(N):
                if rng.random() < (0.6 if held else 0.1):  # misuse, too
                    held -= recorder.call("release", lock.release, about=(me,)) is None
                else:
                    args = rng.choice([(), (False,), (True, SHORT)])
                    held += recorder.call("acquire", lock.acquire, *args, about=(me,)) is True
                rest(rng)
            for _ in range(held):
                recorder.call("release", lock.release, about=(me,))

        return step, RLocks()

    check(procs, make)


@procs_1_2_4
def test_semaphore(procs):
    def make():
        sem = rt.Semaphore(2)
        ways = [
            ("acquire", sem.acquire, ()),
            ("acquire", sem.acquire, False, ()),
            ("acquire", sem.acquire, True, SHORT, ()),
        ]
        gives = {"acquire": ("release", sem.release, (1,))}
        return lambda rec, rng, _: take_and_give(rec, rng, ways, gives), Locks(2)

    check(procs, make)


@procs_1_2_4
def test_rwmutex(procs):
    def make():
        rw = rt.RWMutex()
        ways = [
            (name, fn, *args, ())
            for name, fn in (("rlock", rw.rlock), ("rlock", rw.rlock), ("lock", rw.lock))
            for args in ((), (0,), (SHORT,))
        ]
        gives = {"rlock": ("runlock", rw.runlock, ()), "lock": ("unlock", rw.unlock, ())}
        return lambda rec, rng, _: take_and_give(rec, rng, ways, gives), RWMutexes()

    check(procs, make)


KINDS = {
    "fifo": (queue.Queue, lambda items: items[0]),
    "lifo": (queue.LifoQueue, lambda items: items[-1]),
    "priority": (queue.PriorityQueue, min),
    "simple": (lambda _: queue.SimpleQueue(), lambda items: items[0]),
}


@pytest.mark.parametrize("kind", KINDS)
@procs_1_2_4
def test_queues(procs, kind):
    cls, take = KINDS[kind]
    size = 0 if kind == "simple" else 2

    def make():
        q = cls(size)

        def step(recorder, rng, number):
            for i in range(N):
                how = rng.choice([(False,), (True, SHORT), (True, SHORT)])
                if rng.random() < 0.5:
                    item = (rng.randrange(4), number, i)
                    recorder.call("put", q.put, item, *how, about=(item,))
                else:
                    recorder.call("get", q.get, *how, about=())
                rest(rng)

        return step, Queues(size, take)

    check(procs, make)
