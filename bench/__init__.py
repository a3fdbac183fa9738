"""Benchmarks of gmpy_rt beside its peers: `python -m bench --help`.

Peer programs import this package on their own interpreters, so nothing heavy
is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; argv as on the command line. Returns the exit code."""
    from bench.cli import main as cli_main

    return cli_main(argv)
