"""metrics: descriptions, values in known situations, histograms, Prometheus, OpenTelemetry."""

from __future__ import annotations

import bisect
import math
import random
import re
import threading
import time

import pytest
from support import (
    PATIENCE,
    handoffs,
    is_parked,
    parallel,
    poll_until,
    run_script,
    sees_blocking,
    spin_until,
    undisturbed,
    unpreempted,
)
from test_g import on_one_p

import gmpy_rt as rt
from gmpy_rt import _door, metrics, metrics_prometheus
from gmpy_rt._core import lib


def value(name: str):
    return metrics.read(name)[name]


# ---------------------------------------------------------------- names


def test_each_metric_has_a_name_with_its_unit_a_kind_and_a_sentence():
    described = metrics.all()
    assert len({m.name for m in described}) == len(described) > 30
    for m in described:
        assert m.name.startswith("/sched/") and m.name.endswith(f":{m.unit}")
        assert m.kind in ("gauge", "counter", "histogram")
        assert m.doc.endswith(".")
    assert list(metrics.read()) == [m.name for m in described]


def test_the_names_that_go_has_too_are_there():
    names = {m.name for m in metrics.all()}
    assert names >= {
        "/sched/gomaxprocs:threads",
        "/sched/goroutines:goroutines",
        "/sched/goroutines/runnable:goroutines",
        "/sched/goroutines/running:goroutines",
        "/sched/goroutines/waiting:goroutines",
        "/sched/goroutines-created:goroutines",
        "/sched/latencies:seconds",
        "/sched/threads/total:threads",
    }


def test_an_unknown_name_is_refused_with_a_hint():
    with pytest.raises(ValueError, match="did you mean '/sched/goroutines:goroutines'"):
        metrics.read("/sched/goroutine:goroutines")
    with pytest.raises(ValueError, match=r"'zzz'.*metrics\.all\(\) lists them"):
        metrics.read("zzz")


def test_without_a_runtime_everything_is_zero():
    rt.run(lambda: [rt.go(int).result() for _ in range(10)])
    for name, v in metrics.read().items():
        assert (v.total if isinstance(v, metrics.Histogram) else v) == 0, name


# ---------------------------------------------------------------- known situations


def test_gs_are_counted_by_state():
    """Where the machine stops main while it reads, its M looks blocked, and the P is handed off:
    the fresh ones start. Such an attempt doesn't count."""

    def main():
        ch = rt.Chan()
        parked = [rt.go(ch.recv) for _ in range(20)]
        poll_until(lambda: all(is_parked(g) for g in parked))
        with unpreempted():
            before = handoffs()
            fresh = [rt.go(int) for _ in range(5)]
            got = metrics.read()
            disturbed = handoffs() != before
        for g in parked:
            ch.send(g.id)
        for g in parked + fresh:
            g.result(PATIENCE)
        return None if disturbed else got

    got = undisturbed(lambda: rt.run(main, procs=1))
    assert got["/sched/goroutines:goroutines"] == 26
    assert got["/sched/goroutines/waiting:goroutines"] == 20
    assert got["/sched/goroutines/runnable:goroutines"] == 5
    assert got["/sched/goroutines/fresh:goroutines"] == 5
    assert got["/sched/goroutines/running:goroutines"] == 1
    assert got["/sched/goroutines-created:goroutines"] == 26
    assert got["/sched/gomaxprocs:threads"] == 1


def test_a_g_kept_runnable_for_50_ms_is_in_the_histogram():
    """On the only P, by code that isn't preempted: nobody can run the other G before."""

    def main():
        before = value("/sched/latencies:seconds")
        with unpreempted():
            late = rt.go(int)
            end = time.monotonic() + 0.05
            spin_until(lambda: time.monotonic() >= end)
        late.result(PATIENCE)
        return before, value("/sched/latencies:seconds")

    before, after = rt.run(main, procs=1)
    low = 0.05 * (1 - 1 / 8)  # the bucket that holds 50 ms begins at most so much below
    assert after.count_from(low) == before.count_from(low) + 1
    assert after.max >= 0.05 and after.sum >= before.sum + 0.05


