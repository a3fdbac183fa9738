"""Many sockets and many G's; what 10,000 connections leave behind; the stdlib's HTTP client."""

from __future__ import annotations

import gc
import http.client
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import PATIENCE, poll_until

import gmpy_rt
from gmpy_rt import Chan, go, num_goroutine, run, socket


@pytest.fixture(params=[1, 2, 4])
def procs(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(autouse=True)
def nothing_waits_afterwards() -> Iterator[None]:
    yield
    assert gmpy_rt.stats().netpoll_waiters == 0


def echo(conn: socket.socket) -> None:
    with conn:
        try:
            while data := conn.recv(4096):
                conn.sendall(data)
        except ConnectionError:
            pass


def serve(listener: socket.socket) -> None:
    while True:
        try:
            conn, _ = listener.accept()
        except OSError:
            return  # closed
        go(echo, conn)
        del conn


@pytest.mark.deadline(120)
def test_ten_thousand_connections_leave_no_fd_and_no_g() -> None:
    process = psutil.Process()

    def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            server = go(serve, listener)
            address = listener.getsockname()
            todo = Chan[int](64)

            def client() -> None:
                for i in todo:
                    with socket.create_connection(address, timeout=PATIENCE) as s:
                        # So that 10,000 ports don't stay in TIME_WAIT.
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        if i % 3 == 0:
                            s.sendall(b"hello")
                            assert s.recv(10) == b"hello"

            gs, before = num_goroutine(), process.num_fds()
            clients = [go(client) for _ in range(50)]
            for i in range(10_000):
                todo.send(i, timeout=PATIENCE)
            todo.close()
            for g in clients:
                g.result(PATIENCE)
            poll_until(lambda: num_goroutine() == gs)
            poll_until(lambda: process.num_fds() <= before)
            poll_until(lambda: gmpy_rt.stats().netpoll_waiters == 1)  # the listener's
        server.result(PATIENCE)
        poll_until(lambda: gmpy_rt.stats().netpoll_waiters == 0)

    run(int)  # the first one opens what a process keeps
    gc.collect()
    fds = process.num_fds()
    run(main, procs=2)
    gc.collect()
    assert process.num_fds() <= fds


def test_threads_that_received_leave_no_buffer() -> None:
    def data_kb() -> int:
        return int(re.findall(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[0])

    def receive() -> None:
        with a, b:
            a.send(b"x")
            assert b.recv(10) == b"x"

    sizes = []
    for _ in range(3):
        for _ in range(200):
            a, b = socket.socketpair()
            thread = threading.Thread(target=receive)
            thread.start()
            thread.join(PATIENCE)
        sizes.append(data_kb())
    assert sizes[2] - sizes[1] < 200 * 64 / 2


def test_many_gs_on_many_sockets(procs: int) -> None:
    def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            server = go(serve, listener)
            address = listener.getsockname()

            def client(number: int) -> int:
                with socket.create_connection(address, timeout=PATIENCE) as s:
                    for i in range(30):
                        want = b"%d-%d;" % (number, i) * (1 + i * number % 50)
                        s.sendall(want)
                        got = b""
                        while len(got) < len(want):
                            piece = s.recv(4096)
                            assert piece
                            got += piece
                        assert got == want
                return number

            gs = [go(client, i) for i in range(200)]
            assert sum(g.result(PATIENCE) for g in gs) == sum(range(200))
        server.result(PATIENCE)

    run(main, procs=procs)


def test_one_socket_read_and_written_by_many_gs_at_once(procs: int) -> None:
    """8 writers of whole records, 8 readers of whole records: none is lost, torn or doubled."""

    def main() -> None:
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        got = Chan[bytes](10_000)

        def read() -> None:
            while record := b.recv(100):
                got.send(record)

        def write(name: int) -> None:
            for i in range(300):
                a.sendall(b"%d:%d" % (name, i))

        with a, b:
            readers = [go(read) for _ in range(8)]
            writers = [go(write, n) for n in range(8)]
            for g in writers:
                g.result(PATIENCE)
            records = [got.recv(PATIENCE) for _ in range(8 * 300)]
            assert sorted(records) == sorted(
                b"%d:%d" % (n, i) for n in range(8) for i in range(300)
            )
            a.shutdown(socket.SHUT_WR)
            for r in readers:
                r.result(PATIENCE)

    run(main, procs=procs)


def test_gomaxprocs_changes_under_traffic() -> None:
    def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
            server = go(serve, listener)
            stop = False
            answered = set()

            def client(number: int) -> None:
                with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as s:
                    while not stop:
                        s.sendall(b"ping")
                        assert s.recv(100) == b"ping"
                        answered.add(number)

            gs = [go(client, i) for i in range(20)]
            for procs in (2, 1, 4, 1, 3, 2):
                gmpy_rt.gomaxprocs(procs)
                gmpy_rt.sleep(0.05)
            poll_until(lambda: len(answered) == 20)
            stop = True
            for g in gs:
                g.result(PATIENCE)
        server.result(PATIENCE)

    run(main, procs=2)


# ------------------------------------------------------------ the stdlib's own client


class Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.create_connection((self.host, self.port), timeout=PATIENCE)


def answer(conn: socket.socket) -> None:
    """HTTP enough for http.client: keep-alive, a body that says which path was asked for."""
    with conn, conn.makefile("rb") as f:
        while line := f.readline():
            path = line.split()[1]
            while f.readline() not in (b"\r\n", b""):
                pass
            body = path * 5000
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def http_server(listener: socket.socket) -> None:
    while True:
        try:
            conn, _ = listener.accept()
        except OSError:
            return
        go(answer, conn)


def test_http_client_over_it(procs: int) -> None:
    def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            go(http_server, listener)
            port = listener.getsockname()[1]

            def client(i: int) -> None:
                http_client = Connection("127.0.0.1", port)
                for j in range(5):
                    http_client.request("GET", f"/{i}/{j}")
                    response = http_client.getresponse()
                    assert response.status == 200
                    assert response.read() == b"/%d/%d" % (i, j) * 5000
                http_client.close()

            for g in [go(client, i) for i in range(20)]:
                g.result(PATIENCE)

    run(main, procs=procs)


def test_a_plain_threads_client_against_a_server_of_gs() -> None:
    outcome: list[int] = []

    def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            go(http_server, listener)
            port = listener.getsockname()[1]

            def ask() -> None:
                http_client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                for _ in range(20):
                    http_client.request("GET", "/x")
                    outcome.append(len(http_client.getresponse().read()))
                http_client.close()

            thread = threading.Thread(target=ask)
            thread.start()
            poll_until(lambda: not thread.is_alive())

    run(main, procs=1)
    assert outcome == [10_000] * 20
