"""G: go, join, result, exception, cancel, names; contextvars; what a dead G leaves behind."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import sys
import threading
import time
import weakref

import pytest
from support import (
    PATIENCE,
    excepthook_calls,
    is_parked,
    poll_until,
    preempts,
    run_script,
    sees_blocking,
    spin_until,
    unpreempted,
)

import gmpy_rt as rt
from gmpy_rt import runtime


def in_runtime(test):
    """Runs the test's body as the main G."""
    return _in_runtime(test, None)


def on_one_p(test):
    """The same, with one P."""
    return _in_runtime(test, 1)


def _in_runtime(test, procs):
    @functools.wraps(test)
    def wrapper(*args, **kwargs):
        return rt.run(lambda: test(*args, **kwargs), procs=procs)

    return wrapper


@contextlib.contextmanager
def warnings_of_finalizers():
    """What finalizers raise goes to the list that this gives, instead of to stderr."""
    seen, before = [], sys.unraisablehook
    sys.unraisablehook = lambda what: seen.append(what.exc_value)
    try:
        yield seen
    finally:
        sys.unraisablehook = before


@in_runtime
def test_go_passes_positional_and_keyword_arguments():
    assert rt.go(lambda *a, **k: (a, k), 1, 2, x=3).result(PATIENCE) == ((1, 2), {"x": 3})
    assert rt.go(lambda *, only: only, only=4).result(PATIENCE) == 4
    assert rt.go(dict, a=1).result(PATIENCE) == {"a": 1}
    assert rt.go(lambda: "nothing").result(PATIENCE) == "nothing"


@in_runtime
def test_join_says_whether_it_has_ended():
    ch = rt.Chan()
    g = rt.go(ch.recv)
    assert g.join(0) is False
    assert g.join(timeout=0.01) is False
    assert not g.done()
    ch.send(None)
    assert g.join() is True
    assert g.join(0) is True
    assert g.done()


@in_runtime
def test_result_times_out_with_an_error_that_names_the_time():
    ch = rt.Chan()
    g = rt.go(ch.recv)
    with pytest.raises(TimeoutError, match=r"0\.01"):
        g.result(0.01)
    with pytest.raises(TimeoutError):
        g.exception(timeout=0.01)
    ch.send("late")
    assert g.result(PATIENCE) == "late"
    assert g.exception() is None


@in_runtime
def test_result_raises_what_was_raised_each_time():
    def fail():
        raise LookupError("gone")

    g = rt.go(fail)
    for _ in range(2):
        with pytest.raises(LookupError, match="gone"):
            g.result(PATIENCE)
    assert isinstance(g.exception(), LookupError)
    assert g.state == "failed"


@in_runtime
def test_an_exceptions_traceback_leads_into_the_g():
    def fail():
        raise LookupError("gone")

    exc = rt.go(fail).exception(PATIENCE)
    assert exc.__traceback__.tb_frame.f_code.co_name == "fail"


@in_runtime
def test_base_exceptions_end_only_their_g():
    for kind in (SystemExit, KeyboardInterrupt, GeneratorExit):

        def fail(kind=kind):
            raise kind("mine")

        assert isinstance(rt.go(fail).exception(PATIENCE), kind)
    assert rt.go(int).result(PATIENCE) == 0


@in_runtime
def test_joining_oneself_is_refused():
    for wait in ("join", "result", "exception"):
        with pytest.raises(RuntimeError, match="itself would wait for ever"):
            getattr(rt.current(), wait)()


@in_runtime
def test_many_may_join_one():
    ch = rt.Chan()
    g = rt.go(ch.recv)
    joiners = [rt.go(g.result) for _ in range(50)]
    poll_until(lambda: all(map(is_parked, joiners)))
    ch.send("all")
    assert [j.result(PATIENCE) for j in joiners] == ["all"] * 50


def test_a_plain_thread_may_join_and_start_gs():
    def main():
        got = []

        def outside():
            g = rt.go(lambda: "inside")
            got.append(g.result(PATIENCE))

        thread = threading.Thread(target=outside)
        thread.start()
        rt.blocking(thread.join, PATIENCE)
        return got

    assert rt.run(main) == ["inside"]


