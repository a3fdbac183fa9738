"""The article's claims C1 to C11, judged by the records of this very run.

One function for each claim: it takes the records, picks the runs it needs, and turns their
figures into a verdict by the rule that stands in it. Where its runs are missing it says 'not
measured'. C2 to C5 are claims about Go, so Go's own run decides; what gmpy_rt's policy of that
name does in the same experiment is told beside it.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.starvation.model import SUBJECT, Record, Summary, seconds

CONFIRMED, REFUTED = "confirmed", "refuted"
NOT_APPLICABLE, NOT_MEASURED = "not applicable", "not measured"


@dataclass(frozen=True)
class Verdict:
    """claim: C1 to C11; figure: the numbers that decided; go: what Go really does."""

    claim: str
    text: str
    verdict: str
    figure: str
    go: str = ""


def judge(records: Sequence[Record]) -> list[Verdict]:
    """A verdict on each claim, in their order."""
    measured = [r for r in records if r.get("measured")]
    return [Verdict(claim, text, *rule(measured), go) for claim, text, rule, go in _CLAIMS]


Outcome = tuple[str, str]


def _pick(
    records: Iterable[Record],
    scenario: str,
    policy: str | None = None,
    runtime: str = SUBJECT,
    least_procs: int = 1,
) -> list[Record]:
    return [
        r
        for r in records
        if r["scenario"] == scenario
        and r["runtime"] == runtime
        and (policy is None or r["policy"] == policy)
        and r["procs"] >= least_procs
    ]


def _with_gil(runs: Iterable[Record]) -> Outcome | None:
    """For claims about P's that run at the same time: not this interpreter's."""
    if any(r.get("gil") for r in runs):
        return NOT_APPLICABLE, "with a GIL one P runs Python at a time; take a free-threaded build"
    return None


def _missing(what: str) -> Outcome:
    return NOT_MEASURED, f"needs {what}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# ---------------------------------------------------------------- policies


def _c1(records: Sequence[Record]) -> Outcome:
    """Confirmed if `affine` uses the CPUs better than `go` by at least 2 % on average, beyond
    the scatter (two standard errors), and starves at least a tenth more G's. Not measured if
    the scatter is wider than what is claimed."""
    gains, starved, compared = [], [0, 0], []
    for scenario in ("locks", "hogs", "storm"):
        for go in _pick(records, scenario, "go", least_procs=2):
            for affine in _pick(records, scenario, "affine"):
                same = all(affine[key] == go[key] for key in ("procs", "round"))
                if same and go["cores"]["process"] > 0:
                    gains.append(affine["cores"]["process"] / go["cores"]["process"] - 1)
                    starved[0] += go["measured"]["starved"]
                    starved[1] += affine["measured"]["starved"]
                    compared.append(f"{scenario} {go['procs']} P")
    if not_here := _with_gil(_pick(records, "storm") + _pick(records, "locks")):
        return not_here
    if len(gains) < 2:
        return _missing("locks, hogs or storm with at least 2 P's under go and affine, two pairs")
    gain = statistics.fmean(gains)
    error = statistics.stdev(gains) / len(gains) ** 0.5
    holds = gain >= 0.02 and gain > 2 * error and starved[1] > 1.1 * starved[0]
    pairs = (f"{n} of {name}" for name, n in Counter(compared).items())
    return (
        CONFIRMED if holds else NOT_MEASURED if 2 * error > 0.037 else REFUTED,
        f"cores used by affine against go: {100 * gain:+.1f} % (standard error "
        f"{100 * error:.1f} %, {len(gains)} pairs: {', '.join(pairs)}); starved: "
        f"{starved[1]} with affine, {starved[0]} with go"
        + (
            "; too much scatter for 3.7 %: a quiet machine or more --rounds"
            if 2 * error > 0.037 and not holds
            else ""
        ),
    )


def _order(records: Sequence[Record], policy: str) -> tuple[Record | None, str]:
    """Go's run of `order`, and what our policy did in the same experiment, in words."""
    go = _pick(records, "order", runtime="go")
    ours = _pick(records, "order", policy)
    told = ""
    if ours:
        share = ours[0]["figures"]["global_first"]
        told = f"; gmpy_rt's policy {policy}: {_percent(share)}"
    return (go[0] if go else None), told


