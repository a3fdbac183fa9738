"""Hypothesis state machines: channels with select, locks, queues, against a simple model.

Each operation is a G. After each step everything has settled (each G has ended or is parked),
so the model, which is sequential, says exactly who waits in which order and who got what;
only the choice of a select among ready cases is read off the result.
"""

from __future__ import annotations

import os
from collections import deque

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from support import PATIENCE, is_parked, poll_until

import gmpy_rt as rt
from gmpy_rt import queue

EXAMPLES = int(os.environ.get("GMPY_MACHINE_EXAMPLES", "15"))
CLOSED = "closed"


class Op:
    """A G under way, and what the model expects of it (None: that it waits)."""

    def __init__(self, fn, *args):
        self.expected = None
        self.g = rt.go(fn, *args)
        poll_until(lambda: self.g.done() or is_parked(self.g))

    def outcome(self):
        """('value', v), or ('error', type of the exception); None while it waits."""
        if not self.g.done():
            return None
        exc = self.g.exception(0)
        return ("error", type(exc)) if exc is not None else ("value", self.g.result(0))


class Machine(RuleBasedStateMachine):
    """Keeps the operations under way; compares each with the model after each step."""

    def __init__(self):
        super().__init__()
        self.waiting: list[Op] = []

    def begin(self, op: Op) -> Op:
        self.waiting.append(op)
        return op

    def end(self, op: Op, kind: str, value) -> None:
        op.expected = (kind, value)

    @invariant()
    def as_the_model_says(self):
        for op in self.waiting:
            if op.expected is None:
                poll_until(lambda op=op: op.g.done() or is_parked(op.g))
                assert not op.g.done(), f"{op.g} should wait, got {op.outcome()}"
            else:
                assert op.g.join(PATIENCE), f"{op.g} waits, the model expects {op.expected}"
                assert op.outcome() == op.expected
        self.waiting = [op for op in self.waiting if op.expected is None]

    def forget(self, op: Op) -> None:
        """The model's half of a cancel."""

    # No precondition: what waits may hang on a select's random choice.
    @rule(at=st.integers(0, 1000))
    def cancel(self, at):
        if not self.waiting:
            return
        op = self.waiting[at % len(self.waiting)]
        self.forget(op)
        op.g.cancel()
        self.end(op, "error", rt.Cancelled)

    def teardown(self):
        for op in self.waiting:
            op.g.cancel()
            assert op.g.join(PATIENCE)


# ---------------------------------------------------------------- channels and select


class ModelChan:
    def __init__(self, cap):
        self.cap, self.real = cap, rt.Chan(cap)
        self.buffer, self.closed = deque(), False
        self.receivers: list[tuple[Op, int]] = []
        self.senders: list[tuple[Op, int, int]] = []

    def ready(self, sending):
        if self.closed:
            return True
        if sending:
            return bool(self.receivers) or len(self.buffer) < self.cap
        return bool(self.buffer) or bool(self.senders)

    def fails(self, sending):
        return self.closed and (sending or not self.buffer)

    def forget(self, op):
        self.receivers = [e for e in self.receivers if e[0] is not op]
        self.senders = [e for e in self.senders if e[0] is not op]


cases = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=4)


