"""What the core has counted, as samples of a profile, and as text for flame graphs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any

from ._profile_proto import Frame, Sample, decode

if TYPE_CHECKING:
    from . import _door

    # Buckets; samples that were dropped, and their value.
    Read = tuple[list[_door.Bucket], float, float]

_DELAY = (("contentions", "count"), ("delay", "nanoseconds"))
TYPES = {
    "cpu": (("samples", "count"), ("cpu", "nanoseconds")),
    "starvation": (("waiting", "count"), ("delay", "nanoseconds")),
    "block": _DELAY,
    "mutex": _DELAY,
    "goroutine": (("goroutine", "count"),),
}

# What a wait is good for. The idle ones are no blockage: somebody sleeps because it wants to, or
# nothing came in. Flame graphs of waits show little else if they aren't told apart.
CLASSES = {
    "sleep": "timer",
    "timers": "timer",
    "IO read": "netpoll",
    "IO write": "netpoll",
    "chan send": "channel",
    "chan receive": "channel",
    "select": "channel",
    "queue get": "channel",
    "queue put": "channel",
    "lock": "lock",
    "read lock": "lock",
    "write lock": "lock",
    "semaphore": "lock",
    "join": "sync",
    "wait group": "sync",
    "condition": "sync",
    "event": "sync",
    "barrier": "sync",
    "once": "sync",
    "task group": "sync",
    "blocking call": "sync",
    "park": "sync",
    "waiting": "sync",
}
IDLE = frozenset({"timer", "netpoll"})

# ---------------------------------------------------------------- from buckets to samples


def difference(now: Read, before: Read) -> Read:
    """What has come between two looks at the same table."""
    known = {(*bucket[:5], bucket[7]): bucket for bucket in before[0]}
    buckets = []
    for bucket in now[0]:
        state, name, g, m, p, count, value, frames = bucket
        old = known.get((state, name, g, m, p, frames))
        if old is not None:
            count, value = count - old[5], value - old[6]
        if count or value:
            buckets.append((state, name, g, m, p, count, value, frames))
    return buckets, now[1] - before[1], now[2] - before[2]


_NO_STACK = {
    "scheduler": "[scheduler]",
    "between samples": "[between samples]",
    "waking": "[an M wakes up]",
}


def samples(read: Read, kind: str) -> list[Sample]:
    """The samples of a profile of that kind.

    Buckets differ by offset and code object; samples with the same lines and labels are one.
    """
    merged: dict[Any, list[float]] = {}
    codes: dict[CodeType, tuple[str, str, int]] = {}
    for state, name, g, m, p, count, value, frames in read[0]:
        key = (_frames(state, frames, codes), *_labels(kind, state, name, g, m, p))
        total = merged.setdefault(key, [0.0, 0.0])
        total[0] += count
        total[1] += value
    if read[1]:
        dropped = (Frame("[dropped: too many different stacks]"),)
        merged[(dropped,)] = [read[1], read[2]]
    samples = []
    for (stack, *labels), (count, value) in merged.items():
        values = (round(count), round(value))[: len(TYPES[kind])]
        samples.append(Sample(values, stack, dict(labels)))
    return samples


def _labels(
    kind: str, state: str | None, name: Any, g: int, m: int, p: int
) -> list[tuple[str, str | int]]:
    labels: list[tuple[str, str | int]] = []
    if state is not None and kind != "cpu":
        labels.append(("state", state))
        if state in CLASSES:
            labels.append(("class", CLASSES[state]))
    if g:
        labels.append(("g", g))
    if name is not None:
        labels.append(("name", _name(name)))
    return labels + [(key, number) for key, number in (("m", m), ("p", p)) if number >= 0]


def _name(name: Any) -> str:
    if isinstance(name, CodeType):
        return name.co_qualname
    return name.__name__ if isinstance(name, type) else str(name)


def _frames(
    state: str | None,
    frames: Iterable[tuple[CodeType, int]],
    codes: dict[CodeType, tuple[str, str, int]],
) -> tuple[Frame, ...]:
    out: list[Frame] = []
    for code, line in frames:
        if "yield_point" in code.co_names:
            out.clear()  # what preempted it, and what that calls: see preempt.c
            continue
        where = codes.get(code)
        if where is None:
            name = f"{_module(code.co_filename)}.{code.co_qualname}"
            where = codes[code] = (name, code.co_filename, code.co_firstlineno)
        out.append(Frame(*where, max(line, 0)))
    return tuple(out) or (Frame(_NO_STACK.get(state or "", "[no Python stack]")),)


def _module(file: str) -> str:
    """app for /srv/app.py and for /srv/app/__init__.py: functions of one name are told apart."""
    folder, name = os.path.split(file)
    stem = name.removesuffix(".py")
    return os.path.basename(folder) or stem if stem == "__init__" else stem


# ---------------------------------------------------------------- flame graphs


def folded(profile: bytes, hide_idle: bool = False, value: int = -1) -> str:
    """A profile as lines 'outer;inner;[why] number', as flame graph tools read them.

    A wait ends in a frame of its own that says its class and reason, such as
    '[channel: chan receive]', '[timer: sleep]' or '[netpoll: IO read]'; another state in
    '[stranded]' and the like. hide_idle leaves timers and netpoll out. value: which of the
    profile's values (go tool pprof -sample_index), the last unless given. Raises ValueError if
    the bytes are no profile or have no such value.
    """
    decoded = decode(profile)
    if not -len(decoded.types) <= value < len(decoded.types):
        names = ", ".join(name for name, _ in decoded.types)
        raise ValueError(f"value={value}: the profile has {len(decoded.types)} values ({names})")
    lines: dict[str, int] = {}
    for sample in decoded.samples:
        state, kind = sample.labels.get("state"), sample.labels.get("class")
        if hide_idle and kind in IDLE:
            continue
        stack = [_clean(frame.function) for frame in reversed(sample.frames)]
        if kind is not None:
            stack.append(f"[{kind}: {state}]")
        elif state not in (None, "running", *_NO_STACK):
            stack.append(f"[{state}]")
        line = ";".join(stack)
        lines[line] = lines.get(line, 0) + sample.values[value]
    return "".join(f"{line} {number}\n" for line, number in sorted(lines.items()) if number)


def _clean(name: str) -> str:
    return name.replace(";", ":").replace("\n", " ")
