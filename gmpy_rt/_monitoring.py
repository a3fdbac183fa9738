"""Preemption through sys.monitoring (3.12, 3.13, or where remote debugging is off).

sysmon switches the events on; the hog's next backward jump or function entry calls back,
and the callback yields if its M was asked to. The events go off again at once.
"""

import sys
from types import CodeType
from typing import Any

from . import _door

__gmpy_atomic__ = True  # no interrupt in the callback, see preempt.c

_mon = sys.monitoring
_tool: int | None = None


def _claim() -> int | None:
    for tool in (4, 3, 5):  # ids that no well-known tool reserves first
        try:
            _mon.use_tool_id(tool, "gmpy_rt")
        except ValueError:
            continue
        for event in (_mon.events.JUMP, _mon.events.PY_START):
            _mon.register_callback(tool, event, _at_safe_point)
        return tool
    return None


def _at_safe_point(code: CodeType, *where: Any) -> None:
    if _tool is None:
        return
    asked = _door.monitor_asked()
    if asked is not None:
        _mon.set_events(_tool, 0)
    if asked:
        -_door.yield_point  # noqa: B018  the last act, see preempt.c


def switch_on() -> None:
    """Called by sysmon, with the GIL."""
    global _tool
    if _tool is None:
        _tool = _claim()
    if _tool is not None:
        _mon.set_events(_tool, _mon.events.JUMP | _mon.events.PY_START)


def switch_off() -> None:
    """Called when the runtime has ended: nobody will reach the safe point that was asked for."""
    if _tool is not None:
        _mon.set_events(_tool, 0)
