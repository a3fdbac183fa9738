"""UDP, Unix, IPv6, names and addresses, and that the module has what the stdlib's has."""

from __future__ import annotations

import errno
import os
import socket as std
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, is_parked, poll_until

import gmpy_rt
from gmpy_rt import G, go, run, socket


@pytest.fixture(params=[1, 2, 4])
def procs(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(autouse=True)
def nothing_waits_afterwards() -> Iterator[None]:
    yield
    assert gmpy_rt.stats().netpoll_waiters == 0


def parked(*gs: G[Any]) -> None:
    poll_until(lambda: all(is_parked(g) for g in gs))


def has_ipv6() -> bool:
    try:
        with std.socket(std.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(PATIENCE)
    return sock


# ------------------------------------------------------------ datagrams


def test_udp_both_ways(procs: int) -> None:
    def main() -> None:
        with udp() as a, udp() as b:
            g = go(b.recvfrom, 100)
            parked(g)
            assert a.sendto(b"ping", b.getsockname()) == 4
            assert g.result(PATIENCE) == (b"ping", a.getsockname())
            back = go(a.recvfrom_into, room := bytearray(10))
            parked(back)
            assert b.sendto(b"pong!", 0, a.getsockname()) == 5
            assert back.result(PATIENCE) == (5, b.getsockname())
            assert room[:5] == b"pong!"

    run(main, procs=procs)


def test_udp_datagrams_stay_apart_and_a_short_one_does_not_mean_empty() -> None:
    """Two datagrams come in one edge: the second must be found without another."""

    def main() -> None:
        with udp() as a, udp() as b:
            for _ in range(50):
                for data in (b"", b"x", b"a" * 1000, b"end"):
                    a.sendto(data, b.getsockname())
                assert b.recv(100) == b""
                assert b.recv(100) == b"x"
                assert b.recvfrom(10) == (b"a" * 10, a.getsockname())
                room = bytearray(100)
                assert b.recv_into(room) == 3 and room[:3] == b"end"

    run(main)


def test_udp_recvmsg_and_sendmsg_wait_and_tell_the_address() -> None:
    def main() -> None:
        with udp() as a, udp() as b:
            g = go(b.recvmsg, 100)
            parked(g)
            assert a.sendmsg([b"one", b"two"], [], 0, b.getsockname()) == 6
            assert g.result(PATIENCE) == (b"onetwo", [], 0, a.getsockname())
            room = [bytearray(3), bytearray(4)]
            g2 = go(b.recvmsg_into, room)
            parked(g2)
            a.sendto(b"abcdef", b.getsockname())
            assert g2.result(PATIENCE)[0] == 6
            assert room == [b"abc", b"def\0"]
            b.settimeout(0.02)
            for receive in (b.recvmsg, b.recvfrom, b.recv):
                with pytest.raises(TimeoutError):
                    receive(10)

    run(main)


def test_connected_udp_reports_a_refused_port_and_goes_on() -> None:
    def main() -> None:
        with udp() as a, udp() as b:
            gone = b.getsockname()
            b.close()
            a.connect(gone)
            a.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                a.recv(10)
            with udp() as c:
                a.connect(c.getsockname())
                c.connect(a.getsockname())
                g = go(a.recv, 10)
                parked(g)
                c.send(b"me")
                assert g.result(PATIENCE) == b"me"

    run(main)


def test_readers_of_one_datagram_socket_get_one_each(procs: int) -> None:
    def main() -> None:
        with udp() as a, udp() as b:
            gs: list[G[Any]] = []
            for _ in range(10):
                gs.append(go(b.recvfrom, 10))
                parked(*gs)
            for i in range(10):
                a.sendto(b"%d" % i, b.getsockname())
            assert [g.result(PATIENCE)[0] for g in gs] == [b"%d" % i for i in range(10)]

    run(main, procs=procs)


# ------------------------------------------------------------ Unix, IPv6, others


def test_unix_streams_by_path_and_by_abstract_name(tmp_path: Path) -> None:
    def main() -> None:
        # A short name: sun_path has room for 107 bytes.
        with tempfile.TemporaryDirectory(prefix="g") as folder:
            for address in (folder + "/s", b"\0gmpy-test-%d" % os.getpid()):
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(address)
                    listener.listen()
                    g = go(listener.accept)
                    parked(g)
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(address)
                        conn, peer = g.result(PATIENCE)
                        with conn:
                            assert peer == ""
                            conn.sendall(b"hi")
                            client.settimeout(PATIENCE)
                            assert client.recv(10) == b"hi"
                            assert client.getpeername() == address

    run(main)


def test_unix_datagrams_tell_the_senders_path() -> None:
    def main() -> None:
        with (
            tempfile.TemporaryDirectory(prefix="g") as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as a,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as b,
        ):
            a.bind(folder + "/a")
            b.bind(folder + "/b")
            g = go(b.recvfrom, 10)
            parked(g)
            a.sendto(b"x", folder + "/b")
            assert g.result(PATIENCE) == (b"x", folder + "/a")
            # A full queue makes the sender wait.
            sent = 0
            a.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    a.sendto(b"m", folder + "/b")
                    sent += 1
            a.settimeout(PATIENCE)
            late = go(a.sendto, b"late", folder + "/b")
            parked(late)
            for _ in range(sent):
                assert b.recv(10) == b"m"
            assert late.result(PATIENCE) == 4
            assert b.recv(10) == b"late"

    run(main)


def test_connect_to_a_unix_listener_with_a_full_backlog_waits() -> None:
    def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            address = b"\0gmpy-full-%d" % os.getpid()
            listener.bind(address)
            listener.listen(0)
            first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
            with first, second:
                first.connect(address)
                second.settimeout(0.03)
                with pytest.raises(TimeoutError):
                    second.connect(address)
                second.settimeout(PATIENCE)
                g = go(second.connect, address)
                parked(g)
                listener.accept()[0].close()
                g.result(PATIENCE)

    run(main)


def test_seqpacket_keeps_packets_apart() -> None:
    def main() -> None:
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with a, b:
            g = go(b.recv, 100)
            parked(g)
            a.send(b"1")
            a.send(b"22")
            assert g.result(PATIENCE) == b"1"
            assert b.recv(100) == b"22"

    run(main)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
def test_ipv6_tcp_and_udp() -> None:
    def main() -> None:
        with (
            socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
            socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE) as client,
        ):
            conn, address = listener.accept()
            with conn:
                assert address == client.getsockname()
                assert len(address) == 4
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as a:
            a.bind(("::1", 0))
            a.sendto(b"me", a.getsockname())
            assert a.recvfrom(10) == (b"me", a.getsockname())
        with (
            socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both,
            socket.create_connection(("127.0.0.1", both.getsockname()[1])) as client,
        ):
            conn, address = both.accept()
            conn.close()
            assert address[0] == "::ffff:127.0.0.1"

    run(main)


def test_a_family_whose_addresses_the_core_does_not_know() -> None:
    def main() -> None:
        try:
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        except OSError:
            pytest.skip("no netlink here")
        with netlink:
            netlink.bind((0, 0))
            netlink.settimeout(PATIENCE)
            # RTM_GETLINK, dump
            netlink.send(b"\x20\0\0\0\x12\0\x01\x03" + b"\0" * 24)
            data, address = netlink.recvfrom(1 << 16)
            assert data and address == (0, 0)
            netlink.settimeout(0.02)
            with pytest.raises((TimeoutError, OSError)):
                while True:
                    netlink.recvfrom(1 << 16)

    run(main)


# ------------------------------------------------------------ names


def test_numeric_addresses_need_no_thread_and_names_block_no_m() -> None:
    def main() -> None:
        calls = gmpy_rt.blocking.__module__  # the package re-exports the function
        assert calls == "gmpy_rt.blocking"
        assert socket.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)[0][4] == (
            "127.0.0.1",
            80,
        )
        assert socket.gethostbyname("127.0.0.1") == "127.0.0.1"
        both = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert socket.getnameinfo(("127.0.0.1", 80), both) == ("127.0.0.1", "80")
        assert std.getaddrinfo("localhost", 80) == socket.getaddrinfo("localhost", 80)
        assert socket.gethostbyname("localhost") == std.gethostbyname("localhost")
        assert socket.gethostbyname_ex("localhost") == std.gethostbyname_ex("localhost")
        assert socket.getfqdn("localhost") == std.getfqdn("localhost")
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("name.invalid", 1)

    run(main)


