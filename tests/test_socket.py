"""Stream sockets: bytes, waiting, timeouts, closing, who is served when."""

from __future__ import annotations

import array
import errno
import fcntl
import gc
import os
import socket as std
import termios
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, is_parked, poll_until, unpreempted

import gmpy_rt
from gmpy_rt import Cancelled, Chan, G, go, run, sleep, socket


@pytest.fixture(params=[1, 2, 4])
def procs(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(autouse=True)
def nothing_waits_afterwards() -> Iterator[None]:
    yield
    assert gmpy_rt.stats().netpoll_waiters == 0


@contextmanager
def pair(timeout: float | None = PATIENCE) -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    a.settimeout(timeout)
    b.settimeout(timeout)
    with a, b:
        yield a, b


@contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        client = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
        server, address = listener.accept()
        assert address == client.getsockname()
        server.settimeout(PATIENCE)
    with client, server:
        yield client, server


def parked(*gs: G[Any]) -> None:
    poll_until(lambda: all(is_parked(g) for g in gs))


# ------------------------------------------------------------ bytes


def test_recv_waits_for_bytes_and_returns_them(procs: int) -> None:
    def main() -> bytes:
        with tcp_pair() as (a, b):
            g = go(b.recv, 100)
            parked(g)
            a.sendall(b"hello")
            return g.result(PATIENCE)

    assert run(main, procs=procs) == b"hello"


def test_recv_into_fills_a_buffer_or_a_part_of_it() -> None:
    def main() -> None:
        with pair() as (a, b):
            a.sendall(b"abcdef")
            room = bytearray(10)
            assert b.recv_into(room, 2) == 2
            assert b.recv_into(memoryview(room)[2:]) == 4
            assert room == b"abcdef\0\0\0\0"
            with pytest.raises(ValueError, match="nbytes=11"):
                b.recv_into(room, 11)
            with pytest.raises(ValueError, match="nbytes=-1"):
                b.recv_into(room, -1)
            with pytest.raises(ValueError, match="bufsize=-1"):
                b.recv(-1)
            with pytest.raises(TypeError):
                b.recv_into(b"constant")  # type: ignore[arg-type]

    run(main)


def test_recv_of_more_than_the_scratch_buffer_holds() -> None:
    def main() -> None:
        with tcp_pair() as (a, b):
            data = os.urandom(300_000)
            g = go(a.sendall, data)
            got = b""
            while len(got) < len(data):
                got += b.recv(200_000)
            assert got == data
            assert g.join(PATIENCE)

    run(main)


def test_peek_leaves_the_bytes_and_waitall_waits_for_all() -> None:
    def main() -> None:
        with pair() as (a, b):
            a.sendall(b"xy")
            assert b.recv(10, socket.MSG_PEEK) == b"xy"
            assert b.recv(10, socket.MSG_PEEK) == b"xy"
            assert b.recv(1) == b"x"
            assert b.recv(1) == b"y"

    run(main)


def test_sendall_of_much_data_to_a_slow_reader(procs: int) -> None:
    data = os.urandom(5_000_000)

    def main() -> None:
        with tcp_pair() as (a, b):
            g = go(a.sendall, data)
            got = bytearray()
            while len(got) < len(data):
                got += b.recv(70_000)
                if len(got) < 1_000_000:
                    sleep(0.002)
            assert got == data
            g.result(PATIENCE)

    run(main, procs=procs)


def test_send_waits_until_there_is_room_and_sends_a_part() -> None:
    def main() -> None:
        with pair() as (a, b):
            a.setblocking(False)
            sent = 0
            with pytest.raises(BlockingIOError):
                while True:
                    sent += a.send(b"z" * 50_000)
            a.settimeout(PATIENCE)
            g = go(a.send, b"end")
            parked(g)
            got = bytearray()
            while len(got) < sent + 3:
                got += b.recv(100_000)
            assert g.result(PATIENCE) == 3
            assert got.endswith(b"zend")

    run(main)


def test_end_of_stream_after_shutdown_and_the_other_way_still_works(procs: int) -> None:
    def main() -> None:
        with tcp_pair() as (a, b):
            g = go(b.recv, 10)
            parked(g)
            a.shutdown(socket.SHUT_WR)
            assert g.result(PATIENCE) == b""
            assert b.recv(10) == b""
            b.sendall(b"late answer")
            assert a.recv(100) == b"late answer"
            reader = go(a.recv, 100)
            parked(reader)
            b.close()
            assert reader.result(PATIENCE) == b""

    run(main, procs=procs)


def test_reset_by_peer_reaches_the_waiting_reader_and_the_writer() -> None:
    def main() -> None:
        with tcp_pair() as (a, b):
            g = go(b.recv, 10)
            parked(g)
            a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            a.close()
            with pytest.raises(ConnectionResetError):
                g.result(PATIENCE)
            with pytest.raises(BrokenPipeError):
                b.sendall(b"x")

    run(main)


def test_recvmsg_and_sendmsg_with_a_file_descriptor() -> None:
    def main() -> None:
        with pair() as (a, b):
            g = go(socket.recv_fds, b, 100, 1)
            parked(g)
            r, w = os.pipe()
            socket.send_fds(a, [b"here"], [w])
            os.close(w)
            data, fds, _, _ = g.result(PATIENCE)
            assert data == b"here"
            os.write(fds[0], b"through")
            assert os.read(r, 10) == b"through"
            os.close(fds[0])
            os.close(r)
            room = [bytearray(3), bytearray(3)]
            into = go(b.recvmsg_into, iter(room))
            parked(into)
            assert a.sendmsg([b"ab", b"cde"]) == 5
            assert into.result(PATIENCE)[0] == 5
            assert room == [b"abc", b"de\0"]

    run(main)


# ------------------------------------------------------------ timeouts, cancellation


def test_timeouts_are_the_stdlibs() -> None:
    def main() -> None:
        with pair(None) as (a, b):
            assert b.gettimeout() is None and b.timeout is None and b.getblocking()
            for value in (-1, float("nan")):
                with pytest.raises(ValueError, match="0 or more"):
                    b.settimeout(value)
            b.settimeout(0.05)
            assert b.gettimeout() == 0.05
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                b.recv(1)
            with pytest.raises(socket.timeout):
                b.recv_into(bytearray(1))
            assert 0.09 < time.monotonic() - began < PATIENCE
            with pytest.raises(TimeoutError):
                b.recvmsg(1)
            b.setblocking(False)
            assert b.gettimeout() == 0.0 and not b.getblocking()
            for receive in (b.recv, b.recvfrom, b.recvmsg):
                with pytest.raises(BlockingIOError):
                    receive(1)
            b.setblocking(True)
            assert b.gettimeout() is None
            a.settimeout(0.05)
            with pytest.raises(TimeoutError):
                a.sendall(b"x" * 10_000_000)

    run(main)


def test_accept_and_connect_time_out() -> None:
    def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.03)
            with pytest.raises(TimeoutError):
                listener.accept()
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.accept()
        # A full backlog drops connection requests: the connect waits.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            clients = []
            with pytest.raises(TimeoutError):
                for _ in range(10):
                    clients.append(socket.create_connection(full.getsockname(), timeout=0.1))
            with socket.socket() as late:
                late.settimeout(0.1)
                assert late.connect_ex(full.getsockname()) == errno.EAGAIN
            with socket.socket() as never:
                never.setblocking(False)
                with pytest.raises(BlockingIOError):
                    never.connect(full.getsockname())
            for client in clients:
                client.close()

    run(main)


