"""Runs the cases: rounds over all peers in turn, so that noise hits all alike."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench import cases
from bench.model import Case, Cell, PeerFailed, Results, Run, Skipped
from bench.peer import Peer
from bench.registry import Setup, Spec
from bench.store import NotAvailable


def note(text: str) -> None:
    """Progress, apart from the report on standard output."""
    print(text, file=sys.stderr, flush=True)


def make_ready(specs: Sequence[Spec], setup: Setup) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be had here, and why the others can't."""
    peers: list[Peer] = []
    missing: dict[str, str] = {}
    for spec in specs:
        note(f"preparing {spec.name} ...")
        try:
            peers.append(spec.ready(setup))
        except (NotAvailable, PeerFailed) as error:
            missing[spec.name] = str(error)
    return peers, missing


def run_cases(
    names: Sequence[str], peers: Sequence[Peer], rounds: int, quick: bool, results: Results
) -> None:
    """Measure into results, which so holds what there is if this is interrupted."""
    for name in names:
        case = cases.load(name)
        runs = case.runs(quick)
        table = results.setdefault(name, {})
        for run in runs:
            table[run.label] = {peer.name: Cell() for peer in peers if run.is_for(peer.name)}
        count = min(rounds, case.MAX_ROUNDS or rounds)
        for number in range(count):
            note(f"{name}: round {number + 1} of {count}")
            for run in runs:
                for peer in _rotated([p for p in peers if run.is_for(p.name)], number):
                    _measure(case, peer, run, table[run.label][peer.name])


def _rotated(peers: Sequence[Peer], number: int) -> list[Peer]:
    """Another order in each round: whoever comes after a heavy one isn't always the same."""
    if not peers:
        return []
    start = number % len(peers)
    return [*peers[start:], *peers[:start]]


def _measure(case: Case, peer: Peer, run: Run, cell: Cell) -> None:
    if cell.skipped is not None:
        return
    if cell.failures and not cell.samples:
        # It has failed from the start: further rounds would only cost time.
        return
    try:
        peer.refuse(run)
        cell.samples.append(case.measure(peer, run))
    except (Skipped, NotAvailable) as reason:
        cell.skipped = str(reason)
    except PeerFailed as failed:
        cell.failures.append(str(failed))
        note(f"  {peer.name}, {run.label}: {failed}")
