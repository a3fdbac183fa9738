"""From the core's events (csrc/trace.h) to the trace format of Go 1.23, for go tool trace.

The format is that of Go's internal/trace/tracev2: batches of events per M, with times relative
to the one before, and tables of strings and stacks. Its reader replays the states of G's, P's and
M's and refuses a trace in which an event doesn't fit them. So this module keeps the same states,
goes through the events in the order of time, and puts in what is missing where the trace began
amid work or events were lost. One generation; times are strictly increasing, so that the reader
sees the events in this very order.

What Go has no word for is left out: steals, tokens, requests to preempt, timers. A call in which
an M lost its P is a syscall there, from the moment that sysmon noticed it.
"""

from __future__ import annotations

from typing import IO

from ._profile_proto import varint
from ._trace_raw import NONE, SYSMON, THREAD, TYPES, About, Raw, Record, merged, scan

_HEADER = b"go 1.23 trace\x00\x00\x00"
_BATCH, _STACKS, _STACK, _STRINGS, _STRING, _FREQUENCY = 1, 2, 3, 4, 5, 8
_PROCS, _P_START, _P_STOP, _P_STEAL, _P_STATUS = 9, 10, 11, 12, 13
_CREATE, _START, _DESTROY, _STOP, _BLOCK, _UNBLOCK = 14, 16, 17, 19, 20, 21
_SYSCALL, _SYSCALL_END, _SYSCALL_END_BLOCKED = 22, 23, 24
_REGION, _REGION_END, _LOG, _STATUS = 42, 43, 44, 48
_P_RUNNING, _P_IDLE = 1, 2  # statuses of P's
_DEAD, _RUNNABLE, _RUNNING, _IN_CALL, _WAITING = range(5)  # of G's
_NOBODY = (1 << 64) - 1
_OUTSIDE = 1 << 32  # M's of threads that aren't: this and their number
_MAX_BATCH, _MAX_STRING = 60_000, 1024


class _G:
    __slots__ = ("early", "m", "regions", "seq", "state")

    def __init__(self) -> None:
        self.state, self.seq, self.m = _DEAD, 0, NONE
        self.early = -1  # the M that woke it while it still ran
        self.regions: list[str] = []


class _P:
    __slots__ = ("m", "seq")

    def __init__(self) -> None:
        self.m, self.seq = NONE, 0


class _M:
    __slots__ = ("batch", "begin", "g", "last", "p")

    def __init__(self) -> None:
        self.g, self.p = 0, NONE
        self.batch = bytearray()
        self.begin = self.last = 0  # times of its first and its last event


