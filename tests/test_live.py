"""The live page: served to this machine alone, up to date under the reader's hands, and without any trace in the results."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import chromium
import thalweg as tw
from held import PATIENCE, until
from test_kill import stored
from thalweg import UserError
from thalweg.study.live import Live
from thalweg.study.report import render

ASKED = {"budget": 4, "seeds": 2, "steps": 40, "engine": "fleet"}
PROBLEM, OPTIMIZERS = "diabetes-linear", ["sgd", "adam"]
browser = pytest.mark.skipif(chromium.executable() is None, reason="no chromium on the PATH")


def go_on(folder: Path, **more) -> tw.Study:
    """Train one group more."""
    return tw.compare(PROBLEM, OPTIMIZERS, **ASKED, out=folder, time=0, **more)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """The folder of a study of which one group is done; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("begun") / "study"
    assert 0 < len(go_on(folder).table()) < 8
    return folder


def get(live: Live, path: str, method: str = "GET", host: str | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": f"127.0.0.1:{live.port}" if host is None else host, **headers}.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def update(live: Live, version: str = "", page: str = "") -> dict:
    status, _, text = get(live, f"/update?page={page}&version={version}")
    assert status == 200
    return json.loads(text)


# --- what is served, and to whom


def test_the_page_is_the_report_and_may_ask_its_own_server_only(begun):
    with Live(begun) as live:
        assert live.url == f"http://127.0.0.1:{live.port}/"
        status, headers, text = get(live, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    results = tw.Study.open(begun).results()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)[1]
    assert policy.endswith("; connect-src 'self'")
    assert "connect-src" not in render(results)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    script = (Path(sys.modules["thalweg.study.live.server"].__file__).parent / "live.js").read_text()
    assert text.replace(f"<script>\n{script}\n</script>\n", "").replace("; connect-src 'self'", "") == render(results)


@pytest.mark.parametrize(
    "path",
    ["/study.db", "/report.html", "/../study.db", "/%2e%2e/study.db", "/update/../study.db", "//etc/passwd", "/.", "/update/", "/x.html"],
)
def test_nothing_else_is_served(begun, path):
    with Live(begun) as live:
        status, _, text = get(live, path)
    assert (status, text) == (404, "there is nothing here\n")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", ""])
@pytest.mark.parametrize("path", ["/", "/update"])
def test_a_name_pointed_at_this_machine_is_refused(begun, host, path):
    with Live(begun) as live:
        status, _, text = get(live, path, host=host.format(port=live.port))
        assert get(live, "/update", host=f"localhost:{live.port}")[0] == 200
    assert status == 403
    assert "thalweg printed" in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_the_page_takes_no_orders(begun, method):
    with Live(begun) as live:
        assert get(live, "/update", method)[0] == 501


def test_only_the_loopback_address_listens(begun):
    with Live(begun) as live:
        assert live.server.socket.getsockname()[0] == "127.0.0.1"
        if sys.platform == "linux":  # all of 127.0.0.0/8 is this machine there
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", live.port), timeout=5)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", live.port), timeout=5)


def test_a_port_that_is_taken_is_said(begun):
    with Live(begun) as live, pytest.raises(UserError, match=f"port {live.port} cannot be used: .*; name another with --port"):
        Live(begun, live.port)


# --- what has changed


def test_an_update_holds_what_has_changed(tmp_path):
    folder = tmp_path / "study"
    with Live(folder) as live:
        assert "is being planned" in get(live, "/")[2]
        assert update(live) == {"state": "running", "text": "", "version": "", "page": None}
        go_on(folder)
        live.tell("tuning: 4/8 runs done")
        first = update(live)
        assert first["text"] == "tuning: 4/8 runs done"
        assert first["page"] == render(tw.Study.open(folder).results(), packed=False)
        assert update(live, first["version"])["page"] is None
        go_on(folder)
        live.made = 0  # long ago
        second = update(live, first["version"])
        assert second["version"] != first["version"]
        assert second["page"] == render(tw.Study.open(folder).results(), packed=False)
        found = [{"name": "sgd", "message": "as it was", "findings": [], "looked": ["the history"], "notes": ["A note."]}]
        tw.Study.open(folder).store.put(diagnosed=found)  # after the last run, as what is timed is
        live.made = 0
        third = update(live, second["version"])
        assert third["version"] != second["version"]
        assert "A note." in third["page"]


def test_pages_are_not_made_too_often_except_for_the_last(tmp_path):
    folder = tmp_path / "study"
    go_on(folder)
    with Live(folder) as live:
        first = update(live)
        live.cost = 1000.0  # seconds a page
        go_on(folder)
        assert update(live, first["version"])["version"] == first["version"]
        live.state = "ended"
        assert update(live, first["version"])["version"] != first["version"]
        live.cost = 0


