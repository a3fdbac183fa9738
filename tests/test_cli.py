"""The command gmpy-rt, run as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def gmpy_rt(
    *words: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # -P: the package under test, not a folder of that name where pytest was started.
    return subprocess.run(
        [sys.executable, "-P", "-m", "gmpy_rt", *words],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )


def write(folder: Path, text: str) -> str:
    script = folder / "script.py"
    script.write_text(text)
    return str(script)


def test_script_runs_as_main_with_its_own_arguments(tmp_path: Path) -> None:
    script = write(tmp_path, "import sys; print(__name__, __file__, sys.argv)")
    done = gmpy_rt("run", script, "a", "--procs", "-x")
    assert done.stdout == f"__main__ {script} {[script, 'a', '--procs', '-x']}\n"
    assert done.returncode == 0


def test_script_is_the_main_g(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "import gmpy_rt\n"
        "print(gmpy_rt.go(lambda: 6 * 7).result(), gmpy_rt.gomaxprocs())\n"
        "print(gmpy_rt.current() is not None)\n",
    )
    done = gmpy_rt("run", "--procs", "1", script)
    assert (done.stdout, done.stderr) == ("42 1\nTrue\n", "")


def test_modules_beside_the_script_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("answer = 42")
    done = gmpy_rt("run", write(tmp_path, "import beside; print(beside.answer)"))
    assert done.stdout == "42\n"


def test_classes_of_the_script_can_be_pickled(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "import pickle\nclass C: pass\nprint(type(pickle.loads(pickle.dumps(C()))) is C)\n",
    )
    assert gmpy_rt("run", script).stdout == "True\n"


@pytest.mark.parametrize(
    "argument, code, stderr",
    [("", 0, ""), ("0", 0, ""), ("7", 7, ""), ("'sorry'", 1, "sorry\n")],
)
def test_exit_of_the_script_is_the_exit_of_the_command(
    tmp_path: Path, argument: str, code: int, stderr: str
) -> None:
    done = gmpy_rt("run", write(tmp_path, f"import sys; sys.exit({argument})"))
    assert (done.returncode, done.stderr) == (code, stderr)


@pytest.mark.parametrize(
    "command", [["run"], ["trace", "-o", "{tmp}/t.json"], ["trace", "--run", "-o", "{tmp}/t.json"]]
)
def test_error_in_the_script_is_shown_as_python_does(tmp_path: Path, command: list[str]) -> None:
    script = write(tmp_path, "def broken():\n    1 / 0\nbroken()\n")
    done = gmpy_rt(*[part.format(tmp=tmp_path) for part in command], script)
    plain = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == plain.returncode == 1
    assert plain.stderr in done.stderr and "Traceback" not in done.stderr.replace(plain.stderr, "")
    assert f'File "{script}", line 2, in broken' in done.stderr
    assert plain.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


def test_missing_script_names_it(tmp_path: Path) -> None:
    done = gmpy_rt("run", str(tmp_path / "nowhere.py"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"gmpy-rt run: can't read {tmp_path / 'nowhere.py'}")


@pytest.mark.parametrize("affinity", ["all", "0,x", ""])
def test_bad_affinity_says_what_is_accepted(tmp_path: Path, affinity: str) -> None:
    done = gmpy_rt("run", f"--affinity={affinity}", write(tmp_path, ""))
    assert done.returncode == 2
    assert repr(affinity) in done.stderr and "say 'spread' or CPU numbers" in done.stderr


def test_bad_procs_names_value_and_remedy(tmp_path: Path) -> None:
    done = gmpy_rt("run", "--procs=0", write(tmp_path, ""))
    assert done.returncode == 2
    assert done.stderr.startswith("gmpy-rt run: --procs=0: a runtime needs at least one P; leave")


def test_reserved_ps_are_an_option(tmp_path: Path) -> None:
    script = write(tmp_path, "import gmpy_rt; print(gmpy_rt.stats().reserve)\n")
    done = gmpy_rt("run", "--procs", "2", "--reserve", "1", script)
    assert (done.stdout, done.stderr) == ("1\n", "")
    done = gmpy_rt("run", "--procs", "2", "--reserve", "2", script)
    assert done.returncode == 2 and done.stderr.startswith("gmpy-rt run: --reserve=2 of 2 P's")


def test_info_names_what_decides() -> None:
    done = gmpy_rt("info", env={"GMPY_MAXPROCS": "3"})
    assert done.returncode == 0, done.stderr
    facts = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert facts["procs"] == "3 (from GMPY_MAXPROCS)"
    assert {"gmpy_rt", "interpreter", "GIL", "preemption", "cores", "quota", "greenlet"} <= set(
        facts
    )


def test_info_shows_a_bad_environment_instead_of_failing() -> None:
    done = gmpy_rt("info", env={"GMPY_MAXPROCS": "many"})
    assert done.returncode == 0
    assert "GMPY_MAXPROCS='many'" in done.stdout


def test_bench_uses_the_checkout_it_is_started_in(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("def main(argv): print(argv); return 5\n")
    done = gmpy_rt("bench", "--help", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("['--help']\n", 5)


def test_no_command_is_an_error_that_lists_them() -> None:
    done = gmpy_rt()
    assert done.returncode == 2
    assert "COMMAND" in done.stderr


def test_version_and_bad_values_without_a_traceback(tmp_path: Path) -> None:
    assert gmpy_rt("--version").stdout == "gmpy-rt 0.1.0\n"
    script = write(tmp_path, "")
    for words, says in (
        (["run", "--policy", "nope", script], "policy='nope'"),
        (["run", "--affinity", "999", script], "999"),
        (["demo", "--seconds", "abc"], "'abc': give a number of seconds"),
        (["pprof", "--hz", "0", "-o", str(tmp_path / "out.gz"), script], "hz=0"),
    ):
        done = gmpy_rt(*words)
        assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out.gz").exists()
