"""Loads the two modules that live in one shared object: _core (cffi) and _door (builtins).

Refuses interpreters on which greenlets are known to crash, with the remedy.
"""

import importlib.machinery
import importlib.util
import sys
import sysconfig
from types import ModuleType

import greenlet


def _check_versions() -> None:
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    if free_threaded and sys.version_info < (3, 14, 4):
        raise ImportError(
            "gmpy_rt needs free-threaded CPython 3.14.4 or newer, this is "
            f"{sys.version.split()[0]}: greenlets crash on older ones; "
            "install a newer one, or use a build with the GIL"
        )
    have = tuple(int(part) for part in greenlet.__version__.split(".")[:3])
    if have < (3, 5, 6):
        raise ImportError(
            f"gmpy_rt needs greenlet 3.5.6 or newer, this is {greenlet.__version__}: "
            "older ones may leave the garbage collector switched off; pip install -U greenlet"
        )


def _load_door() -> ModuleType:
    from . import _core

    name = "gmpy_rt._door"
    loader = importlib.machinery.ExtensionFileLoader(name, _core.__file__)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[name] = module
    return module


_check_versions()
_load_door()
