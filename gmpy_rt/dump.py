"""Stacks of every G, for people; who waits for whom.

As Go's goroutine dump:

    G 12 'G-12' [chan receive, 3.2 s, m=1]:
      File "app.py", line 7, in worker
        item = jobs.recv()
      created by main at app.py:15
"""

from __future__ import annotations

import linecache
import signal
import sys
from collections.abc import Iterator
from types import CodeType
from typing import IO, Any

from . import _door
from . import _load as _load
from ._door import G, Lock, RLock
from ._stack import places, places_from

_SHOWN = 1000  # G's; a deadlock of a million would make a message of gigabytes

_Look = tuple[G[Any], Any, list[tuple[CodeType, int]]]


def stacks(*, frames: bool = True) -> str:
    """Every G that hasn't ended: state, how long it waits, its M, stack, and who made it.

    On a free-threaded build the other threads stand still meanwhile, for a few microseconds
    per G. frames=False leaves the stacks out. Above 1,000 G's the rest is only counted.
    """
    looks: list[_Look] = sorted(_door.look(2**32 - 1), key=lambda look: look[0].id)
    parts = [_one(look, frames) for look in looks[:_SHOWN]]
    if len(looks) > _SHOWN:
        parts.append(f"... and {len(looks) - _SHOWN} more")
    chains = list(_chains(looks))
    return "\n".join(chains + [""] * bool(chains) + parts)


def dump(file: IO[str] | None = None) -> None:
    """Print stacks() to file, stderr unless given."""
    print(stacks(), file=file or sys.stderr, flush=True)


def dump_on_signal(signum: int = signal.SIGQUIT) -> None:
    """From now on, signum (Ctrl-\\ unless given) prints a dump to stderr, as in Go.

    The program goes on, unlike Go's. Call it in the main thread, or in a G while run() waits
    there; raises RuntimeError otherwise.
    """
    from .runtime import in_main_thread

    in_main_thread(lambda: signal.signal(signum, lambda signum, frame: dump()))


def _one(look: _Look, frames: bool) -> str:
    g, waits_for, stack = look
    what = [g.state]
    if g.waiting:
        what.append(f"{g.waiting:.1f} s")
    if g.m is not None:
        what.append(f"m={g.m}")
    line = f"G {g.id} {g.name!r} [{', '.join(what)}]"
    if waits_for is not None:
        line += f" for {_thing(waits_for)}"
    lines = [line]
    if frames:
        lines[0] += ":"
        lines += _frames(g, stack)
    if g.created is not None:
        path, number, function = g.created
        lines.append(f"  created by {function} at {path}:{number}")
    return "\n".join(lines)


def _frames(g: G[Any], stack: list[tuple[CodeType, int]]) -> Iterator[str]:
    # Innermost first; shown as a traceback is, outermost first.
    for file, number, function in reversed(places(stack) or places_from(g._frame)):
        yield f'  File "{file}", line {number}, in {function}'
        text = linecache.getline(file, number).strip()
        if text:
            yield f"    {text}"


# ---------------------------------------------------------------- who waits for whom


def _thing(waits_for: Any) -> str:
    if isinstance(waits_for, G):
        return f"the end of G {waits_for.id}"
    if waits_for.owner is not None:
        return f"{type(waits_for).__name__} {id(waits_for):#x} held by G {waits_for.owner}"
    return f"{type(waits_for).__name__} {id(waits_for):#x}"


def _chains(looks: list[_Look]) -> Iterator[str]:
    """One line per circle of G's that wait for each other, and per lock that nobody can free."""
    waits = {look[0].id: look[1] for look in looks}
    target: dict[int, int] = {}
    for number, what in waits.items():
        is_lock = isinstance(what, Lock | RLock)
        who = what.owner if is_lock else what.id if isinstance(what, G) else None
        if who is not None:
            target[number] = who
    seen: set[int] = set()
    for start in target:
        path: list[int] = []
        at: int | None = start
        while at is not None and at not in seen:
            seen.add(at)
            path.append(at)
            at = target.get(at)
        if at in path:
            circle = path[path.index(at) :]
            steps = [f"waits for {_thing(waits[number])}" for number in circle]
            yield f"deadlock: G {circle[0]} " + ", which ".join(steps)
        elif at is None and path and path[-1] not in waits and len(path) > 1:
            held = _thing(waits[path[-2]])
            if isinstance(waits[path[-2]], Lock | RLock):
                yield f"G {path[-2]} waits for {held}, which ended without releasing it"


__all__ = ["dump", "dump_on_signal", "stacks"]
