"""The records as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.report import aligned
from bench.starvation import scenarios
from bench.starvation.claims import Verdict
from bench.starvation.model import LIMIT, Record, seconds, shown

HEADER = (
    "P",
    "runtime",
    "waits",
    "p50",
    "p99",
    "max",
    "starved",
    "own p50",
    "own p99",
    "own max",
    "cores",
    "others",
    "per CPU",
    "steals",
    "preempted",
    "retakes",
    "hand-offs",
    "stranded",
    "M's",
    "also",
)


@dataclass
class Report:
    machine: Mapping[str, Any]
    runtimes: Mapping[str, str]
    missing: Mapping[str, str]
    scale: float
    records: Sequence[Record]
    verdicts: Sequence[Verdict]

    def text(self) -> str:
        parts = [self._head()]
        for name in scenarios.NAMES:
            records = [r for r in shown(self.records) if r["scenario"] == name]
            if records:
                parts.append(_scenario(name, records))
        parts.append(_claims(self.verdicts))
        return "\n\n".join(parts) + "\n"

    def _head(self) -> str:
        size = "full" if self.scale == 1 else f"{self.scale:g} of the full"
        lines = [f"machine: {self.machine['described']}", f"durations: {size}"]
        lines += [f"{name}: {what}" for name, what in self.runtimes.items()]
        lines += [f"{name}: not available: {why}" for name, why in self.missing.items()]
        lines += [
            "",
            "A wait is the time from runnable to the first instruction, as the scenario saw it; "
            f"'starved': waits over {LIMIT * 1e3:g} ms;",
            "'own': the same by the runtime's own histogram; 'cores': CPU seconds of the process "
            "per second; 'others': of all others; 'per CPU': how busy each was.",
        ]
        if busy := self.disturbed():
            lines.append(busy)
        return "\n".join(lines)

    def disturbed(self) -> str:
        """A warning if others took much of the CPUs; empty if not."""
        took = [others(r) for r in self.records if r.get("cores", {}).get("per_cpu")]
        # The echo service's client is one of the others, and takes up to half a CPU.
        many = sum(cpus > 0.5 for cpus in took)
        if many == 0:
            return ""
        return (
            f"TAKE WITH CARE: in {many} of {len(took)} runs other programs took more than half a "
            "CPU; small differences say nothing then"
        )

    def failed(self) -> bool:
        """Whether a run crashed or hung, or a G never ended."""
        return any("error" in r or lost(r) for r in self.records)

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "runtimes": dict(self.runtimes),
            "not_available": dict(self.missing),
            "scale": self.scale,
            "disturbed": self.disturbed(),
            "limit": LIMIT,
            "scenarios": {name: about(name) for name in scenarios.NAMES},
            "records": list(self.records),
            "shown": [self.records.index(record) for record in shown(self.records)],
            "claims": [asdict(verdict) for verdict in self.verdicts],
        }


def about(name: str) -> dict[str, Any]:
    module = scenarios.load(name)
    return {
        "letter": scenarios.letter(name),
        "title": module.TITLE,
        "program": module.PROGRAM,
        "about": module.ABOUT,
        "headline": list(module.HEADLINE),
    }


def lost(record: Record) -> int:
    """G's that were started and never ended."""
    return int(record.get("started", 0) - record.get("ended", 0))


def called(record: Record) -> str:
    """Go is the runtime, go a policy."""
    if record["policy"]:
        return f"{record['runtime']} {record['policy']}"
    return {"go": "Go"}.get(record["runtime"], str(record["runtime"]))


def others(record: Record) -> float:
    """CPU seconds a second that others took meanwhile, the echo client among them."""
    cores = record["cores"]
    return max(0.0, float(sum(cores["per_cpu"]) - cores["process"]))


def row(record: Record) -> list[str]:
    """The cells under HEADER of a record that has been measured."""
    name = called(record)
    mine, own = record["measured"] or {}, record["scheduler"] or {}
    counters, cores = record["counters"], record["cores"]
    retakes = None
    if counters:
        retakes = counters["retakes_declared"] + counters["retakes_undeclared"]
    return [
        str(record["procs"]),
        name,
        _count(mine.get("count")),
        *(seconds(mine.get(q)) for q in ("p50", "p99", "max")),
        _count(mine.get("starved")),
        *(seconds(own.get(q)) for q in ("p50", "p99", "max")),
        f"{cores['process']:.2f}",
        f"{others(record):.2f}" if cores["per_cpu"] else "-",
        " ".join(f"{100 * share:.0f}%" for share in cores["per_cpu"]) or "-",
        _count(counters.get("steals")),
        _count(counters.get("preemptions")),
        _count(retakes),
        _count(counters.get("handoffs")),
        _count(record["peaks"].get("stranded")),
        _count(record["peaks"].get("threads")),
        _also(record),
    ]


def _also(record: Record) -> str:
    module = scenarios.load(record["scenario"])
    try:
        return str(module.also(record["figures"])) if hasattr(module, "also") else ""
    except KeyError:  # this runtime doesn't tell
        return ""


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def remarks(records: Sequence[Record]) -> list[tuple[bool, str]]:
    """(is it bad, text): what there is no figure of and why, and G's that were lost."""
    where: dict[tuple[bool, str], dict[str, list[str]]] = {}
    for record in records:
        if "error" in record:
            what = (True, f"FAILED: {record['error']}")
        elif "skipped" in record:
            what = (False, str(record["skipped"]))
        elif lost(record):
            what = (True, f"{lost(record)} G's LOST")
        else:
            continue
        name = called(record)
        where.setdefault(what, {}).setdefault(name, []).append(str(record["procs"]))
    found = []
    for (bad, text), names in where.items():
        runs = ", ".join(f"{name} ({'/'.join(procs)} P)" for name, procs in names.items())
        found.append((bad, f"{runs}: {text}"))
    return found


def _scenario(name: str, records: Sequence[Record]) -> str:
    module = scenarios.load(name)
    program = f" ({module.PROGRAM})" if module.PROGRAM else ""
    rows = [list(HEADER), *(row(r) for r in records if "measured" in r)]
    notes = [f"  {text}" for _, text in remarks(records)]
    table = aligned(rows, left=2, last_left=True) if len(rows) > 1 else []
    return "\n".join([f"{name}: {module.TITLE}{program}", *table, *notes])


def _claims(verdicts: Sequence[Verdict]) -> str:
    lines = ["claims of the article, and what this run says"]
    for v in verdicts:
        lines += [f"  {v.claim:<4} {v.verdict}: {v.text}", f"       {v.figure}"]
        if v.go:
            lines.append(f"       Go: {v.go}")
    return "\n".join(lines)
