"""CPython's own lock_tests and test_queue, as installed, against our classes in a runtime."""

from __future__ import annotations

import importlib.util
import json
import queue
import subprocess
from pathlib import Path

import pytest
from support import environment, interpreter

RUNNER = Path(__file__).with_name("runner.py")

# What differs on purpose, and why.
KNOWN = {
    "EventTests.test_at_fork_reinit": "looks into Event._cond; our Event has a wait queue, no lock",
}

needs_tests = pytest.mark.skipif(
    importlib.util.find_spec("test.lock_tests") is None,
    reason="this interpreter came without its test package",
)


def results(kind: str, procs: int) -> dict[str, str]:
    done = subprocess.run(
        [*interpreter(), str(RUNNER), kind, str(procs)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcome: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def check(outcome: dict[str, str], least: int) -> None:
    bad = {
        name: what
        for name, what in outcome.items()
        if what != "ok" and not what.startswith("skipped") and name not in KNOWN
    }
    assert not bad, "\n\n".join(f"{name}: {what}" for name, what in bad.items())
    assert sum(what == "ok" for what in outcome.values()) >= least


@needs_tests
@pytest.mark.deadline(300)
@pytest.mark.parametrize("procs", [1, 2, 4])
def test_lock_tests(procs):
    check(results("locks", procs), 75)


@needs_tests
@pytest.mark.deadline(300)
@pytest.mark.parametrize("procs", [1, 2])
def test_queue_tests(procs):
    check(results("queue", procs), 60 if hasattr(queue, "ShutDown") else 25)
