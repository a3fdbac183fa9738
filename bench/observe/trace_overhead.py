"""What the execution trace costs an echo server: off and on, in turns, in one process.

    python bench/observe/trace_overhead.py --procs 1,2 --rounds 7

One server for each number of P's. Each round loads it twice, without and with a trace, in
changing order, and compares the two halves of a round, so that what else the machine does hits
both alike. On a busy machine look at the CPU time of the server for a request, the thread that
writes included, rather than at the throughput. The last trace is checked. Exit code 1 if the
median share that is left is below --least.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# At the end of the path: a checkout's gmpy_rt/ must not hide the installed one.
sys.path.append(str(Path(__file__).resolve().parent.parent.parent))

CONNECTIONS, SIZE = 64, 64


def serve(procs: int) -> None:
    """The server: says its port; starts and stops traces as standard input says."""
    import os
    import threading
    import time

    import gmpy_rt
    from gmpy_rt import socket, trace

    def echo(connection: Any) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        with connection, contextlib.suppress(ConnectionError):
            recv, sendall = connection.recv, connection.sendall
            while data := recv(65536):
                sendall(data)

    def obey() -> None:
        for line in sys.stdin:
            answer: dict[str, Any] = {"cpu": time.process_time()}
            if line.strip() == "stop":
                done = trace.stop()
                answer |= {"events": done.events, "lost": done.lost}
            elif line.strip() != "look":
                trace.start(line.strip())
            print(json.dumps(answer), flush=True)
        os._exit(0)

    def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=obey, daemon=True).start()
        while True:
            gmpy_rt.go(echo, listener.accept()[0])

    gmpy_rt.run(main, procs=procs)


class Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.stdin, self.stdout = process.stdin, process.stdout
        self.port = int(self.stdout.readline())

    def say(self, text: str) -> dict[str, Any]:
        print(text, file=self.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.stdout.readline())
        return answer


@contextlib.contextmanager
def server(procs: int) -> Iterator[Server]:
    command = [sys.executable, "-P", __file__, "--serve", str(procs)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


def measure(procs: int, rounds: int, seconds: float) -> float:
    """Print a line about it; return the share of the throughput that is left with a trace."""
    from bench.registry import load_generator, run_load
    from bench.store import Store, default_folder
    from gmpy_rt._trace_check import check

    program = load_generator(Store(default_folder()))

    rates: dict[bool, list[float]] = {False: [], True: []}
    cpus: dict[bool, list[float]] = {False: [], True: []}  # us a request
    events = lost = requests = 0

    def load(to: Server, on: bool) -> int:
        before = to.say("look")["cpu"]
        line = json.loads(run_load(program, to.port, CONNECTIONS, SIZE, seconds))
        if line["errors"]:
            raise SystemExit(f"{procs} P: the load saw {line['errors']} errors")
        rates[on].append(line["req_per_s"])
        cpus[on].append((to.say("look")["cpu"] - before) / line["requests"] * 1e6)
        return int(line["requests"])

    with server(procs) as to, tempfile.TemporaryDirectory() as folder:
        run_load(program, to.port, CONNECTIONS, SIZE, 0.5)  # warm
        for number in range(rounds):
            for on in (False, True) if number % 2 else (True, False):
                if on:
                    to.say(f"{folder}/trace.json")
                n = load(to, on)
                if on:
                    requests += n
                    answer = to.say("stop")
                    events += answer["events"]
                    lost += answer["lost"]
        checked = check(Path(folder, "trace.json"))
        if checked.wrong:
            raise SystemExit(f"{procs} P: the last trace is wrong: {checked}")
    shares = [on / off for off, on in zip(rates[False], rates[True], strict=True)]
    share = statistics.median(shares)
    off, on = (statistics.median(rates[which]) / 1000 for which in (False, True))
    dearer = statistics.median(b / a for a, b in zip(cpus[False], cpus[True], strict=True))
    cpu_off, cpu_on = (statistics.median(cpus[which]) for which in (False, True))
    least_off, least_on = (min(cpus[which]) for which in (False, True))
    print(
        f"{procs} P: {off:.1f} k/s off, {on:.1f} k/s on: {100 * (1 - share):.1f} % less "
        f"({100 * (1 - max(shares)):.1f} to {100 * (1 - min(shares)):.1f}); "
        f"CPU a request {cpu_off:.2f} us off, {cpu_on:.2f} us on: {100 * (dearer - 1):.1f} % more; "
        f"at the least {least_off:.2f} and {least_on:.2f} us; "
        f"{events / requests:.1f} events a request, {lost} lost",
        flush=True,
    )
    return share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--procs", default="1,2", metavar="N,N", help="numbers of P's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each half of a round")
    parser.add_argument("--least", type=float, default=0.85, help="share that must be left")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    numbers = [int(n) for n in options.procs.split(",")]
    shares = [measure(n, options.rounds, options.seconds) for n in numbers]
    return 0 if min(shares) >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
