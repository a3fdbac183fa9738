"""The guard: what it does about samples (made up, with a clock that the tests move), and for
real with hogs."""

from __future__ import annotations

import re
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, is_parked, poll_until, preempts, run_script
from test_examples import EXAMPLES, connect, read_all, started

import gmpy_rt
from gmpy_rt import Event, go, guard, run
from gmpy_rt.guard import Hog, HungerGuard, Overloaded, Rules, Sample

GOOD = Sample(10, 0, 0, 0.0, 0, 0.0001, 0.0002, 0, ())
BAD = GOOD._replace(goroutines=6000, runnable=5990, mean_wait=0.3, p99_wait=0.9)
STARVED = GOOD._replace(starved=2, oldest=0.02, oldest_g=7, p99_wait=0.01)


class FakeLevers:
    def __init__(self) -> None:
        self.moves: list[tuple[str, float]] = []
        self.at: dict[str, Any] = {"slice": 0.01, "reserve": 0}

    def look(self) -> Sample:
        return GOOD

    def preempt_now(self) -> None:
        self.moves.append(("preempt", 0))

    def slice(self, seconds: float) -> float:
        return self.move("slice", seconds)

    def reserve(self, n: int) -> int:
        return self.move("reserve", n)

    def move(self, lever: str, to: Any) -> Any:
        self.moves.append((lever, to))
        before, self.at[lever] = self.at[lever], to
        return before


