"""The metrics as Prometheus wants them: its text format, and a collector for its client.

/sched/goroutines-created:goroutines becomes gmpy_sched_goroutines_created_goroutines_total.
Histograms are given with a bucket per power of two of nanoseconds, from 1 us to 17 s: their
bounds are bounds of the finer buckets, so that each count is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from . import metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = tuple(2**power / 1e9 for power in range(10, 35))


class Family(NamedTuple):
    """One metric: its samples are (suffix, labels, value)."""

    name: str
    kind: metrics.Kind
    doc: str
    samples: list[tuple[str, dict[str, str], float]]


def families() -> Iterator[Family]:
    values = metrics.read()
    for metric in metrics.all():
        name = "gmpy" + metric.name.translate(str.maketrans("/:-", "___"))
        value = values[metric.name]
        if isinstance(value, metrics.Histogram):
            samples = list(_cumulative(value))
        elif metric.kind == "counter":
            samples = [("_total", {}, value)]
        else:
            samples = [("", {}, value)]
        yield Family(name, metric.kind, metric.doc, samples)


def _cumulative(hist: metrics.Histogram) -> Iterator[tuple[str, dict[str, str], float]]:
    seen = at = 0
    for bound in _BOUNDS:
        while hist.buckets[at + 1] <= bound:
            seen += hist.counts[at]
            at += 1
        yield "_bucket", {"le": repr(bound)}, seen
    yield "_bucket", {"le": "+Inf"}, hist.total
    yield "_sum", {}, hist.sum
    yield "_count", {}, hist.total


def text() -> str:
    """Every metric in Prometheus' text format (0.0.4); see CONTENT_TYPE."""
    lines = []
    for family in families():
        # This format names a counter by its samples, the client's families go without _total.
        full = family.name + ("_total" if family.kind == "counter" else "")
        lines += [f"# HELP {full} {family.doc}", f"# TYPE {full} {family.kind}"]
        for suffix, labels, value in family.samples:
            pairs = ",".join(f'{key}="{label}"' for key, label in labels.items())
            lines.append(f"{family.name}{suffix}{{{pairs}}} {value}".replace("{}", ""))
    return "\n".join(lines) + "\n"


class Collector:
    """For prometheus_client's registries. Raises ImportError without prometheus_client."""

    def __init__(self) -> None:
        try:
            from prometheus_client.metrics_core import Metric
        except ImportError as exc:
            raise ImportError(
                "prometheus_collector() needs prometheus_client: pip install 'gmpy_rt[prometheus]'"
            ) from exc
        self._metric = Metric

    def collect(self) -> Iterator[Any]:
        for family in families():
            metric = self._metric(family.name, family.doc, family.kind)
            for suffix, labels, value in family.samples:
                metric.add_sample(family.name + suffix, labels, value)
            yield metric


__all__ = ["CONTENT_TYPE", "Collector", "text"]
