"""The scheduler: parallelism, stealing, pinning, hand-off, preemption, tokens, gomaxprocs."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable

import pytest
from support import (
    CPUS,
    PATIENCE,
    current_cpu,
    is_parked,
    parallel,
    poll_until,
    preempts,
    run_script,
    sees_blocking,
    spin_until,
    undisturbed,
    unpreempted,
)

import gmpy_rt as rt
from gmpy_rt import _door


def my_m() -> int:
    number = _door.current_m()
    assert number is not None
    return number


# ---------------------------------------------------------------- on several cores


def no_collection_is_due() -> None:
    """For those who count steals. A stop-the-world leaves the maker's thread detached until it has
    a CPU again; if that takes a millisecond, its P is handed off, and nobody needs to steal."""
    gc.collect()


@parallel
def test_two_cpu_bound_gs_overlap_in_time():
    def pair():
        arrived = [False, False]

        def body(i):
            arrived[i] = True
            # Neither ever parks: both get past this only if both run at the same time.
            spin_until(lambda: arrived[1 - i])
            return my_m()

        gs = [rt.go(body, i) for i in range(2)]
        first, second = [g.result(PATIENCE) for g in gs]
        return first != second

    # More than one pair: where the second M gets no CPU for a slice, the first G is preempted and
    # the other one begins, rightly, on the same M.
    rt.run(lambda: poll_until(pair), procs=2)


@parallel
@pytest.mark.parametrize("policy", ["go", "global-first", "neighbour", "affine"])
def test_a_stolen_g_runs_on_another_m_than_its_maker(policy):
    def main():
        no_collection_is_due()
        done: list[int] = []
        with unpreempted():  # only a thief can run it, however late
            g = rt.go(lambda: done.append(my_m()))
            spin_until(lambda: done)
        g.join()
        return my_m(), done[0], rt.stats().total("steals")

    mine, other, steals = rt.run(main, procs=2, policy=policy)
    assert mine != other and steals == 1


@parallel
def test_a_thief_takes_half():
    def main():
        no_collection_is_due()
        ran: list[int] = []
        with unpreempted():  # only a thief can run them, however late
            gs = [rt.go(lambda: ran.append(my_m())) for _ in range(100)]
            spin_until(lambda: len(ran) == 100)
        for g in gs:
            g.join()
        return my_m(), set(ran), rt.stats()

    mine, ms, stats = rt.run(main, procs=2)
    assert mine not in ms
    assert stats.total("stolen") > 2 * stats.total("steals") > 0


def test_a_started_g_never_changes_its_m():
    def wanderer():
        seen = {(my_m(), threading.get_native_id())}
        for i in range(100):
            if i % 3 == 0:
                rt.sleep(0.0002)
            elif i % 3 == 1:
                rt.gosched()
            else:
                rt.go(int).join()
            seen.add((my_m(), threading.get_native_id()))
        return seen

    def main():
        gs = [rt.go(wanderer) for _ in range(30)]
        return [g.result(PATIENCE) for g in gs]

    assert all(len(seen) == 1 for seen in rt.run(main, procs=3))


def test_a_fresh_g_says_that_it_has_no_m_yet():
    def main():
        ch = rt.Chan()
        with unpreempted():  # its M is the only one that could start it
            g = rt.go(ch.recv)
            assert g.m is None and g.state == "new"
        poll_until(lambda: is_parked(g))
        assert isinstance(g.m, int)
        ch.send(1)
        g.join()
        assert g.m is None

    rt.run(main, procs=1)


@pytest.mark.parametrize("affinity", ["spread", "list"])
def test_ms_run_on_the_cpus_they_are_pinned_to(affinity):
    import psutil

    cpus = CPUS if affinity == "spread" else CPUS[-1:]

    def body():
        rt.sleep(0.001)
        allowed = psutil.Process(threading.get_native_id()).cpu_affinity()
        end = time.monotonic() + 0.02
        seen = {current_cpu()}
        while time.monotonic() < end:
            seen.add(current_cpu())
        return my_m(), allowed, seen

    def main():
        gs = [rt.go(body) for _ in range(12)]
        return [g.result(PATIENCE) for g in gs]

    argument = "spread" if affinity == "spread" else cpus
    for number, allowed, seen in rt.run(main, procs=2, affinity=argument):
        assert allowed == [cpus[number % len(cpus)]]
        assert seen == set(allowed)
    assert sorted(os.sched_getaffinity(0)) == CPUS  # the caller's own thread isn't pinned


@pytest.mark.skipif(len(CPUS) < 2, reason="with one CPU every thread is pinned to it")
def test_threads_of_the_runtime_are_not_pinned_with_the_m_that_starts_them(tmp_path):
    from gmpy_rt import debug, pprof, trace
    from gmpy_rt.guard import HungerGuard

    def only_ms_are_pinned():
        # By number: up to 3.12 the Thread of an M may be the one of an ended M, with its native_id.
        ids = [int(name) for name in os.listdir("/proc/self/task")]
        return sum(sorted(os.sched_getaffinity(i)) != CPUS for i in ids) <= rt.stats().threads

    def main():
        assert sorted(os.sched_getaffinity(0)) == CPUS[-1:]
        # A new thread of the pool: those that it has from before are busy.
        busy = [rt.go(rt.blocking, time.sleep, 0.1) for _ in range(40)]
        calls = [rt.go(rt.blocking, os.sched_getaffinity, 0) for _ in range(10)]
        assert all(sorted(g.result(PATIENCE)) == CPUS for g in calls)
        threads = len(os.listdir("/proc/self/task"))
        trace.start(tmp_path / "trace.json")  # its drainer
        pprof.start_cpu()  # its sampler
        with debug.serve("127.0.0.1:0"), HungerGuard():
            poll_until(lambda: len(os.listdir("/proc/self/task")) >= threads + 4)
            poll_until(only_ms_are_pinned)
            rt.sleep(0.02)  # should an M have been about to be pinned just now
            assert only_ms_are_pinned()
        pprof.stop_cpu()
        trace.stop()
        for g in busy:
            g.result(PATIENCE)

    rt.run(main, procs=1, affinity=CPUS[-1:])


def test_a_thread_that_a_g_starts_is_no_daemon():
    def main():
        thread = threading.Thread(target=int)
        thread.start()
        rt.blocking(thread.join)
        return thread.daemon

    assert rt.run(main) is False


def test_a_program_waits_for_the_threads_that_its_gs_started():
    done = run_script(
        """
        import threading, time
        over = threading.Event()
        def late():
            over.wait(30)  # the end of run() may take any time
            time.sleep(0.3)
            print("late")
        run(lambda: threading.Thread(target=late).start())
        print("run is over")
        over.set()
        """
    )
    assert done.stdout == "run is over\nlate\n"


def test_policies_all_finish_the_same_work():
    def tree(depth):
        if depth == 0:
            return 1
        gs = [rt.go(tree, depth - 1) for _ in range(3)]
        return sum(g.result(PATIENCE) for g in gs)

    for policy in ("go", "global-first", "neighbour", "affine"):
        for procs in (1, 2, 4):
            assert rt.run(tree, 5, procs=procs, policy=policy) == 3**5


def test_more_gs_than_a_local_queue_holds():
    def main():
        gs = [rt.go(lambda i=i: i) for i in range(2000)]
        return sum(g.result(PATIENCE) for g in gs)

    for procs in (1, 2):
        assert rt.run(main, procs=procs) == sum(range(2000))


def test_bound_and_fresh_gs_take_turns():
    # Each of the two kinds alone would keep the only P busy for ever.
    def main():
        stop, count = [], {"bound": 0, "fresh": 0}

        def yields():
            while not stop:
                count["bound"] += 1
                rt.gosched()

        def begets():
            count["fresh"] += 1
            if not stop:
                rt.go(begets)

        g = rt.go(yields)
        poll_until(lambda: count["bound"])
        rt.go(begets)
        poll_until(lambda: count["bound"] > 2000 and count["fresh"] > 2000, 10)
        stop.append(True)
        g.join(PATIENCE)

    rt.run(main, procs=1)


def test_the_newest_gs_do_not_starve_older_fresh_ones():
    # Each new G takes the place in front of the queue (runnext), where its predecessor was.
    def main():
        stop, ran = [], []

        def begets():
            if not stop:
                rt.go(begets)

        rt.go(ran.append, "older")
        rt.go(begets)
        try:
            poll_until(lambda: ran, 2)
        finally:
            stop.append(True)

    rt.run(main, procs=1)


# ---------------------------------------------------------------- sleep, gosched, timers


def test_sleep_lasts_at_least_as_long_as_asked():
    def body(seconds):
        before = time.monotonic()
        rt.sleep(seconds)
        return time.monotonic() - before - seconds

    def main():
        gs = [rt.go(body, i % 20 / 1000) for i in range(200)]
        return [g.result(PATIENCE) for g in gs]

    assert min(rt.run(main, procs=2)) >= 0


def test_sleepers_wake_in_the_order_of_their_deadlines():
    """All while main keeps their M, so that sysmon alone wakes them. An M that is late runs some of
    the timers itself, and takes turns of those it woke and those that sysmon did."""

    def main():
        order: list[int] = []

        def body(i):
            rt.sleep(0.02 * i)
            order.append(i)

        begun = time.monotonic()
        gs = [rt.go(body, i) for i in (3, 1, 2, 5, 4)]
        poll_until(lambda: all(is_parked(g) or g.done() for g in gs))
        with unpreempted():
            # If so, none has woken, and the deadlines are in the order of the lengths, whoever
            # began first.
            quick = time.monotonic() - begun < 0.02
            if quick:
                spin_until(lambda: all(g.state == "runnable" for g in gs))
        for g in gs:
            g.result(PATIENCE)
        return order if quick else None

    assert undisturbed(lambda: rt.run(main, procs=1)) == [1, 2, 3, 4, 5]


def test_gosched_lets_every_other_g_run():
    def main():
        turns: list[int] = []
        started: list[int] = []

        def body(i):
            started.append(i)
            # One that hasn't started yet waits for its kind's turn, 100 us (csrc/scheduler.c): all
            # five turns of the others, where the machine was away so long.
            while len(started) < 3:
                rt.gosched()
            for _ in range(5):
                turns.append(i)
                rt.gosched()

        gs = [rt.go(body, i) for i in range(3)]
        for g in gs:
            g.join(PATIENCE)
        return turns

    turns = rt.run(main, procs=1)
    assert sorted(turns) == sorted([0, 1, 2] * 5)
    assert all(a != b for a, b in itertools.pairwise(turns)), turns


@pytest.mark.parametrize("busy", [1, 4])
def test_those_that_overflowed_into_the_global_queue_have_their_turns(busy):
    count, slices = 2000, 0

    def main():
        started: list[None] = []
        done = rt.Event()

        def body():
            started.append(None)
            done.wait(PATIENCE)

        def yields():
            nonlocal slices
            while len(started) < count:
                rt.gosched()
                slices += 1

        others = [rt.go(yields) for _ in range(busy - 1)]
        rt.gosched()  # they have started
        gs = [rt.go(body) for _ in range(count)]
        yields()
        done.set()
        for g in others + gs:
            g.result(PATIENCE)

    rt.run(main, procs=1)
    # Once it was one of them in 61 slices of the others: what the P's own queue didn't hold was
    # left to the look at the global one that every 61st pick begins with.
    assert slices <= 10 * count


def test_an_idle_runtime_uses_no_cpu():
    def main():
        rt.sleep(0.05)
        before = time.process_time()
        rt.sleep(0.5)
        return time.process_time() - before

    assert rt.run(main, procs=2) < 0.1


# ---------------------------------------------------------------- hand-off


def test_others_run_during_a_declared_blocking_call():
    release = threading.Event()

    def main():
        ticks = []

        def ticker():
            for i in range(20):
                ticks.append(i)
                rt.sleep(0.001)
            release.set()

        g = rt.go(ticker)
        assert rt.blocking(release.wait, PATIENCE) is True
        g.join()
        return len(ticks)

    assert rt.run(main, procs=1) == 20


def test_blocking_calls_overlap():
    barrier = threading.Barrier(10)

    def main():
        gs = [rt.go(rt.blocking, barrier.wait, PATIENCE) for _ in range(10)]
        return sorted(g.result(PATIENCE) for g in gs)

    assert rt.run(main, procs=1) == list(range(10))


def test_blocking_returns_and_raises_what_the_function_does():
    def main():
        assert rt.blocking(divmod, 7, 2) == (3, 1)
        assert rt.blocking(dict, a=1) == {"a": 1}
        with pytest.raises(ZeroDivisionError):
            rt.blocking(divmod, 7, 0)

    rt.run(main)
    assert rt.blocking(divmod, 7, 2) == (3, 1)  # in a plain thread, too


def test_a_cancelled_g_does_not_wait_for_its_blocking_call():
    release = threading.Event()

    def main():
        g = rt.go(rt.blocking, release.wait, PATIENCE)
        poll_until(lambda: is_parked(g))
        g.cancel()
        assert isinstance(g.exception(PATIENCE / 2), rt.Cancelled)
        release.set()

    rt.run(main)


@sees_blocking
def test_undeclared_blocking_hands_its_p_to_another_m():
    release = threading.Event()

    def main():
        def blocker():
            mine = my_m()
            assert release.wait(PATIENCE)  # blocks the thread: nobody told the runtime
            return mine

        def fresh():
            return my_m()

        b = rt.go(blocker)
        rt.gosched()  # the blocker runs on this very M now; main is stranded until it returns
        return b.result(PATIENCE)

    def outside():
        # Fresh G's must run although the only P's M is blocked.
        poll_until(lambda: rt.stats().blocked_threads or rt.stats().total("retakes_undeclared"))
        g = rt.go(my_m)
        got.append(g.result(PATIENCE))
        release.set()

    got: list[int] = []
    thread = threading.Thread(target=outside)
    thread.start()
    mine = rt.run(main, procs=1)
    thread.join(PATIENCE)
    assert got and got[0] != mine


@sees_blocking
def test_a_main_that_blocked_does_not_start_the_next_runs_main_on_an_m_of_its_own():
    # Found in the whole suite: every main starts through one function of ours, which was taken
    # for a function that blocks.
    go_on = threading.Event()

    def blocks():
        assert go_on.wait(PATIENCE)

    def outside():
        # However late sysmon is; and then for longer than the 20 ms that make it a blocker.
        poll_until(lambda: rt.stats().total("retakes_undeclared"))
        time.sleep(0.1)
        go_on.set()

    thread = threading.Thread(target=outside)
    thread.start()
    rt.run(blocks, procs=1)
    thread.join(PATIENCE)
    # From an M of its own it would never be so; otherwise it is, unless the M is held up just then.
    assert rt.run(lambda: any(rt.go(my_m).result() == my_m() for _ in range(10)), procs=1)


@sees_blocking
def test_fresh_gs_run_while_time_sleep_blocks_an_m():
    def main():
        ran: list[int] = []

        def blocker():
            end = time.monotonic() + PATIENCE
            with unpreempted():  # only after a hand-off can they run, however late it is
                for _ in range(3):
                    rt.go(lambda: ran.append(my_m()))
                while len(ran) < 3:
                    assert time.monotonic() < end
                    time.sleep(0.05)
            return my_m()

        mine = rt.go(blocker).result(PATIENCE)
        return mine, ran, rt.stats().total("handoffs")

    mine, ran, handoffs = rt.run(main, procs=1)
    assert mine not in ran and handoffs >= 1


@sees_blocking
def test_an_m_that_comes_back_without_its_p_gets_one_again():
    def main():
        def blocker():
            for _ in range(5):
                time.sleep(0.03)
                rt.gosched()
            return "through"

        stop: list[bool] = []

        def busy():
            while not stop:
                rt.gosched()

        gs = [rt.go(blocker) for _ in range(3)]
        rt.go(busy)
        got = [g.result(PATIENCE) for g in gs]
        stop.append(True)
        return got

    assert rt.run(main, procs=1) == ["through"] * 3


@sees_blocking
def test_stranded_gs_are_counted():
    release = threading.Event()

    def main():
        # On a machine with too little CPU the P may change its M before the victim starts,
        # which then starts on another M and isn't stranded: try again.
        while not rt.go(attempt, rt.Chan(1)).result(PATIENCE):
            pass

    def attempt(ch):
        def stranded():
            ch.recv()

        victim = rt.go(stranded)
        poll_until(lambda: victim.waiting > 0)
        if victim.m != rt.current().m:
            ch.send("never mind")
            return False
        with unpreempted():
            ch.send("go on")  # wakes the victim, which is pinned to this M
            return release.wait(PATIENCE)

    seen = []

    def outside():
        poll_until(lambda: rt.stats().running)
        rt.go(int)  # work that waits: sysmon takes the P away
        poll_until(lambda: rt.stats().stranded >= 1)
        seen.append(rt.stats())
        release.set()

    thread = threading.Thread(target=outside)
    thread.start()
    rt.run(main, procs=1)
    thread.join(PATIENCE)
    assert seen and seen[0].blocked_threads >= 1


# ---------------------------------------------------------------- preemption


def run_beside_hogs(body: Callable[[], object], hogs: int = 1, procs: int = 1) -> object:
    """body's result, got although a hog that never parks shares each P with it."""

    def main():
        stop: list[bool] = []

        def hog():
            while not stop:
                pass

        gs = [rt.go(hog) for _ in range(hogs)]
        rt.gosched()
        try:
            return rt.go(body).result(PATIENCE)
        finally:
            stop.append(True)
            for g in gs:
                g.result(PATIENCE)

    return rt.run(main, procs=procs)


