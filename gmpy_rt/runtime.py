"""run(): starting and stopping the runtime, and what the calling thread does meanwhile.

The thread that calls run() is not an M. It waits in poll(2) on an eventfd, so that signals
are handled at once even when every M is busy; the core writes to the eventfd when main has
ended, when the last G has ended, or when nothing is left that could wake anybody.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import sysconfig
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

import greenlet

from . import _door, tune
from . import _load as _load  # before anything that imports _door
from . import procs as _procs
from ._core import ffi, lib
from ._door import Cancelled, Chan, DeadlockError, G, Scope
from .tune import Tuner

T = TypeVar("T")
Affinity = Literal["spread"] | Sequence[int] | None

POLICIES = ("go", "global-first", "neighbour", "affine")


class _Runtime:
    """What one run() has begun, and how it ends."""

    def __init__(self, cpus: list[int] | None, tracer: Any) -> None:
        self.cpus = cpus
        self.thread = threading.current_thread()
        self.calls: deque[_Call] = deque()  # for this thread, see in_main_thread
        self.tuner: Tuner | None = None
        self.tracer = tracer
        self.at_stop: list[Callable[[], object]] = []
        self.signals: list[int] = []
        self.wakeup_before: list[int] = []
        self.told = False  # whom the run waits for, see _still_waiting

    def watch_signals(self) -> None:
        """A signal that comes just before poll(2) wouldn't interrupt it: have it write a byte."""
        if self.thread is not threading.main_thread():
            return
        if not _pipe:
            _pipe.extend(os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        with contextlib.suppress(BlockingIOError):
            os.read(_pipe[0], 4096)  # what the last run didn't come to read
        self.signals = _pipe
        # In one step: else what a handler raises could get between the call and the assignment,
        # and nobody knew any more whom to give it back.
        wake = functools.partial(signal.set_wakeup_fd, warn_on_full_buffer=False)
        self.wakeup_before.extend(map(wake, self.signals[1:]))

    def _signalled(self) -> None:
        numbers = os.read(self.signals[0], 4096)
        if self.wakeup_before[0] >= 0:  # whoever listened before, asyncio say, still hears it
            with contextlib.suppress(OSError):
                os.write(self.wakeup_before[0], numbers)

    def wait(self, timeout: float | None = None) -> None:
        """Until the core has something to say, a signal came, or timeout seconds passed."""
        poll = select.poll()
        poll.register(_door.wake_fd(), select.POLLIN)
        if self.signals:
            poll.register(self.signals[0], select.POLLIN)
        for fd, _ in poll.poll(None if timeout is None else timeout * 1000):
            if fd == _door.wake_fd():
                os.eventfd_read(fd)
            else:
                self._signalled()
        self._call()

    def _call(self) -> None:
        while self.calls:
            self.calls[0]()
            self.calls.popleft()

    def finish(self) -> None:
        """End whatever has been begun. Called until it returns: see insist in module.c.

        What a signal's handler raises may end it anywhere, so each step can be done twice.
        """
        global _active
        if _claim.get("runtime") is not self:
            return
        _drain(self)
        while self.at_stop:
            fn = self.at_stop[-1]
            fn()
            not_at_stop(fn)
        if self.tracer is not None:
            self.tracer.stop()
        _door.stop()
        _preemption_off()
        for before in self.wakeup_before:
            signal.set_wakeup_fd(before)
            with contextlib.suppress(BlockingIOError):
                self._signalled()  # what came since the last wait
        _active = None
        self._call()  # who came before that waits for it
        _claim.pop("runtime", None)


_active: _Runtime | None = None
_claim: dict[str, _Runtime] = {}  # setdefault is one step: who is in there may run, and finishes
# For signals, see watch_signals: to read, to write. Kept from run to run: what a handler raises
# where it is made costs two file descriptors.
_pipe: list[int] = []
_PATIENCE = 5.0
_OUT_OF_REACH = "main hasn't come to where it can be interrupted"
_NO_END = "main has returned, and these G's don't end"
_OURS = ("gmpy-m", "gmpy-guard", "gmpy-debug", "gmpy-schedtrace")  # they wake nobody who waits


def preemption_mechanism() -> str:
    """How CPU-bound G's are made to yield here: 'remote-debug', 'monitoring' or 'none'."""
    remote = getattr(sys, "is_remote_debug_enabled", None)
    if remote is not None and remote():
        return "remote-debug"
    return "monitoring" if sys.version_info >= (3, 12) else "none"


def check_policy(policy: str | None) -> int:
    name = policy if policy is not None else os.environ.get("GMPY_SCHED", "go")
    index = lib.gmpy_policy_by_name(str(name).encode())
    if index < 0:
        raise ValueError(f"policy={name!r}: choose one of {', '.join(POLICIES)}")
    return int(index)


def check_affinity(affinity: Affinity) -> list[int] | None:
    if affinity is None:
        return None
    usable = sorted(os.sched_getaffinity(0))
    if affinity == "spread":
        return usable
    if isinstance(affinity, str) or not isinstance(affinity, Sequence) or not affinity:
        raise ValueError(f"affinity={affinity!r}: give None, 'spread', or a list of CPU numbers")
    cpus: list[int] = []
    for cpu in affinity:
        if not isinstance(cpu, int) or cpu not in usable:
            raise ValueError(
                f"affinity={affinity!r}: this process may use the CPUs {usable}, not {cpu!r}"
            )
        cpus.append(cpu)
    return cpus


def _on_m_start(number: int) -> None:
    """Runs on each new M: names its thread, and pins it if asked to."""
    thread = threading.current_thread()
    thread.name = f"gmpy-m{number}"
    # Python takes it for a daemon, as it hasn't started it; the threads that G's start would
    # inherit that, and the program would end without waiting for them.
    thread._daemonic = False  # type: ignore[attr-defined]
    runtime = _active
    if runtime is not None and runtime.cpus:
        import psutil

        cpu = runtime.cpus[number % len(runtime.cpus)]
        psutil.Process(threading.get_native_id()).cpu_affinity([cpu])


def unpin() -> None:
    """For threads of ours that may have been started by a G, and so inherited its M's one CPU."""
    if _active is not None and _active.cpus:
        os.sched_setaffinity(0, os.sched_getaffinity(os.getpid()))  # the main thread's: no M


def _tracer() -> Any:
    """What GMPY_DEBUG asks for: a schedtrace.Tracer, or None."""
    text = os.environ.get("GMPY_DEBUG", "")
    if not text:
        return None
    from . import schedtrace

    return schedtrace.from_environment(text)


def _main(fn: Callable[..., T], args: tuple[Any, ...]) -> T:
    g = _door.current()
    g.name = "main"
    g._notify()  # run() wants to know when this G ends
    return fn(*args)


def run(
    main: Callable[..., T],
    *args: Any,
    procs: int | None = None,
    affinity: Affinity = None,
    policy: str | None = None,
    reserve: int = 0,
) -> T:
    """Start the runtime, run main(*args) as a G, and return what it returns.

    procs: how many G's may run Python at once (GOMAXPROCS); None takes GMPY_MAXPROCS, else
    the CPUs this process may use (affinity mask and cgroup quota), looked at again every second
    (GMPY_TUNE_SECONDS; 0: never), never below the reserve and one more. affinity pins the M's to
    CPUs: 'spread' over all usable ones, or a list of CPU numbers (what a G starts, a thread or a
    process, inherits its M's CPU; calls in blocking() don't). policy: how idle P's look for
    work, one of 'go', 'global-first', 'neighbour', 'affine'; None takes GMPY_SCHED.
    reserve: how many of the P's run only G's of the latency class, see latency_class().

    When main ends, the other G's are cancelled and waited for. Raises what main raises;
    DeadlockError, with every G's stack, when nothing can wake anybody any more;
    KeyboardInterrupt if main doesn't catch it; RuntimeError inside a runtime; ValueError for
    arguments, or a GMPY_DEBUG, that can't be.
    """
    global _active
    if not callable(main):
        raise TypeError(
            f"run({main!r}): not callable; pass the function and its arguments apart: "
            "run(main, *args)"
        )
    n = _procs.default_procs() if procs is None else _procs.check_procs(procs)
    given = _procs.are_given(procs)
    _procs.check_reserve(reserve, n if given else _procs.MAX_PROCS)
    tune_seconds = tune.interval()
    index = check_policy(policy)
    cpus = check_affinity(affinity)
    tracer = _tracer()
    if _door.current_m() is not None:
        raise RuntimeError(
            "run() inside a G: the runtime runs already, use go(fn, *args) instead (a script under "
            "`gmpy-rt run` or `gmpy-rt pprof` is the main G: call main() itself there)"
        )
    runtime = _Runtime(cpus, tracer)
    try:
        if _claim.setdefault("runtime", runtime) is not runtime:
            raise RuntimeError(
                "run() while another thread's run() is under way: "
                "a process has one runtime; use go()"
            )
        _active = runtime
        _door.set_on_m_start(_on_m_start)
        if not given:
            n = tune.at_least(n, reserve)
            runtime.tuner = None if tune_seconds is None else tune.Tuner(tune_seconds)
        # When a thread has ended, greenlet looks for a leaked reference to its main greenlet by a
        # reference count. Without a GIL that count is wrong while a new thread, a new M say, has
        # the ended one's id: the greenlet was freed twice (tests/test_signals.py, weakref
        # callback).
        greenlet._greenlet.enable_optional_cleanup(False)
        runtime.watch_signals()
        _door.start(n, index)
        _door.reserve(reserve)
        if tracer is not None:
            tracer.start()
        g = _door.go(_main, main, args)
        _wait_for_main(runtime, g)
        return g.result(0)
    finally:
        _door.insist(runtime.finish)


def at_stop(fn: Callable[[], object]) -> None:
    """Call fn() when every G has ended, before the core stops: threads that read it end there.

    Raises RuntimeError outside a runtime.
    """
    if _active is None:
        raise RuntimeError(f"{fn!r} needs a runtime: call it in main, under run(main)")
    _active.at_stop.append(fn)


def not_at_stop(fn: Callable[[], object]) -> None:
    """Undo one at_stop(fn), if it is still to come."""
    if _active is not None:
        with contextlib.suppress(ValueError):
            _active.at_stop.remove(fn)


def _wait_for_main(runtime: _Runtime, main: G[Any]) -> None:
    while True:
        try:
            while not main.done():
                # A deadlock is only one if no plain thread can wake a G: look again now and then.
                timeout = 1.0 if lib.gmpy_deadlocked() else None
                tuner = runtime.tuner
                if tuner is not None:
                    timeout = min(tuner.left(), timeout or tuner.left())
                runtime.wait(timeout)
                if tuner is not None:
                    tuner.tick()
                if not main.done() and _is_deadlock():
                    again = main._interrupt(_deadlock())
                    if again and not runtime.told:
                        _still_waiting(runtime, f"a deadlock, and {_OUT_OF_REACH}")
            if isinstance(main._untaken, KeyboardInterrupt):
                raise main._untaken  # nobody else would
            return
        except KeyboardInterrupt as exc:
            again = main._interrupt(exc)
            if again is None:
                raise  # it has ended
            if again:
                _still_waiting(runtime, _OUT_OF_REACH)
            else:
                runtime.told = False


def _is_deadlock() -> bool:
    """A thread that is gone may have woken a G before it went. So: everybody waits, no thread could
    end that, and no G has run meanwhile."""
    standstill = lib.gmpy_deadlocked()
    return bool(standstill and not _foreign_threads() and lib.gmpy_deadlocked() == standstill)


def _foreign_threads() -> list[threading.Thread]:
    """Threads that aren't ours: they may hold a G's other end."""
    from .blocking import is_idle_worker

    mine = threading.current_thread()
    return [
        t
        for t in threading.enumerate()
        if t is not mine and not t.name.startswith(_OURS) and not is_idle_worker(t)
    ]


def _deadlock() -> DeadlockError:
    from .dump import stacks

    return DeadlockError(f"every G waits, and nothing is left that could wake one\n\n{stacks()}")


def _drain(runtime: _Runtime) -> None:
    """Ends what main has left running. A Ctrl-C tells whom it waits for, and comes out after it."""
    drain = _Drain(runtime)
    pressed: KeyboardInterrupt | None = None
    while True:
        try:
            drain.go_on()
            break
        except KeyboardInterrupt as exc:
            pressed = exc
            _still_waiting(runtime, _NO_END)
    if pressed is not None:
        raise pressed


class _Drain:
    """Cancels what is left, and waits until every G has ended.

    Who parks again gets _PATIENCE seconds for it (a `finally` that says goodbye), then another
    Cancelled; in the first _PATIENCE seconds at once if nothing could wake it. If that reached
    nobody (a shield holds it back), it is a DeadlockError. Where nothing helps, a wait for a lost
    lock say, people are told.
    """

    def __init__(self, runtime: _Runtime) -> None:
        self.runtime = runtime
        self.quick_until = time.monotonic() + _PATIENCE
        self.until = 0.0  # the end of this round, if one is under way
        self.hopeful = True
        self.standstill = 0  # as it began
        self.vain = 0  # rounds in a row in which no G has run

    def go_on(self) -> None:
        """Until all have ended. After an exception it can go on: no goodbye is cut short by it."""
        while _door.drain():
            if not self.until:
                self.begin_round()
            now = lib.gmpy_deadlocked()
            left = self.until - time.monotonic()
            if left <= 0 and not self.runtime.told:
                _still_waiting(self.runtime, _NO_END)
            if left <= 0 or (now and self.hopeful and time.monotonic() < self.quick_until):
                self.vain = self.vain + 1 if now and now == self.standstill else 0
                self.until = 0.0
            else:
                self.runtime.wait(left)  # less, if a signal comes

    def begin_round(self) -> None:
        self.until = time.monotonic() + _PATIENCE
        self.standstill = lib.gmpy_deadlocked()
        self.hopeful = self.vain == 0 or (self.vain == 1 and not _foreign_threads())
        if not self.hopeful:
            return
        error = _deadlock() if self.vain else Cancelled
        for g in _door.all_g():
            g._interrupt(error)
            del g


def _still_waiting(runtime: _Runtime, what: str) -> None:
    """Tells whom the run waits for. When Ctrl-C is pressed again, then or meanwhile: ends the
    process as if there were no handler."""
    if not runtime.told:
        runtime.told = True
        try:
            print(f"gmpy_rt: {what}; Ctrl-C ends the process:", file=sys.stderr)
            from .dump import dump

            dump()
            return
        except KeyboardInterrupt:
            pass
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def gomaxprocs(n: int | None = None) -> int:
    """How many G's may run Python at once; n sets a new number, up or down, while running.

    Returns the number before. Raises ValueError for n < 1 and for n that leaves no P beside the
    reserved ones, RuntimeError outside a runtime.
    """
    runtime = _active
    if runtime is None:
        raise RuntimeError("gomaxprocs() outside a runtime: give run(main, procs=n) the number")
    stat = ffi.new("gmpy_stat *")
    lib.gmpy_stat_read(stat, 0)
    if n is None:
        return int(stat.procs)
    if _procs.check_procs(n, name="n") <= stat.reserve:
        raise ValueError(
            f"n={n}: {stat.reserve} of the P's are reserved, and at least one must be left for "
            f"other G's; take at least {stat.reserve + 1}, or lower reserve() first"
        )
    tuner, runtime.tuner = runtime.tuner, None
    if tuner is not None:
        tuner.stop()  # somebody knows better
    return int(_door.gomaxprocs(n))


def reserve(n: int | None = None) -> int:
    """How many P's run only G's of the latency class; n sets a new number while running.

    Returns the number before. Raises ValueError for n that is negative or leaves no P for other
    G's, RuntimeError outside a runtime.
    """
    if _active is None:
        raise RuntimeError("reserve() outside a runtime: give run(main, reserve=n) the number")
    stat = ffi.new("gmpy_stat *")
    lib.gmpy_stat_read(stat, 0)
    if n is None:
        return int(stat.reserve)
    return int(_door.reserve(_procs.check_reserve(n, stat.procs, name="n")))


@contextlib.contextmanager
def latency_class(on: bool = True) -> Iterator[None]:
    """`with latency_class(): go(fn)`: G's that are started inside are of the latency class.

    Where P's are reserved, run(main, reserve=1) say, those run nothing else, so that no
    CPU-bound G is ever ahead of a latency-sensitive one; the latency class may use the other
    P's, too. A started G stays on its thread, therefore the class is for life; and the G's that
    it starts are of its own class, unless it says latency_class(False). Without reserved P's
    all G's are alike. In a plain thread it is for what that thread starts.
    """
    before = _door.set_latency(on)
    try:
        yield
    finally:
        _door.set_latency(before)


def num_goroutine() -> int:
    """How many G's there are that haven't ended."""
    stat = ffi.new("gmpy_stat *")
    lib.gmpy_stat_read(stat, 0)
    return int(stat.goroutines)


def lock_os_thread() -> None:
    """Give this G's M to it alone: no further G will start there, until unlock_os_thread().

    Calls nest; what isn't undone when the G ends is undone then. A started G never changes its M
    anyway. G's that started on this M before stay there too.
    """
    _door.lock_m(1)


def unlock_os_thread() -> None:
    """Undo one lock_os_thread() of this G. Raises RuntimeError if there was none."""
    _door.lock_m(-1)


def in_main_thread(fn: Callable[[], T]) -> T:
    """Call fn() in the main thread, where run() waits; return what it returns.

    Raises what it raises; RuntimeError outside a runtime, or if run() waits in another thread.
    """
    if threading.current_thread() is threading.main_thread():
        return fn()
    runtime = _active
    if runtime is None or runtime.thread is not threading.main_thread():
        raise RuntimeError("this needs the main thread: call run() there")
    call = _Call(fn)
    runtime.calls.append(call)
    if _active is not runtime and call.withdraw():  # else it sees to it, see finish()
        raise RuntimeError("this needs the main thread, and its run() has just ended")
    _door.external(1)  # no deadlock: that thread answers
    try:
        _door.wake()
        try:
            result, exc = call.done.recv()
        except BaseException:
            if not call.withdraw():  # it is done: nobody may take it that it wasn't
                with Scope(shield=True):
                    call.done.recv()
            raise
    finally:
        _door.external(-1)
    if exc is not None:
        raise exc
    return result  # type: ignore[no-any-return]


class _Call:
    """One fn() that the main thread is asked for. Whoever takes it first decides: the main thread
    calls it, or who asked for it withdraws it."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        self._todo = [fn]
        self.done: Chan[tuple[Any, BaseException | None]] = Chan(1)

    def _take(self) -> Callable[[], Any] | None:
        try:
            return self._todo.pop()
        except IndexError:
            return None

    def withdraw(self) -> bool:
        """Whether it wasn't called, and won't be."""
        return self._take() is not None

    def __call__(self) -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            fn = self._take()
            if fn is None:
                return  # withdrawn, or called already: what a handler raised came just after it
            outcome = fn(), None
        except BaseException as exc:
            outcome = None, exc
        self.done.try_send(outcome)
        if isinstance(outcome[1], KeyboardInterrupt):
            raise outcome[1]  # main's, too


# ---------------------------------------------------------------- exceptions nobody sees


def excepthook(g: G[Any]) -> None:
    """Called once with a G that failed and whose exception nobody asked for.

    Prints the traceback to stderr. Replace it: gmpy_rt.runtime.excepthook = fn.
    """
    exc = g.exception(0)
    assert exc is not None
    print(f"Exception in {g!r}, whose result nobody asked for:", file=sys.stderr)
    traceback.print_exception(exc, file=sys.stderr)
    sys.stderr.flush()


def _call_excepthook(g: G[Any]) -> None:
    excepthook(g)


# ---------------------------------------------------------------- preemption, fork


# Code that holds locks of threads while it runs Python: no G is preempted in there.
_LOCKING = (
    "threading.py",
    "queue.py",
    "logging/__init__.py",
    "logging/handlers.py",
    "concurrent/futures/_base.py",
    "concurrent/futures/thread.py",
    "concurrent/futures/process.py",
)


def _locking_files() -> set[str]:
    stdlib = sysconfig.get_path("stdlib")
    files = {os.path.join(stdlib, name) for name in _LOCKING}
    return files | {"<frozen importlib._bootstrap>"}


def _preemption_off() -> None:
    """After the runtime has ended. Replaced where there is something to do."""


def _set_up_preemption() -> None:
    global _preemption_off
    _door.no_preempt_in(_locking_files())
    mechanism = preemption_mechanism()
    if mechanism != "monitoring":
        _door.preempt_mode(mechanism)
        return
    from . import _monitoring

    _door.preempt_mode(mechanism, _monitoring.switch_on)
    _preemption_off = _monitoring.switch_off


def _after_fork_in_child() -> None:
    """The child has one thread: the runtime and its G's are the parent's."""
    global _active
    _active = None
    _claim.clear()
    while _pipe:  # the parent's
        os.close(_pipe.pop())
    _door.after_fork()
    _door.netpoll_forked()
    me = threading.current_thread()
    if sys.version_info < (3, 13) and me._tstate_lock is None:
        # Forked in a G, so by a thread that threading didn't start: its shutdown asserts a lock
        # that only those have, and a child of multiprocessing ended with 1.
        me._set_tstate_lock()  # type: ignore[attr-defined]


_door.set_excepthook(_call_excepthook)
_set_up_preemption()
os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["Cancelled", "DeadlockError", "run"]
