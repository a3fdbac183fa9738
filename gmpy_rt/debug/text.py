"""What the debug server shows as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .. import _door, schedtrace
from .._stack import Place, places, places_from


def goroutines() -> str:
    """Every G's stack, equal ones merged, most frequent first."""
    merged: Counter[tuple[str, tuple[Place, ...]]] = Counter()
    for g, _, stack in _door.look(2**32 - 1):
        merged[g.state, places(stack) or places_from(g._frame)] += 1
    lines = [f"goroutine profile: total {merged.total()}"]
    for (state, where), count in merged.most_common():
        lines.append(f"{count} @ {state}")
        lines += [f"#\t{function}\t{file}:{line}" for file, line, function in where]
        lines.append("")
    return "\n".join(lines) + "\n"


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
