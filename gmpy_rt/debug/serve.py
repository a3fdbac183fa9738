"""serve(): HTTP on plain threads, which need no P: they answer while every P is starved.

Whoever can reach it can read stacks, so it binds to loopback unless there is a token, and
answers only requests that name a local host (a web page can make a browser resolve its own
name to 127.0.0.1).
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import os
import socket
import threading
import weakref
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from ..blocking import blocking
from ..runtime import unpin
from . import live, pages

_CLOSE_PATIENCE = 5.0


def serve(address: str = "127.0.0.1:6060", *, token: str | None = None) -> Server:
    """Serve the debug pages at address, "HOST:PORT", until close(); port 0 takes a free one.

    Before, during and after run(). Pages: /debug/pprof/ (the index), /debug/gmp (live),
    /metrics. token: every request must carry it, as ?token=... or as the header
    "Authorization: Bearer ..."; required where the address isn't loopback.

    Raises ValueError for an address that is none, or that needs a token; OSError where it
    can't be bound, the port being in use say.
    """
    return Server(address, token)


class Server:
    """A debug server; close() ends it, as leaving a `with` block does."""

    address: tuple[str, int]  # as bound
    url: str  # http://HOST:PORT

    def __init__(self, address: str, token: str | None) -> None:
        family, sockaddr, loopback = _resolve(address)
        if token is not None and (not isinstance(token, str) or not _is_text(token)):
            raise ValueError(
                f"debug.serve({address!r}, token={token!r}): give a non-empty str of UTF-8"
            )
        if not loopback and token is None:
            raise ValueError(
                f"debug.serve({address!r}): others can reach this address, and would see every "
                "stack; give token='a secret', or bind to 127.0.0.1"
            )
        self._http = _bind(address, family, sockaddr)
        self._http.token = token
        self._http.hosts = {"localhost", "127.0.0.1", "::1"} if loopback else None
        host, port = str(self._http.server_address[0]), self._http.server_address[1]
        self.address = (host, port)
        if self._http.hosts is not None:
            self._http.hosts |= {host.lower(), address.rpartition(":")[0].strip("[]").lower()}
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._thread = threading.Thread(target=self._serve, name="gmpy-debug-serve", daemon=True)
        _open.add(self)
        self._thread.start()

    def _serve(self) -> None:
        unpin()
        self._http.serve_forever(0.2)

    def close(self) -> None:
        """Stop listening, and end the live pages' streams. Twice is once.

        A profile under way isn't waited for. In a G it parks meanwhile.
        """
        if self in _open:
            _open.discard(self)
            blocking(self._close)

    def _close(self) -> None:
        self._http.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(_CLOSE_PATIENCE)
        self._http.sampler.close(_CLOSE_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<debug server {self.url}{'' if self in _open else ' closed'}>"


def _is_text(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


_open: weakref.WeakSet[Server] = weakref.WeakSet()


# ---------------------------------------------------------------- the address


def _resolve(address: str) -> tuple[socket.AddressFamily, Any, bool]:
    """(family, what to bind to, whether only this machine can reach it)."""
    what = f"debug.serve({address!r})"
    if not isinstance(address, str):
        raise TypeError(f"{what}: the address is a str such as '127.0.0.1:6060'")
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    number = int(port) if port.isascii() and port.isdecimal() else -1
    if not colon or not 0 <= number <= 65535 or (":" in host and not bracketed):
        raise ValueError(
            f"{what}: not an address; give HOST:PORT, such as '127.0.0.1:6060' or '[::1]:6060'"
        )
    try:
        found = socket.getaddrinfo(
            host or None, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as exc:
        raise ValueError(
            f"{what}: no such host ({exc.strerror or exc}); give an address of this machine, "
            "such as '127.0.0.1:6060'"
        ) from exc
    # IPv4 first: what people write as 127.0.0.1 in their browser.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, sockaddr = found[0]
    return family, sockaddr, ipaddress.ip_address(str(sockaddr[0]).split("%")[0]).is_loopback


def _bind(address: str, family: socket.AddressFamily, sockaddr: Any) -> _HTTPServer:
    try:
        return _HTTPServer(family, sockaddr)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        remedy = "give an address of this machine, such as '127.0.0.1:6060'"
        if exc.errno == errno.EADDRINUSE:
            remedy = "choose another port, or 0 for any that is free"
        elif exc.errno == errno.EACCES:
            remedy = "choose a port above 1023"
        raise OSError(
            exc.errno or errno.EIO, f"debug.serve({address!r}): {reason}; {remedy}"
        ) from exc


# ---------------------------------------------------------------- HTTP


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # A restarted program gets its port back; two at a time don't share it.
    allow_reuse_address = True
    allow_reuse_port = False
    request_queue_size = 64

    def __init__(self, family: socket.AddressFamily, sockaddr: Any) -> None:
        self.address_family = family
        self.token: str | None = None
        self.hosts: set[str] | None = None
        self.closing = threading.Event()
        self.sampler = live.Sampler()
        super().__init__(sockaddr, _Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="gmpy-debug-request",
            daemon=True,
        ).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's business."""


class _Handler(BaseHTTPRequestHandler):
    server: _HTTPServer
    server_version = "gmpy_rt"
    timeout = 30  # seconds for a request to come, and for each write

    def do_GET(self) -> None:
        try:
            url = urlsplit(self.path)
        except ValueError as exc:  # such as http://[::1
            self._answer(pages.error(400, f"{self.path!r}: {exc}"))
            return
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        refusal = self._refusal(query)
        if refusal is not None:
            self._answer(refusal)
        elif url.path == "/debug/gmp/events":
            self._stream()
        else:
            self._answer(pages.page(url.path, query, self.server.closing))

    do_HEAD = do_GET

    def _refusal(self, query: dict[str, str]) -> pages.Answer | None:
        hosts, token = self.server.hosts, self.server.token
        if hosts is not None and _host_of(self.headers.get("Host", "localhost")) not in hosts:
            return pages.error(
                403, f"Host {self.headers['Host']!r} is not this server's: use its own address"
            )
        if token is None:
            return None
        scheme, _, bearer = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = bearer.strip().encode("latin-1", "replace")  # as http.client decoded it
        else:
            given = query.get("token", "").encode()
        if hmac.compare_digest(given, token.encode()):
            return None
        return pages.error(401, "this server wants its token: ?token=... or Authorization: Bearer")

    def _answer(self, answer: pages.Answer) -> None:
        status, kind, body, name = answer
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self._safe_headers()
        if name:
            self.send_header("Content-Disposition", f'attachment; filename="{name}"')
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self) -> None:
        """Server-sent events until the reader or the server goes away."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self._safe_headers()
        self.end_headers()
        if self.command == "HEAD":
            return
        for event in self.server.sampler.events():
            self.wfile.write(b"data: " + event + b"\n\n")

    def _safe_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")  # it may hold the token
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
            "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'",
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the program's stderr is its own."""


def _host_of(header: str) -> str:
    """The name in a Host header, without the port."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _after_fork_in_child() -> None:
    """The threads are the parent's; so is the port."""
    for server in list(_open):
        server._http.socket.close()
    _open.clear()


_register: Callable[..., None] = os.register_at_fork
_register(after_in_child=_after_fork_in_child)
