"""Everything at once, for a while, with a collection every 10 ms: no G is lost, run twice or
run by two M's at once, no value is lost or doubled, nothing crashes."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
import time
import weakref

import pytest
from support import FREE_THREADED, PATIENCE, PREEMPTION, poll_until

import gmpy_rt as rt
from gmpy_rt import _door

SECONDS = float(os.environ.get("GMPY_STRESS_SECONDS", "1"))

CONFIGS = [(1, "go"), (2, "go"), (4, "global-first"), (3, "neighbour"), (2, "affine")]


@pytest.fixture(params=CONFIGS, ids=lambda c: f"{c[0]}P-{c[1]}")
def config(request):
    return {"procs": request.param[0], "policy": request.param[1]}


def test_every_g_runs_exactly_once_on_one_m(config):
    def main():
        end = time.monotonic() + SECONDS
        batches = 0
        while time.monotonic() < end:
            runs = [0] * 300
            ms: list[set] = [set() for _ in runs]

            def body(i, runs=runs, ms=ms):
                runs[i] += 1
                ms[i].add((_door.current_m(), threading.get_native_id()))
                for _ in range(i % 4):
                    if i % 5 == 0:
                        rt.sleep(0.0001)
                    else:
                        rt.gosched()
                    ms[i].add((_door.current_m(), threading.get_native_id()))
                return i

            gs = [rt.go(body, i) for i in range(len(runs))]
            assert [g.result(PATIENCE) for g in gs] == list(range(len(runs)))
            assert runs == [1] * len(runs)
            assert all(len(seen) == 1 for seen in ms)
            batches += 1
        return batches

    assert rt.run(main, **config) > 0


def test_a_mix_of_everything(config):
    """Workers do random things; each value sent is received once, each lock excludes."""

    def main():
        stop = [False]
        begun: set[int] = set()
        chans = [rt.Chan(n) for n in (0, 0, 1, 10)]
        lock, inside = rt.Lock(), [0]
        sent, received = rt.Chan(1 << 20), rt.Chan(1 << 20)

        def send(rng):
            value = rng.getrandbits(60)
            try:
                rng.choice(chans).send(value, timeout=0.002)
                sent.send(value)
            except TimeoutError:
                pass

        def receive(rng):
            with contextlib.suppress(TimeoutError):
                received.send(rng.choice(chans).recv(timeout=0.002))

        def choose(rng):
            value = rng.getrandbits(60)
            a, b = rng.sample(chans, 2)
            try:
                index, got = rt.select(a, (b, value), timeout=0.002)
            except TimeoutError:
                return
            if index == 0:
                received.send(got)
            else:
                sent.send(value)

        def exclude(rng):
            with lock:
                inside[0] += 1
                assert inside[0] == 1
                if rng.random() < 0.3:
                    rt.gosched()
                inside[0] -= 1

        def spawn(rng):
            gs = [rt.go(lambda i=i: i) for i in range(rng.randrange(5))]
            assert [g.result(PATIENCE) for g in gs] == list(range(len(gs)))

        def fail(rng):
            g = rt.go(divmod, 1, 0)
            assert isinstance(g.exception(PATIENCE), ZeroDivisionError)

        def cancel(rng):
            g = rt.go(rt.sleep, PATIENCE)
            for _ in range(rng.randrange(3)):
                rt.gosched()
            g.cancel()
            assert isinstance(g.exception(PATIENCE), rt.Cancelled)

        def compute(rng):
            data = [rng.random() for _ in range(300)]
            assert sorted(data, key=lambda x: -x)[0] == max(data)

        def rest(rng):
            rt.sleep(rng.random() / 500)

        def declared(rng):
            rt.blocking(time.sleep, 0.0005)

        acts = [send, receive, choose, exclude, spawn, fail, cancel, compute, rest, declared]

        def worker(seed):
            rng = random.Random(seed)
            n = 0
            while not stop[0]:
                rng.choice(acts)(rng)
                begun.add(seed)
                n += 1
            return n

        workers = [rt.go(worker, seed) for seed in range(30)]
        rt.sleep(SECONDS)
        poll_until(lambda: len(begun) == len(workers))
        stop[0] = True
        done = [g.result(PATIENCE) for g in workers]
        assert min(done) > 0
        for ch in chans:
            while True:
                ok, value = ch.try_recv()
                if not ok:
                    break
                received.send(value)
        sent.close()
        received.close()
        assert sorted(sent) == sorted(received)
        poll_until(lambda: rt.num_goroutine() == 1)

    rt.run(main, **config)


@pytest.mark.skipif(PREEMPTION == "none", reason="no preemption before 3.12")
def test_hogs_with_state_under_collections(config):
    def main():
        end = time.monotonic() + SECONDS

        def hog(i):
            rounds = 0
            while True:
                marker = [i]
                try:
                    try:
                        raise KeyError(i)
                    finally:
                        total = sum(j ^ i for j in range(2000))
                except KeyError as mine:
                    for _ in range(2000):
                        assert sys.exc_info()[1] is mine
                assert marker == [i] and total == sum(j ^ i for j in range(2000))
                rounds += 1
                if time.monotonic() > end:
                    return rounds

        gs = [rt.go(hog, i) for i in range(8)]
        return min(g.result(PATIENCE) for g in gs)

    assert rt.run(main, **config) > 0


@pytest.mark.skipif(PREEMPTION == "none", reason="no preemption before 3.12")
def test_hogs_are_cancelled_and_nobody_else(config):
    """The interrupt of a running G travels through its thread; its neighbours must not get it."""

    def main():
        end = time.monotonic() + SECONDS
        trouble: list[str] = []

        def innocent():
            rounds = 0
            try:
                while time.monotonic() < end:
                    for _ in range(100):
                        pass
                    rt.gosched()
                    rounds += 1
            except BaseException as exc:
                trouble.append(repr(exc))
                raise
            return rounds

        def hog(ch):
            while True:
                for _ in range(random.randrange(3000)):
                    pass
                if random.random() < 0.5:
                    rt.gosched()
                else:
                    rt.select(ch, default=True)

        innocents = [rt.go(innocent) for _ in range(4)]
        ended = 0
        while time.monotonic() < end:
            gs = [rt.go(hog, rt.Chan()) for _ in range(4)]
            rt.sleep(random.random() / 200)
            for g in gs:
                g.cancel()
            for g in gs:
                assert isinstance(g.exception(PATIENCE), rt.Cancelled)
                ended += 1
        for g in innocents:
            assert g.result(PATIENCE) > 0
        assert trouble == []
        return ended

    assert rt.run(main, **config) > 0


def test_modules_are_dropped_while_their_gs_are_parked(config):
    import test_gc

    def main():
        end = time.monotonic() + SECONDS
        rounds = 0
        kinds = ("body", "nested", "generator", "comprehension")
        while time.monotonic() < end:
            ch, gs = rt.Chan(), []
            for kind in kinds:
                names = test_gc.new_module()
                gs += [rt.go(names[kind], ch) for _ in range(5)]
                poll_until(lambda gs=gs: all(g.waiting for g in gs))
                builtins = names["__builtins__"]
                names.clear()
                names["__builtins__"] = builtins
            rt.sleep(0.015)  # at least one collection
            for _ in gs:
                ch.send(0)
            assert [g.result(PATIENCE) for g in gs] == [test_gc.GOOD] * len(gs)
            rounds += 1
        return rounds

    assert rt.run(main, **config) > 0


@pytest.mark.skipif(not FREE_THREADED, reason="undeclared blocking is seen only without a GIL")
def test_blocking_of_both_kinds_with_hogs(config):
    def main():
        end = time.monotonic() + SECONDS
        counts = {"undeclared": 0, "declared": 0, "ticks": 0}

        def undeclared():
            while counts["undeclared"] == 0 or time.monotonic() < end:
                time.sleep(random.random() / 50)
                rt.gosched()
                counts["undeclared"] += 1

        def declared():
            while counts["declared"] == 0 or time.monotonic() < end:
                rt.blocking(time.sleep, random.random() / 50)
                counts["declared"] += 1

        def ticker():
            while counts["ticks"] == 0 or time.monotonic() < end:
                rt.sleep(0.001)
                rt.go(int).join(PATIENCE)
                counts["ticks"] += 1

        def hog():
            while time.monotonic() < end:
                pass

        bodies = [undeclared] * 3 + [declared] * 3 + [ticker] * 3 + [hog] * 2
        for g in [rt.go(body) for body in bodies]:
            g.result(PATIENCE)
        return counts

    counts = rt.run(main, **config)
    assert all(counts.values()), counts


def test_plain_threads_come_and_go(config):
    def main():
        end = time.monotonic() + SECONDS
        ch, back = rt.Chan(3), rt.Chan(3)

        def outside():
            for _ in range(20):
                value = ch.recv()
                g = rt.go(lambda v: v + 1, value)
                back.send(g.result(PATIENCE))

        total = 0
        while time.monotonic() < end:
            threads = [threading.Thread(target=outside) for _ in range(3)]
            for thread in threads:
                thread.start()

            def feed():
                for i in range(60):
                    ch.send(i)

            rt.go(feed)
            got = [back.recv(PATIENCE) for _ in range(60)]
            assert sorted(got) == list(range(1, 61))
            for thread in threads:
                rt.blocking(thread.join, PATIENCE)
            total += 1
        return total

    assert rt.run(main, **config) > 0


def test_starting_and_stopping_again_and_again(config):
    end = time.monotonic() + SECONDS
    seen = []
    while time.monotonic() < end:

        def main():
            gs = [rt.go(rt.sleep, random.choice([0, 0.0001, PATIENCE])) for _ in range(30)]
            seen.append(weakref.ref(gs[0]))
            rt.sleep(random.random() / 500)

        rt.run(main, **config)
        assert rt.num_goroutine() == 0
    deadline = time.monotonic() + PATIENCE
    while any(ref() for ref in seen) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(ref() for ref in seen)
