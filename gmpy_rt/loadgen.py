"""Loads an HTTP server from another process: wrk, oha or hey if installed, else ours.

Each tool's report is turned into the same four figures.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Load(NamedTuple):
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


class LoadError(Exception):
    """The tool failed or said something that isn't understood."""


class Tool(NamedTuple):
    name: str
    command: Callable[[str, int, float], list[str]]  # of url, connections, seconds
    parse: Callable[[str], Load]

    def load(self, url: str, connections: int, seconds: float) -> Load:
        command = self.command(url, connections, seconds)
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=seconds + 30,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise LoadError(f"{self.name}: {problem}") from problem
        if done.returncode != 0:
            raise LoadError(
                f"{self.name} ended with exit code {done.returncode}: {done.stderr[-500:]}"
            )
        try:
            return self.parse(done.stdout)
        except (ValueError, KeyError) as problem:
            raise LoadError(
                f"{self.name}'s report is not understood ({problem}):\n{done.stdout}"
            ) from problem


def choose(own_script: Path) -> Tool:
    """The best tool on this machine; `own_script` is the load generator that ships with us."""
    for tool in (WRK, OHA, HEY):
        if shutil.which(tool.name):
            return tool

    def command(url: str, connections: int, seconds: float) -> list[str]:
        options = [f"--connections={connections}", f"--seconds={seconds:g}"]
        return [sys.executable, str(own_script), url, *options]

    return Tool(own_script.name, command, parse_own)


def parse_wrk(report: str) -> Load:
    refused = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report
    )
    bad_status = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    errors = sum(int(count) for count in refused.groups()) if refused else 0
    errors += int(bad_status[1]) if bad_status else 0
    return Load(
        float(_find(r"Requests/sec:\s+([\d.]+)", report)[1]),
        _milliseconds(*_find(r"^\s+50%\s+([\d.]+)(us|ms|s|m)\s*$", report).groups()),
        _milliseconds(*_find(r"^\s+99%\s+([\d.]+)(us|ms|s|m)\s*$", report).groups()),
        errors,
    )


def parse_hey(report: str) -> Load:
    """hey's report, and oha's, which is modelled on it."""
    statuses = re.findall(r"^\s+\[(\d{3})\]\s+(\d+) responses", report, re.MULTILINE)
    if not statuses:
        raise ValueError("no status codes")
    errors = sum(int(count) for status, count in statuses if status[0] not in "23")
    _, _, after = report.partition("Error distribution:")
    for count, message in re.findall(r"^\s+\[(\d+)\]\s+(.*)$", after, re.MULTILINE):
        # The requests under way when the time is over are no errors.
        if "aborted due to deadline" not in message:
            errors += int(count)
    unit = r"(secs?|ms|us|µs)"
    return Load(
        float(_find(r"Requests/sec:\s+([\d.]+)", report)[1]),
        _milliseconds(*_find(rf"^\s+50(?:\.0+)?%+ in ([\d.]+) {unit}", report).groups()),
        _milliseconds(*_find(rf"^\s+99(?:\.0+)?%+ in ([\d.]+) {unit}", report).groups()),
        errors,
    )


def parse_own(report: str) -> Load:
    figures = json.loads(report)
    return Load(*(figures[field] for field in Load._fields))


def _find(pattern: str, report: str) -> re.Match[str]:
    found = re.search(pattern, report, re.MULTILINE)
    if found is None:
        raise ValueError(f"nothing matches {pattern}")
    return found


def _milliseconds(number: str, unit: str) -> float:
    factor = {"us": 0.001, "µs": 0.001, "ms": 1, "s": 1000, "sec": 1000, "secs": 1000, "m": 60_000}
    return float(number) * factor[unit]


def _wrk(url: str, connections: int, seconds: float) -> list[str]:
    whole = max(1, round(seconds))  # wrk takes no fractions
    return ["wrk", "--latency", "--timeout=5s", "-t1", f"-c{connections}", f"-d{whole}s", url]


def _oha(url: str, connections: int, seconds: float) -> list[str]:
    return ["oha", "--no-tui", "-c", str(connections), "-z", f"{seconds:g}s", url]


def _hey(url: str, connections: int, seconds: float) -> list[str]:
    return ["hey", "-c", str(connections), "-z", f"{seconds:g}s", url]


WRK = Tool("wrk", _wrk, parse_wrk)
OHA = Tool("oha", _oha, parse_hey)
HEY = Tool("hey", _hey, parse_hey)
