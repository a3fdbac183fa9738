"""The command line: which cases, which peers, how often, and where to."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import cases
from bench.machine import this_machine
from bench.model import SUBJECT, Results, Verdict, judge
from bench.peer import Peer
from bench.registry import SPECS, Setup, Spec
from bench.report import Report
from bench.runner import make_ready, note, run_cases
from bench.store import Store, default_folder

ROUNDS, QUICK_ROUNDS = 5, 3
INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gmpy-rt bench",
        description="Benchmarks of gmpy_rt side by side with its peers, in one run.",
    )
    parser.add_argument("--cases", metavar="A,B", help=f"of {', '.join(cases.NAMES)}; default all")
    names = ", ".join(spec.name for spec in SPECS)
    parser.add_argument("--peers", metavar="X,Y", help=f"of {names}; default all")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help=f"default {ROUNDS}, with --quick {QUICK_ROUNDS}"
    )
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything measured there")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="the interpreter that runs gmpy_rt; default this one",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where the peers are installed; default $GMPY_BENCH_CACHE, else the user's cache",
    )
    parser.add_argument("--renew", action="store_true", help="install the peers anew")
    parser.add_argument("--check", action="store_true", help="exit code 1 if a requirement fails")
    return parser


def _chosen(text: str | None, known: Sequence[str], what: str) -> list[str]:
    if text is None:
        return list(known)
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"{what} {name!r}: there is none of that name; choose from {', '.join(known)}"
            )
    return [name for name in known if name in wanted]


def _verdicts(results: Results) -> list[Verdict]:
    found: list[Verdict] = []
    for name in results:
        found += judge(name, cases.load(name).requirements(), results)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report, judge. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        names = _chosen(options.cases, cases.NAMES, "case")
        wanted = _chosen(options.peers, [spec.name for spec in SPECS], "peer")
    except ValueError as error:
        parser.error(str(error))
    rounds = options.rounds
    if rounds is None:
        rounds = QUICK_ROUNDS if options.quick else ROUNDS
    if rounds < 1:
        parser.error(f"--rounds {rounds}: at least one round is needed")
    specs: list[Spec] = [spec for spec in SPECS if spec.name in wanted]
    store = Store((options.cache or default_folder()).absolute(), options.renew)

    machine = this_machine()
    peers: list[Peer] = []
    missing: dict[str, str] = {}
    results: Results = {}
    interrupted = False
    try:
        peers, missing = make_ready(specs, Setup(store, options.python))
        run_cases(names, peers, rounds, options.quick, results)
    except KeyboardInterrupt:
        note("interrupted: this is what there is")
        interrupted = True
    verdicts = _verdicts(results)
    report = Report(machine, peers, missing, rounds, options.quick, results, verdicts)
    print(report.text(), end="")
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    if interrupted:
        return INTERRUPTED
    failed = SUBJECT in missing or any(v.outcome.startswith("FAIL") for v in verdicts)
    return 1 if options.check and failed else 0
