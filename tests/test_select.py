"""select(): which case, when none, timeouts, fairness."""

from __future__ import annotations

import collections
import threading
import weakref

import pytest
from support import PATIENCE, is_parked, poll_until
from test_g import in_runtime

import gmpy_rt as rt


@in_runtime
def test_a_ready_receive_gives_its_index_and_value():
    a, b = rt.Chan(1), rt.Chan(1)
    b.send("b")
    assert rt.select(a, b) == (1, "b")


@in_runtime
def test_a_ready_send_gives_its_index_and_none():
    full, free = rt.Chan(1), rt.Chan(1)
    full.send(0)
    assert rt.select((full, "x"), (free, "y")) == (1, None)
    assert free.recv() == "y"


@in_runtime
def test_none_is_never_ready():
    ch = rt.Chan(1)
    ch.send(1)
    assert rt.select(None, ch) == (1, 1)
    assert rt.select(None, (None, 3), default=True) == (None, None)


@in_runtime
def test_default_returns_at_once():
    assert rt.select(rt.Chan(), default=True) == (None, None)
    assert rt.select(default=True) == (None, None)
    ch = rt.Chan(1)
    ch.send("ready")
    assert rt.select(ch, default=True) == (0, "ready")


@in_runtime
def test_timeout_raises_timeout_error():
    with pytest.raises(TimeoutError, match=r"0\.01"):
        rt.select(rt.Chan(), timeout=0.01)
    with pytest.raises(TimeoutError):
        rt.select(timeout=0.01)
    with pytest.raises(TimeoutError):
        rt.select(rt.Chan(), timeout=0)


@in_runtime
def test_select_waits_for_whichever_comes_first():
    chans = [rt.Chan() for _ in range(5)]
    g = rt.go(rt.select, *chans)
    poll_until(lambda: is_parked(g))
    assert g.state == "select"
    chans[3].send("third")
    assert g.result(PATIENCE) == (3, "third")
    # It waits in none of the others any more.
    assert [ch.try_send(0) for ch in chans] == [False] * 5


@in_runtime
def test_a_waiting_select_send_is_received():
    a, b = rt.Chan(), rt.Chan()
    g = rt.go(rt.select, (a, "to a"), (b, "to b"))
    poll_until(lambda: is_parked(g))
    assert b.recv() == "to b"
    assert g.result(PATIENCE) == (1, None)
    assert a.try_recv() == (False, None)


@in_runtime
def test_a_closed_channel_is_ready_and_raises():
    ch, other = rt.Chan(), rt.Chan()
    g, h = rt.go(rt.select, ch), rt.go(rt.select, (other, 1))
    poll_until(lambda: is_parked(g) and is_parked(h))
    ch.close()
    other.close()
    assert isinstance(g.exception(PATIENCE), rt.ChanClosed)
    assert isinstance(h.exception(PATIENCE), rt.ChanClosed)
    with pytest.raises(rt.ChanClosed):
        rt.select(ch)
    with pytest.raises(rt.ChanClosed):
        rt.select((ch, 1))


@in_runtime
def test_the_same_channel_may_stand_in_several_cases():
    ch = rt.Chan(1)
    ch.send(1)
    index, value = rt.select(ch, ch, ch)
    assert index in (0, 1, 2) and value == 1
    g = rt.go(rt.select, ch, ch)
    poll_until(lambda: is_parked(g))
    ch.send(2)
    assert g.result(PATIENCE)[1] == 2
    assert len(ch) == 0


@in_runtime
def test_two_selects_can_meet_each_other():
    ch = rt.Chan()
    sent = received = 0

    def both():
        return rt.select((ch, 1), ch)

    for _ in range(100):
        a, b = rt.go(both), rt.go(both)
        results = {a.result(PATIENCE), b.result(PATIENCE)}
        assert results == {(0, None), (1, 1)}
        sent, received = sent + 1, received + 1
    assert sent == received == 100


@in_runtime
def test_the_choice_among_ready_cases_is_fair():
    chans = [rt.Chan(1) for _ in range(4)]
    counts = collections.Counter()
    for _ in range(2000):
        for ch in chans:
            ch.try_send(0)
        counts[rt.select(*chans)[0]] += 1
    # 500 each on average, with a standard deviation of 19.
    assert all(350 < counts[i] < 650 for i in range(4)), counts


@in_runtime
def test_select_stress_loses_and_doubles_nothing():
    chans = [rt.Chan(i % 2) for i in range(4)]
    n = 300

    def sender(base):
        left = list(range(base, base + n))
        while left:
            rt.select(*[(ch, left[-1]) for ch in chans])
            left.pop()

    def receiver():
        mine = []
        while True:
            index, value = rt.select(*chans, quit_)
            if index == len(chans):
                return mine
            mine.append(value)

    quit_ = rt.Chan()
    receivers = [rt.go(receiver) for _ in range(4)]
    senders = [rt.go(sender, k * n) for k in range(4)]
    for g in senders:
        g.result(PATIENCE)
    poll_until(lambda: all(len(ch) == 0 for ch in chans))
    for _ in receivers:
        quit_.send(None)
    got = [value for g in receivers for value in g.result(PATIENCE)]
    assert sorted(got) == list(range(4 * n))


def test_plain_threads_may_select():
    a, b = rt.Chan(), rt.Chan()
    thread = threading.Thread(target=b.send, args=("x",))
    thread.start()
    assert rt.select(a, b, timeout=PATIENCE) == (1, "x")
    thread.join(PATIENCE)


@in_runtime
def test_values_not_sent_are_not_kept():
    class Thing:
        pass

    thing, a, b = Thing(), rt.Chan(), rt.Chan(1)
    seen = weakref.ref(thing)
    rt.select((a, thing), (b, 1))
    with pytest.raises(TimeoutError):
        rt.select((a, thing), timeout=0.001)
    rt.select((a, thing), default=True)
    del thing
    assert seen() is None


@in_runtime
def test_cancel_of_a_select_leaves_no_trace():
    a, b = rt.Chan(), rt.Chan()
    g = rt.go(rt.select, a, (b, 1))
    poll_until(lambda: is_parked(g))
    g.cancel()
    assert isinstance(g.exception(PATIENCE), rt.Cancelled)
    assert a.try_send(1) is False
    assert b.try_recv() == (False, None)


@in_runtime
def test_a_closed_channel_says_which_case_it_was():
    a, b, full = rt.Chan(), rt.Chan(), rt.Chan()
    b.close()
    with pytest.raises(rt.ChanClosed, match="case 1: recv") as raised:
        rt.select(a, b)
    assert raised.value.case == 1
    with pytest.raises(rt.ChanClosed, match="case 2: send") as raised:
        rt.select(a, full, (b, 1))
    assert raised.value.case == 2
    g = rt.go(rt.select, None, a)
    poll_until(lambda: is_parked(g))
    a.close()
    assert g.exception(PATIENCE).case == 1
    with pytest.raises(rt.ChanClosed) as raised:
        a.recv()
    assert raised.value.case is None
