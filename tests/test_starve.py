"""The starvation lab: tiny runs of every scenario, and the rules that make verdicts."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from support import parallel

ROOT = Path(__file__).resolve().parent.parent
CHILD = ROOT / "bench" / "starvation" / "child.py"
TINY = 0.02
NAMES = ("sleeper", "locks", "hogs", "blocking", "timers", "storm", "order")
LIMIT = 120.0  # seconds for one subprocess; it takes about one


def load_bench() -> None:
    """By its place, as the command does."""
    folder = ROOT / "bench"
    spec = importlib.util.spec_from_file_location(
        "bench", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["bench"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if "bench" not in sys.modules:
    load_bench()
claims = importlib.import_module("bench.starvation.claims")
model = importlib.import_module("bench.starvation.model")
report = importlib.import_module("bench.starvation.report")
page = importlib.import_module("bench.starvation.page")
picture = importlib.import_module("bench.starvation.picture")
runner = importlib.import_module("bench.starvation.runner")
scenarios = importlib.import_module("bench.starvation.scenarios")


def run_child(name: str, procs: int, policy: str = "go", **changes: Any) -> dict[str, Any]:
    """The record of a tiny run in a process of its own."""
    params = scenarios.load(name).params(TINY)
    params |= {"client": runner.client_command()}
    params |= {"procs": procs, "policy": policy, **changes}
    done = subprocess.run(
        [sys.executable, "-P", str(CHILD), "gmpy", name, json.dumps(params)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def starve(*words: str, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "gmpy_rt", "starve", *words, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        cwd=ROOT,
    )


# ---------------------------------------------------------------- scenarios


@pytest.mark.parametrize("name", [name for name in NAMES if name != "order"])
def test_a_run_tells_all_and_loses_no_g(name: str) -> None:
    record = run_child(name, procs=2)
    assert record["started"] == record["ended"] > 0
    for found in (record["measured"], record["scheduler"]):
        assert found["count"] >= found["starved"] >= 0
        assert 0 <= found["p50"] <= found["p99"] <= found["max"]
    assert set(scenarios.load(name).HEADLINE) <= set(record["kinds"]) | {"wake again"}
    assert record["cores"]["process"] > 0
    assert all(0 <= share <= 1 for share in record["cores"]["per_cpu"])
    assert {"steals", "preemptions", "retakes_undeclared", "handoffs"} <= set(record["counters"])
    assert record["peaks"]["threads"] >= 1
    timeline = record["timeline"]
    assert timeline["looks"] >= 2
    # On a busy machine the watcher may get no CPU while there is something to see; it says so.
    assert timeline["segments"] or timeline["holes"]
    for p, start, end, m in timeline["segments"]:
        assert 0 <= p < 2 and m >= 0 and 0 <= start <= end <= timeline["seconds"] + 0.001


def test_a_curve_falls_from_all_waits_to_the_longest() -> None:
    found = model.summary([0.001] * 90 + [0.02] * 9 + [0.5])
    assert found["count"] == 100 and found["starved"] == 10
    assert (found["p50"], found["p99"], found["max"]) == (0.001, 0.5, 0.5)
    assert found["curve"][0] == [0.001, 1.0] and found["curve"][-1] == [0.5, 0.01]
    shares = [share for _, share in found["curve"]]
    assert shares == sorted(shares, reverse=True)
    assert model.summary([]) is None


def test_a_histogram_gives_the_same_summary() -> None:
    bounds, counts = [0, 1_000_000, 8_000_000], [90, 0, 10]
    found = model.histogram_summary(bounds, counts, 9_000_000)
    assert (found["count"], found["starved"]) == (100, 10)
    assert (found["p50"], found["p99"], found["max"]) == (0.001, 0.009, 0.009)
    assert model.histogram_summary(bounds, [0, 0, 0], 0) is None


def test_sleepers_have_all_been_asked_and_counted() -> None:
    record = run_child("sleeper", procs=1, short=50)
    assert record["started"] == 51
    assert record["kinds"]["start"]["count"] == record["kinds"]["wake"]["count"] == 50
    assert 0 <= record["figures"]["left"] <= 50


def test_every_holder_hands_the_lock_on() -> None:
    record = run_child("locks", procs=2, tasks=40)
    assert record["kinds"]["lock"]["count"] == 9
    assert sum(what == "lock held" for _, _, what in record["spans"]) == 10


def test_echoes_all_come_back() -> None:
    figures = run_child("storm", procs=2)["figures"]
    assert figures["messages"] > 0 and figures["unanswered"] == 0


@parallel
def test_blocking_calls_make_ms_and_hand_ps_over() -> None:
    record = run_child("blocking", procs=1)
    assert record["counters"]["handoffs"] > 0
    # Whether somebody is stranded depends on which M the blocker happens to start.
    assert record["peaks"]["threads"] > 1


@parallel
@pytest.mark.parametrize(
    "policy, global_first",
    [("go", True), ("global-first", True), ("affine", True), ("neighbour", False)],
)
def test_an_idle_p_looks_in_the_order_of_its_policy(policy: str, global_first: bool) -> None:
    record = run_child("order", procs=2, policy=policy)
    assert "skipped" not in record, record
    figures = record["figures"]
    # Every 61st look is at the global queue, whatever the policy.
    assert figures["global_first"] > 0.5 if global_first else figures["global_first"] < 0.5
    assert figures["from_head"] > 0.5
    assert figures["before_global"] < 1


# ---------------------------------------------------------------- the command


class NeedsNothing(HTMLParser):
    """Collects what a page would fetch, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.pictures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        source = values.get("src") or (values.get("href") if tag == "link" else None)
        if source is not None:
            inside = source.startswith("data:image/png;base64,")
            self.pictures += inside
            if not inside:
                self.fetched.append(source)
        assert tag != "script"


