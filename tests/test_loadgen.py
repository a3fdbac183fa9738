"""Reports of wrk, oha and hey, and our own load generator's, give the same four figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gmpy_rt import loadgen
from gmpy_rt.loadgen import Load

WRK_REPORT = """\
Running 2s test @ http://127.0.0.1:43159/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    32.22ms  159.61ms   1.78s    96.46%
    Req/Sec     2.71k   163.46     2.90k    70.00%
  Latency Distribution
     50%  419.00us
     75%    7.01ms
     90%   10.64ms
     99%    1.02s\x20
  5406 requests in 2.01s, 733.82KB read
"""

HEY_REPORT = """
Summary:
  Total:\t1.0020 secs
  Requests/sec:\t31692.1770

Latency distribution:
  10% in 0.0001 secs
  50% in 0.0006 secs
  99% in 0.0050 secs

Status code distribution:
  [200]\t31756 responses
"""

OHA_REPORT = """
Summary:
  Success rate:\t100.00%
  Requests/sec:\t44567.8901

Response time distribution:
  50.00% in 1.2500 ms
  95.00% in 2.0000 ms
  99.00% in 0.0041 secs
  99.90% in 9.0000 ms

Status code distribution:
  [200] 89071 responses

Error distribution:
  [64] aborted due to deadline
"""


def test_wrk_report() -> None:
    report = WRK_REPORT + "Requests/sec:   2692.24\n"
    assert loadgen.parse_wrk(report) == Load(2692.24, pytest.approx(0.419), 1020.0, 0)


def test_wrk_errors_of_both_kinds_are_added() -> None:
    report = WRK_REPORT + (
        "  Socket errors: connect 1, read 20, write 300, timeout 4000\n"
        "  Non-2xx or 3xx responses: 50000\n"
        "Requests/sec:   2692.24\n"
    )
    assert loadgen.parse_wrk(report).errors == 54321


def test_hey_report() -> None:
    assert loadgen.parse_hey(HEY_REPORT) == Load(31692.177, pytest.approx(0.6), 5.0, 0)


def test_hey_bad_statuses_and_failed_requests_are_errors() -> None:
    report = HEY_REPORT + "  [500]\t7 responses\n\nError distribution:\n  [3]\tGet: refused\n"
    assert loadgen.parse_hey(report).errors == 10


def test_oha_report_without_the_requests_cut_off_at_the_end() -> None:
    assert loadgen.parse_hey(OHA_REPORT) == Load(44567.8901, 1.25, pytest.approx(4.1), 0)


def test_oha_errors_count() -> None:
    assert loadgen.parse_hey(OHA_REPORT + "  [5] connection reset\n").errors == 5


def test_own_report() -> None:
    figures = {
        "requests_per_second": 9.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "requests": 18,
        "errors": 1,
    }
    assert loadgen.parse_own(json.dumps(figures)) == Load(9.0, 1.0, 2.0, 1)


@pytest.mark.parametrize("parse", [loadgen.parse_wrk, loadgen.parse_hey, loadgen.parse_own])
def test_nonsense_is_refused(parse: object) -> None:
    with pytest.raises((ValueError, KeyError)):
        parse("nothing to see\n")  # type: ignore[operator]


def test_our_own_generator_where_no_tool_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert loadgen.choose(Path("http_load.py")).name == "http_load.py"


def test_wrk_first_where_all_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("hey", "oha", "wrk"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert loadgen.choose(Path("http_load.py")).name == "wrk"


def test_tool_that_fails_is_reported_with_what_it_said(tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text("import sys; sys.exit('no route')")
    tool = loadgen.Tool("fake", lambda *_: [sys.executable, str(script)], loadgen.parse_own)
    with pytest.raises(loadgen.LoadError, match="exit code 1: no route"):
        tool.load("http://127.0.0.1:1/", 1, 0.1)


def test_tool_with_an_unknown_report_is_reported_with_the_report(tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text("print('gibberish')")
    tool = loadgen.Tool("fake", lambda *_: [sys.executable, str(script)], loadgen.parse_own)
    with pytest.raises(loadgen.LoadError, match="gibberish"):
        tool.load("http://127.0.0.1:1/", 1, 0.1)
