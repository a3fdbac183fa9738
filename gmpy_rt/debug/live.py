"""What the live page shows: samples of the scheduler, gathered while somebody looks.

One thread samples for all readers: the P's every 25 ms, from plain numbers of the core; and
five times a second an event for the page. Only if some G has run for 10 ms without giving
way by itself, or an M blocks, it also looks where: that stops the world for some 10 us (with
the GIL it reads the frames instead). How many G's are alive doesn't matter.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from .. import _door, metrics, schedtrace
from .._stack import Place, places, places_of_thread

SAMPLE = 0.025  # seconds
SAMPLES_PER_EVENT = 8
HOG_AFTER = 0.010  # seconds without giving way by itself: sysmon's time slice
REMEMBERED = 1.5  # seconds that a hog is shown after it was last seen running
_AWAY = ("syscall", "blocking", "blocked")  # what an M does in a call that blocks


class Sampler:
    """Hands the same events to every reader. Its thread lives while there are readers."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._closed = False
        self._number = 0
        self._event = b""
        self._thread: threading.Thread | None = None

    def events(self) -> Iterator[bytes]:
        """JSON texts as they come; one that a slow reader missed is left out. Until close()."""
        with self._changed:
            if self._closed:
                return
            self._readers += 1
            number = self._number
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._sample, name="gmpy-debug-sampler", daemon=True
                )
                self._thread.start()
        try:
            while True:
                with self._changed:
                    while self._number == number and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        return
                    number, event = self._number, self._event
                yield event
        finally:
            with self._changed:
                self._readers -= 1

    def close(self, timeout: float) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _sample(self) -> None:
        view = View()
        due = time.monotonic()
        while True:
            for _ in range(SAMPLES_PER_EVENT):
                due = max(due + SAMPLE, time.monotonic())
                time.sleep(max(due - time.monotonic(), 0))
                view.sample()
            event = json.dumps(view.event(), separators=(",", ":")).encode()
            with self._changed:
                if self._closed or not self._readers:
                    self._thread = None
                    return
                self._number += 1
                self._event = event
                self._changed.notify_all()