def _c2(records: Sequence[Record]) -> Outcome:
    """Confirmed if Go's idle P takes from the global queue before it steals, at least 9 times
    in 10 (every 61st look may be another)."""
    go, told = _order(records, "global-first")
    if go is None:
        return _missing("order with the peer go")
    share = go["figures"]["global_first"]
    return (
        CONFIRMED if share >= 0.9 else REFUTED,
        f"Go's idle P took from the global queue before it stole: {_percent(share)} of "
        f"{go['figures']['trials']:.0f} trials{told}",
    )


def _c3(records: Sequence[Record]) -> Outcome:
    """Confirmed if Go's idle P takes from its neighbour first, at least 9 times in 10."""
    go, told = _order(records, "neighbour")
    if go is None:
        return _missing("order with the peer go")
    share = 1 - go["figures"]["global_first"]
    return (
        CONFIRMED if share >= 0.9 else REFUTED,
        f"Go's idle P stole from the other P before it looked into the global queue: "
        f"{_percent(share)} of {go['figures']['trials']:.0f} trials"
        f"{told.replace(': ', ', global queue first: ')}",
    )


def _c4(records: Sequence[Record]) -> Outcome:
    """Confirmed if a G in a global queue that was empty for 20 ms runs only after (95 % of)
    all local ones."""
    go = _pick(records, "order", runtime="go")
    if not go:
        return _missing("order with the peer go")
    share = go[0]["figures"]["before_global"]
    ours = _pick(records, "order", "neighbour")
    told = ""
    if ours:
        told = f"; gmpy_rt's policy neighbour: {_percent(ours[0]['figures']['before_global'])}"
    return (
        CONFIRMED if share >= 0.95 else REFUTED,
        f"after 20 ms without work a G in Go's global queue ran when {_percent(share)} of 200 "
        f"local G's had run; skipped, it would be 100 %{told}",
    )


def _c5(records: Sequence[Record]) -> Outcome:
    """Confirmed if at least 90 % of the half that Go's thief takes are the oldest."""
    go, ours = _pick(records, "order", runtime="go"), _pick(records, "order", "go")
    if not go:
        return _missing("order with the peer go")
    figures = go[0]["figures"]
    told = f"; gmpy_rt: {_percent(ours[0]['figures']['from_head'])}" if ours else ""
    return (
        CONFIRMED if figures["from_head"] >= 0.9 else REFUTED,
        f"of the half that Go's thief took, {_percent(figures['from_head'])} were the victim's "
        f"oldest{told}; runnext was stolen too, as the last, in "
        f"{_percent(figures['runnext_last'])} of the trials",
    )


# ---------------------------------------------------------------- blocking, latency


def _c6(records: Sequence[Record]) -> Outcome:
    """Confirmed if the blocking calls made M's beyond the P's and hand-offs, the others (in
    their median run) none, and a ready G had to wait for that for at least 1 ms (p99)."""
    loads = {
        "pure CPU": _pick(records, "hogs", "go"),
        "epoll": _pick(records, "storm", "go"),
        "blocking": _pick(records, "blocking", "go"),
    }
    if not_here := _with_gil(loads["blocking"]):
        return not_here
    if not all(loads.values()):
        return _missing("hogs, storm and blocking under the policy go")

    def extra(record: Record) -> int:
        return int(record["peaks"]["threads"] - record["procs"])

    made = {load: statistics.median(map(extra, runs)) for load, runs in loads.items()}
    blocking = loads["blocking"]
    handoffs = sum(r["counters"]["handoffs"] for r in blocking)
    waits = [p99 for r in blocking if (p99 := (r["kinds"].get("start") or {}).get("p99"))]
    told = []
    for load, runs in loads.items():
        used = statistics.fmean(r["cores"]["process"] / _parallel(r) for r in runs)
        jitter = statistics.median(r["measured"]["p99"] for r in runs)
        told.append(
            f"{load}: {_percent(used)} of the P's CPUs used, p99 {seconds(jitter)}, "
            f"{made[load]:.0f} M's beyond the P's"
        )
    holds = (
        made["blocking"] > 0
        and handoffs > 0
        and made["pure CPU"] <= 0
        and bool(waits)
        and statistics.median(waits) >= 0.001
    )
    wait = f"; a fresh G waited {seconds(statistics.median(waits))} (p99)" if waits else ""
    return CONFIRMED if holds else REFUTED, f"{'; '.join(told)}; {handoffs} hand-offs{wait}"


def _parallel(record: Record) -> int:
    """The CPUs that so many P's can keep busy here."""
    return int(max(1, min(record["procs"], len(record["cores"]["per_cpu"]) or 1)))


