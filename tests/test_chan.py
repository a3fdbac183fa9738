"""Chan: values, order, closing, timeouts; between G's and plain threads."""

from __future__ import annotations

import gc
import random
import threading
import weakref

import pytest
from support import PATIENCE, is_parked, poll_until
from test_g import in_runtime, on_one_p

import gmpy_rt as rt


@in_runtime
def test_an_unbuffered_send_waits_for_its_receiver():
    ch = rt.Chan()
    g = rt.go(ch.send, "hello")
    poll_until(lambda: is_parked(g))
    assert g.state == "chan send" and len(ch) == 0
    assert ch.recv() == "hello"
    assert g.join(PATIENCE)


@in_runtime
def test_a_buffered_send_waits_only_when_full():
    ch = rt.Chan(2)
    ch.send(1)
    ch.send(2)
    assert len(ch) == 2 and ch.capacity == 2
    with pytest.raises(TimeoutError, match=r"0\.01"):
        ch.send(3, timeout=0.01)
    assert [ch.recv(), ch.recv()] == [1, 2]


@in_runtime
def test_values_arrive_in_the_order_they_were_sent():
    for capacity in (0, 1, 7, 1000):
        ch = rt.Chan(capacity)
        rt.go(lambda ch=ch: [ch.send(i) for i in range(500)])
        assert [ch.recv() for _ in range(500)] == list(range(500))


@in_runtime
def test_waiting_senders_are_served_in_turn():
    ch = rt.Chan()
    for i in range(10):
        g = rt.go(ch.send, i)
        poll_until(lambda g=g: is_parked(g))
    assert [ch.recv() for _ in range(10)] == list(range(10))


@in_runtime
def test_waiting_receivers_are_served_in_turn():
    ch = rt.Chan()
    gs = []
    for _ in range(10):
        gs.append(rt.go(ch.recv))
        poll_until(lambda: is_parked(gs[-1]))
    for i in range(10):
        ch.send(i)
    assert [g.result(PATIENCE) for g in gs] == list(range(10))


@in_runtime
def test_a_value_moves_up_from_a_waiting_sender_into_the_buffer():
    ch = rt.Chan(1)
    ch.send(1)
    g = rt.go(ch.send, 2)
    poll_until(lambda: is_parked(g))
    assert ch.recv() == 1
    assert g.join(PATIENCE)
    assert ch.try_recv() == (True, 2)


@in_runtime
def test_try_send_and_try_recv_never_wait():
    ch = rt.Chan(1)
    assert ch.try_recv() == (False, None)
    assert ch.try_send("a") is True
    assert ch.try_send("b") is False
    assert ch.try_recv() == (True, "a")
    assert rt.Chan().try_send("nobody there") is False
    ch.send(None)
    assert ch.try_recv() == (True, None)


@in_runtime
def test_recv_times_out_with_an_error_that_names_the_time():
    ch = rt.Chan()
    with pytest.raises(TimeoutError, match=r"0\.01"):
        ch.recv(0.01)
    with pytest.raises(TimeoutError):
        ch.recv(timeout=0)
    with pytest.raises(TimeoutError):
        ch.recv(-1)
    assert rt.go(ch.recv, PATIENCE).cancel()


@in_runtime
def test_a_receiver_that_timed_out_swallows_nothing():
    ch = rt.Chan()
    with pytest.raises(TimeoutError):
        ch.recv(0.001)
    g = rt.go(ch.recv)
    ch.send("for g")
    assert g.result(PATIENCE) == "for g"


@in_runtime
def test_close_lets_what_is_buffered_be_received():
    ch = rt.Chan(3)
    ch.send(1)
    ch.send(2)
    ch.close()
    assert ch.closed
    assert [ch.recv(), ch.recv()] == [1, 2]
    with pytest.raises(rt.ChanClosed):
        ch.recv()
    with pytest.raises(rt.ChanClosed):
        ch.try_recv()


@in_runtime
def test_close_wakes_receivers_and_senders():
    empty, full = rt.Chan(), rt.Chan(1)
    full.send(0)
    gs = [rt.go(empty.recv) for _ in range(5)] + [rt.go(full.send, i) for i in range(5)]
    poll_until(lambda: all(map(is_parked, gs)))
    empty.close()
    full.close()
    for g in gs:
        assert isinstance(g.exception(PATIENCE), rt.ChanClosed)
    assert full.recv() == 0


