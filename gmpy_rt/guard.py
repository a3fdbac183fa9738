"""HungerGuard: sees G's starve, helps them, and keeps new work out while that isn't enough.

After section 4.4 of the article 'Go 1.22 ... goroutine starvation'. A plain thread, which needs
no P, takes a sample every 100 ms:

    relief    G's wait for a turn for more than 5 ms: those that run are asked to yield at once,
              and from then on after 1 ms instead of 10; a P is reserved for the latency class
              if the guard was told to. Until for a second nobody starves and nobody hogs.
    breaker   too many G's, and they wait too long on average, three times running: protected
              calls are rejected, or queue, until trial calls succeed again (breaker.py).
"""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

from . import _door
from . import _load as _load
from . import runtime as _runtime
from ._core import ffi, lib
from ._door import G, Lock
from ._stack import places, places_of_thread
from .breaker import Breaker, Rules, State
from .sync import Condition, Event

P = ParamSpec("P")
T = TypeVar("T")
N = TypeVar("N", int, float)

STACK_BYTES = 1024
_QUIET_SECONDS = 1.0

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c


class Hog(NamedTuple):
    """A G that runs while others starve."""

    g: int  # its id
    m: int
    seconds: float  # since it began this turn
    stack: str  # innermost call first, at most STACK_BYTES; '' if it had yielded meanwhile


class Sample(NamedTuple):
    """What the guard saw. Times in seconds; waits are from runnable to running."""

    goroutines: int
    runnable: int
    starved: int  # runnable for longer than `starving`
    oldest: float  # how long the first of them has waited
    oldest_g: int  # its id, 0 if there is none
    mean_wait: float  # of the turns since the last sample, and of those that wait now
    p99_wait: float
    preempt_requests: int  # since the last sample
    hogs: tuple[Hog, ...]  # who has run for longer than `starving`, the longest first


