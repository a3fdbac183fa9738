"""run(): what it returns and raises, how it ends, who is told about what."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import weakref

import pytest
from support import CPUS, PATIENCE, excepthook_calls, is_parked, poll_until, run_script

import gmpy_rt as rt
from gmpy_rt import _door, runtime


def test_run_returns_what_main_returns():
    assert rt.run(lambda a, b: a + b, 2, 3) == 5


def test_run_raises_what_main_raises():
    def main():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        rt.run(main)
    assert any(entry.name == "main" for entry in caught.traceback)


def test_mains_exception_is_not_reported_by_the_hook_as_well():
    with excepthook_calls() as calls:
        with pytest.raises(ZeroDivisionError):
            rt.run(lambda: 1 / 0)
        gc.collect()
    assert calls == []


def test_run_can_be_called_again_and_again():
    for i in range(50):
        assert rt.run(lambda i=i: rt.go(lambda: i).result()) == i


def test_each_run_starts_with_fresh_counters():
    def main():
        for _ in range(10):
            rt.go(int).join()
        return rt.stats().created

    assert rt.run(main) == rt.run(main) == 11


def test_run_in_a_thread_that_is_not_the_main_thread():
    got = []
    thread = threading.Thread(target=lambda: got.append(rt.run(lambda: rt.go(int).result())))
    thread.start()
    thread.join(PATIENCE)
    assert got == [0]


def test_procs_is_the_number_of_ps():
    for n in (1, 2, 5):
        assert rt.run(rt.gomaxprocs, procs=n) == n
        assert rt.run(lambda: rt.stats().procs, procs=n) == n


def test_policy_reaches_the_scheduler():
    for policy in ("go", "global-first", "neighbour", "affine"):
        assert rt.run(lambda: rt.stats().policy, policy=policy) == policy


def test_policy_from_the_environment(monkeypatch):
    monkeypatch.setenv("GMPY_SCHED", "affine")
    assert rt.run(lambda: rt.stats().policy) == "affine"
    assert rt.run(lambda: rt.stats().policy, policy="go") == "go"


def test_procs_from_the_environment(monkeypatch):
    monkeypatch.setenv("GMPY_MAXPROCS", "3")
    assert rt.run(rt.gomaxprocs) == 3
    assert rt.run(rt.gomaxprocs, procs=1) == 1


def test_procs_default_to_the_usable_cpus(monkeypatch):
    monkeypatch.delenv("GMPY_MAXPROCS", raising=False)
    assert 1 <= rt.run(rt.gomaxprocs) <= len(CPUS)


# ---------------------------------------------------------------- what is left when main ends


def test_what_is_left_is_cancelled_and_runs_its_finally_blocks():
    ended = []

    def parked(i, ch):
        try:
            ch.recv()
        finally:
            ended.append(i)

    def main():
        ch = rt.Chan()
        gs = [rt.go(parked, i, ch) for i in range(20)]
        poll_until(lambda: all(map(is_parked, gs)))
        return "done"

    assert rt.run(main) == "done"
    assert sorted(ended) == list(range(20))
    assert rt.num_goroutine() == 0


def test_a_fresh_g_left_by_main_never_runs():
    ran = []

    def main():
        for i in range(100):
            rt.go(ran.append, i)
        # Returns at once: what has not started by now is cancelled before it begins.

    rt.run(main, procs=1)
    assert rt.num_goroutine() == 0
    assert len(ran) <= 100


def test_a_g_that_parks_again_in_its_finally_block_is_waited_for():
    steps = []

    def stubborn():
        try:
            rt.sleep(PATIENCE)
        finally:
            rt.sleep(0.01)
            steps.append("slept in finally")

    def main():
        g = rt.go(stubborn)
        poll_until(lambda: is_parked(g))

    rt.run(main)
    assert steps == ["slept in finally"]


def test_a_g_that_swallows_its_cancellation_is_cancelled_again(monkeypatch):
    monkeypatch.setattr(runtime, "_PATIENCE", 0.5)

    def deaf():
        for _ in range(3):
            with contextlib.suppress(rt.Cancelled):
                rt.sleep(PATIENCE)
        return "gave in"

    def main():
        g = rt.go(deaf)
        poll_until(lambda: is_parked(g))
        return g

    assert rt.run(main).result() == "gave in"


def test_go_while_the_runtime_ends_says_so():
    said = []

    def late():
        try:
            rt.sleep(PATIENCE)
        finally:
            try:
                rt.go(int)
            except RuntimeError as problem:
                said.append(str(problem))

    def main():
        g = rt.go(late)
        poll_until(lambda: is_parked(g))

    rt.run(main)
    assert len(said) == 1 and "main has returned" in said[0]


def test_cancellation_at_the_end_is_not_reported():
    def main():
        g = rt.go(rt.sleep, PATIENCE)
        poll_until(lambda: is_parked(g))

    with excepthook_calls() as calls:
        rt.run(main)
        gc.collect()
    assert calls == []


def test_channels_outlive_their_runtime():
    ch = rt.Chan(3)
    rt.run(lambda: [ch.send(i) for i in range(3)])
    assert rt.run(lambda: [ch.recv() for _ in range(3)]) == [0, 1, 2]


def test_the_interpreter_exits_cleanly_after_run_with_gs_that_were_parked():
    done = run_script("""
        def parked():
            try:
                rt.sleep(100)
            finally:
                print("ended")
        def main():
            gs = [go(parked) for _ in range(50)]
            while not all(g.waiting for g in gs):
                rt.sleep(0.001)
        run(main)
        """)
    assert done.stdout.count("ended") == 50
    assert done.stderr == ""


def test_sys_exit_in_main_ends_the_program_with_its_code():
    run_script(
        """
        def main():
            go(rt.sleep, 100)
            rt.sleep(0.01)
            sys.exit(7)
        run(main)
        """,
        code=7,
    )


def test_the_interpreter_may_exit_while_a_daemon_thread_runs_the_runtime():
    # Its M's are threads without a Python owner; finalisation must not wait for their G's.
    run_script(
        """
        import threading
        ready = threading.Event()
        def main():
            for _ in range(20):
                go(rt.sleep, 100)
            rt.sleep(0.01)
            ready.set()
            rt.sleep(100)
        threading.Thread(target=run, args=(main,), daemon=True).start()
        assert ready.wait(20)
        """,
        timeout=30,
    )


# ---------------------------------------------------------------- exceptions nobody asked for


def test_an_unhandled_exception_nobody_asks_for_is_reported_once():
    def main():
        g = rt.go(int, "no number")
        poll_until(g.done)

    with excepthook_calls() as calls:
        rt.run(main)
        gc.collect()
        assert len(calls) == 1
        assert isinstance(calls[0].exception(), ValueError)
        calls.clear()
        gc.collect()
        assert calls == []  # not again when the G dies for good


@pytest.mark.parametrize("ask", ["result", "exception"])
def test_an_exception_somebody_asked_for_is_not_reported(ask):
    def main():
        g = rt.go(int, "no number")
        with contextlib.suppress(ValueError):
            getattr(g, ask)(PATIENCE)

    with excepthook_calls() as calls:
        rt.run(main)
        gc.collect()
    assert calls == []


def test_the_report_has_the_traceback_and_comes_once():
    done = run_script("""
        def inner():
            raise ValueError("lost and found")
        def outer():
            inner()
        def main():
            g = go(outer)
            while not g.done():
                rt.sleep(0.001)
        run(main)
        """)
    assert done.stderr.count("ValueError: lost and found") == 1
    assert "in inner" in done.stderr and "in outer" in done.stderr
    assert "whose result nobody asked for" in done.stderr


def test_a_failing_excepthook_is_reported_and_harms_nobody():
    done = run_script("""
        from gmpy_rt import runtime
        def bad(g):
            raise RuntimeError("hook broke")
        runtime.excepthook = bad
        def main():
            go(lambda: 1 / 0)
            rt.sleep(0.05)
            return "fine"
        print(run(main))
        """)
    assert done.words == ["fine"]
    assert "hook broke" in done.stderr


# ---------------------------------------------------------------- deadlock


def test_deadlock_is_an_error_with_every_gs_stack():
    def holder_of_nothing(ch):
        ch.recv()

    def main():
        ch, lock = rt.Chan(), rt.Lock()
        lock.acquire()
        rt.go(holder_of_nothing, ch).name = "receiver"
        rt.go(lock.acquire).name = "locker"
        waits_for_ever(ch)

    def waits_for_ever(ch):
        ch.recv()

    with pytest.raises(rt.DeadlockError) as caught:
        rt.run(main)
    text = str(caught.value)
    for part in ("main", "receiver", "locker", "chan receive", "lock"):
        assert part in text, text
    for function in ("waits_for_ever", "holder_of_nothing"):
        assert function in text, text


def test_deadlock_is_raised_where_main_waits():
    def main():
        try:
            rt.Chan().recv()
        except rt.DeadlockError:
            return "caught"

    assert rt.run(main) == "caught"


def test_after_a_caught_deadlock_the_next_one_is_found_too():
    def main():
        for _ in range(3):
            with pytest.raises(rt.DeadlockError):
                rt.Chan().recv()
        return rt.go(int).result(PATIENCE)

    assert rt.run(main) == 0


def test_no_deadlock_while_a_timer_can_wake_somebody():
    def main():
        ch = rt.Chan()

        def late():
            rt.sleep(0.3)
            ch.send("late")

        rt.go(late)
        return ch.recv()

    assert rt.run(main) == "late"


def test_no_deadlock_while_a_plain_thread_can_wake_somebody():
    ch = rt.Chan()
    release = threading.Event()
    thread = threading.Thread(target=lambda: (release.wait(PATIENCE), ch.send("from outside")))
    thread.start()

    def main():
        rt.go(lambda: (rt.sleep(0.3), release.set()))
        return ch.recv()

    assert rt.run(main) == "from outside"
    thread.join(PATIENCE)


def test_no_deadlock_while_a_blocking_call_is_under_way():
    release = threading.Event()

    def main():
        rt.go(lambda: (rt.sleep(0.3), release.set()))
        return rt.blocking(release.wait, PATIENCE)

    assert rt.run(main) is True


def test_deadlock_is_found_although_blocking_has_idle_threads():
    def main():
        rt.blocking(int)
        rt.Chan().recv()

    with pytest.raises(rt.DeadlockError):
        rt.run(main)


@pytest.mark.parametrize("procs", [1, 2])
def test_deadlock_is_found_after_a_timer_that_woke_nobody(procs):
    """Until it fires, it might. What it brings is held back by a shield."""

    def main():
        with rt.timeout(0.05), rt.shield():
            rt.Chan().recv()

    with pytest.raises(rt.DeadlockError):
        rt.run(main, procs=procs)


def test_a_thread_that_wakes_main_and_ends_leaves_no_deadlock(monkeypatch):
    """run() has seen that everybody waits; before it asks which threads there are, this one wakes
    main and is gone."""
    ch = rt.Chan()
    release = threading.Event()
    thread = threading.Thread(target=lambda: (release.wait(PATIENCE), ch.send("from outside")))
    ask = runtime._foreign_threads

    def foreign_threads():
        release.set()
        thread.join(PATIENCE)
        return ask()

    def main():
        value = ch.recv()
        rt.sleep(0.3)
        return value

    monkeypatch.setattr(runtime, "_foreign_threads", foreign_threads)
    thread.start()
    assert rt.run(main, procs=1) == "from outside"


def test_what_no_cancel_reaches_at_the_end_gets_a_deadlock():
    def left_behind():
        with rt.shield():
            rt.Chan().recv()

    def main():
        g = rt.go(left_behind)
        poll_until(lambda: is_parked(g))
        return g

    with excepthook_calls() as calls:
        g = rt.run(main, procs=1)
        with pytest.raises(rt.DeadlockError, match="left_behind"):
            g.result(PATIENCE)
    assert calls == []


LOST_LOCK = """
from gmpy_rt import runtime
cond = rt.Condition()
def waits():
    with cond: cond.wait()  # nothing interrupts taking the lock again