@preempts
def test_a_hog_is_preempted():
    def body():
        for _ in range(5):
            rt.sleep(0.001)
        return "had its turns"

    assert run_beside_hogs(body) == "had its turns"
    assert run_beside_hogs(body, hogs=4, procs=2) == "had its turns"


@preempts
def test_hogs_share_their_m_by_time():
    def main():
        counts = [0] * 3

        def hog(i):
            while min(counts) < 1000:
                counts[i] += 1

        gs = [rt.go(hog, i) for i in range(3)]
        for g in gs:
            g.result(PATIENCE)
        return rt.stats().total("preemptions")

    assert rt.run(main, procs=1) >= 2


def counted(n: int):
    total = 0
    for i in range(n):
        total += i
        yield total


class Guard:
    def __init__(self) -> None:
        self.log: list[str] = []

    def __enter__(self) -> Guard:
        for _ in range(2000):
            pass
        self.log.append("enter")
        return self

    def __exit__(self, *exc: object) -> bool:
        for _ in range(2000):
            pass
        self.log.append("exit")
        return True


def in_locals(n):
    a, b, c, d = 1, [2], {"c": 3}, "d"
    for i in range(n):
        a += i
        b[0] ^= i
    return a, b, c, d


def in_except(n):
    try:
        raise KeyError("outer")
    except KeyError as outer:
        for _ in range(n):
            assert sys.exc_info()[1] is outer
        try:
            raise ValueError("inner")
        except ValueError as inner:
            for _ in range(n):
                assert sys.exc_info()[1] is inner
            assert inner.__context__ is outer
        for _ in range(n):
            assert sys.exc_info()[1] is outer
    return sys.exc_info()[1]


