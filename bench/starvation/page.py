"""The report as one HTML page that needs nothing beside it: pictures are inside."""

from __future__ import annotations

import base64
import re
from html import escape
from typing import Any

from bench.starvation.model import LIMIT
from bench.starvation.picture import Pictures
from bench.starvation.report import HEADER, remarks, row

_STYLE = """
:root { color-scheme: light; --ink: #1f2430; --faint: #6b7280; --line: #e5e7eb; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1440px; padding: 32px 28px 64px; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 28px; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 48px 0 6px; padding-top: 16px; border-top: 2px solid var(--ink); }
p { max-width: 860px; margin: 6px 0 12px; }
.faint { color: var(--faint); font-size: 13px; }
nav a { margin-right: 14px; color: #0b63ce; text-decoration: none; }
img { max-width: 100%; display: block; margin: 12px 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th { text-align: right; color: var(--faint); font-weight: 600;
  border-bottom: 1px solid var(--ink); }
th, td { padding: 3px 6px; white-space: nowrap; }
td { text-align: right; border-bottom: 1px solid var(--line); }
td:nth-child(-n+2), th:nth-child(-n+2), td:last-child, th:last-child { text-align: left; }
tr.first td { border-top: 1px solid #9ca3af; }
tr.peer td { color: var(--faint); }
td.bad { color: #b42318; font-weight: 600; }
.claims { font-size: 13px; }
.claims td, .claims th { padding: 4px 9px; white-space: normal; text-align: left;
  vertical-align: top; }
.claims td:nth-child(3) { white-space: nowrap; }
.badge { display: inline-block; border-radius: 9px; padding: 0 9px; font-size: 12px;
  font-weight: 600; color: #fff; background: #6b7280; }
.confirmed { background: #15803d; } .refuted { background: #b42318; }
.problem { color: #b42318; }
"""


def render(data: dict[str, Any], pictures: Pictures) -> str:
    """data: what Report.as_dict() gives."""
    done = [
        name for name in data["scenarios"] if any(r["scenario"] == name for r in data["records"])
    ]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>gmpy_rt: the starvation lab</title><style>{_STYLE}</style></head><body>",
        _head(data, done),
        _claims(data["claims"]),
        *(_scenario(name, data, pictures) for name in done),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _head(data: dict[str, Any], done: list[str]) -> str:
    size = "full durations" if data["scale"] == 1 else f"{data['scale']:g} of the full durations"
    facts = [data["machine"]["described"], size]
    facts += [f"{name}: {what}" for name, what in data["runtimes"].items()]
    facts += [f"{name}: not available: {why}" for name, why in data["not_available"].items()]
    links = "".join(
        f"<a href='#{name}'>({data['scenarios'][name]['letter']}) {escape(name)}</a>"
        for name in done
    )
    return (
        "<h1>The starvation lab</h1>"
        "<p>Who waits though it could run, and why: each scenario under every policy and number "
        "of P's, threads pinned to CPUs, beside other runtimes.</p>"
        f"<p class='faint'>{'<br>'.join(map(escape, facts))}</p>"
        + (f"<p class='problem'>{escape(data['disturbed'])}</p>" if data["disturbed"] else "")
        + f"<nav><a href='#claims'>claims</a>{links}</nav>"
    )


def _claim(c: dict[str, str]) -> str:
    badge = f"<span class='badge {c['verdict'].replace(' ', '-')}'>{escape(c['verdict'])}</span>"
    cells = (escape(c["claim"]), escape(c["text"]), badge, escape(c["figure"]))
    row = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr>{row}<td class='faint'>{escape(c['go'])}</td></tr>"


def _claims(claims: list[dict[str, str]]) -> str:
    rows = "".join(map(_claim, claims))
    return (
        "<h2 id='claims'>The article's claims</h2>"
        "<p>Each verdict follows from the figures of this run, by a rule in "
        "<code>bench/starvation/claims.py</code>. The policies global-first, neighbour and affine "
        "model what the article says of Go; the last column says what Go does.</p>"
        "<div class='wide'><table class='claims'><tr><th></th><th>claim</th><th>verdict</th>"
        f"<th>figure</th><th>Go's source</th></tr>{rows}</table></div>"
    )


def _scenario(name: str, data: dict[str, Any], pictures: Pictures) -> str:
    about = data["scenarios"][name]
    records = [data["records"][i] for i in data["shown"]]
    records = [r for r in records if r["scenario"] == name]
    program = (
        f" <span class='faint'>the article's {about['program']}</span>" if about["program"] else ""
    )
    return "".join(
        [
            f"<h2 id='{name}'>({about['letter']}) {escape(about['title'])}{program}</h2>",
            f"<p>{_code(about['about'])}</p>",
            _picture(name, pictures),
            _table(records),
            *(
                f"<div class='{'problem' if bad else 'faint'}'>{escape(text)}</div>"
                for bad, text in remarks(records)
            ),
        ]
    )


def _code(text: str) -> str:
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escape(text))


def _picture(name: str, pictures: Pictures) -> str:
    path = pictures.files.get(name)
    if path is None:
        return (
            f"<p class='problem'>no picture: {escape(pictures.problem or 'nothing measured')}</p>"
        )
    image = base64.b64encode(path.read_bytes()).decode()
    return f"<img alt='waits and timeline of {name}' src='data:image/png;base64,{image}'>"


def _table(records: list[dict[str, Any]]) -> str:
    rows, procs = [], None
    for record in records:
        if "measured" not in record:
            continue
        classes = ["first"] if record["procs"] != procs else []
        classes += [] if record["policy"] else ["peer"]
        procs = record["procs"]
        cells = row(record)
        bad = HEADER.index("starved")
        marked = "".join(
            f"<td class='bad'>{escape(cell)}</td>"
            if i == bad and cell not in ("0", "-")
            else f"<td>{escape(cell)}</td>"
            for i, cell in enumerate(cells)
        )
        rows.append(f"<tr class='{' '.join(classes)}'>{marked}</tr>")
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADER)
    note = (
        f"A wait: from runnable to the first instruction, as the scenario saw it; starved: over "
        f"{LIMIT * 1e3:g} ms; own: the same by the runtime's own histogram; cores: CPU seconds of "
        "the process per second; others: of all others; per CPU: how busy each was."
    )
    return (
        f"<div class='wide'><table><tr>{head}</tr>{''.join(rows)}</table></div>"
        f"<p class='faint'>{note}</p>"
    )
