"""Local: threading.local for G's."""

from __future__ import annotations

import threading
from typing import Any

from . import _load as _load
from ._door import g_locals

_SLOTS = ("_Local__args", "_Local__kwargs", "_Local__thread")


class Local:
    """An object whose attributes each G (and each plain thread) has for itself.

    As with threading.local, a subclass's __init__ runs anew, with the same arguments, in each
    G that touches the object. What a G set goes when the G ends.
    """

    __slots__ = (*_SLOTS, "__weakref__")

    def __new__(cls, /, *args: Any, **kwargs: Any) -> Local:
        if (args or kwargs) and cls.__init__ is object.__init__:
            raise TypeError(f"{cls.__name__}() takes no arguments unless a subclass has __init__")
        self = object.__new__(cls)
        object.__setattr__(self, "_Local__args", args)
        object.__setattr__(self, "_Local__kwargs", kwargs)
        object.__setattr__(self, "_Local__thread", threading.local())
        _state(self, init=False)
        return self

    def __getattribute__(self, name: str) -> Any:
        state = _state(self)
        if name == "__dict__":
            return state
        if name in state and not _is_data_descriptor(type(self), name):
            return state[name]
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__dict__":
            raise AttributeError(f"__dict__ of {type(self).__name__!r} object is read-only")
        if _is_data_descriptor(type(self), name):
            object.__setattr__(self, name, value)
        else:
            _state(self)[name] = value

    def __delattr__(self, name: str) -> None:
        if name == "__dict__":
            raise AttributeError(f"__dict__ of {type(self).__name__!r} object is read-only")
        if _is_data_descriptor(type(self), name):
            object.__delattr__(self, name)
            return
        try:
            del _state(self)[name]
        except KeyError:
            kind = type(self).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}") from None


def _is_data_descriptor(cls: type, name: str) -> bool:
    for base in cls.__mro__:
        if name in base.__dict__:
            found = type(base.__dict__[name])
            return hasattr(found, "__set__") or hasattr(found, "__delete__")
    return False


def _state(local: Local, init: bool = True) -> dict[str, Any]:
    """The calling G's attributes of local; made, through __init__, when it has none yet."""
    get = object.__getattribute__
    everything = g_locals()
    if everything is None:  # a plain thread
        everything = get(local, "_Local__thread").__dict__
    mine = everything.get(id(local))
    if mine is not None and mine[0] is get(local, "_Local__thread"):
        return mine[1]  # type: ignore[no-any-return]
    state: dict[str, Any] = {}
    # threading.local() is the identity: ids of dead Locals are used again.
    everything[id(local)] = (get(local, "_Local__thread"), state)
    cls = type(local)
    if init and cls.__init__ is not object.__init__:
        cls.__init__(local, *get(local, "_Local__args"), **get(local, "_Local__kwargs"))
    return state


__all__ = ["Local"]