def _c7(records: Sequence[Record]) -> Outcome:
    """Confirmed if 0.8/P + 0.2 * (share of G's that were stolen) ms is within a factor of two
    of the median wake-up, quiet and in the storm, for every number of P's."""
    measured: dict[str, list[float]] = {}
    formulas: dict[str, list[float]] = {}
    for record in _pick(records, "storm", "go"):
        figures, kinds = record["figures"], record["kinds"]
        rate = figures["storm_stolen"] / max(1, figures["storm_schedtick"])
        for kind, share in (("echo quiet", 0.0), ("echo storm", rate)):
            summary: Summary | None = kinds.get(kind)
            if summary is None:
                continue
            name = f"{record['procs']} P {kind.split()[1]}"
            measured.setdefault(name, []).append(max(summary["p50"], 1e-9))
            formulas.setdefault(name, []).append(0.0008 / record["procs"] + 0.0002 * share)
    if not measured:
        return _missing("storm under the policy go")
    told, off = [], []
    for name in measured:
        found, formula = (statistics.median(by[name]) for by in (measured, formulas))
        off.append(max(found / formula, formula / found))
        told.append(f"{name} {seconds(found)} (formula {seconds(formula)})")
    holds = max(off) <= 2
    return (
        CONFIRMED if holds else REFUTED,
        f"median wake-up: {', '.join(told)}; worst off by {max(off):.1f}x; cache hits can't be "
        "counted here",
    )


def _c8(records: Sequence[Record]) -> Outcome:
    """Refuted if, while a long G holds the lock, at least a tenth of the short G's that end do
    so on threads other than its own: the others do find work."""
    runs = _pick(records, "locks", least_procs=2)
    if not_here := _with_gil(runs):
        return not_here
    runs = [r for r in runs if r["figures"]["done_elsewhere"] + r["figures"]["done_beside"] > 0]
    if not runs:
        return _missing("locks with at least 2 P's")
    shares = {}
    for r in runs:
        elsewhere = r["figures"]["done_elsewhere"]
        share = elsewhere / (elsewhere + r["figures"]["done_beside"])
        shares[f"{r['policy']} {r['procs']} P"] = share
    worst = min(shares, key=lambda name: shares[name])
    waiters = max(r["figures"].get("lock_waiters", 0) for r in runs)
    return (
        REFUTED if shares[worst] >= 0.1 else CONFIRMED,
        f"while a long G held the lock, the other P's ran {_percent(shares[worst])} of the short "
        f"G's in the worst run ({worst}), {_percent(statistics.median(shares.values()))} in the "
        f"median run. True of it: up to {waiters:.0f} G's waited for the lock outside every "
        "run queue",
    )


def _c9(records: Sequence[Record]) -> Outcome:
    """Confirmed if with the flood timers are late at least twice as much (p99, median over all
    runs) and by 0.1 ms more, and with ten times as many no less; or if of the five G's
    blocked on a lock fewer showed."""
    runs = [r for r in _pick(records, "timers") if len(r["kinds"]) == 3]
    if not runs:
        return _missing("timers")
    kinds = ("tick before", "tick", "tick x10")
    p50, p99 = (
        [statistics.median(r["kinds"][kind][q] for r in runs) for kind in kinds]
        for q in ("p50", "p99")
    )
    slower = p99[1] >= max(2 * p99[0], p99[0] + 0.0001) and p99[2] >= p99[1]
    visible = [r["figures"]["state: lock"] for r in runs if "state: lock" in r["figures"]]
    hidden = bool(visible) and statistics.median(visible) < 5
    alive = max(r["figures"]["alive"] for r in runs)
    told = [
        f"{seconds(middle)} / {seconds(tail)} {when}"
        for middle, tail, when in zip(
            p50, p99, ("before", f"with {alive:,.0f} alive", f"with {10 * alive:,.0f}"), strict=True
        )
    ]
    seen = f"; a look meanwhile showed {statistics.median(visible):.0f} of 5 G's blocked on a lock"
    return (
        CONFIRMED if slower or hidden else REFUTED,
        f"timers late (p50 / p99, median of {len(runs)} runs): {', '.join(told)}"
        f"{seen if visible else ''}",
    )


# ---------------------------------------------------------------- seeing it

_VICTIMS = ("sleeper", "locks", "hogs", "blocking", "storm")


