"""Draws the pictures with matplotlib: `python draw.py starve.json OUT`, a PNG per scenario.

Stands alone, so that an interpreter with matplotlib and without gmpy_rt can run it. Prints
{scenario: path}.

A column for each number of P's. On top how long G's waited: the share of waits (logarithmic)
that were longer than so much (logarithmic). Below, for each policy, the P's: a bar while an M
holds it, in the colour of that M; above them what the culprits did, below how many G's were
runnable and how many of them stranded behind a blocked M. Hatched: nobody knows, the thread
that looks got no CPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, FAINT, GRID = "#1f2430", "#6b7280", "#e5e7eb"
POLICY_COLOURS = {
    "go": "#0b63ce",
    "global-first": "#0f9d8a",
    "neighbour": "#d97706",
    "affine": "#b83280",
}
PEER_COLOURS = {"go": "#111827", "gevent": "#5b8c2a", "asyncio": "#8b5cf6", "tonio": "#a16207"}
M_COLOURS = ("#4f8fdb", "#f2a541", "#63b37c", "#c87dbb", "#7d8ea3", "#d4645c", "#59b5c4", "#a58b5f")
HOLE = "#cbd5e1"
IDLE, CULPRIT, RUNNABLE, STRANDED = "#f3f4f6", "#374151", "#9aa5b5", "#d1242f"
MS_FORMATS = ((1e-6, "1 us"), (1e-5, "10 us"), (1e-4, "100 us"), (1e-3, "1 ms"), (1e-2, "10 ms"))
TICKS = (*MS_FORMATS, (1e-1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"))

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.edgecolor": "#9ca3af",
        "axes.labelcolor": INK,
        "axes.titlesize": 10,
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


def draw(name: str, data: dict[str, Any], out: Path) -> Path | None:
    records = [data["records"][i] for i in data["shown"]]
    records = [r for r in records if r["scenario"] == name and r.get("measured")]
    procs = sorted({r["procs"] for r in records})
    policies = [p for p in POLICY_COLOURS if any(r["policy"] == p for r in records)]
    if not records:
        return None
    rows = [2.3] + [_strip_height(max(procs))] * len(policies)
    width, height = max(7.0, 4.6 * len(procs)), sum(rows) + 0.42 * len(rows) + 0.75
    figure, grid = plt.subplots(
        len(rows),
        len(procs),
        figsize=(width, height),
        squeeze=False,
        gridspec_kw={"height_ratios": rows},
        constrained_layout=True,
    )
    about = data["scenarios"][name]
    figure.suptitle(f"({about['letter']}) {about['title']}", fontsize=13, weight="bold")
    limits = _wait_limits(records)
    for column, count in enumerate(procs):
        here = [r for r in records if r["procs"] == count]
        _curves(grid[0][column], here, count, data["limit"], limits, first=column == 0)
        for i, policy in enumerate(policies):
            run = next((r for r in here if r["policy"] == policy), None)
            _timeline(grid[i + 1][column], run, policy, column == 0, last=i == len(policies) - 1)
    path = out / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _strip_height(procs: int) -> float:
    return 0.62 + 0.14 * procs


def _wait_limits(records: list[dict[str, Any]]) -> tuple[float, float]:
    waits = [wait for r in records for wait, _ in r["measured"]["curve"] if wait > 0]
    return max(1e-6, min(waits) * 0.8), max(waits) * 1.5


def _curves(
    axes: Any,
    records: list[dict[str, Any]],
    procs: int,
    limit: float,
    limits: tuple[float, float],
    first: bool,
) -> None:
    """Share of waits at least so long; gmpy_rt's policies solid, peers dashed."""
    for record in records:
        curve = [point for point in record["measured"]["curve"] if point[0] > 0]
        ours = record["policy"] is not None
        colours = POLICY_COLOURS if ours else PEER_COLOURS
        axes.plot(
            [wait for wait, _ in curve],
            [share for _, share in curve],
            color=colours[record["policy"] if ours else record["runtime"]],
            linestyle="-" if ours else (0, (4, 2)),
            linewidth=1.7 if ours else 1.3,
            label=f"gmpy_rt {record['policy']}" if ours else _peer_name(record["runtime"]),
            drawstyle="steps-pre",
        )
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=(2e-4, 1.3))
    axes.axvspan(limit, max(limits[1], limit), color="#fde8e8", zorder=0, linewidth=0)
    axes.axvline(limit, color=STRANDED, linewidth=0.8)
    shown = [t for t in TICKS if limits[0] <= t[0] <= limits[1]]
    axes.set_xticks([t[0] for t in shown], [t[1] for t in shown])
    axes.set_yticks([1, 0.1, 0.01, 0.001], ["all", "1 in 10", "1 in 100", "1 in 1000"])
    axes.minorticks_off()
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(f"{procs} P", loc="left", weight="bold")
    axes.set_xlabel("waited at least so long (red: starving, over 5 ms)", color=FAINT)
    if first:
        axes.set_ylabel("share of waits")
    axes.legend(fontsize=7.5, frameon=False, loc="lower left", labelspacing=0.25)


