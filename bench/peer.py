"""A peer that is ready to run, and the tiny protocol it speaks.

A measurement is one process: `COMMAND CASE PARAMS`, PARAMS a JSON object with
procs, mode and the case's own. It prints one JSON line: {"values": {...}} or
{"skipped": "why"}. A server first prints {"port": N} and serves until its
standard input is closed. The case `about` says who it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from bench.model import PeerFailed, Run, Skipped, Values
from bench.store import Store

# No measurement takes longer; one that does hangs.
TIME_LIMIT = 120.0


@dataclass
class Peer:
    name: str
    command: list[str]
    env: Mapping[str, str]
    store: Store
    # How many P's (threads that run tasks) it can have; None: any number.
    max_procs: int | None
    # The environment variable that sets them, for a peer that has one.
    procs_variable: str | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def introduce(self) -> None:
        """Ask the peer who it is; PeerFailed if it can't even say that."""
        answer = self._answer("about", {}, dict(self.env))
        self.about = answer.get("values", {})

    @property
    def described(self) -> str:
        parts = [self.about.get("package"), self.about.get("runtime")]
        if "gil" in self.about:
            parts.append("GIL on" if self.about["gil"] else "GIL off")
        return ", ".join(str(p) for p in parts if p)

    def refuse(self, run: Run) -> None:
        """Skipped for a run with more P's than this peer can have."""
        if self.max_procs is not None and run.procs > self.max_procs:
            raise Skipped(f"runs tasks on {self.max_procs} thread only")

    def call(self, case: str, run: Run, procs: int | None = None) -> Values:
        """One measurement; procs in place of the run's own."""
        params, env = self._prepared(run, procs)
        answer = self._answer(case, params, env)
        if "skipped" in answer:
            raise Skipped(str(answer["skipped"]))
        values = answer.get("values")
        if not isinstance(values, dict):
            raise PeerFailed(f"answered {json.dumps(answer)[:100]}")
        return {str(k): float(v) for k, v in values.items()}

    @contextlib.contextmanager
    def serving(self, case: str, run: Run) -> Iterator[int]:
        """The port of a server that runs while the block does."""
        params, env = self._prepared(run, None)
        with tempfile.TemporaryFile() as errors:
            process = self._start(case, params, env, errors)
            assert process.stdin is not None and process.stdout is not None
            try:
                answer = _parse(process.stdout.readline(), process, errors)
                if "skipped" in answer:
                    raise Skipped(str(answer["skipped"]))
                yield int(answer["port"])
                if process.poll() is not None:
                    raise PeerFailed(f"server ended: {_last_words(process, errors)}")
            finally:
                process.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=2)
                _end(process)

    def _prepared(self, run: Run, procs: int | None) -> tuple[dict[str, Any], dict[str, str]]:
        procs = procs or run.procs
        env = dict(self.env)
        if self.procs_variable is not None:
            env[self.procs_variable] = str(procs)
        return {**run.params, "procs": procs, "mode": run.mode}, env

    def _answer(self, case: str, params: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
        with tempfile.TemporaryFile() as errors:
            process = self._start(case, params, env, errors)
            try:
                output, _ = process.communicate(timeout=TIME_LIMIT)
                lines = output.splitlines()
                return _parse(lines[-1] if lines else b"", process, errors)
            except subprocess.TimeoutExpired as error:
                raise PeerFailed(f"no answer within {TIME_LIMIT:.0f} s") from error
            finally:
                _end(process)

    def _start(
        self, case: str, params: dict[str, Any], env: dict[str, str], errors: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        # A session of its own, so that ending it ends whatever it started.
        return subprocess.Popen(
            [*self.command, case, json.dumps(params)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=env,
            start_new_session=True,
        )


def clean_environment() -> dict[str, str]:
    """This environment without what would change how a peer's Python runs."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GMPY_"))}


def _parse(line: bytes, process: subprocess.Popen[bytes], errors: IO[bytes]) -> dict[str, Any]:
    try:
        answer = json.loads(line)
        if isinstance(answer, dict):
            return answer
    except ValueError:
        pass
    raise PeerFailed(_last_words(process, errors))


def _last_words(process: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "printed no JSON and goes on running"
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f"{ended}: {lines[-1].strip()[:160]}" if lines else ended


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
