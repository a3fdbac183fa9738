"""The stdlib's socket module for G's: the same names, but a wait parks the G, not its thread.

Everything that this module doesn't define is the stdlib's own. The sockets are subclasses of
the stdlib's socket.socket. Their file descriptors are always non-blocking; a socket's timeout
says how long a G waits. Several G's may wait on one socket's same direction: they are served
in the order in which they came, and a sendall() is never mixed with another one's bytes. A
plain thread may use them, too: it waits in poll(2), outside that order, and close() by
another thread doesn't wake it (as in the stdlib).

A socket wrapped by the ssl module blocks its M while it waits: give TLS to a proxy in front, or
call it in blocking(). SO_RCVTIMEO and SO_SNDTIMEO have no effect; settimeout() has. Where a
cancel or a timeout() block ends a recv() with MSG_WAITALL, what that had read already is lost.
"""

from __future__ import annotations

import _socket
import errno
import operator
import os
import socket as _std
import stat
import threading
from collections.abc import Iterable
from socket import (
    AddressFamily,
    AddressInfo,
    MsgFlag,
    SocketIO,
    SocketKind,
    SocketType,
    error,
    gaierror,
    herror,
    timeout,
)
from typing import TYPE_CHECKING, Any

from ._door import Poll, sleep
from ._resolve import (
    getaddrinfo,
    getfqdn,
    gethostbyaddr,
    gethostbyname,
    gethostbyname_ex,
    getnameinfo,
    resolve,
)
from ._sockfile import open_socket

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

__gmpy_atomic__ = True  # no interrupt between two bytecodes here, see preempt.c

_INET = (int(_std.AF_INET), int(_std.AF_INET6))
# The families whose addresses the core can show; the others go through Python.
_PLAIN = (*_INET, int(_std.AF_UNIX))
_SENDFILE_MAX = 1 << 30
_c: Any = _socket.socket  # the C half: with timeout 0 it never waits


def _failed(error: int, doing: str, address: object) -> OSError:
    hint = ""
    if error == errno.EADDRINUSE:
        hint = "; another socket has it: stop that one, or take port 0 for any free port"
    return OSError(error, f"{os.strerror(error)}: {doing} {address!r}{hint}")


