"""What Go's own tests ask of select (test/chan, runtime/chan_test.go), in this API's words."""

from __future__ import annotations

import contextlib
import itertools
import time
import tracemalloc
from collections import Counter

import pytest
from support import PATIENCE, is_parked, on_procs, poll_until

import gmpy_rt as rt


def parked(*gs):
    for g in gs:
        poll_until(lambda g=g: is_parked(g))


# ---------------------------------------------------------------- one case, once


@on_procs(1, 2, 4)
def test_a_select_that_could_do_four_things_does_one():
    """One G offers each number on four channels: it must arrive on just one of them."""
    chans, merged = [rt.Chan() for _ in range(4)], rt.Chan()

    def offer():
        for i in range(1500):
            rt.select(*[(chan, i) for chan in chans])
        for chan in chans:
            chan.close()

    def forward(chan):
        for value in chan:
            merged.send(value)
        merged.send(None)

    gs = [rt.go(offer), *(rt.go(forward, chan) for chan in chans)]
    got, ended = [], 0
    while ended < 4:
        value = merged.recv(PATIENCE)
        if value is None:
            ended += 1
        else:
            got.append(value)
    assert sorted(got) == list(range(1500))
    for g in gs:
        g.result(PATIENCE)


@on_procs(1, 2, 4)
def test_both_ends_may_offer_both_directions():
    """Two G's that would each send or receive on the same channels: never with themselves."""
    for capacity in (0, 10):
        chan = rt.Chan(capacity)

        def side(me, chan=chan, capacity=capacity):
            for i in range(500):
                if i % 2:
                    index, value = rt.select(chan, (chan, me))
                    received = index == 0
                else:
                    index, value = rt.select((chan, me), chan)
                    received = index == 1
                if received and not capacity:
                    assert value != me, "met itself"

        gs = [rt.go(side, me) for me in range(2)]
        for g in gs:  # the last may wait for a partner that has gone
            poll_until(lambda g=g, gs=gs: g.done() or (is_parked(g) and any(o.done() for o in gs)))
        assert any(g.done() for g in gs)
        for g in gs:
            g.cancel()
            assert g.exception(PATIENCE) is None or isinstance(g.exception(), rt.Cancelled)


@on_procs(1, 2, 4)
def test_a_channel_that_stands_in_two_cases_leaves_no_waiter():
    """Who waits behind such a select on the channel is served next."""
    chan, other, out = rt.Chan(), rt.Chan(), rt.Chan(2)

    def twice():
        out.send(rt.select(chan, chan, other))

    first = rt.go(twice)
    parked(first)
    second = rt.go(lambda: out.send(chan.recv()))
    parked(second)
    other.send("other")
    assert out.recv(PATIENCE) == (2, "other")
    chan.send("value", PATIENCE)
    assert out.recv(PATIENCE) == "value"


@on_procs(1, 2, 4)
def test_a_select_taken_out_of_the_middle_leaves_the_line_whole():
    for leaves in range(3):
        chan, others = rt.Chan(), [rt.Chan() for _ in range(3)]
        gs = []
        for other in others:
            gs.append(rt.go(rt.select, chan, other))
            parked(gs[-1])
        others[leaves].send("gone")
        assert gs.pop(leaves).result(PATIENCE) == (1, "gone")
        for i, g in enumerate(gs):
            chan.send(i, PATIENCE)
            assert g.result(PATIENCE) == (0, i)
        assert chan.try_send(None) is False


@pytest.mark.parametrize("kind", ["recv", "select", "select twice", "try"])
@on_procs(1, 2, 4)
def test_a_select_that_sends_meets_every_kind_of_receiver(kind):
    chan, never = rt.Chan(), rt.Chan()

    def receive():
        if kind == "recv":
            return chan.recv()
        if kind == "select":
            return rt.select(chan, never)[1]
        if kind == "select twice":
            return rt.select(chan, chan)[1]
        for n in itertools.count():
            ok, value = chan.try_recv()
            if ok:
                return value
            rt.gosched() if n < 100 else rt.sleep(0.0001)

    def offer(i):
        index, _ = rt.select(never, (chan, i))
        assert index == 1

    for i in range(50):
        g = rt.go(receive)
        rt.go(offer, i).result(PATIENCE)
        assert g.result(PATIENCE) == i


# ---------------------------------------------------------------- ready or not


def outcome(*cases):
    """What a select without waiting says: the index, 'waits' or 'closed'."""
    try:
        index, _ = rt.select(*cases, default=True)
    except rt.ChanClosed:
        return "closed"
    return "waits" if index is None else index


@on_procs(1)
def test_which_cases_wait():
    """None, empty, full and closed, each to receive and to send; alone and beside another."""

    def chan(state):
        if state == "none":
            return None
        made = rt.Chan(1 if state in ("full", "closed full", "room") else 0)
        if "full" in state:
            made.send(7)
        if "closed" in state:
            made.close()
        return made

    receives = {"none": "waits", "empty": "waits", "full": 0, "closed": "closed", "closed full": 0}
    sends = {"none": "waits", "empty": "waits", "full": "waits", "room": 0, "closed": "closed"}
    for state, expected in receives.items():
        assert outcome(chan(state)) == expected, f"receive, {state}"
        assert outcome(chan("empty"), chan(state)) == (1 if expected == 0 else expected)
    for state, expected in sends.items():
        assert outcome((chan(state), 1)) == expected, f"send, {state}"
        assert outcome((chan(state), 1), chan("empty")) == expected
    assert outcome() == "waits"
    with pytest.raises(TimeoutError):
        rt.select(timeout=0.001)


