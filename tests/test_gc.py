"""Memory safety with the garbage collector.

On free-threaded 3.14 the collector credits uncounted (deferred) references to functions,
classes and code only on the stacks of running threads; what a suspended greenlet alone
holds would be freed under it. csrc/bridge/anchor.c is the cure, and this is its proof.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
import weakref

import pytest
from support import PATIENCE, is_parked, parallel, poll_until, preempts
from test_g import in_runtime

import gmpy_rt as rt

MODULE = """
import gmpy_rt as rt

def leaf():
    return "leaf ok"

class K:
    def m(self):
        return "K ok"

def body(ch):
    f = leaf
    k = K
    ch.recv()
    return f(), k().m()

def nested(ch):
    f = leaf
    k = K
    def inner(n):
        g = leaf
        if n:
            return inner(n - 1)
        ch.recv()
        return g()
    got = sorted([1], key=lambda _: inner(3))
    return f(), k().m()

def generator(ch):
    f = leaf
    k = K
    def gen():
        h = leaf
        yield 1
        ch.recv()
        yield h()
    values = list(gen())
    return f(), k().m()

def hog(flag, begun):
    f = leaf
    k = K
    begun.append(True)
    while not flag:
        pass
    return f(), k().m()

def comprehension(ch):
    f = leaf
    k = K
    got = [(x, f) for x in [1] if ch.recv() or True]
    return f(), k().m()

def on_the_stack(ch):
    k = K
    return leaf_with(leaf, ch.recv()), k().m()

def leaf_with(f, value):
    return f()