@in_runtime
def test_name_id_state_and_repr():
    ch = rt.Chan()
    g = rt.go(ch.recv)
    h = rt.go(ch.recv)
    assert g.id != h.id
    assert g.name == f"G-{g.id}"
    g.name = "reader"
    assert g.name == "reader"
    poll_until(lambda: is_parked(g) and is_parked(h))
    assert g.state == "chan receive"
    for part in (str(g.id), "recv", "reader", "chan receive"):
        assert part in repr(g)
    with pytest.raises(TypeError, match="name=3"):
        g.name = 3
    ch.send(1)
    ch.send(2)
    g.join()
    h.join()
    assert g.state == "done" and "done" in repr(g)
    assert rt.current().state == "running"


@in_runtime
def test_ids_are_unique_and_rise():
    ids = [rt.go(int).id for _ in range(500)]
    assert len(set(ids)) == 500


@in_runtime
def test_current_is_the_g_itself():
    g = rt.go(rt.current)
    assert g.result(PATIENCE) is g
    assert rt.current().name == "main"


@in_runtime
def test_num_goroutine_counts_the_living():
    ch = rt.Chan()
    gs = [rt.go(ch.recv) for _ in range(10)]
    assert rt.num_goroutine() == 11
    for _ in gs:
        ch.send(None)
    for g in gs:
        g.join()
    poll_until(lambda: rt.num_goroutine() == 1)


@in_runtime
def test_a_thousand_gs_in_a_chain():
    first = rt.Chan()
    left = first
    for _ in range(1000):
        right = rt.Chan()
        rt.go(lambda a, b: b.send(a.recv() + 1), left, right)
        left = right
    first.send(0)
    assert left.recv(PATIENCE) == 1000


@in_runtime
def test_gs_may_start_gs_in_depth():
    def nest(n):
        return 0 if n == 0 else rt.go(nest, n - 1).result(PATIENCE) + 1

    assert nest(200) == 200


# ---------------------------------------------------------------- cancel


@on_one_p
def test_cancel_of_a_fresh_g_means_that_it_never_runs():
    ran = []
    with unpreempted():  # it would begin where this G is preempted
        g = rt.go(ran.append, 1)
        assert g.state == "new"
        assert g.cancel() is True
    assert isinstance(g.exception(PATIENCE), rt.Cancelled)
    assert ran == []


@in_runtime
def test_cancel_of_a_parked_g_raises_where_it_waits():
    ch, lock, wg, other = rt.Chan(), rt.Lock(), rt.WaitGroup(), rt.Chan()
    lock.acquire()
    wg.add(1)
    forever = rt.go(other.recv)
    waits = {
        "chan receive": ch.recv,
        "sleep": lambda: rt.sleep(PATIENCE),
        "lock": lock.acquire,
        "wait group": wg.wait,
        "join": forever.join,
        "select": lambda: rt.select(ch, other),
    }
    for reason, wait in waits.items():
        undone = []

        def body(wait=wait, undone=undone):
            try:
                wait()
            finally:
                undone.append(True)

        g = rt.go(body)
        poll_until(lambda g=g, reason=reason: g.state == reason)
        assert g.cancel() is True
        assert isinstance(g.exception(PATIENCE), rt.Cancelled), reason
        assert undone == [True]
        assert g.cancel() is False
    # Whoever was cancelled is no longer in any queue.
    assert ch.try_send(1) is False
    lock.release()
    assert lock.acquire(timeout=PATIENCE)
    forever.cancel()


@in_runtime
def test_cancel_of_a_parked_sender_takes_its_value_back():
    ch = rt.Chan()
    g = rt.go(ch.send, "never")
    poll_until(lambda: is_parked(g))
    g.cancel()
    assert isinstance(g.exception(PATIENCE), rt.Cancelled)
    assert ch.try_recv() == (False, None)


@preempts
@in_runtime
def test_cancel_of_a_hog_raises_inside_its_loop():
    started, undone = [], []

    def hog():
        started.append(True)
        try:
            spin_until(lambda: False)
        finally:
            undone.append(True)

    rt.gomaxprocs(2)
    g = rt.go(hog)
    poll_until(lambda: started)
    g.cancel()
    assert isinstance(g.exception(PATIENCE / 2), rt.Cancelled)
    assert undone == [True]


