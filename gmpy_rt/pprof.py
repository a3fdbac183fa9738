"""Profiles in pprof's format, as Go's runtime/pprof has them, and one of its own: starvation.

    data = pprof.cpu(5)                     # five seconds of the program as it runs
    Path("cpu.pb.gz").write_bytes(data)     # go tool pprof -top cpu.pb.gz, or speedscope
    print(pprof.folded(pprof.goroutine()))  # for flame graphs

| profile      | a sample is                                  | its stack                         |
| ------------ | -------------------------------------------- | --------------------------------- |
| cpu          | CPU time of an M's thread                    | what the M runs                   |
| goroutine    | a G that hasn't ended                        | where it is                       |
| block        | time parked, until somebody made it runnable | where it parked                   |
| mutex        | time that others waited for a lock           | who released it, having held it   |
| starvation   | time runnable but not running                | what ran instead                  |

block and mutex count nothing until set_block_profile_rate() and set_mutex_profile_fraction().
Labels of the samples: cpu and starvation: `g`, `name` (the G's, else its function's), `m`, `p`;
goroutine and block: `state` (wait reason, or runnable, running, blocked: its M is in a blocking
call, stranded: runnable behind such an M) and `class` (channel, lock, sync; timer and netpoll
are idle). `go tool pprof -tagfocus`, `-tagignore` and `-tags` use them.

On a free-threaded build the M's stand still for the moment in which stacks are read: comments
in the profile say how often and how long (`go tool pprof -comments`). Threads that aren't M's
are not seen.
"""

from __future__ import annotations

import _thread
import atexit
import os
import random
import time
from collections.abc import Callable, Iterable
from types import CodeType
from typing import TYPE_CHECKING, Any

from . import _door
from . import _load as _load
from ._door import Chan
from ._profile_proto import Frame, Profile, Sample, decode, encode

if TYPE_CHECKING:
    _Read = tuple[list[_door.Bucket], float, float]

_DELAY = (("contentions", "count"), ("delay", "nanoseconds"))
_TYPES = {
    "cpu": (("samples", "count"), ("cpu", "nanoseconds")),
    "starvation": (("waiting", "count"), ("delay", "nanoseconds")),
    "block": _DELAY,
    "mutex": _DELAY,
    "goroutine": (("goroutine", "count"),),
}

# What a wait is good for. The idle ones are no blockage: somebody sleeps because it wants to, or
# nothing came in. Flame graphs of waits show little else if they aren't told apart.
CLASSES = {
    "sleep": "timer",
    "timers": "timer",
    "IO read": "netpoll",
    "IO write": "netpoll",
    "chan send": "channel",
    "chan receive": "channel",
    "select": "channel",
    "queue get": "channel",
    "queue put": "channel",
    "lock": "lock",
    "read lock": "lock",
    "write lock": "lock",
    "semaphore": "lock",
    "join": "sync",
    "wait group": "sync",
    "condition": "sync",
    "event": "sync",
    "barrier": "sync",
    "once": "sync",
    "task group": "sync",
    "blocking call": "sync",
    "park": "sync",
    "waiting": "sync",
}
IDLE = frozenset({"timer", "netpoll"})

# ---------------------------------------------------------------- cpu and starvation: sampled


class _Sampler:
    """A thread that takes samples. It isn't an M: it runs while every P is taken."""

    def __init__(self, kind: str, hz: float) -> None:
        self.kind = kind
        self.hz = hz
        self.profile = _door.Profile(kind)
        self.ended: Chan[BaseException | None] = Chan(1)
        self.time_ns = time.time_ns()
        self.started = time.monotonic_ns()
        self.profile.tick(0)
        # Not with threading: a thread that is enumerated there might wake a G, and so hides
        # deadlocks.
        _thread.start_new_thread(self._loop, ())

    def _loop(self) -> None:
        error = None
        try:
            # Irregular: at the pace of the time slices one would see the same slices again and
            # again.
            while self.profile.tick(random.uniform(0.5, 1.5) / self.hz):
                pass
        except BaseException as exc:
            error = exc
        self.ended.try_send(error)

    def stop(self) -> bytes:
        self.profile.stop()
        duration = time.monotonic_ns() - self.started
        _door.external(1)  # no deadlock: the thread answers
        try:
            error = self.ended.recv()
        finally:
            _door.external(-1)
        if error is not None:
            raise error
        ticks, pauses, total, longest = self.profile.pauses()
        comments = [f"{ticks} ticks"]
        if pauses:
            comments.append(_pause_comment(pauses, total, longest))
        kind = _TYPES[self.kind][-1]
        period = round(1e9 / self.hz)
        samples = _samples(self.profile.read(), self.kind)
        return encode(
            Profile(_TYPES[self.kind], samples, kind, period, self.time_ns, duration, comments)
        )


