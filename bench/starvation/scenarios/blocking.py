"""(d) Calls that block in C and say so to nobody, with G's stranded behind them (P2)."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from types import FunctionType

import gmpy_rt
from bench.peers import kit
from bench.starvation.lab import Lab, now
from bench.starvation.model import Params

TITLE = "undeclared blocking in C beside ready G's"
PROGRAM = "P2"
ABOUT = (
    "On each P a G blocks its thread without declaring it: in turns a raw read of one byte from "
    "a slow pipe, and hashlib at work. G's that started on the same threads before want to go "
    "on (`wake`), fresh ones want to start (`start`). In the second half the same functions "
    "block again, which the runtime has learned to start on threads of their own "
    "(`wake again`)."
)
HEADLINE = ("start", "wake", "wake again")
PROCS = None


def params(scale: float) -> Params:
    return {
        "block": max(0.06, 0.2 * min(1.0, 2 * scale)),
        "turns": max(2, round(6 * scale)),
        "rest": 0.03,
        "sleepers": 8,
        "sleep": 0.002,
        "interval": 0.004,
    }


def prepare(lab: Lab, params: Params) -> int:
    """How many rounds of PBKDF2 take `block` seconds."""
    sample = 20_000
    since = time.perf_counter()
    hashlib.pbkdf2_hmac("sha256", b"gmpy_rt", b"salt", sample)
    return int(sample * params["block"] / (time.perf_counter() - since)) + 1


def read_slow_pipe(seconds: float, rounds: int) -> None:
    reader, writer = os.pipe()

    def write() -> None:
        time.sleep(seconds)
        os.write(writer, b"x")

    threading.Thread(target=write, daemon=True).start()
    try:
        os.read(reader, 1)
    finally:
        os.close(reader)
        os.close(writer)


def compute_hash(seconds: float, rounds: int) -> None:
    hashlib.pbkdf2_hmac("sha256", b"gmpy_rt", b"salt", rounds)


def _unknown(fn: Callable[..., None], number: int) -> Callable[..., None]:
    """The same function as one that the runtime hasn't seen block: it goes by the code."""
    code = fn.__code__.replace(co_name=f"blocker_{number}")
    return FunctionType(code, fn.__globals__, None, fn.__defaults__, fn.__closure__)


def run(lab: Lab, params: Params, rounds: int) -> None:
    gmpy_rt.lock_os_thread()  # who starts the turns must not be stranded himself
    going = [True]
    kind = ["wake"]

    def sleeper() -> None:
        while going[0]:
            due = now() + int(params["sleep"] * 1e9)
            gmpy_rt.sleep(params["sleep"])
            lab.waited(kind[0], due)

    def blocker(call: Callable[[float, int], None], name: str) -> None:
        since = now()
        call(params["block"], rounds)
        lab.span(since, name)
        lab.ended()

    def turn(number: int, known: bool) -> None:
        call, name = ((read_slow_pipe, "read"), (compute_hash, "hash"))[number % 2]
        gs = []
        for i in range(lab.procs):
            entry = blocker if known else _unknown(blocker, number * lab.procs + i)
            lab.started()
            gs.append(gmpy_rt.go(entry, call, name))
        for g in gs:
            g.join()
        gmpy_rt.sleep(params["rest"])

    sleepers = [lab.go(sleeper) for _ in range(params["sleepers"] * lab.procs)]
    gmpy_rt.sleep(params["rest"])
    short: list[gmpy_rt.G[None]] = []
    length = 2 * params["turns"] * (params["block"] + params["rest"])
    feeder = kit.feed(
        {"seconds": length, "interval": params["interval"]},
        lambda due: short.append(lab.starting(int)),
    )
    for number in range(params["turns"]):
        turn(number, known=False)
    kind[0] = "wake again"
    for number in range(params["turns"]):
        turn(number, known=True)
    gmpy_rt.blocking(feeder.join)
    going[0] = False
    for g in [*sleepers, *short]:
        g.join()
