"""The examples, each started as its docstring says, in a process of its own."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# Small limits, so that a test reaches them at once.
TIGHT_HTTP_SERVER = """
import sys
sys.path.insert(0, sys.argv[1])
import http_server as server
seconds = float(sys.argv[2])
limits = server.Limits(head_bytes=1000, body_bytes=5000, idle_seconds=5, request_seconds=seconds)
try:
    server.run(server.serve, "127.0.0.1", 0, limits)
except KeyboardInterrupt:
    pass
"""


@contextmanager
def started(*words: str) -> Iterator[int]:
    """Starts a server example; yields its port; ends it with Ctrl-C, which must work."""
    process = subprocess.Popen(
        [sys.executable, "-P", *words], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r":(\d+)/?$", line.strip())
        assert found, f"the server said {line!r}"
        yield int(found[1])
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def finished(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *words],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def read_all(conn: socket.socket) -> bytes:
    received = b""
    while data := conn.recv(65536):
        received += data
    return received


def read_until(conn: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        data = conn.recv(65536)
        assert data, f"closed after {received!r}"
        received += data
    return received


# ---- the small ones


def test_echo_server_echoes_to_several_clients() -> None:
    with started(str(EXAMPLES / "echo_server.py"), "--port=0") as port:
        conns = [connect(port) for _ in range(20)]
        for number, conn in enumerate(conns):
            conn.sendall(b"%d\n" % number)
        for number, conn in enumerate(conns):
            assert read_until(conn, b"\n") == b"%d\n" % number
            conn.close()
        with connect(port) as conn:
            big = b"x" * 300_000
            conn.sendall(big)
            conn.shutdown(socket.SHUT_WR)
            assert read_all(conn) == big


def test_prime_sieve_finds_the_primes() -> None:
    assert finished(str(EXAMPLES / "prime_sieve.py"), "10") == "2 3 5 7 11 13 17 19 23 29\n"


def test_word_count_counts_every_file_once(tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / f"d{number % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.txt").write_text("the cat, the Dog\n")
    (tmp_path / "not.me").write_text("the")
    output = finished(str(EXAMPLES / "word_count.py"), str(tmp_path), "--suffix=.txt")
    assert re.search(r"^ +60  the$", output, re.MULTILINE)
    assert re.search(r"^ +30  dog$", output, re.MULTILINE)
    assert "120 words in 30 files (0 unreadable)" in output


def test_chat_lines_reach_everybody_in_the_room() -> None:
    with started(str(EXAMPLES / "chat_server.py"), "--port=0") as port:
        ann = connect(port)
        ann.sendall(b"ann\n")
        read_until(ann, b"* ann is here, 1 in the room\n")
        bob = connect(port)
        bob.sendall(b"bob\n")
        read_until(bob, b"* bob is here, 2 in the room\n")
        ann.sendall("hällo\n".encode())
        for member in (ann, bob):
            read_until(member, "ann: hällo\n".encode())
        twin = connect(port)
        twin.sendall(b"bob\n")
        assert b"* bob is taken" in read_all(twin)
        bob.close()
        read_until(ann, b"* bob has left\n")
        ann.close()
        twin.close()


# ---- the HTTP server


def tight_http_server(request_seconds: float) -> AbstractContextManager[int]:
    pytest.importorskip("httptools")
    return started("-c", TIGHT_HTTP_SERVER, str(EXAMPLES), str(request_seconds))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with tight_http_server(request_seconds=20) as port:
        yield port


def exchange(port: int, *pieces: bytes, pause: float = 0.02) -> bytes:
    """Sends the pieces, one packet each, and returns all until the server closes."""
    with connect(port) as conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            conn.sendall(piece)
            time.sleep(pause if len(pieces) > 1 else 0)
        return read_all(conn)


def get(path: str, *, close: bool, version: str = "1.1", method: str = "GET") -> bytes:
    last = "Connection: close\r\n" if close else ""
    return f"{method} {path} HTTP/{version}\r\nHost: h\r\n{last}\r\n".encode()


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    received = exchange(
        port, get("/", close=False) + get("/nowhere", close=False) + get("/work", close=True)
    )
    assert statuses(received) == [200, 404, 200]
    assert received.endswith(b"196 primes below 1200\n")


def test_request_in_single_bytes_is_one_request(port: int) -> None:
    request = get("/", close=True)
    assert statuses(exchange(port, *[bytes([byte]) for byte in request], pause=0.001)) == [200]


def test_keep_alive_serves_one_request_after_the_other(port: int) -> None:
    with connect(port) as conn:
        for _ in range(3):
            conn.sendall(get("/", close=False))
            assert b"Connection:" not in read_until(conn, b"world!\n")


def test_http_1_0_closes_unless_asked_to_keep_alive(port: int) -> None:
    assert b"Connection: close\r\n" in exchange(port, b"GET / HTTP/1.0\r\n\r\n")
    with connect(port) as conn:
        for _ in range(2):
            conn.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert b"Connection: keep-alive\r\n" in read_until(conn, b"world!\n")


def test_head_has_the_head_of_get_and_no_body(port: int) -> None:
    received = exchange(port, get("/", close=True, method="HEAD"))
    assert b"Content-Length: 14\r\n" in received
    assert received.endswith(b"\r\n\r\n")


def test_chunked_request_body_is_put_together(port: int) -> None:
    received = exchange(
        port,
        b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"5\r\nhello\r\n",
        b"7;note=1\r\n, world\r\n0\r\nTrailer: x\r\n\r\n",
    )
    assert received.endswith(b"\r\n\r\nhello, world")


def test_stream_comes_in_chunks_and_the_connection_lives_on(port: int) -> None:
    received = exchange(port, get("/stream", close=False) + get("/", close=True))
    assert statuses(received) == [200, 200]
    assert b"Transfer-Encoding: chunked\r\n" in received
    chunks = b"".join(b"7\r\nline %d\n\r\n" % number for number in range(1, 6)) + b"0\r\n\r\n"
    assert chunks in received


def test_stream_to_http_1_0_ends_with_the_connection(port: int) -> None:
    received = exchange(port, b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"chunked" not in received
    assert received.endswith(b"line 1\nline 2\nline 3\nline 4\nline 5\n")


def test_stats_are_json_per_p(port: int) -> None:
    import json

    body = exchange(port, get("/stats", close=True)).partition(b"\r\n\r\n")[2]
    assert json.loads(body)["per_p"]


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
        (get("/nowhere", close=True), 404),
        (get("/echo", close=True), 405),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 2000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 2000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
        (b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5001\r\n\r\n", 413),
    ],
)
def test_bad_request_gets_its_status_and_the_end(
    port: int, request_bytes: bytes, status: int
) -> None:
    received = exchange(port, request_bytes)
    assert statuses(received) == [status]


def test_endless_header_is_refused_though_it_never_completes(port: int) -> None:
    received = exchange(port, b"GET / HTTP/1.1\r\nX: ", *[b"y" * 100] * 20, pause=0.002)
    assert statuses(received) == [431]


def test_head_just_below_the_limit_is_fine_in_pieces(port: int) -> None:
    request = get("/", close=True)
    padding = b"X: " + b"y" * (1000 - len(request) - 10) + b"\r\n"
    request = request[:-2] + padding + b"\r\n"
    pieces = [request[at : at + 50] for at in range(0, len(request), 50)]
    assert statuses(exchange(port, *pieces, pause=0.001)) == [200]


def test_chunked_body_above_the_limit_is_refused_while_it_comes(port: int) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"3e8\r\n" + b"z" * 1000 + b"\r\n"
    assert statuses(exchange(port, head, *[chunk] * 6, pause=0.002)) == [413]


@pytest.mark.parametrize("endless", [b"0\r\nX: ", b"5;"])  # a trailer, a chunk's extension
def test_what_a_chunked_body_has_beside_its_data_ends_too(port: int, endless: bytes) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    # More than the server reads at once: what comes together with the head isn't counted.
    assert statuses(exchange(port, head + endless, *[b"y" * 10_000] * 40, pause=0.002)) == [431]


def test_good_requests_before_a_bad_one_are_answered_first(port: int) -> None:
    assert statuses(exchange(port, get("/", close=False) + b"\x00\r\n\r\n")) == [200, 400]


def test_slow_request_is_timed_out_though_it_drips() -> None:
    with tight_http_server(request_seconds=0.3) as port, connect(port) as conn:
        begin = time.monotonic()
        conn.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(20):
            time.sleep(0.05)
            try:
                conn.sendall(b"X")
            except OSError:
                break  # refused already
        received = read_all(conn)
    assert statuses(received) == [408]
    assert time.monotonic() - begin < 4


def test_expect_continue_is_answered_before_the_body_comes(port: int) -> None:
    with connect(port) as conn:
        conn.sendall(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
            b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert read_until(conn, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        conn.sendall(b"ok")
        assert read_all(conn).endswith(b"\r\n\r\nok")


def test_upgrade_is_not_offered_and_answered_as_a_plain_request(port: int) -> None:
    received = exchange(
        port, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    )
    assert statuses(received) == [200]


def test_client_that_leaves_in_the_middle_harms_nobody(port: int) -> None:
    for _ in range(20):
        with connect(port) as conn:
            conn.sendall(b"GET / HT")
    assert statuses(exchange(port, get("/", close=True))) == [200]


def test_load_generator_reports_no_error(port: int) -> None:
    output = finished(
        str(EXAMPLES / "http_load.py"),
        f"http://127.0.0.1:{port}/",
        "--connections=8",
        "--seconds=0.3",
    )
    assert '"errors": 0' in output


def test_load_generator_counts_responses_that_are_not_200(port: int) -> None:
    output = finished(
        str(EXAMPLES / "http_load.py"),
        f"http://127.0.0.1:{port}/nowhere",
        "--connections=8",
        "--seconds=20",  # it ends with the last of the eight
    )
    assert '"errors": 8' in output


def test_port_in_use_is_a_clear_error(port: int) -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(EXAMPLES / "echo_server.py"), f"--port={port}"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "Address already in use" in done.stderr
