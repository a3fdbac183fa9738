"""The whole stress suite runs while a plain thread collects garbage every 10 ms."""

from __future__ import annotations

import _thread
import gc
import threading
from collections.abc import Iterator

import pytest

PERIOD = 0.010


@pytest.fixture(autouse=True, scope="module")
def collecting() -> Iterator[list[int]]:
    stop, over, count = threading.Event(), threading.Event(), [0]

    def collector() -> None:
        while not stop.wait(PERIOD):
            gc.collect()
            count[0] += 1
        over.set()

    # Not threading.Thread: a thread of the user's might wake a G, and would hide deadlocks.
    _thread.start_new_thread(collector, ())
    yield count
    stop.set()
    assert over.wait(20)
    assert count[0] > 0
    assert gc.isenabled()
