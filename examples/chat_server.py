"""A chat server: the room is a G that owns the list of members, and no lock.

Everything reaches the room through channels, so only the room ever touches
that list. Each client has two G's: one reads its lines, one writes to it.

Run it:   python examples/chat_server.py --port 7008
Try it:   nc 127.0.0.1 7008     in two terminals; the first line is your name
"""

from __future__ import annotations

import argparse
import errno
from typing import NamedTuple

from gmpy_rt import Chan, go, run, select, sleep, socket

# Lines that may wait for a slow reader before the room lets it go.
OUTBOX = 64
MAX_LINE = 1024
IDLE_SECONDS = 600.0


class Member(NamedTuple):
    name: str
    outbox: Chan[str]


class Room:
    """The three channels by which clients talk to the room."""

    def __init__(self) -> None:
        self.joining: Chan[Member] = Chan()
        self.leaving: Chan[Member] = Chan()
        self.lines: Chan[str] = Chan(64)

    def live(self) -> None:
        """The room's G: whoever joins, leaves or speaks, one at a time."""
        members: dict[str, Chan[str]] = {}
        while True:
            case, value = select(self.joining, self.leaving, self.lines)
            if case == 0:
                newcomer: Member = value
                if newcomer.name in members:
                    newcomer.outbox.try_send(f"* {newcomer.name} is taken, try another name")
                    newcomer.outbox.close()
                    continue
                members[newcomer.name] = newcomer.outbox
                line = f"* {newcomer.name} is here, {len(members)} in the room"
            elif case == 1:
                leaver: Member = value
                if members.get(leaver.name) is not leaver.outbox:
                    continue  # was never let in, or was let go before
                del members[leaver.name]
                leaver.outbox.close()
                line = f"* {leaver.name} has left"
            else:
                line = value
            tell_all(members, line)


def tell_all(members: dict[str, Chan[str]], line: str) -> None:
    """Never waits: a member that doesn't read must not stop the room."""
    lines = [line]
    for line in lines:
        for name, outbox in list(members.items()):
            if not outbox.try_send(line):
                del members[name]
                outbox.close()
                lines.append(f"* {name} was too slow")


def write_lines(conn: socket.socket, outbox: Chan[str]) -> None:
    """Ends when the room closes the outbox; the reader closes the connection then."""
    try:
        for line in outbox:
            conn.sendall(line.encode() + b"\n")
        conn.shutdown(socket.SHUT_RDWR)  # wakes the reader
    except OSError:
        pass  # gone: its reader notices, too, and tells the room


def read_lines(conn: socket.socket, room: Room) -> None:
    conn.settimeout(IDLE_SECONDS)
    with conn, conn.makefile("r", encoding="utf-8", errors="replace", newline="\n") as lines:
        try:
            conn.sendall(b"your name? ")
            name = lines.readline(MAX_LINE).strip()[:32]
            if not name:
                return
            member = Member(name, Chan(OUTBOX))
            room.joining.send(member)
            go(write_lines, conn, member.outbox)
            try:
                while line := lines.readline(MAX_LINE):
                    room.lines.send(f"{name}: {line.rstrip()}")
            finally:
                room.leaving.send(member)
        except OSError:
            pass  # gone, or silent for too long


def serve(host: str, port: int) -> None:
    room = Room()
    go(room.live)
    with socket.create_server((host, port)) as listener:
        print(f"chat server on {host}:{listener.getsockname()[1]}", flush=True)
        while True:
            try:
                conn, _ = listener.accept()
            except OSError as problem:
                if problem.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                sleep(0.05)  # out of descriptors: some connections will end
                continue
            go(read_lines, conn, room)


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat server on channels.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7008, help="0 takes a free one")
    parser.add_argument("--procs", type=int, help="P's; default: the CPUs of this process")
    args = parser.parse_args()
    try:
        run(serve, args.host, args.port, procs=args.procs)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