class Exporter:
    """Writes one trace. See export()."""

    def __init__(self, out: IO[bytes], about: About, found: Raw) -> None:
        self.out, self.about, self.found = out, about, found
        self.ms: dict[int, _M] = {}
        self.ps: dict[int, _P] = {}
        self.gs: dict[int, _G] = {}
        self.strings: dict[str, int] = {"": 1}
        self.stacks: dict[str, int] = {}
        self.now = 0

    # ------------------------------------------------------------ bytes

    def emit(self, m: int, event: int, *args: int) -> None:
        mm = self.m(m)
        self.now += 1
        if len(mm.batch) > _MAX_BATCH:
            self.flush(m, mm)
        if not mm.batch:
            mm.begin = mm.last = self.now
        mm.batch.append(event)
        mm.batch += varint(self.now - mm.last)
        for arg in args:
            mm.batch += varint(arg)
        mm.last = self.now

    def flush(self, m: int, mm: _M) -> None:
        if mm.batch:
            self.write_batch(m, mm.begin, mm.batch)
            mm.batch.clear()

    def write_batch(self, m: int, when: int, data: bytes | bytearray) -> None:
        head = b"".join(map(varint, (_BATCH, 1, m, when, len(data))))
        self.out.write(head + data)

    def write_table(self, kind: int, entries: list[bytes]) -> None:
        data = bytearray([kind])
        for entry in entries:
            if len(data) + len(entry) > _MAX_BATCH:
                self.write_batch(_NOBODY, 1, data)
                data = bytearray([kind])
            data += entry
        self.write_batch(_NOBODY, 1, data)

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings) + 1)

    def stack(self, g: int) -> int:
        """A stack of one frame that says which G it is: Go names G's by their first function."""
        name = self.about.name_of(g, self.found)
        self.string(name)
        return self.stacks.setdefault(name, len(self.stacks) + 1)

    # ------------------------------------------------------------ who

    def m(self, number: int) -> _M:
        m = self.ms.get(number)
        return m if m is not None else self.ms.setdefault(number, _M())

    def g(self, number: int) -> _G:
        g = self.gs.get(number)
        return g if g is not None else self.gs.setdefault(number, _G())

    def where(self, m: int, who: int) -> int:
        """The M on whose behalf something is written."""
        if m < SYSMON:
            return m
        return _OUTSIDE + (who & ~THREAD if m == NONE and who & THREAD else 0)

    # ------------------------------------------------------------ P's and M's

    def p(self, number: int) -> _P:
        p = self.ps.get(number)
        if p is None:
            p = self.ps[number] = _P()
            self.emit(_OUTSIDE, _P_STATUS, number, _P_IDLE)
        return p

    def hold(self, p: int, m: int) -> None:
        """M m holds P p."""
        pp, mm = self.p(p), self.m(m)
        if pp.m == m:
            return
        self.release(p)
        if mm.p != NONE:
            self.release(mm.p)
        self.leave_call(m)
        pp.seq += 1
        pp.m, mm.p = m, p
        self.emit(m, _P_START, p, pp.seq)

    def release(self, p: int) -> None:
        pp = self.p(p)
        if pp.m == NONE:
            return
        mm = self.m(pp.m)
        if mm.g and not self.in_call(mm):
            self.stop(mm.g, "runtime.Gosched")
        self.emit(pp.m, _P_STOP)
        mm.p, pp.m = NONE, NONE

    def in_call(self, mm: _M) -> bool:
        return mm.g != 0 and self.g(mm.g).state == _IN_CALL

    def enter_call(self, m: int) -> bool:
        """The G that runs on M m, with a P, makes a call that may block."""
        mm = self.m(m)
        if mm.p == NONE or not mm.g:
            return False
        if not self.in_call(mm):
            pp = self.p(mm.p)
            pp.seq += 1
            self.g(mm.g).state = _IN_CALL
            self.emit(m, _SYSCALL, pp.seq, self.stack(mm.g))
        return True

    def leave_call(self, m: int) -> None:
        """If the G on M m is in a call: it is out of it, running or, without its P, runnable."""
        mm = self.m(m)
        if not self.in_call(mm):
            return
        if mm.p != NONE:
            self.g(mm.g).state = _RUNNING
            self.emit(m, _SYSCALL_END)
        else:
            self.g(mm.g).state = _RUNNABLE
            mm.g = 0
            self.emit(m, _SYSCALL_END_BLOCKED)

    # ------------------------------------------------------------ G's

    def appear(self, number: int, state: int, m: int = _OUTSIDE) -> None:
        """A G that no event has made: it is there."""
        self.g(number).state = state
        self.emit(m, _STATUS, number, _NOBODY, state, self.stack(number))

    def ready(self, number: int, by: int) -> None:
        g = self.g(number)
        if g.state == _DEAD:
            self.appear(number, _RUNNABLE)
        elif g.state == _WAITING:
            g.state = _RUNNABLE
            g.seq += 1
            self.emit(by, _UNBLOCK, number, g.seq, 0)
        elif g.state == _RUNNING:
            g.early = by

    def run(self, number: int, p: int, m: int) -> None:
        """G `number` runs on M m, which holds P p, if it doesn't yet."""
        g, mm = self.g(number), self.m(m)
        self.hold(p, m)
        self.leave_call(m)
        if mm.g == number:
            return
        if mm.g:
            self.stop(mm.g, "runtime.Gosched")
        if g.state == _RUNNING:
            self.stop(number, "runtime.Gosched")
        elif g.state != _RUNNABLE:
            self.ready(number, _OUTSIDE)
        g.seq += 1
        g.state, g.m, mm.g = _RUNNING, m, number
        self.emit(m, _START, number, g.seq)

    def stop(self, number: int, why: str) -> None:
        """The G, which runs, doesn't any more, but could."""
        g = self.g(number)
        self.leave_call(g.m)
        if g.state == _RUNNING:
            g.state = _RUNNABLE
            self.m(g.m).g = 0
            self.emit(g.m, _STOP, self.string(why), self.stack(number))

    # ------------------------------------------------------------ the events

    def do_create(self, r: Record) -> None:
        _, number, arg, _, _, m, _ = r
        m = self.where(m, arg)
        mm = self.m(m)
        if mm.p == NONE or self.in_call(mm) or self.g(number).state != _DEAD:
            self.ready(number, m)  # made by a plain thread: Go's are all made on a P
            return
        self.g(number).state = _RUNNABLE
        self.emit(m, _CREATE, number, self.stack(number), 0)

    def do_ready(self, r: Record) -> None:
        self.ready(r[1], self.where(r[5], r[2]))

    def do_run(self, r: Record) -> None:
        self.run(r[1], r[4], r[5])

    def do_park(self, r: Record) -> None:
        _, number, why, _, p, m, _ = r
        g = self.g(number)
        self.run(number, p, m)
        g.state, self.m(m).g = _WAITING, 0
        self.emit(m, _BLOCK, self.string(self.about.reason(why)), self.stack(number))
        if g.early >= 0:
            self.ready(number, g.early)
            g.early = -1

    def do_yield(self, r: Record) -> None:
        self.run(r[1], r[4], r[5])
        self.stop(r[1], "preempted" if r[2] else "runtime.Gosched")

    def do_end(self, r: Record) -> None:
        self.run(r[1], r[4], r[5])
        self.m(r[5]).g = 0
        del self.gs[r[1]]
        self.emit(r[5], _DESTROY)

    def do_syscall(self, r: Record) -> None:
        self.enter_call(r[5])

    def do_syscall_exit(self, r: Record) -> None:
        self.leave_call(r[5])

    def do_retake(self, r: Record) -> None:
        _, number, _, _, p, m, _ = r
        if number:
            self.run(number, p, m)
        if not self.enter_call(m):
            self.release(p)
            return
        pp = self.p(p)
        pp.seq += 1
        pp.m, self.m(m).p = NONE, NONE
        self.emit(_OUTSIDE, _P_STEAL, p, pp.seq, m)

    def do_return(self, r: Record) -> None:
        self.leave_call(r[5])

    def do_resume(self, r: Record) -> None:
        if r[1] and r[4] != NONE:
            self.run(r[1], r[4], r[5])

    def do_p_start(self, r: Record) -> None:
        self.hold(r[4], r[5])

    def do_p_stop(self, r: Record) -> None:
        self.release(r[4])

    def do_lost(self, r: Record) -> None:
        if r[4] != NONE:
            self.release(r[4])

    def do_stopped(self, r: Record) -> None:
        for p in self.ps:
            self.release(p)

    # ------------------------------------------------------------ the user's

    def runs(self, who: int, m: int) -> bool:
        """Can the G say something now? Only what runs can, in Go."""
        mm = self.ms.get(m)
        return mm is not None and mm.g == who and mm.p != NONE and self.g(who).state == _RUNNING

    def do_region(self, r: Record) -> None:
        if self.runs(r[1], r[5]):
            name = self.about.string(r[2])
            self.g(r[1]).regions.append(name)
            self.emit(r[5], _REGION, 0, self.string(name), 0)

    def do_region_end(self, r: Record) -> None:
        name = self.about.string(r[2])
        if self.runs(r[1], r[5]) and name in (inside := self.g(r[1]).regions):
            ended = ""
            while ended != name:  # Go's are strictly nested
                ended = inside.pop()
                self.emit(r[5], _REGION_END, 0, self.string(ended), 0)

    do_blocking, do_blocking_end = do_region, do_region_end

    def do_log(self, r: Record) -> None:
        if self.runs(r[1], r[5]):
            key, text = self.about.string(r[2] >> 32), self.about.string(r[2] & 0xFFFFFFFF)
            self.emit(r[5], _LOG, 0, self.string(key), self.string(text), 0)

    def do_procs(self, r: Record) -> None:
        m = self.ms.get(r[5])
        if m is not None and m.g and self.runs(m.g, r[5]):
            self.emit(r[5], _PROCS, r[2], 0)

    # ------------------------------------------------------------ all of it

    def start(self) -> None:
        """What was going on when the trace began."""
        running = {g for _, g in self.found.first.values()}
        for number, _, runnable in self.about.living:
            if number not in running:
                self.appear(number, _RUNNABLE if runnable else _WAITING)
        for p, (m, number) in sorted(self.found.first.items()):
            self.ps[p] = pp = _P()
            pp.m, self.m(m).p = m, p
            self.emit(m, _P_STATUS, p, _P_RUNNING)
            if number:
                self.appear(number, _RUNNING, m)
                self.g(number).m, self.m(m).g = m, number

    def write(self, raw: IO[bytes]) -> int:
        handlers = {
            number: getattr(self, f"do_{name.lower()}", None) for name, number in TYPES.items()
        }
        self.out.write(_HEADER)
        self.write_batch(_NOBODY, 1, varint(_FREQUENCY) + varint(10**9))
        self.start()
        n = 0
        for t, _, record in merged(raw, self.found, self.about.begin):
            self.now = max(self.now, t + 1)
            handler = handlers[record[6]]
            if handler is not None:
                handler(record)
            n += 1
        for m, mm in self.ms.items():
            self.flush(m, mm)
        self.write_tables()
        return n

    def write_tables(self) -> None:
        entries = []
        for name, number in self.stacks.items():
            frame = (number, self.string(name), 1, 0)  # pc, function, file: none, line
            entries.append(bytes([_STACK]) + b"".join(map(varint, (number, 1, *frame))))
        self.write_table(_STACKS, entries)
        entries = []
        for text, number in self.strings.items():
            data = text.encode(errors="replace")[:_MAX_STRING]
            entries.append(bytes([_STRING]) + varint(number) + varint(len(data)) + data)
        self.write_table(_STRINGS, entries)


def export(raw: IO[bytes], out: IO[bytes], about: About) -> int:
    """Write the events of raw to out for go tool trace; return how many there were."""
    return Exporter(out, about, scan(raw)).write(raw)
