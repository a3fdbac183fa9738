"""timeout(), deadline(), shield(): interrupting a block as a whole, or not at all.

What goes off inside the block is a Cancelled, at the next park or, in a CPU-bound G, where
it is preempted; the block turns its own one, and only its own, into a TimeoutError. A call
in blocking() goes on and its outcome is dropped; code in C that never parks can't be
interrupted at all. Nor can a loop that calls nothing and ends in an if, inside a try or with
(`while x: if y: n += 1`): CPython puts its jump back outside the handlers, and what was raised
there would pass by them.
"""

from __future__ import annotations

from . import _load as _load
from ._door import Scope


def timeout(seconds: float | None) -> Scope:
    """A block that may take so many seconds: `with timeout(2.5): ...`.

    seconds: None sets no limit; 0 or less expires at the first park. On expiry the block is
    left with TimeoutError. The object that `as` gives has `expired`, `when`, `cancel()` (expire
    now) and `reschedule(seconds)`. Nested ones know their own expiry from the others'. Raises
    TypeError or ValueError for what isn't a number of seconds, RuntimeError outside a G.
    """
    return Scope(seconds=seconds)


def deadline(when: float) -> Scope:
    """A block that may last until time.monotonic() is `when` (seconds). See timeout()."""
    return Scope(when=when)


def shield() -> Scope:
    """A block that cancel() and the timeouts around it can't interrupt: `with shield(): ...`.

    They come at the first park after the block. Timeouts inside it work, and KeyboardInterrupt
    and DeadlockError pass through. Raises RuntimeError outside a G.
    """
    return Scope(shield=True)


__all__ = ["deadline", "shield", "timeout"]
