"""The scenarios: one module each, with the same few names.

TITLE, PROGRAM    what it is, and which of the article's programs
ABOUT             what happens in it, for the report
HEADLINE          the kinds of wait that `measured` is about
PROCS             the only numbers of P's it makes sense for; None: any
also(figures)     optional: what the table adds at the end of a run's line
params(scale)     sizes and durations in seconds; scale 1 is the full size
prepare(lab, params)   optional: outside the runtime; what it returns is given to run
run(lab, params)  the main G
"""

from __future__ import annotations

import importlib
from typing import Any

NAMES = ("sleeper", "locks", "hogs", "blocking", "timers", "storm", "order")


def letter(name: str) -> str:
    return "abcdefg"[NAMES.index(name)]


def load(name: str) -> Any:
    return importlib.import_module(f"bench.starvation.scenarios.{name}")
