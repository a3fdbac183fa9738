"""Reserved P's and the latency class, as Python sees them. More in csrc/tests/test_reserve.c."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support import PATIENCE, poll_until, preempts, spin_until

import gmpy_rt
from gmpy_rt import Chan, Event, TaskGroup, go, latency_class, run, stats


def hogs(count: int, stop: threading.Event) -> list[gmpy_rt.G[None]]:
    def hog() -> None:
        while not stop.is_set():
            pass

    return [go(hog) for _ in range(count)]


def test_latency_gs_run_while_hogs_own_all_other_ps() -> None:
    def main() -> None:
        stop = threading.Event()
        with latency_class():
            checked = go(checks, stop)
        checked.result(PATIENCE)

    def checks(stop: threading.Event) -> None:
        with latency_class(False):
            ordinary = hogs(3, stop)
        try:
            for _ in range(100):  # children are of their maker's class
                assert go(gmpy_rt.current).result(PATIENCE).latency
            taken = {p.id for p in stats().per_p if p.reserved}
            assert taken == {0}
            mine = gmpy_rt.current().m
            assert all(g.m != mine for g in ordinary)
        finally:
            stop.set()

    run(main, procs=2, reserve=1)


def test_class_is_inherited_and_can_be_left() -> None:
    def main() -> list[bool]:
        with latency_class():
            return go(inner).result(PATIENCE)

    def inner() -> list[bool]:
        gs = [go(gmpy_rt.current)]
        with latency_class(False):
            gs.append(go(gmpy_rt.current))
            with latency_class():
                gs.append(go(gmpy_rt.current))
            with TaskGroup() as tg:
                gs.append(tg.go(gmpy_rt.current))
        gs.append(go(gmpy_rt.current))
        return [g.result(PATIENCE).latency for g in gs]

    assert run(main, procs=2, reserve=1) == [True, False, True, False, True]
    assert run(main, procs=2) == [True, False, True, False, True]


def test_class_is_restored_after_an_exception() -> None:
    def main() -> bool:
        with pytest.raises(ZeroDivisionError), latency_class():
            _ = 1 / 0
        return go(gmpy_rt.current).result(PATIENCE).latency

    assert run(main, procs=2, reserve=1) is False


def test_class_of_what_a_plain_thread_starts_is_its_own() -> None:
    def main() -> None:
        seen: Chan[bool] = Chan(2)

        def thread() -> None:
            with latency_class():
                seen.send(go(gmpy_rt.current).result(PATIENCE).latency)
            seen.send(go(gmpy_rt.current).result(PATIENCE).latency)

        outside = threading.Thread(target=thread)
        outside.start()
        try:
            assert seen.recv(PATIENCE) is True
            assert seen.recv(PATIENCE) is False
        finally:
            outside.join()

    run(main, procs=2, reserve=1)


def test_both_classes_never_share_an_m() -> None:
    def main() -> None:
        go_on = Event()

        def wait() -> int | None:
            go_on.wait(PATIENCE)
            return gmpy_rt.current().m

        ordinary = [go(wait) for _ in range(20)]
        with latency_class():
            latency = [go(wait) for _ in range(20)]
        poll_until(lambda: all(g.m is not None for g in ordinary + latency))
        go_on.set()
        ms = [{g.result(PATIENCE) for g in gs} for gs in (ordinary, latency)]
        assert not ms[0] & ms[1]

    run(main, procs=3, reserve=1)


@preempts
def test_reserve_can_change_while_hogs_run() -> None:
    def main() -> None:
        stop = threading.Event()
        hogs(4, stop)
        try:
            assert gmpy_rt.reserve(1) == 0
            assert gmpy_rt.reserve() == 1
            with latency_class():
                go(gmpy_rt.current).result(PATIENCE)
            assert gmpy_rt.reserve(0) == 1
            assert not any(p.reserved for p in stats().per_p)
        finally:
            stop.set()

    run(main, procs=2)


def test_reserved_p_is_idle_while_ordinary_gs_wait() -> None:
    def main() -> None:
        go(gmpy_rt.current).result(PATIENCE)
        spin_until(lambda: stats().per_p[0].status == "idle")
        before = stats().per_p[0].schedtick
        for g in [go(gmpy_rt.gosched) for _ in range(500)]:
            g.join()
        assert stats().per_p[0].schedtick == before

    run(main, procs=2, reserve=1)


def test_deadlock_of_latency_gs_is_told() -> None:
    def main() -> None:
        with latency_class():
            go(Chan[int]().recv).join()

    with pytest.raises(gmpy_rt.DeadlockError):
        run(main, procs=2, reserve=1)


@pytest.mark.parametrize("value", [-1, 2, 3])
def test_reserve_that_cannot_be_names_value_and_remedy(value: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^reserve={value}\b.*(0 or more|at most 1, or use more)"
    ):
        run(print, procs=2, reserve=value)


@pytest.mark.parametrize("value", ["1", 1.0, None, True])
def test_reserve_of_another_type_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^reserve=.*is an int"):
        run(print, procs=2, reserve=value)


def test_bad_changes_while_running_are_refused() -> None:
    def main() -> None:
        with pytest.raises(ValueError, match=r"^n=3 of 3 P's"):
            gmpy_rt.reserve(3)
        with pytest.raises(ValueError, match=r"^n=-1"):
            gmpy_rt.reserve(-1)
        assert gmpy_rt.reserve(2) == 1
        with pytest.raises(ValueError, match=r"^n=2: 2 of the P's are reserved.*at least 3"):
            gmpy_rt.gomaxprocs(2)
        assert gmpy_rt.gomaxprocs() == 3

    run(main, procs=3, reserve=1)


def test_reserve_outside_a_runtime_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"give run\(main, reserve=n\)"):
        gmpy_rt.reserve()