class socket(_std.socket):
    """As the stdlib's socket; waiting parks the calling G."""

    __slots__ = ("_kind", "_plain", "_poll", "_stream", "_timeout")

    _kind: tuple[int, int, int]
    _plain: bool
    _poll: Poll
    _stream: bool
    _timeout: float | None
    _io_refs: int  # the stdlib's: how many makefile()s are open
    _closed: bool

    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        asked = type
        if fileno is None:
            type = (_std.SOCK_STREAM if type == -1 else type) | _std.SOCK_NONBLOCK
        super().__init__(family, type, proto, fileno)
        if fileno is not None:
            _c.setblocking(self, False)
        self._set_up((int(self.family), int(self.type), self.proto))
        if asked != -1 and asked & _std.SOCK_NONBLOCK:
            self._timeout = 0.0

    def _set_up(self, kind: tuple[int, int, int]) -> None:
        self._kind = kind
        self._plain = kind[0] in _PLAIN
        self._stream = kind[1] == _std.SOCK_STREAM
        self._timeout = _std.getdefaulttimeout()
        # A Unix stream is read in the pieces in which it was sent, if file descriptors or
        # credentials come with them: a short read doesn't mean that there is no more.
        self._poll = Poll(_c.fileno(self), kind[0] in _INET)

    def _patience(self, flags: int) -> float | None:
        """The timeout of an operation that the core doesn't do itself."""
        return 0.0 if self._timeout is None and flags & _std.MSG_DONTWAIT else self._timeout

    # ------------------------------------------------------------ bytes

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        return self._poll.recv(bufsize, flags, self._timeout, self._stream)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        return self._poll.recv_into(buffer, nbytes, flags, self._timeout, self._stream)

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        return self._poll.send(data, flags, self._timeout, self._stream)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send all of data. The timeout is for the whole, as in the stdlib."""
        self._poll.sendall(data, flags, self._timeout, self._stream)

    # ------------------------------------------------------------ datagrams, messages

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        if self._plain:
            return self._poll.recvfrom(bufsize, flags, self._timeout)
        return self._poll.call(False, True, self._patience(flags), super().recvfrom, bufsize, flags)

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Any]:
        if self._plain:
            return self._poll.recvfrom_into(buffer, nbytes, flags, self._timeout)
        return self._poll.call(
            False, True, self._patience(flags), super().recvfrom_into, buffer, nbytes, flags
        )

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        return self._poll.call(
            False, True, self._patience(flags), super().recvmsg, bufsize, ancbufsize, flags
        )

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        buffers = list(buffers)  # an iterator would be used up by a first try
        return self._poll.call(
            False, True, self._patience(flags), super().recvmsg_into, buffers, ancbufsize, flags
        )

    def sendto(self, data: ReadableBuffer, /, *args: Any) -> int:
        """sendto(data[, flags], address)"""
        if args:
            args = (*args[:-1], resolve(self._kind[0], args[-1]))
        patience = self._patience(args[0] if len(args) > 1 else 0)
        return self._poll.call(True, False, patience, super().sendto, data, *args)

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[tuple[int, int, ReadableBuffer]] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        if address is not None:
            address = resolve(self._kind[0], address)
        return self._poll.call(
            True,
            False,
            self._patience(flags),
            super().sendmsg,
            list(buffers),
            list(ancdata),
            flags,
            address,
        )

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send the file from offset to its end, or count bytes of it; return how many.

        The kernel copies where it can (os.sendfile), else file.read() and send(). Leaves the
        file's position behind what was sent, also where it fails. Raises ValueError for a file
        in text mode, a count below 1, a socket that isn't a stream or has timeout 0; TypeError
        for a count that isn't an int.
        """
        if "b" not in getattr(file, "mode", "b"):
            raise ValueError(f"file={file!r}: open it in binary mode")
        if count is not None and not isinstance(count, int):
            raise TypeError(f"count={count!r}: give a whole number above 0, or None for all")
        if count is not None and count <= 0:
            raise ValueError(f"count={count!r}: give a whole number above 0, or None for all")
        if not self._stream:
            raise ValueError(f"sendfile() on {self!r}: only stream sockets can send a file")
        if self._timeout == 0:
            raise ValueError("sendfile() with timeout 0: give the socket a timeout, or None")
        try:
            fd = file.fileno()
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
        except (AttributeError, OSError):
            regular = False
        if regular:
            return self._copy_in_kernel(file, fd, offset, count)
        return self._copy(file, offset, count)

    def _copy_in_kernel(self, file: Any, fd: int, offset: int, count: int | None) -> int:
        sent = 0
        try:
            while count is None or sent < count:
                n = _SENDFILE_MAX if count is None else min(count - sent, _SENDFILE_MAX)
                try:
                    n = self._poll.call(
                        True, False, self._timeout, os.sendfile, self.fileno(), fd, offset + sent, n
                    )
                except OSError as exc:
                    # The file system or the socket's family has no sendfile.
                    if sent or exc.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSOCK):
                        raise
                    return self._copy(file, offset, count)
                if n == 0:
                    break
                sent += n
            return sent
        finally:
            if sent:
                file.seek(offset + sent)

    def _copy(self, file: Any, offset: int, count: int | None) -> int:
        if offset:
            file.seek(offset)
        sent = 0
        try:
            while count is None or sent < count:
                n = 65536 if count is None else min(count - sent, 65536)
                if not (data := memoryview(file.read(n))):
                    break
                while data:
                    n = self.send(data)
                    sent += n
                    data = data[n:]
            return sent
        finally:
            if sent and hasattr(file, "seek"):
                file.seek(offset + sent)

    # ------------------------------------------------------------ connections

    def accept(self) -> tuple[socket, Any]:
        if self._plain:
            fd, address = self._poll.accept(self._timeout)
        else:
            fd, address = self._poll.call(False, True, self._timeout, _c._accept, self)
        family, type, proto = self._kind
        conn = socket.__new__(socket)
        # As super().__init__ does it, without its look at the file descriptor.
        _c.__init__(conn, family, type | _std.SOCK_NONBLOCK, proto, fd)
        conn._io_refs = 0
        conn._closed = False
        conn._set_up(self._kind)
        return conn, address

    def connect(self, address: Any, /) -> None:
        """Connect to address; a host name is looked up without blocking the M."""
        if error := self._connect(resolve(self._kind[0], address), raising=True):
            raise _failed(error, "connect to", address)

    def connect_ex(self, address: Any, /) -> int:
        """As connect(), but return errno instead of raising OSError; 0 means connected."""
        return self._connect(resolve(self._kind[0], address), raising=False)

    def _connect(self, address: Any, raising: bool) -> int:
        error = super().connect_ex(address)
        waits = [errno.EINPROGRESS, errno.EINTR]
        if self._timeout is None:
            waits.append(errno.EALREADY)  # begun while the timeout was 0
        try:
            if error == errno.EAGAIN and self._timeout != 0:  # Unix: the listener's backlog is full
                error = self._connect_unix(address)
            if error not in waits or self._timeout == 0:
                return error
            self._poll.wait(True, self._timeout)
        except TimeoutError:
            if raising:
                raise
            return errno.EAGAIN
        return super().getsockopt(_std.SOL_SOCKET, _std.SO_ERROR)

    def _connect_unix(self, address: Any) -> int:
        # The kernel tells nobody when there is room again: ask now and then.
        left = self._timeout
        pause = 0.001
        error = errno.EAGAIN
        while error == errno.EAGAIN and (left is None or left > 0):
            nap = pause if left is None else min(pause, left)
            sleep(nap)
            left = None if left is None else left - nap
            pause = min(pause * 2, 0.05)
            error = super().connect_ex(address)
        if error == errno.EAGAIN:
            raise TimeoutError("timed out")
        return error

    def bind(self, address: Any, /) -> None:
        """Bind to address. The error for one that is taken or not ours names it."""
        try:
            super().bind(resolve(self._kind[0], address))
        except OSError as exc:
            if exc.errno is None or isinstance(exc, gaierror):
                raise
            raise _failed(exc.errno, "bind to", address) from None

    # ------------------------------------------------------------ timeouts

    def settimeout(self, value: float | None, /) -> None:
        """How long each operation may wait: seconds, None for ever, 0 not at all."""
        if value is not None:
            try:
                value = float(value if isinstance(value, float) else operator.index(value))
            except TypeError:
                raise TypeError(
                    f"timeout={value!r}: give a number of seconds, or None for ever"
                ) from None
            if not value >= 0:
                raise ValueError(f"timeout={value}: give 0 or more seconds, or None for ever")
            if value > threading.TIMEOUT_MAX:
                raise OverflowError(f"timeout={value}: too many seconds; give None for ever")
        self._timeout = value

    def gettimeout(self) -> float | None:
        return self._timeout

    @property
    def timeout(self) -> float | None:
        return self._timeout

    def setblocking(self, flag: bool, /) -> None:
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        return self._timeout != 0

    # ------------------------------------------------------------ files, and the end

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file for the socket, as the stdlib's. G's may share it: they take turns.

        After a timeout or a cancel in a read it can't be read from any more (OSError), as what
        came before that may be lost with it.
        """
        return open_socket(self, mode, buffering, encoding, errors, newline)

    def _real_close(self) -> None:
        """What close() comes to once no makefile() is open any more. Wakes who waits."""
        self._poll.close()
        _c.close(self)

    def detach(self) -> int:
        """Give up the file descriptor without closing it, and return it. Wakes who waits.

        It blocks from then on if the socket has no timeout, as the stdlib's does.
        """
        self._poll.close()
        fd = super().detach()
        if fd >= 0 and self._timeout is None:
            os.set_blocking(fd, True)
        return fd


def fromfd(fd: int, family: int, type: int, proto: int = 0) -> socket:
    """A socket for a duplicate of fd."""
    return socket(family, type, proto, fileno=os.dup(fd))


def socketpair(
    family: int | None = None, type: int = _std.SOCK_STREAM, proto: int = 0
) -> tuple[socket, socket]:
    """Two sockets connected with each other; Unix ones, if family doesn't say otherwise."""
    if family is None:
        family = _std.AF_UNIX
    a, b = _socket.socketpair(family, type, proto)
    return (
        socket(family, type, proto, fileno=a.detach()),
        socket(family, type, proto, fileno=b.detach()),
    )


