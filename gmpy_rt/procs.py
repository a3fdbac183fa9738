"""How many P's a runtime gets when nobody says: what this process may really use.

Three limits, the smallest wins: the CPUs it may be scheduled on, the CPU quota
of its cgroup (a container with "2 CPUs" on a 64-core host), rounded up, and
GMPY_MAXPROCS, which overrides both.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ENV = "GMPY_MAXPROCS"

MAX_PROCS = 256  # MAX_P in csrc/scheduler.h

_PROC = Path("/proc")


def default_procs() -> int:
    """The number of P's for `run()` without `procs`, and for `gomaxprocs` before it.

    Raises ValueError if GMPY_MAXPROCS is set to something that is no P count.
    """
    text = os.environ.get(ENV, "")
    if text.strip():
        return _from_environment(text)
    return min(available_procs(), MAX_PROCS)


def are_given(procs: int | None) -> bool:
    """Whether somebody chose the number of P's: run(procs=) or GMPY_MAXPROCS."""
    return procs is not None or bool(os.environ.get(ENV, "").strip())


def available_procs(proc: Path = _PROC) -> int:
    """CPUs this process may use: scheduler affinity and cgroup quota, at least 1."""
    cpus = usable_cpus()
    quota = cgroup_quota(proc)
    if quota is not None:
        cpus = min(cpus, math.ceil(quota))
    return max(1, cpus)


def usable_cpus() -> int:
    """CPUs the operating system may schedule this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_procs(value: object, name: str = "procs") -> int:
    """Return `value` as a P count, or say what is wrong with it and what to do."""
    # bool is an int, but run(main, procs=True) is a slip, not a wish for one P.
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{name}={value!r}: the number of P's is an int; "
            f"leave {name} out to use the {_cpus()} of this process"
        )
    if value < 1:
        raise ValueError(
            f"{name}={value}: a runtime needs at least one P; "
            f"leave {name} out to use the {_cpus()} of this process"
        )
    if value > MAX_PROCS:
        raise ValueError(
            f"{name}={value}: a runtime has at most {MAX_PROCS} P's; "
            f"leave {name} out to use the {_cpus()} of this process"
        )
    return value


def check_reserve(value: object, procs: int, name: str = "reserve") -> int:
    """Return `value` as a number of reserved P's out of `procs`, or say what is wrong with it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: the number of reserved P's is an int; 0 reserves none")
    if value < 0:
        raise ValueError(f"{name}={value}: the number of reserved P's is 0 or more")
    if value >= procs:
        raise ValueError(
            f"{name}={value} of {procs} P's: at least one must be left for other G's; "
            f"reserve at most {procs - 1}, or use more P's"
        )
    return value


def cgroup_quota(proc: Path = _PROC) -> float | None:
    """CPUs' worth of time that the process's cgroup may use, None if unlimited.

    A quota binds everything below it, so every ancestor that this mount
    namespace shows is asked and the tightest answer is returned. Version 2 and
    version 1 hierarchies may both be mounted. Raises OSError where no file can be opened now.
    """
    memberships = _text(proc / "self" / "cgroup")
    mounts = _text(proc / "self" / "mountinfo")
    if memberships is None or mounts is None:
        return None  # no cgroups here (not Linux, or no /proc)
    quotas = [
        quota
        for mount in _mounts(mounts)
        for path in _paths_of_process(memberships, mount)
        for folder in _up_to_mount(path, mount)
        if (quota := mount.quota_in(folder)) is not None
    ]
    return min(quotas, default=None)


def _from_environment(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MAX_PROCS:
        raise ValueError(
            f"{ENV}={text!r}: not a number of P's; set it to a whole number from 1 to {MAX_PROCS}, "
            f"or unset it to use the {_cpus()} of this process"
        )
    return value


def _cpus() -> str:
    count = available_procs()
    return f"{count} CPU" if count == 1 else f"{count} CPUs"


class _Mount(NamedTuple):
    """One mounted cgroup hierarchy that can carry CPU quotas."""

    version: int
    root: PurePosixPath  # the cgroup that is visible at `point`
    point: Path

    def quota_in(self, folder: Path) -> float | None:
        if self.version == 2:
            fields = _fields(folder / "cpu.max")
        else:
            fields = _fields(folder / "cpu.cfs_quota_us") + _fields(folder / "cpu.cfs_period_us")
        try:
            quota, period = (int(field) for field in fields)
        except ValueError:
            return None  # "max", or no such file: the root cgroup has none
        # Version 1 says -1 for no limit.
        return quota / period if quota > 0 and period > 0 else None


def _fields(file: Path) -> list[str]:
    return (_text(file) or "").split()


def _text(file: Path) -> str | None:
    """None if there is no such file. Too many open files don't mean that there is no quota."""
    try:
        return file.read_text(errors="surrogateescape")
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Hierarchies with a CPU controller; the layout of a line is in proc(5)."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if len(before) < 5 or len(after) < 3:
            continue
        root, point = PurePosixPath(_unescape(before[3])), Path(_unescape(before[4]))
        if after[0] == "cgroup2":
            yield _Mount(2, root, point)
        elif after[0] == "cgroup" and "cpu" in after[-1].split(","):
            yield _Mount(1, root, point)


def _unescape(field: str) -> str:
    """mountinfo writes blank, tab, newline and backslash as octal."""
    for code in ("040", "011", "012", "134"):
        field = field.replace("\\" + code, chr(int(code, 8)))
    return field


def _paths_of_process(memberships: str, mount: _Mount) -> Iterator[PurePosixPath]:
    for line in memberships.splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        controllers = parts[1].split(",")
        if (mount.version == 2 and parts[1] == "") or (mount.version == 1 and "cpu" in controllers):
            yield PurePosixPath(parts[2])


def _up_to_mount(path: PurePosixPath, mount: _Mount) -> Iterator[Path]:
    """The folders of a cgroup and of its ancestors, as far as they can be seen."""
    try:
        below = path.relative_to(mount.root)
    except ValueError:
        # A container without a cgroup namespace sees the host's path of its
        # cgroup, but the mount shows only that cgroup itself.
        below = PurePosixPath()
    if ".." in below.parts:
        below = PurePosixPath()  # moved out of the namespace's view
    yield mount.point / below
    for parent in below.parents:
        yield mount.point / parent