def test_the_default_timeout_is_honoured() -> None:
    def main() -> None:
        socket.setdefaulttimeout(0.04)
        try:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                assert listener.gettimeout() == 0.04
                with pytest.raises(TimeoutError):
                    listener.accept()
                with socket.create_connection(listener.getsockname()) as client:
                    assert client.gettimeout() == 0.04
                    conn, _ = listener.accept()
                    with conn:
                        assert conn.gettimeout() == 0.04
        finally:
            socket.setdefaulttimeout(None)

    run(main)


@pytest.mark.parametrize("how", ["recv", "recvmsg"])
def test_what_came_in_time_is_no_timeout_though_nobody_looked(how: str) -> None:
    """The timers come before the network: main keeps the only P until both are due. An attempt in
    which the machine held main up doesn't count."""

    def attempt() -> bool:
        with pair() as (a, b):
            b.settimeout(0.005)
            began = time.monotonic()
            reader = go(getattr(b, how), 10)
            poll_until(lambda: is_parked(reader) or reader.done())
            with unpreempted():
                a.sendall(b"x")
                in_time = time.monotonic() < began + 0.005
                while time.monotonic() < began + 0.008:
                    pass
            if not in_time:
                reader.exception(PATIENCE)
                return False
            got = reader.result(PATIENCE)
            assert (got if how == "recv" else got[0]) == b"x"
            return True

    assert run(lambda: sum(attempt() for _ in range(20)), procs=1) >= 1


