"""From the core's events (csrc/trace.h) to the trace-event format of Chrome and Perfetto.

Two passes over the raw file. The first (_trace_raw.scan) finds names, which wake-ups have their
run, and what was going on when the trace began; the second goes through all events in the order
of time and writes. Tracks: each P with the M that holds it and the G that runs; each M with its
G, calls that block and waits for a P; plain threads. Arrows lead from a wake-up to the run.
"""

from __future__ import annotations

import json
from typing import IO, Any

from ._trace_raw import NONE, SYSMON, THREAD, TYPES, About, Raw, Record, merged, scan

PS, MS, THREADS, GS = 1, 2, 3, 4  # the processes of the picture
COUNTER_EVERY = 100_000  # ns
# Which counter (gmpy_rt.stats) counts the same thing as which name in a checked trace; sysmon
# counts outside the core, so one of its own may be under way at each end.
COUNTED = ("created", "ended", "schedtick", "steals", "preemptions", "tokens")
COUNTED_BY_SYSMON = ("handoffs", "preempt_requests")


class _G:
    __slots__ = ("early", "flow", "label", "m", "p", "runnable", "since", "waker")

    def __init__(self, label: str) -> None:
        self.label = label  # JSON
        self.m = NONE
        self.p = NONE  # where it runs
        self.runnable = False
        self.since = -1  # a wake-up that came while it still ran
        self.flow = 0
        self.waker = ""
        self.early = -1  # seq of a run that came, by the clock, before its wake-up


class _P:
    __slots__ = ("g", "m", "spins")

    def __init__(self) -> None:
        self.m, self.g, self.spins = NONE, 0, False


class _M:
    __slots__ = ("blocked", "g", "inner", "runnable")

    def __init__(self) -> None:
        self.g = 0
        self.inner: list[str] = []  # slices within the G's: syscall, blocked, wants
        self.blocked = False
        self.runnable: set[int] = set()  # started G's that only it can run


class _Writer:
    """Events as lines: one each, written in blocks."""

    def __init__(self, out: IO[str]) -> None:
        self.out = out
        self.lines: list[str] = []

    def line(self, ph: str, pid: int, tid: int, t: int, more: str) -> None:
        self.lines.append(
            f'{{"ph":"{ph}","pid":{pid},"tid":{tid},"ts":{t // 1000}.{t % 1000:03d},{more}}},\n'
        )
        if len(self.lines) > 4000:
            last = self.lines.pop()  # stays: the very last one of the file has no comma
            self.flush()
            self.lines.append(last)

    def flush(self) -> None:
        self.out.write("".join(self.lines))
        self.lines.clear()

    def begin(self, pid: int, tid: int, t: int, name: str, cat: str, args: str = "") -> None:
        more = f',"args":{{{args}}}' if args else ""
        self.line("B", pid, tid, t, f'"name":{name},"cat":"{cat}"{more}')

    def end(self, pid: int, tid: int, t: int, args: str = "") -> None:
        # The name is optional in an end; so is this.
        self.line("E", pid, tid, t, f'"args":{{{args}}}')

    def instant(self, where: tuple[int, int], t: int, name: str, cat: str, args: str) -> None:
        self.line("i", *where, t, f'"name":{name},"cat":"{cat}","s":"t","args":{{{args}}}')


