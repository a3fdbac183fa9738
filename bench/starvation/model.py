"""What the lab talks about: waits, their summaries, and the record that a run yields.

A record is the JSON object that a measuring process prints: the same fields from gmpy_rt
(lab.py) and from the peers (peers/), None or empty where a runtime can't tell.

    runtime, scenario, policy, procs, round, seconds
    measured      a Summary over the kinds of wait that the scenario is about, or None
    kinds         kind of wait -> Summary
    scheduler     a Summary from the runtime's own histogram, or None
    cores         process: CPU seconds per second; per_cpu: busy share of each CPU
    counters      steals, preemptions, ... over all P's
    peaks         threads, stranded, blocked_threads, runnable: the most that was ever seen
    figures       what only this scenario measures
    started, ended   G's of the scenario; they differ only if one was lost
    gil           whether gmpy_rt ran with a GIL
    timeline      see timeline.py; spans: what the culprits did, [from, to, what] in seconds
    error, skipped   instead of all that: why there is nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# A G that is runnable for longer than this starves: the article's limit, in seconds.
LIMIT = 0.005

SUBJECT = "gmpy_rt"
POLICIES = ("go", "global-first", "neighbour", "affine")

Record = dict[str, Any]
Summary = dict[str, Any]
Params = dict[str, Any]
Figures = dict[str, float]

_CURVE_POINTS = 60


def shown(records: Iterable[Record]) -> list[Record]:
    """Of the rounds of each run the one in the middle by p99; what has no figures as it is."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        key = tuple(record[name] for name in ("scenario", "procs", "runtime", "policy"))
        groups.setdefault(key, []).append(record)
    chosen = []
    for rounds in groups.values():
        measured = [r for r in rounds if r.get("measured")]
        measured.sort(key=lambda r: float(r["measured"]["p99"]))
        chosen += [measured[len(measured) // 2]] if measured else rounds[:1]
    return chosen


def summary(seconds: Iterable[float]) -> Summary | None:
    """count, p50, p99, max, starved and the curve of these waits; None if there are none.

    The curve is [wait, share of waits at least that long], closest where they are longest.
    """
    waits = sorted(seconds)
    if not waits:
        return None
    return {
        "count": len(waits),
        "p50": quantile(waits, 0.5),
        "p99": quantile(waits, 0.99),
        "max": waits[-1],
        "starved": sum(wait > LIMIT for wait in waits),
        "curve": _curve(waits),
    }


def quantile(ordered: Sequence[float], q: float) -> float:
    """The nearest-rank quantile of sorted values."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def _curve(waits: Sequence[float]) -> list[list[float]]:
    n = len(waits)
    # Ranks from the end in equal steps of their logarithm: 1, 2, 3, ... n.
    ranks = {max(1, round(n ** (i / _CURVE_POINTS))) for i in range(_CURVE_POINTS + 1)}
    points = ((waits[n - rank], rank / n) for rank in sorted(ranks, reverse=True))
    return [[float(f"{wait:.4g}"), float(f"{share:.4g}")] for wait, share in points]


def histogram_summary(bounds: Sequence[int], counts: Sequence[int], longest: int) -> Summary | None:
    """The same from a histogram in nanoseconds; exact to the width of its buckets."""
    total = sum(counts)
    if total == 0:
        return None

    def upper(i: int) -> float:
        return min(bounds[i + 1] if i + 1 < len(bounds) else longest, longest) / 1e9

    def at(q: float) -> float:
        seen = 0
        for i, count in enumerate(counts):
            seen += count
            if count and seen >= q * total:
                return upper(i)
        return longest / 1e9

    curve, left = [], total
    for i, count in enumerate(counts):
        if count:
            curve.append([float(f"{upper(i):.4g}"), float(f"{left / total:.4g}")])
        left -= count
    starved = sum(count for low, count in zip(bounds, counts, strict=True) if low > LIMIT * 1e9)
    return {
        "count": total,
        "p50": at(0.5),
        "p99": at(0.99),
        "max": longest / 1e9,
        "starved": starved,
        "curve": curve,
    }


def seconds(value: float | None) -> str:
    """With a unit, about three digits."""
    if value is None:
        return "-"
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if value * factor < 1000:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s"