def test_a_cancelled_reader_leaves_the_line_and_the_next_is_served(procs: int) -> None:
    def main() -> None:
        with pair() as (a, b):
            gs = []
            for _ in range(5):
                gs.append(go(b.recv, 1))
                parked(*gs)
            for i in (0, 2, 4):
                gs[i].cancel()
                with pytest.raises(Cancelled):
                    gs[i].result(PATIENCE)
            a.sendall(b"12")
            assert gs[1].result(PATIENCE) == b"1"
            assert gs[3].result(PATIENCE) == b"2"
            poll_until(lambda: gmpy_rt.stats().netpoll_waiters == 0)

    run(main, procs=procs)


def test_timeouts_in_the_line_lose_nothing(procs: int) -> None:
    """Readers time out while bytes come: every byte is received once."""

    def main() -> None:
        with pair() as (a, b):
            b.settimeout(0.001)
            got: list[bytes] = []
            stop = False

            def read() -> None:
                while not stop:
                    with suppress(TimeoutError):
                        got.append(b.recv(1))

            gs = [go(read) for _ in range(8)]
            for i in range(400):
                a.sendall(bytes([i % 256]))
                if i % 3 == 0:
                    sleep(0.0007)
            poll_until(lambda: len(got) == 400)
            stop = True
            for g in gs:
                g.result(PATIENCE)
            assert sorted(got) == sorted(bytes([i % 256]) for i in range(400))
            poll_until(lambda: gmpy_rt.stats().netpoll_waiters == 0)

    run(main, procs=procs)


# ------------------------------------------------------------ who is served


def test_readers_of_one_socket_are_served_in_the_order_they_came(procs: int) -> None:
    def main() -> None:
        with pair() as (a, b):
            for _ in range(20):
                served: list[int] = []

                def read(i: int, served: list[int] = served) -> bytes:
                    byte = b.recv(1)
                    served.append(i)
                    return byte

                gs: list[G[bytes]] = []
                for i in range(6):
                    gs.append(go(read, i))
                    parked(*gs)
                a.sendall(b"abcdef")
                assert b"".join(g.result(PATIENCE) for g in gs) == b"abcdef"
                assert sorted(served) == list(range(6))

    run(main, procs=procs)


def test_two_readers_in_loops_take_turns() -> None:
    def main() -> None:
        with pair() as (a, b):
            turns: list[str] = []

            def read(name: str) -> None:
                with unpreempted():  # who yields between two reads isn't in the line
                    for _ in range(50):
                        b.recv(1)
                        turns.append(name)

            gs = [go(read, "x"), go(read, "y")]
            parked(*gs)
            a.sendall(b"-" * 100)
            for g in gs:
                g.result(PATIENCE)
            assert turns[:20].count("x") == 10

    run(main, procs=1)


def test_two_sendalls_do_not_mix_their_bytes(procs: int) -> None:
    def main() -> None:
        with pair() as (a, b):
            gs = [go(a.sendall, bytes([65 + i]) * 700_000) for i in range(4)]
            parked(*gs)
            got = bytearray()
            while len(got) < 4 * 700_000:
                got += b.recv(1 << 16)
            for g in gs:
                g.result(PATIENCE)
            for i in range(4):
                assert len(set(got[i * 700_000 : (i + 1) * 700_000])) == 1

    run(main, procs=procs)


