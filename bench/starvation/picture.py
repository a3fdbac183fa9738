"""Has the pictures drawn: by this interpreter if it has matplotlib, else in a venv for it."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench.interpreters import gil_builds, installed, probe
from bench.store import NotAvailable, Store, run_quietly

DRAWER = Path(__file__).resolve().parent / "draw.py"
REQUIREMENT = "matplotlib"


@dataclass
class Pictures:
    """The PNG of each scenario, and why there is none."""

    files: dict[str, Path] = field(default_factory=dict)
    problem: str = ""


def draw(data: Path, out: Path, store: Store) -> Pictures:
    """Draw what the JSON file tells into out."""
    try:
        words = [_python(store), "-P", str(DRAWER), str(data), str(out)]
        drawn = json.loads(run_quietly(words, what="drawing", limit=300))
    except (NotAvailable, ValueError) as error:
        return Pictures(problem=f"{error}; pip install 'gmpy_rt[lab]' brings matplotlib")
    return Pictures({name: Path(path) for name, path in drawn.items()})


def _python(store: Store) -> str:
    if importlib.util.find_spec(REQUIREMENT):
        return sys.executable
    # matplotlib has wheels for builds with a GIL first.
    mine = probe(sys.executable)
    builds = [*([mine] if mine else []), *gil_builds(), *installed()]
    reason = "no Python to install matplotlib with"
    for interpreter in builds:
        try:
            return str(store.venv(REQUIREMENT, interpreter) / "bin" / "python")
        except NotAvailable as error:
            reason = f"on {interpreter.tag}: {error}"
    raise NotAvailable(reason)
