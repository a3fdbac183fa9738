"""One known situation, all instruments at once: metrics, trace, profile and live page agree."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from browser import EXECUTABLE, Browser
from support import (
    PATIENCE,
    handoffs,
    is_parked,
    parallel,
    poll_until,
    sees_blocking,
    spin_until,
    undisturbed,
    unpreempted,
)
from test_debug import Stream
from test_pprof import in_function
from test_trace import M, P, trace_of

import gmpy_rt as rt
from gmpy_rt import debug, metrics, pprof, trace
from gmpy_rt._profile_proto import decode

pytestmark = pytest.mark.deadline(120)


class Page:
    """The live page: what its server sends, and in a browser (if there is one) what people read."""

    def __init__(self, stack: ExitStack) -> None:
        self._server = stack.enter_context(debug.serve("127.0.0.1:0"))
        self.browser = stack.enter_context(Browser()) if EXECUTABLE else None
        if self.browser is not None:
            self.browser.open(self._server.url + "/debug/gmp")
            self.browser.wait_for("document.body && document.body.dataset.events >= 1")

    def event(self, ready: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        with closing(Stream(self._server)) as stream:
            return stream.until(ready)

    def shows(self, selector: str, text: str, when: str = "true") -> None:
        """Waits until what it says there includes text; that and `when` are JavaScript."""
        if self.browser is not None:
            said = f"document.querySelector({selector!r}).innerText"
            self.browser.wait_for(f"{when} && {said}.includes({text})", PATIENCE)
            assert self.browser.complaints == []


@pytest.fixture
def page() -> Iterator[Page]:
    with ExitStack() as stack:
        yield Page(stack)


def latencies() -> metrics.Histogram:
    found = metrics.read("/sched/latencies:seconds")["/sched/latencies:seconds"]
    assert isinstance(found, metrics.Histogram)
    return found


def test_a_g_kept_runnable_for_50_ms(page: Page, tmp_path: Path) -> None:
    """On the only P, by code that isn't preempted: nobody can run the other G before. With too
    little CPU main itself, once it is woken, may wait for so long."""
    out: dict[str, Any] = {}

    def marked(mark: str) -> metrics.Histogram:
        with unpreempted():
            trace.log("test", mark)
            return latencies()

    def hog() -> rt.G[int] | None:
        start = time.monotonic()
        pprof.start_starvation(1000)
        profile = pprof._running["starvation"].profile
        out["before"] = marked("before")
        with unpreempted():
            before = handoffs()
            late = rt.go(int)
            made = time.monotonic()
            spin_until(lambda: time.monotonic() - made >= 0.05 and profile.pauses()[0] >= 3)
            out["least"] = time.monotonic() - made
            out["profile"] = pprof.stop_starvation()
            # With too little CPU this M may seem to block while its stack is read, and lose its P:
            # another one runs it.
            disturbed = handoffs() != before
        late.result(PATIENCE)
        out["most"] = time.monotonic() - start
        return None if disturbed else late

    def main() -> int:
        late = undisturbed(hog)
        out["after"] = marked("after")
        out["event"] = rt.blocking(page.event, lambda e: e["latency"]["max"] >= out["least"])
        longest = "'at most ' + seconds(last.latency.max)"
        rt.blocking(page.shows, "#tiles", longest, f"last.latency.max >= {out['least']}")
        return late.id

    seen = trace_of(tmp_path / "trace.json", main, procs=1)
    least, most = out["least"], out["most"]
    assert 0.05 <= least <= most

    low = least * (1 - 1 / 8)  # its bucket begins at most so much below
    before, after = out["before"], out["after"]
    begin, end = seen.named("before")[-1], seen.named("after")[0]
    runs = [s for s in seen.slices if s["pid"] == P and s["cat"] == "run"]
    runs = [r for r in runs if begin["ts"] < r["ts"] < end["ts"]]
    # The trace looks at the clock a moment after the histogram did.
    long = [r for r in runs if r["args"]["waited_us"] >= low * 1e6]
    assert 1 <= after.count_from(low) - before.count_from(low) <= len(long)
    assert seen.result in [r["args"]["g"] for r in long]
    assert least <= after.max <= most or before.max > least

    run = seen.first_run(seen.result)
    assert least * 1e6 - 2 <= run["args"]["waited_us"] <= most * 1e6 + 2

    assert least <= in_function(out["profile"], "hog", state="running") / 1e9 <= most

    # The page's bars are powers of two of nanoseconds, the first one below 512.
    bar = int(least * 1e9).bit_length() - 9
    assert sum(out["event"]["latency"]["all"][bar:]) >= 1


@sees_blocking
def test_seven_gs_stranded_behind_one_m(page: Page, tmp_path: Path) -> None:
    release, blocked = threading.Event(), threading.Event()
    out: dict[str, Any] = {}
    ids: list[int] = []

    def culprit() -> bool:
        blocked.set()
        return release.wait(4 * PATIENCE)  # blocks the M, undeclared

    def attempt() -> bool:
        event = rt.Event()
        seven = [rt.go(event.wait) for _ in range(7)]
        poll_until(lambda: all(map(is_parked, seven)))
        with unpreempted():
            event.set()  # they can run now, but only on this M
            # Some may have started elsewhere, where there is too little CPU: not stranded.
            if any(g.m != rt.current().m for g in seven):
                return False
            ids.extend(g.id for g in seven)
            return culprit()

    def main() -> int:
        while not rt.go(attempt).result(4 * PATIENCE):
            pass
        return rt.current().id

    def outside() -> None:
        try:
            blocked.wait(PATIENCE)
            rt.go(int)  # work that waits: sysmon takes the P away
            poll_until(lambda: rt.stats().stranded >= 7)
            out["metrics"] = metrics.read()
            start = time.monotonic()
            out["starvation"] = pprof.starvation(0.3, hz=200)
            out["seconds"] = time.monotonic() - start
            out["goroutine"] = pprof.goroutine()
            out["event"] = page.event(lambda e: any(a["doing"] == "blocked" for a in e["away"]))
            page.shows("#tiles", repr("stranded\n7\n"))
            page.shows("#away", repr("culprit"))
        finally:
            release.set()

    thread = threading.Thread(target=outside)
    thread.start()
    seen = trace_of(tmp_path / "trace.json", main, procs=1)
    thread.join(PATIENCE)

    assert out["metrics"]["/sched/goroutines/stranded:goroutines"] == 7
    assert out["metrics"]["/sched/threads/blocked:threads"] == 1

    stays = [s for s in seen.slices if s["name"] == "blocked" and s["pid"] == M]
    # As it ends, its own end has made main runnable, too.
    assert any(set(s["at_end"]["stranded_g"]) - {seen.result} == set(ids) for s in stays)
    assert 7 in {e["args"]["stranded"] for e in seen.named("stranded", "C")}

    stranded = [s for s in decode(out["goroutine"]).samples if s.labels["state"] == "stranded"]
    assert sum(s.values[0] for s in stranded) == 7
    charged = in_function(out["starvation"], "culprit", state="blocked") / 1e9
    assert 7 * 0.3 <= charged <= 7 * out["seconds"]

    away = next(a for a in out["event"]["away"] if a["doing"] == "blocked")
    assert away["bound"] == 7 and any("culprit" in at for at in away["stack"])
    assert out["event"]["values"]["/sched/goroutines/stranded:goroutines"] == 7


@parallel
def test_a_hundred_steals(page: Page, tmp_path: Path) -> None:
    """Each round the only G that may run lies in a P whose M never parks. A profile has no
    events; it shows who ran what was stolen: another M, on the other P."""
    name = "/sched/steals:events"
    out: dict[str, Any] = {}
    steals: list[int] = []  # in each round without a hand-off

    def stolen() -> None:
        end = time.thread_time() + 0.003
        while time.thread_time() < end:
            pass

    def rounds() -> None:
        """The profile stops the world for each sample. Where the machine then lets main's thread
        wait for a CPU for a millisecond, before it has attached again, its M looks blocked: the P
        is handed off, and the G runs there, not stolen. Such rounds come on top."""
        with unpreempted():
            first = metrics.read(name)[name]
            trace.log("test", "rounds begin")
            for _ in range(1000):
                handed_off, before = handoffs(), metrics.read(name)[name]
                spin_until(rt.go(stolen).done)
                after = metrics.read(name)[name]
                if handoffs() == handed_off:
                    steals.append(after - before)
                if len(steals) == 100:
                    break
            trace.log("test", "rounds end")
            out["steals"] = metrics.read(name)[name] - first

    def main() -> int | None:
        pprof.start_cpu(1000)
        rounds()
        out["cpu"] = pprof.stop_cpu()
        so_many = metrics.read(name)[name]
        event = rt.blocking(page.event, lambda e: e["values"][name] >= so_many)
        out["event"], out["so many"] = event["values"][name], so_many
        rt.blocking(page.shows, "#counters", repr(f"steals\n{so_many}\n"))
        return rt.current().m

    seen = trace_of(tmp_path / "trace.json", main, procs=2)
    assert steals == [1] * 100

    (begin,), (end,) = seen.named("rounds begin"), seen.named("rounds end")
    assert sum(begin["ts"] < e["ts"] < end["ts"] for e in seen.named("steal")) == out["steals"]

    # 0.3 s, whether a sample hit them or they came and went between two.
    samples = decode(out["cpu"]).samples
    assert sum(s.values[-1] for s in samples if s.labels.get("m") != seen.result) >= 0.25e9
    assert in_function(out["cpu"], "stolen", m=seen.result) == 0

    assert out["event"] == out["so many"]
