"""One file for each case, each with a title, its metrics and the same three functions."""

from __future__ import annotations

import importlib
from typing import cast

from bench.model import Case

# In the order of the report.
NAMES = (
    "spawn",
    "gosched",
    "pingpong",
    "select",
    "lock",
    "crowd",
    "group",
    "cancel",
    "cpu",
    "echo",
    "parked",
    "million",
    "ticker",
    "blockers",
)


def load(name: str) -> Case:
    """The case of that name."""
    return cast(Case, importlib.import_module(f"bench.cases.{name}"))
