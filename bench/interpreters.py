"""Finds the Python interpreters of this machine and says what each one is."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OLDEST = (3, 11)

_NAME = re.compile(r"python3(\.\d+)?t?")
_PROBE = """
import json, sys, sysconfig
gil = getattr(sys, "_is_gil_enabled", lambda: True)()
print(json.dumps({
    "executable": sys.executable,
    "version": sys.version_info[:3],
    "full": sys.version.split()[0],
    "free": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "gil": gil,
    "base": sys.base_prefix,
}))
"""


@dataclass(frozen=True)
class Interpreter:
    executable: str
    version: tuple[int, ...]
    full_version: str
    free_threaded: bool
    gil_on: bool
    base_prefix: str

    @property
    def tag(self) -> str:
        """Short name as in python3.14t."""
        return f"{self.version[0]}.{self.version[1]}{'t' if self.free_threaded else ''}"

    @property
    def described(self) -> str:
        return f"{self.full_version}{'t' if self.free_threaded else ''}, {gil_words(self.gil_on)}"


def gil_words(gil_on: bool) -> str:
    return "GIL on" if gil_on else "GIL off"


@cache
def probe(executable: str) -> Interpreter | None:
    """What this executable is, or None if it isn't a Python that starts."""
    try:
        # -I: neither the current folder nor the environment may change the answer.
        done = subprocess.run(
            [executable, "-I", "-c", _PROBE], capture_output=True, timeout=30, check=True
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Interpreter(
        executable=found["executable"] or executable,
        version=tuple(found["version"]),
        full_version=found["full"],
        free_threaded=found["free"],
        gil_on=found["gil"],
        base_prefix=found["base"],
    )


def _candidates() -> Iterator[Path]:
    folders = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv" / "python")
    folders += sorted((pyenv / "versions").glob("*/bin"))
    folders += sorted(uv.glob("*/bin"))
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            path = folder / name
            if _NAME.fullmatch(name) and os.access(path, os.X_OK):
                yield path


@cache
def installed() -> tuple[Interpreter, ...]:
    """Every interpreter on PATH, under pyenv and under uv, each installation once."""
    paths: set[str] = set()
    found: dict[tuple[str, str], Interpreter] = {}
    for candidate in _candidates():
        real = str(candidate.resolve())
        if real in paths:
            continue
        paths.add(real)
        interpreter = probe(str(candidate))
        if interpreter is not None and interpreter.version >= OLDEST:
            found.setdefault((interpreter.base_prefix, interpreter.tag), interpreter)
    return tuple(found.values())


def gil_builds() -> list[Interpreter]:
    """Builds with a GIL, the newest first."""
    builds = [i for i in installed() if not i.free_threaded]
    return sorted(builds, key=lambda i: i.version, reverse=True)


def free_threaded_builds(like: Interpreter | None) -> list[Interpreter]:
    """Free-threaded builds from 3.14 on: first the one that is `like`, then the oldest.

    The oldest, because that is the one for which peers have wheels.
    """
    builds = [i for i in installed() if i.free_threaded and i.version >= (3, 14)]
    same = like.version[:2] if like is not None and like.free_threaded else None
    return sorted(builds, key=lambda i: (i.version[:2] != same, i.version))
