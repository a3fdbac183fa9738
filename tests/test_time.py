"""after(), Timer, Ticker."""

from __future__ import annotations

import gc
import itertools
import math
import threading
import time

import pytest
from support import PATIENCE, poll_until
from test_g import in_runtime

import gmpy_rt as rt
from gmpy_rt.time import _keeper


@in_runtime
def test_after_sends_the_time_once():
    begun = time.monotonic()
    chan = rt.after(0.02)
    sent = chan.recv(PATIENCE)
    assert begun + 0.02 <= sent <= time.monotonic()
    with pytest.raises(TimeoutError):
        chan.recv(0.03)


@in_runtime
def test_after_is_a_timeout_case_for_select():
    never = rt.Chan()
    index, _ = rt.select(never, rt.after(0.01), timeout=PATIENCE)
    assert index == 1


@in_runtime
def test_many_fire_in_the_order_of_their_times():
    """By the times of the sendings: an M that gets its CPU late may receive late. And only those
    whose times are in that order for sure, wherever a G was stopped beside its after()."""

    def wait(ms):
        before = time.monotonic()
        chan = rt.after(ms / 1000)
        after = time.monotonic()
        return before + ms / 1000, after + ms / 1000, chan.recv(PATIENCE)

    gs = [rt.go(wait, ms) for ms in (90, 10, 60, 30)]
    fired = [g.result(PATIENCE) for g in gs]
    assert all(earliest <= sent for earliest, _, sent in fired)
    for (_, latest, first), (earliest, _, second) in itertools.permutations(fired, 2):
        assert first <= second or latest >= earliest


@in_runtime
def test_stop_and_reset():
    timer = rt.Timer(PATIENCE)
    assert timer.stop() is True and timer.stop() is False
    assert timer.reset(0.01) is False
    timer.chan.recv(PATIENCE)
    timer = rt.Timer(0.001)
    poll_until(lambda: len(timer.chan) == 1)
    assert timer.reset(PATIENCE) is True  # its value wasn't received: gone
    assert len(timer.chan) == 0
    assert timer.reset(0.01) is True
    timer.chan.recv(PATIENCE)
    assert timer.stop() is False


@in_runtime
def test_a_ticker_keeps_its_period_and_drops_what_nobody_takes():
    begun = time.monotonic()
    with rt.Ticker(0.01) as ticker:
        times = [now for now, _ in zip(ticker, range(5), strict=False)]
        # From the beginning: a busy machine may be late with the first one.
        assert times[-1] - begun >= 0.05 and times == sorted(set(times))
        rt.sleep(0.05)
        poll_until(lambda: len(ticker.chan) == 1)  # the keeper may be late; more don't go in
        ticker.reset(0.005)
        ticker.chan.recv(PATIENCE)
    with pytest.raises(TimeoutError):
        ticker.chan.recv(0.03)


@in_runtime
def test_who_closes_a_timers_channel_ends_that_timer_only():
    """The send on it raised in the keeper, which died with its lock held: no timer ever again."""
    chan, timer, ticker = rt.after(0.001), rt.Timer(PATIENCE), rt.Ticker(0.001)
    chan.close()
    timer.chan.close()
    timer.reset(0.001)  # only now: the keeper may be quicker than this G, and find it open
    beats = 0
    for _ in ticker:
        beats += 1
        if beats == 3:
            ticker.chan.close()
    assert beats in (3, 4)  # one may have been in the channel
    assert rt.after(0.01).recv(PATIENCE) > 0
    assert timer.stop() is False
    ticker.stop()


@in_runtime
def test_a_reset_drops_the_tick_of_the_time_before():
    ticker = rt.Ticker(0.001)
    poll_until(lambda: len(ticker.chan))
    ticker.reset(1000)
    assert ticker.chan.try_recv() == (False, None)
    with pytest.raises(ValueError, match="above 0"):
        ticker.reset(0)
    ticker.stop()


@in_runtime
def test_nothing_stays_behind():
    before = rt.num_goroutine()
    timers = [rt.Timer(1000) for _ in range(500)]
    chans = [rt.after(1000) for _ in range(500)]
    assert rt.num_goroutine() == before + 1
    for timer in timers:
        timer.stop()
    del chans, timer, timers
    gc.collect()
    rt.after(0).recv(PATIENCE)  # the keeper looks
    poll_until(lambda: rt.num_goroutine() == before)
    assert not _keeper.heap


@in_runtime
def test_unheld_channels_do_not_pile_up():
    for _ in range(5000):
        rt.after(1000)
    assert len(_keeper.heap) < 1000


def test_armed_at_the_end_of_a_run_is_over_in_the_next():
    rt.run(lambda: rt.after(PATIENCE) and None)
    assert rt.run(lambda: rt.after(0.001).recv(PATIENCE)) > 0


@in_runtime
def test_from_a_plain_thread():
    got = rt.Chan(1)
    thread = threading.Thread(target=lambda: got.send(rt.after(0.001).recv(PATIENCE)))
    thread.start()
    assert got.recv(PATIENCE) > 0
    rt.blocking(thread.join)


@in_runtime
def test_misuse():
    for bad in (None, "1"):
        with pytest.raises(TypeError, match="number of seconds"):
            rt.after(bad)
    with pytest.raises(ValueError, match="nan"):
        rt.Timer(math.nan)
    for bad in (0, -1):
        with pytest.raises(ValueError, match="above 0"):
            rt.Ticker(bad)


def test_outside_a_runtime():
    with pytest.raises(RuntimeError, match="outside a runtime"):
        rt.after(1)
