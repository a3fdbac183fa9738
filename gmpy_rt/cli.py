"""The command `gmpy-rt` (and `python -m gmpy_rt`)."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from . import __version__
from .runtime import POLICIES

if TYPE_CHECKING:
    from .trace import Trace


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # The benchmarks have options of their own, --help too: not for argparse.
        if words[:1] in (["bench"], ["starve"]):
            return _from_checkout(words[0])(words[1:])
        args = _parser().parse_args(words)
        code: int = args.command(args)
        return code
    except CommandError as problem:
        print(f"gmpy-rt {words[0]}: {problem}", file=sys.stderr)
        return 2


class CommandError(Exception):
    """What was asked can't be done here; the message says what to do instead."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gmpy-rt", description="Go-style green threads for Python."
    )
    parser.add_argument("--version", action="version", version=f"gmpy-rt {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="name", metavar="COMMAND", required=True
    )

    demo = commands.add_parser("demo", help="load an HTTP server, with one P and with two")
    demo.add_argument(
        "--seconds", type=_seconds, default=2.0, help="per measurement; there are four"
    )
    demo.add_argument("--connections", type=_count, default=64)
    demo.set_defaults(command=_demo)

    run = commands.add_parser("run", help="run a script's code as the main G")
    _script_options(run)
    _script(run)
    run.set_defaults(command=_run)

    trace = commands.add_parser("trace", help="run a script and write what the scheduler did")
    _script_options(trace)
    trace.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("trace.json"),
        metavar="FILE",
        help="for ui.perfetto.dev, compressed if it ends in .gz; for go tool trace if it ends in "
        ".out; default: trace.json",
    )
    trace.add_argument(
        "--run",
        action="store_true",
        help="the script's code is the main G, as with gmpy-rt run; the options for P's imply it",
    )
    trace.add_argument("--check", type=Path, metavar="FILE", help="check a trace instead")
    trace.add_argument("script", type=Path, nargs="?")
    trace.add_argument("args", nargs=argparse.REMAINDER, help="the script's own arguments")
    trace.set_defaults(command=_trace)

    pprof = commands.add_parser("pprof", help="run a script and write a profile of it")
    pprof.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    pprof.add_argument(
        "--kind",
        choices=("cpu", "starvation", "block", "mutex"),
        default="cpu",
        help="default: cpu",
    )
    pprof.add_argument("--hz", type=float, default=100, help="samples a second; default: 100")
    _script_options(pprof)
    _script(pprof)
    pprof.set_defaults(command=_pprof)

    commands.add_parser("bench", help="compare with other runtimes (in a checkout)")
    commands.add_parser("starve", help="experiments in starvation (in a checkout)")

    info = commands.add_parser("info", help="what the runtime finds on this machine")
    info.set_defaults(command=_info)
    return parser


def _script_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--procs", type=int, help="P's; default: the CPUs of this process")
    parser.add_argument(
        "--affinity", type=_affinity, metavar="spread|CPU,CPU...", help="pin the threads"
    )
    parser.add_argument(
        "--policy", help=f"how P's without work look for it: {', '.join(POLICIES)}; default: go"
    )
    parser.add_argument(
        "--reserve", type=int, default=0, help="P's for the latency class only; default: 0"
    )


def _script(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("script", type=Path)
    parser.add_argument("args", nargs=argparse.REMAINDER, help="the script's own arguments")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of seconds") from None
    if not 0.1 <= value <= 60:
        raise argparse.ArgumentTypeError(f"{text}: between 0.1 and 60 seconds")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text}: between 1 and 10000")
    return value


def _affinity(text: str) -> str | list[int]:
    if text == "spread":
        return text
    try:
        return [int(cpu) for cpu in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: say 'spread' or CPU numbers with commas between them, such as 0,1"
        ) from None


def _demo(args: argparse.Namespace) -> int:
    from .demo import DemoError, demo

    try:
        return demo(args.seconds, args.connections)
    except DemoError as problem:
        raise CommandError(str(problem)) from problem


def _run(args: argparse.Namespace) -> int:
    _check_run(args)
    script = _load_script(args)
    try:
        return _run_code(args, *script)
    except Exception as error:
        return _report(error, script[0])


def _check_run(args: argparse.Namespace) -> None:
    from . import runtime
    from .procs import MAX_PROCS, check_procs, check_reserve

    try:
        if args.procs is not None:
            check_procs(args.procs, "--procs")
        check_reserve(args.reserve, args.procs or MAX_PROCS, "--reserve")
        runtime.check_policy(args.policy)
        runtime.check_affinity(args.affinity)
    except ValueError as problem:
        raise CommandError(str(problem)) from problem


def _run_code(args: argparse.Namespace, code: CodeType, namespace: dict[str, Any]) -> int:
    from . import run

    ending = run(
        _script_g,
        code,
        namespace,
        procs=args.procs,
        affinity=args.affinity,
        policy=args.policy,
        reserve=args.reserve,
    )
    if ending is not None:
        raise ending
    return 0


