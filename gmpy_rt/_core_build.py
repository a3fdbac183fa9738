"""cffi builder of gmpy_rt._core: the C core, and beside it the fast door (_door).

Both live in one shared object. cffi binds the core (statistics, knobs, tests); the door's
builtins are exported by the same file as a second module, see _load.py.
"""

import os
import sysconfig
from pathlib import Path

import greenlet
from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
CORE = [
    "clock",
    "g",
    "runq",
    "timer",
    "park",
    "netpoll",
    "scheduler",
    "idle",
    "life",
    "policy",
    "sysmon",
    "chan",
    "gsync",
    "trace",
    "api",
    "hunger",
]
BRIDGE = [
    "module",
    "pym",
    "pyg",
    "pylook",
    "pyscope",
    "pychan",
    "pysync",
    "pywait",
    "pygroup",
    "pydump",
    "stack",
    "pyprof",
    "pypoll",
    "preempt",
    "pytrace",
    "script",
    "anchor",
    "arena",
]

debug = os.environ.get("GMPY_DEBUG_BUILD") == "1"

ffibuilder = FFI()
ffibuilder.cdef(
    (ROOT / "csrc" / "api.h").read_text().split("/* cffi: */", 1)[1].split("/* end */", 1)[0]
)
ffibuilder.set_source(
    "gmpy_rt._core",
    '#include "api.h"',
    sources=[f"csrc/{name}.c" for name in CORE] + [f"csrc/bridge/{name}.c" for name in BRIDGE],
    include_dirs=[
        "csrc",
        str(Path(greenlet.__file__).parent.parent),
        sysconfig.get_path("include") + "/internal",
    ],
    define_macros=[("_GNU_SOURCE", "1")],
    # cffi targets the stable ABI where it can; the bridge needs the full one.
    undef_macros=["Py_TARGET_ABI3T", *(["NDEBUG"] if debug else [])],
    extra_compile_args=[
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-fvisibility=hidden",
    ]
    + (["-O1", "-g"] if debug else ["-O3", "-g"]),
    py_limited_api=False,
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