class View:
    """The scheduler from one moment to the next: what changed since the last look."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._idle: dict[int, int] = {}
        self._robbed: dict[int, int] = {}
        self._cells: list[Any] = []
        self._values: dict[str, Any] = {}
        self._event_at = 0.0
        self._hogs: dict[int, tuple[float, dict[str, Any]]] = {}  # by G: when seen, what
        self._away: set[tuple[int, int]] = set()  # M's and G's that blocked at the last event

    def sample(self) -> None:
        """Adds a column of the timeline: for each P, busy share, state of its M, robbed."""
        now = time.monotonic()
        passed = max(now - self._at, 1e-6)
        doing = {m.p: m.doing for m in schedtrace.read_ms() if m.p >= 0}
        column = []
        for p in schedtrace.read_ps():
            robbed = p.counter[_ROBBED]
            idle = (p.idle_ns - self._idle.get(p.id, p.idle_ns)) / 1e9
            busy = 0 if p.status == 0 else round(100 * min(max(1 - idle / passed, 0), 1))
            column.append(
                [
                    busy,
                    int(doing.get(p.id) in _AWAY),
                    int(robbed > self._robbed.get(p.id, robbed)),
                    int(p.status == 0),
                ]
            )
            self._idle[p.id], self._robbed[p.id] = p.idle_ns, robbed
        self._cells.append([round(now * 1000), column])
        self._at = now

    def event(self) -> dict[str, Any]:
        """What the page gets: the columns since the last event, and how everything stands."""
        now = time.monotonic()
        values = metrics.read()
        passed = now - self._event_at if self._event_at else 0.0
        latencies = values["/sched/latencies:seconds"]
        before = self._values.get("/sched/latencies:seconds")
        assert isinstance(latencies, metrics.Histogram)
        ms = schedtrace.read_ms()
        event = {
            "pid": os.getpid(),
            "python": platform.python_version() + ("t" if _FREE_THREADED else ""),
            "gil": not _FREE_THREADED,
            "cells": self._cells,
            "queues": [p.runq for p in schedtrace.read_ps()],
            "global": values["/sched/runqueue/global:entries"],
            "bound": [[m.id, m.bound] for m in ms if m.bound],
            "latency": _latency(latencies, before),
            "values": {
                name: value
                for name, value in values.items()
                if not isinstance(value, metrics.Histogram)
            },
            "rates": self._rates(values, passed),
            **self._who(ms, now),
        }
        self._cells = []
        self._values, self._event_at = values, now
        return event

    def _who(self, ms: list[schedtrace.MState], now: float) -> dict[str, list[dict[str, Any]]]:
        """The G's that have run longest without giving way by themselves, and the M's that
        block, with places. Hogs that share a P are seen in turns: each is shown for a while."""
        hogs = [m for m in ms if m.run_seconds >= HOG_AFTER and m.doing == "running"]
        # A thread that runs is seen detached for moments: 'blocking' counts when seen twice.
        away = [
            m
            for m in ms
            if m.run_seconds >= HOG_AFTER
            and m.doing in _AWAY
            and (m.doing != "blocking" or (m.id, m.g) in self._away)
        ]
        self._away = {(m.id, m.g) for m in ms if m.doing in _AWAY}
        away.sort(key=lambda m: (-m.bound, -m.run_seconds))
        where = _where() if hogs or away else {}
        self._hogs |= {m.g: (now, _one(m, where)) for m in hogs}
        self._hogs = {g: seen for g, seen in self._hogs.items() if now - seen[0] < REMEMBERED}
        shown = sorted((hog for _, hog in self._hogs.values()), key=lambda hog: -hog["seconds"])
        return {"hogs": shown[:10], "away": [_one(m, where) for m in away[:20]]}

    def _rates(self, values: dict[str, Any], passed: float) -> dict[str, float]:
        """Per second; a counter that fell began anew with a new runtime."""
        if not passed:
            return {}
        return {
            m.name: round(max(values[m.name] - self._values.get(m.name, 0), 0) / passed, 3)
            for m in metrics.all()
            if m.kind == "counter"
        }


def _latency(now: metrics.Histogram, before: metrics.Histogram | None) -> dict[str, Any]:
    """The histogram by powers of two (exact: they are bounds of the finer buckets), of all
    and of what came since the last event."""
    if before is None or before.total > now.total:
        fresh = now
    else:
        counts = tuple(a - b for a, b in zip(now.counts, before.counts, strict=True))
        fresh = metrics.Histogram(now.buckets, counts, 0.0, now.max)
    return {
        "all": _by_powers(now),
        "new": _by_powers(fresh),
        "p50": now.quantile(0.5),
        "p99": now.quantile(0.99),
        "max": now.max,
        "total": now.total,
    }


_POWERS = range(8, 36)  # 256 ns to 34 s; what lies outside is in the first or the last


def _by_powers(hist: metrics.Histogram) -> list[int]:
    sums = [0] * len(_POWERS)
    for bucket, count in enumerate(hist.counts):
        if count:
            power = bucket // 8 + 2 if bucket >= 8 else bucket.bit_length()
            sums[min(max(power - _POWERS[0], 0), len(sums) - 1)] += count
    return sums


def _where() -> dict[int, tuple[str, tuple[Place, ...]]]:
    """For the G of each M, by its id: its name and its stack."""
    return {
        g.id: (g.name, places(stack) or places_of_thread(ident))
        for _, g, ident, stack in _door.look_running()
    }


def _one(m: schedtrace.MState, where: dict[int, tuple[str, tuple[Place, ...]]]) -> dict[str, Any]:
    name, stack = where.get(m.g, ("", ()))  # not there: it has ended or parked meanwhile
    return {
        "m": m.id,
        "p": m.p,
        "g": m.g,
        "name": name,
        "doing": m.doing,
        "seconds": m.run_seconds,
        "bound": m.bound,
        "stack": [f"{file}:{line} {function}" for file, line, function in stack[:12]],
    }


_FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
_ROBBED = schedtrace._COUNTERS.index("robbed")