@preempts
@on_one_p
def test_a_hogs_cancellation_never_hits_its_neighbour():
    # The exception is left in the thread for the next safe point; between the request and
    # that point the hog may park, and then another G of its M would get the exception.
    for _ in range(60):
        flag, ch, log = [], rt.Chan(), []

        def victim(log=log, ch=ch):
            try:
                for _ in range(200):
                    rt.gosched()
                    for _ in range(50):
                        pass
                log.append("victim fine")
            except BaseException as exc:
                log.append(f"victim got {exc!r}")
                raise

        def hog(flag=flag, ch=ch):
            while not flag:
                pass
            ch.recv()

        v, h = rt.go(victim), rt.go(hog)
        rt.gosched()
        rt.gosched()
        h.cancel()
        flag.append(True)
        assert isinstance(h.exception(PATIENCE), rt.Cancelled)
        v.join(PATIENCE)
        assert log == ["victim fine"]


@in_runtime
def test_cancelled_is_no_ordinary_exception():
    assert not issubclass(rt.Cancelled, Exception)
    kept = []

    def careless():
        try:
            rt.sleep(PATIENCE)
        except Exception:
            kept.append("swallowed")

    g = rt.go(careless)
    poll_until(lambda: is_parked(g))
    g.cancel()
    assert isinstance(g.exception(PATIENCE), rt.Cancelled)
    assert kept == []


@in_runtime
def test_a_g_may_cancel_itself():
    def body():
        rt.current().cancel()
        rt.sleep(PATIENCE)

    assert isinstance(rt.go(body).exception(PATIENCE), rt.Cancelled)


@in_runtime
def test_a_cancelled_g_can_go_on():
    def body():
        try:
            rt.sleep(PATIENCE)
        except rt.Cancelled:
            rt.sleep(0)
            rt.go(int).join()
            return "recovered"

    g = rt.go(body)
    poll_until(lambda: is_parked(g))
    g.cancel()
    assert g.result(PATIENCE) == "recovered"


# ---------------------------------------------------------------- contextvars

VAR: contextvars.ContextVar[str] = contextvars.ContextVar("VAR", default="default")


@in_runtime
def test_a_g_starts_with_a_copy_of_its_creators_context():
    VAR.set("creator")

    def child():
        seen = VAR.get()
        VAR.set("child")
        rt.gosched()
        return seen, VAR.get()

    g = rt.go(child)
    VAR.set("changed later")
    assert g.result(PATIENCE) == ("creator", "child")
    assert VAR.get() == "changed later"


@on_one_p
def test_context_is_kept_across_parks_on_one_m():

    def body(i):
        VAR.set(str(i))
        seen = set()
        for _ in range(20):
            rt.gosched()
            seen.add(VAR.get())
        rt.sleep(0.001)
        seen.add(VAR.get())
        return seen

    gs = [rt.go(body, i) for i in range(20)]
    assert [g.result(PATIENCE) for g in gs] == [{str(i)} for i in range(20)]


def test_main_starts_with_the_callers_context():
    token = VAR.set("caller")
    try:
        assert rt.run(VAR.get) == "caller"
        assert rt.run(lambda: VAR.set("inside") and VAR.get()) == "inside"
        assert VAR.get() == "caller"
    finally:
        VAR.reset(token)


@in_runtime
def test_blocking_sees_the_gs_context():
    VAR.set("mine")
    assert rt.blocking(VAR.get) == "mine"


# ---------------------------------------------------------------- what a dead G leaves behind


@in_runtime
def test_a_dead_gs_exception_does_not_keep_the_g_alive():
    def fail():
        raise ValueError("tell-tale")

    g = rt.go(fail)
    exc = g.exception(PATIENCE)
    seen = weakref.ref(g)
    del g
    poll_until(lambda: seen() is None)  # by reference counts, without the collector
    assert str(exc) == "tell-tale"


@in_runtime
def test_a_dead_g_frees_its_function_arguments_and_frames():
    class Thing:
        pass

    def body(thing):
        mine = Thing()
        seen.append(weakref.ref(mine))
        rt.gosched()

    seen = []
    thing = Thing()
    seen.append(weakref.ref(thing))
    g = rt.go(body, thing)
    del thing
    g.join()
    poll_until(lambda: [ref() for ref in seen] == [None, None])