def test_a_slow_look_up_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from gmpy_rt import _resolve

    asked = threading.Event()
    answer = threading.Event()

    def slow(*args: Any) -> Any:
        asked.set()
        assert answer.wait(PATIENCE)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", args[1]))]

    monkeypatch.setattr(_resolve, "_lookup", slow)

    def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            g = go(socket.create_connection, ("some.name", port), PATIENCE)
            poll_until(asked.is_set)
            a, b = socket.socketpair()
            with a, b:  # the only P goes on
                a.sendall(b"x")
                assert b.recv(1) == b"x"
            assert not g.done()
            answer.set()
            g.result(PATIENCE).close()
            with socket.socket() as s:
                s.connect(("other.name", port))

    run(main, procs=1)


def test_every_public_name_of_the_stdlib_is_there() -> None:
    for name in std.__all__:
        assert hasattr(socket, name), name
        assert name in socket.__all__, name
    for name in ("AF_INET", "SOL_SOCKET", "inet_pton", "htons", "gethostname", "has_ipv6"):
        assert getattr(socket, name) is getattr(std, name)
    assert socket.timeout is TimeoutError
    assert socket.error is OSError
    assert socket.gaierror is std.gaierror
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = socket.no_such_name
    assert issubclass(socket.socket, std.socket)
    mine = {name for name in vars(std.socket) if not name.startswith("_")}
    assert mine <= set(dir(socket.socket))