class Channels(Machine):
    def __init__(self):
        super().__init__()
        self.chans = [ModelChan(0), ModelChan(1), ModelChan(3)]
        self.next = 0

    def forget(self, op):
        for chan in self.chans:
            chan.forget(op)

    def first(self, entries):
        """Who is served: the first in line; of its cases on this channel, a random one."""
        op = entries[0][0]
        own = [entry for entry in entries if entry[0] is op]
        if len(own) > 1:
            assert op.g.join(PATIENCE), f"{op.g} waits, but it was its turn"
            _, got = op.outcome()
            own = [entry for entry in own if entry[1] == got[0]]
        return own[0]

    def give(self, entry, value=None):
        """The partner that waits, a select, has its case done."""
        op, index = entry[0], entry[1]
        self.forget(op)
        self.end(op, "value", (index, value))

    def do(self, op, index, chan, sending, value):
        """op does its case `index` now, by the model."""
        if sending and chan.closed:
            self.end(op, "error", rt.ChanClosed)
        elif sending:
            if chan.receivers:
                self.give(self.first(chan.receivers), value)
            else:
                chan.buffer.append(value)
            self.end(op, "value", (index, None))
        elif chan.buffer or chan.senders:
            if chan.buffer:
                got = chan.buffer.popleft()
                if chan.senders:
                    sender = self.first(chan.senders)
                    chan.buffer.append(sender[2])
                    self.give(sender)
            else:
                sender = self.first(chan.senders)
                got = sender[2]
                self.give(sender)
            self.end(op, "value", (index, got))
        else:
            self.end(op, "error", rt.ChanClosed)

    @rule(cases=cases)
    def select(self, cases):
        real, model = [], []
        for at, sending in cases:
            self.next += 1
            chan = self.chans[at]
            real.append((chan.real, self.next) if sending else chan.real)
            model.append((chan, sending, self.next))
        op = self.begin(Op(rt.select, *real))
        ready = [i for i, (chan, sending, _) in enumerate(model) if chan.ready(sending)]
        if not ready:
            for i, (chan, sending, value) in enumerate(model):
                if sending:
                    chan.senders.append((op, i, value))
                else:
                    chan.receivers.append((op, i))
            return
        assert op.g.join(PATIENCE), "it waits, but a case is ready"
        kind, got = op.outcome()
        if kind == "error":
            chosen = next(i for i in ready if model[i][0].fails(model[i][1]))
        else:
            chosen = got[0]
            assert chosen in ready
        self.do(op, chosen, *model[chosen])

    @rule(at=st.integers(0, 2))
    def try_send(self, at):
        self.next += 1
        chan = self.chans[at]
        if chan.closed:
            with pytest.raises(rt.ChanClosed):
                chan.real.try_send(self.next)
            return
        could = chan.ready(True)
        assert chan.real.try_send(self.next) is could
        if could and chan.receivers:
            self.give(self.first(chan.receivers), self.next)
        elif could:
            chan.buffer.append(self.next)

    @rule(at=st.integers(0, 2))
    def close(self, at):
        chan = self.chans[at]
        if chan.closed:
            with pytest.raises(rt.ChanClosed):
                chan.real.close()
            return
        chan.real.close()
        chan.closed = True
        for entry in chan.receivers + chan.senders:
            if entry[0].expected is None:
                self.forget(entry[0])
                self.end(entry[0], "error", rt.ChanClosed)

    @rule(at=st.integers(0, 2), cap=st.integers(0, 3))
    def reopen(self, at, cap):
        """A new channel in the place of a closed one."""
        if self.chans[at].closed:
            self.chans[at] = ModelChan(cap)

    @invariant()
    def lengths(self):
        for chan in self.chans:
            assert len(chan.real) == len(chan.buffer)


# ---------------------------------------------------------------- locks