@sees_blocking
def test_seven_gs_stranded_behind_one_m_are_shown_as_seven():
    release = threading.Event()
    seen: list[dict] = []
    ready: list[int] = []

    def main():
        # One P, and nothing blocks before: they all start on this M.
        ch = rt.Chan(7)
        gs = [rt.go(ch.recv) for _ in range(7)]
        poll_until(lambda: all(is_parked(g) for g in gs))
        on_this_m = {g.m for g in gs} == {rt.current().m}
        ready.append(on_this_m)
        with unpreempted():
            for i in range(7):
                ch.send(i)
            release.wait(PATIENCE)  # blocks the M, undeclared
        for g in gs:
            g.result(PATIENCE)
        return on_this_m

    def outside():
        poll_until(lambda: ready)
        rt.go(int)  # work that waits: sysmon takes the P away
        if ready[0]:
            poll_until(
                lambda: (
                    value("/sched/goroutines/stranded:goroutines") >= 7
                    and value("/sched/threads/blocked:threads")
                    and value("/sched/handoffs:events")
                )
            )
            seen.append(metrics.read())
        release.set()

    # With too little CPU the M may lose its P to another before the seven have started.
    for _ in range(20):
        release.clear()
        ready.clear()
        thread = threading.Thread(target=outside)
        thread.start()
        on_one_m = rt.run(main, procs=1)
        thread.join(PATIENCE)
        if on_one_m:
            break
    assert seen, "never did all start on one M"
    assert seen[0]["/sched/goroutines/stranded:goroutines"] == 7
    assert seen[0]["/sched/threads/blocked:threads"] == 1
    assert seen[0]["/sched/retakes/undeclared:events"] >= 1


@parallel
def test_forced_steals_are_counted():
    """Each round the only G's that may run lie in a P whose M never parks: 100 must be stolen."""

    def main():
        def rounds():
            before = metrics.read()
            for _ in range(100):
                g = rt.go(int)
                spin_until(g.done)
            after = metrics.read()
            return {name: after[name] - before[name] for name in names}

        names = (
            "/sched/steals:events",
            "/sched/steals/goroutines:goroutines",
            "/sched/runqueue/global-takes:events",
        )
        with unpreempted():
            return rounds()

    got = rt.run(main, procs=2)
    assert got["/sched/steals:events"] == 100
    assert got["/sched/steals/goroutines:goroutines"] == 100


@parallel
def test_who_is_robbed_is_counted_where_it_is_robbed():
    def main():
        with unpreempted():
            for _ in range(10):
                spin_until(rt.go(int).done)
        return rt.stats()

    stats = rt.run(main, procs=2)
    robbed = sorted(p.robbed for p in stats.per_p)
    assert robbed == [0, 10] and stats.total("steals") == 10


@on_one_p
def test_late_timers_are_in_their_histogram():
    before = value("/sched/timers/fired:events")
    rt.go(rt.sleep, 0.01).result(PATIENCE)
    got = metrics.read()
    late = got["/sched/timers/lateness:seconds"]
    assert got["/sched/timers/fired:events"] > before
    assert late.total == got["/sched/timers/fired:events"]
    assert 0 < late.quantile(0.5) <= late.max <= late.sum


def test_preemptions_and_requests_are_counted():
    if rt.runtime.preemption_mechanism() == "none":
        pytest.skip("no preemption here")

    def main():
        stop: list[int] = []

        def hog():
            while not stop:
                pass

        def other():
            stop.append(1)

        gs = [rt.go(hog), rt.go(other)]
        for g in gs:
            g.result(PATIENCE)

    def both():
        got = metrics.read()
        return got["/sched/preempt-requests:events"], got["/sched/goroutines-preempted:events"]

    # `other` is run first (runnext): then hog ends at once. Start until one was preempted.
    def until_preempted():
        while both()[1] == 0:
            main()
        # A request is counted once it is made: the machine may stop sysmon in between, and the hog
        # is preempted and ends meanwhile.
        seen = []

        def counted():
            seen.append(both())
            return seen[-1][0] >= seen[-1][1]

        poll_until(counted)
        return seen[-1]

    requests, preempted = rt.run(until_preempted, procs=1)
    assert requests >= preempted >= 1


