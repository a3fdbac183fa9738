"""What Go's own tests ask of channels (test/chan, runtime/chan_test.go), in this API's words."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from fractions import Fraction

import pytest
from support import PATIENCE, is_parked, on_procs, poll_until

import gmpy_rt as rt


def parked(*gs):
    for g in gs:
        poll_until(lambda g=g: is_parked(g))


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("capacity", [0, 1, 10])
@on_procs(1, 2, 4)
def test_values_stay_in_order_through_any_capacity(capacity):
    chan = rt.Chan(capacity)
    g = rt.go(lambda: [chan.send(i) for i in range(500)] and chan.close())
    assert list(chan) == list(range(500))
    g.result(PATIENCE)


@on_procs(1, 2, 4)
def test_each_of_a_chain_gets_the_value_of_its_place():
    """Who waits first is served first, though each G waits for the one before it to be done."""
    chan, turn = rt.Chan(), rt.Chan(1)
    turn.send(None)

    def link(number, mine, following):
        mine.recv()
        assert chan.recv() == number
        following.send(None)

    gs, mine = [], turn
    for number in range(100):
        following = rt.Chan(1)
        gs.append(rt.go(link, number, mine, following))
        mine = following
    for number in range(100):
        chan.send(number)
    for g in gs:
        g.result(PATIENCE)


# ---------------------------------------------------------------- without waiting


@pytest.mark.parametrize("capacity", [0, 1])
@on_procs(1, 2, 4)
def test_a_try_meets_a_partner_that_waits(capacity):
    """Between one that only tries and one that waits everything arrives, either way round."""
    chan, back = rt.Chan(capacity), rt.Chan(capacity)

    def waits():
        for i in range(200):
            assert chan.recv() == i
            back.send(-i)

    g = rt.go(waits)
    for i in range(200):
        poll = itertools.count()
        while not chan.try_send(i):
            rt.gosched() if next(poll) < 100 else rt.sleep(0.0001)
        while not (got := back.try_recv())[0]:
            rt.gosched() if next(poll) < 100 else rt.sleep(0.0001)
        assert got == (True, -i)
    g.result(PATIENCE)
    assert chan.try_recv() == back.try_recv() == (False, None)


@on_procs(1, 2, 4)
def test_a_value_sent_before_the_close_hides_emptiness():
    """One value was sent, and the channel is closed: a try sees the value or the close."""
    for _ in range(300):
        chan = rt.Chan(1)
        chan.send("value")

        def look(chan=chan):
            try:
                assert chan.try_recv() == (True, "value")
            except rt.ChanClosed:
                return "closed"
            return "value"

        g = rt.go(look)
        chan.close()
        mine = list(chan)
        assert (g.result(PATIENCE), mine) in [("value", []), ("closed", ["value"])]


# ---------------------------------------------------------------- close


@on_procs(1, 2, 4)
def test_close_reaches_everybody_who_waits_in_whatever_way():
    for _ in range(20):
        empty, full, never = rt.Chan(), rt.Chan(1), rt.Chan()
        full.send(0)
        receivers = [rt.go(empty.recv) for _ in range(5)]
        receivers += [rt.go(rt.select, empty, never, empty) for _ in range(5)]
        loops = [rt.go(list, empty) for _ in range(5)]
        senders = [rt.go(full.send, 1) for _ in range(5)]
        senders += [rt.go(rt.select, (full, 2), never, (full, 3)) for _ in range(5)]
        parked(*receivers, *loops, *senders)
        empty.close()
        full.close()
        for g in receivers + senders:
            assert isinstance(g.exception(PATIENCE), rt.ChanClosed)
        for g in loops:
            assert g.result(PATIENCE) == []
        assert list(full) == [0]  # what waited to be sent wasn't
        assert never.try_send(1) is False and never.try_recv() == (False, None)


@on_procs(1, 2, 4)
def test_close_while_others_send_and_receive():
    """However a close falls among them, what was sent is received, or still in the channel."""
    for round_ in range(40):
        chan = rt.Chan(round_ % 3)

        def sender(chan=chan):
            for sent in itertools.count():
                try:
                    chan.send(1)
                except rt.ChanClosed:
                    return sent

        senders = [rt.go(sender) for _ in range(4)]
        receivers = [rt.go(lambda chan=chan: sum(chan)) for _ in range(4)]
        rt.sleep(0.0005)
        chan.close()
        sent = sum(g.result(PATIENCE) for g in senders)
        assert sum(g.result(PATIENCE) for g in receivers) == sent


@on_procs(1, 2)
def test_a_close_reaches_plain_threads():
    chan, out = rt.Chan(), rt.Chan(10)
    threads = [threading.Thread(target=lambda: out.send(list(chan))) for _ in range(3)]
    for thread in threads:
        thread.start()
    chan.send(1)
    chan.close()
    assert sorted(out.recv(PATIENCE) for _ in threads) == [[], [], [1]]
    for thread in threads:
        rt.blocking(thread.join, PATIENCE)


@on_procs(1)
def test_a_closed_channel_answers_as_go_does():
    chan = rt.Chan(2)
    chan.send(1)
    chan.close()
    for misuse in (chan.close, lambda: chan.send(1), lambda: chan.try_send(1)):
        with pytest.raises(rt.ChanClosed, match="closed channel"):
            misuse()
    with pytest.raises(rt.ChanClosed, match="send on a closed channel"):
        rt.select((chan, 1))
    assert rt.select(chan) == (0, 1)  # what was sent before is still there
    for again in (chan.recv, chan.try_recv, lambda: rt.select(chan)):
        with pytest.raises(rt.ChanClosed, match="recv from a closed channel"):
            again()


# ---------------------------------------------------------------- nets of G's


@on_procs(1, 2, 4)
def test_a_chain_of_10_000_gs():
    def add_one(left, right):
        left.send(1 + right.recv())

    leftmost = left = rt.Chan()
    for _ in range(10_000):
        right = rt.Chan()
        rt.go(add_one, left, right)
        left = right
    rt.go(left.send, 0)
    assert leftmost.recv(PATIENCE) == 10_000


@pytest.mark.parametrize("by_select", [False, True])
@on_procs(1, 2, 4)
def test_a_sieve_of_filters(by_select):
    def generate(out):
        for i in itertools.count(2):
            out.send(i)

    def receive(chan):
        return rt.select(None, chan, None)[1] if by_select else chan.recv()

    def keep_others(prime, source, out):
        while True:
            if (i := receive(source)) % prime:
                rt.select((out, i)) if by_select else out.send(i)

    source, found = rt.Chan(), []
    gs = [rt.go(generate, source)]
    for _ in range(25):
        found.append(receive(source))
        out = rt.Chan()
        gs.append(rt.go(keep_others, found[-1], source, out))
        source = out
    assert found[-6:] == [71, 73, 79, 83, 89, 97]
    for g in gs:
        g.cancel()
        assert g.join(PATIENCE)


@on_procs(1, 2, 4)
def test_channels_travel_through_channels():
    """Each request brings the channel for its answer."""
    requests = rt.Chan()

    def serve():
        for number, answer in requests:
            answer.send(number * number)

    def ask(number):
        answer = rt.Chan()
        requests.send((number, answer))
        return answer.recv()

    servers = [rt.go(serve) for _ in range(3)]
    asked = [rt.go(ask, i) for i in range(200)]
    assert [g.result(PATIENCE) for g in asked] == [i * i for i in range(200)]
    requests.close()
    for g in servers:
        g.result(PATIENCE)


@on_procs(1, 2, 4)
def test_many_consumers_pass_on_everything_once():
    numbers = [(i * 7919) % 1009 for i in range(1000)]
    work, results = rt.Chan(23), rt.Chan(1021)

    def consumer(busy):
        for value in work:
            if value % 5 == busy % 5:
                rt.gosched()
            results.send(value)

    with rt.TaskGroup() as tg:
        consumers = [tg.go(consumer, n) for n in range(23)]
        for value in numbers:
            work.send(value)
        work.close()
        for g in consumers:
            g.join()
        results.close()
    assert sorted(results) == sorted(numbers)


# ---------------------------------------------------------------- power series
# After M. D. McIlroy, "Squinting at power series": a series is a channel of its coefficients,
# an operation a G (or a tree of them). Feedback, in exp(), hangs for good on one lost wake-up.


class Series:
    """Makes series in a group; the group's end cancels the endless producers."""

    def __init__(self, tg):
        self.tg = tg

    def stream(self, produce, *args):
        out = rt.Chan()
        self.tg.go(produce, out, *args)
        return out

    def split(self, source):
        a, b = rt.Chan(), rt.Chan()

        def copy():
            for_a, for_b = deque(), deque()
            while True:
                chosen, value = rt.select(
                    (a, for_a[0]) if for_a else None,
                    (b, for_b[0]) if for_b else None,
                    None if for_a and for_b else source,
                )
                if chosen == 2:
                    for_a.append(value)
                    for_b.append(value)
                else:
                    (for_a, for_b)[chosen].popleft()

        self.tg.go(copy)
        return a, b

    def repeat(self, value):
        def produce(out):
            while True:
                out.send(Fraction(value))

        return self.stream(produce)

    def add(self, f, g):
        def produce(out):
            while True:
                out.send(f.recv() + g.recv())

        return self.stream(produce)

    def scale(self, c, f):
        def produce(out):
            for value in f:
                out.send(c * value)

        return self.stream(produce)

    def then(self, first, rest):
        """first + x * rest."""

        def produce(out):
            out.send(first)
            for value in rest:
                out.send(value)

        return self.stream(produce)

    def multiply(self, f, g):
        """f g = f0 g0 + x (f0 G + g0 F + x F G), where f = f0 + x F and g = g0 + x G."""

        def produce(out):
            f0, g0 = f.recv(), g.recv()
            out.send(f0 * g0)
            (fa, fb), (ga, gb) = self.split(f), self.split(g)
            crossed = self.add(self.scale(f0, ga), self.scale(g0, fa))
            rest = self.add(crossed, self.then(Fraction(0), self.multiply(fb, gb)))
            for value in rest:
                out.send(value)

        return self.stream(produce)

    def differentiate(self, f):
        def produce(out):
            f.recv()
            for n in itertools.count(1):
                out.send(n * f.recv())

        return self.stream(produce)

    def integrate(self, constant, f):
        def produce(out):
            out.send(Fraction(constant))
            for n in itertools.count(1):
                out.send(f.recv() / n)

        return self.stream(produce)

    def exp(self, f):
        """The solution E of E = 1 + integral of E f': what it gives it also takes."""
        feedback = rt.Chan()
        result, again = self.split(
            self.integrate(1, self.multiply(feedback, self.differentiate(f)))
        )

        def feed():
            for value in again:
                feedback.send(value)

        self.tg.go(feed)
        return result


@on_procs(1, 2, 4)
def test_power_series():
    with rt.TaskGroup() as tg:
        s = Series(tg)

        def take(series, n):
            return [series.recv() for _ in range(n)]

        ones = s.repeat(1)
        assert take(s.multiply(ones, s.repeat(1)), 8) == list(range(1, 9))  # 1/(1-x)^2
        assert take(s.integrate(0, s.differentiate(s.repeat(3))), 5) == [0, 3, 3, 3, 3]
        x = s.then(Fraction(0), s.then(Fraction(1), s.repeat(0)))
        factorial, expected = 1, []
        for n in range(8):
            factorial *= n or 1
            expected.append(Fraction(1, factorial))
        assert take(s.exp(x), 8) == expected
        tg.cancel()
