"""The debug server's pages: path and query in, (status, content type, body, file name) out."""

from __future__ import annotations

import html
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .. import metrics_prometheus, pprof, schedtrace, trace
from ..dump import stacks
from . import text

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
MAX_SECONDS = 3600.0

_started = time.monotonic()


class Answer(NamedTuple):
    status: int
    kind: str
    body: bytes
    name: str = ""  # to be saved as; empty: to be shown


Query = dict[str, str]


def error(status: int, sentence: str) -> Answer:
    return Answer(status, TEXT, (sentence + "\n").encode())


def page(path: str, query: Query, closing: threading.Event) -> Answer:
    """closing: set when the server closes; whoever takes long looks at it."""
    handler = _PAGES.get(path.rstrip("/"))
    if handler is None:
        return error(404, f"no page {path!r}: /debug/pprof/ has the list")
    try:
        return handler(query, closing)
    except _BadQuery as exc:
        return error(400, str(exc))
    except Exception as exc:  # what is asked for can't be had: a profile that runs already, say
        return error(500, f"{path}: {type(exc).__name__}: {exc}")


class _BadQuery(Exception):
    pass


def _seconds(query: Query, default: float) -> float:
    value = query.get("seconds", str(default))
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise _BadQuery(f"seconds={value!r}: give a number of seconds, above 0, up to 3600")
    return seconds


def _seconds_or_all(query: Query) -> float | None:
    return _seconds(query, 0) if "seconds" in query else None


def _debug(query: Query) -> int:
    value = query.get("debug", "0")
    if value not in ("0", "1", "2"):
        raise _BadQuery(f"debug={value!r}: give 0, 1 or 2")
    return int(value)


# ---------------------------------------------------------------- text


def _shown(body: str, kind: str = TEXT) -> Answer:
    return Answer(200, kind, body.encode(errors="backslashreplace"))


def _sched(query: Query, _closing: threading.Event) -> Answer:
    return _shown(schedtrace.report(time.monotonic() - _started, detail=_debug(query) != 0))


def _threadcreate(_query: Query, _closing: threading.Event) -> Answer:
    return _shown(text.threads())


def _metrics(_query: Query, _closing: threading.Event) -> Answer:
    return _shown(metrics_prometheus.text(), metrics_prometheus.CONTENT_TYPE)


def _goroutine(query: Query, _closing: threading.Event) -> Answer:
    debug = _debug(query)
    if debug == 1:
        return _shown(text.goroutines())
    if debug == 2:
        return _shown(stacks() + "\n")
    return _pb("goroutine", pprof.goroutine())


# ---------------------------------------------------------------- profiles and traces


def _pb(name: str, profile: bytes) -> Answer:
    return Answer(200, "application/octet-stream", profile, f"{name}.pb.gz")


def _profile(query: Query, _closing: threading.Event) -> Answer:
    return _pb("profile", pprof.cpu(_seconds(query, 30)))


def _starvation(query: Query, _closing: threading.Event) -> Answer:
    return _pb("starvation", pprof.starvation(_seconds(query, 30)))


def _block(query: Query, _closing: threading.Event) -> Answer:
    return _pb("block", pprof.block(_seconds_or_all(query)))


def _mutex(query: Query, _closing: threading.Event) -> Answer:
    return _pb("mutex", pprof.mutex(_seconds_or_all(query)))


def _trace(query: Query, closing: threading.Event) -> Answer:
    seconds = _seconds(query, 1)
    with tempfile.TemporaryDirectory(prefix="gmpy-trace-") as folder:
        file = Path(folder, "trace.json")
        with trace.start(file):
            closing.wait(seconds)
        return Answer(200, "application/json", file.read_bytes(), "trace.json")


# ---------------------------------------------------------------- HTML


def _live(_query: Query, _closing: threading.Event) -> Answer:
    return Answer(200, HTML, Path(__file__).with_name("gmp.html").read_bytes())


_INDEX = (
    ("/debug/gmp", "live page: what each P does, who blocks, who hogs"),
    ("/metrics", "every metric, as text for Prometheus"),
    ("/debug/pprof/sched", "one line of the scheduler's state"),
    ("/debug/pprof/sched?debug=1", "the same, and a line per P, M and G"),
    ("/debug/pprof/goroutine?debug=1", "stacks of all G's, equal ones merged"),
    ("/debug/pprof/goroutine?debug=2", "every G: state, wait, stack, who made it"),
    ("/debug/pprof/goroutine", "the same for go tool pprof"),
    ("/debug/pprof/threadcreate", "the M's"),
    ("/debug/pprof/profile?seconds=5", "CPU profile"),
    ("/debug/pprof/starvation?seconds=5", "time runnable but not running, by what ran instead"),
    ("/debug/pprof/block", "where G's waited"),
    ("/debug/pprof/mutex", "who made others wait for a lock"),
    ("/debug/pprof/trace?seconds=1", "execution trace, for ui.perfetto.dev"),
)


def _index(query: Query, _closing: threading.Event) -> Answer:
    def link(path: str) -> str:
        if "token" not in query:
            return path
        from urllib.parse import quote

        return f"{path}{'&' if '?' in path else '?'}token={quote(query['token'], safe='')}"

    rows = "".join(
        f'<tr><td><a href="{html.escape(link(path))}">{html.escape(path)}</a>'
        f"<td>{html.escape(what)}"
        for path, what in _INDEX
    )
    return _shown(
        "<!doctype html><html lang=en><meta charset=utf-8><title>gmpy_rt debug</title><style>"
        ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;"
        "max-width:52rem;padding:0 1rem}td{padding:.15rem 1.5rem .15rem 0}</style>"
        f"<h1>gmpy_rt, process {os.getpid()}</h1><table>{rows}</table>",
        HTML,
    )


_PAGES: dict[str, Callable[[Query, threading.Event], Answer]] = {
    "": _index,
    "/debug": _index,
    "/debug/pprof": _index,
    "/debug/pprof/goroutine": _goroutine,
    "/debug/pprof/threadcreate": _threadcreate,
    "/debug/pprof/sched": _sched,
    "/debug/pprof/profile": _profile,
    "/debug/pprof/starvation": _starvation,
    "/debug/pprof/block": _block,
    "/debug/pprof/mutex": _mutex,
    "/debug/pprof/trace": _trace,
    "/metrics": _metrics,
    "/debug/gmp": _live,
}
