"""A TCP echo server: one G per connection, plain blocking calls.

Run it:   python examples/echo_server.py --port 7007
Try it:   nc 127.0.0.1 7007
"""

from __future__ import annotations

import argparse
import errno

from gmpy_rt import go, run, sleep, socket


def echo(conn: socket.socket) -> None:
    with conn:
        try:
            while data := conn.recv(65536):
                conn.sendall(data)
        except ConnectionError:
            pass  # the client went away in the middle


def serve(host: str, port: int) -> None:
    with socket.create_server((host, port), backlog=1024) as listener:
        print(f"echo server on {host}:{listener.getsockname()[1]}", flush=True)
        while True:
            try:
                conn, _ = listener.accept()
            except OSError as problem:
                if problem.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                sleep(0.05)  # out of descriptors: some connections will end
                continue
            go(echo, conn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7007, help="0 takes a free one")
    parser.add_argument("--procs", type=int, help="P's; default: the CPUs of this process")
    args = parser.parse_args()
    try:
        run(serve, args.host, args.port, procs=args.procs)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