def _c10(records: Sequence[Record]) -> Outcome:
    """Confirmed if at least half of the waits of 5 to 100 ms fall between two looks 100 ms
    apart, while the runtime's own clock at park and run counts at least half of all."""
    short = short_unseen = long = long_unseen = counted = 0
    for scenario in _VICTIMS:
        for record in _pick(records, scenario, "go"):
            figures = record["figures"]
            short += figures["starved_short"]
            short_unseen += figures["starved_short_unseen"]
            long += figures["starved_long"]
            long_unseen += figures["starved_long_unseen"]
            counted += (record["scheduler"] or {}).get("starved", 0)
    if short == 0:
        return _missing("a run under the policy go in which G's wait for 5 to 100 ms")
    holds = short_unseen >= 0.5 * short and counted >= 0.5 * (short + long)
    longer = f", of {long:,} longer ones {_percent(long_unseen / long)}" if long else ""
    return (
        CONFIRMED if holds else REFUTED,
        f"of {short:,} waits of 5 to 100 ms {_percent(short_unseen / short)} fell between two "
        f"looks 100 ms apart{longer}; a look doesn't tell for how long; the runtime's histogram "
        f"counted {counted:,} over 5 ms",
    )


_NOISE = ("IO read", "IO write", "sleep", "timers")


def _c11(records: Sequence[Record]) -> Outcome:
    """Confirmed if most of the waiting G's that a look finds wait for the network or a timer,
    and the look tells them from those that wait for each other."""
    noise: dict[str, int] = {}
    real: dict[str, int] = {}
    for scenario in ("storm", "timers"):
        for record in _pick(records, scenario, "go"):
            for name, count in record["figures"].items():
                found = re.fullmatch(r"state: (.*)", name)
                if found and found[1] not in ("running", "runnable", "ended", "dead"):
                    kind = noise if found[1] in _NOISE else real
                    kind[found[1]] = kind.get(found[1], 0) + int(count)
    total = sum(noise.values()) + sum(real.values())
    if not noise or not real:
        return _missing("storm and timers under the policy go")
    share = sum(noise.values()) / total
    told = ", ".join(f"{count} {name}" for name, count in {**noise, **real}.items())
    holds = share >= 0.5 and "waiting" not in real
    return (
        CONFIRMED if holds else REFUTED,
        f"{_percent(share)} of the waiting G's in looks at storm and timers wait for the network "
        f"or a timer ({told}): noise, and told apart by name",
    )


_CLAIMS = (
    (
        "C1",
        "A P steals first from the P stolen from last: better CPU use (3.7 %), more starvation",
        _c1,
        "has no such memory: each search starts at a random P (the policy affine is the article's)",
    ),
    (
        "C2",
        "1.21: an idle P looks into the global queue, then at random others",
        _c2,
        "own queue, global queue, network, then all others from a random one on, in four rounds",
    ),
    (
        "C3",
        "1.22: own queue, at most two adjacent P's, then the global queue",
        _c3,
        "1.22 changed nothing here; no version looks at adjacent P's first",
    ),
    (
        "C4",
        "The global queue counts as degraded after 10 ms without work and is skipped",
        _c4,
        "looks into it on every 61st tick, and whenever the own queue is empty",
    ),
    (
        "C5",
        "Thieves take from the victim's head",
        _c5,
        "half of the ring, from the head; runnext only in the last round, and a little later",
    ),
    (
        "C6",
        "Blocking calls take M's away, new ones are made, and ready G's wait for that",
        _c6,
        "sysmon takes the P back after 20 us to 10 ms; sleeping M's are used before new ones",
    ),
    (
        "C7",
        "Wake-up of a network service: 0.8/P + 0.2 * steal rate, in ms",
        _c7,
        "no such law; netpoll readies a G on the P that polls",
    ),
    (
        "C8",
        "While one P runs a long G under a lock, the others find nothing: throughput 0",
        _c8,
        "G's that wait aren't stolen, but all that are runnable are",
    ),
    (
        "C9",
        "A flood of timers slows the scheduler and hides the real blockage",
        _c9,
        "a 4-ary heap per P: log n; since 1.23 unreachable timers are collected",
    ),
    (
        "C10",
        "Snapshots every 100 ms can't see starvation, time stamps at park and run can",
        _c10,
        "has the time stamps: /sched/latencies:seconds, and the execution trace",
    ),
    (
        "C11",
        "Stacks that wait in netpoll or for timers are noise, to be told from locks and channels",
        _c11,
        "the goroutine profile names the reason of each wait; the block profile leaves such out",
    ),
)