"""

GOOD = ("leaf ok", "K ok")


def new_module() -> dict:
    names: dict = {"__name__": "made_up"}
    exec(compile(MODULE, "made_up.py", "exec"), names)
    return names


def drop_and_collect(names: dict) -> tuple[weakref.ref, weakref.ref]:
    """Takes from the module everything that it held."""
    refs = weakref.ref(names["leaf"]), weakref.ref(names["K"])
    kept = {name: names[name] for name in ("leaf_with", "__builtins__")}  # looked up later
    names.clear()
    names.update(kept)
    for _ in range(3):
        gc.collect()
    # Overwrite what may have been freed.
    for _ in range(3):
        junk = [(lambda i=i: i) for i in range(500)]
        junk += [type(f"T{i}", (), {"m": lambda self: "wrong"}) for i in range(50)]
        del junk
    return refs


@pytest.mark.parametrize("name", ["body", "nested", "generator", "comprehension", "on_the_stack"])
@in_runtime
def test_a_parked_g_resumes_after_its_module_dropped_its_functions(name):
    names, ch = new_module(), rt.Chan()
    gs = [rt.go(names[name], ch) for _ in range(5)]
    poll_until(lambda: all(map(is_parked, gs)))
    leaf, k = drop_and_collect(names)
    assert leaf() is not None and k() is not None
    for _ in gs:
        ch.send(0)
    assert [g.result(PATIENCE) for g in gs] == [GOOD] * 5
    gs.clear()
    poll_until(lambda: gc.collect() is not None and leaf() is None and k() is None)


@preempts
def test_a_preempted_g_resumes_after_its_module_dropped_its_functions():
    def main():
        names, flag, begun = new_module(), [], []
        gs = [rt.go(names["hog"], flag, begun) for _ in range(3)]
        # A busy machine may have one preempted before its first line: it still needs its names.
        poll_until(lambda: len(begun) == 3)
        so_far = rt.stats().total("preemptions")
        poll_until(lambda: rt.stats().total("preemptions") >= so_far + 6)
        leaf, k = drop_and_collect(names)
        assert leaf() is not None and k() is not None
        flag.append(True)
        assert [g.result(PATIENCE) for g in gs] == [GOOD] * 3

    rt.run(main, procs=1)


@in_runtime
def test_a_g_parked_inside_greenlets_of_its_own_is_safe_too():
    import greenlet

    names, ch = new_module(), rt.Chan()

    def body():
        child = greenlet.greenlet(names["body"])
        return child.switch(ch)

    g = rt.go(body)
    poll_until(lambda: is_parked(g))
    drop_and_collect(names)
    ch.send(0)
    assert g.result(PATIENCE) == GOOD


@in_runtime
def test_gs_parked_at_many_depths_survive_collections():
    def leafpark(ch):
        return ch.recv()

    def viasort(ch):
        return sorted([1], key=lambda _: ch.recv())

    def viamap(ch):
        return list(map(lambda c: c.recv(), [ch]))

    def viapartial(ch):
        return functools.partial(leafpark, ch)()

    class Init:
        def __init__(self, ch):
            self.value = ch.recv()

    def deep(ch, n):
        return deep(ch, n - 1) if n else ch.recv()

    for _ in range(5):
        ch = rt.Chan()
        gs = []
        for i in range(30):
            gs += [rt.go(f, ch) for f in (leafpark, viasort, viamap, viapartial, Init)]
            gs.append(rt.go(deep, ch, i))
            gs.append(rt.go(ch.recv))
        poll_until(lambda gs=gs: all(map(is_parked, gs)))
        gc.collect()
        for _ in gs:
            ch.send(1)
        gc.collect()
        for g in gs:
            g.result(PATIENCE)


@in_runtime
def test_collections_on_another_thread_while_gs_run():
    stop = threading.Event()

    def collector():
        while not stop.is_set():
            gc.collect()
            stop.wait(0.002)

    thread = threading.Thread(target=collector)
    thread.start()
    try:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            names, ch = new_module(), rt.Chan()
            kinds = ("body", "generator", "comprehension")
            gs = [rt.go(names[kind], ch) for kind in kinds for _ in range(5)]
            poll_until(lambda gs=gs: all(map(is_parked, gs)))
            del names["leaf"], names["K"]
            for _ in gs:
                ch.send(0)
            assert [g.result(PATIENCE) for g in gs] == [GOOD] * len(gs)
    finally:
        stop.set()
        rt.blocking(thread.join, PATIENCE)


@in_runtime
def test_finalizers_run_in_gs_and_may_not_park_outside_one():
    said = []

    class Parks:
        def __del__(self):
            try:
                rt.sleep(0.001)
                said.append("slept")
            except RuntimeError as problem:
                said.append(str(problem))

    rt.go(lambda: Parks() and None).join(PATIENCE)
    gs = [rt.go(lambda keep: None, Parks())]
    gs[0].join(PATIENCE)
    gs.clear()
    poll_until(lambda: gc.collect() is not None and len(said) == 2)
    assert all(text == "slept" or "finalizer" in text for text in said), said


@in_runtime
def test_cycles_of_gs_are_collected():
    class Thing:
        pass

    thing = Thing()
    seen = weakref.ref(thing)
    g = rt.go(lambda: thing_box[0])
    thing_box = [thing]
    thing.g = g
    g.join(PATIENCE)
    del g, thing
    thing_box.clear()
    poll_until(lambda: gc.collect() is not None and seen() is None)


def test_the_collector_may_run_while_no_runtime_does():
    rt.run(lambda: [rt.go(int).join() for _ in range(100)])
    gc.collect()
    names, ch = new_module(), rt.Chan()
    assert rt.run(lambda: rt.go(names["body"], ch) and (ch.send(0), gc.collect())) is not None


@parallel
def test_values_cross_threads_under_collections():
    def main():
        ch, out = rt.Chan(4), rt.Chan(4)

        def stage():
            for value in ch:
                out.send((value[0] + 1, [value]))
            out.send(None)

        gs = [rt.go(stage) for _ in range(4)]

        def feed():
            for i in range(2000):
                ch.send((i, {"i": i}))
                if i % 200 == 0:
                    gc.collect()
            ch.close()

        rt.go(feed)
        ended = total = 0
        while ended < len(gs):
            value = out.recv(PATIENCE)
            if value is None:
                ended += 1
            else:
                total += value[0]
        return total

    assert rt.run(main, procs=2) == sum(range(1, 2001))


def test_refcounts_of_shared_objects_come_back():
    value = object()
    before = sys.getrefcount(value)

    def main():
        ch = rt.Chan(2)
        for _ in range(200):
            g = rt.go(lambda v: v, value)
            assert g.result(PATIENCE) is value
            ch.send(value)
            ch.recv()
            rt.select((ch, value), default=True)
            ch.try_recv()

    rt.run(main)
    gc.collect()
    assert sys.getrefcount(value) <= before + 2