def test_acceptors_of_one_listener_share_the_connections(procs: int) -> None:
    def main() -> None:
        taken = [0] * 4
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

            def take(i: int) -> None:
                while True:
                    try:
                        conn, _ = listener.accept()
                    except OSError as exc:
                        assert exc.errno == errno.EBADF
                        return
                    taken[i] += 1
                    conn.close()

            gs = [go(take, i) for i in range(4)]
            for _ in range(100):
                parked(
                    *gs
                )  # one whose M waited for a CPU was overtaken while it was out of the line
                with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as c:
                    assert c.recv(1) == b""
            assert taken == [25] * 4
        for g in gs:
            g.result(PATIENCE)

    run(main, procs=procs)


# ------------------------------------------------------------ flags, and what isn't there yet


@pytest.mark.parametrize("in_g", [True, False])
def test_dontwait_does_not_wait(in_g: bool) -> None:
    def main() -> None:
        with pair(None) as (_, b):
            for size in (1 << 16, 1):  # until b is full
                with suppress(BlockingIOError):
                    while True:
                        b.send(bytes(size), socket.MSG_DONTWAIT)
            flag, buffer = socket.MSG_DONTWAIT, bytearray(1)
            for fn in (
                lambda: b.sendall(b"x", flag),
                lambda: b.sendmsg([b"x"], [], flag),
                lambda: b.recv(1, flag),
                lambda: b.recv(1, flag | socket.MSG_PEEK),
                lambda: b.recv_into(buffer, 1, flag),
                lambda: b.recvfrom(1, flag),
                lambda: b.recvmsg(1, 0, flag),
                lambda: b.recvmsg_into([buffer], 0, flag),
            ):
                with pytest.raises(BlockingIOError):
                    fn()

    if in_g:
        run(main)
    else:
        main()


def test_waitall_waits_for_all_and_for_no_more_than_comes() -> None:
    def main() -> None:
        buffer = bytearray(10)
        with tcp_pair() as (a, b):
            a.settimeout(None)
            for read in (
                lambda: a.recv(10, socket.MSG_WAITALL),
                lambda: bytes(buffer[: a.recv_into(buffer, 10, socket.MSG_WAITALL)]),
            ):
                g = go(read)
                for piece in (b"abc", b"defg", b"hij-"):
                    parked(g)
                    b.send(piece)
                assert g.result(PATIENCE) == b"abcdefghij"
                assert a.recv(10) == b"-"
            b.send(b"end")
            b.shutdown(socket.SHUT_WR)
            assert a.recv(10, socket.MSG_WAITALL) == b"end"

    run(main, procs=1)


def test_what_came_before_a_reset_is_not_lost() -> None:
    def main() -> None:
        with tcp_pair() as (a, b):
            a.settimeout(None)
            g = go(a.recv, 10, socket.MSG_WAITALL)
            parked(g)
            b.send(b"hello")
            unread = array.array("i", [1])
            poll_until(lambda: fcntl.ioctl(a, termios.FIONREAD, unread) or unread[0] == 0)
            b.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            b.close()
            assert g.result(PATIENCE) == b"hello"
            with pytest.raises(ConnectionResetError):
                a.recv(10)

    run(main, procs=1)


def test_waitall_in_a_plain_thread() -> None:
    with tcp_pair() as (a, b):
        a.settimeout(None)
        late = threading.Timer(0.05, b.send, (b"defghij",))
        late.start()
        b.send(b"abc")
        assert a.recv(10, socket.MSG_WAITALL) == b"abcdefghij"
        late.join(PATIENCE)


def test_reading_nothing_waits_for_nothing() -> None:
    def main() -> None:
        with pair() as (a, _), a.makefile("rb", buffering=0) as raw:
            assert a.recv(0) == b"" and a.recv_into(bytearray()) == 0 and raw.read(0) == b""

    run(main)


def test_bytes_behind_urgent_data_are_read() -> None:
    """A read stops short before the urgent byte, which was taken for an empty socket."""

    def main() -> None:
        with tcp_pair() as (client, server):
            g = go(server.recv, 10)
            parked(g)  # watched from here on
            client.sendall(b"0")
            assert g.result(PATIENCE) == b"0"
            client.sendall(b"abc")
            client.send(b"!", socket.MSG_OOB)
            client.sendall(b"def")
            got = b""
            while len(got) < 6:
                got += server.recv(10)
            assert got == b"abcdef"

    for _ in range(20):
        run(main)