# ------------------------------------------------------------ errors


def test_a_port_in_use_gives_an_error_that_names_it() -> None:
    def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(OSError, match=rf"127\.0\.0\.1.*{port}.*port 0") as caught:
                socket.create_server(("127.0.0.1", port))
            assert caught.value.errno == errno.EADDRINUSE

    run(main)


def test_a_refused_connection_names_the_address() -> None:
    def main() -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
            with socket.socket() as c, pytest.raises(ConnectionRefusedError, match=str(port)):
                c.connect(("127.0.0.1", port))
            with socket.socket() as c:
                assert c.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            with pytest.raises(ExceptionGroup) as caught:
                socket.create_connection(("127.0.0.1", port), all_errors=True)
            assert len(caught.value.exceptions) == 1

    run(main)


def test_connect_ex_says_that_the_backlog_is_full() -> None:
    def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")  # the kernel chooses an abstract name
            listener.listen(0)
            clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
            for c in clients:
                c.settimeout(0.01)
            errors = [c.connect_ex(listener.getsockname()) for c in clients]
            for c in clients:
                c.close()
            assert set(errors) == {0, errno.EAGAIN}

    run(main)


def test_connect_waits_for_one_that_was_begun_without_waiting() -> None:
    def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1) as listener, ExitStack() as stack:
            clients = [stack.enter_context(socket.socket()) for _ in range(4)]
            for client in clients:  # the last finds the backlog full
                client.settimeout(0)
                assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
            client.settimeout(None)
            g = go(client.connect, listener.getsockname())
            parked(g)
            listener.settimeout(PATIENCE)
            for _ in clients:
                stack.enter_context(listener.accept()[0])
            g.result(PATIENCE)
            assert client.getpeername() == listener.getsockname()

    run(main)


def test_a_names_port_is_taken_as_it_is() -> None:
    def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            port = listener.getsockname()[1]
            with pytest.raises(OverflowError):
                client.connect(("localhost", port + 65536))
            client.connect(("localhost", port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, udp() as receiver:
            sender.sendto(b"x", ("localhost", receiver.getsockname()[1]))
            assert receiver.recv(1) == b"x"

    run(main)


def test_settimeout_takes_what_the_stdlib_takes() -> None:
    class Two:
        def __index__(self) -> int:
            return 2

    with socket.socket() as sock:
        for good, kept in ((Two(), 2.0), (True, 1.0), (0, 0.0), (1.5, 1.5)):
            sock.settimeout(good)  # type: ignore[arg-type]
            assert sock.gettimeout() == kept
        for bad, error in (
            ("1", TypeError),
            (float("inf"), OverflowError),
            (10**30, OverflowError),
        ):
            with pytest.raises(error, match="timeout="):
                sock.settimeout(bad)  # type: ignore[arg-type]
        for bad in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout="):
                sock.settimeout(bad)


def test_a_detached_fd_blocks_as_the_stdlibs_would() -> None:
    for timeout, blocks in ((None, True), (0.0, False), (5.0, False)):
        a, b = socket.socketpair()
        a.settimeout(timeout)
        fd = a.detach()
        assert os.get_blocking(fd) is blocks
        os.close(fd)
        b.close()


def test_bad_arguments_are_refused() -> None:
    def main() -> None:
        with pytest.raises(OSError):
            socket.socket(-5)
        with pytest.raises(OSError):
            socket.socket(fileno=10**6)
        with pytest.raises(ValueError, match="dualstack_ipv6"):
            socket.create_server(("127.0.0.1", 0), dualstack_ipv6=True)
        with socket.socket() as s:
            with pytest.raises(TypeError):
                s.connect(7)
            with pytest.raises((TypeError, OSError)):
                s.sendto(b"x")
            with pytest.raises(TypeError):
                s.settimeout("1")  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                s.sendall("text")  # type: ignore[arg-type]
        with socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as s:
            assert s.gettimeout() == 0.0 and s.type == socket.SOCK_STREAM

    run(main)


def test_ssl_accepts_the_socket() -> None:
    """TLS itself waits as the stdlib's does; here only: it takes the socket over whole."""

    def main() -> None:
        a, b = socket.socketpair()
        with a, b:
            a.settimeout(0.02)
            context = ssl.create_default_context()
            context.check_hostname = False
            with context.wrap_socket(a, do_handshake_on_connect=False) as tls:
                assert tls.gettimeout() == 0.02
                with pytest.raises(TimeoutError):
                    tls.do_handshake()

    run(main)
