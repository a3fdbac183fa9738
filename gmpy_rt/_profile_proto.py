"""pprof's file format (profile.proto, gzipped): as much of it as our profiles need.

The message is described in github.com/google/pprof, proto/profile.proto: a Profile has value
types, samples (values, a stack of locations, labels), locations (a line of a function),
functions, and a table of strings that everything else points into. Field numbers below are
that file's.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Frame(NamedTuple):
    """One call of a stack. start: the function's first line; 0 for a line that isn't known."""

    function: str
    file: str = ""
    start: int = 0
    line: int = 0


@dataclass(frozen=True)
class Sample:
    """values: one for each of the profile's types. frames: innermost first."""

    values: tuple[int, ...]
    frames: tuple[Frame, ...]
    labels: dict[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """types: (name, unit) of each value, such as ('cpu', 'nanoseconds'); the last one is shown
    unless another is asked for. period: one sample for so many units of period_type."""

    types: tuple[tuple[str, str], ...]
    samples: Sequence[Sample]
    period_type: tuple[str, str] = ("", "")
    period: int = 0
    time_ns: int = 0
    duration_ns: int = 0
    comments: Sequence[str] = ()


# ---------------------------------------------------------------- protobuf

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # int64 below 0: two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(tag: int, value: int) -> bytes:
    return varint(tag << 3 | _VARINT) + varint(value) if value else b""


def _bytes(tag: int, value: bytes) -> bytes:
    return varint(tag << 3 | _BYTES) + varint(len(value)) + value


def _packed(tag: int, values: Iterable[int]) -> bytes:
    return _bytes(tag, b"".join(map(varint, values)))


class _Table:
    """Numbers things in the order in which they come."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.index: dict[object, int] = {}
        self.rows: list[bytes] = []

    def add(self, key: object, row: bytes) -> int:
        index = self.index[key] = self.first + len(self.rows)
        self.rows.append(row)
        return index


class _Writer:
    def __init__(self) -> None:
        self.strings, self.functions, self.locations = _Table(0), _Table(1), _Table(1)
        self.string("")  # index 0 is the empty string

    def string(self, text: str) -> int:
        known = self.strings.index.get(text)
        if known is not None:
            return known
        return self.strings.add(text, text.encode(errors="backslashreplace"))

    def function(self, frame: Frame) -> int:
        key = frame[:3]
        known = self.functions.index.get(key)
        if known is not None:
            return known
        name = self.string(frame.function)
        row = _number(2, name) + _number(3, name)
        row += _number(4, self.string(frame.file)) + _number(5, frame.start)
        return self.functions.add(key, _number(1, len(self.functions.rows) + 1) + row)

    def location(self, frame: Frame) -> int:
        known = self.locations.index.get(frame)
        if known is not None:
            return known
        line = _number(1, self.function(frame)) + _number(2, frame.line)
        row = _number(1, len(self.locations.rows) + 1) + _number(2, 1) + _bytes(4, line)
        return self.locations.add(frame, row)

    def value_type(self, tag: int, name: str, unit: str) -> bytes:
        return _bytes(tag, _number(1, self.string(name)) + _number(2, self.string(unit)))

    def label(self, key: str, value: str | int) -> bytes:
        if isinstance(value, int):
            # A number of 0 is the default, and left out; what has neither str nor num has num 0.
            return _bytes(3, _number(1, self.string(key)) + _number(3, value))
        return _bytes(3, _number(1, self.string(key)) + _number(2, self.string(value)))

    def sample(self, sample: Sample) -> bytes:
        row = _packed(1, map(self.location, sample.frames)) + _packed(2, sample.values)
        return _bytes(2, row + b"".join(self.label(*item) for item in sample.labels.items()))


def encode(profile: Profile) -> bytes:
    """The profile as `go tool pprof` reads it, gzipped."""
    to = _Writer()
    head = [to.value_type(1, *one) for one in profile.types]
    head += [to.sample(sample) for sample in profile.samples]
    # One mapping that says: names and lines are all here, look for no binary.
    mapping = _number(1, 1) + _number(5, to.string("python"))
    mapping += b"".join(_number(tag, 1) for tag in (7, 8, 9, 10))
    tail = [
        _bytes(3, mapping),
        _number(9, profile.time_ns),
        _number(10, profile.duration_ns),
        to.value_type(11, *profile.period_type),
        _number(12, profile.period),
        _packed(13, map(to.string, profile.comments)),
        _number(14, to.string(profile.types[-1][0])),
    ]
    tail += [_bytes(4, row) for row in to.locations.rows]
    tail += [_bytes(5, row) for row in to.functions.rows]
    tail += [_bytes(6, row) for row in to.strings.rows]
    return gzip.compress(b"".join(head + tail), 6)


# ---------------------------------------------------------------- and back


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _read_varint(data, at)
        elif kind == _BYTES:
            size, at = _read_varint(data, at)
            value, at = data[at : at + size], at + size
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value = struct.unpack_from("<Q" if size == 8 else "<I", data, at)[0]
            at += size
        else:
            raise ValueError(f"not a profile: wire type {kind} at byte {at}")
        yield key >> 3, value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


class _Message:
    """The fields of one message by number. A repeated number may be packed or not."""

    def __init__(self, data: bytes) -> None:
        self.fields: dict[int, list[int | bytes]] = {}
        for tag, value in _fields(data):
            self.fields.setdefault(tag, []).append(value)

    def parts(self, tag: int) -> list[bytes]:
        return [value for value in self.fields.get(tag, ()) if isinstance(value, bytes)]

    def messages(self, tag: int) -> list[_Message]:
        return [_Message(part) for part in self.parts(tag)]

    def numbers(self, tag: int) -> list[int]:
        out: list[int] = []
        for value in self.fields.get(tag, ()):
            if isinstance(value, int):
                out.append(_signed(value))
                continue
            at = 0
            while at < len(value):
                number, at = _read_varint(value, at)
                out.append(_signed(number))
        return out

    def number(self, tag: int) -> int:
        return (self.numbers(tag) or [0])[-1]


def decode(data: bytes) -> Profile:
    """A profile from its bytes, gzipped or not. Raises ValueError if they are none."""
    try:
        top = _Message(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        return _decode(top)
    except (EOFError, IndexError, KeyError, OSError, struct.error) as exc:
        raise ValueError(f"not a profile of pprof's format ({type(exc).__name__}: {exc})") from exc


def _decode(top: _Message) -> Profile:
    strings = [part.decode() for part in top.parts(6)]
    functions = {f.number(1): f for f in top.messages(5)}
    locations: dict[int, list[Frame]] = {}
    for location in top.messages(4):
        frames = locations[location.number(1)] = []
        for line in location.messages(4):
            f = functions[line.number(1)]
            name, file = strings[f.number(2)], strings[f.number(4)]
            frames.append(Frame(name, file, f.number(5), line.number(2)))
    types = tuple((strings[t.number(1)], strings[t.number(2)]) for t in top.messages(1))
    samples = []
    for s in top.messages(2):
        stack = tuple(frame for number in s.numbers(1) for frame in locations[number])
        labels: dict[str, str | int] = {}
        for label in s.messages(3):
            text = label.number(2)
            labels[strings[label.number(1)]] = strings[text] if text else label.number(3)
        samples.append(Sample(tuple(s.numbers(2)), stack, labels))
    period = [(strings[t.number(1)], strings[t.number(2)]) for t in top.messages(11)]
    return Profile(
        types,
        samples,
        period[0] if period else ("", ""),
        top.number(12),
        top.number(9),
        top.number(10),
        [strings[number] for number in top.numbers(13)],
    )
