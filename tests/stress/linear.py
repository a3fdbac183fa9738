"""Is a recorded history linearizable?

A history is one list of operations for each G, in its order, each with the times between which
it took effect. It is linearizable if one order of all of them respects those times (what had
returned before another began comes first) and is legal for a sequential model.

The search is Wing & Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memo
("Testing for linearizability", 2017): depth first over what may come next, never twice from the
same place in every G's list with the same state.

A model has `start`, a hashable state; step(state, op), the state after op or None if op can't
give its result there; and pair(state, a, b), the same for two operations that take effect in
one moment, such as the two ends of an unbuffered channel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gmpy_rt as rt
from gmpy_rt import queue

# No Cancelled between what an operation did and its note: on a busy machine, where G's are
# preempted, one came there, and a value that had been received seemed to be lost.
__gmpy_atomic__ = True

NAMES: dict[type[BaseException], str] = {
    rt.ChanClosed: "closed",
    rt.Cancelled: "cancelled",
    TimeoutError: "timeout",
    queue.Empty: "empty",
    queue.Full: "full",
    RuntimeError: "misuse",
}


@dataclass(frozen=True)
class Op:
    """What was called, and what it returned: a value, or the name of its exception."""

    name: str
    args: tuple[Any, ...]
    result: Any
    invoked: int
    returned: int


class Model(Protocol):
    start: Hashable

    def step(self, state: Any, op: Op) -> Hashable | None: ...
    def pair(self, state: Any, a: Op, b: Op) -> Hashable | None: ...


class Recorder:
    """The operations of one G. Cancelled ends the operation and not the G."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def call(self, name: str, fn: Callable[..., Any], *args: Any, about: Any = None) -> Any:
        """Call fn(*args); about: what to note instead of args."""
        invoked = time.perf_counter_ns()
        try:
            result = fn(*args)
        except tuple(NAMES) as exc:
            result = next(name for kind, name in NAMES.items() if isinstance(exc, kind))
        returned = time.perf_counter_ns()
        self.ops.append(Op(name, args if about is None else about, result, invoked, returned))
        return result


def unlinearizable(history: Sequence[Sequence[Op]], model: Model) -> str | None:
    """None if there is an order; otherwise where the longest attempt got stuck."""
    ends = tuple(len(ops) for ops in history)
    stack = [(tuple(0 for _ in history), model.start)]
    seen = set(stack)
    best, stuck = -1, ""
    while stack:
        at, state = stack.pop()
        if at == ends:
            return None
        following = [(g, history[g][at[g]]) for g in range(len(at)) if at[g] < ends[g]]
        soonest = min(op.returned for _, op in following)
        # Who was invoked later than that comes after the one that had returned by then.
        candidates = [(g, op) for g, op in following if op.invoked <= soonest]
        if sum(at) > best:
            best = sum(at)
            stuck = f"after {best} operations, in state {state}, none of these can be next: " + (
                ", ".join(f"{op.name}{op.args} -> {op.result} in G {g}" for g, op in candidates)
            )
        moves: list[tuple[tuple[int, ...], Hashable | None]] = []
        for g, op in candidates:
            moves.append(((g,), model.step(state, op)))
            moves += [((g, h), model.pair(state, op, o)) for h, o in candidates if h != g]
        for gs, after in moves:
            if after is not None:
                there = tuple(n + (g in gs) for g, n in enumerate(at))
                if (there, after) not in seen:
                    seen.add((there, after))
                    stack.append((there, after))
    return stuck


class Single:
    """A model none of whose operations come in pairs."""

    def pair(self, state: Any, a: Op, b: Op) -> None:
        return None


# ---------------------------------------------------------------- channels


