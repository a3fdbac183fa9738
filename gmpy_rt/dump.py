"""Stacks of every G, for people."""

from __future__ import annotations

import traceback
from typing import Any

from . import _door

_SHOWN = 1000  # G's; a deadlock of a million would make a message of gigabytes


def stacks(*, frames: bool = False) -> str:
    """Every G that hasn't ended: state, how long it waits, and with frames=True where.

    frames walks the stacks of parked G's, which is only safe while nothing can wake them.
    """
    gs = sorted(_door.all_g(), key=lambda g: g.id)
    parts = [_one(g, frames) for g in gs[:_SHOWN]]
    if len(gs) > _SHOWN:
        parts.append(f"... and {len(gs) - _SHOWN} more")
    return "\n".join(parts)


def _one(g: Any, frames: bool) -> str:
    waiting = g.waiting
    since = f", {waiting:.1f} s" if waiting else ""
    where = f", m={g.m}" if g.m is not None else ""
    line = f"G {g.id} {g.name!r} [{g.state}{since}{where}]"
    frame = g._frame if frames else None
    if frame is None:
        return line
    return line + "\n" + "".join(traceback.format_stack(frame)).rstrip()
