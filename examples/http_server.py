"""An HTTP/1.1 server: one G per connection, plain blocking calls, all cores.

Keep-alive, pipelining, chunked bodies both ways, limits on the size of heads
and bodies, timeouts. httptools parses; what is here is what a server decides.

Run it:   python examples/http_server.py --port 8080
Try it:   curl -i http://127.0.0.1:8080/
          curl -N http://127.0.0.1:8080/stream          a chunked response
          curl -d 'some text' http://127.0.0.1:8080/echo
          curl http://127.0.0.1:8080/stats              the runtime's counters

With --guard it answers 503 and Retry-After while its G's starve, see gmpy_rt.guard.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from email.utils import formatdate
from http import HTTPStatus
from math import ceil, isqrt
from typing import NamedTuple

from gmpy_rt import go, run, sleep, socket, stats
from gmpy_rt.guard import HungerGuard, Overloaded

try:
    import httptools
except ImportError:
    sys.exit("http_server.py needs the parser httptools: pip install 'gmpy_rt[examples]'")


class Limits(NamedTuple):
    """What one client may cost."""

    head_bytes: int = 16 * 1024
    body_bytes: int = 1024 * 1024
    idle_seconds: float = 30.0  # between two requests, and for a client that doesn't read
    request_seconds: float = 10.0  # from a request's first byte to its last


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[bytes, bytes]  # names in lower case
    body: bytes
    version: str
    keep_alive: bool


class Response(NamedTuple):
    """A body that is an iterator is sent chunk by chunk as it comes."""

    body: bytes | Iterator[bytes]
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"
    extra_head: str = ""


# ---- what this server answers


def hello(_: Request) -> Response:
    return Response(b"Hello, world!\n")


def work(_: Request) -> Response:
    """Some pure Python to do, as a small page or a query has."""
    primes = sum(all(n % d for d in range(2, isqrt(n) + 1)) for n in range(2, 1200))
    return Response(b"%d primes below 1200\n" % primes)


def stream(_: Request) -> Response:
    def lines() -> Iterator[bytes]:
        for number in range(1, 6):
            yield b"line %d\n" % number
            sleep(0.2)

    return Response(lines())


def echo(request: Request) -> Response:
    return Response(request.body, content_type="application/octet-stream")


def show_stats(_: Request) -> Response:
    counters = json.dumps(dataclasses.asdict(stats()))
    return Response(counters.encode(), content_type="application/json")


ROUTES: dict[str, tuple[str, Callable[[Request], Response]]] = {
    "/": ("GET", hello),
    "/work": ("GET", work),
    "/stream": ("GET", stream),
    "/echo": ("POST", echo),
    "/stats": ("GET", show_stats),
}


GUARD: HungerGuard | None = None  # --guard


def answer(request: Request) -> Response:
    found = ROUTES.get(request.path)
    if found is None:
        return error(HTTPStatus.NOT_FOUND)
    method, handler = found
    if request.method != method and (request.method, method) != ("HEAD", "GET"):
        return error(HTTPStatus.METHOD_NOT_ALLOWED, f"Allow: {method}\r\n")
    try:
        return GUARD.call(handler, request) if GUARD else handler(request)
    except Overloaded as problem:
        wait = f"Retry-After: {max(ceil(problem.retry_after), 1)}\r\n"
        return error(HTTPStatus.SERVICE_UNAVAILABLE, wait)
    except Exception:
        traceback.print_exc()
        return error(HTTPStatus.INTERNAL_SERVER_ERROR)


def error(status: HTTPStatus, extra_head: str = "") -> Response:
    return Response(f"{status.value} {status.phrase}\n".encode(), status, extra_head=extra_head)


# ---- reading requests


class RequestReader:
    """Turns bytes into requests: the parser's callbacks and the limits.

    `requests` holds what is complete. `problem` is set once, when what came
    after those breaks a rule; nothing is read any more then.
    """

    def __init__(self, limits: Limits) -> None:
        self.requests: list[Request] = []
        self.problem: HTTPStatus | None = None
        self.in_request = False
        self.began = 0.0  # when the request that is coming in began
        self.wants_continue = False
        self._limits = limits
        self._in_head = False
        self._head_parsed = 0
        self._head_fed = 0
        self._body_bytes = 0
        self._between = 0  # bytes of a chunked body that aren't its data
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        was_in_head, began, body_bytes = self._in_head, self.began, self._body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Upgrades aren't offered: the request is answered as a plain one,
            # and what follows it may be another protocol.
            if self.requests:
                self.requests[-1] = self.requests[-1]._replace(keep_alive=False)
        except httptools.HttpParserError:
            self._stop(HTTPStatus.BAD_REQUEST)
        if was_in_head and self._in_head:
            # The parser keeps an unfinished header to itself: count what it ate, too.
            self._head_fed += len(data)
            self._check_head()
        elif self.in_request and not was_in_head and began == self.began:
            # Sizes, extensions and trailers of chunks: without end, if nobody counted.
            self._between += len(data) - (self._body_bytes - body_bytes)
            if self._between > self._limits.head_bytes + self._limits.body_bytes:
                self._stop(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    # Called by the parser.

    def on_message_begin(self) -> None:
        self.in_request = self._in_head = True
        self.began = time.monotonic()
        self._head_parsed = self._head_fed = self._body_bytes = self._between = 0
        self._url = b""
        self._headers = {}
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._url += url  # comes in pieces if the packets cut it
        self._head_parsed += len(url)
        self._check_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_parsed += len(name) + len(value) + 4
        self._check_head()
        if self._in_head:  # else it is a trailer: those may not change what was decided
            name = name.lower()
            before = self._headers.get(name)
            self._headers[name] = value if before is None else before + b", " + value

    def on_headers_complete(self) -> None:
        self._in_head = False
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            self._stop(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        if b"host" not in self._headers and self._parser.get_http_version() == "1.1":
            self._stop(HTTPStatus.BAD_REQUEST)
        self.wants_continue = self._headers.get(b"expect", b"").lower() == b"100-continue"

    def on_body(self, body: bytes) -> None:
        self.wants_continue = False
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._stop(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif self.problem is None:
            self._body.append(body)

    def on_message_complete(self) -> None:
        self.in_request = self.wants_continue = False
        if self.problem is None:
            parser = self._parser
            self.requests.append(
                Request(
                    parser.get_method().decode("ascii"),
                    path_of(self._url),
                    self._headers,
                    b"".join(self._body),
                    parser.get_http_version(),
                    parser.should_keep_alive(),
                )
            )

    def _check_head(self) -> None:
        if max(self._head_parsed, self._head_fed) > self._limits.head_bytes:
            self._stop(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def _stop(self, problem: HTTPStatus) -> None:
        if self.problem is None:
            self.problem = problem


def path_of(url: bytes) -> str:
    if not url.startswith(b"/"):
        try:
            url = httptools.parse_url(url).path or b"/"  # http://host/path is legal, too
        except httptools.HttpParserInvalidURLError:
            return ""
    return url.partition(b"?")[0].decode("latin-1")


# ---- writing responses


class Date:
    """The Date header's value; formatting it costs more than a whole request."""

    _now = (0, "")

    @classmethod
    def now(cls) -> str:
        second = int(time.time())
        cached = cls._now
        if cached[0] != second:
            # Another thread may do the same at the same time: both write the same.
            cls._now = cached = (second, formatdate(second, usegmt=True))
        return cached[1]


