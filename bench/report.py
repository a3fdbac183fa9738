"""The results as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import cases
from bench.machine import Machine
from bench.model import SUBJECT, Case, Cell, Metric, Results, Verdict
from bench.peer import Peer


@dataclass
class Report:
    machine: Machine
    peers: Sequence[Peer]
    missing: Mapping[str, str]
    rounds: int
    quick: bool
    results: Results
    verdicts: Sequence[Verdict]

    def text(self) -> str:
        parts = [self._head()]
        parts += [self._case(name, runs) for name, runs in self.results.items()]
        if self.verdicts:
            parts.append(self._requirements())
        return "\n\n".join(parts) + "\n"

    def _head(self) -> str:
        size = "quick sizes, " if self.quick else ""
        lines = [f"machine: {self.machine.described}", f"rounds: {size}medians of {self.rounds}"]
        lines += [f"{peer.name}: {peer.described}" for peer in self.peers]
        lines += [f"{name}: not available: {why}" for name, why in self.missing.items()]
        return "\n".join(lines)

    def _case(self, name: str, runs: Mapping[str, Mapping[str, Cell]]) -> str:
        case = cases.load(name)
        lines = [f"{name}: {case.TITLE}"]
        header = ["run", "peer"]
        for metric in case.METRICS:
            header.append(metric.unit)
            if not metric.secondary:
                header += ["(min .. max)", f"{SUBJECT} is"]
        rows = [header]
        for label, row in runs.items():
            for peer, cell in row.items():
                if cell.samples:
                    rows.append([label, peer, *self._figures(case, row, cell)])
        lines += aligned(rows, left=2) if len(rows) > 1 else []
        lines += _remarks(runs)
        return "\n".join(lines)

    def _figures(self, case: Case, row: Mapping[str, Cell], cell: Cell) -> list[str]:
        figures: list[str] = []
        for metric in case.METRICS:
            figures.append(number(cell.median(metric.name)))
            if not metric.secondary:
                figures += [_spread(cell, metric), _ratio(row, cell, metric)]
        return figures

    def _requirements(self) -> str:
        rows = [["case", "run", "must", "", SUBJECT, "peer", "ratio", "verdict"]]
        for v in self.verdicts:
            units = {m.name: m.unit for m in cases.load(v.case).METRICS}
            unit = units[v.requirement.metric]
            must = v.requirement.text if v.requirement.peer else f"{v.requirement.text} {unit}"
            kind = "stretch" if v.requirement.stretch else ""
            ratio = f"{number(v.ratio)}x" if v.ratio is not None else ""
            rows.append(
                [
                    v.case,
                    v.requirement.run,
                    must,
                    kind,
                    f"{number(v.value)} {unit}" if v.value is not None else "",
                    number(v.reference) if v.reference is not None else "",
                    ratio,
                    v.outcome,
                ]
            )
        return "\n".join(["requirements", *aligned(rows, left=4, last_left=True)])

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine.as_dict(),
            "rounds": self.rounds,
            "quick": self.quick,
            "peers": {peer.name: peer.about for peer in self.peers},
            "not_available": dict(self.missing),
            "cases": {
                name: {
                    "title": cases.load(name).TITLE,
                    "metrics": [asdict(metric) for metric in cases.load(name).METRICS],
                    "runs": {
                        label: {peer: _cell_dict(cell) for peer, cell in row.items()}
                        for label, row in runs.items()
                    },
                }
                for name, runs in self.results.items()
            },
            "requirements": [
                {
                    "case": v.case,
                    **asdict(v.requirement),
                    "value": v.value,
                    "reference": v.reference,
                    "ratio": v.ratio,
                    "outcome": v.outcome,
                }
                for v in self.verdicts
            ],
        }


def number(value: float | None) -> str:
    """About three significant digits, never in powers of ten."""
    if value is None:
        return "-"
    size = abs(value)
    if size < 100 and value == round(value):
        return f"{value:.0f}"
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size < 0.001:
        return "<0.001"
    return f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def _spread(cell: Cell, metric: Metric) -> str:
    values = cell.values(metric.name)
    return f"({number(min(values))} .. {number(max(values))})" if len(values) > 1 else ""


def _ratio(row: Mapping[str, Cell], cell: Cell, metric: Metric) -> str:
    """SUBJECT's figure over this peer's, with a word for which is better."""
    own = row.get(SUBJECT)
    mine = own.median(metric.name) if own else None
    theirs = cell.median(metric.name)
    if own is cell or mine is None or not theirs:
        return ""
    ratio = mine / theirs
    better = ratio < 1 if metric.less_is_better else ratio > 1
    return f"{number(ratio)}x {'better' if better else 'worse'}"


def _remarks(runs: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """What couldn't be measured and why; one line for what is said of several alike."""
    labels: dict[tuple[str, str], list[str]] = {}
    for label, row in runs.items():
        for peer, cell in row.items():
            if cell.skipped is not None:
                labels.setdefault((peer, cell.skipped), []).append(label)
            for failure in sorted(set(cell.failures)):
                times = cell.failures.count(failure)
                why = f"FAILED{f' {times} times' if times > 1 else ''}: {failure}"
                labels.setdefault((peer, why), []).append(label)
    peers: dict[tuple[str, str], list[str]] = {}
    for (peer, why), where in labels.items():
        peers.setdefault((why, ", ".join(where)), []).append(peer)
    return [f"  {', '.join(names)}: {why} [{where}]" for (why, where), names in peers.items()]


def _cell_dict(cell: Cell) -> dict[str, Any]:
    names = sorted({name for sample in cell.samples for name in sample})
    return {
        "median": {name: cell.median(name) for name in names},
        "samples": cell.samples,
        "skipped": cell.skipped,
        "failures": cell.failures,
    }


def aligned(rows: Sequence[Sequence[str]], left: int, last_left: bool = False) -> list[str]:
    """Rows as columns: the first `left` of them to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            to_left = i < left or (last_left and i == len(row) - 1)
            cells.append(cell.ljust(width) if to_left else cell.rjust(width))
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