class Locks(Machine):
    """A Lock, an RLock, a Semaphore of 2 and an RWMutex; any G may release all but the RLock."""

    def __init__(self):
        super().__init__()
        self.lock, self.sem, self.rw = rt.Lock(), rt.Semaphore(2), rt.RWMutex()
        self.rlock, self.depth = rt.RLock(), 0  # the machine's own G holds it, or nobody
        self.held, self.units = False, 2
        self.readers, self.writing = 0, False
        self.queues = {name: [] for name in ("lock", "sem", "read", "write", "rlock")}

    def forget(self, op):
        for name, waiting in self.queues.items():
            if op in waiting:
                waiting.remove(op)
                if name == "write":
                    self.let_readers_in()

    def let_readers_in(self):
        if not self.writing and not self.queues["write"]:
            self.readers += len(self.queues["read"])
            self.wake_all("read")

    def wake(self, name):
        if self.queues[name]:
            self.end(self.queues[name].pop(0), "value", True)
            return True
        return False

    def wake_all(self, name):
        while self.wake(name):
            pass

    @rule(name=st.sampled_from(["lock", "sem", "read", "write"]))
    def acquire(self, name):
        fn = {
            "lock": self.lock.acquire,
            "sem": self.sem.acquire,
            "read": self.rw.rlock,
            "write": self.rw.lock,
        }[name]
        free = {
            "lock": not self.held,
            "sem": self.units > 0,
            "read": not self.writing and not self.queues["write"],
            "write": not self.writing and not self.readers,
        }[name]
        op = self.begin(Op(fn))
        if not free:
            self.queues[name].append(op)
            return
        self.end(op, "value", True)
        self.held |= name == "lock"
        self.units -= name == "sem"
        self.readers += name == "read"
        self.writing |= name == "write"

    @rule()
    def release_lock(self):
        if not self.held:
            with pytest.raises(RuntimeError):
                self.lock.release()
            return
        self.lock.release()
        self.held = self.wake("lock")

    @rule()
    def take_rlock(self):
        assert self.rlock.acquire()
        self.depth += 1

    @rule()
    def want_rlock(self):
        """Another G wants it, only to give it back."""

        def take():
            with self.rlock:
                return True

        op = self.begin(Op(take))
        if self.depth:
            self.queues["rlock"].append(op)
        else:
            self.end(op, "value", True)

    @rule()
    def release_rlock(self):
        if not self.depth:
            with pytest.raises(RuntimeError):
                self.rlock.release()
            return
        theft = rt.go(self.rlock.release).exception(PATIENCE)
        assert isinstance(theft, RuntimeError), "another G released it"
        self.rlock.release()
        self.depth -= 1
        if not self.depth:
            self.wake_all("rlock")

    @rule(n=st.integers(1, 3))
    def release_units(self, n):
        self.sem.release(n)
        for _ in range(n):
            self.units += not self.wake("sem")

    def writer_next(self):
        self.writing = self.wake("write")

    @rule()
    def runlock(self):
        if not self.readers:
            with pytest.raises(RuntimeError):
                self.rw.runlock()
            return
        self.rw.runlock()
        self.readers -= 1
        if not self.readers:
            self.writer_next()

    @rule()
    def unlock(self):
        if not self.writing:
            with pytest.raises(RuntimeError):
                self.rw.unlock()
            return
        self.rw.unlock()
        self.writing = False
        self.readers = len(self.queues["read"])
        self.wake_all("read")
        if not self.readers:
            self.writer_next()

    @invariant()
    def states(self):
        assert self.rlock._recursion_count() == self.depth
        assert self.lock.locked() is self.held and self.sem.value == self.units
        assert (self.rw._readers, self.rw._writing) == (self.readers, self.writing)


# ---------------------------------------------------------------- what wakes many


class Signals(Machine):
    """An Event, a Condition, a Barrier of 3 and a WaitGroup."""

    def __init__(self):
        super().__init__()
        self.event, self.cond = rt.Event(), rt.Condition()
        self.barrier, self.wg = rt.Barrier(3), rt.WaitGroup()
        self.flag, self.count = False, 0
        self.lines = {name: [] for name in ("event", "cond", "wg")}
        self.places, self.met = [0, 1, 2], []  # the barrier's free numbers; who has which

    def forget(self, op):
        for line in self.lines.values():
            if op in line:
                line.remove(op)
        for party in self.met:
            if party[0] is op:
                self.met.remove(party)
                self.places.insert(0, party[1])
                return

    def wake(self, name, n, value=True):
        for op in self.lines[name][:n]:
            self.end(op, "value", value)
        del self.lines[name][:n]

    @rule()
    def wait_for_event(self):
        op = self.begin(Op(self.event.wait))
        self.lines["event"].append(op)
        if self.flag:
            self.wake("event", 1)

    @rule()
    def set(self):
        self.event.set()
        self.flag = True
        self.wake("event", None)

    @rule()
    def clear(self):
        self.event.clear()
        self.flag = False

    @rule()
    def wait_for_condition(self):
        def wait():
            with self.cond:
                return self.cond.wait()

        self.lines["cond"].append(self.begin(Op(wait)))

    @rule(n=st.integers(0, 3), everybody=st.booleans())
    def notify(self, n, everybody):
        with self.cond:
            if everybody and n == 0:
                self.cond.notify_all()
                n = None
            else:
                self.cond.notify(n)
        self.wake("cond", n)

    @rule()
    def meet(self):
        op = self.begin(Op(self.barrier.wait))
        self.met.append((op, self.places.pop(0)))
        if not self.places:
            for party, number in self.met:
                self.end(party, "value", number)
            self.places, self.met = [0, 1, 2], []

    @rule(n=st.integers(-2, 2))
    def count_for_the_group(self, n):
        if self.count + n < 0:
            with pytest.raises(ValueError, match="below 0"):
                self.wg.add(n)
            return
        self.wg.add(n)
        self.count += n
        if not self.count:
            self.wake("wg", None)

    @rule()
    def wait_for_the_group(self):
        self.lines["wg"].append(self.begin(Op(self.wg.wait)))
        if not self.count:
            self.wake("wg", None)

    @invariant()
    def states(self):
        assert self.event.is_set() is self.flag and self.wg.count == self.count
        assert self.barrier.n_waiting == len(self.met) and not self.barrier.broken
        assert len(self.cond._waiters) == len(self.lines["cond"])