def head_of(response: Response, length: int | None, version: str, keep_alive: bool) -> bytes:
    status = response.status
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Date: {Date.now()}\r\nContent-Type: {response.content_type}\r\n{response.extra_head}"
    )
    if length is not None:
        lines += f"Content-Length: {length}\r\n"
    elif version == "1.1":
        lines += "Transfer-Encoding: chunked\r\n"
    if not keep_alive:
        lines += "Connection: close\r\n"
    elif version == "1.0":
        lines += "Connection: keep-alive\r\n"
    return (lines + "\r\n").encode("latin-1")


def send(conn: socket.socket, request: Request, response: Response, pending: list[bytes]) -> bool:
    """Queues a response in `pending` or, if it is a stream, sends it at once.

    Returns whether the connection can serve another request.
    """
    body, version, keep_alive = response.body, request.version, request.keep_alive
    if isinstance(body, bytes):
        pending.append(head_of(response, len(body), version, keep_alive))
        if request.method != "HEAD":
            pending.append(body)
        return keep_alive
    # HTTP/1.0 knows no chunks: there the end of the connection ends the body.
    chunked = version == "1.1"
    keep_alive = keep_alive and chunked
    pending.append(head_of(response, None, version, keep_alive))
    if request.method != "HEAD":
        for piece in body:
            if piece:  # an empty chunk would end the body
                pending.append(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                flush(conn, pending)
        if chunked:
            pending.append(b"0\r\n\r\n")
    return keep_alive


def flush(conn: socket.socket, pending: list[bytes]) -> None:
    if pending:
        conn.sendall(b"".join(pending))
        pending.clear()


def refuse(conn: socket.socket, status: HTTPStatus) -> None:
    """Sends a last response to a client that may still be sending."""
    response = error(status)
    assert isinstance(response.body, bytes)
    conn.sendall(head_of(response, len(response.body), "1.1", False) + response.body)
    # Closing with unread bytes resets the connection, and the client might
    # never see the response: read on for a moment.
    conn.shutdown(socket.SHUT_WR)
    conn.settimeout(1.0)
    for _ in range(64):
        if not conn.recv(65536):
            break


# ---- connections


def serve_connection(conn: socket.socket, limits: Limits) -> None:
    with conn:
        try:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer_requests(conn, limits)
        except OSError:
            pass  # the client went away or doesn't read: nobody is left to tell


def answer_requests(conn: socket.socket, limits: Limits) -> None:
    reader = RequestReader(limits)
    pending: list[bytes] = []
    idle = True
    conn.settimeout(limits.idle_seconds)
    while True:
        try:
            data = conn.recv(65536)
        except TimeoutError:
            if reader.in_request:
                refuse(conn, HTTPStatus.REQUEST_TIMEOUT)
            return
        if not data:
            return
        reader.feed(data)
        if not idle:
            idle = True
            conn.settimeout(limits.idle_seconds)  # for what is sent now

        # A pipelining client has sent several: answer all, in order, in one write.
        for request in reader.requests:
            if not send(conn, request, answer(request), pending):
                flush(conn, pending)
                return
        reader.requests.clear()
        if reader.problem is not None:
            flush(conn, pending)
            refuse(conn, reader.problem)
            return
        if reader.wants_continue:
            reader.wants_continue = False
            pending.append(b"HTTP/1.1 100 Continue\r\n\r\n")
        flush(conn, pending)

        # The clock of a slow request isn't set back by each byte that drips in.
        if reader.in_request:
            idle = False
            left = reader.began + limits.request_seconds - time.monotonic()
            conn.settimeout(max(left, 0.001))


def serve(host: str, port: int, limits: Limits) -> None:
    with socket.create_server((host, port), backlog=1024) as listener, GUARD or nullcontext():
        print(f"http server on http://{host}:{listener.getsockname()[1]}/", flush=True)
        while True:
            try:
                conn, _ = listener.accept()
            except OSError as problem:
                if problem.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                    raise
                sleep(0.05)  # out of descriptors: some connections will end
                continue
            go(serve_connection, conn, limits)


def main() -> None:
    parser = argparse.ArgumentParser(description="An HTTP/1.1 server on gmpy_rt.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--procs", type=int, help="P's; default: the CPUs of this process")
    parser.add_argument("--guard", action="store_true", help="refuse work while G's starve")
    args = parser.parse_args()
    if args.guard:
        global GUARD
        GUARD = HungerGuard()
    # What a service manager sends means the same as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(serve, args.host, args.port, Limits(), procs=args.procs)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