@pytest.mark.parametrize("closes", [False, True])
@on_procs(2, 4)
def test_a_select_with_a_default_sees_one_moment(closes):
    """The second channel gets ready before the first one stops to be: at no moment is none of
    them ready, so the default can't be chosen, however the looks fall in between."""
    for _ in range(1000):
        first, second = rt.Chan(1), rt.Chan(1)
        first.send(1)

        def look(first=first, second=second):
            try:
                return rt.select(first, second, default=True)[0] is not None
            except rt.ChanClosed:
                return True

        g = rt.go(look)
        second.close() if closes else second.send(1)
        first.try_recv()
        assert g.result(PATIENCE)


# ---------------------------------------------------------------- fairness


@on_procs(1, 2, 4)
def test_two_busy_senders_are_both_heard():
    a, b, done = rt.Chan(), rt.Chan(), rt.Chan()

    def sender(chan):
        while True:
            chosen, _ = rt.select((chan, chan), done)
            if chosen == 1:
                return

    def closed(chan):
        with contextlib.suppress(rt.ChanClosed):
            sender(chan)

    gs = [rt.go(closed, chan) for chan in (a, b)]
    counts = Counter()
    end = time.monotonic() + PATIENCE
    while min(counts[0], counts[1]) < 500:
        assert time.monotonic() < end, counts
        counts[rt.select(a, b)[0]] += 1
    done.close()
    for g in gs:
        g.result(PATIENCE)


@on_procs(1, 2)
def test_the_choice_of_what_to_send_is_random():
    for capacity in (0, 1, 100):
        chan = rt.Chan(capacity)

        def receive(chan=chan):
            return Counter(chan.recv() for _ in range(1000))

        g = rt.go(receive)
        for _ in range(1000):
            rt.select((chan, 0), (chan, 1))
        counts = g.result(PATIENCE)
        assert 400 < counts[0] < 600, counts  # 500 +- 16


@on_procs(1)
def test_each_of_many_ready_cases_has_its_chance():
    """More cases than are kept on the stack, too."""
    for n in (3, 8, 9, 20):
        chans = [rt.Chan(1) for _ in range(n)]
        for chan in chans:
            chan.send(None)
        counts = Counter()
        for _ in range(n * 200):
            index, _ = rt.select(*chans)
            counts[index] += 1
            chans[index].send(None)
        assert all(110 < counts[i] < 290 for i in range(n)), counts  # 200 +- 14


# ---------------------------------------------------------------- stress


@on_procs(1, 2, 4)
def test_selects_and_plain_operations_over_four_channels():
    """Each channel has a plain sender and receiver; one G sends and one receives by select on
    all that aren't finished. Everything arrives once."""
    n, chans = 400, [rt.Chan(capacity) for capacity in (0, 0, 2, 3)]
    got: list[list] = [[] for _ in range(6)]

    def plain_send(k):
        for i in range(n):
            chans[k].send((k, i))

    def plain_recv(k):
        for _ in range(n):
            got[k].append(chans[k].recv())

    def select_send():
        left = [list(range(n)) for _ in chans]
        while any(left):
            cases = [
                (chan, ("s", k, left[k][-1])) if left[k] else None for k, chan in enumerate(chans)
            ]
            left[rt.select(*cases)[0]].pop()

    def select_recv():
        left = [n] * 4
        while any(left):
            index, value = rt.select(*[chan if left[k] else None for k, chan in enumerate(chans)])
            left[index] -= 1
            got[4].append(value)

    gs = [rt.go(fn, k) for k in range(4) for fn in (plain_send, plain_recv)]
    gs += [rt.go(select_send), rt.go(select_recv)]
    for g in gs:
        g.result(50)
    expected = [(k, i) for k in range(4) for i in range(n)]
    expected += [("s", k, i) for k in range(4) for i in range(n)]
    assert sorted(map(repr, itertools.chain(*got))) == sorted(map(repr, expected))


@on_procs(1, 2)
def test_selects_that_park_keep_no_memory():
    a, b, back = rt.Chan(), rt.Chan(), rt.Chan()

    def receiver():
        while rt.select(a, b)[1]:
            rt.select((back, 1), None)

    def trips(n):
        for i in range(n):
            (a, b)[i % 2].send(1)
            back.recv()

    g = rt.go(receiver)
    trips(100)
    tracemalloc.start()
    try:
        trips(100)
        before = tracemalloc.get_traced_memory()[0]
        trips(5000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    a.send(0)
    g.result(PATIENCE)
    # A select's own memory is some 170 bytes; a thread that starts meanwhile takes some 130,000.
    assert grown < 500_000, f"{grown} bytes in 10,000 selects"
