"""Watches the P's from a plain thread: who holds each, how many G's wait, who is stranded.

The thread needs no P, so it sees what happens while every P is starved; with a GIL it has to
wait for that like any thread, and what it didn't see is left out and not guessed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from gmpy_rt._core import ffi, lib

INTERVAL = 0.0015
# A longer pause between two looks is a hole in the timeline.
GAP_NS = 20_000_000
MAX_SEGMENTS = 3000
MAX_QUEUE_POINTS = 400
# How often a profile of all G's would be taken (the article's figure).
SNAPSHOT_NS = 100_000_000

RUNNING = 2


class Timeline:
    """start() and stop() it inside the runtime; then as_dict()."""

    def __init__(self) -> None:
        self.begin = self.end = time.monotonic_ns()
        self.snapshots: list[int] = []
        self.peaks = {"threads": 0, "stranded": 0, "blocked_threads": 0, "runnable": 0}
        self.looks = 0
        self._holes: list[list[float]] = []
        self._dropped = 0
        # [P, from, to, M]: that M held that P; in nanoseconds since begin.
        self._segments: list[list[int]] = []
        self._open: dict[int, list[int]] = {}
        self._queue: list[tuple[int, int, int, int]] = []
        self._calls: list[tuple[int, Callable[[], None]]] = []
        self._starting, self._stopping = threading.Event(), threading.Event()
        # Made outside the runtime: a thread made by a pinned M would share its CPU for good.
        self._thread = threading.Thread(target=self._watch, name="timeline", daemon=True)
        self._thread.start()

    def start(self) -> None:
        self.begin = time.monotonic_ns()
        self._starting.set()

    def at(self, when: int, fn: Callable[[], None]) -> None:
        """Have fn() called in the watching thread, once, at that time of monotonic_ns()."""
        self._calls.append((when, fn))

    def stop(self) -> None:
        """Blocks for one interval; before the runtime ends."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        p_stat, stat = ffi.new("gmpy_pstat *"), ffi.new("gmpy_stat *")
        self._starting.wait()
        last = self.begin
        while True:
            now = time.monotonic_ns()
            self._look(now, last, p_stat, stat)
            if self._stopping.is_set() and self.looks > 1:  # a segment has two ends
                break
            last = now
            time.sleep(INTERVAL)
        self.end = now
        for segment in self._open.values():
            self._keep(segment)

    def _look(self, now: int, last: int, p_stat: Any, stat: Any) -> None:
        self.looks += 1
        hole = now - last > GAP_NS
        at, seen = now - self.begin, last - self.begin
        if hole:
            self._holes.append([round(seen / 1e9, 4), round(at / 1e9, 4)])
        for i in range(lib.gmpy_p_count()):
            if lib.gmpy_p_stat(i, p_stat) < 0:
                continue
            m = p_stat.m if p_stat.status == RUNNING else -1
            segment = self._open.get(i)
            if segment is not None and segment[3] == m and not hole:
                segment[2] = at
                continue
            if segment is not None:
                segment[2] = seen if hole else at
                self._keep(segment)
            self._open[i] = [i, at, at, m]
        lib.gmpy_stat_read(stat, 1)
        for name in self.peaks:
            self.peaks[name] = max(self.peaks[name], getattr(stat, name))
        self._queue.append((at, stat.runnable, stat.stranded, stat.blocked_threads))
        if not self.snapshots or now - self.snapshots[-1] >= SNAPSHOT_NS:
            self.snapshots.append(now)
        for call in [c for c in self._calls if c[0] <= now]:
            self._calls.remove(call)
            call[1]()

    def _keep(self, segment: list[int]) -> None:
        if segment[3] < 0:
            return
        if len(self._segments) < MAX_SEGMENTS:
            self._segments.append(segment)
        else:
            self._dropped += 1

    def as_dict(self) -> dict[str, Any]:
        """segments: [P, from, to, M]; queue: [at, runnable, stranded, blocked M's]; seconds.

        looks; holes: [from, to] in which it got no CPU to look; dropped: segments beyond the
        most that are kept.
        """
        return {
            "seconds": (self.end - self.begin) / 1e9,
            "looks": self.looks,
            "holes": self._holes,
            "dropped": self._dropped,
            "segments": [
                [p, round(start / 1e9, 4), round(end / 1e9, 4), m]
                for p, start, end, m in sorted(self._segments)
            ],
            "queue": self._thinned(),
        }

    def _thinned(self) -> list[list[float]]:
        """At most so many points of the queue: of each stretch the one with the most waiting."""
        step = max(1, -(-len(self._queue) // MAX_QUEUE_POINTS))
        stretches = (self._queue[i : i + step] for i in range(0, len(self._queue), step))
        worst = (max(stretch, key=lambda point: point[1] + point[2]) for stretch in stretches)
        return [[round(at / 1e9, 4), *counts] for at, *counts in worst]