def _report(error: Exception, script: CodeType) -> int:
    """As `python script.py` does: without the frames that led to the script's own."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code is not script:
        tb = tb.tb_next
    if tb is None:
        raise error
    sys.excepthook(type(error), error.with_traceback(tb), tb)
    return 1


def _load_script(args: argparse.Namespace) -> tuple[CodeType, dict[str, Any]]:
    script: Path = args.script
    try:
        source = script.read_bytes()
    except OSError as problem:
        raise CommandError(f"can't read {script}: {problem.strerror}") from problem
    # What `python script.py` does before it runs the first line.
    sys.argv = [str(script), *args.args]
    sys.path.insert(0, str(script.resolve().parent))
    module = ModuleType("__main__")
    module.__file__ = str(script)
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    return compile(source, str(script), "exec"), vars(module)


def _trace(args: argparse.Namespace) -> int:
    if args.check is not None:
        return _check_trace(args.check)
    if args.script is None:
        raise CommandError("which script? Or --check FILE to check a trace")
    from . import trace

    as_main = args.run or args.procs is not None or args.affinity or args.policy or args.reserve
    if as_main:
        _check_run(args)
    script = _load_script(args)  # before the file of an earlier trace is emptied
    parent = os.getpid()
    try:
        traced = trace.start(args.output)
    except OSError as problem:
        raise CommandError(f"can't write {args.output}: {problem.strerror}") from problem
    try:
        if as_main:
            return _run_code(args, *script)
        exec(*script)
        return 0
    except Exception as error:
        return _report(error, script[0])
    finally:
        if os.getpid() == parent:  # the trace isn't a forked child's
            _end_trace(args, traced)


def _end_trace(args: argparse.Namespace, traced: Trace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # told below
        with traced:  # stops it, if the script hasn't
            pass
    lost = f", {traced.lost} lost" if traced.lost else ""
    opens = "look at it with go tool trace {}" if traced.for_go else "open {} in ui.perfetto.dev"
    print(
        f"gmpy-rt trace: {traced.events} events in {traced.seconds:.1f} s{lost}; "
        + opens.format(args.output),
        file=sys.stderr,
    )


def _check_trace(path: Path) -> int:
    from ._trace_check import check

    try:
        report = check(path)
    except OSError as problem:
        raise CommandError(f"can't read {path}: {problem.strerror or problem}") from problem
    except ValueError as problem:
        raise CommandError(f"{path} is no trace: {problem}") from problem
    print(report)
    return 1 if report.wrong else 0


def _script_g(code: CodeType, namespace: dict[str, Any]) -> SystemExit | None:
    """The main G. sys.exit() ends the script; the runtime still stops in good order."""
    try:
        exec(code, namespace)
    except SystemExit as ending:
        return ending
    return None


def _pprof(args: argparse.Namespace) -> int:
    from . import pprof

    output: Path = args.output
    is_new = not output.exists()
    try:
        output.open("ab").close()  # before the script runs for an hour
        finish = pprof.begin(args.kind, args.hz)
    except OSError as problem:
        raise CommandError(f"can't write {output}: {problem.strerror}") from problem
    except ValueError as problem:
        if is_new:
            output.unlink()
        raise CommandError(str(problem)) from problem
    ran, parent = True, os.getpid()
    try:
        return _run(args)
    except CommandError:
        ran = False
        raise
    finally:  # whatever becomes of the script
        data = finish() if os.getpid() == parent else None  # a forked child has no profile
        if data is None:
            pass
        elif ran:
            output.write_bytes(data)
            hint = "look at it with `go tool pprof -top`, or in speedscope"
            print(f"gmpy-rt pprof: {output}: {hint}", file=sys.stderr)
        elif is_new:
            output.unlink()


def _from_checkout(name: str) -> Callable[[list[str]], int]:
    """The command of that name, from the folder bench/ of a checkout."""
    for folder in (Path.cwd(), Path(__file__).resolve().parent.parent):
        file = folder / "bench" / "__init__.py"
        if file.is_file():
            break
    else:
        what = "benchmarks are" if name == "bench" else "starvation lab is"
        raise CommandError(
            f"the {what} not part of the installed package; "
            "run this in a checkout of the repository (the folder that holds bench/)"
        )
    # By path, not through sys.path: a checkout's gmpy_rt/ must not hide the installed one.
    spec = importlib.util.spec_from_file_location(
        "bench", file, submodule_search_locations=[str(file.parent)]
    )
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = bench
    spec.loader.exec_module(bench)
    chosen = bench if name == "bench" else importlib.import_module("bench.starvation")
    return lambda words: int(chosen.main(words) or 0)


def _info(_: argparse.Namespace) -> int:
    from .info import facts

    for name, value in facts():
        print(f"{name:<12}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