@in_runtime
def test_a_g_nobody_holds_runs_to_its_end():
    ch = rt.Chan()

    def body():
        rt.sleep(0.01)
        gc.collect()
        ch.send("still here")

    rt.go(body)
    gc.collect()
    assert ch.recv(PATIENCE) == "still here"


@in_runtime
def test_gs_are_freed_in_great_numbers():
    refs = []
    for _ in range(5000):
        g = rt.go(int)
        refs.append(weakref.ref(g))
        g.join()
    del g
    poll_until(lambda: not any(ref() for ref in refs))


@in_runtime
def test_the_hook_gets_a_g_that_was_only_joined():
    with excepthook_calls() as calls:
        g = rt.go(int, "x")
        assert g.join(PATIENCE)
        del g
        gc.collect()
        poll_until(lambda: len(calls) == 1)


def test_a_hook_that_fails_hides_nothing(monkeypatch):
    told = []

    def failing_hook(g):
        raise LookupError("the hook's")

    monkeypatch.setattr(sys, "unraisablehook", lambda u: told.append(u.exc_value))
    monkeypatch.setattr(runtime, "excepthook", failing_hook)
    rt.run(lambda: rt.go(int, "x").join(PATIENCE) and None)
    poll_until(lambda: len(told) == 2)
    assert [type(e) for e in told] == [LookupError, ValueError]


def test_a_hook_that_waits_is_not_interrupted_instead_of_the_g(monkeypatch):
    reported = []

    def waiting_hook(g):
        rt.sleep(0.01)
        reported.append(g.exception(0))

    def drops(failed):
        rt.current().cancel()
        failed.clear()
        with pytest.raises(rt.Cancelled):
            rt.sleep(PATIENCE)
        return "cancelled"

    def main():
        failed = [rt.go(int, "x")]
        assert failed[0].join(PATIENCE)
        return rt.go(drops, failed).result(PATIENCE)

    monkeypatch.setattr(runtime, "excepthook", waiting_hook)
    assert rt.run(main, procs=1) == "cancelled"
    assert isinstance(reported[0], ValueError)


def test_a_repr_while_its_g_ends():
    """It looked at the function that the end of the G let go of just then."""

    def main():
        for _ in range(50):
            gs = [rt.go(functools.partial(int)) for _ in range(100)]
            text = ""
            while "done" not in text:
                text = "".join(map(repr, gs))

    rt.run(main, procs=2)


def test_a_long_chain_of_results_dies():
    run_script("""
def main():
    g = None
    for _ in range(200_000):
        g = go(lambda last: last, g)
        g.join()
run(main, procs=1)
""")


def test_an_argument_whose_finalizer_waits_is_cancelled_with_its_g():
    """The G was done already, so the end of the run waited for it without a word."""

    class Waits:
        def __del__(self):
            begun.append(True)
            rt.Chan().recv()

    begun = []

    def main():
        g = rt.go(lambda a: None, Waits())
        poll_until(lambda: begun and is_parked(g))
        assert not g.done()

    with warnings_of_finalizers():
        # On another M than its maker's the G would leave the arguments to that one's thread, by
        # biased reference counting: the finalizer could run in main, and wait there.
        rt.run(main, procs=1)


@sees_blocking
def test_a_blocker_without_a_hash_keeps_its_exception():
    """The set of those that block didn't take it, and the error that was cleared was the G's."""

    class Blocks:
        __hash__ = None

        def __call__(self):
            time.sleep(0.1)
            raise ZeroDivisionError

    def main():
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                rt.go(Blocks()).result(PATIENCE)

    rt.run(main, procs=1)


@sees_blocking
def test_what_is_noted_of_a_blocker_keeps_nothing_alive():
    class Data:
        pass

    def nap(data):
        time.sleep(0.1)

    def main():
        data = Data()
        ref = weakref.ref(data)
        rt.go(functools.partial(nap, data)).result(PATIENCE)
        del data
        gc.collect()
        return ref

    assert rt.run(main, procs=1)() is None


def test_a_thread_that_calls_go_as_the_run_ends_gets_an_error_or_a_g_that_ends():
    stop, made = threading.Event(), []

    def hammer():
        while not stop.is_set():
            with contextlib.suppress(RuntimeError):
                made.append(rt.go(int))

    thread = threading.Thread(target=hammer)
    thread.start()
    try:
        for _ in range(200):
            rt.run(lambda: None)
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert all(g.done() for g in made)