def test_counters_never_go_back_while_a_runtime_runs():
    counters = [m.name for m in metrics.all() if m.kind == "counter"]
    wrong: list[tuple] = []
    stop: list[int] = []

    def main():
        def body():
            while not stop:
                rt.sleep(0.0001)

        gs = [rt.go(body) for _ in range(8)]
        last = metrics.read(*counters)
        for _ in range(2000):
            now = metrics.read(*counters)
            wrong.extend((n, last[n], now[n]) for n in counters if now[n] < last[n])
            last = now
        stop.append(1)
        for g in gs:
            g.result(PATIENCE)

    rt.run(main, procs=2)
    assert not wrong


def test_reading_is_safe_while_runtimes_start_and_stop():
    over: list[int] = []

    def reader():
        while not over:
            metrics.read()
            rt.stats()
            _door.look_running()

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for t in threads:
        t.start()
    try:
        for _ in range(30):
            rt.run(lambda: [rt.go(int).result(PATIENCE) for _ in range(20)], procs=2)
    finally:
        over.append(1)
        for t in threads:
            t.join(PATIENCE)


def test_reading_does_not_depend_on_how_many_gs_there_are():
    """Structural, not by time: with 5,000 parked G's no slot of a G is looked at."""

    def main():
        ch = rt.Chan()
        gs = [rt.go(ch.recv) for _ in range(5000)]
        # stats() walks the slots; the metric takes who is just between two queues for waiting.
        waiting = "/sched/goroutines/waiting:goroutines"
        poll_until(lambda: rt.stats().waiting == value(waiting) == 5000)
        for i in range(5000):
            ch.send(i)
        for g in gs:
            g.result(PATIENCE)

    rt.run(main, procs=2)


# ---------------------------------------------------------------- histograms