@pytest.mark.deadline(180)  # 16 processes, one after the other
def test_every_policy_and_number_of_ps_ends_in_table_json_and_page(tmp_path: Path) -> None:
    done = starve(
        "a", "hogs", "--scale", str(TINY), "--procs=1,2", "--peers=none", "--no-pictures",
        out=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "starve.json").read_text())
    runs = {(r["scenario"], r["procs"], r["policy"]) for r in data["records"]}
    assert runs == {
        (name, procs, policy)
        for name in ("sleeper", "hogs")
        for procs in (1, 2)
        for policy in model.POLICIES
    }
    assert all("error" not in r for r in data["records"])
    assert [c["claim"] for c in data["claims"]] == [f"C{i}" for i in range(1, 12)]
    for name in ("sleeper", "hogs"):
        assert f"{name}: {scenarios.load(name).TITLE}" in done.stdout
    assert "gmpy_rt neighbour" in done.stdout and "C11" in done.stdout
    html = (tmp_path / "starve.html").read_text()
    reader = NeedsNothing()
    reader.feed(html)
    assert reader.fetched == [] and "url(" not in html and "@import" not in html
    assert html.count("<tr") > 16 + 11


@pytest.mark.parametrize(
    "words, named",
    [
        (["sleepr"], "'sleepr'"),
        (["--policies=fair"], "'fair'"),
        (["--peers=erlang"], "'erlang'"),
        (["--procs=0"], "'0'"),
        (["--procs=many"], "'many'"),
        (["--scale=9"], "9"),
        (["--rounds=0"], "0"),
    ],
)
def test_bad_words_are_named_with_what_is_accepted(
    words: list[str], named: str, tmp_path: Path
) -> None:
    done = starve(*words, out=tmp_path)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert named in last and re.search(r"choose from|numbers from|from 0.01|at least", last)
    assert "Traceback" not in done.stderr


def test_a_crashed_run_is_told_and_fails(tmp_path: Path) -> None:
    broken = runner.Runtime(model.SUBJECT, "", [sys.executable, "-c", "raise SystemExit(3)"], {})
    record = runner.measure(broken, "sleeper", {"procs": 1, "policy": "go"})
    assert record["error"] == "exit code 3"
    told = make_report([{**record, "round": 0}])
    assert told.failed() and "gmpy_rt go (1 P): FAILED: exit code 3" in told.text()


def test_a_lost_g_is_told_and_fails() -> None:
    told = make_report([make("sleeper", started=5, ended=4)])
    assert told.failed() and "1 G's LOST" in told.text()


def test_of_the_rounds_the_middle_one_is_shown() -> None:
    rounds = [make("hogs", p99=p99, round=i) for i, p99 in enumerate((3.0, 1.0, 2.0))]
    assert model.shown(rounds) == [rounds[2]]


