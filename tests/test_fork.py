"""fork: the child has one thread, so the parent's runtime isn't there; it may start its own."""

from __future__ import annotations

import sys

import pytest
from support import run_script

PREAMBLE = """
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork with several threads
def wait_for(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, code
def fork_in_a_thread(child):
    def outside():
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                os._exit(0)
        wait_for(pid)
    t = threading.Thread(target=outside)
    t.start()
    rt.blocking(t.join)
"""


def test_a_child_of_a_process_that_ran_a_runtime_can_run_one():
    done = run_script(
        PREAMBLE
        + """
print(run(lambda: go(lambda: "parent").result()), flush=True)
pid = os.fork()
if pid == 0:
    print(run(lambda: [go(lambda: "child").result() for _ in range(3)][0]), flush=True)
    os._exit(0)
wait_for(pid)
print(run(lambda: go(lambda: "parent again").result()))
"""
    )
    assert done.stdout.split("\n")[:3] == ["parent", "child", "parent again"]


def test_a_child_forked_by_another_thread_while_the_runtime_runs_can_run_one():
    done = run_script(
        PREAMBLE
        + """
def child():
    print(run(lambda: go(lambda: "child").result()), flush=True)
def main():
    gs = [go(rt.sleep, 10) for _ in range(10)]
    fork_in_a_thread(child)
    return "parent"
print(run(main))
"""
    )
    assert done.words == ["child", "parent"]


def test_timers_work_in_a_child_forked_while_one_is_armed():
    done = run_script(
        PREAMBLE
        + """
def child():
    run(lambda: rt.after(0.01).recv())
    print("child", flush=True)
def main():
    timer = rt.Timer(20)
    fork_in_a_thread(child)
    return timer.stop()
print(run(main))
"""
    )
    assert done.words == ["child", "True"]


def test_a_child_forked_in_a_g_can_do_plain_things_and_exit():
    done = run_script(
        PREAMBLE
        + """
def main():
    go(rt.sleep, 10)
    pid = os.fork()
    if pid == 0:
        print("child", sum(range(10)), flush=True)
        os._exit(0)
    rt.blocking(wait_for, pid)
    return "parent"
print(run(main))
"""
    )
    assert done.words == ["child", "45", "parent"]


@pytest.mark.parametrize("call", ["rt.sleep(0.001)", "rt.gosched()", "go(int)", "rt.current()"])
def test_a_child_forked_in_a_g_that_uses_the_parents_runtime_hears_no(call):
    done = run_script(
        PREAMBLE
        + f"""
def main():
    pid = os.fork()
    if pid == 0:
        try:
            {call}
            print("done", flush=True)
        except RuntimeError as problem:
            print(problem, flush=True)
        os._exit(0)
    rt.blocking(wait_for, pid)
run(main)
"""
    )
    # A plain thread may sleep; the rest has no meaning without a runtime.
    assert done.stdout.strip() == "done" if "sleep" in call else "outside a" in done.stdout


def test_a_child_forked_in_a_g_that_returns_ends_clearly():
    # Its M's loop has nobody to go on with: the child ends, and says why.
    done = run_script(
        PREAMBLE
        + """
def main():
    go(rt.sleep, 10)
    pid = os.fork()
    if pid == 0:
        return "child fell out of main"
    code = os.waitstatus_to_exitcode(rt.blocking(os.waitpid, pid, 0)[1])
    print("child ended with", code)
run(main)
""",
        timeout=30,
    )
    assert "child ended with 70" in done.stdout, done.stdout
    assert "fork" in done.stderr and "os._exit" in done.stderr


@pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="before 3.13 threading fails in any child that was forked in a foreign thread",
)
def test_multiprocessing_with_fork_works_from_a_g():
    done = run_script(
        PREAMBLE
        + """
import multiprocessing
def child(q):
    q.put("from the child")
def main():
    ctx = multiprocessing.get_context("fork")
    q = ctx.SimpleQueue()
    p = ctx.Process(target=child, args=(q,))
    p.start()
    print(rt.blocking(q.get))
    rt.blocking(p.join)
    print(p.exitcode)
run(main)
"""
    )
    assert done.stdout.split("\n")[:2] == ["from the child", "0"]


def test_subprocesses_work_from_gs():
    done = run_script(
        """
        import subprocess
        def one(i):
            out = rt.blocking(subprocess.run, ["echo", str(i)], capture_output=True, text=True)
            return out.stdout.strip()
        def main():
            gs = [go(one, i) for i in range(5)]
            print(*[g.result(20) for g in gs])
        run(main)
        """
    )
    assert done.words == ["0", "1", "2", "3", "4"]


def test_a_child_of_a_process_that_used_blocking_can_use_it():
    """Its pool's threads are the parent's: the child waited for them for ever."""
    done = run_script(
        PREAMBLE
        + """
print(run(lambda: rt.blocking(lambda: "parent")), flush=True)
pid = os.fork()
if pid == 0:
    print(run(lambda: rt.blocking(lambda: "child")), flush=True)
    os._exit(0)
wait_for(pid)
"""
    )
    assert done.words == ["parent", "child"]


def test_nobody_waits_in_a_child_for_the_parents_gs():
    """They stayed in the slab as parked: who cancelled or woke one gave a P to an M that isn't."""
    done = run_script(
        PREAMBLE
        + """
chan = rt.Chan()
def childs_main():
    chan.try_send(1)
    return [go(rt.sleep, 0.001).join() for _ in range(3)]
def child():
    print(len(run(childs_main, procs=2)), len(rt._door.all_g()), flush=True)
def main():
    gs = [go(rt.sleep, 60) for _ in range(20)] + [go(chan.recv) for _ in range(20)]
    while not all(g.waiting for g in gs):
        rt.sleep(0.001)
    fork_in_a_thread(child)
    return "parent"
from gmpy_rt import _door
rt._door = _door
print(run(main))
"""
    )
    assert done.words == ["3", "0", "parent"]


def test_a_child_that_leaves_a_guards_block_ends():
    done = run_script(
        PREAMBLE
        + """
import sys
from gmpy_rt.guard import HungerGuard
def main():
    with HungerGuard() as guard:
        # As its thread has it for a moment before it waits: the child hung then, once in hundreds.
        guard._stop._cond.acquire()
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        guard._stop._cond.release()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(run(main))
"""
    )
    assert done.words == ["70"]  # the child fell out of its G, which it is told


def test_a_process_of_multiprocessing_started_in_a_g_ends_well():
    """Before 3.13 its shutdown asserts a lock that only threads of threading have."""
    done = run_script(
        """
import multiprocessing, warnings
warnings.simplefilter("ignore")
def main():
    process = multiprocessing.get_context("fork").Process(target=print, args=("child",))
    process.start()
    process.join()
    return process.exitcode
print(run(main))
"""
    )
    assert done.words == ["child", "0"]
