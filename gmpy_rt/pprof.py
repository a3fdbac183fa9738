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

A sample is taken at the interpreter's next safe point: a loop's jump or a function's beginning. On
a machine with more to do than CPUs, code where threads lose their CPU (system calls) is met too
often. On a free-threaded build the M's stand still for the moment in which stacks are read:
comments in the profile say how often and how long (`go tool pprof -comments`). Threads that
aren't M's are not seen.
"""

from __future__ import annotations

import _thread
import atexit
import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import _door
from . import _load as _load
from ._door import Chan
from ._profile_proto import Profile, encode
from ._profile_samples import IDLE, TYPES, difference, folded, samples
from .runtime import unpin

if TYPE_CHECKING:
    from ._profile_samples import Read

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

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
            unpin()
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
        kind = TYPES[self.kind][-1]
        period = round(1e9 / self.hz)
        found = samples(self.profile.read(), self.kind)
        return encode(
            Profile(TYPES[self.kind], found, kind, period, self.time_ns, duration, comments)
        )


def _pause_comment(pauses: int, total: float, longest: float) -> str:
    return (
        f"stacks were read {pauses} times, in {total / pauses * 1e6:.0f} us on average "
        f"and {longest * 1e6:.0f} us at most"
    )


_running: dict[str, _Sampler] = {}
_starting = _door.Lock()  # not one of threads: a G that holds it may lose its turn


def _start(kind: str, hz: float) -> _Sampler:
    if not isinstance(hz, int | float) or not 1 <= hz <= 1000:
        raise ValueError(f"hz={hz!r}: between 1 and 1000 samples a second; Go takes 100")
    with _starting:
        if kind in _running:
            raise RuntimeError(
                f"a {kind} profile is being taken already: one at a time; "
                f"end it with pprof.stop_{kind}()"
            )
        _running[kind] = sampler = _Sampler(kind, hz)
        return sampler


def _stop(kind: str, mine: _Sampler | None = None) -> bytes:
    """Ends the profile of that kind; only if it is `mine`, if that is given."""
    with _starting:
        sampler = _running.get(kind)
        if sampler is None or (mine or sampler) is not sampler:
            raise RuntimeError(
                f"pprof.stop_{kind}() without pprof.start_{kind}()"
                if mine is None
                else f"somebody ended this profile with pprof.stop_{kind}()"
            )
        del _running[kind]
    return sampler.stop()


def _for_seconds(kind: str, seconds: float, hz: float) -> bytes:
    _check_seconds(seconds)
    mine = _start(kind, hz)
    try:
        _door.sleep(seconds)
    except BaseException:
        if _running.get(kind) is mine:
            _stop(kind, mine)
        raise
    return _stop(kind, mine)


def _check_seconds(seconds: float) -> None:
    if not isinstance(seconds, int | float) or not 0 < seconds < 1e6:
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

    On a free-threaded build the M's stand still meanwhile, well under a microsecond per G.
    """
    profile = _door.Profile("goroutine")
    now = time.time_ns()
    count = profile.goroutines()
    _, pauses, total, longest = profile.pauses()
    comments = [f"{count} G's"]
    if pauses:
        comments.append(_pause_comment(pauses, total, longest))
    found = samples(profile.read(), "goroutine")
    types = TYPES["goroutine"]
    return encode(Profile(types, found, types[0], 1, now, 0, comments))


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

    def read(self) -> Read:
        return _door.prof_block() if self.kind == "block" else _door.prof_mutex()

    def until_now(self, hide_idle: bool) -> bytes:
        duration = time.monotonic_ns() - self.started
        return self.encode(difference(self.read(), self.data), duration, hide_idle)

    def encode(self, data: Read, duration: int, hide_idle: bool) -> bytes:
        found = samples(data, self.kind)
        if hide_idle:
            found = [sample for sample in found if sample.labels.get("class") not in IDLE]
        types = TYPES[self.kind]
        return encode(Profile(types, found, types[0], 1, self.time_ns, duration))


_RATES = {"block": set_block_profile_rate, "mutex": set_mutex_profile_fraction}
_noting = {"block": 0, "mutex": 0}  # how many note everything,
_rate_before = {"block": 0, "mutex": 0}  # and the rate before the first of them


def _note_all(kind: str, by: int) -> None:
    with _starting:
        if by > 0 and not _noting[kind]:
            _rate_before[kind] = _RATES[kind](1)
        _noting[kind] += by
        if not _noting[kind]:
            _RATES[kind](_rate_before[kind])


def begin(kind: str, hz: float = 100) -> Callable[[], bytes]:
    """Begin a profile of that kind, of whatever runs from now on; call what it returns to end it.

    kind: 'cpu' or 'starvation', at so many samples a second; 'block' or 'mutex', of which
    everything is noted. Raises as cpu(), and ValueError for another kind.
    """
    if kind in ("cpu", "starvation"):
        mine = _start(kind, hz)
        return lambda: _stop(kind, mine)
    if kind in _RATES:
        since = _Events(kind)
        _note_all(kind, 1)

        def end() -> bytes:
            _note_all(kind, -1)
            return since.until_now(kind == "block")

        return end
    raise ValueError(f"kind={kind!r}: choose one of cpu, starvation, block, mutex")


# ---------------------------------------------------------------- the end, and fork


def _at_exit() -> None:
    for kind in list(_running):
        _stop(kind)


def _after_fork_in_child() -> None:
    global _starting
    _starting = _door.Lock()
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
