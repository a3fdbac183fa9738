"""Stacks as places: from what the core notes of another thread, or from frames of this one."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import NamedTuple


class Place(NamedTuple):
    file: str
    line: int
    function: str


def places(noted: list[tuple[CodeType, int]]) -> tuple[Place, ...]:
    """Innermost first, from codes and offsets in them, as _door.look() notes them."""
    return tuple(
        Place(code.co_filename, _line(code, offset), code.co_qualname) for code, offset in noted
    )


def places_from(frame: FrameType | None) -> tuple[Place, ...]:
    """Innermost first, from that frame outwards: for builds with the GIL, which note none."""
    found = []
    while frame is not None:
        code = frame.f_code
        found.append(Place(code.co_filename, frame.f_lineno or 0, code.co_qualname))
        frame = frame.f_back
    return tuple(found)


def places_of_thread(ident: int) -> tuple[Place, ...]:
    """Innermost first, of a thread that runs now."""
    return places_from(sys._current_frames().get(ident))


def _line(code: CodeType, offset: int) -> int:
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return line
    return code.co_firstlineno
