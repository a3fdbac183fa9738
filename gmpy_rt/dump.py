"""Stacks of every G, for people."""

from __future__ import annotations

from . import _door


def stacks() -> str:
    """Every G that hasn't ended: state, how long it waits."""
    lines = []
    for g in sorted(_door.all_g(), key=lambda g: g.id):
        waiting = g.waiting
        since = f", {waiting:.1f} s" if waiting else ""
        where = f", m={g.m}" if g.m is not None else ""
        lines.append(f"G {g.id} {g.name!r} [{g.state}{since}{where}]")
    return "\n".join(lines)