def test_a_histogram_agrees_with_exact_values():
    rand = random.Random(1)
    values = sorted(int(10 ** rand.uniform(2, 10)) for _ in range(5000))
    counts = [0] * lib.gmpy_hist_buckets()
    for v in values:
        counts[lib.gmpy_hist_bucket(v)] += 1
    hist = metrics.Histogram(metrics._BOUNDS, tuple(counts), sum(values) / 1e9, max(values) / 1e9)
    assert hist.total == len(values)
    for q in (0.01, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = values[max(0, math.ceil(q * len(values)) - 1)] / 1e9
        assert exact <= hist.quantile(q) <= exact * 1.125 * (1 + 1e-9)
    for low in hist.buckets[100:300:7]:
        assert hist.count_from(low) == len(values) - bisect.bisect_left(values, low * 1e9 - 0.5)
    for a, b in zip(hist.buckets[8:], hist.buckets[9:], strict=False):
        assert b == math.inf or b - a <= a / 8 * (1 + 1e-9)
    assert len(hist.buckets) == len(hist.counts) + 1


def test_an_empty_histogram_has_no_quantile():
    assert value("/sched/latencies:seconds").quantile(0.99) == 0.0


# ---------------------------------------------------------------- Prometheus, OpenTelemetry


def test_the_text_format_has_every_metric():
    def main():
        for _ in range(50):
            rt.go(int).result(PATIENCE)
        return metrics_prometheus.text()

    text = rt.run(main, procs=1)
    assert text.count("# TYPE ") == text.count("# HELP ") == len(metrics.all())
    assert "\ngmpy_sched_gomaxprocs_threads 1\n" in text
    assert "\n# TYPE gmpy_sched_goroutines_created_goroutines_total counter\n" in text
    created = text.split("\ngmpy_sched_goroutines_created_goroutines_total ")[1].split("\n")[0]
    assert int(created) >= 51
    buckets = [
        int(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("gmpy_sched_latencies_seconds_bucket")
    ]
    assert buckets == sorted(buckets) and buckets[-1] >= 51


def test_a_snapshot_can_be_read_by_people():
    # With every bucket of every P's histogram it was 20,000 characters long.
    def main():
        for g in [rt.go(int) for _ in range(10)]:
            g.join()
        return repr(rt.stats()), repr(metrics.read("/sched/latencies:seconds"))

    for text in rt.run(main, procs=1):
        assert len(text) < 2000
        assert re.search(r"<Histogram: \d+ values, p50 [\d.e-]+ s, p99 [\d.e-]+ s>", text), text


def test_cumulative_buckets_are_exact():
    counts = [0] * lib.gmpy_hist_buckets()
    exact = {1000: 3, 1024: 5, 999_999: 7, 2**20: 2, 2**33: 1, 2**40: 4}
    for v, n in exact.items():
        counts[lib.gmpy_hist_bucket(v)] += n
    hist = metrics.Histogram(metrics._BOUNDS, tuple(counts), 1.0, 2.0)
    got = {label["le"]: n for s, label, n in metrics_prometheus._cumulative(hist) if label}
    for bound, n in got.items():
        # Prometheus' bound is inclusive, our buckets exclude theirs: nanoseconds apart.
        assert n == sum(k for v, k in exact.items() if v / 1e9 < float(bound)), bound


def test_the_text_is_what_prometheus_client_reads_and_its_collector_gives():
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry
    from prometheus_client.parser import text_string_to_metric_families

    registry = CollectorRegistry()
    registry.register(metrics.prometheus_collector())
    ours = {
        (s.name, tuple(s.labels.items())): s.value
        for f in text_string_to_metric_families(metrics_prometheus.text())
        for s in f.samples
    }
    theirs = {
        (s.name, tuple(s.labels.items())): s.value for f in registry.collect() for s in f.samples
    }
    assert ours == theirs and len(ours) > 80
    types = {f.name: f.type for f in registry.collect()}
    assert types["gmpy_sched_latencies_seconds"] == "histogram"
    assert types["gmpy_sched_goroutines_created_goroutines"] == "counter"


def test_opentelemetry_instruments_report_the_same_values():
    pytest.importorskip("opentelemetry.sdk.metrics")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    from gmpy_rt import metrics_otel

    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    instruments = metrics_otel.instrument(provider.get_meter("test"))

    def main():
        for _ in range(10):
            rt.go(int).result(PATIENCE)
        data = reader.get_metrics_data()
        return {
            m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics
        }

    try:
        got = rt.run(main, procs=1)
    finally:
        provider.shutdown()
    assert len(got) == len(instruments) >= len(metrics.all())
    assert got["gmpy.sched.gomaxprocs"].data.data_points[0].value == 1
    assert got["gmpy.sched.goroutines-created"].data.data_points[0].value >= 11
    latencies = got["gmpy.sched.latencies"]
    assert latencies.unit == "s"
    assert {p.attributes["quantile"] for p in latencies.data.data_points} == {0.5, 0.99, 1.0}


@pytest.mark.parametrize("package", ["prometheus_client", "opentelemetry"])
def test_a_missing_extra_is_named(package):
    call = (
        "metrics.prometheus_collector()"
        if package == "prometheus_client"
        else "metrics_otel.instrument(None)"
    )
    extra = "prometheus" if package == "prometheus_client" else "otel"
    done = run_script(
        f"""
        sys.modules["{package}"] = None
        from gmpy_rt import metrics, metrics_otel
        try:
            {call}
        except ImportError as exc:
            print(exc)
        """
    )
    assert f"pip install 'gmpy_rt[{extra}]'" in done.stdout


def test_a_share_that_cannot_be_is_refused():
    histogram = metrics.read("/sched/latencies:seconds")["/sched/latencies:seconds"]
    for kind in (histogram, rt.stats().per_p and rt.stats().per_p[0].latency):
        for q in (-0.1, 99, math.nan):
            if kind:
                with pytest.raises(ValueError, match="q="):
                    kind.quantile(q)
