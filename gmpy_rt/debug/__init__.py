"""The debug HTTP server: profiles, metrics, and a live page of the scheduler.

gmpy_rt.debug.serve("127.0.0.1:6060")   # http://127.0.0.1:6060/debug/gmp
"""

from .serve import Server, serve

__all__ = ["Server", "serve"]
