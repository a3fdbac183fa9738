"""Local: threading.local for G's."""

from __future__ import annotations

import threading
import weakref
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
    identity = get(local, "_Local__thread")
    of_g = g_locals()
    everything = identity.__dict__ if of_g is None else of_g
    key = id(local)
    mine = everything.get(key)
    if mine is not None:
        return mine[1]  # type: ignore[no-any-return]
    state: dict[str, Any] = {}
    gone = None
    if of_g is not None:
        # The entry goes with the Local, so before its id is used again. (The G's dict is cleared
        # when the G ends, which ends the cycle through this callback, too. A thread's dict goes
        # with the Local.)
        gone = weakref.ref(identity, lambda _: of_g.pop(key, None))
    everything[key] = (gone, state)
    cls = type(local)
    if init and cls.__init__ is not object.__init__:
        try:
            cls.__init__(local, *get(local, "_Local__args"), **get(local, "_Local__kwargs"))
        except BaseException:
            everything.pop(key, None)  # it runs again at the next touch, as threading.local's
            raise
    return state


__all__ = ["Local"]
