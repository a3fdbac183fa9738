"""What Go's own tests ask of timers (time/sleep_test, tick_test), in this API's words."""

from __future__ import annotations

import random
import time

import pytest
from support import PATIENCE, on_procs, poll_until

import gmpy_rt as rt


@on_procs(1, 2, 4)
def test_many_timers_fire_none_early_each_once():
    def one(seconds):
        begun = time.monotonic()
        chan = rt.after(seconds)
        sent = chan.recv(PATIENCE)
        assert time.monotonic() >= sent >= begun + seconds
        assert chan.try_recv() == (False, None)

    gs = [rt.go(one, random.random() / 50) for _ in range(500)]
    for g in gs:
        g.result(PATIENCE)


@on_procs(1, 2)
def test_times_come_in_their_order_however_they_were_asked_for():
    for _ in range(3):
        asked = [0.010, 0.002, 0.006, 0.004, 0.008, 0.0]
        random.shuffle(asked)
        timers = []
        for seconds in asked:
            before = time.monotonic()
            chan = rt.after(seconds)
            timers.append((before + seconds, time.monotonic() + seconds, chan))
        fired = [(first, last, chan.recv(PATIENCE)) for first, last, chan in timers]
        for _, one_due, one in fired:
            for other_due, _, other in fired:
                assert one <= other or one_due > other_due


@on_procs(1, 2, 4)
def test_a_stopped_timer_does_not_fire():
    """Stopped as it is about to fire: stop() says who won, and the channel agrees."""

    def one():
        timer = rt.Timer(random.random() / 100)
        rt.sleep(random.random() / 100)
        value = timer.chan.try_recv()[0]
        stopped = timer.stop()
        assert not (value and stopped), "fired, was received, and was stopped"
        rt.sleep(0.02)
        assert timer.chan.try_recv() == (False, None)
        return value or stopped

    gs = [rt.go(one) for _ in range(200)]
    assert all(g.result(PATIENCE) for g in gs)  # either it fired or it was stopped


@on_procs(1, 2, 4)
def test_a_reset_timer_fires_at_its_new_time_only():
    def one():
        timer = rt.Timer(random.random() / 100)
        for _ in range(5):
            rt.sleep(random.random() / 200)
            begun = time.monotonic()
            timer.reset(0.005)
        assert timer.chan.recv(PATIENCE) >= begun + 0.005
        rt.sleep(0.01)
        assert len(timer.chan) == 0 and timer.stop() is False

    for g in [rt.go(one) for _ in range(100)]:
        g.result(PATIENCE)


@on_procs(1, 2)
def test_reset_tells_whether_it_was_armed():
    timer = rt.Timer(PATIENCE)
    assert timer.reset(PATIENCE * 2) is True
    assert timer.stop() is True and timer.reset(0.001) is False
    timer.chan.recv(PATIENCE)
    assert timer.reset(PATIENCE) is False and timer.stop() is True


@on_procs(1, 2)
def test_a_time_in_the_past_fires_at_once_and_a_huge_one_never():
    for seconds in (0, -1, -1e300, float("-inf")):
        rt.after(seconds).recv(PATIENCE)
        rt.Timer(seconds).chan.recv(PATIENCE)
    timers = [rt.Timer(seconds) for seconds in (1e18, 1e300, float("inf"))]
    rt.after(0.005).recv(PATIENCE)
    assert all(len(timer.chan) == 0 for timer in timers)
    assert all(timer.stop() for timer in timers)


@on_procs(1, 2)
def test_a_ticker_is_never_ahead_of_its_period():
    begun = time.monotonic()
    with rt.Ticker(0.004) as ticker:
        for n in range(1, 6):
            assert ticker.chan.recv(PATIENCE) >= begun + n * 0.004


@on_procs(1, 2)
def test_a_stopped_ticker_is_silent():
    tickers = [rt.Ticker(0.001) for _ in range(5)]
    for ticker in tickers:
        ticker.chan.recv(PATIENCE)
        ticker.stop()
        ticker.stop()  # once more does nothing
    rt.sleep(0.01)
    assert all(len(ticker.chan) == 0 for ticker in tickers)
    tickers[0].reset(0.001)
    tickers[0].chan.recv(PATIENCE)
    tickers[0].stop()


@on_procs(1)
def test_periods_that_are_none():
    for period in (0, -1, float("-inf")):
        with pytest.raises(ValueError, match="above 0"):
            rt.Ticker(period)
    ticker = rt.Ticker(1)
    with pytest.raises(ValueError, match="above 0"):
        ticker.reset(0)
    ticker.stop()
    for make in (rt.after, rt.Timer, rt.Ticker):
        with pytest.raises(ValueError, match="nan"):
            make(float("nan"))
        with pytest.raises(TypeError, match="number of seconds"):
            make("soon")


@on_procs(1, 2, 4)
def test_timers_that_come_and_go_leave_nothing():
    def churn():
        for _ in range(40):
            timers = [rt.Timer(random.random() / 20) for _ in range(10)]
            for timer in random.sample(timers, 8):
                timer.stop()
            rt.gosched()

    for g in [rt.go(churn) for _ in range(8)]:
        g.result(PATIENCE)
    poll_until(lambda: rt.num_goroutine() == 1)  # the timers' own G has ended, too
    poll_until(lambda: sum(p.timers for p in rt.stats().per_p) == 0)


@on_procs(1, 2)
def test_sleep_is_never_short():
    for seconds in (0.0001, 0.001, 0.005):
        for _ in range(5):
            begun = time.monotonic()
            rt.sleep(seconds)
            assert time.monotonic() - begun >= seconds
