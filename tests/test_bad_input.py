"""Bad input: each a clear error that names the value and the remedy."""

from __future__ import annotations

import threading

import pytest
from support import CPUS, PATIENCE, run_script
from test_g import in_runtime

import gmpy_rt as rt
from gmpy_rt import queue


def says(problem: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    for part in parts:
        assert part in str(problem.value), (part, str(problem.value))


@pytest.mark.parametrize("value", [0, -1])
def test_run_with_too_few_procs(value):
    with pytest.raises(ValueError) as problem:
        rt.run(int, procs=value)
    says(problem, f"procs={value}", "at least one P", "leave procs out")


@pytest.mark.parametrize("value", ["2", 1.5, True])
def test_run_with_procs_that_are_no_number(value):
    with pytest.raises(TypeError) as problem:
        rt.run(int, procs=value)
    says(problem, f"procs={value!r}", "leave procs out")


def test_run_with_an_absurd_number_of_procs():
    with pytest.raises(ValueError) as problem:
        rt.run(int, procs=100_000)
    says(problem, "procs=100000", "256")


@pytest.mark.parametrize("text", ["0", "two", "-3", "1.5"])
def test_run_with_a_bad_environment(monkeypatch, text):
    monkeypatch.setenv("GMPY_MAXPROCS", text)
    with pytest.raises(ValueError) as problem:
        rt.run(int)
    says(problem, f"GMPY_MAXPROCS={text!r}", "unset it")


def test_run_with_an_unknown_policy(monkeypatch):
    with pytest.raises(ValueError) as problem:
        rt.run(int, policy="fair")
    says(problem, "policy='fair'", "go, global-first, neighbour, affine")
    monkeypatch.setenv("GMPY_SCHED", "fairer")
    with pytest.raises(ValueError) as problem:
        rt.run(int)
    says(problem, "'fairer'", "global-first")


def test_run_on_a_cpu_that_does_not_exist():
    with pytest.raises(ValueError) as problem:
        rt.run(int, affinity=[4711])
    says(problem, "affinity=[4711]", "4711", str(CPUS[0]))


@pytest.mark.parametrize("value", ["everywhere", [], 3, ["0"], {}])
def test_run_with_an_affinity_that_makes_no_sense(value):
    with pytest.raises(ValueError) as problem:
        rt.run(int, affinity=value)
    says(problem, f"affinity={value!r}")


def test_run_of_something_that_cannot_be_called():
    with pytest.raises(TypeError) as problem:
        rt.run(42)
    says(problem, "42", "not callable", "run(main, *args)")


def test_after_bad_input_the_runtime_still_starts():
    for bad in ({"procs": 0}, {"policy": "x"}, {"affinity": [4711]}):
        with pytest.raises(ValueError):
            rt.run(int, **bad)
    assert rt.run(int) == 0


def test_run_inside_a_g():
    def main():
        with pytest.raises(RuntimeError) as problem:
            rt.run(int)
        says(problem, "inside a G", "use go(")
        return "alive"

    assert rt.run(main) == "alive"


def test_run_while_another_run_is_under_way():
    def main():
        def outside():
            try:
                rt.run(int)
            except RuntimeError as problem:
                return str(problem)
            return "no error"

        return rt.blocking(outside)

    assert "one runtime" in rt.run(main)


def test_go_outside_a_runtime():
    with pytest.raises(RuntimeError) as problem:
        rt.go(int)
    says(problem, "outside a runtime", "run(main)")


@in_runtime
def test_go_of_something_that_cannot_be_called():
    with pytest.raises(TypeError) as problem:
        rt.go(print("x"))
    says(problem, "None", "not callable", "go(fn, *args)")
    with pytest.raises(TypeError, match="needs a function"):
        rt.go()


@pytest.mark.parametrize("name", ["current", "gosched", "lock_os_thread", "unlock_os_thread"])
def test_calls_that_need_a_g_say_so_outside(name):
    with pytest.raises(RuntimeError) as problem:
        getattr(rt, name)()
    says(problem, name, "outside a")


def test_gomaxprocs_outside_a_runtime():
    with pytest.raises(RuntimeError) as problem:
        rt.gomaxprocs(2)
    says(problem, "outside a runtime", "procs=n")


@in_runtime
def test_gomaxprocs_with_a_number_that_cannot_be():
    before = rt.gomaxprocs()
    for bad, kind in ((0, ValueError), (-1, ValueError), ("2", TypeError), (10**6, ValueError)):
        with pytest.raises(kind) as problem:
            rt.gomaxprocs(bad)
        says(problem, f"n={bad!r}")
    assert rt.gomaxprocs() == before


@in_runtime
def test_unlock_without_lock():
    with pytest.raises(RuntimeError, match="without lock_os_thread"):
        rt.unlock_os_thread()


@in_runtime
def test_sends_on_a_closed_channel():
    ch = rt.Chan(1)
    ch.close()
    for send in (ch.send, ch.try_send):
        with pytest.raises(rt.ChanClosed) as problem:
            send(1)
        says(problem, "send on a closed channel", "only its senders should close it")
    with pytest.raises(rt.ChanClosed, match="close"):
        ch.close()


@pytest.mark.parametrize("value", [-1, 2**31])
def test_channels_of_impossible_capacity(value):
    with pytest.raises(ValueError) as problem:
        rt.Chan(value)
    says(problem, f"capacity={value}")


def test_channels_of_a_capacity_that_is_no_number():
    with pytest.raises(TypeError):
        rt.Chan("2")


@in_runtime
def test_timeouts_that_are_no_numbers():
    """Every wait that would wait."""
    chan, held, wg, full = rt.Chan(), rt.Lock(), rt.WaitGroup(), queue.Queue(1)
    rlock, rw, cond = rt.RLock(), rt.RWMutex(), rt.Condition()
    held.acquire()
    rw.lock()
    cond.acquire()
    wg.add(1)
    full.put(1)
    rt.go(rlock.acquire).result(PATIENCE)
    g = rt.go(chan.recv)
    waits = [
        (chan.recv,),
        (rt.Chan().send, 1),  # nobody receives there
        (g.join,),
        (g.result,),
        (g.exception,),
        (lambda t: rt.select(chan, timeout=t),),
        (held.acquire, True),
        (rlock.acquire, True),
        (rt.Semaphore(0).acquire, True),
        (rt.Event().wait,),
        (cond.wait,),
        (cond.wait_for, lambda: False),
        (rt.Barrier(2).wait,),
        (rw.rlock,),
        (rw.lock,),
        (rw.reader.acquire, True),
        (rw.writer.acquire, True),
        (wg.wait,),
        (queue.Queue().get, True),
        (full.put, 1, True),
        (queue.SimpleQueue().get, True),
        (lambda t: rt.timeout(t).__enter__(),),
    ]
    for wait, *args in waits:
        with pytest.raises(TypeError) as problem:
            wait(*args, "soon")
        says(problem, "timeout='soon'", "seconds")
        with pytest.raises(ValueError, match="nan"):
            wait(*args, float("nan"))
    with pytest.raises(TypeError, match=r"deadline\('soon'\): give a time of time.monotonic"):
        rt.deadline("soon")
    g.cancel()


@in_runtime
def test_sleeps_that_make_no_sense():
    for bad in (None, "1", object()):
        with pytest.raises(TypeError):
            rt.sleep(bad)
    with pytest.raises(ValueError, match="nan"):
        rt.sleep(float("nan"))
    rt.sleep(-1)  # as time.sleep would not; a deadline that has passed already is no error


@in_runtime
def test_select_cases_that_are_none():
    for bad in (3, "x", (1, 2), (rt.Chan(),), [rt.Chan()]):
        with pytest.raises(TypeError) as problem:
            rt.select(bad)
        says(problem, repr(bad), "(channel, value)")
    with pytest.raises(TypeError, match="unknown argument"):
        rt.select(rt.Chan(), timeot=3)


@in_runtime
def test_unknown_arguments_are_named():
    g = rt.go(int)
    with pytest.raises(TypeError, match="timeoot"):
        g.join(timeoot=1)
    with pytest.raises(TypeError):
        g.result(1, 2)
    with pytest.raises(TypeError):
        rt.Chan().recv(timeoot=1)
    with pytest.raises(TypeError):
        rt.Chan().send()
    with pytest.raises(TypeError):
        rt.Lock().acquire(True, 1, 2)
    with pytest.raises(ValueError):
        rt.Lock().acquire(False, 1)
    with pytest.raises(ValueError, match="-2"):
        rt.Lock().acquire(timeout=-2)


def test_gs_and_channels_cannot_be_made_by_hand():
    with pytest.raises(TypeError):
        rt.G()


def test_a_g_of_an_ended_runtime_still_answers():
    kept = []
    rt.run(lambda: kept.append(rt.go(lambda: 7)) or kept[0].join())
    (g,) = kept
    assert g.done() and g.join() and g.result() == 7 and g.cancel() is False
    assert "done" in repr(g) and g.m is None


def test_a_plain_thread_after_the_runtime_ended():
    rt.run(int)
    seen = []

    def outside():
        try:
            rt.go(int)
        except RuntimeError as problem:
            seen.append(str(problem))

    thread = threading.Thread(target=outside)
    thread.start()
    thread.join(PATIENCE)
    assert "outside a runtime" in seen[0]


def test_an_old_greenlet_is_refused_with_the_remedy():
    done = run_script(
        """
        """,
    )
    assert done.stderr == ""
    import subprocess

    from support import environment, interpreter

    source = "import greenlet; greenlet.__version__ = '3.1.0'; import gmpy_rt"
    failed = subprocess.run(
        [*interpreter(), "-c", source],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
        check=False,
    )
    assert failed.returncode == 1
    assert "3.5.6" in failed.stderr and "pip install" in failed.stderr
