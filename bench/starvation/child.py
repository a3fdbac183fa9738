"""One measurement in a process of its own: `python -P child.py RUNTIME SCENARIO PARAMS`.

Prints the record as one JSON line. The package `bench` is loaded by its place, as in
bench/run_peer.py, so that a checkout's gmpy_rt doesn't hide an installed one.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path

LIFE_LIMIT = 120.0


def _load_bench() -> None:
    folder = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "bench", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)


def main() -> int:
    # Whoever started it has given it up by then, or is gone.
    faulthandler.dump_traceback_later(LIFE_LIMIT, exit=True)
    runtime, name, text = sys.argv[1:4]
    _load_bench()
    kit = importlib.import_module("bench.peers.kit")
    params = json.loads(text)
    try:
        if runtime == "gmpy":
            lab = importlib.import_module("bench.starvation.lab")
            scenario = importlib.import_module(f"bench.starvation.scenarios.{name}")
            record = lab.measure(scenario, params)
        else:
            peer = importlib.import_module(f"bench.starvation.peers.{runtime}")
            program = getattr(peer, name, None)
            if program is None:
                raise kit.Skipped(peer.WITHOUT.get(name, "has no such thing"))
            record = program(params)
    except kit.Skipped as skipped:
        record = {"skipped": str(skipped)}
    kit.answer(record)
    # Whatever a runtime leaves asleep (timers, threads) is not to be waited for.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
