"""The metrics as OpenTelemetry instruments.

    metrics_otel.instrument(opentelemetry.metrics.get_meter("gmpy_rt"))

Gauges and counters become observable ones. An observable histogram doesn't exist there: of
ours, quantiles are given as gauges (attribute quantile: 0.5, 0.99, 1.0), and the number of
values as a counter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import metrics

QUANTILES = (0.5, 0.99, 1.0)


def instrument(meter: Any) -> list[Any]:
    """Make the instruments on meter, an opentelemetry.metrics.Meter; returns them.

    Names: /sched/goroutines:goroutines is gmpy.sched.goroutines with unit {goroutines}, as
    there may be /sched/procs/idle:procs and ...:seconds, the latter has .seconds at its end.
    Raises ImportError without opentelemetry-api (extra gmpy_rt[otel]).
    """
    try:
        from opentelemetry.metrics import Observation
    except ImportError as exc:
        raise ImportError(
            "instrument() needs opentelemetry-api: pip install 'gmpy_rt[otel]'"
        ) from exc

    def plain(name: str) -> Callable[[Any], Iterable[Any]]:
        def observe(_options: Any) -> Iterable[Any]:
            value: Any = metrics.read(name)[name]
            return [Observation(value)]

        return observe

    def quantiles(name: str) -> Callable[[Any], Iterable[Any]]:
        def observe(_options: Any) -> Iterable[Any]:
            hist = metrics.read(name)[name]
            assert isinstance(hist, metrics.Histogram)
            return [Observation(hist.quantile(q), {"quantile": q}) for q in QUANTILES]

        return observe

    def total(name: str) -> Callable[[Any], Iterable[Any]]:
        def observe(_options: Any) -> Iterable[Any]:
            hist = metrics.read(name)[name]
            assert isinstance(hist, metrics.Histogram)
            return [Observation(hist.total)]

        return observe

    made = []
    for metric in metrics.all():
        name = _otel_name(metric)
        unit = "s" if metric.unit == "seconds" else f"{{{metric.unit}}}"
        if metric.kind == "histogram":
            made.append(
                meter.create_observable_gauge(name, [quantiles(metric.name)], unit, metric.doc)
            )
            made.append(
                meter.create_observable_counter(
                    f"{name}.count", [total(metric.name)], "{values}", metric.doc
                )
            )
        elif metric.kind == "counter":
            made.append(
                meter.create_observable_counter(name, [plain(metric.name)], unit, metric.doc)
            )
        else:
            made.append(meter.create_observable_gauge(name, [plain(metric.name)], unit, metric.doc))
    return made


def _otel_name(metric: metrics.Metric) -> str:
    path = metric.name.rpartition(":")[0].strip("/").replace("/", ".")
    seconds = ".seconds" if metric.unit == "seconds" and metric.kind == "counter" else ""
    return f"gmpy.{path}{seconds}"


__all__ = ["instrument"]
