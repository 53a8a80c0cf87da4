"""A small server on the loopback address. It only reads the study's folder: whoever looks, and whoever stops looking, changes nothing.

It answers two requests and opens no file by name: `/` is the page, `/update` what has changed since the version that the asker has.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from thalweg.errors import UserError
from thalweg.study.report import render
from thalweg.study.results import Results
from thalweg.study.study import Study

HOST = "127.0.0.1"
SHARE = 0.1
"""The most of the time that making pages may take from training."""
PATIENCE = 2.0
"""Seconds without a question after which a page counts as closed."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
STARTING = (
    '<!doctype html><html lang="en" data-starting="yes"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    "<title>thalweg</title><body><h1>The study is being planned.</h1><script>{script}</script></body></html>"
)
ENDS = {
    "ended": "The run has ended; this page will not change any more.",
    "stopped": "The run was stopped; what is finished is kept, and the same command goes on.",
    "failed": "The run ended with an error, which its terminal shows; what is finished is kept.",
}


class Live:
    """Serve the report of the study in a folder while the body of a `with` trains it.

    port: 0 is any free one. url: where the page is. `tell` is for a line that says how far the study is. Afterwards pages that are
    open are told how it ended, which takes a moment where there are such. Raises UserError for a port that is taken.

    >>> import tempfile, urllib.request
    >>> with tempfile.TemporaryDirectory() as folder, Live(Path(folder)) as live:
    ...     text = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(live.url).read().decode()
    >>> "The study is being planned." in text
    True
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.state, self.line = "running", ""
        self.hold = 1.0  # seconds for which an answer is held back, so that pages ask without a timer: a hidden page's timers sleep
        self.over = threading.Event()
        self.token = secrets.token_hex(4)  # pages of an earlier process see by it that all may be new
        self.pages: dict[str, float] = {}  # page -> when it asked last
        self.told: set[str] = set()
        self.lock = threading.Lock()
        self.version, self.text, self.made, self.cost = "", "", 0.0, 0.0
        try:
            self.server = _Server(self, port)
        except OSError as error:
            raise UserError(f"port {port} cannot be used: {error.strerror}; name another with --port, or none for a free one") from None
        self.port: int = self.server.server_address[1]
        self.url = f"http://{HOST}:{self.port}/"

    def tell(self, line: str) -> None:
        """Say how far the study is."""
        self.line = line

    def __enter__(self) -> Live:
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True, name="thalweg live").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self.state = "ended" if kind is None else "stopped" if kind is KeyboardInterrupt else "failed"
        self.over.set()
        try:
            end = time.monotonic() + PATIENCE + 2 * self.cost
            while time.monotonic() < end and self._waiting():
                time.sleep(0.05)
        finally:
            self.server.shutdown()
            self.server.server_close()

    def _waiting(self) -> set[str]:
        """The open pages that do not know of the end yet."""
        now = time.monotonic()
        return {page for page, seen in list(self.pages.items()) if now - seen < self.hold + PATIENCE} - self.told

    # --- what is answered

    def page(self) -> str:
        """The whole page, with the script that keeps it up to date."""
        script = (files("thalweg.study.live") / "live.js").read_text(encoding="utf-8")
        results = self._results()
        return render(results, live=script) if results is not None else STARTING.format(script=script)

    def update(self, page: str, version: str) -> dict[str, Any]:
        """What a page should know that has this version: the state, and the report where it differs."""
        if version:
            self.over.wait(self.hold)
        state = self.state  # before the runs are read: an end that is told is told with all of them
        if page and (page in self.pages or len(self.pages) < 100):
            self.pages[page] = time.monotonic()
        with self.lock:
            self._make(final=state != "running")
        news = {"state": state, "text": ENDS.get(state, self.line), "version": self.version}
        return news | {"page": self.text if version != self.version else None}

    def _make(self, final: bool) -> None:
        """Make the report again where the study has gone on; not too often, except for the last time."""
        began = time.perf_counter()
        if self.version and not final and began - self.made < self.cost / SHARE:
            return
        study = self._study()
        if study is None:
            return
        store = study.store
        later = len(store.get("pace", {})) + len(store.get("diagnosed", []))  # what is stored after the last run
        version = f"{self.token}-{len(store.finished())}-{sum(store.get('facts')['planned'].values())}-{later}"
        if version != self.version:
            self.text = render(study.results(), packed=False)
            self.version, self.made = version, time.perf_counter()
            self.cost = self.made - began

    def _results(self) -> Results | None:
        study = self._study()
        return None if study is None else study.results()

    def _study(self) -> Study | None:
        """The study, or None before it is planned."""
        try:
            study = Study.open(self.folder)
        except UserError:
            return None
        return study if study.store.get("facts") is not None else None


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, live: Live, port: int) -> None:
        self.live = live
        super().__init__((HOST, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:
        live, asked = self.server.live, urlsplit(self.path)
        if self.headers.get("Host") not in (f"{HOST}:{live.port}", f"localhost:{live.port}"):
            # a name that someone else's server has pointed here: its pages must not read this one
            self._answer(403, "text/plain", "this page is for the address that thalweg printed\n")
        elif asked.path == "/":
            self._answer(200, "text/html", live.page())
        elif asked.path == "/update":
            given = {name: values[0][:64] for name, values in parse_qs(asked.query).items()}
            news = live.update(given.get("page", ""), given.get("version", ""))
            self._answer(200, "application/json", json.dumps(news))
            if news["state"] != "running":
                live.told.add(given.get("page", ""))
        else:
            self._answer(404, "text/plain", "there is nothing here\n")

    def _answer(self, code: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        for name, value in {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def version_string(self) -> str:
        return "thalweg"

    def log_message(self, *rest: Any) -> None:
        """The terminal is the study's."""