class Exporter(_Writer):
    """Writes one trace. See export()."""

    def __init__(self, out: IO[str], about: About, found: Raw) -> None:
        super().__init__(out)
        self.about, self.found = about, found
        self.ps: dict[int, _P] = {}
        self.ms: dict[int, _M] = {}
        self.gs: dict[int, _G] = {}
        self.tids: dict[int, str] = {}
        self.open: dict[int, list[tuple[str, str]]] = {}  # who -> regions
        self.flows = 0
        self.goroutines = found.goroutines()
        self.runnable = self.stranded = 0
        self.counted_at, self.counted = -COUNTER_EVERY, (-1, -1, -1)
        self.procs = 0

    def count(self, t: int, now: bool = False) -> None:
        if not now and t - self.counted_at < COUNTER_EVERY:
            return
        values = (self.goroutines, self.runnable, self.stranded)
        for name, value, before in zip(
            ("goroutines", "runnable", "stranded"), values, self.counted, strict=True
        ):
            if value != before:
                self.line("C", PS, 0, t, f'"name":"{name}","args":{{"{name}":{max(value, 0)}}}')
                self.counted_at = t
        self.counted = values

    # ------------------------------------------------------------ who and where

    def g(self, number: int) -> _G:
        g = self.gs.get(number)
        if g is None:
            name = self.about.name_of(number, self.found)
            g = self.gs[number] = _G(json.dumps(f"{name} G{number}"))
        return g

    def p(self, number: int) -> _P:
        p = self.ps.get(number)
        return p if p is not None else self.ps.setdefault(number, _P())

    def m(self, number: int) -> _M:
        m = self.ms.get(number)
        return m if m is not None else self.ms.setdefault(number, _M())

    def who(self, arg: int) -> str:
        if arg == 0:
            return '"scheduler"'
        if arg & THREAD:
            return json.dumps(self.thread(arg))
        return self.g(arg).label

    def thread(self, arg: int) -> str:
        tid = arg & ~THREAD
        name = self.about.threads.get(tid, "thread")
        return self.tids.setdefault(tid, f"{name} {tid}")

    def where(self, p: int, m: int, who: int) -> tuple[int, int]:
        """The track on which somebody does something."""
        if p != NONE:
            return PS, p
        if m == SYSMON:
            self.tids.setdefault(0, "sysmon")
            return THREADS, 0
        if m != NONE:
            self.m(m)
            return MS, m
        self.thread(who)
        return THREADS, who & ~THREAD

    # ------------------------------------------------------------ slices

    def on_p(self, t: int, p: int, m: int, number: int, cat: str, args: str = "") -> None:
        """G `number` runs on P p from now on."""
        g, pp = self.g(number), self.p(p)
        self.off_p(t, p, "?")
        if g.p != NONE:  # only where events are lost
            self.off_p(t, g.p, "?")
        if pp.m != m:
            self.release(t, p)
            self.hold(t, p, m)
        self.begin(PS, p, t, g.label, cat, args)
        pp.g, g.p, g.m = number, p, m

    def off_p(self, t: int, p: int, why: str) -> None:
        pp = self.p(p)
        if pp.spins:
            pp.spins = False
            self.end(PS, p, t)
        if pp.g:
            self.g(pp.g).p = NONE
            pp.g = 0
            self.end(PS, p, t, f'"end":"{why}"')

    def hold(self, t: int, p: int, m: int) -> None:
        self.p(p).m = m
        self.begin(PS, p, t, f'"M{m}"', "hold", f'"m":{m}')

    def release(self, t: int, p: int) -> None:
        self.off_p(t, p, "?")
        pp = self.p(p)
        if pp.m != NONE:
            pp.m = NONE
            self.end(PS, p, t)

    def on_m(self, t: int, m: int, number: int) -> None:
        self.off_m(t, m)
        self.m(m).g = number
        self.begin(MS, m, t, self.g(number).label, "g", f'"g":{number}')

    def off_m(self, t: int, m: int) -> None:
        mm = self.m(m)
        while mm.inner:
            self.inner_end(t, m)
        if mm.g:
            mm.g = 0
            self.end(MS, m, t)

    def inner(self, t: int, m: int, kind: str, args: str = "") -> None:
        self.m(m).inner.append(kind)
        self.begin(MS, m, t, json.dumps(kind), "call", args)

    def inner_end(self, t: int, m: int, args: str = "") -> None:
        mm = self.m(m)
        if mm.inner:
            mm.inner.pop()
            self.end(MS, m, t, args)

    def block(self, m: int, blocked: bool) -> None:
        mm = self.m(m)
        if mm.blocked != blocked:
            mm.blocked = blocked
            self.stranded += len(mm.runnable) if blocked else -len(mm.runnable)

    def now_runnable(self, number: int, g: _G) -> None:
        if g.runnable:
            return
        g.runnable = True
        self.runnable += 1
        if g.m != NONE:
            mm = self.m(g.m)
            mm.runnable.add(number)
            self.stranded += mm.blocked

    def no_longer_runnable(self, number: int, g: _G) -> None:
        if not g.runnable:
            return
        g.runnable = False
        self.runnable -= 1
        if g.m != NONE:
            mm = self.m(g.m)
            mm.runnable.discard(number)
            self.stranded -= mm.blocked

    # ------------------------------------------------------------ the events

    def wake(self, t: int, where: tuple[int, int], number: int, seq: int, by: int) -> None:
        """An arrow begins, if it ends somewhere."""
        g = self.g(number)
        g.waker = self.who(by)
        if (number << 16 | seq) in self.found.unpaired or g.early == seq:
            g.early = -1
            return
        self.flows += 1
        g.flow = self.flows
        # An arrow begins in a slice; on a P there is none after lost events, until a G runs.
        bare = where[0] != PS or self.p(where[1]).m == NONE
        if bare:
            self.begin(*where, t, '"wake"', "wake", f'"g":{number}')
        self.line("s", *where, t, f'"name":"wake","cat":"wake","id":{g.flow}')
        if bare:
            self.end(*where, t)

    def do_create(self, t: int, r: Record) -> None:
        _, number, arg, seq, p, m, _ = r
        where = self.where(p, m, arg)
        self.goroutines += 1
        self.instant(where, t, '"go"', "go", f'"g":{number}')
        self.wake(t, where, number, seq, arg)
        self.now_runnable(number, self.g(number))

    def do_ready(self, t: int, r: Record) -> None:
        _, number, arg, seq, p, m, _ = r
        self.wake(t, self.where(p, m, arg), number, seq, arg)
        g = self.g(number)
        if g.p != NONE or (g.m != NONE and self.m(g.m).g == number):
            g.since = t  # on its way to sleep
        else:
            self.now_runnable(number, g)

    def do_run(self, t: int, r: Record) -> None:
        when, number, ready_at, seq, p, m, _ = r
        g = self.g(number)
        self.no_longer_runnable(number, g)
        waited = max(0, when - ready_at)
        args = f'"g":{number},"waited_us":{waited / 1000}'
        if g.waker:
            args += f',"by":{g.waker}'
        self.on_p(t, p, m, number, "run", args)
        self.on_m(t, m, number)
        if g.flow:
            self.line("f", PS, p, t, f'"name":"wake","cat":"wake","bp":"e","id":{g.flow}')
            g.flow = 0
        elif not g.waker and (number << 16 | seq) not in self.found.unpaired:
            g.early = seq
        g.waker, g.since = "", -1

    def stop_running(self, t: int, r: Record, why: str) -> _G:
        _, number, _, _, p, m, _ = r
        if p != NONE and self.p(p).g == number:
            self.off_p(t, p, why)
        self.off_m(t, m)
        return self.g(number)

    def do_park(self, t: int, r: Record) -> None:
        g = self.stop_running(t, r, self.about.reason(r[2]))
        if g.since >= 0:
            self.now_runnable(r[1], g)

    def do_yield(self, t: int, r: Record) -> None:
        g = self.stop_running(t, r, "preempted" if r[2] else "yield")
        g.waker = '"itself"'
        self.now_runnable(r[1], g)

    def do_end(self, t: int, r: Record) -> None:
        self.stop_running(t, r, "end")
        self.goroutines -= 1
        self.end_regions(t, r[1])
        del self.gs[r[1]]

    def do_syscall(self, t: int, r: Record) -> None:
        self.inner(t, r[5], "declared call")

    def do_syscall_exit(self, t: int, r: Record) -> None:
        self.inner_end(t, r[5])

    def do_retake(self, t: int, r: Record) -> None:
        _, number, declared, _, p, m, _ = r
        self.instant(
            (PS, p), t, '"hand-off"', "sched", f'"m":{m},"g":{number},"declared":{declared}'
        )
        if number and self.m(m).g != number:
            self.on_m(t, m, number)
        self.off_p(t, p, "blocked")
        self.release(t, p)
        self.inner(t, m, "blocked", f'"declared":{declared}')
        self.block(m, True)

    def do_return(self, t: int, r: Record) -> None:
        m = r[5]
        mm = self.m(m)
        which = sorted(mm.runnable)
        self.inner_end(t, m, f'"stranded":{len(which)},"stranded_g":{which[:100]}')
        self.inner(t, m, "wants a P")

    def do_resume(self, t: int, r: Record) -> None:
        _, number, _, _, p, m, _ = r
        self.block(m, False)
        mm = self.m(m)
        while mm.inner:
            self.inner_end(t, m)
        if p != NONE and number:
            self.on_p(t, p, m, number, "resume", f'"g":{number}')
            if mm.g != number:
                self.on_m(t, m, number)

    def do_p_start(self, t: int, r: Record) -> None:
        self.release(t, r[4])
        self.hold(t, r[4], r[5])

    def do_p_stop(self, t: int, r: Record) -> None:
        self.release(t, r[4])

    def do_spin(self, t: int, r: Record) -> None:
        self.off_p(t, r[4], "?")
        self.p(r[4]).spins = True
        self.begin(PS, r[4], t, '"spin"', "spin")

    def do_spin_end(self, t: int, r: Record) -> None:
        if self.p(r[4]).spins:
            self.off_p(t, r[4], "")

    def do_steal(self, t: int, r: Record) -> None:
        args = f'"from":{r[2] >> 32},"g\'s":{r[2] & 0xFFFFFFFF}'
        self.instant((PS, r[4]), t, '"steal"', "sched", args)

    def do_token(self, t: int, r: Record) -> None:
        self.instant((PS, r[4]), t, '"token"', "sched", f'"to_m":{r[2]}')

    def do_preempt(self, t: int, r: Record) -> None:
        g = self.p(r[4]).g
        self.instant((PS, r[4]), t, '"preempt request"', "sched", f'"g":{g}')

    def do_netpoll(self, t: int, r: Record) -> None:
        self.instant(self.where(r[4], r[5], THREAD), t, '"netpoll"', "poll", f'"woken":{r[2]}')

    def do_timer(self, t: int, r: Record) -> None:
        args = f'"late_us":{r[2] / 1000},"g":{r[1]}'
        self.instant(self.where(r[4], r[5], THREAD), t, '"timer"', "poll", args)

    def do_procs(self, t: int, r: Record) -> None:
        self.procs = r[2]
        self.line("C", PS, 0, t, f'"name":"gomaxprocs","args":{{"gomaxprocs":{r[2]}}}')

    def do_stopped(self, t: int, r: Record) -> None:
        self.close(t)
        self.gs.clear()
        self.ms = {m: _M() for m in self.ms}
        self.runnable = self.stranded = self.goroutines = 0

    def do_lost(self, t: int, r: Record) -> None:
        _, _, n, _, p, m, _ = r
        self.instant(self.where(p, m, THREAD), t, '"events lost"', "lost", f'"lost":{n}')
        if p != NONE:
            self.release(t, p)

    def do_name(self, t: int, r: Record) -> None:
        pass  # the first pass has seen to it

    # ------------------------------------------------------------ the user's

    def region(self, ph: str, t: int, who: int, cat: str, name: str) -> None:
        track = GS if not who & THREAD else THREADS
        more = f'"name":{json.dumps(name)},"cat":"{cat}","id":"{who & ~THREAD:#x}"'
        self.line(ph, track, 0, t, more)

    def region_begin(self, t: int, r: Record, cat: str) -> None:
        name = self.about.string(r[2])
        self.open.setdefault(r[1], []).append((cat, name))
        self.region("b", t, r[1], cat, name)

    def region_end(self, t: int, r: Record, cat: str) -> None:
        inside, what = self.open.get(r[1], []), (cat, self.about.string(r[2]))
        if what in inside:  # else it began before the trace
            inside.reverse()
            inside.remove(what)
            inside.reverse()
            self.region("e", t, r[1], *what)

    def end_regions(self, t: int, who: int) -> None:
        for cat, name in reversed(self.open.pop(who, [])):
            self.region("e", t, who, cat, name)

    def do_region(self, t: int, r: Record) -> None:
        self.region_begin(t, r, "region")

    def do_region_end(self, t: int, r: Record) -> None:
        self.region_end(t, r, "region")

    def do_blocking(self, t: int, r: Record) -> None:
        self.region_begin(t, r, "blocking")

    def do_blocking_end(self, t: int, r: Record) -> None:
        self.region_end(t, r, "blocking")

    def do_log(self, t: int, r: Record) -> None:
        category, message = self.about.string(r[2] >> 32), self.about.string(r[2] & 0xFFFFFFFF)
        args = f'"category":{json.dumps(category)},"by":{self.who(r[1])}'
        self.instant(self.where(r[4], r[5], r[1]), t, json.dumps(message), "log", args)

    # ------------------------------------------------------------ all of it

    def start(self) -> None:
        """What was going on when the trace began."""
        for number, _, runnable in self.about.living:
            if runnable:
                self.now_runnable(number, self.g(number))
        for p, (m, number) in sorted(self.found.first.items()):
            self.hold(0, p, m)
            if number:
                self.no_longer_runnable(number, self.g(number))
                self.on_p(0, p, m, number, "before", f'"g":{number}')
                self.on_m(0, m, number)

    def close(self, t: int) -> None:
        for p in self.ps:
            self.release(t, p)
        for m in self.ms:
            self.off_m(t, m)
        for who in list(self.open):
            self.end_regions(t, who)
        self.count(t, now=True)

    def metadata(self) -> None:
        def name(pid: int, tid: int, what: str, text: str) -> None:
            args = f'"args":{{"name":{json.dumps(text)}}}'
            self.line("M", pid, tid, 0, f'"name":"{what}",{args}')

        for pid, text in ((PS, "P's"), (MS, "M's"), (THREADS, "threads"), (GS, "G's")):
            name(pid, 0, "process_name", text)
            self.line("M", pid, 0, 0, f'"name":"process_sort_index","args":{{"sort_index":{pid}}}')
        for p in sorted(self.ps):
            name(PS, p, "thread_name", f"P{p}")
        for m in sorted(self.ms):
            name(MS, m, "thread_name", f"M{m}")
        for tid, text in sorted(self.tids.items()):
            name(THREADS, tid, "thread_name", text)

    def other(self) -> dict[str, Any]:
        """The counters around the start (snapshots 0, 1) and around the stop (2, 3)."""
        count = self.found.count
        windows: dict[str, list[int]] = {}
        for name in COUNTED + COUNTED_BY_SYSMON:
            slack = 1 if name in COUNTED_BY_SYSMON else 0
            least = count(2, name) - count(1, name) - slack
            windows[name] = [max(0, least), count(3, name) - count(0, name) + slack]
        return {
            "source": "gmpy_rt",
            "lost": self.about.lost,
            "exact": self.about.exact,
            "counters": windows,
        }

    def write(self, raw: IO[bytes]) -> int:
        self.out.write('{"displayTimeUnit":"ns","traceEvents":[\n')
        handlers = {
            number: getattr(self, f"do_{name.lower()}")
            for name, number in TYPES.items()
            if name not in ("CHUNK", "COUNT")
        }
        self.start()
        n = 0
        for t, _, record in merged(raw, self.found, self.about.begin):
            handlers[record[6]](t, record)
            self.count(t)
            n += 1
        self.close(max(self.about.end - self.about.begin, 0))
        self.metadata()
        self.lines[-1] = self.lines[-1].rstrip(",\n") + "\n"
        self.flush()
        self.out.write(f'],"otherData":{json.dumps(self.other())}}}\n')
        return n


def export(raw: IO[bytes], out: IO[str], about: About) -> int:
    """Write the events of raw to out as a trace-event file; return how many there were."""
    return Exporter(out, about, scan(raw)).write(raw)