def test_a_unix_stream_is_read_on_behind_file_descriptors() -> None:
    """They come with the bytes they were sent with, so a read ends there."""

    def main() -> None:
        with pair() as (a, b):
            g = go(a.recv, 10)
            parked(g)
            b.send(b"0")
            assert g.result(PATIENCE) == b"0"
            std_b = std.socket(fileno=os.dup(b.fileno()))
            with std_b:
                std.send_fds(std_b, [b"aaa"], [0])
                std_b.send(b"bbb")
            assert a.recv(10) == b"aaa" and a.recv(10) == b"bbb"

    run(main)


def test_two_sockets_for_one_fd_and_a_forgotten_ones_number() -> None:
    def main() -> None:
        with pair() as (a, b):
            twin = socket.socket(fileno=a.fileno())
            twin.settimeout(PATIENCE)
            g = go(twin.recv, 1)
            parked(g)
            b.send(b"x")
            assert g.result(PATIENCE) == b"x"
            b.send(b"y")
            assert a.recv(1) == b"y"
            number, dup = a.fileno(), a.dup()
            std.socket.close(std.socket(fileno=a.detach()))  # not through us: epoll still knows it
            with dup, dup.dup() as again:
                assert again.fileno() == number
                again.settimeout(PATIENCE)
                g = go(again.recv, 1)
                parked(g)
                b.send(b"z")
                assert g.result(PATIENCE) == b"z"
            twin.detach()

    run(main, procs=1)


# ------------------------------------------------------------ close


def test_close_wakes_all_waiters_with_a_clear_error(procs: int) -> None:
    def main() -> None:
        a, b = socket.socketpair()
        a.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                a.send(b"z" * 50_000)
        a.setblocking(True)
        gs = [go(a.recv, 1), go(a.recv, 1), go(a.recvfrom, 1), go(a.recvmsg, 1)]
        gs += [go(a.sendall, b"x"), go(a.send, b"y"), go(a.sendmsg, [b"z"])]
        parked(*gs)
        fd = a.fileno()
        a.close()
        for g in gs:
            with pytest.raises(OSError, match=f"fd {fd} was closed") as caught:
                g.result(PATIENCE)
            assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError, match="closed"):
            a.recv(1)
        with pytest.raises(OSError, match="closed"):
            a.sendall(b"x")
        assert a.fileno() == -1
        a.close()
        b.close()

    run(main, procs=procs)


def test_closing_while_others_use_the_socket_never_hits_another_file(procs: int) -> None:
    """Sockets are closed under their readers' hands while new ones take their numbers."""

    def main() -> None:
        mine = Chan[None](1000)

        def read(s: socket.socket, want: bytes) -> None:
            try:
                while got := s.recv(4):
                    assert got == want, f"{got!r} was sent on another socket"
            except OSError as exc:
                assert exc.errno == errno.EBADF
            mine.send(None)

        for i in range(300):
            a, b = socket.socketpair()
            want = b"%04d" % i
            gs = [go(read, b, want), go(read, b, want)]
            a.sendall(want * 3)
            if i % 2:
                gmpy_rt.gosched()
            b.close()
            a.close()
            del a, b
        for _ in range(600):
            mine.recv(PATIENCE)
        assert all(g.join(PATIENCE) for g in gs)

    run(main, procs=procs)


def test_detach_gives_up_the_fd_and_wakes_who_waits() -> None:
    def main() -> None:
        with pair() as (a, b):
            g = go(b.recv, 1)
            parked(g)
            fd = b.detach()
            assert b.fileno() == -1
            with pytest.raises(OSError, match="closed"):
                g.result(PATIENCE)
            with socket.socket(fileno=fd) as again:
                again.settimeout(PATIENCE)
                assert again.family == socket.AF_UNIX and again.type == socket.SOCK_STREAM
                late = go(again.recv, 1)
                parked(late)
                a.sendall(b"!")
                assert late.result(PATIENCE) == b"!"

    run(main)


