"""uvloop: the asyncio programs on another event loop."""

from __future__ import annotations

from typing import Any

import uvloop

from bench.peers import asyncio as on_asyncio
from bench.peers import kit
from bench.peers.asyncio import (  # noqa: F401
    WITHOUT,
    blockers,
    cancel,
    cpu,
    crowd,
    echo,
    gosched,
    group,
    million,
    parked,
    pingpong,
    spawn,
    ticker,
)
from bench.peers.kit import Params

on_asyncio.use(uvloop.run)


def about(params: Params) -> dict[str, Any]:
    return kit.about("uvloop")