@pytest.mark.parametrize(("error", "state"), [(None, "ended"), (KeyboardInterrupt, "stopped"), (ValueError, "failed")])
def test_an_open_page_is_told_of_the_end(begun, error, state):
    seen = []

    def look():
        with contextlib.suppress(OSError):
            while not seen or seen[-1]["state"] == "running":
                seen.append(update(live, seen[-1]["version"] if seen else "", "a-page"))
                time.sleep(0.05)

    reader = threading.Thread(target=look)
    with contextlib.suppress(*[error] * (error is not None)), Live(begun) as live:
        reader.start()
        while not seen:
            assert reader.is_alive()
            time.sleep(0.01)
        if error is not None:
            raise error
    reader.join(30)
    assert seen[-1]["state"] == state
    assert seen[-1]["text"]


def test_nobody_is_waited_for_when_nobody_looks(begun, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    with Live(begun) as live:
        pass
    assert live.state == "ended"


def test_a_reader_that_goes_away_in_the_middle_is_no_event(begun, capfd):
    with Live(begun) as live:
        for _ in range(3):
            connection = socket.create_connection(("127.0.0.1", live.port), timeout=5)
            connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\n\r\n".encode())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
        assert update(live)["state"] == "running"
    assert capfd.readouterr() == ("", "")


# --- the run is the same


def test_a_study_that_is_looked_at_is_the_same_to_the_byte(tmp_path):
    alone = tw.compare(PROBLEM, OPTIMIZERS, **ASKED, out=tmp_path / "alone")
    seen, over = [], threading.Event()

    def look():
        while not over.is_set():
            live.made = 0
            seen.append(update(live))

    with Live(tmp_path / "seen") as live:
        reader = threading.Thread(target=look)
        reader.start()
        try:
            looked = tw.compare(PROBLEM, OPTIMIZERS, **ASKED, out=tmp_path / "seen", watch=lambda status: live.tell(str(status)))
        finally:
            over.set()
            reader.join(30)
        live.pages.clear()
    assert len({news["version"] for news in seen}) > 1
    for table in ("runs", "curves", "standings"):
        assert looked.export("csv", table=table) == alone.export("csv", table=table)
    assert (tmp_path / "seen" / "study.toml").read_bytes() == (tmp_path / "alone" / "study.toml").read_bytes()
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {path.name for path in (tmp_path / "alone").iterdir()}


COMMAND = [sys.executable, "-c", "from thalweg.cli import main; main()", "compare", PROBLEM, "-o", "sgd", "-o", "adam", "--engine", "fleet"]
SMALL = ["--steps", "40", "--budget", "4", "--seeds", "2"]


@contextlib.contextmanager
def started(*more: str):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, *more], start_new_session=True, text=True, **pipes)
    try:
        yield process
    finally:
        if process.returncode is None:  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_command_says_the_same_with_a_live_page(tmp_path):
    said = []
    for more in ([], ["--live", "--quiet"]):
        with started(*SMALL, "--out", str(tmp_path / f"study{len(more)}"), "--json", *more) as process:
            output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        found = json.loads(output) | {"report": ""}
        for one in found["findings"]["reach"]:
            assert (one.pop("seconds") is None) == (one["median"] is None)  # finalists are timed, and the clock differs
        said.append(found)
    assert re.fullmatch(r"live: http://127\.0\.0\.1:\d+/\n", errors)
    assert said[0] == said[1]
    plain, live = (tw.Study.open(tmp_path / name).export("csv", table="curves") for name in ("study0", "study2"))
    assert plain == live


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")
def test_ctrl_c_ends_a_study_that_is_looked_at(tmp_path):
    folder = tmp_path / "study"
    more = ["-o", "momentum", "-o", "rmsprop", "-o", "adagrad", "--seeds", "32"]  # which are not trained before the signal comes
    with started("--steps", "2000", "--budget", "2", *more, "--out", str(folder), "--live", "--quiet") as process:
        port = int(re.search(r":(\d+)/$", process.stderr.readline())[1])
        last = {}

        def look():
            with contextlib.suppress(OSError, http.client.HTTPException):
                while last.get("state", "running") == "running":
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                    connection.request("GET", f"/update?page=a&version={last.get('version', '')}")
                    last.update(json.loads(connection.getresponse().read()))
                    connection.close()
                    time.sleep(0.1)

        reader = threading.Thread(target=look)
        reader.start()
        assert until(lambda: stored(folder) > 0 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        reader.join(PATIENCE)
    assert process.returncode == 130
    assert "finished runs are kept" in errors
    assert "Traceback" not in errors
    assert last["state"] == "stopped"


# --- in a browser

DRAWN = "document.documentElement?.dataset.drawn === 'yes'"  # between two pages there is no document


def shown(tab) -> int:
    return tab.run("document.querySelectorAll('#all-runs tbody tr').length")


def drag(tab, selector: str) -> None:
    """Zoom a figure with the mouse, as a reader does: from a quarter to a half of it."""
    tab.run(f"document.querySelector('{selector}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = tab.run(f"(b => [b.x, b.y, b.width, b.height])(document.querySelector('{selector}').getBoundingClientRect())")
    for kind, share in (("mouseMoved", 0.25), ("mousePressed", 0.25), ("mouseMoved", 0.4), ("mouseMoved", 0.5), ("mouseReleased", 0.5)):
        at = {"x": box[0] + share * box[2], "y": box[1] + share * box[3]}
        held = {"button": "left", "buttons": 1, "clickCount": 1} if share > 0.25 or kind == "mousePressed" else {}
        tab.call("Input.dispatchMouseEvent", type=kind, **at, **held)
    tab.wait("document.querySelector('#plot-sensitivity').layout.xaxis.range !== undefined")


@browser
def test_the_page_grows_under_the_readers_hands(tmp_path):
    folder = tmp_path / "study"
    with chromium.page() as tab:
        with Live(folder) as live:
            tab.call("Page.navigate", url=live.url)
            tab.wait("document.documentElement?.dataset.live === 'running'")
            assert "is being planned" in tab.run("document.body.textContent")
            go_on(folder)  # the page appears
            tab.wait(DRAWN)
            tab.wait("document.querySelector('#all-runs') !== null")
            before = shown(tab)
            tab.run("window.mark = 'the same page'")
            # the reader zooms, hides an optimizer, sorts, filters, looks at another measure, marks words
            measure = "document.querySelector('[data-figure=curves] .measure')"
            tab.run(f"(() => {{ const m = {measure}; m.value = '1'; m.dispatchEvent(new Event('change')) }})()")
            zoom = "document.querySelector('#plot-sensitivity').layout.xaxis.range"
            drag(tab, "#plot-sensitivity .nsewdrag")
            zoomed = tab.run(zoom)
            column = "[...document.querySelectorAll('#all-runs th')].findIndex(h => h.textContent === 'valid loss')"
            tab.run(f"document.querySelectorAll('#all-runs th button')[{column}].click()")
            tab.run("(() => { const f = document.querySelector('#filter'); f.value = 'sgd'; f.dispatchEvent(new Event('input')); })()")
            tab.run("document.querySelector('.legend [data-series=\"1\"]').click()")
            head = tab.run("document.querySelector('h1').textContent")
            live.tell("tuning: so far")
            go_on(folder)
            tab.wait(f"document.querySelectorAll('#all-runs tbody tr').length > {before}")
            tab.wait("document.querySelector('#live span').textContent === 'tuning: so far'")
            while tw.Study.open(folder).verdict.unfinished:
                go_on(folder)
            study = tw.Study.open(folder)
            tab.wait(f"document.querySelectorAll('#all-runs tbody tr').length === {len(study.table())}")
            assert tab.run("document.querySelector('h1').textContent") == study.verdict.headline != head
            assert tab.run("window.mark") == "the same page"
            assert tab.run(zoom) == zoomed
            assert tab.run(f"{measure}.value") == "1"
            assert tab.run("document.querySelector('.legend [data-series=\"1\"]').getAttribute('aria-pressed')") == "false"
            visible = "[...document.querySelectorAll('#all-runs tbody tr:not([hidden])')]"
            assert tab.run(f"{visible}.every(row => row.textContent.includes('sgd'))")
            sgd = study.table().query("optimizer == 'sgd'")
            assert tab.run("document.querySelector('#count').textContent") == f"{len(sgd)} of {len(study.table())} runs"
            values = [float(v) for v in tab.run(f"{visible}.map(row => row.cells[{column}].dataset.v)") if v is not None]
            assert values == pytest.approx(sorted(sgd["valid_loss"].dropna()))
            assert tab.run("document.querySelectorAll('#all-runs th').length") == len(
                re.findall(r"<th\b", re.search("<table id=.all-runs.*?</thead>", render(study.results()), re.DOTALL)[0])
            )
        tab.wait("document.documentElement?.dataset.live === 'ended'")
        assert "The run has ended" in tab.run("document.querySelector('#live').textContent")
        # what the page has become is what a fresh one is
        tab.run("(() => { const f = document.querySelector('#filter'); f.value = ''; f.dispatchEvent(new Event('input')); })()")
        text = "[...document.querySelectorAll('header, #standings, #method, .sentences')].map(e => e.textContent.replace(/\\s+/g, ' '))"
        grown = tab.run(text)
        tab.open(study.report(tmp_path / "fresh.html"))
        assert tab.run(text) == grown
        assert tab.errors == []


@browser
def test_the_page_says_when_the_process_is_gone(begun):
    with chromium.page() as tab:
        live = Live(begun).__enter__()
        tab.call("Page.navigate", url=live.url)
        tab.wait(DRAWN)
        live.server.shutdown()
        live.server.server_close()
        tab.wait("document.documentElement?.dataset.live === 'silent'")
        assert "does not answer" in tab.run("document.querySelector('#live').textContent")


@browser
def test_a_browser_that_is_killed_changes_nothing(tmp_path):
    folder = tmp_path / "study"
    with Live(folder) as live:
        go_on(folder)
        with chromium.page() as tab:
            tab.call("Page.navigate", url=live.url)
            tab.wait(DRAWN)
        assert live.pages  # it had asked
        while tw.Study.open(folder).verdict.unfinished:
            go_on(folder)
    assert tw.Study.open(folder).export("csv") == tw.compare(PROBLEM, OPTIMIZERS, **ASKED).export("csv")
