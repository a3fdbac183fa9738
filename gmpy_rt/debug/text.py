"""What the debug server shows as text."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from types import CodeType

from .. import _door, schedtrace
from ..dump import _line

Place = tuple[str, int, str]  # file, line, function


def places(stack: list[tuple[CodeType, int]]) -> tuple[Place, ...]:
    """Innermost first, from what _door.look() notes."""
    return tuple(
        (code.co_filename, _line(code, offset) or 0, code.co_qualname) for code, offset in stack
    )


def places_of_thread(ident: int) -> tuple[Place, ...]:
    """Of a thread that runs now; for builds with the GIL."""
    frame = sys._current_frames().get(ident)
    found = []
    while frame is not None:
        code = frame.f_code
        found.append((code.co_filename, frame.f_lineno or 0, code.co_qualname))
        frame = frame.f_back
    return tuple(found)


def goroutines() -> str:
    """Every G's stack, equal ones merged, most frequent first."""
    merged: Counter[tuple[str, tuple[Place, ...]]] = Counter()
    for g, _, stack in _door.look(2**32 - 1):
        merged[g.state, places(stack) or _frames_of(g)] += 1
    lines = [f"goroutine profile: total {merged.total()}"]
    for (state, where), count in merged.most_common():
        lines.append(f"{count} @ {state}")
        lines += [f"#\t{function}\t{file}:{line}" for file, line, function in where]
        lines.append("")
    return "\n".join(lines) + "\n"


def _frames_of(g: _door.G[object]) -> tuple[Place, ...]:
    """With the GIL, look() has no stacks; parked G's know their frame."""
    frame, found = g._frame, []
    while frame is not None:
        code = frame.f_code
        found.append((code.co_filename, frame.f_lineno or 0, code.co_qualname))
        frame = frame.f_back
    return tuple(found)


def threads() -> str:
    """A line per M: what it does, what it runs, what waits for it."""

    def lines() -> Iterator[str]:
        ms = schedtrace.read_ms()
        yield f"threadcreate profile: total {len(ms)}"
        for m in ms:
            g = f"G {m.g} for {m.run_seconds:.3f} s" if m.g >= 0 else "nothing"
            yield (
                f"M {m.id}\t{m.doing}\truns {g}\t"
                f"{m.bound} runnable and {m.pinned} live G's are pinned to it"
            )

    return "\n".join(lines()) + "\n"
