"""Runs one case of one Python peer: `python -P run_peer.py PEER CASE PARAMS`.

The package `bench` is loaded by its place and not through sys.path: with the
checkout on the path, its gmpy_rt would hide an installed one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path


def _load_bench() -> None:
    folder = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        "bench", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)


def main() -> int:
    peer, case, params = sys.argv[1:4]
    _load_bench()
    kit = importlib.import_module("bench.peers.kit")
    module = importlib.import_module(f"bench.peers.{peer}")
    measure = getattr(module, case, None)
    if measure is None:
        reason = getattr(module, "WITHOUT", {}).get(case, "has no such thing")
        kit.answer({"skipped": reason})
        return 0
    try:
        values = measure(json.loads(params))
    except kit.Skipped as skipped:
        kit.answer({"skipped": str(skipped)})
        return 0
    kit.answer({"values": values})
    return 0


if __name__ == "__main__":
    sys.exit(main())
