"""The execution trace: what every G, M and P did and when, for ui.perfetto.dev.

    with trace.start("trace.json"):
        run(main)

Or start() and stop() apart, in a G, in a plain thread, before, in or after run(). The file
is in the trace-event format, which ui.perfetto.dev and chrome://tracing open; or, if its name
ends in .out, in the format of Go's traces: `go tool trace trace.out`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from . import _door
from . import _load as _load
from ._core import ffi, lib

_REGION, _BLOCKING, _END = 0, 1, 2  # trace_mark


@dataclass
class Trace:
    """One trace: as a context manager, it is stopped at the end of the block.

    The numbers are there once it has been stopped.
    """

    path: Path
    events: int = 0  # of the scheduler; the file has more lines
    lost: int = 0  # events for which there was no room or that couldn't be written
    seconds: float = 0.0
    _raw: IO[bytes] = field(kw_only=True, repr=False)
    _out: IO[bytes] = field(kw_only=True, repr=False)
    _living: list[tuple[int, str, bool]] = field(default_factory=list, repr=False)
    _strings: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def for_go(self) -> bool:
        """Whether the file is one for `go tool trace`."""
        return self.path.suffix == ".out"

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if _active is self:
            stop()


_active: Trace | None = None
_changing = threading.Lock()


def start(path: str | os.PathLike[str], *, _ring: int = 0) -> Trace:
    """Trace from now on; stop() writes the file path (compressed if it ends in .gz; for
    `go tool trace` if it ends in .out).

    Raises RuntimeError while another trace is under way, OSError if path can't be written.
    """
    import tempfile

    global _active
    where = Path(path)
    with _uninterrupted():
        if _active is not None:
            raise RuntimeError(
                f"trace.start({str(path)!r}): {str(_active.path)!r} is being traced; "
                "there is one trace at a time, stop() it first"
            )
        with contextlib.ExitStack() as files:
            out = files.enter_context(where.open("wb"))
            raw = files.enter_context(tempfile.TemporaryFile(dir=where.parent))
            problem = lib.gmpy_trace_start(raw.fileno(), _ring)
            if problem:
                raise OSError(-problem, f"trace.start(): {os.strerror(-problem)}")
            files.pop_all()  # stop() closes them
        _active = trace = Trace(where, _raw=raw, _out=out)
        trace._living = _door.trace_living()
    return trace


def stop() -> Trace:
    """End the trace and write its file; return it, with its numbers.

    Takes some 10 us per event. Warns (RuntimeWarning) if events were lost. Raises
    RuntimeError if there is none, OSError if the file can't be written (a full disk).
    """
    global _active
    total = ffi.new("gmpy_trace_sum *")
    with _uninterrupted():
        trace = _active
        if trace is None:
            raise RuntimeError("trace.stop() without a trace: trace.start(path) begins one")
        lib.gmpy_trace_stop(total)
        trace._strings = {number: name for name, number in _door.trace_names().items()}
        _active = None
    with trace._raw, trace._out:
        trace.lost = total.lost
        trace.seconds = (total.end - total.begin) / 1e9
        _write(trace, total)
    if total.error:
        raise OSError(total.error, f"trace: {os.strerror(total.error)}, {trace.lost} events lost")
    if trace.lost:
        warnings.warn(
            f"trace: {trace.lost} of {trace.lost + trace.events} events lost, where they came "
            "faster than they could be written; the trace shows where",
            RuntimeWarning,
            stacklevel=2,
        )
    return trace


def _write(trace: Trace, total: object) -> None:
    import gzip
    import io

    from . import _trace_export, _trace_go
    from ._trace_raw import About

    threads = {t.native_id: t.name for t in threading.enumerate() if t.native_id is not None}
    about = About(
        begin=total.begin,  # type: ignore[attr-defined]
        end=total.end,  # type: ignore[attr-defined]
        lost=trace.lost,
        exact=bool(total.exact),  # type: ignore[attr-defined]
        strings=trace._strings,
        wait_reasons=_door.wait_reasons,
        living=trace._living,
        threads=threads,
    )
    out = trace._out
    if trace.for_go:
        trace.events = _trace_go.export(trace._raw, out, about)
        return
    if trace.path.suffix == ".gz":
        out = cast("IO[bytes]", gzip.GzipFile(fileobj=trace._out, mode="wb", compresslevel=3))
    text = io.TextIOWrapper(out, encoding="utf-8", write_through=False)
    try:
        trace.events = _trace_export.export(trace._raw, text, about)
    finally:
        text.close()


class _uninterrupted:
    """Holds the lock of start() and stop(). A G that was preempted or parked inside would keep
    it, and the next G of its M would wait for it for ever."""

    def __enter__(self) -> None:
        _door.no_preempt(1)
        _changing.acquire()

    def __exit__(self, *exc: object) -> None:
        _changing.release()
        _door.no_preempt(-1)


# ---------------------------------------------------------------- the user's own


class region:
    """A span of the calling G (or plain thread) in the trace: `with trace.region("parse"):`.

    It may contain parks and other regions. Costs next to nothing while nothing is traced.
    """

    __slots__ = ("_kind", "_traced", "name")

    def __init__(self, name: str, *, _kind: int = _REGION) -> None:
        if not isinstance(name, str):
            raise TypeError(f"trace.region({name!r}): a region's name is a str")
        self.name = name
        self._kind = _kind
        self._traced = False

    def __enter__(self) -> region:
        self._traced = _door.trace_mark(self._kind, self.name)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._traced:
            _door.trace_mark(self._kind + _END, self.name)


def blocking_region(name: str) -> region:
    """For blocking(): the calling G waits for a call of the function of that name."""
    return region(f"blocking {name}", _kind=_BLOCKING)


def log(category: str, message: str) -> None:
    """A message at this moment in the trace, of the calling G or plain thread.

    At most a million different strings are kept for a trace; what comes beyond says so.
    """
    if not isinstance(category, str) or not isinstance(message, str):
        raise TypeError(f"trace.log({category!r}, {message!r}): both are str")
    if _door.tracing():
        _door.trace_log(category, message)


# ---------------------------------------------------------------- ends


def _at_exit() -> None:
    if _active is not None:
        stop()


def _after_fork_in_child() -> None:
    """The trace is the parent's."""
    global _active, _changing
    _active = None
    _changing = threading.Lock()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["Trace", "log", "region", "start", "stop"]