# ---------------------------------------------------------------- queues


class Queues(Machine):
    """A Queue of 2 with waiting getters and putters, shutdown, join."""

    def __init__(self):
        super().__init__()
        self.q = queue.Queue(2)
        self.items, self.getters, self.putters = deque(), [], []
        self.unfinished, self.joiners, self.shut, self.next = 0, [], False, 0

    def forget(self, op):
        self.getters = [g for g in self.getters if g is not op]
        self.putters = [e for e in self.putters if e[0] is not op]
        self.joiners = [g for g in self.joiners if g is not op]

    def settle(self):
        """Items go to getters and room to putters, first come, first served."""
        moved = True
        while moved:
            moved = False
            if self.getters and self.items:
                self.end(self.getters.pop(0), "value", self.items.popleft())
                moved = True
            if self.putters and len(self.items) < 2:
                op, item = self.putters.pop(0)
                self.items.append(item)
                self.unfinished += 1
                self.end(op, "value", None)
                moved = True

    @rule()
    def put(self):
        self.next += 1
        op = self.begin(Op(self.q.put, self.next))
        if self.shut:
            self.end(op, "error", queue.ShutDown)
        else:
            self.putters.append((op, self.next))
            self.settle()

    @rule()
    def get(self):
        op = self.begin(Op(self.q.get))
        self.getters.append(op)
        self.settle()
        if self.shut and op.expected is None:
            self.getters.remove(op)
            self.end(op, "error", queue.ShutDown)

    @rule()
    def task_done(self):
        if not self.unfinished:
            with pytest.raises(ValueError):
                self.q.task_done()
            return
        self.q.task_done()
        self.unfinished -= 1
        self.joined()

    def joined(self):
        if not self.unfinished:
            for op in self.joiners:
                self.end(op, "value", None)
            self.joiners = []

    @rule()
    def join(self):
        self.joiners.append(self.begin(Op(self.q.join)))
        self.joined()

    @rule(immediate=st.booleans())
    def shutdown(self, immediate):
        if self.next % 5:  # not too often
            return
        self.q.shutdown(immediate)
        self.shut = True
        if immediate:
            self.unfinished -= min(self.unfinished, len(self.items))
            self.items.clear()
            self.joined()
        for op in self.getters + [e[0] for e in self.putters]:
            self.end(op, "error", queue.ShutDown)
        self.getters, self.putters = [], []

    @invariant()
    def size(self):
        assert self.q.qsize() == len(self.items)


@pytest.mark.deadline(300)
@pytest.mark.parametrize("procs", [1, 2, 4])
@pytest.mark.parametrize("machine", [Channels, Locks, Signals, Queues])
def test_machine(machine, procs):
    how = settings(
        max_examples=EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    rt.run(lambda: run_state_machine_as_test(machine, settings=how), procs=procs)