class Fixture:
    """A guard that isn't started: samples come from the test."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.levers = FakeLevers()
        self.states: list[str] = []
        self.guard = HungerGuard(
            clock=lambda: self.now, on_change=lambda state, _: self.states.append(state), **options
        )
        self.guard._levers = self.levers

    def observe(self, *samples: Sample) -> None:
        for sample in samples:
            self.now += 0.1
            self.guard.observe(sample)

    def fail(self) -> None:
        def boom() -> None:
            raise LookupError

        with pytest.raises(LookupError):
            self.guard.call(boom)


def answer() -> int:
    return 42


def test_bad_means_over_both_thresholds() -> None:
    guard = Fixture().guard
    assert guard.is_bad(BAD)
    assert not guard.is_bad(BAD._replace(goroutines=5000))
    assert not guard.is_bad(BAD._replace(mean_wait=0.2))


def test_three_bad_samples_in_a_row_reject_calls_until_half_open() -> None:
    fixture = Fixture()
    fixture.observe(BAD, BAD, GOOD, BAD, BAD)
    assert fixture.guard.call(answer) == 42
    fixture.observe(BAD)
    with pytest.raises(Overloaded) as caught:
        fixture.guard.call(answer)
    assert str(caught.value) == (
        "the guard is open: 6000 G's (limit 5000) waited 0.300 s on average for a turn "
        "(limit 0.2 s); try again in 30.0 s"
    )
    assert caught.value.retry_after == pytest.approx(30.0)
    assert caught.value.sample == BAD
    assert fixture.guard.rejected == 1
    fixture.now += 30
    assert fixture.guard.call(answer) == 42
    assert fixture.guard.state == "half-open"


def test_closes_after_twenty_good_trials_and_tells_each_change() -> None:
    fixture = Fixture()
    fixture.observe(BAD, BAD, BAD)
    fixture.now += 30
    fixture.observe(GOOD)
    for _ in range(20):
        assert fixture.guard.state == "half-open"
        fixture.guard.call(answer)
    assert fixture.guard.state == "closed"
    assert fixture.states == ["open", "half-open"]  # the last change was no sample's


def test_three_failures_running_open_it_again() -> None:
    fixture = Fixture()
    fixture.observe(BAD, BAD, BAD)
    fixture.now += 30
    for _ in range(3):
        fixture.fail()
    assert fixture.guard.state == "open"
    assert fixture.guard.opened == 2


def test_failures_while_closed_are_nobodys_business() -> None:
    fixture = Fixture()
    for _ in range(10):
        fixture.fail()
    assert fixture.guard.state == "closed"


def test_protect_keeps_name_arguments_and_result() -> None:
    fixture = Fixture()

    @fixture.guard.protect
    def add(a: int, *, b: int = 1) -> int:
        """Adds."""
        return a + b

    assert add(3, b=4) == 7
    assert (add.__name__, add.__doc__) == ("add", "Adds.")


def test_relief_begins_with_the_first_starved_g_and_asks_again_at_each() -> None:
    fixture = Fixture(reserve=1)
    fixture.observe(GOOD)
    assert fixture.levers.moves == []
    fixture.observe(STARVED, STARVED)
    assert fixture.levers.moves == [
        ("slice", 0.001),
        ("reserve", 1),
        ("preempt", 0),
        ("preempt", 0),
    ]
    assert fixture.guard.relieving
    assert fixture.guard.reliefs == 1


def test_relief_ends_after_a_second_without_starved_gs_and_hogs() -> None:
    fixture = Fixture(reserve=1)
    fixture.observe(STARVED)
    fixture.levers.moves.clear()
    hog = Hog(g=3, m=0, seconds=0.008, stack="")
    fixture.observe(*[GOOD] * 9)
    fixture.observe(GOOD._replace(hogs=(hog,)), *[GOOD] * 9)
    fixture.observe(GOOD._replace(preempt_requests=1), *[GOOD] * 9)
    assert fixture.levers.moves == []
    fixture.observe(GOOD)
    assert fixture.levers.moves == [("slice", 0.01), ("reserve", 0)]
    assert not fixture.guard.relieving


def test_slice_none_leaves_slices_alone() -> None:
    fixture = Fixture(slice=None)
    fixture.observe(STARVED)
    assert fixture.levers.moves == [("preempt", 0)]


def test_relief_takes_nothing_away_and_keeps_what_others_set_meanwhile() -> None:
    fixture = Fixture(reserve=1)
    fixture.levers.at = {"slice": 0.0005, "reserve": 2}
    fixture.observe(STARVED)
    assert fixture.levers.at == {"slice": 0.0005, "reserve": 2}
    fixture.levers.at["reserve"] = 3
    fixture.observe(*[GOOD] * 10)
    assert not fixture.guard.relieving
    assert fixture.levers.at == {"slice": 0.0005, "reserve": 3}


def test_two_guards_leave_everything_as_it_was() -> None:
    for first in (0, 1):
        a, b = Fixture(reserve=1), Fixture(reserve=1)
        b.levers = b.guard._levers = a.levers
        a.observe(STARVED)
        b.observe(STARVED)
        assert a.levers.at == {"slice": 0.001, "reserve": 1}
        for fixture in ((a, b), (b, a))[first]:
            fixture.observe(*[GOOD] * 10)
        assert a.levers.at == {"slice": 0.01, "reserve": 0}


# ---- queue


def queueing(**options: Any) -> Fixture:
    fixture = Fixture(mode="queue", rules=Rules(trials=1, open_seconds=5.0), **options)
    fixture.observe(BAD, BAD, BAD)
    return fixture


def test_queued_calls_go_on_once_trials_have_succeeded() -> None:
    def main() -> list[int]:
        fixture = queueing(queue_timeout=PATIENCE)
        gs = [go(fixture.guard.call, answer) for _ in range(5)]
        poll_until(lambda: fixture.guard.queued == 5)
        poll_until(lambda: all(is_parked(g) for g in gs))
        fixture.now += 5.0
        fixture.observe(GOOD)
        results = [g.result(PATIENCE) for g in gs]
        assert fixture.guard.queued == 0
        assert fixture.guard.state == "closed"
        return results

    assert run(main, procs=2) == [42] * 5


def test_queue_is_bounded() -> None:
    def main() -> None:
        fixture = queueing(queue_timeout=PATIENCE, queue_size=1)
        g = go(fixture.guard.call, answer)
        poll_until(lambda: fixture.guard.queued == 1)
        with pytest.raises(Overloaded, match=r"1 calls queue already \(queue_size\)"):
            fixture.guard.call(answer)
        g.cancel()
        with pytest.raises(gmpy_rt.Cancelled):
            g.result(PATIENCE)
        assert fixture.guard.queued == 0

    run(main, procs=1)


def test_queueing_ends_after_its_timeout() -> None:
    def main() -> None:
        fixture = queueing(queue_timeout=0.02)
        with pytest.raises(Overloaded, match=r"queued for 0\.02 s \(queue_timeout\)"):
            fixture.guard.call(answer)

    run(main, procs=1)


def test_second_trial_waits_for_the_first() -> None:
    def main() -> None:
        fixture = queueing(queue_timeout=PATIENCE)
        fixture.now += 5.0
        finish = Event()
        first = go(fixture.guard.call, finish.wait)
        poll_until(lambda: is_parked(first))
        second = go(fixture.guard.call, answer)
        poll_until(lambda: fixture.guard.queued == 1)
        finish.set()
        assert second.result(PATIENCE) == 42
        first.join()

    run(main, procs=2)


def test_cancelled_trial_gives_its_place_back_even_if_it_has_to_wait_for_that() -> None:
    def main() -> None:
        fixture = Fixture()
        fixture.observe(BAD, BAD, BAD)
        fixture.now += 30
        trial = go(fixture.guard.call, Event().wait)
        poll_until(lambda: is_parked(trial))
        with fixture.guard._lock:
            trial.cancel()
            poll_until(lambda: fixture.guard._lock.waiters == 1)
            trial.cancel()
        with pytest.raises(gmpy_rt.Cancelled):
            trial.result(PATIENCE)
        assert fixture.guard.call(answer) == 42

    run(main, procs=2)


# ---- for real


def hog_until(stop: threading.Event) -> None:
    while not stop.is_set():
        pass


def quietly_until(ready: Callable[[], object]) -> None:
    """Relief ends after a second's samples without a turn that came late, and on a busy machine
    each turn may be one: so a plain thread looks, while the G is parked. And each sample may be
    late itself, by 0.1 s and more: so take an interval by which a second has few of them."""
    gmpy_rt.blocking(poll_until, ready)


@preempts
def test_sees_hogs_and_starved_gs_and_shortens_slices() -> None:
    def main() -> None:
        stop = threading.Event()
        seen: list[Sample] = []
        with HungerGuard(interval=0.1, slice=0.001) as watch:
            observe = watch.observe

            def keep(sample: Sample) -> None:
                if sample.starved and sample.hogs:
                    seen.append(sample)
                observe(sample)

            watch.observe = keep  # type: ignore[method-assign]
            for _ in range(12):
                go(hog_until, stop)
            try:
                poll_until(lambda: watch.relieving)
                # main may be seen, too: stopped by the machine, it is a hog like any other.
                poll_until(lambda: any("hog_until (" in h.stack for s in seen for h in s.hogs))
                poll_until(lambda: guard.lib.gmpy_slice(0) == 1_000_000)
            finally:
                stop.set()
            for sample in seen:
                assert sample.oldest > 0.005
                assert sample.oldest_g > 0
                for hog in sample.hogs:
                    assert hog.seconds > 0.005
                    assert len(hog.stack.encode()) <= guard.STACK_BYTES
            quietly_until(lambda: guard.lib.gmpy_slice(0) == 10_000_000)

    run(main, procs=2)


@preempts
@pytest.mark.deadline(120)
def test_protected_gs_overtake_hogs_on_a_reserved_p() -> None:
    """The structural half of the claim; bench/observe/guard_effect.py has the times."""

    def main() -> None:
        stop = threading.Event()
        with HungerGuard(interval=0.1, reserve=1) as watch:
            ordinary = [go(hog_until, stop) for _ in range(6)]
            try:
                poll_until(lambda: gmpy_rt.reserve() == 1)
                gs = [watch.go(gmpy_rt.current) for _ in range(50)]
                ended = [g.result(PATIENCE) for g in gs]
                assert all(g.latency for g in ended)
                hogs_on = {g.m for g in ordinary}
                later = watch.go(lambda: gmpy_rt.current().m).result(PATIENCE)
                assert later not in hogs_on
            finally:
                stop.set()
            quietly_until(lambda: gmpy_rt.reserve() == 0)

    run(main, procs=2)


def test_stop_ends_relief_and_lets_everything_in() -> None:
    def main() -> None:
        watch = HungerGuard(interval=60.0, slice=0.002)
        watch.start()
        watch.observe(STARVED)
        for _ in range(3):
            watch.observe(BAD)
        assert watch.state == "open"
        assert guard.lib.gmpy_slice(0) == 2_000_000
        watch.stop()
        watch.stop()
        assert watch.state == "closed"
        assert watch.call(answer) == 42
        assert guard.lib.gmpy_slice(0) == 10_000_000
        watch.start()  # and again
        watch.stop()

    run(main, procs=1)


def test_ends_with_the_runtime_when_nobody_stops_it() -> None:
    kept: list[HungerGuard] = []

    def main() -> None:
        watch = HungerGuard(interval=0.001)
        watch.start()
        kept.append(watch)
        poll_until(lambda: watch.samples > 3)

    for _ in range(3):
        run(main, procs=2)
    assert not [t for t in threading.enumerate() if t.name == "gmpy-guard"]
    assert [watch._thread for watch in kept] == [None] * 3


def test_deadlock_is_still_told_beside_a_guard() -> None:
    def main() -> None:
        with HungerGuard(interval=0.01):
            gmpy_rt.Chan[int]().recv()

    with pytest.raises(gmpy_rt.DeadlockError):
        run(main, procs=1)


def test_failing_callback_does_not_end_the_watch() -> None:
    source = """
    from gmpy_rt.guard import HungerGuard, Rules
    def boom(state, sample):
        raise LookupError(state)
    def main():
        watch = HungerGuard(interval=0.001, max_goroutines=0, max_wait=1e-9,
                            on_change=boom, rules=Rules(bad_samples=1, open_seconds=0.01))
        with watch:
            before = watch.samples
            while watch.opened < 2:
                rt.sleep(0.001)
    run(main)
    """
    ran = run_script(source)
    assert "LookupError: open" in ran.stderr


def test_samples_take_little_memory() -> None:
    def main() -> None:
        levers = guard.Levers(0.005)
        tracemalloc.start()
        try:
            levers.look()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(200):
                levers.look()
            assert tracemalloc.get_traced_memory()[0] - before < 10_000
        finally:
            tracemalloc.stop()

    run(main, procs=1)


def test_figures_are_true_for_gs_that_wait_and_turns_that_were() -> None:
    def main() -> None:
        # As the guard does, from a plain thread: a G's own look lets go of the interpreter, and
        # where there were many G's it takes so long that sysmon hands its P on.
        levers = guard.Levers(0.02)
        slice = levers.slice(3600)
        gs: list[gmpy_rt.G[int]] = []
        looks: list[Sample] = []

        def look() -> None:
            while len(gs) < 7:
                time.sleep(0.001)
            time.sleep(0.05)
            looks.append(levers.look())

        try:
            threading.Thread(target=look).start()
            levers.look()
            began = time.monotonic()
            for _ in range(7):
                gs.append(go(answer))
            while not looks:
                pass
        finally:
            levers.slice(slice)
        for g in gs:
            g.join()
        took = time.monotonic() - began
        waiting = looks[0]
        # A G is done before its M has seen to its end, and that may be another M than main's.
        poll_until(lambda: gmpy_rt.num_goroutine() == 1)
        after = levers.look()
        assert (waiting.goroutines, waiting.runnable, waiting.starved) == (8, 7, 7)
        assert 0.05 <= waiting.oldest <= took + 0.01
        assert waiting.oldest_g == gs[0].id
        assert 0.05 * 0.88 <= waiting.mean_wait <= took * 1.13  # a bucket's width
        assert [hog.g for hog in waiting.hogs] == [gmpy_rt.current().id]
        # main runs for longer than the others wait: the thread starts meanwhile.
        assert 0.05 <= waiting.hogs[0].seconds <= time.monotonic() - begun
        assert "test_figures" in waiting.hogs[0].stack
        assert (after.goroutines, after.runnable, after.starved) == (1, 0, 0)
        assert after.p99_wait >= 0.05 * 0.88

    begun = time.monotonic()
    run(main, procs=1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"interval": 0}, "interval=0: give seconds"),
        ({"interval": "1"}, "interval='1': give seconds"),
        ({"starving": -1}, "starving=-1: give seconds"),
        ({"max_wait": 0.0}, "max_wait=0.0: give seconds"),
        ({"queue_timeout": float("nan")}, "queue_timeout=nan: give seconds"),
        ({"slice": 1e-9}, "slice=1e-09: give seconds"),
        ({"max_goroutines": -1}, "max_goroutines=-1: give a whole number"),
        ({"queue_size": 1.5}, "queue_size=1.5: give a whole number"),
        ({"reserve": True}, "reserve=True: give a whole number"),
        ({"mode": "drop"}, "mode='drop': choose 'reject' or 'queue'"),
        ({"rules": Rules(trials=0)}, "trials=0: "),
    ],
)
def test_options_that_cannot_be_are_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HungerGuard(**options)


def test_start_outside_a_runtime_and_twice_are_errors() -> None:
    with pytest.raises(RuntimeError, match="needs a runtime"):
        HungerGuard().start()

    def main() -> None:
        with HungerGuard() as watch, pytest.raises(RuntimeError, match="runs already"):
            watch.start()

    run(main, procs=1)


# ---- the HTTP example

GUARDED_SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
import http_server as server
from gmpy_rt.guard import HungerGuard, Rules, Sample
bad = Sample(6000, 5990, 5990, 1.0, 7, 0.3, 0.9, 0, ())
server.GUARD = HungerGuard(interval=60.0)
if sys.argv[2] == "open":
    watch = server.GUARD.start
    def start():
        watch()
        for _ in range(3):
            server.GUARD.observe(bad)
    server.GUARD.start = start
try:
    server.run(server.serve, "127.0.0.1", 0, server.Limits(), procs=2)
except KeyboardInterrupt:
    pass
"""


