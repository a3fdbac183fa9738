"""What socket.makefile() gives: the io module's files, with locks that know G's.

The io module's own locks belong to a thread. Of two G's of one M that use a file they take the
second one for the first and raise; on two M's they block the second one's M, and with it those
of its G's that the first may wait for.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from socket import SocketIO
from typing import TYPE_CHECKING, Any

from . import _load as _load
from ._door import Cancelled, RLock

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

_READS = ("read", "read1", "readinto", "readinto1", "readline", "peek", "__next__")
_WRITES = ("write", "flush")


class _Raw(SocketIO):
    _timeout_occurred: bool  # the stdlib's

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        try:
            return super().readinto(buffer)
        except Cancelled:
            # The beginning of a line, say, may be lost with it: as after the socket's own timeout,
            # the rest of it mustn't look like the whole.
            self._timeout_occurred = True
            raise


def _one_at_a_time(names: tuple[str, ...], lock: str) -> Callable[[type], type]:
    def decorate(cls: type) -> type:
        for name in names:
            setattr(cls, name, under(getattr(cls, name)))
        return cls

    def under(method: Any) -> Any:
        @wraps(method)
        def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
            with getattr(self, lock):
                return method(self, *args, **kwargs)

        return locked

    return decorate


@_one_at_a_time((*_READS, "close"), "_reading")
class _Reader(io.BufferedReader):
    def __init__(self, raw: _Raw, buffering: int) -> None:
        self._reading = RLock()
        super().__init__(raw, buffering)


@_one_at_a_time((*_WRITES, "close"), "_writing")
class _Writer(io.BufferedWriter):
    def __init__(self, raw: _Raw, buffering: int) -> None:
        self._writing = RLock()
        super().__init__(raw, buffering)


@_one_at_a_time((*_READS, "close"), "_reading")
@_one_at_a_time((*_WRITES, "close"), "_writing")
class _Pair(io.BufferedRWPair):
    def __init__(self, raw: _Raw, buffering: int) -> None:
        self._reading, self._writing = RLock(), RLock()
        super().__init__(raw, raw, buffering)


def open_socket(
    sock: Any,
    mode: str,
    buffering: int | None,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Any:
    """As io.open, for a socket; mode has only r, w and b. Raises ValueError."""
    if not set(mode) <= set("rwb"):
        raise ValueError(f"invalid mode {mode!r}: made of r, w and b")
    writing, binary = "w" in mode, "b" in mode
    reading = "r" in mode or not writing
    size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
    if not size and not binary:
        raise ValueError("buffering=0: unbuffered streams must be binary, add b to the mode")
    raw = _Raw(sock, "r" * reading + "w" * writing)  # type: ignore[arg-type]
    sock._io_refs += 1
    if not size:
        return raw
    buffered = (_Pair if reading and writing else _Reader if reading else _Writer)(raw, size)
    if binary:
        return buffered
    text = io.TextIOWrapper(buffered, io.text_encoding(encoding), errors, newline)  # type: ignore
    text.mode = mode  # type: ignore[misc]
    return text
