"""A page in headless Chromium, driven through the DevTools protocol: for tests of reports and for screenshots."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from held import PATIENCE, until

NAMES = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--remote-debugging-port=0", "--remote-allow-origins=*", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
)  # fmt: skip


def executable() -> str | None:
    """The browser's path, or None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One tab. errors: console errors and uncaught exceptions. requests: every URL asked for."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.count = socket, 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result, taking note of the events that arrive meanwhile."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            message = json.loads(self.receive())
            if message.get("id") == self.count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.note(message.get("method"), message.get("params", {}))

    def receive(self) -> str:
        """The next message; AssertionError where none comes for long."""
        from websocket import WebSocketTimeoutException

        for _ in range(PATIENCE):
            with suppress(WebSocketTimeoutException):
                return self.socket.recv()
        raise AssertionError(f"the browser has said nothing for {PATIENCE} s")

    def note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            detail = params["exceptionDetails"]
            self.errors.append(detail.get("exception", {}).get("description") or detail["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, path: str | Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a file at a size and in a theme, and wait until it has loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.theme(dark)
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def theme(self, dark: bool, media: str = "") -> None:
        """Ask for a theme and, while media is "print", for the looks of paper; scrolling is at once, so that places stay where they are."""
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": k, "value": v} for k, v in wishes.items()])

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise's when it has settled."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", {}).get("description")))
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true; AssertionError names it when it does not become so."""
        true = until(lambda: self.run(f"Boolean({expression})"))
        assert true, f"not true after {PATIENCE} s: {expression}; errors: {self.errors}"

    def point(self, selector: str, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
        """A place inside an element, at shares of its width and height, in the window's pixels; the element is scrolled into view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.run(f"(b => [b.x, b.y, b.width, b.height])({element}.getBoundingClientRect())")
        return box[0] + x * box[2], box[1] + y * box[3]

    def mouse(self, kind: str, at: tuple[float, float], clicks: int = 0) -> None:
        """A real event of the pointer: Moved, Pressed or Released."""
        button = "left" if clicks or kind != "Moved" else "none"
        held = 1 if kind == "Pressed" or (kind == "Moved" and clicks) else 0
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=at[0], y=at[1], button=button, buttons=held, clickCount=clicks)

    def click(self, selector: str, count: int = 1) -> None:
        """Click on the middle of an element as a hand would, `count` times in quick succession."""
        at = self.point(selector)
        self.mouse("Moved", at)
        for n in range(count):
            self.mouse("Pressed", at, n + 1)
            self.mouse("Released", at, n + 1)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press at one place, move to another and release."""
        self.mouse("Moved", start)
        self.mouse("Pressed", start, 1)
        for share in (0.3, 0.6, 1.0):
            self.mouse("Moved", (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])), 1)
        self.mouse("Released", end, 1)

    def key(self, name: str, shift: bool = False) -> None:
        """Press and release a key: Tab, Enter, or a character."""
        codes = {"Tab": 9, "Enter": 13}
        text = {"text": "\r"} if name == "Enter" else {} if name in codes else {"text": name}
        held = {"key": name, "modifiers": 8 if shift else 0, "windowsVirtualKeyCode": codes.get(name, ord(name[0].upper()))}
        self.call("Input.dispatchKeyEvent", type="keyDown", **held, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **held)

    def downloads(self, folder: Path) -> None:
        """Where files that the page offers are saved from now on."""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def shoot(self, path: str | Path) -> None:
        """A picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        Path(path).write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def page() -> Iterator[Page]:
    """A fresh browser with an empty profile, ended and removed afterwards."""
    from websocket import create_connection

    path = executable()
    assert path is not None, "no chromium on the PATH"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            socket = create_connection(_address(Path(profile) / "DevToolsActivePort", process), timeout=PATIENCE)
            socket.settimeout(1)  # of a look for messages
            try:
                yield Page(socket)
            finally:
                socket.close()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(file: Path, process: subprocess.Popen) -> str:
    """The first tab's address, once the browser has written down its port."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine: no proxy
    tabs: list[dict[str, str]] = []

    def there() -> bool:
        assert process.poll() is None, f"the browser ended with {process.returncode}"
        lines = file.read_text().split() if file.exists() else []
        with suppress(OSError):  # it is slow to answer
            if lines:
                with opener.open(f"http://127.0.0.1:{lines[0]}/json/list", timeout=30) as answer:
                    tabs.extend(tab for tab in json.load(answer) if tab["type"] == "page")
        return bool(tabs)

    assert until(there), f"the browser did not open a port in {PATIENCE} s"
    return tabs[0]["webSocketDebuggerUrl"]


def screenshot(path_html: str | Path, path_png: str | Path, width: int = 1280, dark: bool = False, ready: str = "true") -> None:
    """A picture of a page at a width; `ready` is an expression to wait for, such as one that is true when figures are drawn."""
    with page() as tab:
        tab.open(path_html, width, dark=dark)
        tab.wait(ready)
        tab.shoot(path_png)
