"""cffi's module: the core's numbers. See csrc/api.h."""

from typing import Any

ffi: Any
lib: Any