class Overloaded(RuntimeError):
    """The guard doesn't take this call now.

    retry_after: seconds after which it may; sample: what made the guard close, or None.
    """

    def __init__(self, message: str, retry_after: float, sample: Sample | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.sample = sample


class Levers:
    """What the guard sees and moves of the runtime. Tests have others."""

    def __init__(self, starving: float) -> None:
        # One buffer for all samples: it also keeps what the last one saw.
        self._hunger = ffi.new("gmpy_hunger *")
        self._hunger.starving_ns = int(starving * 1e9)
        lib.gmpy_hunger_look(self._hunger)

    def look(self) -> Sample:
        h = self._hunger
        lib.gmpy_hunger_look(h)
        stacks = _running_stacks() if h.starved and h.hogs else {}
        return Sample(
            goroutines=h.goroutines,
            runnable=h.runnable,
            starved=h.starved,
            oldest=h.oldest_ns / 1e9,
            oldest_g=h.oldest_g,
            mean_wait=h.wait_mean_ns / 1e9,
            p99_wait=h.wait_p99_ns / 1e9,
            preempt_requests=h.preempt_requests,
            hogs=tuple(
                Hog(hog.g, hog.m, hog.ran_ns / 1e9, stacks.get(hog.g, ""))
                for hog in h.hog[0 : h.hogs]
            ),
        )

    def preempt_now(self) -> None:
        lib.gmpy_preempt_now()

    def slice(self, seconds: float) -> float:
        return float(lib.gmpy_slice(int(seconds * 1e9))) / 1e9

    def reserve(self, n: int) -> int:
        return _door.reserve(n)  # the core keeps one P open


class HungerGuard:
    """Watches for starvation while it is started: `with HungerGuard() as guard: ...` in a G.

    interval: seconds between samples. starving: a G runnable for longer starves.
    max_goroutines, max_wait: a sample is bad if there are more G's than that and they wait for
    longer than max_wait seconds on average. rules: what bad samples lead to.
    mode: what happens to protected calls meanwhile: 'reject' raises Overloaded; 'queue' lets
    up to queue_size of them wait, each for at most queue_timeout seconds.
    slice: seconds that a G may run while others wait, during relief; None leaves it alone.
    reserve: P's reserved for the latency class during relief, where guard.go() starts its G's.
    on_change: called with the new state and the sample, in the guard's thread, with the first
    sample after the change.
    """

    def __init__(
        self,
        *,
        interval: float = 0.1,
        starving: float = 0.005,
        max_goroutines: int = 5000,
        max_wait: float = 0.2,
        mode: Literal["reject", "queue"] = "reject",
        queue_size: int = 1000,
        queue_timeout: float = 5.0,
        slice: float | None = 0.001,
        reserve: int = 0,
        rules: Rules | None = None,
        on_change: Callable[[State, Sample | None], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        levers: Callable[[float], Any] = Levers,
    ) -> None:
        _seconds("interval", interval, 0.001)
        _seconds("starving", starving, 0.0)
        _seconds("max_wait", max_wait, 0.0)
        _seconds("queue_timeout", queue_timeout, 0.0)
        if slice is not None:
            _seconds("slice", slice, 0.0001)
        _count("max_goroutines", max_goroutines)
        _count("queue_size", queue_size)
        _count("reserve", reserve)
        if mode not in ("reject", "queue"):
            raise ValueError(f"mode={mode!r}: choose 'reject' or 'queue'")
        self.interval, self.starving = interval, starving
        self.max_goroutines, self.max_wait = max_goroutines, max_wait
        self.mode, self.queue_size, self.queue_timeout = mode, queue_size, queue_timeout
        self.slice, self.reserve = slice, reserve
        self.last: Sample | None = None  # the last sample
        self.worst: Sample | None = None  # the last bad one
        self.samples = self.bad_samples = self.reliefs = 0
        self.rejected = 0  # calls
        self.queued = 0  # calls that wait now
        self._on_change, self._levers_of = on_change, levers
        self._levers: Any = None
        self._breaker = Breaker(rules, clock)
        self._state: State = "closed"
        self._announced: State = "closed"  # to on_change
        self._lock = Lock()  # the breaker's
        self._changed = Condition(self._lock)
        self._relieving = False
        self._quiet = 0
        # What relief moves: before, and to what.
        self._slices: tuple[float, float] = (0.0, 0.0)
        self._reserves: tuple[int, int] = (0, 0)
        self._stop = threading.Event()
        self._ended = Event()
        self._thread: threading.Thread | None = None

    # ---- life

    def start(self) -> None:
        """Begin to watch. It ends with stop(), or with the runtime.

        Raises RuntimeError outside a runtime, and if it has been started already.
        """
        if self._thread is not None:
            raise RuntimeError("HungerGuard.start(): it runs already; stop() it first")
        _runtime.at_stop(self.stop)  # raises outside a runtime
        self._levers = self._levers_of(self.starving)
        self._breaker.opened = 0
        self._announced = "closed"
        self._stop, self._ended = threading.Event(), Event()
        self._thread = threading.Thread(target=self._watch, name="gmpy-guard", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching, end relief, and let everything in. Nothing if it wasn't started."""
        thread = self._thread
        if thread is None:
            return
        if thread is threading.current_thread():  # on_change: it ends once that returns
            self._stop.set()
            return
        # In a forked child it isn't alive, and what it had locked stays so for ever: at the fork it
        # may just have begun to wait for _stop, whose set() would hang.
        if thread.is_alive():
            _door.external(1)  # no deadlock while a G waits here
            try:
                self._stop.set()
                self._ended.wait()  # not join(): it may need a lock that a G of this M has
            finally:
                _door.external(-1)
            thread.join()
        # Last: what a signal's handler raises may have ended it earlier, then run() calls again.
        self._thread = None
        _runtime.not_at_stop(self.stop)

    def __enter__(self) -> HungerGuard:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def _watch(self) -> None:
        _runtime.unpin()
        try:
            while not self._stop.wait(self.interval):
                _door.external(1)  # whoever waits for the lock isn't in a deadlock
                try:
                    self.observe(self._levers.look())
                except Exception:
                    traceback.print_exc()
                finally:
                    _door.external(-1)
        finally:
            self._relieve(False)
            with self._changed:
                self._breaker.close()
                self._note_state()
            self._ended.set()

    # ---- what a sample leads to

    @property
    def state(self) -> State:
        """'closed', 'open' or 'half-open'."""
        with self._changed:
            self._note_state()
        return self._state

    @property
    def opened(self) -> int:
        """How often the breaker has opened since the guard was started."""
        return self._breaker.opened

    @property
    def relieving(self) -> bool:
        """Whether slices are short now, because somebody starved."""
        return self._relieving

    def is_bad(self, sample: Sample) -> bool:
        """Whether a sample is over both thresholds."""
        return sample.goroutines > self.max_goroutines and sample.mean_wait > self.max_wait

    def observe(self, sample: Sample) -> None:
        """Act on one sample, as the guard's thread does."""
        self.last = sample
        self.samples += 1
        starving = sample.starved > 0 or sample.p99_wait > self.starving
        if starving:
            self._relieve(True)
        elif self._relieving:
            busy = sample.hogs or sample.preempt_requests
            self._quiet = 0 if busy else self._quiet + 1
            if self._quiet * self.interval >= _QUIET_SECONDS:
                self._relieve(False)
        bad = self.is_bad(sample)
        if bad:
            self.bad_samples += 1
            self.worst = sample
        with self._changed:
            self._breaker.sample(bad)
            changed = self._note_state()
            if self.queued and not changed:
                self._changed.notify_all()  # one that was told of a place may have been cancelled
            state = self._state
        # Calls notice changes, too, but tell nobody.
        if state != self._announced:
            self._announced = state
            if self._on_change is not None:
                self._on_change(state, sample)

    def _relieve(self, on: bool) -> None:
        if on:
            self._quiet = 0
            if not self._relieving:
                self._relieving = True
                self.reliefs += 1
                if self.slice:
                    self._slices = _move(self._levers.slice, min, self.slice)
                if self.reserve:
                    self._reserves = _move(self._levers.reserve, max, self.reserve)
            self._levers.preempt_now()
        elif self._relieving:
            self._relieving = False
            if self.slice:
                _move_back(self._levers.slice, *self._slices)
            if self.reserve:
                _move_back(self._levers.reserve, *self._reserves)

    def _note_state(self) -> bool:
        """With the lock: has the state changed? Whoever queues looks again then."""
        before, self._state = self._state, self._breaker.state
        if self._state != before:
            self._changed.notify_all()
        return self._state != before

    # ---- protected calls

    def protect(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Decorator: calls of fn go through call()."""

        @functools.wraps(fn)
        def protected(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.call(fn, *args, **kwargs)

        return protected

    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """fn(*args, **kwargs), if the breaker admits it; an exception it raises is a failure.

        Raises Overloaded while it is open, and while enough trial calls are under way; in mode
        'queue', if the queue is full or after queue_timeout seconds in it.
        """
        if self._state == "closed":
            return fn(*args, **kwargs)
        admitted = self._admit()
        ok: bool | None = None  # Cancelled and the like tell nothing
        try:
            result = fn(*args, **kwargs)
            ok = True
            return result
        except Exception:
            ok = False
            raise
        finally:
            self._lock._acquire_anyway()  # cancelled or not: a trial's place must be given back
            try:
                self._breaker.done(admitted, ok)
                if not self._note_state():
                    self._changed.notify()
            finally:
                self._lock.release()

    def go(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> G[T]:
        """Start fn(*args, **kwargs) as a G of the latency class; the call inside is protected."""
        with _runtime.latency_class():
            return _door.go(self.call, fn, *args, **kwargs)

    def _admit(self) -> int:
        with self._changed:
            admitted = self._breaker.admit()
            self._note_state()
            if admitted is None and self.mode == "queue":
                if self.queued >= self.queue_size:
                    raise self._overloaded(f"{self.queued} calls queue already (queue_size)")
                admitted = self._wait_for_admission()
                if admitted is None:
                    raise self._overloaded(f"queued for {self.queue_timeout} s (queue_timeout)")
            if admitted is None:
                raise self._overloaded("")
        return admitted

    def _wait_for_admission(self) -> int | None:
        end = time.monotonic() + self.queue_timeout
        self.queued += 1
        try:
            while (admitted := self._breaker.admit()) is None:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        finally:
            self.queued -= 1
        self._note_state()
        return admitted

    def _overloaded(self, why: str) -> Overloaded:
        self.rejected += 1
        retry_after = self._breaker.retry_after
        seen = self.worst
        figures = (
            ""
            if seen is None
            else (
                f": {seen.goroutines} G's (limit {self.max_goroutines}) waited "
                f"{seen.mean_wait:.3f} s on average for a turn (limit {self.max_wait} s)"
            )
        )
        remedy = (
            f"try again in {retry_after:.1f} s"
            if retry_after
            else "try again soon, trial calls are under way"
        )
        return Overloaded(
            f"the guard is {self._breaker.state}{figures}{'; ' + why if why else ''}; {remedy}",
            retry_after,
            seen,
        )


def _move(lever: Callable[[N], N], best: Callable[[N, N], N], to: N) -> tuple[N, N]:
    """Moves a lever that says where it was, unless that was better. (before, now)"""
    before = lever(to)
    if best(before, to) == before != to:
        lever(before)
        return before, before
    return before, to


def _move_back(lever: Callable[[N], N], before: N, mine: N) -> None:
    """Unless somebody else has moved it since."""
    found = lever(before)
    if found != mine:
        lever(found)


def _seconds(name: str, value: object, least: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= 1e9
    if not good or value == 0:
        least_text = str(least) if least else "more than 0"
        raise ValueError(f"{name}={value!r}: give seconds, {least_text}, at most 1e9")


def _count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name}={value!r}: give a whole number, 0 or more")


# ---------------------------------------------------------------- stacks of who runs


def _running_stacks() -> dict[int, str]:
    """The stacks of the G's that run, by id. A free-threaded build's world stands still for it."""
    stacks: dict[int, str] = {}
    for _, g, ident, noted in _door.look_running():
        where = places(noted) or places_of_thread(ident)
        text = " < ".join(f"{at.function} ({at.file}:{at.line})" for at in where)
        stacks[g.id] = _cut(text)
    return stacks


def _cut(text: str) -> str:
    data = text.encode(errors="replace")
    if len(data) <= STACK_BYTES:
        return text
    return data[: STACK_BYTES - 3].decode(errors="ignore") + "..."


__all__ = ["Hog", "HungerGuard", "Overloaded", "Rules", "Sample"]