def test_dup_and_fromfd_make_sockets_of_their_own() -> None:
    def main() -> None:
        with pair() as (a, b):
            with (
                b.dup() as twin,
                socket.fromfd(b.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as c,
            ):
                assert type(twin) is socket.socket and twin.gettimeout() == b.gettimeout()
                assert len({b.fileno(), twin.fileno(), c.fileno()}) == 3
                for s in (b, twin, c):
                    g = go(s.recv, 1)
                    parked(g)
                    a.sendall(b"1")
                    assert g.result(PATIENCE) == b"1"
            g = go(b.recv, 1)
            parked(g)
            a.sendall(b"2")
            assert g.result(PATIENCE) == b"2"

    run(main)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_forgotten_socket_is_closed_and_its_number_works_again() -> None:
    def main() -> None:
        for _ in range(50):
            a, b = socket.socketpair()
            a.setblocking(False)
            with pytest.raises(BlockingIOError):
                a.recv(1)
            a.settimeout(0.001)
            with pytest.raises(TimeoutError):
                a.recv(1)
            numbers = {a.fileno(), b.fileno()}
            twin = os.dup(a.fileno())  # keeps the file open: the kernel goes on watching it
            gone = weakref.ref(a)
            del a, b
            gc.collect()
            assert gone() is None
            with pair() as (c, d):
                assert {c.fileno(), d.fileno()} == numbers
                g = go(c.recv, 1)
                parked(g)
                d.sendall(b"x")
                assert g.result(PATIENCE) == b"x"
            os.close(twin)

    run(main, procs=1)


# ------------------------------------------------------------ files


def test_makefile_reads_lines_and_writes(procs: int) -> None:
    def main() -> None:
        with tcp_pair() as (a, b):

            def answer() -> None:
                with b.makefile("rwb") as f:
                    for line in f:
                        f.write(line.upper())
                        f.flush()

            g = go(answer)
            with a.makefile("rw", encoding="utf-8", newline="\n") as f:
                for word in ("eins", "zwei", "drei"):
                    f.write(word + "\n")
                    f.flush()
                    assert f.readline() == word.upper() + "\n"
            a.shutdown(socket.SHUT_WR)
            g.result(PATIENCE)

    run(main, procs=procs)


def test_makefile_keeps_the_fd_open_until_it_is_closed_too() -> None:
    def main() -> None:
        with pair() as (a, b):
            f = b.makefile("rb")
            b.close()
            a.sendall(b"still here\n")
            assert f.readline() == b"still here\n"
            f.close()
            assert b.fileno() == -1
            raw = a.makefile("rwb", buffering=0)
            assert isinstance(raw, socket.SocketIO)
            raw.close()

    run(main)


def test_a_timeout_in_makefile_is_a_timeout() -> None:
    def main() -> None:
        with pair(0.02) as (_, b), b.makefile("rb") as f:
            with pytest.raises(TimeoutError):
                f.readline()
            with pytest.raises(OSError, match="timed out"):
                f.readline()

    run(main)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sendfile_to_a_slow_reader(tmp_path: Path, size: int, procs: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)

    def main() -> None:
        with tcp_pair() as (a, b), path.open("rb") as f:

            def send() -> int:
                n = a.sendfile(f)
                a.shutdown(socket.SHUT_WR)
                return n

            g = go(send)
            got = bytearray()
            while piece := b.recv(50_000):
                got += piece
                if len(got) < 400_000:
                    sleep(0.001)
            assert g.result(PATIENCE) == size
            assert got == data
            assert f.tell() == size

    run(main, procs=procs)


def test_sendfile_of_a_part_and_of_what_is_no_regular_file(tmp_path: Path) -> None:
    import io

    path = tmp_path / "file"
    path.write_bytes(b"0123456789")

    def main() -> None:
        with pair() as (a, b):
            with path.open("rb") as f:
                assert a.sendfile(f, 2, 5) == 5
                assert b.recv(100) == b"23456"
                assert f.tell() == 7
                with pytest.raises(ValueError, match="count=0"):
                    a.sendfile(f, 0, 0)
                a.setblocking(False)
                with pytest.raises(ValueError, match="timeout 0"):
                    a.sendfile(f)
                a.setblocking(True)
            with path.open() as text, pytest.raises(ValueError, match="binary"):
                a.sendfile(text)
            assert a.sendfile(io.BytesIO(b"abcdef"), 1, 3) == 3
            assert b.recv(100) == b"bcd"

    run(main)


# ------------------------------------------------------------ plain threads


def test_a_plain_thread_uses_a_socket_outside_the_runtime() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def serve() -> None:
            conn, _ = listener.accept()
            with conn, conn.makefile("rwb") as f:
                conn.settimeout(PATIENCE)
                for line in f:
                    f.write(line[::-1])
                    f.flush()

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as client:
            client.sendall(b"abc\n")
            assert client.recv(100) == b"\ncba"
            client.settimeout(0.02)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_thread_and_a_g_talk_over_one_pair_and_the_socket_outlives_run() -> None:
    a, b = socket.socketpair()
    a.settimeout(PATIENCE)
    b.settimeout(PATIENCE)

    def echo() -> None:
        for _ in range(100):
            b.sendall(b.recv(100))

    thread = threading.Thread(target=echo)
    thread.start()

    def main() -> None:
        for i in range(50):
            a.sendall(b"%d" % i)
            assert a.recv(100) == b"%d" % i

    with a, b:
        run(main, procs=1)
        run(main, procs=2)
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_uses_its_sockets_in_a_runtime_of_its_own() -> None:
    a, b = socket.socketpair()
    with a, b:
        a.settimeout(PATIENCE)
        b.settimeout(PATIENCE)

        def ask() -> bytes:
            g = go(a.recv, 100)
            parked(g)
            b.sendall(b"ping")
            return g.result(PATIENCE)

        assert run(ask) == b"ping"
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if run(ask) == b"ping" else 1)
            finally:
                os._exit(2)
        end = time.monotonic() + PATIENCE
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            assert time.monotonic() < end, "the child hangs"
            time.sleep(0.01)
        assert done[1] == 0
        assert run(ask) == b"ping"