_unset: Any = getattr(_std, "_GLOBAL_DEFAULT_TIMEOUT", object())


def create_connection(
    address: tuple[str | None, int],
    timeout: float | None = _unset,
    source_address: Any = None,
    *,
    all_errors: bool = False,
) -> socket:
    """Connect to (host, port): each of the host's addresses is tried in turn.

    timeout: of each try, and of the socket afterwards; left out: the default timeout. Raises
    the last try's error, or with all_errors an ExceptionGroup of all.
    """
    host, port = address
    errors: list[OSError] = []
    for family, type, proto, _, target in getaddrinfo(host, port, 0, _std.SOCK_STREAM):
        sock = None
        try:
            sock = socket(family, type, proto)
            if timeout is not _unset:
                sock.settimeout(timeout)
            if source_address:
                sock.bind(source_address)
            sock.connect(target)
            return sock
        except BaseException as exc:
            if sock is not None:
                sock.close()
            if not isinstance(exc, OSError):
                raise
            errors.append(exc)
    try:
        if not errors:
            raise OSError(f"{host!r} has no address")
        if all_errors:
            raise ExceptionGroup(f"no address of {host!r} could be connected to", errors)
        raise errors[-1]
    finally:
        errors.clear()  # a traceback would keep them, and they the traceback


