"""Runs the scenarios, each measurement in a process of its own, and collects the records."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.model import PeerFailed
from bench.peer import clean_environment
from bench.registry import SPECS, Setup, go_program
from bench.starvation import scenarios
from bench.starvation.model import (
    SUBJECT,
    Params,
    Record,
    histogram_summary,
    summary,
)
from bench.store import NotAvailable

HERE = Path(__file__).resolve().parent
PEERS = ("go", "gevent", "asyncio", "tonio")
# No measurement takes longer; one that does hangs.
TIME_LIMIT = 90.0


@dataclass(frozen=True)
class Runtime:
    """Something that can run scenarios: COMMAND SCENARIO PARAMS."""

    name: str
    described: str
    command: Sequence[str]
    env: Mapping[str, str]
    max_procs: int | None = None


def ready(name: str, setup: Setup) -> Runtime:
    """Installs what it needs. Raises NotAvailable or PeerFailed."""
    if name == "go":
        program = go_program(setup.store, "go-starve", HERE / "peers" / "go")
        about = _answer([str(program), "about", "{}"], clean_environment())
        return Runtime(
            name, f"Go {about['runtime'].removeprefix('go')}", [str(program)], clean_environment()
        )
    # The benchmarks know which interpreter a peer is at home on.
    peer = next(spec for spec in SPECS if spec.name == name).ready(setup)
    program_name = "gmpy" if name == SUBJECT else name
    command = [peer.command[0], "-P", str(HERE / "child.py"), program_name]
    return Runtime(name, peer.described, command, peer.env, peer.max_procs)


def measure(runtime: Runtime, name: str, params: Params) -> Record:
    """The record of one run; with an error in it if there's nothing else to tell."""
    key = {
        "runtime": runtime.name,
        "scenario": name,
        "policy": params.get("policy"),
        "procs": params["procs"],
    }
    if runtime.max_procs is not None and params["procs"] > runtime.max_procs:
        return {**key, "skipped": f"runs tasks on {runtime.max_procs} thread only"}
    try:
        # gmpy_rt pins its threads itself.
        cpus = None if runtime.name == SUBJECT else cpus_of(params["procs"])
        found = _answer([*runtime.command, name, json.dumps(params)], runtime.env, cpus)
    except PeerFailed as failed:
        return {**key, "error": str(failed)}
    if "waits" in found:
        found = _summed_up(found, scenarios.load(name).HEADLINE)
    return {**key, **found}


def _summed_up(plain: dict[str, Any], headline: Sequence[str]) -> Record:
    """A record from the plain waits that peers answer with."""
    waits = {kind: [ns / 1e9 for ns in w] for kind, w in (plain["waits"] or {}).items()}
    chosen = [max(0.0, wait) for kind in headline for wait in waits.get(kind, ())]
    scheduler = plain.get("scheduler")
    if scheduler is not None:
        bounds, counts = scheduler["bounds"], scheduler["counts"]
        used = [i for i, count in enumerate(counts) if count]
        longest = bounds[min(used[-1] + 1, len(bounds) - 1)] if used else 0
        scheduler = histogram_summary(bounds, counts, longest)
    return {
        "seconds": plain["seconds"],
        "measured": summary(chosen),
        "kinds": {kind: summary(w) for kind, w in sorted(waits.items())},
        "scheduler": scheduler,
        "cores": {"process": plain["cpu_seconds"] / plain["seconds"], "per_cpu": []},
        "counters": {},
        "peaks": {"threads": plain["threads"]},
        "figures": plain["figures"],
        "started": plain["started"],
        "ended": plain["ended"],
        "timeline": None,
        "spans": [],
    }


def cpus_of(procs: int) -> list[int]:
    """The CPUs that so many P's are pinned to."""
    return sorted(os.sched_getaffinity(0))[:procs]


def client_command() -> list[str]:
    """The echo client, on any of the CPUs that this process may use."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return [sys.executable, "-I", str(HERE / "echo_client.py"), cpus]


def _answer(
    command: Sequence[str], env: Mapping[str, str], cpus: Sequence[int] | None = None
) -> dict[str, Any]:
    """The JSON object that a process prints last, on these CPUs. Raises PeerFailed."""
    with tempfile.TemporaryFile() as errors:
        # A session of its own, so that ending it ends whatever it started.
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=dict(env),
            start_new_session=True,
            preexec_fn=None if cpus is None else lambda: os.sched_setaffinity(0, cpus),
        )
        try:
            output, _ = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired as late:
            raise PeerFailed(f"no answer within {TIME_LIMIT:.0f} s") from late
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        try:
            found = json.loads(output.splitlines()[-1])
            if process.returncode == 0 and isinstance(found, dict):
                return found
        except (ValueError, IndexError):
            pass
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        code = process.returncode
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise PeerFailed(f"{ended}: {lines[-1][:200]}" if lines else ended)


def run_all(
    names: Sequence[str],
    runtimes: Sequence[Runtime],
    policies: Sequence[str],
    procs: Sequence[int],
    scale: float,
    rounds: int,
    records: list[Record],
    note: Callable[[str], None],
) -> None:
    """Measures into records, which so hold what there is if this is interrupted."""
    kinds: list[tuple[Runtime, str | None]] = []
    for runtime in runtimes:
        kinds += [(runtime, p) for p in policies] if runtime.name == SUBJECT else [(runtime, None)]
    client = client_command()
    for name in names:
        scenario = scenarios.load(name)
        params = scenario.params(scale)
        for count in scenario.PROCS or procs:
            for number in range(rounds):
                for runtime, policy in kinds:
                    given = {**params, "procs": count, "policy": policy, "client": client}
                    record = measure(runtime, name, given)
                    records.append({**record, "round": number})
                    note(_told(record))


def _told(record: Record) -> str:
    who = f"{record['scenario']}, {record['procs']} P, {record['runtime']}"
    if record["policy"]:
        who += f" {record['policy']}"
    for reason in ("skipped", "error"):
        if reason in record:
            return f"{who}: {reason}: {record[reason]}"
    return f"{who}: {record['seconds']:.1f} s"


__all__ = ["PEERS", "NotAvailable", "Runtime", "measure", "ready", "run_all"]