def in_finally(n):
    log = []
    try:
        try:
            raise KeyError("finally")
        finally:
            for i in range(n):
                if i % 1000 == 0:
                    log.append(i)
    except KeyError as problem:
        return log, str(problem), sys.exc_info()[1] is problem


def in_with(n):
    guard = Guard()
    for _ in range(max(1, n // 4000)):
        with guard:
            raise RuntimeError("swallowed by the guard")
    return guard.log


def in_generator(n):
    return list(counted(n))[-1], sum(1 for _ in counted(n))


def in_comprehension(n):
    lists = [i * 2 for i in range(n) if i % 3]
    sets = {i % 7 for i in range(n)}
    dicts = {i % 5: i for i in range(n)}
    nested = [[j for j in range(i % 4)] for i in range(n // 4)]
    return sum(lists), sets, dicts, len(nested)


def in_nested_calls(n):
    def fib(k):
        return k if k < 2 else fib(k - 1) + fib(k - 2)

    return [fib(12) for _ in range(max(1, n // 500))][-1]


def in_callbacks(n):
    data = sorted(range(n // 4), key=lambda x: (x * 7919) % 1009)
    mapped = sum(map(lambda x: x + 1, range(n)))
    return data[:5], mapped


def in_exception_group(n):
    try:
        raise ExceptionGroup("eg", [ValueError(1), TypeError(2)])
    except* ValueError as group:
        for _ in range(n):
            pass
        first = len(group.exceptions)
    except* TypeError as group:
        for _ in range(n):
            pass
        first = -len(group.exceptions)
    return first


SCENES = [
    in_locals,
    in_except,
    in_finally,
    in_with,
    in_generator,
    in_comprehension,
    in_nested_calls,
    in_callbacks,
    in_exception_group,
]


@preempts
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_preempted_hog_resumes_where_it_was(scene):
    n = 20_000
    expected = scene(n)

    def repeat(times):
        for i in range(times):
            got = scene(n)
            assert got == expected, (i, got, expected)
            assert sys.exc_info() == (None, None, None)
        return "same"

    def main():
        gs = []
        end = time.monotonic() + PATIENCE / 2

        def until():
            while rt.stats().total("preemptions") < 6 and time.monotonic() < end:
                repeat(1)
            return "same"

        gs = [rt.go(until) for _ in range(3)]
        results = [g.result(PATIENCE) for g in gs]
        return results, rt.stats().total("preemptions")

    results, preemptions = rt.run(main, procs=1)
    assert results == ["same"] * 3
    assert preemptions >= 6


@preempts
def test_exceptions_being_handled_stay_with_their_g():
    def main():
        def handler(i):
            for _ in range(5):
                try:
                    raise KeyError(i)
                except KeyError as mine:
                    end = time.monotonic() + 0.02
                    while time.monotonic() < end:
                        assert sys.exc_info()[1] is mine
                    rt.gosched()
                    assert sys.exc_info()[1] is mine
                assert sys.exc_info()[1] is None
            return i

        gs = [rt.go(handler, i) for i in range(4)]
        return [g.result(PATIENCE) for g in gs]

    assert rt.run(main, procs=1) == [0, 1, 2, 3]


@preempts
def test_recursion_depth_survives_preemption():
    def main():
        def deep(n):
            for _ in range(200):
                pass
            return 0 if n == 0 else deep(n - 1) + 1

        def body():
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                assert deep(300) == 300
            return True

        gs = [rt.go(body) for _ in range(3)]
        assert all(g.result(PATIENCE) for g in gs)

    rt.run(main, procs=1)


@preempts
def test_preemption_never_breaks_a_list_sort():
    # sort() holds a lock on its list, which a switch inside the key function releases.
    def main():
        def body(seed):
            data = [(i * seed) % 1009 for i in range(20_000)]
            for _ in range(10):
                got = sorted(data, key=lambda x: -x)
                assert got[0] == max(data) and len(got) == len(data)
            return True

        gs = [rt.go(body, seed) for seed in (7, 11, 13)]
        assert all(g.result(PATIENCE) for g in gs)

    rt.run(main, procs=2)


@preempts
def test_a_hog_in_code_without_builtins_is_preempted_quietly():
    # Found by the demo: the constructor of a named tuple has no builtins, so the script of the
    # debugger protocol could import nothing there, and complained on stderr.
    done = run_script(
        """
import time
from collections import namedtuple
Point = namedtuple("Point", "x y")
def hog(until):
    while rt.stats().total("preemptions") < 30 and time.monotonic() < until:
        for _ in range(1000):
            Point(1, 2)
def main():
    gs = [go(hog, time.monotonic() + 20) for _ in range(2)]
    for g in gs:
        g.join()
    print(rt.stats().total("preemptions") >= 30)
run(main, procs=1)
"""
    )
    assert (done.stdout.strip(), done.stderr) == ("True", "")


@preempts
def test_no_g_is_preempted_while_it_holds_a_lock_of_the_standard_library():
    # Found by the stress suite: a G was preempted inside ThreadPoolExecutor.submit, and its
    # neighbour then blocked their M on the executor's lock, for ever.
    import logging
    import queue

    q: queue.SimpleQueue[int] | queue.Queue[int] = queue.Queue()
    logger = logging.Logger("quiet")
    logger.addHandler(logging.NullHandler())

    def main():
        stop = []

        def body():
            while not stop:
                q.put(1)
                q.get()
                logger.warning("x")
                for _ in range(50):
                    pass

        gs = [rt.go(body) for _ in range(5)]
        poll_until(lambda: rt.stats().total("preemptions") >= 5)
        stop.append(True)
        for g in gs:
            g.result(PATIENCE)

    rt.run(main, procs=1)


@preempts
def test_blocking_is_not_preempted_while_it_submits():
    def main():
        end = time.monotonic() + 1.0

        def body():
            while time.monotonic() < end:
                rt.blocking(int)
                for _ in range(100):
                    pass

        gs = [rt.go(body) for _ in range(5)]
        for g in gs:
            g.result(PATIENCE)

    rt.run(main, procs=1)


# ---------------------------------------------------------------- tokens, gomaxprocs


@sees_blocking
def test_ms_without_a_p_take_turns_by_tokens():
    # Five G's block undeclared at the same time on one P: five M's, later all with a
    # runnable G. The one P has to go round.
    def main():
        rounds = [0] * 5

        def body(i):
            time.sleep(0.05)
            for _ in range(50):
                rounds[i] += 1
                rt.gosched()
            return my_m()

        gs = [rt.go(body, i) for i in range(5)]
        ms = [g.result(PATIENCE) for g in gs]
        assert rounds == [50] * 5
        stats = rt.stats()
        return set(ms), stats.threads, stats.total("tokens"), stats.procs

    ms, threads, tokens, procs = rt.run(main, procs=1)
    assert procs == 1 and len(ms) > 1 and threads > 1 and tokens > 0


@parallel
def test_never_more_than_p_gs_run_python_at_once():
    """By the clock, with no lock between them: who waits for one is detached, may lose its P, and
    then runs on without one until its next call into the runtime; all who wait may at once."""

    def main():
        started, go_on = threading.Barrier(6), rt.Event()

        def body():
            started.wait(PATIENCE)  # blocks the M, until each has one of its own
            go_on.wait(PATIENCE)  # from here on it holds a P
            begins, ends = [], []
            for _ in range(200):
                rt.gosched()
                with unpreempted():
                    begins.append(time.monotonic_ns())
                    for _ in range(300):
                        pass
                    ends.append(time.monotonic_ns())
            return begins, ends

        gs = [rt.go(body) for _ in range(6)]
        poll_until(lambda: all(map(is_parked, gs)))
        before = rt.stats().total("retakes_undeclared")
        go_on.set()
        changes = []
        for begins, ends in [g.result(PATIENCE) for g in gs]:
            changes += [(when, 1) for when in begins] + [(when, -1) for when in ends]
        stats = rt.stats()
        inside = itertools.accumulate(by for _, by in sorted(changes))
        return max(inside), stats.total("retakes_undeclared") - before, stats.threads

    worst, retakes, threads = rt.run(main, procs=2)
    assert threads >= 6
    # Nearly always none: each is an M that a stop-the-world, say, left detached for a millisecond.
    assert worst <= 2 + retakes


def test_gomaxprocs_returns_what_it_was():
    def main():
        assert rt.gomaxprocs() == 2
        assert rt.gomaxprocs(4) == 2
        assert rt.gomaxprocs(1) == 4
        assert rt.gomaxprocs() == 1
        assert rt.stats().procs == 1

    rt.run(main, procs=2)


@parallel
def test_gomaxprocs_up_lets_more_gs_run_at_once():
    def main():
        arrived = [False, False]

        def body(i):
            arrived[i] = True
            spin_until(lambda: all(arrived))

        rt.gomaxprocs(2)
        gs = [rt.go(body, i) for i in range(2)]
        for g in gs:
            g.result(PATIENCE)

    rt.run(main, procs=1)


@preempts
def test_gomaxprocs_changes_under_load_lose_nothing():
    def main():
        stop: list[bool] = []

        def worker(i):
            count = 0
            while not stop:
                count += 1
                if count % 3 == 0:
                    rt.gosched()
                elif count % 3 == 1:
                    rt.sleep(0.0001)
                else:
                    rt.go(int).join()
            return count

        gs = [rt.go(worker, i) for i in range(20)]
        for n in [1, 4, 2, 8, 1, 3, 1, 16, 2] * 3:
            rt.gomaxprocs(n)
            assert rt.gomaxprocs() == n
            rt.sleep(0.01)
            running = [p for p in rt.stats().per_p if p.status != "retired"]
            assert len(running) >= 1
        rt.gomaxprocs(2)
        stop.append(True)
        counts = [g.result(PATIENCE) for g in gs]
        assert min(counts) > 0
        poll_until(lambda: sum(p.status != "retired" for p in rt.stats().per_p) <= 2)

    rt.run(main, procs=2)


@preempts
def test_gomaxprocs_down_takes_the_p_from_a_hog():
    def main():
        stop: list[bool] = []

        def hog():
            while not stop:
                pass

        hogs = [rt.go(hog) for _ in range(4)]
        rt.sleep(0.02)
        rt.gomaxprocs(1)
        for _ in range(5):
            rt.sleep(0.001)
        poll_until(lambda: sum(p.status == "running" for p in rt.stats().per_p) <= 1)
        rt.gomaxprocs(3)
        stop.append(True)
        for g in hogs:
            g.result(PATIENCE)

    rt.run(main, procs=3)


# ---------------------------------------------------------------- lock_os_thread


@parallel
def test_a_locked_m_starts_no_other_gs():
    def main():
        rt.lock_os_thread()
        mine = my_m()
        gs = [rt.go(my_m) for _ in range(50)]
        others = {g.result(PATIENCE) for g in gs}
        assert mine not in others
        rt.unlock_os_thread()

    rt.run(main, procs=2)


def test_a_locked_m_works_with_one_p():
    def main():
        rt.lock_os_thread()
        rt.lock_os_thread()
        mine = my_m()
        other = rt.go(my_m).result(PATIENCE)
        rt.unlock_os_thread()
        third = rt.go(my_m).result(PATIENCE)
        rt.unlock_os_thread()
        assert other != mine and third != mine
        rt.go(int).result(PATIENCE)

    rt.run(main, procs=1)


def test_a_g_that_ends_locked_gives_its_m_back():
    def main():
        rt.go(rt.lock_os_thread).result(PATIENCE)
        with pytest.raises(RuntimeError, match="without lock_os_thread"):
            rt.unlock_os_thread()  # that one's is none of main's
        rt.lock_os_thread()
        mine = my_m()
        assert rt.go(my_m).result(PATIENCE) != mine
        with pytest.raises(RuntimeError, match="without lock_os_thread"):
            rt.go(rt.unlock_os_thread).result(PATIENCE)
        rt.unlock_os_thread()
        assert rt.go(my_m).result(PATIENCE) == mine

    rt.run(main, procs=1)


# ---------------------------------------------------------------- stats


def test_stats_outside_a_runtime_are_zero():
    stats = rt.stats()
    assert stats.goroutines == 0 and stats.threads == 0 and stats.per_p == ()


def test_stats_count_what_happened():
    def main():
        for _ in range(100):
            rt.go(int).join()
        rt.sleep(0.001)
        stats = rt.stats()
        assert stats.created == 101 and stats.goroutines == 1 and stats.procs == 2
        assert stats.total("ended") == 100 and stats.total("created") == 100
        assert stats.total("schedtick") >= 101
        assert stats.total("timers_fired") >= 1 or stats.total("timers") == 0
        assert stats.running == 1
        latency = [p.latency for p in stats.per_p]
        assert sum(h.total for h in latency) == stats.total("schedtick")
        assert all(0 <= h.quantile(0.5) <= h.quantile(0.99) for h in latency)

    rt.run(main, procs=2)


def test_the_collector_is_still_on_after_much_switching():
    def main():
        def body():
            for _ in range(500):
                rt.gosched()

        for g in [rt.go(body) for _ in range(20)]:
            g.result(PATIENCE)
        return gc.isenabled()

    assert rt.run(main, procs=2) is True
    assert gc.isenabled()
