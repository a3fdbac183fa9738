"""A small HTTP load generator: many keep-alive connections, one thread.

For machines without wrk, oha or hey. It is Python, so it needs about as much
CPU as the server it measures: figures from it are lower than wrk's. It needs
nothing but the standard library and prints one line of JSON.

Run it:   python examples/http_load.py http://127.0.0.1:8080/ --connections 64 --seconds 2
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import time
from urllib.parse import urlsplit


class Connection:
    """One keep-alive connection with one request under way at a time."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.socket = socket.create_connection(address, timeout=5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request
        self.sent_at = 0.0
        self._received = b""

    def send(self) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(self.request)  # a few bytes: they fit in the socket's buffer

    def receive(self) -> bool:
        """Takes what is there; returns whether the response is complete.

        Raises OSError if it is no good response with a Content-Length.
        """
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._received += data
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if not blank:
            return False
        if not head.startswith(b"HTTP/1.1 200 "):
            raise OSError(f"not a 200: {head[:40]!r}")
        _, found, after = head.lower().partition(b"\r\ncontent-length:")
        if not found:
            raise OSError("no Content-Length")
        if len(body) < int(after.partition(b"\r\n")[0]):
            return False
        self._received = b""
        return True


def load(url: str, connections: int, seconds: float) -> dict[str, float]:
    parts = urlsplit(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    request = f"GET {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    latencies: list[float] = []
    errors = 0

    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            connection = Connection(address, request)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        begin = time.perf_counter()
        end = begin + seconds
        for key in list(selector.get_map().values()):
            key.data.send()
        now = begin
        while now < end and selector.get_map():
            for key, _ in selector.select(timeout=end - now):
                connection = key.data
                try:
                    if connection.receive():
                        latencies.append(time.perf_counter() - connection.sent_at)
                        connection.send()
                except OSError:
                    errors += 1
                    selector.unregister(connection.socket)
                    connection.socket.close()
            now = time.perf_counter()
        for key in list(selector.get_map().values()):
            key.data.socket.close()

    latencies.sort()
    return {
        "requests_per_second": len(latencies) / (now - begin),
        "p50_ms": percentile(latencies, 0.50) * 1000,
        "p99_ms": percentile(latencies, 0.99) * 1000,
        "requests": len(latencies),
        "errors": errors,
    }


def percentile(values: list[float], share: float) -> float:
    """The smallest of the sorted values that `share` of them don't exceed."""
    if not values:
        return 0.0
    return values[max(0, -int(-share * len(values) // 1) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Loads an HTTP server over keep-alive.")
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    print(json.dumps(load(args.url, args.connections, args.seconds)))


if __name__ == "__main__":
    main()
