"""The number of P's follows the CPU quota: on a made-up cgroup tree, and on a real one."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import environment, interpreter, poll_until, run_script
from test_procs import FakeCgroups, put

import gmpy_rt
from gmpy_rt import procs, run, tune
from gmpy_rt.tune import Tuner


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCgroups:
    monkeypatch.delenv(procs.ENV, raising=False)
    monkeypatch.setattr(procs, "usable_cpus", lambda: 6)
    return FakeCgroups(tmp_path)


def v2(fake: FakeCgroups) -> Path:
    fake.write_memberships("0::/app\n")
    return fake.mount("cgroup2") / "app" / "cpu.max"


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


def test_follows_a_version_2_quota(fake: FakeCgroups) -> None:
    file = v2(fake)

    def main() -> list[int]:
        clock = Clock()
        tuner = Tuner(1.0, lambda: procs.available_procs(fake.proc), clock)
        seen = []
        for text in ("max 100000", "150000 100000", "50000 100000", "400000 100000", "max 100000"):
            put(file, text + "\n")
            clock.now += 1.0
            tuner.tick()
            seen.append(gmpy_rt.gomaxprocs())
        return seen

    assert run(main, procs=6) == [6, 2, 1, 4, 6]


def test_follows_a_version_1_quota(fake: FakeCgroups) -> None:
    fake.write_memberships("3:cpu:/app\n")
    folder = fake.mount("cgroup", "rw,cpu") / "app"
    put(folder / "cpu.cfs_period_us", "100000\n")

    def main() -> list[int]:
        clock = Clock()
        tuner = Tuner(1.0, lambda: procs.available_procs(fake.proc), clock)
        seen = []
        for quota in ("-1", "250000", "100000"):
            put(folder / "cpu.cfs_quota_us", quota + "\n")
            clock.now += 1.0
            tuner.tick()
            seen.append(gmpy_rt.gomaxprocs())
        return seen

    assert run(main, procs=6) == [6, 3, 1]


def test_never_below_the_reserve_and_one_more(fake: FakeCgroups) -> None:
    file = v2(fake)
    put(file, "100000 100000\n")

    def main() -> list[int]:
        clock = Clock()
        tuner = Tuner(1.0, lambda: procs.available_procs(fake.proc), clock)
        seen = []
        for reserve in (2, 1, 0):
            gmpy_rt.reserve(reserve)
            clock.now += 1.0
            tuner.tick()
            seen.append(gmpy_rt.gomaxprocs())
        return seen

    assert run(main, procs=6, reserve=2) == [3, 2, 1]


def test_looks_only_when_it_is_time_and_changes_only_what_differs() -> None:
    looks: list[float] = []

    def main() -> None:
        clock = Clock()

        def available() -> int:
            looks.append(clock.now)
            return 2

        tuner = Tuner(1.0, available, clock)
        for _ in range(40):
            clock.now += 0.125
            tuner.tick()
        assert tuner.changes == 1

    run(main, procs=3)
    assert looks == [11.0, 12.0, 13.0, 14.0, 15.0]


def test_default_with_a_reserve_has_a_p_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(procs.ENV, raising=False)
    monkeypatch.setattr(procs, "usable_cpus", lambda: 1)
    monkeypatch.setattr(procs, "cgroup_quota", lambda *_: None)
    assert run(gmpy_rt.gomaxprocs, reserve=2) == 3
    assert run(gmpy_rt.gomaxprocs) == 1


# How many CPUs there are changes while it runs; two seconds are an age.
SCRIPT = """
import time
from gmpy_rt import procs
available = 1
procs.usable_cpus = lambda: available
procs.cgroup_quota = lambda *_: None
def main():
    global available
    {before}
    available = 3
    end = time.monotonic() + {seconds}
    while rt.gomaxprocs() != 3 and time.monotonic() < end:
        rt.sleep(0.01)
    print(rt.gomaxprocs())
{run}
"""


@pytest.mark.parametrize(
    "before, start, env, expected",
    [
        ("", "run(main)", {}, "3"),
        ("", "run(main, procs=1)", {}, "1"),
        ("", "run(main)", {procs.ENV: "1"}, "1"),
        ("", "run(main)", {tune.ENV: "0"}, "1"),
        ("rt.gomaxprocs(2)", "run(main)", {}, "2"),
    ],
)
def test_runs_unless_somebody_chose(
    before: str, start: str, env: dict[str, str], expected: str
) -> None:
    seconds = 15 if expected == "3" else 0.3
    source = SCRIPT.format(before=before, run=start, seconds=seconds)
    assert run_script(source, **({tune.ENV: "0.02"} | env)).words == [expected]


def test_hogs_on_every_p_do_not_keep_it_from_looking() -> None:
    source = SCRIPT.format(
        before="stop = []; [go(hog, stop) for _ in range(2)]", run="", seconds=20
    )
    source += """
