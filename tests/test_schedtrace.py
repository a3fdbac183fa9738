"""GMPY_DEBUG=schedtrace=...: lines in Go's format, in time, also while every P is starved."""

from __future__ import annotations

import re

import pytest
from support import PATIENCE, is_parked, poll_until, run_script
from test_g import on_one_p

import gmpy_rt as rt
from gmpy_rt import schedtrace

LINE = re.compile(
    r"SCHED (\d+)ms: gomaxprocs=(\d+) idleprocs=(\d+) threads=(\d+) spinningthreads=(\d+) "
    r"needspinning=([01]) idlethreads=(\d+) runqueue=(\d+) \[([\d ]*)\] bound=(\d+) "
    r"stranded=(\d+)"
)


def test_lines_come_while_every_p_is_starved():
    done = run_script(
        """
        import time
        def main():
            end = time.monotonic() + 1.5
            def hog():
                while time.monotonic() < end:
                    pass
            for g in [go(hog) for _ in range(4)]:
                g.join()
        run(main, procs=2)
        """,
        GMPY_DEBUG="schedtrace=100",
    )
    lines = [LINE.fullmatch(line) for line in done.stderr.splitlines()]
    assert all(lines), done.stderr
    # 15 are due; a loaded machine may lose some, but a starved thread would lose all.
    assert len(lines) >= 3
    assert {line[2] for line in lines} == {"2"}
    times = [int(line[1]) for line in lines]
    assert times == sorted(times) and times[0] < 1000 < times[-1] + 1000


def test_detail_has_a_line_for_each_p_m_and_g():
    def main():
        ch = rt.Chan()
        g = rt.go(ch.recv)
        poll_until(lambda: is_parked(g))
        text = schedtrace.report(1.001, detail=True)
        ch.send(1)
        g.result(PATIENCE)
        return text, g.id, rt.current().id

    text, waiting, running = rt.run(main, procs=2)
    first, *rest = text.splitlines()
    assert LINE.fullmatch(first)[1] == "1001"
    assert (
        len([line for line in rest if re.match(r"  P[01]: status=[01] schedtick=\d+ m=", line)])
        == 2
    )
    assert any(re.match(rf"  M\d+: p=[01] curg={running} ", line) for line in rest)
    assert f"  G{running}: status=2() m=" in text
    assert re.search(rf"  G{waiting}: status=4\(chan receive\) m=\d+ waiting=\d+ms", text)


@on_one_p
def test_more_gs_than_are_shown_are_counted():
    ch = rt.Chan()
    gs = [rt.go(ch.recv) for _ in range(schedtrace.MAX_G + 10)]
    poll_until(lambda: all(map(is_parked, gs)))
    text = schedtrace.report(0, detail=True)
    for _ in gs:
        ch.send(1)
    for g in gs:
        g.result(PATIENCE)
    assert text.endswith("  ... and 11 more G's\n")


def test_nothing_is_printed_unless_asked_for():
    script = "run(lambda: rt.sleep(0.05))"
    assert run_script(script, GMPY_DEBUG="").stderr == ""
    assert run_script(script, GMPY_DEBUG="schedtrace=0").stderr == ""


def test_a_deadlock_is_found_beside_the_tracer():
    done = run_script(
        """
        try:
            run(lambda: rt.Chan().recv())
        except rt.DeadlockError:
            print("found")
        """,
        GMPY_DEBUG="schedtrace=20",
    )
    assert done.words == ["found"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schedtrac=1000", "no key 'schedtrac'"),
        ("schedtrace", "'schedtrace' is no number; write schedtrace=1000"),
        ("schedtrace=1s", "'schedtrace=1s' is no number"),
        ("schedtrace=-5", "is no number"),
        ("schedtrace=10,scheddetail=x", "'scheddetail=x' is no number; write scheddetail=1"),
    ],
)
def test_what_cannot_be_is_refused(monkeypatch, text, message):
    monkeypatch.setenv("GMPY_DEBUG", text)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        rt.run(int)
    assert f"GMPY_DEBUG={text!r}" in str(raised.value) and "\n" not in str(raised.value)