def takes():
    cond.acquire()
"""


def test_whom_nothing_reaches_at_the_end_is_told():
    done = run_script(
        LOST_LOCK
        + """
import os, signal, threading, time
runtime._PATIENCE = 0.3
def main():
    g = go(waits)
    while not g.waiting: rt.sleep(0.001)
    go(takes).join()
    threading.Thread(target=interrupt, daemon=True).start()
def interrupt():
    while not runtime._active.told: time.sleep(0.01)
    begin = time.process_time()
    time.sleep(1)
    print(time.process_time() - begin < 0.5, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
run(main)
""",
        code=-2,
    )
    assert done.words == ["True"]
    assert done.stderr.count("these G's don't end") == 1 and "waits" in done.stderr


def test_a_deadlock_that_main_cannot_be_told_of_is_told_to_people():
    done = run_script(
        LOST_LOCK
        + """
import os, signal, threading
from support import poll_until
def main():
    threading.Thread(target=interrupt, daemon=True).start()
    with cond:
        go(takes)
        cond.wait(0.1)
def interrupt():
    poll_until(lambda: runtime._active.told)
    os.kill(os.getpid(), signal.SIGINT)
runtime._foreign_threads = lambda: []  # not even the one that presses Ctrl-C
run(main)
""",
        code=-2,
    )
    assert done.stderr.count("a deadlock, and main hasn't come") == 1


# ---------------------------------------------------------------- nothing stays behind


def test_result_and_arguments_die_with_the_g():
    class Thing:
        pass

    def main():
        thing = Thing()
        seen = weakref.ref(thing)
        g = rt.go(lambda x: x, thing)
        assert g.result(PATIENCE) is thing
        del thing, g
        poll_until(lambda: seen() is None)

    rt.run(main)


def test_many_runs_leave_no_thread_behind():
    def native_threads():
        import psutil

        return psutil.Process().num_threads()

    rt.run(int)
    before = native_threads()
    for _ in range(10):
        rt.run(lambda: [rt.go(int).join() for _ in range(10)], procs=4)
    # A thread is joined a moment before the kernel forgets it.
    poll_until(lambda: native_threads() <= before)


def test_a_call_that_outlives_its_run_hides_no_deadlock_in_a_later_one():
    # It was counted in one run and taken off in the next, whose count of calls was then below
    # zero for good: somebody out there seemed to be about to wake a G.
    done = run_script(
        """
        import threading
        from gmpy_rt.blocking import is_idle_worker
        go_on = threading.Event()
        def gives_up():
            g = go(rt.blocking, go_on.wait, 30)
            rt.sleep(0.01)
            g.cancel()
            g.join()
        run(gives_up)
        def later():
            go_on.set()
            workers = [t for t in threading.enumerate() if t.name.startswith("gmpy-blocking")]
            while not all(map(is_idle_worker, workers)):
                rt.sleep(0.001)
            rt.Chan().recv()
        try:
            run(later)
        except rt.DeadlockError:
            print(len([t for t in threading.enumerate() if "blocking" in t.name]), "found")
        """,
        timeout=20,
    )
    assert done.words == ["1", "found"]


def test_what_cannot_be_finished_is_given_up_and_raised(monkeypatch):
    # insist() calls again what a signal's handler may have ended; who always fails isn't that.
    calls, ignored = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: ignored.append(args.exc_value))

    def fails():
        calls.append(1)
        raise KeyError(len(calls))

    with pytest.raises(KeyError, match=r"^1$"):
        _door.insist(fails)
    assert len(calls) == 100 and len(ignored) == 99


def test_the_modules_are_there_as_attributes():
    done = run_script("print(rt.queue.Queue.__name__, rt.socket.socket.__name__, rt.guard.Rules())")
    assert done.words[:2] == ["Queue", "socket"]
    with pytest.raises(AttributeError, match="'nothing'"):
        rt.nothing  # noqa: B018
