"""The debug server: pages, addresses, tokens, starved P's, the live page in a browser."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from contextlib import closing

import pytest
from browser import EXECUTABLE, Browser
from support import (
    PATIENCE,
    is_parked,
    parallel,
    poll_until,
    preempts,
    run_script,
    sees_blocking,
    spin_until,
    unpreempted,
)

import gmpy_rt as rt
from gmpy_rt import debug, trace
from gmpy_rt._profile_proto import decode
from gmpy_rt._trace_check import check
from gmpy_rt.debug import live


def get(server, path, headers=None, timeout=PATIENCE):
    """(status, headers, text)"""
    status, headers, body = get_bytes(server, path, headers, timeout)
    return status, headers, body.decode()


def get_bytes(server, path, headers=None, timeout=PATIENCE):
    connection = http.client.HTTPConnection(*server.address, timeout=timeout)
    with closing(connection):
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


@pytest.fixture
def server():
    with debug.serve("127.0.0.1:0") as server:
        yield server


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("path", ["/", "/debug/pprof/", "/debug/pprof"])
def test_the_index_links_every_page(server, path):
    status, headers, text = get(server, path)
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    links = re.findall(r'href="([^"]+)"', text)
    assert len(links) >= 12
    quick = [p for p in links if "seconds" not in p and p not in ("/debug/pprof/goroutine",)]
    for link in quick:
        assert get_bytes(server, link)[0] == 200, link


def test_pages_work_before_during_and_after_a_run(server):
    paths = (
        "/metrics",
        "/debug/pprof/sched?debug=1",
        "/debug/pprof/goroutine?debug=1",
        "/debug/pprof/goroutine?debug=2",
        "/debug/pprof/threadcreate",
        "/debug/gmp",
    )

    def look():
        return [get(server, path) for path in paths]

    def main():
        return rt.blocking(look)

    before, during, after = look(), rt.run(main, procs=2), look()
    for answers in (before, during, after):
        assert [status for status, _, _ in answers] == [200] * len(paths)
    assert "gmpy_sched_gomaxprocs_threads 0\n" in before[0][2]
    assert "gmpy_sched_gomaxprocs_threads 2\n" in during[0][2]
    assert "gmpy_sched_gomaxprocs_threads 0\n" in after[0][2]
    assert "gomaxprocs=2" in during[1][2] and "  M0: " in during[1][2]
    assert "goroutine profile: total 1\n" in during[2][2]
    assert "'main' [" in during[3][2]
    assert re.search(r"^M 0\t", during[4][2], re.M)


def test_equal_stacks_are_merged(server):
    ch = rt.Chan()

    def receiver():
        ch.recv()

    def main():
        gs = [rt.go(receiver) for _ in range(12)]
        poll_until(lambda: all(map(is_parked, gs)))
        text = rt.blocking(get, server, "/debug/pprof/goroutine?debug=1")[2]
        for _ in gs:
            ch.send(1)
        for g in gs:
            g.result(PATIENCE)
        return text

    text = rt.run(main)
    assert text.startswith("goroutine profile: total 13\n12 @ chan receive\n#\t")
    assert re.search(rf"#\t\S+receiver\t{re.escape(__file__)}:\d+\n", text)


def test_what_is_not_there_is_said(server):
    status, _, text = get(server, "/debug/nothing")
    assert status == 404 and "'/debug/nothing'" in text and "/debug/pprof/" in text
    status, _, text = get(server, "/debug/pprof/goroutine?debug=7")
    assert status == 400 and "debug='7'" in text
    for seconds in ("x", "-1", "0", "nan", "1e9"):
        status, _, text = get(server, f"/debug/pprof/profile?seconds={seconds}")
        assert status == 400 and f"seconds='{seconds}'" in text


def test_a_target_that_is_no_url_is_answered(server):
    with socket.create_connection(server.address, PATIENCE) as connection:
        connection.sendall(b"GET http://[::1 HTTP/1.0\r\n\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"400"


def test_block_of_some_seconds_takes_them(server):
    begun = time.monotonic()
    status, _, body = get_bytes(server, "/debug/pprof/block?seconds=0.2")
    assert status == 200 and time.monotonic() - begun >= 0.2
    assert decode(body).duration_ns >= 2e8
    assert get(server, "/debug/pprof/mutex?seconds=x")[0] == 400


@preempts  # the hogs keep the only P from the looks
def test_profiles_say_what_runs(server):
    stop = []

    def busy_bee():
        spin_until(lambda: stop, 4 * PATIENCE)

    def look(page):
        status, headers, body = get_bytes(server, f"/debug/pprof/{page}")
        assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
        return decode(body)

    def main():
        gs = [rt.go(busy_bee) for _ in range(3)]
        cpu = rt.blocking(look, "profile?seconds=0.5")
        starved = rt.blocking(look, "starvation?seconds=0.5")
        every = rt.blocking(look, "goroutine")
        empty = [rt.blocking(look, page) for page in ("block", "mutex")]
        stop.append(True)
        for g in gs:
            g.join()
        return cpu, starved, every, empty

    cpu, starved, every, empty = rt.run(main, procs=1)
    for profile in (cpu, every):
        names = {frame.function for sample in profile.samples for frame in sample.frames}
        assert any("busy_bee" in name for name in names), names
    assert starved.types and all(not profile.samples for profile in empty)


def test_a_trace_from_the_server_is_valid(server, tmp_path):
    def main():
        chan = rt.Chan(1)
        reply = rt.go(rt.blocking, get_bytes, server, "/debug/pprof/trace?seconds=0.3")
        while not reply.done():
            chan.send(1)
            chan.recv()
            rt.sleep(0.001)
        return reply.result()

    status, headers, body = rt.run(main, procs=2)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    file = tmp_path / "trace.json"
    file.write_bytes(body)
    report = check(file)
    assert not report.problems, report


def test_what_fails_is_a_500_with_its_reason(server, tmp_path):
    with trace.start(tmp_path / "other.json"):
        status, _, text = get(server, "/debug/pprof/trace?seconds=0.1")
    assert status == 500 and "RuntimeError" in text


# ---------------------------------------------------------------- addresses, tokens, hosts


@pytest.mark.parametrize(
    "address",
    ["", "6060", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", "::1:80"],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(
        ValueError, match=re.escape(f"{address!r}): not an address; give HOST:PORT")
    ):
        debug.serve(address)


def test_an_address_of_another_type_is_refused():
    with pytest.raises(TypeError, match="the address is a str such as"):
        debug.serve(6060)


def test_a_port_in_use_is_named_with_a_remedy(server):
    address = f"127.0.0.1:{server.address[1]}"
    with pytest.raises(
        OSError, match=rf"{address}'\): Address already in use; choose another port"
    ):
        debug.serve(address)


def test_an_address_of_another_machine_is_named():
    with pytest.raises(OSError, match=r"192\.0\.2\.1:0.*give an address of this machine"):
        debug.serve("192.0.2.1:0", token="x")


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::]:0"])
def test_what_others_can_reach_needs_a_token(address):
    with pytest.raises(ValueError, match=r"give token='a secret', or bind to 127\.0\.0\.1"):
        debug.serve(address)
    with pytest.raises(ValueError, match="non-empty"):
        debug.serve(address, token="")


def test_with_a_token_every_request_must_carry_it():
    with debug.serve("0.0.0.0:0", token="geheim/ä") as server:
        server.address = ("127.0.0.1", server.address[1])
        bearer = {"Authorization": "Bearer geheim/ä".encode()}
        for path in ("/metrics", "/debug/pprof/", "/debug/gmp", "/nothing", "/debug/gmp/events"):
            for suffix, headers in (
                ("", {}),
                ("?token=geheim", {}),
                ("?token=geheim/%C3%A4x", {}),
                ("", {"Authorization": "Bearer wrong"}),
                ("?token=geheim/%C3%A4", {"Authorization": "Bearer wrong"}),
                ("", {"Authorization": "Basic geheim/x"}),
            ):
                assert get(server, path + suffix, headers)[0] == 401, (path, suffix, headers)
        assert get(server, "/metrics?token=geheim/%C3%A4")[0] == 200
        assert get(server, "/metrics", bearer)[0] == 200
        # Another name in Host is fine here: the token is the protection.
        assert get(server, "/metrics", bearer | {"Host": "box.example:80"})[0] == 200
        index = get(server, "/debug/pprof/?token=geheim/%C3%A4")[2]
        assert "/metrics?token=geheim%2F%C3%A4" in index


@pytest.mark.parametrize("host", ["evil.example", "evil.example:6060", "127.0.0.1.evil.example"])
def test_another_name_for_loopback_is_refused(server, host):
    status, _, text = get(server, "/debug/pprof/goroutine?debug=2", {"Host": host})
    assert status == 403 and repr(host) in text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:6060", "127.0.0.1:1", "[::1]:6060"])
def test_the_names_of_loopback_are_accepted(server, host):
    assert get(server, "/metrics", {"Host": host})[0] == 200


def test_ipv6_loopback_needs_no_token():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        server = debug.serve("[::1]:0")
    except OSError:
        pytest.skip("no IPv6 loopback")
    with server:
        assert server.url.startswith("http://[::1]:")
        assert get(server, "/metrics")[0] == 200


# ---------------------------------------------------------------- life


def test_close_frees_the_port_and_ends_streams():
    server = debug.serve("127.0.0.1:0")
    stream = Stream(server)
    stream.next()
    server.close()
    server.close()
    assert "closed" in repr(server)
    assert stream.ended()
    with debug.serve(f"127.0.0.1:{server.address[1]}") as again:
        assert get(again, "/metrics")[0] == 200
    poll_until(lambda: not any(t.name == "gmpy-debug-sampler" for t in threading.enumerate()))


def test_close_in_a_g_parks_it():
    def main():
        server = debug.serve("127.0.0.1:0")
        assert rt.blocking(get, server, "/metrics")[0] == 200
        server.close()

    rt.run(main, procs=1)


def test_a_deadlock_is_found_beside_the_server(server):
    with pytest.raises(rt.DeadlockError):
        rt.run(lambda: rt.Chan().recv())


def test_a_forked_child_does_not_keep_the_port():
    done = run_script(
        """
        import os, warnings
        warnings.simplefilter("ignore")
        from gmpy_rt import debug
        server = debug.serve("127.0.0.1:0")
        r, w = os.pipe()
        forked_r, forked_w = os.pipe()
        if os.fork() == 0:
            os.close(w)     # so that it ends with the parent, too
            os.write(forked_w, b"x")
            os.read(r, 1)   # until the parent has bound again
            os._exit(0)
        # The child's copy is closed in the child: on a busy machine it hadn't had its turn yet.
        os.read(forked_r, 1)
        server.close()
        debug.serve(f"127.0.0.1:{server.address[1]}").close()
        os.write(w, b"x")
        print(os.wait()[1])
        """
    )
    assert done.words == ["0"]


# ---------------------------------------------------------------- starved P's


@parallel
def test_it_answers_within_500_ms_while_hogs_own_every_p(server):
    """On other threads of a loaded machine: the best of ten is taken for the rule."""
    took: list[float] = []
    stop: list[int] = []

    def outside():
        try:
            while len(took) < 10:
                start = time.monotonic()
                text = get(server, "/debug/pprof/sched")[2]
                seconds = time.monotonic() - start
                # Not while one is on its way from one M to the next.
                if "gomaxprocs=2 idleprocs=0" in text:
                    took.append(seconds)
        finally:
            stop.append(1)

    def main():
        def hog():
            while not stop:
                pass

        gs = [rt.go(hog) for _ in range(2)]
        thread = threading.Thread(target=outside)
        poll_until(lambda: rt.stats().idle_procs == 0)
        thread.start()
        hog()
        for g in gs:
            g.result(PATIENCE)
        thread.join(PATIENCE)

    rt.run(main, procs=2)
    assert len(took) == 10 and min(took) < 0.5


# ---------------------------------------------------------------- the live page's events


class Stream:
    """Reads server-sent events."""

    def __init__(self, server, path="/debug/gmp/events"):
        self._connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
        self._connection.request("GET", path)
        self._response = self._connection.getresponse()
        assert self._response.headers["Content-Type"] == "text/event-stream"

    def next(self):
        line = self._response.readline()
        assert line.startswith(b"data: "), line
        assert self._response.readline() == b"\n"
        return json.loads(line[6:])

    def until(self, ready, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            event = self.next()
            if ready(event):
                return event
        raise AssertionError(f"not within {seconds} s; last: {event}")

    def ended(self):
        while True:
            try:
                line = self._response.readline()
            except OSError:
                return True
            if not line:
                return True

    def close(self):
        self._connection.close()


def test_events_come_without_a_runtime(server):
    with closing(Stream(server)) as stream:
        first, second = stream.next(), stream.next()
    assert first["values"]["/sched/gomaxprocs:threads"] == 0
    assert len(second["cells"]) == live.SAMPLES_PER_EVENT and second["hogs"] == []


@preempts  # it may start on main's M, ahead of main: with 3.11 for good
def test_a_hog_is_named_with_its_place_though_it_is_preempted(server):
    stop: list[int] = []

    def greedy():
        while not stop:
            pass

    def main():
        g = rt.go(greedy)
        g.name = "greedy one"
        try:
            with closing(Stream(server)) as stream:
                # The first event may come before it has run for 10 ms.
                return rt.blocking(
                    stream.until, lambda e: any("greedy" in h["name"] for h in e["hogs"])
                )
        finally:
            stop.append(1)
            g.result(PATIENCE)

    event = rt.run(main, procs=2)
    hog = next(h for h in event["hogs"] if h["name"] == "greedy one")
    assert hog["seconds"] >= live.HOG_AFTER and hog["doing"] == "running"
    assert re.fullmatch(rf"{re.escape(__file__)}:\d+ \S+\.greedy", hog["stack"][0])


@sees_blocking
def test_an_m_that_blocks_is_shown_with_its_place_and_who_is_stranded(server):
    release = threading.Event()
    ready: list[bool] = []
    events: list[dict] = []

    def blocks():
        ready.append(True)
        release.wait(PATIENCE)

    def main():
        ch = rt.Chan(7)
        gs = [rt.go(ch.recv) for _ in range(7)]
        poll_until(lambda: all(map(is_parked, gs)))
        with unpreempted():
            for _ in range(7):
                ch.send(1)
            together = {g.m for g in gs} == {rt.current().m}
            blocks()
        for g in gs:
            g.result(PATIENCE)
        return together

    def outside():
        poll_until(lambda: ready)
        rt.go(int)  # work that waits
        with closing(Stream(server)) as stream:
            events.append(stream.until(lambda e: any(a["doing"] == "blocked" for a in e["away"])))
        release.set()

    # With too little CPU the seven may start on other M's: then again.
    for _ in range(20):
        ready.clear(), events.clear(), release.clear()
        thread = threading.Thread(target=outside)
        thread.start()
        together = rt.run(main, procs=1)
        thread.join(PATIENCE)
        if together:
            break
    assert together
    away = next(a for a in events[0]["away"] if a["doing"] == "blocked")
    assert away["bound"] == 7 and away["name"] == "main" and away["p"] == -1
    assert any(re.match(rf"{re.escape(__file__)}:\d+ \S+blocks$", at) for at in away["stack"])
    assert events[0]["values"]["/sched/goroutines/stranded:goroutines"] == 7


def test_two_readers_get_the_same_events(server):
    with closing(Stream(server)) as one, closing(Stream(server)) as two:
        event = one.next()
        at = event["cells"][0][0]
        assert two.until(lambda e: e["cells"][0][0] >= at)


def test_cells_tell_busy_from_idle():
    view = live.View()

    def main():
        view.sample()
        view.event()
        rt.sleep(0.3)
        view.sample()
        return view.event()["cells"][0][1]

    cells = rt.run(main, procs=2)
    assert [cell[3] for cell in cells] == [0, 0]
    assert min(cell[0] for cell in cells) <= 50  # both slept nearly all the time


# ---------------------------------------------------------------- in a browser


@pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")
@pytest.mark.deadline(180)
def test_the_page_loads_updates_and_shows_a_hog(server):
    stop: list[int] = []

    def greedy():
        while not stop:
            pass

    def main():
        ch = rt.Chan()
        parked = [rt.go(ch.recv) for _ in range(10_000)]
        poll_until(lambda: rt.num_goroutine() > 10_000)
        try:
            return rt.blocking(drive)
        finally:
            stop.append(1)
            for _ in parked:
                ch.send(1)
            for g in parked:
                g.result(PATIENCE)

    def drive():
        with Browser() as browser:
            browser.open(server.url + "/debug/gmp")
            browser.wait_for("document.body && document.body.dataset.events >= 2")
            assert browser.text("#state") == "live"
            # An event counts as it comes, and is drawn later.
            browser.wait_for("document.querySelector('#tiles').innerText.includes('10,00')")
            browser.wait_for("document.querySelector('#timeline').height > 0")
            g = rt.go(greedy)
            # 2 s is the rule, with CPU for the browser. How long it takes where other programs have
            # that, is theirs.
            browser.wait_for("document.querySelector('#hogs').innerText.includes('greedy')", 20)
            before = int(browser.evaluate("document.body.dataset.events"))
            browser.wait_for(f"document.body.dataset.events >= {before + 3}")
            stop.append(1)
            g.result(PATIENCE)
            browser.wait_for("document.querySelector('#hogs').innerText.includes('Nobody')")
            return browser.complaints

    assert rt.run(main, procs=2) == []


@pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")
@pytest.mark.deadline(120)
def test_the_page_works_with_a_token_and_says_when_the_server_is_gone():
    with debug.serve("127.0.0.1:0", token="a b&c") as server, Browser() as browser:
        browser.open(f"{server.url}/debug/gmp?token=a%20b%26c")
        browser.wait_for("document.body && document.body.dataset.events >= 1")
        assert browser.complaints == []
        server.close()
        browser.wait_for("document.querySelector('#state').className === 'lost'")
