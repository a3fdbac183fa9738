"""Traces in Go's own format: a strict reader, and `go tool trace` where it is at hand."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import gotrace
import pytest
from support import PATIENCE, poll_until, sees_blocking
from test_cli import gmpy_rt as command
from test_pprof import find_go
from test_trace import WORK, blocking, changing_procs, echo, hogs, many_turns, sieve

import gmpy_rt as rt
from gmpy_rt import trace
from gmpy_rt._trace_check import check


def traced(path: Path, main: Any, procs: int = 2, **how: Any) -> tuple[gotrace.GoTrace, Any]:
    with trace.start(path, **how):
        result = rt.run(main, procs=procs)
    return gotrace.read(path), result


def go_reads(path: Path) -> None:
    if find_go() is None:
        pytest.skip("no go command: `make bench` installs one")
    # A home for the tool itself, which newer versions build when it is first asked for.
    done = subprocess.run(
        [find_go(), "tool", "trace", "-d=parsed", str(path)],
        capture_output=True,
        text=True,
        timeout=150,
        env={"HOME": str(Path.home()), **os.environ},
    )
    assert done.returncode == 0 and done.stdout, done.stderr[-2000:]


@pytest.mark.parametrize("procs", [1, 2, 4])
@pytest.mark.parametrize("work", WORK)
def test_every_event_fits_what_came_before(tmp_path, work, procs):
    seen, _ = traced(tmp_path / "trace.out", work, procs)
    assert seen.counts["start"] > 0 and seen.counts["destroy"] > 0


@pytest.mark.parametrize("work", WORK)
def test_a_trace_may_begin_and_end_amid_work(tmp_path, work):
    def main():
        g = rt.go(work)
        rt.sleep(0.005)
        with trace.start(tmp_path / "trace.out"):
            rt.sleep(0.01)
        g.join(PATIENCE)

    rt.run(main, procs=2)
    gotrace.read(tmp_path / "trace.out")


@pytest.mark.parametrize("work", WORK)
def test_lost_events_leave_a_trace_that_can_be_read(tmp_path, work):
    def main():
        g = rt.go(work)
        many_turns()
        g.result(PATIENCE)

    with pytest.warns(RuntimeWarning, match="events lost"):
        seen, _ = traced(tmp_path / "trace.out", main, _ring=64)
    assert seen.counts["start"] > 0


@pytest.mark.parametrize("work", [hogs, blocking, echo, sieve, changing_procs])
@pytest.mark.deadline(180)
def test_go_tool_trace_reads_it(tmp_path, work):
    traced(tmp_path / "trace.out", work)
    go_reads(tmp_path / "trace.out")


def test_it_says_the_same_as_the_other_format(tmp_path):
    """The same run, by the counters: who was made, who ended, how often they ran."""

    def main():
        for g in [rt.go(rt.sleep, 0.001) for _ in range(20)]:
            g.result(PATIENCE)
        with trace.region("inside"):
            trace.log("key", "text ü")
            for g in [rt.go(rt.gosched) for _ in range(30)]:
                g.result(PATIENCE)

    seen, _ = traced(tmp_path / "trace.out", main, procs=1)
    assert seen.counts["create"] + seen.counts["status"] == 51
    assert seen.counts["destroy"] == 51
    assert seen.reasons["sleep"] == 20
    assert seen.reasons["runtime.Gosched"] == 30
    assert seen.logs == [("key", "text ü")] and seen.regions == ["inside"]
    assert sorted(seen.names.values()) == ["gosched"] * 30 + ["main"] + ["sleep"] * 20


@sees_blocking
def test_a_call_that_blocks_is_a_syscall_whose_p_is_stolen(tmp_path):
    blocked, release = threading.Event(), threading.Event()

    def main():
        blocked.set()
        release.wait(PATIENCE)

    def outside():
        blocked.wait(PATIENCE)
        g = rt.go(time.sleep, 0)  # work that waits: sysmon takes the P away
        poll_until(g.done)
        release.set()

    thread = threading.Thread(target=outside)
    thread.start()
    seen, _ = traced(tmp_path / "trace.out", main, procs=1)
    thread.join(PATIENCE)
    assert seen.counts["proc steal"] >= 1
    assert seen.counts["syscall"] >= seen.counts["syscall end blocked"] >= 1


def test_the_command_says_how_to_open_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import gmpy_rt; gmpy_rt.go(int).result()\n")
    out = tmp_path / "trace.out"
    done = command("trace", "--procs", "1", "-o", str(out), str(script))
    assert done.returncode == 0 and done.stderr.endswith(f"; look at it with go tool trace {out}\n")
    assert gotrace.read(out).counts["destroy"] == 2


def test_check_says_that_it_is_gos(tmp_path: Path) -> None:
    file = tmp_path / "t.out"
    with trace.start(file):
        pass
    with pytest.raises(ValueError, match="go tool trace"):
        check(file)
