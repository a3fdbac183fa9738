"""The client of the echo service: CPUS PORT CONNECTIONS INTERVAL, prints JSON.

Open loop: a message is sent when it is due, on the next connection, whatever has been
answered; each carries the time at which it was sent. It stops when its standard input is
closed. One thread, standard library only.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time


def main() -> None:
    # The service that starts it may be pinned; this is not to share its fate.
    os.sched_setaffinity(0, [int(cpu) for cpu in sys.argv[1].split(",")])
    port, connections = int(sys.argv[2]), int(sys.argv[3])
    interval = float(sys.argv[4])
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    sockets = []
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
        sockets.append(connection)
    trips: list[float] = []
    sent = dropped = 0
    due = time.monotonic()
    going = True
    while going:
        for key, _ in selector.select(max(0.0, due - time.monotonic())):
            if key.fileobj is sys.stdin:
                going = False
            else:
                receive(key.fileobj, trips)
        if going and time.monotonic() >= due:
            due += interval
            try:
                sockets[sent % connections].send(message())
            except BlockingIOError:
                dropped += 1  # 16 bytes don't fit any more: it is behind by a whole buffer
            sent += 1
    # What is under way may still come back.
    selector.unregister(sys.stdin)
    until = time.monotonic() + 2
    while len(trips) + dropped < sent and time.monotonic() < until:
        for key, _ in selector.select(0.1):
            receive(key.fileobj, trips)
    for connection in sockets:
        connection.close()
    trips.sort()
    print(
        json.dumps(
            {
                "messages": sent,
                "unanswered": sent - dropped - len(trips),
                "dropped": dropped,
                "trip_p50": trips[len(trips) // 2] if trips else 0.0,
                "trip_p99": trips[int(len(trips) * 0.99)] if trips else 0.0,
            }
        )
    )


def message() -> bytes:
    return time.time_ns().to_bytes(8, "little") + bytes(8)


def receive(connection: object, trips: list[float]) -> None:
    assert isinstance(connection, socket.socket)
    try:
        data = connection.recv(65536)
    except BlockingIOError:
        return
    now = time.time_ns()
    # Messages are of 16 bytes and answered whole; a split one would be told by its length.
    for at in range(0, len(data) - 15, 16):
        trips.append((now - int.from_bytes(data[at : at + 8], "little")) / 1e9)


if __name__ == "__main__":
    main()