def _pause_comment(pauses: int, total: float, longest: float) -> str:
    return (
        f"stacks were read {pauses} times, in {total / pauses * 1e6:.0f} us on average "
        f"and {longest * 1e6:.0f} us at most"
    )


_running: dict[str, _Sampler] = {}
_starting = _thread.allocate_lock()


def _start(kind: str, hz: float) -> None:
    if not 1 <= hz <= 1000:
        raise ValueError(f"hz={hz!r}: between 1 and 1000 samples a second; Go takes 100")
    with _starting:
        if kind in _running:
            raise RuntimeError(
                f"a {kind} profile is being taken already: one at a time; "
                f"end it with pprof.stop_{kind}()"
            )
        _running[kind] = _Sampler(kind, hz)


def _stop(kind: str) -> bytes:
    with _starting:
        sampler = _running.pop(kind, None)
    if sampler is None:
        raise RuntimeError(f"pprof.stop_{kind}() without pprof.start_{kind}()")
    return sampler.stop()


def _for_seconds(kind: str, seconds: float, hz: float) -> bytes:
    _check_seconds(seconds)
    _start(kind, hz)
    try:
        _door.sleep(seconds)
    except BaseException:
        _stop(kind)
        raise
    return _stop(kind)


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds < 1e6:
        raise ValueError(f"seconds={seconds!r}: give a number of seconds above 0")


def cpu(seconds: float, hz: float = 100) -> bytes:
    """Where the M's spend CPU time in the next so many seconds: a profile, gzipped.

    hz: samples a second, 1 to 1000. Each is weighed with the CPU time that the M's thread used
    since the one before, so that the sum is true; the share of a function is as good as the
    number of samples. What is too short to be met is in '[between samples]', the scheduler's own
    work in '[scheduler]'. In a G it parks; a plain thread may call it, too. Raises ValueError for
    numbers that can't be, RuntimeError while another one is being taken, Cancelled.
    """
    return _for_seconds("cpu", seconds, hz)


def start_cpu(hz: float = 100) -> None:
    """Begin what stop_cpu() ends: before run(), inside it, around it. Raises as cpu()."""
    _start("cpu", hz)


def stop_cpu() -> bytes:
    """End the CPU profile and return it. Raises RuntimeError if there is none."""
    return _stop("cpu")


def starvation(seconds: float, hz: float = 100) -> bytes:
    """Whose fault it is that G's are runnable and don't run, in the next so many seconds.

    hz times a second, each runnable G charges the time since the last look to the stack that
    runs instead: on the M that it is pinned to (or that M's blocking call), on the P whose
    queue it is in; if any P would do, to all that run, in equal parts. A hog that keeps 7 G's
    waiting for half a second gets 3.5 seconds. Raises as cpu().
    """
    return _for_seconds("starvation", seconds, hz)


def start_starvation(hz: float = 100) -> None:
    """Begin what stop_starvation() ends. Raises as cpu()."""
    _start("starvation", hz)


def stop_starvation() -> bytes:
    """End the starvation profile and return it. Raises RuntimeError if there is none."""
    return _stop("starvation")


# ---------------------------------------------------------------- goroutine, block, mutex


def goroutine() -> bytes:
    """The stacks of all G's that haven't ended, equal ones merged.

    On a free-threaded build the M's stand still meanwhile, for about a microsecond per G.
    """
    profile = _door.Profile("goroutine")
    now = time.time_ns()
    count = profile.goroutines()
    _, pauses, total, longest = profile.pauses()
    comments = [f"{count} G's", _pause_comment(pauses, total, longest)]
    samples = _samples(profile.read(), "goroutine")
    types = _TYPES["goroutine"]
    return encode(Profile(types, samples, types[0], 1, now, 0, comments))


