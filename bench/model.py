"""What the harness talks about: cases, runs, metrics, requirements, samples."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bench.peer import Peer

# The name of the peer that the requirements are about.
SUBJECT = "gmpy_rt"

Values = dict[str, float]
Params = Mapping[str, int | float]


@dataclass(frozen=True)
class Metric:
    """One number that a run yields."""

    name: str
    unit: str
    less_is_better: bool = True
    # Metrics that explain others, shown but without a ratio.
    secondary: bool = False


@dataclass(frozen=True)
class Run:
    """One way to run a case: how many P's, with which parameters.

    mode: what else is special about it, part of the label and handed to the
    peer program, which may refuse it.
    only: the peers for which it makes sense; empty means all.
    """

    procs: int
    params: Params
    mode: str = ""
    only: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.procs} P {self.mode}".strip()

    def is_for(self, peer: str) -> bool:
        return not self.only or peer in self.only


@dataclass(frozen=True)
class Requirement:
    """A bound on one metric of SUBJECT.

    peer None: limit is absolute. Otherwise the bound is limit times what that
    peer (SUBJECT itself is allowed) measured in peer_run, by default the same
    run. stretch: shown, but missing it is no failure.
    """

    run: str
    metric: str
    limit: float
    at_least: bool = False
    peer: str | None = None
    peer_run: str | None = None
    stretch: bool = False

    @property
    def text(self) -> str:
        bound = "at least" if self.at_least else "at most"
        if self.peer is None:
            return f"{bound} {self.limit:g}"
        whose = "its own" if self.peer == SUBJECT else f"{self.peer}'s"
        where = f" at {self.peer_run}" if self.peer_run and self.peer_run != self.run else ""
        return f"{bound} {self.limit:g}x {whose}{where}"

    def holds(self, value: float, reference: float) -> bool:
        bound = self.limit * reference
        return value >= bound if self.at_least else value <= bound


class Case(Protocol):
    """A file of bench/cases: a title, its metrics and the same three functions."""

    TITLE: str
    METRICS: tuple[Metric, ...]
    # A cap on the rounds of cases that are long; None: as many as asked for.
    MAX_ROUNDS: int | None

    def runs(self, quick: bool) -> list[Run]:
        """What to run; quick asks for a smaller size where the result allows it."""

    def measure(self, peer: Peer, run: Run) -> Values:
        """Measure one peer once. Raises Skipped or PeerFailed."""

    def requirements(self) -> list[Requirement]:
        """What must hold for SUBJECT."""


class Skipped(Exception):
    """This peer has no such thing; the text says why."""


class PeerFailed(Exception):
    """The peer crashed, hung or answered nonsense; the text says which."""


@dataclass
class Cell:
    """All samples of one peer in one run of one case."""

    samples: list[Values] = field(default_factory=list)
    skipped: str | None = None
    failures: list[str] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        return [s[metric] for s in self.samples if metric in s]

    def median(self, metric: str) -> float | None:
        values = self.values(metric)
        return statistics.median(values) if values else None


# case name -> run label -> peer name -> cell
Results = dict[str, dict[str, dict[str, Cell]]]


@dataclass(frozen=True)
class Verdict:
    """A requirement held against the results."""

    case: str
    requirement: Requirement
    value: float | None
    reference: float | None
    outcome: str  # PASS, FAIL (: why), 'missed (stretch)' or 'not judged: why'

    @property
    def ratio(self) -> float | None:
        if self.value is None or not self.reference:
            return None
        return self.value / self.reference


def judge(case: str, requirements: Sequence[Requirement], results: Results) -> list[Verdict]:
    """Hold a case's requirements against what was measured."""
    return [_judge_one(case, r, results.get(case, {})) for r in requirements]


def _judge_one(case: str, r: Requirement, runs: dict[str, dict[str, Cell]]) -> Verdict:
    cell = runs.get(r.run, {}).get(SUBJECT)
    if cell is None:
        return Verdict(case, r, None, None, "not judged: not run")
    if cell.failures:
        # One crash among good rounds is a failure, not noise to be averaged out.
        return Verdict(case, r, cell.median(r.metric), None, "FAIL: crashed or hung")
    value = cell.median(r.metric)
    if value is None:
        return Verdict(case, r, None, None, f"not judged: {cell.skipped or 'no such metric'}")
    if r.peer is None:
        return Verdict(case, r, value, None, _outcome(r, value, 1.0))
    other = runs.get(r.peer_run or r.run, {}).get(r.peer)
    reference = other.median(r.metric) if other else None
    if reference is None:
        return Verdict(case, r, value, None, f"not judged: no figure of {r.peer}")
    return Verdict(case, r, value, reference, _outcome(r, value, reference))


def _outcome(r: Requirement, value: float, reference: float) -> str:
    if r.holds(value, reference):
        return "PASS"
    return "missed (stretch)" if r.stretch else "FAIL"
