"""The numbers of P's that cases are run with."""

from __future__ import annotations

PROCS = (1, 2, 4)
