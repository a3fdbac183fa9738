"""How many P's: affinity, cgroup quotas (on a made-up cgroup tree), GMPY_MAXPROCS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gmpy_rt import procs


class FakeCgroups:
    """A /proc and cgroup mounts below a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.mounted = folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.mounted.mkdir()
        self.write_memberships("")
        (self.proc / "self" / "mountinfo").write_text("")

    def write_memberships(self, text: str) -> None:
        (self.proc / "self" / "cgroup").write_text(text)

    def mount(self, kind: str, options: str = "rw", root: str = "/", folder: str = "") -> Path:
        point = self.mounted / folder
        point.mkdir(exist_ok=True)
        shown = str(point).replace(" ", "\\040")
        with (self.proc / "self" / "mountinfo").open("a") as mountinfo:
            mountinfo.write(
                f"30 23 0:26 {root} {shown} rw,nosuid shared:4 - {kind} {kind} {options}\n"
            )
        return point

    def quota(self) -> float | None:
        return procs.cgroup_quota(self.proc)


@pytest.fixture
def fake(tmp_path: Path) -> FakeCgroups:
    return FakeCgroups(tmp_path)


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_version_2_quota_is_quota_over_period(fake: FakeCgroups) -> None:
    point = fake.mount("cgroup2")
    fake.write_memberships("0::/app\n")
    put(point / "app" / "cpu.max", "150000 100000\n")
    assert fake.quota() == 1.5


def test_version_2_max_means_unlimited(fake: FakeCgroups) -> None:
    point = fake.mount("cgroup2")
    fake.write_memberships("0::/app\n")
    put(point / "app" / "cpu.max", "max 100000\n")
    assert fake.quota() is None


def test_tightest_ancestor_wins(fake: FakeCgroups) -> None:
    point = fake.mount("cgroup2")
    fake.write_memberships("0::/slice/app/worker\n")
    put(point / "slice" / "cpu.max", "50000 100000\n")
    put(point / "slice" / "app" / "cpu.max", "400000 100000\n")
    put(point / "slice" / "app" / "worker" / "cpu.max", "max 100000\n")
    assert fake.quota() == 0.5


def test_neighbours_quota_does_not_count(fake: FakeCgroups) -> None:
    point = fake.mount("cgroup2")
    fake.write_memberships("0::/app\n")
    put(point / "app" / "cpu.max", "200000 100000\n")
    put(point / "other" / "cpu.max", "10000 100000\n")
    assert fake.quota() == 2.0


def test_version_1_quota_is_read_from_the_cpu_controller(fake: FakeCgroups) -> None:
    point = fake.mount("cgroup", "rw,cpu,cpuacct", folder="cpu,cpuacct")
    fake.mount("cgroup", "rw,memory", folder="memory")
    fake.write_memberships("4:memory:/docker/m\n3:cpu,cpuacct:/docker/abc\n")
    put(point / "docker" / "abc" / "cpu.cfs_quota_us", "300000\n")
    put(point / "docker" / "abc" / "cpu.cfs_period_us", "100000\n")
    put(fake.mounted / "memory" / "docker" / "m" / "cpu.cfs_quota_us", "1\n")
    assert fake.quota() == 3.0


def test_version_1_minus_one_means_unlimited(fake: FakeCgroups) -> None:
    point = fake.mount("cgroup", "rw,cpu")
    fake.write_memberships("3:cpu:/\n")
    put(point / "cpu.cfs_quota_us", "-1\n")
    put(point / "cpu.cfs_period_us", "100000\n")
    assert fake.quota() is None


def test_both_versions_mounted_the_smaller_wins(fake: FakeCgroups) -> None:
    v1 = fake.mount("cgroup", "rw,cpu", folder="cpu")
    v2 = fake.mount("cgroup2", folder="unified")
    fake.write_memberships("3:cpu:/a\n0::/a\n")
    put(v1 / "a" / "cpu.cfs_quota_us", "250000\n")
    put(v1 / "a" / "cpu.cfs_period_us", "100000\n")
    put(v2 / "a" / "cpu.max", "350000 100000\n")
    assert fake.quota() == 2.5


@pytest.mark.parametrize("membership", ["/docker/abc", "/docker/abc/inner", "/elsewhere", "/../up"])
def test_mount_that_shows_only_the_containers_cgroup(fake: FakeCgroups, membership: str) -> None:
    point = fake.mount("cgroup2", root="/docker/abc")
    fake.write_memberships(f"0::{membership}\n")
    put(point / "cpu.max", "100000 100000\n")
    assert fake.quota() == 1.0


def test_mount_point_with_a_blank(fake: FakeCgroups) -> None:
    point = fake.mount("cgroup2", folder="with blank")
    fake.write_memberships("0::/\n")
    put(point / "cpu.max", "70000 100000\n")
    assert fake.quota() == 0.7


@pytest.mark.parametrize("text", ["", "nonsense\n", "100000\n", "100000 0\n", "a b\n"])
def test_unreadable_quota_means_unlimited(fake: FakeCgroups, text: str) -> None:
    point = fake.mount("cgroup2")
    fake.write_memberships("0::/\ngarbage\n")
    put(point / "cpu.max", text)
    assert fake.quota() is None


def test_no_proc_means_unlimited(tmp_path: Path) -> None:
    assert procs.cgroup_quota(tmp_path / "nowhere") is None


def test_quota_is_rounded_up_and_never_above_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(procs.ENV, raising=False)
    monkeypatch.setattr(procs, "usable_cpus", lambda: 4)
    for quota, expected in [(None, 4), (0.1, 1), (1.5, 2), (2.0, 2), (64.0, 4)]:
        monkeypatch.setattr(procs, "cgroup_quota", lambda *_, quota=quota: quota)
        assert procs.default_procs() == expected


def test_this_process_gets_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(procs.ENV, raising=False)
    assert procs.usable_cpus() == len(os.sched_getaffinity(0))
    assert 1 <= procs.default_procs() <= procs.usable_cpus()


@pytest.mark.parametrize("text, expected", [("1", 1), ("7", 7), (" 3 ", 3)])
def test_environment_overrides(monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setenv(procs.ENV, text)
    assert procs.default_procs() == expected


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_environment_counts_as_unset(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(procs.ENV, text)
    assert procs.default_procs() == procs.available_procs()


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "2 4"])
def test_bad_environment_names_value_and_remedy(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(procs.ENV, text)
    with pytest.raises(ValueError) as caught:
        procs.default_procs()
    assert f"GMPY_MAXPROCS={text!r}" in str(caught.value)
    assert "unset it" in str(caught.value)


@pytest.mark.parametrize("value", [0, -1])
def test_too_few_procs_names_value_and_remedy(value: int) -> None:
    with pytest.raises(ValueError, match=rf"procs={value}: .*at least one P; leave procs out"):
        procs.check_procs(value)


@pytest.mark.parametrize("value", ["2", 2.0, None, True])
def test_procs_of_another_type_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="the number of P's is an int"):
        procs.check_procs(value)


def test_good_procs_come_back_unchanged() -> None:
    assert procs.check_procs(3) == 3


def test_a_mount_whose_name_is_no_text_is_read_over(fake: FakeCgroups) -> None:
    with (fake.proc / "self" / "mountinfo").open("ab") as mountinfo:
        mountinfo.write(b"90 1 0:1 / /mnt/\xff\xfe rw - ext4 /dev/sdb rw\n")
    assert fake.quota() is None
