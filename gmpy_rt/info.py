"""What `gmpy-rt info` shows: the facts that decide how the runtime behaves here."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from . import procs
from .runtime import preemption_mechanism


def facts() -> Iterator[tuple[str, str]]:
    """(name, value) pairs, in the order in which they are shown."""
    yield "gmpy_rt", _version("gmpy_rt")
    yield "interpreter", f"CPython {platform.python_version()} ({sys.executable})"
    yield "GIL", gil()
    yield "preemption", preemption_mechanism()
    yield "cores", f"{os.cpu_count() or '?'}, of which this process may use {procs.usable_cpus()}"
    quota = procs.cgroup_quota()
    yield "quota", "none" if quota is None else f"{quota:g} CPUs (cgroup)"
    yield "procs", _procs()
    for package in ("greenlet", "cffi", "psutil", "httptools"):
        yield package, _version(package)


def gil() -> str:
    """Whether Python code can run on several cores in this process."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "on (GIL build: one thread at a time runs Python)"
    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    if is_gil_enabled():
        return "on, though the build is free-threaded (PYTHON_GIL, -X gil or an extension module)"
    return "off (free-threaded build)"


def _procs() -> str:
    try:
        count = procs.default_procs()
    except ValueError as problem:
        return str(problem)
    source = f"from {procs.ENV}" if os.environ.get(procs.ENV, "").strip() else "default"
    return f"{count} ({source})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