# ------------------------------------------------------------ files


@pytest.mark.parametrize("mode", ["wb", "rwb"])
def test_gs_that_write_to_one_file_take_turns(mode: str, procs: int) -> None:
    """The io module's lock belongs to a thread: it took two G's of one M for one, and raised; it
    blocked the M of a G that waited for one on another M."""

    def main() -> None:
        with pair() as (a, b), a.makefile(mode, buffering=100) as file:

            def write(i: int) -> None:
                for _ in range(50):
                    file.write(bytes([i]) * 7000)  # more than the socket takes at once
                    file.flush()
                    sleep(0)

            gs = [go(write, i) for i in range(8)]
            left, size = 8 * 50 * 7000, 0
            while left > size:
                size += len(b.recv(10_000))
            for g in gs:
                g.result(PATIENCE)

    run(main, procs=procs)


def test_gs_that_read_from_one_file_take_turns(procs: int) -> None:
    def main() -> None:
        with pair() as (a, b), a.makefile("rb") as file:
            gs = [go(file.readline) for _ in range(8)]
            parked(*gs)
            b.sendall(b"".join(b"%d\n" % i for i in range(8)))
            assert sorted(int(g.result(PATIENCE)) for g in gs) == list(range(8))

    run(main, procs=procs)


@pytest.mark.parametrize("mode", ["r", "rb", "rwb"])
def test_a_file_says_so_when_a_cancelled_read_may_have_lost_bytes(mode: str) -> None:
    def main() -> None:
        with pair() as (a, b), a.makefile(mode) as file:
            b.sendall(b"abc")
            with pytest.raises(TimeoutError), gmpy_rt.timeout(0.02):
                file.readline()
            b.sendall(b"def\n")
            with pytest.raises(OSError, match="timed out object"):
                file.readline()

    run(main)


def test_makefile_refuses_what_open_refuses() -> None:
    with pair() as (a, _):
        with pytest.raises(ValueError, match="'a'"):
            a.makefile("a")
        with pytest.raises(ValueError, match="binary"):
            a.makefile("r", buffering=0)


def test_sendfile_without_the_kernels_help_tells_how_far_it_came(tmp_path: Path) -> None:
    import io

    def main() -> None:
        with pair() as (a, b):
            a.settimeout(0.05)
            file = io.BytesIO(bytes(10_000_000))
            with pytest.raises(TimeoutError):
                a.sendfile(file)
            received = 0
            b.settimeout(0.05)
            with suppress(TimeoutError):
                while True:
                    received += len(b.recv(1 << 20))
            assert file.tell() == received > 0
            with pytest.raises(TypeError, match=r"1\.5"):
                a.sendfile(file, count=1.5)  # type: ignore[arg-type]

    run(main)
