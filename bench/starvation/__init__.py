"""The starvation lab: `gmpy-rt starve --help`.

The article's programs as experiments, run under every policy and number of P's, beside Go and
others; what the article claims gets a verdict from what this very run has measured.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the lab; argv as on the command line. Returns the exit code."""
    from bench.starvation.cli import main as cli_main

    return cli_main(argv)