def hog(stop):
    while not stop:
        if rt.gomaxprocs() == 3:
            break
run(main)
"""
    assert run_script(source, **{tune.ENV: "0.02"}).words == ["3"]


def test_deadlock_is_told_while_it_tunes() -> None:
    source = """
    try:
        run(lambda: rt.Chan().recv())
    except rt.DeadlockError:
        print("told")
    """
    assert run_script(source, **{tune.ENV: "0.02"}).words == ["told"]


@pytest.mark.parametrize("text", ["x", "-1", "0.001", "nan", "4000"])
def test_bad_interval_names_value_and_remedy(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tune.ENV, text)
    with pytest.raises(ValueError, match=re.escape(f"GMPY_TUNE_SECONDS={text!r}: ")):
        run(print)


# ---- a real cgroup


def _cpu_hierarchy() -> tuple[int, Path] | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split()[:3]
        point = Path(left.split()[4])
        if kind == "cgroup" and "cpu" in options.split(","):
            return 1, point
        controllers = point / "cgroup.subtree_control"
        if kind == "cgroup2" and controllers.exists() and "cpu" in controllers.read_text().split():
            return 2, point
    return None


class RealCgroup:
    def __init__(self, version: int, folder: Path) -> None:
        self.version, self.folder = version, folder

    def set(self, cpus: float) -> None:
        period = 100_000
        if self.version == 2:
            (self.folder / "cpu.max").write_text(f"{int(cpus * period)} {period}")
        else:
            (self.folder / "cpu.cfs_quota_us").write_text(str(int(cpus * period)))


@pytest.fixture
def cgroup() -> Iterator[RealCgroup]:
    found = _cpu_hierarchy()
    if found is None:
        pytest.skip("no cgroup hierarchy with the cpu controller is mounted here")
    folder = found[1] / f"gmpy-rt-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as problem:
        pytest.skip(f"no cgroup can be made here: {problem}")
    cgroup = RealCgroup(found[0], folder)
    try:
        cgroup.set(2)
        yield cgroup
    except OSError as problem:
        pytest.skip(f"no quota can be set here: {problem}")
    finally:
        poll_until(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


REAL = """
import pathlib, sys, time
import gmpy_rt
def main():
    seen = None
    while seen != 1:
        if gmpy_rt.gomaxprocs() != seen:
            seen = gmpy_rt.gomaxprocs()
            print(seen, flush=True)
        gmpy_rt.sleep(0.005)
pathlib.Path(sys.argv[1], "cgroup.procs").write_text("0")
gmpy_rt.run(main)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU: a quota changes nothing")
def test_follows_a_real_cgroups_quota(cgroup: RealCgroup) -> None:
    process = subprocess.Popen(
        [*interpreter(), "-c", REAL, str(cgroup.folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(**{tune.ENV: "0.05"}),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "2\n"
        cgroup.set(0.9)
        assert process.stdout.readline() == "1\n"
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_without_a_file_descriptor_the_quota_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def open_nothing(*args: object, **kwargs: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "read_text", open_nothing)
    with pytest.raises(OSError, match="Too many"):
        procs.cgroup_quota()

    def main() -> tuple[int, int]:
        tuner = Tuner(0.0)
        tuner.tick()
        return gmpy_rt.gomaxprocs(), tuner.changes

    assert run(main, procs=3) == (3, 0)


if __name__ == "__main__":  # what a look costs
    began = time.perf_counter()
    for _ in range(1000):
        procs.available_procs()
    print(f"{(time.perf_counter() - began) * 1000:.0f} us", file=sys.stderr)
