"""Local."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from support import PATIENCE
from test_g import on_one_p

import gmpy_rt as rt


@on_one_p
def test_each_g_has_its_own_attributes():
    local = rt.Local()
    local.x = "main"

    def body(n):
        assert not hasattr(local, "x")
        local.x = n
        rt.gosched()
        assert local.x == n and local.__dict__ == {"x": n}
        del local.x
        with pytest.raises(AttributeError, match="x"):
            del local.x
        with pytest.raises(AttributeError, match="no attribute 'x'"):
            local.x  # noqa: B018

    gs = [rt.go(body, n) for n in range(5)]
    for g in gs:
        g.result(PATIENCE)
    assert local.x == "main"


def test_plain_threads_too():
    local = rt.Local()
    local.x = 1
    seen = []
    thread = threading.Thread(target=lambda: seen.append(hasattr(local, "x")))
    thread.start()
    thread.join()
    assert seen == [False] and local.x == 1
    assert rt.run(lambda: hasattr(local, "x")) is False


class Counted(rt.Local):
    kind = "class attribute"

    def __init__(self, start):
        self.n = start

    @property
    def double(self):
        return 2 * self.n


@on_one_p
def test_a_subclass_is_initialised_in_each_g():
    local = Counted(5)
    local.n += 1

    def body():
        assert local.n == 5 and local.double == 10 and local.kind == "class attribute"
        local.kind = "own"
        with pytest.raises(AttributeError):
            local.double = 3

    rt.go(body).result(PATIENCE)
    assert local.n == 6 and local.kind == "class attribute"


@on_one_p
def test_what_a_g_set_goes_with_it():
    class Thing:
        pass

    local, refs = rt.Local(), []

    def body():
        local.thing = Thing()
        refs.append(weakref.ref(local.thing))

    rt.go(body).result(PATIENCE)
    gc.collect()
    assert refs[0]() is None


def test_arguments_need_an_init():
    with pytest.raises(TypeError, match="no arguments"):
        rt.Local(1)
    with pytest.raises(AttributeError, match="read-only"):
        rt.Local().__dict__ = {}


@on_one_p
def test_what_a_g_set_goes_with_the_local():
    class Thing:
        pass

    refs, mine = [], rt.Local()
    mine.n = 1
    for _ in range(100):
        local = rt.Local()
        local.thing = Thing()
        refs.append(weakref.ref(local.thing))
    del local
    gc.collect()
    assert not any(ref() for ref in refs) and mine.n == 1


@on_one_p
def test_an_init_that_failed_runs_again_at_the_next_touch():
    fails = False

    class Mine(rt.Local):
        def __init__(self, n):
            if fails:
                raise ZeroDivisionError
            self.n = n

    def body():
        nonlocal fails
        fails = True
        with pytest.raises(ZeroDivisionError):
            local.n  # noqa: B018
        fails = False
        return local.n

    local = Mine(7)
    assert rt.go(body).result(PATIENCE) == 7