class Chans:
    """Several channels, of these capacities. The state of each: (closed, values).

    Operations: send(c, v), try_send(c, v), recv(c), try_recv(c), close(c) and select(cases),
    with c the number of a channel and a case (c, v) or (c,). That a partner waits at an
    unbuffered channel can't be told from outside, so there a try may always fail.
    """

    def __init__(self, *capacities: int) -> None:
        self.capacities = capacities
        self.start = tuple((False, ()) for _ in capacities)

    def done(self, op: Op) -> tuple[Any, ...] | None:
        """The case that was done, (c, v) for a send, and (c, None, v) for a receive."""
        if op.name in ("send", "try_send") and op.result in (None, True):
            return op.args
        if op.name in ("recv", "try_recv") and isinstance(op.result, tuple) and op.result[0]:
            return (op.args[0], None, op.result[1])
        if op.name == "select" and isinstance(op.result, tuple) and op.result[0] is not None:
            case = op.args[op.result[0]]
            return case if len(case) == 2 else (case[0], None, op.result[1])
        return None

    def ready(self, state: Any, case: tuple[Any, ...]) -> bool:
        closed, values = state[case[0]]
        full = len(values) >= self.capacities[case[0]]
        return closed or (not full if len(case) == 2 else bool(values))

    def fails(self, state: Any, case: tuple[Any, ...]) -> bool:
        closed, values = state[case[0]]
        return closed and (len(case) == 2 or not values)

    def step(self, state: Any, op: Op) -> Hashable | None:
        if op.result == "cancelled":
            return state
        case = self.done(op)
        if case is not None:
            c, sends = case[0], len(case) == 2
            closed, values = state[c]
            if not self.ready(state, case[:2] if sends else case[:1]) or (sends and closed):
                return None
            if not sends and (not values or values[0] != case[2]):
                return None
            values = (*values, case[1]) if sends else values[1:]
            return (*state[:c], (closed, values), *state[c + 1 :])
        if op.name == "close":
            c = op.args[0]
            if state[c][0] is not (op.result == "closed"):
                return None
            return (*state[:c], (True, state[c][1]), *state[c + 1 :])
        if op.name == "select":
            cases: Sequence[tuple[Any, ...]] = op.args
        else:
            cases = [op.args if "send" in op.name else op.args[:1]]
        if op.result == "closed":
            return state if any(self.fails(state, case) for case in cases) else None
        return state if not any(self.ready(state, case) for case in cases) else None

    def pair(self, state: Any, a: Op, b: Op) -> Hashable | None:
        sent, received = self.done(a), self.done(b)
        if sent is None or received is None or len(sent) != 2 or len(received) != 3:
            return None
        c = sent[0]
        met = c == received[0] and sent[1] == received[2] and not self.capacities[c]
        waited = not (a.name.startswith("try") and b.name.startswith("try"))
        return state if met and waited and not state[c][0] else None


# ---------------------------------------------------------------- locks


class Locks(Single):
    """A Lock: whether it is held. A Semaphore, too: how many units are left."""

    def __init__(self, units: int = 1) -> None:
        self.start = units

    def step(self, state: int, op: Op) -> int | None:
        if op.name == "release":
            return state + op.args[0] if op.result is None else None
        if op.result is True:
            return state - 1 if state else None
        return state if op.result == "cancelled" or not state else None


class RLocks(Single):
    """(who holds it, how often); each operation's argument is its G's number."""

    start = (None, 0)

    def step(self, state: Any, op: Op) -> Any:
        (me,), (owner, count) = op.args, state
        if op.name == "release":
            if op.result == "misuse":
                return state if owner != me else None
            return None if owner != me else (owner, count - 1) if count > 1 else self.start
        if op.result is True:
            return (me, count + 1) if owner in (None, me) else None
        return state if op.result == "cancelled" or owner not in (None, me) else None


class RWMutexes(Single):
    """(readers, writing). A reader may be refused while there are others: a writer may wait."""

    start = (0, False)

    def step(self, state: Any, op: Op) -> Any:
        readers, writing = state
        if op.name == "runlock":
            return (readers - 1, writing) if readers else None
        if op.name == "unlock":
            return (readers, False) if writing else None
        if op.result is not True:
            return state if op.result == "cancelled" or readers or writing else None
        if writing or (readers and op.name == "lock"):
            return None
        return (readers + 1, False) if op.name == "rlock" else (0, True)


# ---------------------------------------------------------------- queues


class Queues(Single):
    """A Queue of that size: its items in the order of their arrival. take: which goes next."""

    def __init__(self, size: int, take: Callable[[tuple[Any, ...]], Any] = lambda items: items[0]):
        self.size, self.take = size, take
        self.start: tuple[Any, ...] = ()

    def step(self, state: tuple[Any, ...], op: Op) -> tuple[Any, ...] | None:
        if op.result == "cancelled":
            return state
        full = self.size and len(state) >= self.size
        if op.name == "put":
            if op.result == "full":
                return state if full else None
            return None if full else (*state, op.args[0])
        if op.result == "empty":
            return None if state else state
        if not state or self.take(state) != op.result:
            return None
        at = state.index(op.result)
        return state[:at] + state[at + 1 :]