@in_runtime
def test_iteration_ends_when_the_channel_is_closed():
    ch = rt.Chan(2)

    def producer():
        for i in range(10):
            ch.send(i)
        ch.close()

    rt.go(producer)
    assert list(ch) == list(range(10))
    assert list(ch) == []


@in_runtime
def test_none_is_a_value_like_any_other():
    ch = rt.Chan(1)
    ch.send(None)
    assert ch.recv() is None
    ch.send(None)
    ch.close()
    assert list(ch) == [None]


def test_plain_threads_send_and_receive():
    to_gs, to_thread = rt.Chan(), rt.Chan(2)
    got = []

    def outside():
        for i in range(300):
            to_gs.send(i)
            got.append(to_thread.recv())

    def main():
        thread = threading.Thread(target=outside)
        thread.start()
        for _ in range(300):
            to_thread.send(to_gs.recv() * 2)
        rt.blocking(thread.join, PATIENCE)

    rt.run(main)
    assert got == [2 * i for i in range(300)]


def test_channels_work_without_any_runtime():
    ch = rt.Chan()
    thread = threading.Thread(target=ch.send, args=("plain",))
    thread.start()
    assert ch.recv(PATIENCE) == "plain"
    thread.join(PATIENCE)
    with pytest.raises(TimeoutError):
        ch.recv(0.01)
    with pytest.raises(TimeoutError):
        ch.send(1, 0.01)


@in_runtime
def test_many_senders_and_receivers_lose_and_double_nothing():
    for capacity in (0, 3):
        ch, out = rt.Chan(capacity), rt.Chan(100)
        senders = [
            rt.go(lambda ch=ch, base=base: [ch.send(base * 200 + i) for i in range(200)])
            for base in range(10)
        ]

        def receiver(ch=ch, out=out):
            mine = []
            for value in ch:
                mine.append(value)
                if random.random() < 0.1:
                    rt.gosched()
            out.send(mine)

        receivers = [rt.go(receiver) for _ in range(7)]
        for g in senders:
            g.result(PATIENCE)
        ch.close()
        got = [value for _ in receivers for value in out.recv(PATIENCE)]
        assert sorted(got) == list(range(2000))


@in_runtime
def test_timeouts_and_values_race_without_a_loss():
    ch = rt.Chan()
    got: list[int] = []

    def receiver():
        while True:
            try:
                value = ch.recv(0.0005)
            except TimeoutError:
                continue
            except rt.ChanClosed:
                return
            got.append(value)

    def sender(base):
        for i in range(100):
            while True:
                try:
                    ch.send(base + i, 0.0005)
                    break
                except TimeoutError:
                    pass

    receivers = [rt.go(receiver) for _ in range(4)]
    senders = [rt.go(sender, 100 * k) for k in range(4)]
    for g in senders:
        g.result(PATIENCE)
    ch.close()
    for g in receivers:
        g.result(PATIENCE)
    assert sorted(got) == list(range(400))


@on_one_p  # a G that looks parked stays so: a running one may get it anywhere
def test_cancelled_receivers_lose_no_value():
    ch = rt.Chan()
    got: list[int] = []

    def receiver():
        while True:
            try:
                got.append(ch.recv())
            except rt.Cancelled:
                continue
            except rt.ChanClosed:
                return

    gs = [rt.go(receiver) for _ in range(4)]

    def pest():
        for i in range(400):
            if is_parked(gs[i % 4]):
                gs[i % 4].cancel()
            rt.gosched()

    p = rt.go(pest)
    for i in range(400):
        ch.send(i)
    p.result(PATIENCE)
    ch.close()
    for g in gs:
        g.result(PATIENCE)
    assert sorted(got) == list(range(400))


@in_runtime
def test_values_left_in_a_dead_channel_are_freed():
    class Thing:
        pass

    thing, ch = Thing(), rt.Chan(3)
    seen = weakref.ref(thing)
    ch.send(thing)
    del thing
    assert seen() is not None
    del ch
    gc.collect()
    assert seen() is None


@in_runtime
def test_a_cycle_through_a_channel_is_collected():
    class Thing:
        pass

    thing, ch = Thing(), rt.Chan(3)
    thing.ch = ch
    ch.send(thing)
    seen = weakref.ref(thing)
    del thing, ch
    gc.collect()
    assert seen() is None


def test_chan_can_be_written_with_its_type():
    assert rt.Chan[int] is not None
    assert repr(rt.Chan(3)).startswith("<Chan at")
