"""`python -m gmpy_rt` is the command `gmpy-rt`."""

import sys

from .cli import main

sys.exit(main())
