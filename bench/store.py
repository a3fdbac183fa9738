"""The cache folder: venvs of the peers and the programs built for them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.interpreters import Interpreter


class NotAvailable(Exception):
    """Something can't be installed or built here; the text says what and why."""


def default_folder() -> Path:
    """GMPY_BENCH_CACHE, else gmpy_rt/bench in the user's cache folder."""
    chosen = os.environ.get("GMPY_BENCH_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gmpy_rt" / "bench"


class Store:
    def __init__(self, folder: Path, renew: bool = False) -> None:
        self.folder = folder
        self.renew = renew
        self._renewed: set[Path] = set()

    def venv(self, requirement: str, interpreter: Interpreter) -> Path:
        """A venv with that requirement installed; made unless it is there already."""
        folder = self.folder / "venvs" / f"{requirement}-{interpreter.tag}"
        # Written last: a venv without it was interrupted while being made.
        stamp = folder / ".complete"
        wanted = f"{requirement}\n{interpreter.base_prefix}\n{interpreter.full_version}\n"
        stale = self.renew and folder not in self._renewed
        if not stale and stamp.exists() and stamp.read_text() == wanted:
            return folder
        if folder.exists():
            shutil.rmtree(folder)
        run_quietly([interpreter.executable, "-m", "venv", str(folder)], what="venv")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        run_quietly([*pip, "install", "--quiet", "--no-input", requirement], what="pip install")
        stamp.write_text(wanted)
        self._renewed.add(folder)
        return folder

    def built(
        self,
        name: str,
        sources: Sequence[Path],
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
    ) -> Path:
        """A program built by `command ... -o OUT SOURCES`, once for each state of the sources."""
        digest = hashlib.sha256("\0".join(command).encode())
        for source in sources:
            digest.update(source.read_bytes())
        target = self.folder / "built" / f"{name}-{digest.hexdigest()[:16]}"
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        # Built beside and renamed: two harnesses may share this folder.
        partial = target.with_suffix(f".{os.getpid()}")
        run_quietly(
            [*command, "-o", str(partial), *(str(s) for s in sources)],
            what=f"build {name}",
            env=env,
        )
        partial.replace(target)
        return target


def run_quietly(
    command: Sequence[str], what: str, env: Mapping[str, str] | None = None, limit: float = 900
) -> str:
    """Run to the end and return what it printed; NotAvailable with its last word if it fails."""
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=limit, env=env, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotAvailable(f"{what}: {error}") from error
    if done.returncode != 0:
        raise NotAvailable(f"{what}: {_last_error(done.stderr or done.stdout)}")
    return done.stdout


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no output"])[-1][:200]