def test_plain_waits_of_peers_are_summed_up() -> None:
    plain = {
        "waits": {"start": [1_000_000, 7_000_000], "other": [1]},
        "figures": {}, "started": 2, "ended": 2, "seconds": 2.0, "cpu_seconds": 1.0, "threads": 1,
        "scheduler": {"bounds": [0, 1000, 2000], "counts": [0, 4, 0]},
    }  # fmt: skip
    record = runner._summed_up(plain, ("start",))
    assert record["measured"]["count"] == 2 and record["measured"]["starved"] == 1
    assert record["scheduler"]["max"] == 2e-6 and record["cores"]["process"] == 0.5


def test_pictures_are_drawn_and_go_into_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    store = importlib.import_module("bench.store").Store(tmp_path / "cache")
    told = make_report([{**run_child("hogs", procs=2), **KEY, "scenario": "hogs"}])
    data = told.as_dict()
    (tmp_path / "starve.json").write_text(json.dumps(data))
    drawn = picture.draw(tmp_path / "starve.json", tmp_path, store)
    assert drawn.problem == "" and set(drawn.files) == {"hogs"}
    assert drawn.files["hogs"].read_bytes().startswith(b"\x89PNG")
    reader = NeedsNothing()
    reader.feed(page.render(data, drawn))
    assert reader.fetched == [] and reader.pictures == 1


# ---------------------------------------------------------------- verdicts

# What every record of a kind has, and no rule above is about.
FIGURES = {
    "starved_short": 0, "starved_short_unseen": 0, "starved_long": 0, "starved_long_unseen": 0,
    "done_elsewhere": 0, "done_beside": 0, "storm_stolen": 0, "storm_schedtick": 1,
}  # fmt: skip

KEY = {"runtime": "gmpy_rt", "policy": "go", "procs": 2, "round": 0}


def make(scenario: str, **changes: Any) -> dict[str, Any]:
    """A record with plausible figures; changes: of its fields, or of the places named below."""
    p99 = changes.pop("p99", 0.001)
    wait = {"count": 9, "p50": p99 / 2, "p99": p99, "max": p99, "starved": 0, "curve": [[p99, 1]]}
    places = {
        "cores": {"process": 1.0, "per_cpu": [0.5, 0.5]},
        "counters": dict.fromkeys(
            ("steals", "preemptions", "retakes_declared", "retakes_undeclared", "handoffs"), 0
        ),
        "peaks": {"threads": 2, "stranded": 0, "blocked_threads": 0, "runnable": 1},
        "figures": FIGURES,
        "kinds": {},
        "measured": wait,
    }
    for place, values in places.items():
        places[place] = {**values, **changes.pop(place, {})}
    return {
        **KEY, "scenario": scenario, "seconds": 1.0, "scheduler": dict(wait), "started": 1,
        "ended": 1, "gil": False, "timeline": None, "spans": [], **places, **changes,
    }  # fmt: skip


def make_report(records: list[dict[str, Any]]) -> Any:
    machine = {"described": "none", "cpus": [0, 1]}
    return report.Report(machine, {}, {}, 1.0, records, claims.judge(records))


def verdict(claim: str, records: list[dict[str, Any]]) -> str:
    found = next(v for v in claims.judge(records) if v.claim == claim)
    assert found.figure and found.go
    return str(found.verdict)


def kind(p50: float, p99: float = 0.0) -> dict[str, float]:
    return {"count": 9, "p50": p50, "p99": p99 or p50, "max": p99 or p50, "starved": 0}


def affine_pairs(gain: float, starved: int, scatter: float = 0.0) -> list[dict[str, Any]]:
    pairs = []
    for i, scenario in enumerate(("locks", "hogs", "storm")):
        cores = 1 + gain + scatter * (i - 1)
        figures = {"done_elsewhere": 1, "done_beside": 1, "storm_stolen": 0, "storm_schedtick": 1}
        pairs += [
            make(scenario, figures=figures, measured={"starved": 10}),
            make(scenario, policy="affine", figures=figures, cores={"process": cores},
                 measured={"starved": starved}),
        ]  # fmt: skip
    return pairs


def go_order(**figures: float) -> dict[str, Any]:
    plain = {"trials": 9, "global_first": 1.0, "from_head": 1.0, "runnext_last": 1.0}
    plain |= {"before_global": 0.3, **figures}
    return make("order", runtime="go", policy=None, figures=plain)


def loads(**blocking: Any) -> list[dict[str, Any]]:
    plain = {
        "peaks": {"threads": 6},
        "counters": {"handoffs": 3},
        "kinds": {"start": kind(0.001, 0.002)},
    }
    figures = {"storm_stolen": 0, "storm_schedtick": 1}
    return [make("hogs"), make("storm", figures=figures), make("blocking", **(plain | blocking))]


