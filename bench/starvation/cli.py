"""The command line: which scenarios, policies, P's and peers, how big, and where to."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.machine import this_machine
from bench.model import PeerFailed
from bench.registry import Setup
from bench.starvation import claims, page, picture, scenarios
from bench.starvation.model import POLICIES, SUBJECT, Record
from bench.starvation.report import Report
from bench.starvation.runner import PEERS, NotAvailable, Runtime, ready, run_all
from bench.store import Store, default_folder

FULL, QUICK = 1.0, 0.2
INTERRUPTED = 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gmpy-rt starve",
        description="Experiments in starvation: every policy, 1, 2 and 4 P's, beside peers.",
    )
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"of {', '.join(scenarios.NAMES)}, or their letters a to g; default all",
    )
    parser.add_argument("--policies", metavar="A,B", help=f"of {','.join(POLICIES)}; default all")
    parser.add_argument("--procs", metavar="N,M", default="1,2,4", help="default 1,2,4")
    parser.add_argument(
        "--peers", metavar="X,Y", help=f"of {','.join(PEERS)}, or none; default all"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a fifth of the durations: a few minutes in all"
    )
    parser.add_argument("--scale", type=float, metavar="F", help="sizes and durations; 1 is full")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="of each; default 1")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path("starve-out"), help="default starve-out"
    )
    parser.add_argument("--no-pictures", action="store_true", help="needs no matplotlib then")
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
        help="where peers are installed; default $GMPY_BENCH_CACHE, else the user's cache",
    )
    return parser


def note(text: str) -> None:
    """Progress, apart from the report on standard output."""
    print(text, file=sys.stderr, flush=True)


def _chosen(text: str | None, known: Sequence[str], what: str) -> list[str]:
    wanted = list(known) if text is None else [word for word in text.split(",") if word]
    for word in wanted:
        if word not in known:
            raise ValueError(f"{what} {word!r}: there is none; choose from {', '.join(known)}")
    return [word for word in known if word in wanted]


def _scenarios(words: Sequence[str]) -> list[str]:
    letters = {scenarios.letter(name): name for name in scenarios.NAMES}
    names = ",".join(letters.get(word, word) for word in words)
    return _chosen(names or None, scenarios.NAMES, "SCENARIO")


def _procs(text: str) -> list[int]:
    try:
        procs = sorted({int(word) for word in text.split(",")})
    except ValueError:
        procs = [0]
    if procs[0] < 1 or procs[-1] > 64:
        raise ValueError(f"--procs {text!r}: numbers from 1 to 64 with commas, such as 1,2,4")
    return procs


def _scale(options: argparse.Namespace) -> float:
    if options.scale is None:
        return QUICK if options.quick else FULL
    if not 0.01 <= options.scale <= 4:
        raise ValueError(f"--scale {options.scale:g}: from 0.01 to 4")
    return float(options.scale)


def _make_ready(names: Sequence[str], setup: Setup) -> tuple[list[Runtime], dict[str, str]]:
    runtimes, missing = [], {}
    for name in names:
        note(f"preparing {name} ...")
        try:
            runtimes.append(ready(name, setup))
        except (NotAvailable, PeerFailed) as error:
            missing[name] = str(error)
    return runtimes, missing


def main(argv: Sequence[str] | None = None) -> int:
    """Run, report, draw. 1 if a run failed or a G was lost, 2 for what can't be asked."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        names = _scenarios(options.scenarios)
        policies = _chosen(options.policies, POLICIES, "--policies")
        procs = _procs(options.procs)
        scale = _scale(options)
        peers = [] if options.peers == "none" else _chosen(options.peers, PEERS, "--peers")
        if options.rounds < 1:
            raise ValueError(f"--rounds {options.rounds}: at least one is needed")
        options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    store = Store((options.cache or default_folder()).absolute())
    records: list[Record] = []
    machine, interrupted = this_machine(), False
    runtimes, missing = _make_ready([SUBJECT, *peers], Setup(store, options.python))
    try:
        run_all(names, runtimes, policies, procs, scale, options.rounds, records, note)
    except KeyboardInterrupt:
        note("interrupted: this is what there is")
        interrupted = True
    report = Report(
        machine.as_dict() | {"described": machine.described, "cpus": _cpus()},
        {runtime.name: runtime.described for runtime in runtimes},
        missing,
        scale,
        records,
        claims.judge(records),
    )
    print(report.text(), end="")
    _write(report, options.out, None if options.no_pictures else store)
    if interrupted:
        return INTERRUPTED
    return 1 if SUBJECT in missing or report.failed() else 0


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _write(report: Report, out: Path, store: Store | None) -> None:
    """starve.json, starve.html, and with a store a PNG for each scenario."""
    data = report.as_dict()
    path = out / "starve.json"
    path.write_text(json.dumps(data, separators=(",", ":")) + "\n")
    pictures = picture.Pictures(problem="not wanted (--no-pictures)")
    if store is not None:
        note("drawing ...")
        pictures = picture.draw(path, out, store)
    html = out / "starve.html"
    html.write_text(page.render(data, pictures), encoding="utf-8")
    note(f"written: {path}, {html}" + "".join(f", {png}" for png in pictures.files.values()))
    if pictures.problem:
        note(f"no pictures: {pictures.problem}")