def set_block_profile_rate(nanoseconds: int) -> int:
    """Have waits of G's noted for block(); return the rate before.

    As in Go, about one wait for so many nanoseconds waited: 1 notes all, 0 none (the
    default). Shorter waits are taken by chance, and count for those that weren't. A negative
    rate changes nothing. What was noted stays.
    """
    return _door.prof_block_rate(nanoseconds)


def set_mutex_profile_fraction(n: int) -> int:
    """Have contention for locks noted for mutex(); return the fraction before.

    As in Go: one of n cases, by chance; 1 notes all, 0 none (the default); a negative n changes
    nothing. What was noted stays.
    """
    return _door.prof_mutex_fraction(n)


def block(seconds: float | None = None, *, hide_idle: bool = True) -> bytes:
    """Where G's have waited: since the start of the process, or in the next so many seconds.

    A wait is noted when it is over. Its time goes from the park until somebody made the G
    runnable: what it waits for its turn then isn't blocking, see starvation(). hide_idle
    leaves out timers and netpoll, as Go does. Needs set_block_profile_rate().
    """
    return _events("block", seconds, hide_idle)


def mutex(seconds: float | None = None) -> bytes:
    """Who made others wait for locks: since the start of the process, or in the next seconds.

    Lock, RLock, and the Condition's: when the holder releases, what the others have waited
    while it held. RWMutex and Semaphore: when a release wakes others, what these waited in
    all. The stack is that of the release. Needs set_mutex_profile_fraction().
    """
    return _events("mutex", seconds, False)


def _events(kind: str, seconds: float | None, hide_idle: bool) -> bytes:
    start = _Events(kind)
    if seconds is None:
        return start.encode(start.data, 0, hide_idle)
    _check_seconds(seconds)
    _door.sleep(seconds)
    return start.until_now(hide_idle)