def create_server(
    address: Any,
    *,
    family: int = _std.AF_INET,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,
) -> socket:
    """A TCP socket bound to address and listening. Port 0 takes a free one.

    reuse_port sets SO_REUSEPORT. dualstack_ipv6: with AF_INET6, take IPv4 connections too.
    Raises OSError that names the address if it is taken.
    """
    if reuse_port and not hasattr(_std, "SO_REUSEPORT"):
        raise ValueError("reuse_port=True: this system has no SO_REUSEPORT")
    if dualstack_ipv6 and (family != _std.AF_INET6 or not _std.has_dualstack_ipv6()):
        raise ValueError("dualstack_ipv6=True: needs family=AF_INET6 and a system that can do it")
    sock = socket(family, _std.SOCK_STREAM)
    try:
        sock.setsockopt(_std.SOL_SOCKET, _std.SO_REUSEADDR, 1)
        if reuse_port and family in _INET:
            sock.setsockopt(_std.SOL_SOCKET, _std.SO_REUSEPORT, 1)
        if family == _std.AF_INET6:
            sock.setsockopt(_std.IPPROTO_IPV6, _std.IPV6_V6ONLY, 0 if dualstack_ipv6 else 1)
        sock.bind(address)
        if backlog is None:
            sock.listen()
        else:
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


# Everything else is the stdlib's. Type checkers take those names from __getattr__.
for _name in _std.__all__:
    globals().setdefault(_name, getattr(_std, _name))


def __getattr__(name: str) -> Any:
    return getattr(_std, name)


__all__ = [
    "AddressFamily",
    "AddressInfo",
    "MsgFlag",
    "SocketIO",
    "SocketKind",
    "SocketType",
    "create_connection",
    "create_server",
    "error",
    "fromfd",
    "gaierror",
    "getaddrinfo",
    "getfqdn",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "getnameinfo",
    "herror",
    "socket",
    "socketpair",
    "timeout",
]
__all__ += [name for name in _std.__all__ if name not in __all__]
