"""Checks trace files against the published trace-event format, and, where they are ours,
against what a scheduler may do: see Checker.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

_Event = dict[str, Any]
_Track = tuple[Any, Any]

# Phases of the format: duration, complete, instant, counter, async, flow, object, metadata,
# memory dump, mark, clock sync, context.
_PHASES = frozenset("BEXiIPCbneSTpFstfNODMVvRc(),")
_METADATA = {
    "process_name": "name",
    "process_labels": "labels",
    "process_sort_index": "sort_index",
    "thread_name": "name",
    "thread_sort_index": "sort_index",
}
_SHOWN = 20
_ON_P, _ON_M = 1, 2  # our pids
_RUNNING = {"run", "resume", "before"}  # cat of a slice in which a G runs on a P
_INSTANTS = {
    "go": "created",
    "steal": "steals",
    "token": "tokens",
    "hand-off": "handoffs",
    "preempt request": "preempt_requests",
}


@dataclass
class Report:
    """What a file holds, and what is wrong with it."""

    events: int = 0
    slices: int = 0
    arrows: int = 0
    lost: int = 0
    counted: Counter[str] = field(default_factory=Counter)  # by the names of gmpy_rt.stats
    problems: list[str] = field(default_factory=list)  # the first so many
    wrong: int = 0

    def __str__(self) -> str:
        text = f"{self.events} events, {self.slices} slices, {self.arrows} arrows"
        if self.lost:
            text += f", {self.lost} lost"
        if not self.wrong:
            return f"{text}: ok"
        more = [f"... and {self.wrong - _SHOWN} more"] if self.wrong > _SHOWN else []
        return "\n".join([f"{text}: {self.wrong} problems", *self.problems, *more])


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Checker:
    """Takes events one by one, in the order of the file; then finish().

    For each: its phase is one of the format's, with the keys and types which that needs. For
    each track: time doesn't go back, begins and ends balance. Each arrow begins once, inside a
    slice, and ends once, not before. For traces of ours too: a G runs on one P at a time, a P
    runs one G and an M holds one P; a G stays on its M, which shows it as long as its P does;
    and the numbers of events agree with the runtime's counters.
    """

    def __init__(self) -> None:
        self.report = Report()
        self.last: dict[_Track, float] = {}
        self.stacks: dict[_Track, list[_Event]] = {}
        self.async_stacks: dict[tuple[Any, ...], list[str]] = {}
        self.begun: dict[Any, float] = {}  # arrows that haven't ended
        self.on_p: dict[int, Any] = {}  # G -> P
        self.holds: dict[int, Any] = {}  # M -> P
        self.home: dict[int, int] = {}  # G -> M
        self.per_phase: dict[str, Callable[[_Event, str], None]] = {
            "B": self.begins,
            "E": self.ends,
            "X": self.complete,
            "C": self.counter,
            "M": self.metadata,
            **dict.fromkeys("bne", self.asynchronous),
            **dict.fromkeys("stf", self.flow),
            **dict.fromkeys("iI", self.instant),
        }

    def wrong(self, what: str, event: object) -> None:
        self.report.wrong += 1
        if len(self.report.problems) < _SHOWN:
            number = self.report.events
            self.report.problems.append(f"event {number}: {what}: {json.dumps(event)[:200]}")

    # ------------------------------------------------------------ the format

    def event(self, event: object) -> None:
        self.report.events += 1
        if not isinstance(event, dict):
            return self.wrong("not an object", event)
        ph = event.get("ph")
        if not isinstance(ph, str) or ph not in _PHASES or len(ph) != 1:
            return self.wrong("ph is no phase of the format", event)
        if ph != "E" and not isinstance(event.get("name"), str):
            return self.wrong("name is not a string", event)
        if not isinstance(event.get("args", {}), dict):
            return self.wrong("args is not an object", event)
        if not isinstance(event.get("cat", ""), str):
            return self.wrong("cat is not a string", event)
        if not isinstance(event.get("pid"), int) or not isinstance(event.get("tid"), int):
            return self.wrong("pid or tid is not an integer", event)
        if ph != "M" and not (_number(event.get("ts")) and event["ts"] >= 0):
            return self.wrong("ts is not a number of microseconds", event)
        handle = self.per_phase.get(ph)
        if handle is not None:
            handle(event, ph)

    def in_order(self, event: _Event) -> _Track:
        track = (event["pid"], event["tid"])
        if event["ts"] < self.last.get(track, 0):
            self.wrong(f"time goes back on this track, from {self.last[track]}", event)
        self.last[track] = event["ts"]
        return track

    def begins(self, event: _Event, ph: str) -> None:
        track = self.in_order(event)
        self.stacks.setdefault(track, []).append(event)
        self.report.slices += 1
        self.ours_begins(event)

    def ends(self, event: _Event, ph: str) -> None:
        stack = self.stacks.get(self.in_order(event))
        if not stack:
            return self.wrong("ends what hasn't begun", event)
        begun = stack.pop()
        if "name" in event and event["name"] != begun["name"]:
            self.wrong(f"ends {begun['name']!r} under another name", event)
        self.ours_ends(begun, event)

    def complete(self, event: _Event, ph: str) -> None:
        self.in_order(event)
        self.report.slices += 1
        if not (_number(event.get("dur")) and event["dur"] >= 0):
            self.wrong("dur is not a number of microseconds", event)

    def instant(self, event: _Event, ph: str) -> None:
        self.in_order(event)
        if event.get("s", "t") not in ("g", "p", "t"):
            self.wrong("s is none of g, p, t", event)
        if event["name"] in _INSTANTS and event.get("cat") in ("go", "sched"):
            self.report.counted[_INSTANTS[event["name"]]] += 1

    def counter(self, event: _Event, ph: str) -> None:
        args = event.get("args")
        if not args or not all(_number(value) for value in args.values()):
            self.wrong("a counter's args are numbers", event)

    def metadata(self, event: _Event, ph: str) -> None:
        key = _METADATA.get(event["name"])
        if key is not None and key not in event.get("args", {}):
            self.wrong(f"args has no {key}", event)

    def asynchronous(self, event: _Event, ph: str) -> None:
        if not isinstance(event.get("id"), int | str) or "cat" not in event:
            return self.wrong("needs id and cat", event)
        stack = self.async_stacks.setdefault((event["pid"], event["cat"], event["id"]), [])
        if ph == "b":
            stack.append(event["name"])
        elif ph == "e" and (event["name"] not in stack):
            self.wrong("ends what hasn't begun", event)
        elif ph == "e":
            stack.remove(event["name"])

    def flow(self, event: _Event, ph: str) -> None:
        which = event.get("id")
        if not isinstance(which, int | str):
            return self.wrong("an arrow needs an id", event)
        if not self.stacks.get((event["pid"], event["tid"])):
            self.wrong("an arrow begins and ends in a slice", event)
        if ph == "s":
            if which in self.begun:
                self.wrong("this arrow has begun already", event)
            self.begun[which] = event["ts"]
        elif which not in self.begun:
            self.wrong("this arrow hasn't begun", event)
        else:
            if event["ts"] < self.begun[which]:
                self.wrong("an arrow goes back in time", event)
            if ph == "f":
                del self.begun[which]
                self.report.arrows += 1

    # ------------------------------------------------------------ what a scheduler may do

    def ours_begins(self, event: _Event) -> None:
        pid, p, cat, args = event["pid"], event["tid"], event.get("cat"), event.get("args", {})
        if pid != _ON_P:
            return
        depth = len(self.stacks[pid, p])
        if cat == "hold":
            if depth != 1:
                self.wrong("two M's hold this P", event)
            if args["m"] in self.holds:
                self.wrong(f"this M holds P{self.holds[args['m']]} as well", event)
            self.holds[args["m"]] = p
        elif cat in _RUNNING:
            g, below = args["g"], self.stacks[pid, p][-2] if depth > 1 else None
            if below is None or below.get("cat") != "hold":
                return self.wrong("a P runs a G while its M holds it, and one at a time", event)
            if g in self.on_p:
                self.wrong(f"this G runs on P{self.on_p[g]} as well", event)
            self.on_p[g] = p
            m = below["args"]["m"]
            if self.home.setdefault(g, m) != m:
                self.wrong(f"a started G stays on its M, M{self.home[g]}", event)
            self.report.counted["schedtick"] += cat == "run"

    def ours_ends(self, begun: _Event, event: _Event) -> None:
        if begun["pid"] != _ON_P:
            return
        cat, args = begun.get("cat"), begun.get("args", {})
        if cat == "hold":
            self.holds.pop(args["m"], None)
        elif cat in _RUNNING:
            g = args["g"]
            self.on_p.pop(g, None)
            shown = self.stacks.get((_ON_M, self.home.get(g)), [])
            if not any(s.get("cat") == "g" and s["args"]["g"] == g for s in shown):
                self.wrong(f"M{self.home.get(g)} doesn't show that it runs this G", begun)
            why = event.get("args", {}).get("end")
            self.report.counted["ended"] += why == "end"
            self.report.counted["preemptions"] += why == "preempted"

    def counts(self, other: dict[str, Any]) -> None:
        self.report.lost = other.get("lost", 0)
        if self.report.lost or not other.get("exact"):
            return  # then they may differ
        for name, (least, most) in other.get("counters", {}).items():
            n = self.report.counted[name]
            if not least <= n <= most:
                self.wrong(f"{n} events, but the counter says {least} to {most}", name)

    # ------------------------------------------------------------ all of it

    def finish(self, other: dict[str, Any]) -> Report:
        for stack in self.stacks.values():
            for event in stack:
                self.wrong("begins and doesn't end", event)
        for key, names in self.async_stacks.items():
            for name in names:
                self.wrong(f"begins and doesn't end, id {key[2]}", name)
        for which in self.begun:
            self.wrong("an arrow begins and doesn't end", which)
        if other.get("source") == "gmpy_rt":
            self.counts(other)
        return self.report


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _ours(file: IO[str], other: dict[str, Any]) -> Iterator[object]:
    """Our own files have an event per line: no need to hold them all."""
    for line in file:
        if line.startswith("]"):
            other.update(json.loads("{" + line[2:])["otherData"])
            return
        yield json.loads(line.rstrip(",\n"))
    raise ValueError("the file ends before its events do")


def check(path: Path) -> Report:
    """Read a trace file and say what is wrong with it.

    Raises OSError if it can't be read, ValueError if it isn't JSON or no trace at all.
    """
    checker, other = Checker(), dict[str, Any]()
    with path.open("rb") as raw:
        if raw.read(3) == b"go ":
            raise ValueError("it is one for `go tool trace`, which checks what it reads")
    with _open(path) as file:
        if file.readline() == '{"displayTimeUnit":"ns","traceEvents":[\n':
            for event in _ours(file, other):
                checker.event(event)
            return checker.finish(other)
    with _open(path) as file:
        whole = json.load(file)
    events = whole.get("traceEvents") if isinstance(whole, dict) else whole
    if not isinstance(events, list):
        raise ValueError("neither a list of events nor an object with traceEvents")
    if isinstance(whole, dict):
        other.update(whole.get("otherData", {}))
    for event in events:
        checker.event(event)
    return checker.finish(other)