def storm(quiet: float, in_storm: float) -> dict[str, Any]:
    kinds = {"echo quiet": kind(quiet), "echo storm": kind(in_storm)}
    return make("storm", figures={"storm_stolen": 1, "storm_schedtick": 2}, kinds=kinds)


def flood(before: float, tick: float, many: float, waiting: int = 5) -> dict[str, Any]:
    kinds = {"tick before": kind(before), "tick": kind(tick), "tick x10": kind(many)}
    return make("timers", kinds=kinds, figures={"state: lock": waiting, "alive": 5000})


def hungry(short: int, unseen: int, counted: int) -> dict[str, Any]:
    figures = {"starved_short": short, "starved_short_unseen": unseen}
    figures |= {"starved_long": 1, "starved_long_unseen": 0}
    return make("hogs", figures=figures, scheduler={"starved": counted})


def states(**counts: int) -> list[dict[str, Any]]:
    figures = {f"state: {name.replace('_', ' ')}": n for name, n in counts.items()}
    return [make("timers", figures=figures)]


LOCKS = {"done_beside": 90, "done_elsewhere": 5, "lock_waiters": 9}

RULES: list[tuple[str, str, list[dict[str, Any]]]] = [
    ("C1", "confirmed", affine_pairs(gain=0.04, starved=20)),
    ("C1", "refuted", affine_pairs(gain=0.04, starved=10)),
    ("C1", "refuted", affine_pairs(gain=0.0, starved=20)),
    ("C1", "not measured", affine_pairs(gain=0.0, starved=20, scatter=0.5)),
    ("C1", "not applicable", [{**r, "gil": True} for r in affine_pairs(0.04, 20)]),
    ("C2", "confirmed", [go_order()]),
    ("C2", "refuted", [go_order(global_first=0.1)]),
    ("C3", "refuted", [go_order()]),
    ("C3", "confirmed", [go_order(global_first=0.0)]),
    ("C4", "refuted", [go_order()]),
    ("C4", "confirmed", [go_order(before_global=1.0)]),
    ("C5", "confirmed", [go_order()]),
    ("C5", "refuted", [go_order(from_head=0.2)]),
    ("C6", "confirmed", loads()),
    ("C6", "refuted", loads(peaks={"threads": 2})),
    ("C6", "refuted", loads(kinds={"start": kind(0.0001)})),
    ("C6", "not applicable", loads(gil=True)),
    ("C6", "not measured", loads()[:2]),
    ("C7", "confirmed", [storm(0.0004, 0.0005)]),
    ("C7", "refuted", [storm(0.00003, 0.0005)]),
    ("C8", "refuted", [make("locks", figures=LOCKS | {"done_elsewhere": 100})]),
    ("C8", "confirmed", [make("locks", figures=LOCKS)]),
    ("C8", "not measured", [make("locks", figures=LOCKS, procs=1)]),
    ("C9", "refuted", [flood(0.001, 0.0011, 0.001)]),
    ("C9", "refuted", [flood(0.001, 0.009, 0.001)]),
    ("C9", "confirmed", [flood(0.001, 0.009, 0.01)]),
    ("C9", "confirmed", [flood(0.001, 0.001, 0.001, waiting=2)]),
    ("C10", "confirmed", [hungry(100, 80, 90)]),
    ("C10", "refuted", [hungry(100, 10, 90)]),
    ("C10", "refuted", [hungry(100, 80, 0)]),
    ("C11", "confirmed", states(IO_read=16, sleep=3, lock=5, running=9)),
    ("C11", "refuted", states(IO_read=1, lock=5)),
    ("C11", "refuted", states(IO_read=16, waiting=5)),
    ("C11", "not measured", states(running=5)),
]


@pytest.mark.parametrize("claim, expected, records", RULES)
def test_a_verdict_follows_from_the_figures(
    claim: str, expected: str, records: list[dict[str, Any]]
) -> None:
    assert verdict(claim, records) == expected


def test_without_runs_every_claim_is_not_measured() -> None:
    assert {v.verdict for v in claims.judge([])} == {"not measured"}
    failed = {**KEY, "scenario": "order", "runtime": "go", "error": "killed"}
    assert {v.verdict for v in claims.judge([failed])} == {"not measured"}
