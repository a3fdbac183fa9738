"""Traces of the benchmarks' own work are valid."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gmpy_rt import trace
from gmpy_rt._trace_check import check

ROOT = Path(__file__).resolve().parent.parent
# At the end of the path: the folder gmpy_rt/ there must not hide the installed package.
sys.path.append(str(ROOT))
peer = pytest.importorskip("bench.peers.gmpy", reason="the benchmarks are not here")

CASES = {
    "spawn": {"batch": 3000, "batches": 2},
    "gosched": {"ring": 10, "turns": 500, "batches": 2},
    "pingpong": {"mode": "", "trips": 2000, "batches": 2},
    "cpu": {"tasks": 4, "limit": 3000},
    "million": {"count": 5000, "seconds": 0.05},
    "ticker": {"interval": 0.001, "seconds": 0.3},
    "blockers": {"interval": 0.002, "seconds": 0.5, "block": 0.05, "rest": 0.01},
}


@pytest.mark.parametrize("procs", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_a_trace_of_a_benchmark_is_valid(tmp_path, monkeypatch, case, procs):
    monkeypatch.setenv("GMPY_MAXPROCS", str(procs))
    with trace.start(tmp_path / "t.json") as traced:
        getattr(peer, case)({**CASES[case], "procs": procs})
    report = check(tmp_path / "t.json")
    assert not report.wrong, str(report)
    assert traced.events and report.lost == 0
    assert report.counted["created"] == report.counted["ended"] > 1