def _peer_name(runtime: str) -> str:
    return {"go": "Go"}.get(runtime, runtime)


def _timeline(axes: Any, run: dict[str, Any] | None, policy: str, first: bool, last: bool) -> None:
    timeline = run["timeline"] if run else None
    if run is None or timeline is None:
        axes.axis("off")
        return
    procs, end = run["procs"], timeline["seconds"]
    for p in range(procs):
        axes.broken_barh([(0, end)], (_y(p, procs), 0.8), facecolors=IDLE, linewidth=0)
    for m in sorted({s[3] for s in timeline["segments"]}):
        for p in range(procs):
            bars = [
                (a, max(b - a, end / 900))
                for at, a, b, who in timeline["segments"]
                if at == p and who == m
            ]
            colour = M_COLOURS[m % len(M_COLOURS)]
            axes.broken_barh(bars, (_y(p, procs), 0.8), facecolors=colour, linewidth=0)
    for start, stop in timeline["holes"]:
        axes.axvspan(start, stop, color="white", linewidth=0)
        axes.axvspan(start, stop, facecolor="none", edgecolor=HOLE, hatch="////", linewidth=0)
    _label_ms(axes, timeline["segments"], procs, end)
    top = procs + 0.15
    axes.broken_barh(
        [(a, b - a) for a, b, _ in run["spans"]],
        (top, 0.45),
        facecolors=CULPRIT,
        linewidth=0,
        alpha=0.55,
    )
    _queue(axes, timeline["queue"])
    axes.set(xlim=(0, end), ylim=(-1.75, procs + 0.75))
    axes.set_yticks(
        [top + 0.22, *(_y(p, procs) + 0.4 for p in range(procs)), -0.9],
        [_culprit(run), *(f"P{p}" for p in range(procs)), "waiting"],
        fontsize=7,
    )
    axes.tick_params(length=0, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_title(policy if first else " ", loc="left", fontsize=9, color=POLICY_COLOURS[policy])
    stranded = run["peaks"]["stranded"]
    told = f"{run['peaks']['threads']} M's, up to {run['peaks']['runnable']} G's runnable"
    told += f", {stranded} stranded" if stranded else ""
    axes.set_title(told, loc="right", fontsize=7.5, color=STRANDED if stranded else FAINT)
    if last:
        axes.set_xlabel("seconds", color=FAINT)


def _culprit(run: dict[str, Any]) -> str:
    kinds = sorted({what for _, _, what in run["spans"]})
    return "/".join(kinds) if kinds else ""


def _y(p: int, procs: int) -> float:
    """P0 is on top."""
    return procs - 1 - p + 0.1


def _label_ms(axes: Any, segments: list[Any], procs: int, end: float) -> None:
    """M's are named where there is room for it."""
    for p, start, stop, m in segments:
        if stop - start > end / 25:
            axes.text(
                (start + stop) / 2,
                _y(p, procs) + 0.38,
                f"M{m}",
                ha="center",
                va="center",
                fontsize=6,
                color="white",
            )


def _queue(axes: Any, queue: list[list[float]]) -> None:
    """Below the P's: runnable G's, and in red the stranded ones, to a common scale."""
    most = max((point[1] for point in queue), default=0) or 1
    at = [point[0] for point in queue]
    base, height = -1.6, 1.4
    for column, colour in ((1, RUNNABLE), (2, STRANDED)):
        levels = [base + height * point[column] / most for point in queue]
        axes.fill_between(at, base, levels, color=colour, linewidth=0, step="mid")


def main() -> None:
    data = json.loads(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    drawn = {}
    for name in data["scenarios"]:
        path = draw(name, data, out)
        if path is not None:
            drawn[name] = str(path)
    print(json.dumps(drawn))


if __name__ == "__main__":
    main()