def get(port: int) -> bytes:
    with connect(port) as conn:
        conn.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return read_all(conn)


def test_http_server_with_guard_serves() -> None:
    pytest.importorskip("httptools")
    with started(str(EXAMPLES / "http_server.py"), "--port=0", "--guard") as port:
        assert get(port).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("state", ["open", "closed"])
def test_http_server_answers_503_while_the_guard_is_open(state: str) -> None:
    pytest.importorskip("httptools")
    with started("-c", GUARDED_SERVER, str(EXAMPLES), state) as port:
        head, _, body = get(port).partition(b"\r\n\r\n")
    if state == "closed":
        assert body == b"Hello, world!\n"
    else:
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        found = re.search(rb"\r\nRetry-After: (\d+)\r\n", head)
        assert found
        assert 1 <= int(found[1]) <= 30


# ---- changes that others notice first


def test_a_change_that_a_call_noticed_is_told_with_the_next_sample() -> None:
    def main() -> None:
        fixture = Fixture(rules=Rules(trials=1, open_seconds=5.0))
        fixture.observe(BAD, BAD, BAD)
        assert fixture.states == ["open"]
        fixture.now += 5.0
        assert fixture.guard.state == "half-open"
        assert fixture.guard.call(answer) == 42
        assert fixture.guard.state == "closed"
        fixture.observe(GOOD)
        assert fixture.states == ["open", "closed"]

    run(main)


def test_on_change_may_stop_the_guard() -> None:
    """It waited for its own end, and run() for it."""
    told: list[str] = []

    def main() -> None:
        levers = FakeLevers()
        levers.look = lambda: BAD  # type: ignore[method-assign]

        def stop(state: str, _: Sample | None) -> None:
            told.append(state)
            guard.stop()

        guard = HungerGuard(interval=0.001, on_change=stop, levers=lambda _: levers)
        guard.start()
        poll_until(lambda: told)
        poll_until(lambda: guard.state == "closed")  # it let everything in
        guard.stop()
        assert guard.opened == 1

    run(main)
    assert told == ["open"]


def test_seconds_without_end_are_refused() -> None:
    for name in ("interval", "starving", "slice", "queue_timeout", "max_wait"):
        with pytest.raises(ValueError, match=f"{name}=inf"):
            HungerGuard(**{name: float("inf")})  # type: ignore[arg-type]