class _Events:
    """What was counted of block or mutex at one moment."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.time_ns, self.started = time.time_ns(), time.monotonic_ns()
        self.data = self.read()

    def read(self) -> _Read:
        return _door.prof_block() if self.kind == "block" else _door.prof_mutex()

    def until_now(self, hide_idle: bool) -> bytes:
        duration = time.monotonic_ns() - self.started
        return self.encode(_difference(self.read(), self.data), duration, hide_idle)

    def encode(self, data: _Read, duration: int, hide_idle: bool) -> bytes:
        samples = _samples(data, self.kind)
        if hide_idle:
            samples = [sample for sample in samples if sample.labels.get("class") not in IDLE]
        types = _TYPES[self.kind]
        return encode(Profile(types, samples, types[0], 1, self.time_ns, duration))


def _difference(now: _Read, before: _Read) -> _Read:
    known = {(*bucket[:5], bucket[7]): bucket for bucket in before[0]}
    buckets = []
    for bucket in now[0]:
        state, name, g, m, p, count, value, frames = bucket
        old = known.get((state, name, g, m, p, frames))
        if old is not None:
            count, value = count - old[5], value - old[6]
        if count or value:
            buckets.append((state, name, g, m, p, count, value, frames))
    return buckets, now[1] - before[1], now[2] - before[2]


_RATES = {"block": set_block_profile_rate, "mutex": set_mutex_profile_fraction}


def begin(kind: str, hz: float = 100) -> Callable[[], bytes]:
    """Begin a profile of that kind, of whatever runs from now on; call what it returns to end it.

    kind: 'cpu' or 'starvation', at so many samples a second; 'block' or 'mutex', of which
    everything is noted. Raises as cpu(), and ValueError for another kind.
    """
    if kind in ("cpu", "starvation"):
        _start(kind, hz)
        return lambda: _stop(kind)
    if kind in _RATES:
        since = _Events(kind)
        before = _RATES[kind](1)

        def end() -> bytes:
            _RATES[kind](before)
            return since.until_now(kind == "block")

        return end
    raise ValueError(f"kind={kind!r}: choose one of cpu, starvation, block, mutex")


# ---------------------------------------------------------------- from buckets to samples

_NO_STACK = {
    "scheduler": "[scheduler]",
    "between samples": "[between samples]",
    "waking": "[an M wakes up]",
}


def _samples(read: _Read, kind: str) -> list[Sample]:
    """Buckets differ by offset and code object; samples of the same lines are one."""
    merged: dict[Any, list[float]] = {}
    codes: dict[CodeType, tuple[str, str, int]] = {}
    for state, name, g, m, p, count, value, frames in read[0]:
        key = (_frames(state, frames, codes), *_labels(kind, state, name, g, m, p))
        total = merged.setdefault(key, [0.0, 0.0])
        total[0] += count
        total[1] += value
    if read[1]:
        dropped = (Frame("[dropped: too many different stacks]"),)
        merged[(dropped,)] = [read[1], read[2]]
    samples = []
    for (stack, *labels), (count, value) in merged.items():
        values = (round(count), round(value))[: len(_TYPES[kind])]
        samples.append(Sample(values, stack, dict(labels)))
    return samples


def _labels(
    kind: str, state: str | None, name: Any, g: int, m: int, p: int
) -> list[tuple[str, str | int]]:
    labels: list[tuple[str, str | int]] = []
    if state is not None and kind != "cpu":
        labels.append(("state", state))
        if state in CLASSES:
            labels.append(("class", CLASSES[state]))
    if g:
        labels.append(("g", g))
    if name is not None:
        labels.append(("name", _name(name)))
    return labels + [(key, number) for key, number in (("m", m), ("p", p)) if number >= 0]


def _name(name: Any) -> str:
    if isinstance(name, CodeType):
        return name.co_qualname
    return name.__name__ if isinstance(name, type) else str(name)


def _frames(
    state: str | None,
    frames: Iterable[tuple[CodeType, int]],
    codes: dict[CodeType, tuple[str, str, int]],
) -> tuple[Frame, ...]:
    out: list[Frame] = []
    for code, line in frames:
        if "yield_point" in code.co_names:
            out.clear()  # what preempted it, and what that calls: see preempt.c
            continue
        where = codes.get(code)
        if where is None:
            name = f"{_module(code.co_filename)}.{code.co_qualname}"
            where = codes[code] = (name, code.co_filename, code.co_firstlineno)
        out.append(Frame(*where, max(line, 0)))
    return tuple(out) or (Frame(_NO_STACK.get(state or "", "[no Python stack]")),)


def _module(file: str) -> str:
    """app for /srv/app.py and for /srv/app/__init__.py: functions of one name are told apart."""
    folder, name = os.path.split(file)
    stem = name.removesuffix(".py")
    return os.path.basename(folder) or stem if stem == "__init__" else stem


# ---------------------------------------------------------------- flame graphs


def folded(profile: bytes, hide_idle: bool = False, value: int = -1) -> str:
    """A profile as lines 'outer;inner;[why] number', as flame graph tools read them.

    A wait ends in a frame of its own that says its class and reason, such as
    '[channel: chan receive]', '[timer: sleep]' or '[netpoll: IO read]'; another state in
    '[stranded]' and the like. hide_idle leaves timers and netpoll out. value: which of the
    profile's values (go tool pprof -sample_index), the last unless given. Raises ValueError if
    the bytes are no profile or have no such value.
    """
    decoded = decode(profile)
    if not -len(decoded.types) <= value < len(decoded.types):
        names = ", ".join(name for name, _ in decoded.types)
        raise ValueError(f"value={value}: the profile has {len(decoded.types)} values ({names})")
    lines: dict[str, int] = {}
    for sample in decoded.samples:
        state, kind = sample.labels.get("state"), sample.labels.get("class")
        if hide_idle and kind in IDLE:
            continue
        stack = [_clean(frame.function) for frame in reversed(sample.frames)]
        if kind is not None:
            stack.append(f"[{kind}: {state}]")
        elif state not in (None, "running", *_NO_STACK):
            stack.append(f"[{state}]")
        line = ";".join(stack)
        lines[line] = lines.get(line, 0) + sample.values[value]
    return "".join(f"{line} {number}\n" for line, number in sorted(lines.items()) if number)


def _clean(name: str) -> str:
    return name.replace(";", ":").replace("\n", " ")


# ---------------------------------------------------------------- the end, and fork


def _at_exit() -> None:
    for kind in list(_running):
        _stop(kind)


def _after_fork_in_child() -> None:
    global _starting
    _starting = _thread.allocate_lock()
    _running.clear()
    _door.prof_forked()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = [
    "begin",
    "block",
    "cpu",
    "folded",
    "goroutine",
    "mutex",
    "set_block_profile_rate",
    "set_mutex_profile_fraction",
    "start_cpu",
    "start_starvation",
    "starvation",
    "stop_cpu",
    "stop_starvation",
]
