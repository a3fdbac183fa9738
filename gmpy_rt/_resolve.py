"""Host names without blocking an M: what needs no look-up is done here and now, the rest goes
to a thread of blocking()."""

from __future__ import annotations

import socket as _std
from typing import Any

from .blocking import blocking

AddrInfo = tuple[_std.AddressFamily, _std.SocketKind, int, str, Any]
Host = bytes | str | None

_lookup: Any = _std.getaddrinfo

_INET = (int(_std.AF_INET), int(_std.AF_INET6))


def is_numeric(host: object) -> bool:
    """Whether host is an address already (or a word for one), so that nobody need be asked."""
    if host is None:
        return True
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("latin-1")
    if not isinstance(host, str):
        return True  # the socket module complains about it at once
    # No host name has a colon, or digits and dots only.
    return ":" in host or host in ("", "<broadcast>") or host.replace(".", "").isdigit()


def getaddrinfo(
    host: Host,
    port: bytes | str | int | None,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[AddrInfo]:
    """As the stdlib's; a name is looked up on another thread, and only this G waits."""
    if is_numeric(host) and (not isinstance(port, str | bytes) or port.isdigit()):
        found: list[AddrInfo] = _lookup(host, port, family, type, proto, flags)
    else:
        found = blocking(_lookup, host, port, family, type, proto, flags)
    return found


def gethostbyname(hostname: str, /) -> str:
    """As the stdlib's, without blocking an M."""
    if is_numeric(hostname):
        return _std.gethostbyname(hostname)
    return blocking(_std.gethostbyname, hostname)


def gethostbyname_ex(hostname: str, /) -> tuple[str, list[str], list[str]]:
    """As the stdlib's, without blocking an M."""
    return blocking(_std.gethostbyname_ex, hostname)


def gethostbyaddr(ip_address: str, /) -> tuple[str, list[str], list[str]]:
    """As the stdlib's, without blocking an M."""
    return blocking(_std.gethostbyaddr, ip_address)


def getfqdn(name: str = "") -> str:
    """As the stdlib's, without blocking an M."""
    return blocking(_std.getfqdn, name)


def getnameinfo(sockaddr: Any, flags: int, /) -> tuple[str, str]:
    """As the stdlib's, without blocking an M."""
    numbers_only = _std.NI_NUMERICHOST | _std.NI_NUMERICSERV
    if flags & numbers_only == numbers_only:
        return _std.getnameinfo(sockaddr, flags)
    return blocking(_std.getnameinfo, sockaddr, flags)


def resolve(family: int, address: Any) -> Any:
    """address with its host name replaced by the first address found for that."""
    if family not in _INET or not isinstance(address, tuple) or len(address) < 2:
        return address
    host, port, *rest = address
    if is_numeric(host):
        return address
    found = getaddrinfo(host, None, family, _std.SOCK_DGRAM)[0][4]  # as the stdlib asks
    # Flow and scope as the caller has them, where he has.
    return (found[0], port, *rest, *found[2 + len(rest) :])
