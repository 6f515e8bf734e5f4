"""The studio in a real browser: a Chromium, the service as a process of its own, a camera."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mien.core.errors import MissingExtra
from mien.service import require_app
from service_maker import ask
from waiting import PATIENCE_S, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Download, Page, Request

ROOT = Path(__file__).resolve().parent.parent
PHOTO = ROOT / "images" / "astronaut.jpg"
"""One face, happy."""
GROUP = ROOT / "images" / "sample.png"
"""Seven faces, drawn from a face's photo."""

SIZES = {"desktop": (1280, 900), "phone": (360, 740)}
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    # WebAssembly is compiled once, fast: optimizing it takes longer than a test has use for.
    "--js-flags=--liftoff-only",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass
class Server:
    """A running ``mien serve`` of its own."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        """End it, as a machine does that goes away."""
        self.process.kill()
        self.process.wait(PATIENCE_S)


def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """Open a context whose waits end only where a test hangs."""
    context = browser.new_context(**options)
    context.set_default_timeout(1000 * PATIENCE_S)
    return context


@dataclass
class Visit:
    """A page in the browser, and what went wrong on it."""

    page: Page
    url: str
    problems: list[str] = field(default_factory=list)

    def forgive(self, pattern: str) -> None:
        """Expect problems that match: a refused request is an error on the console, too."""
        kept = [each for each in self.problems if not re.search(pattern, each)]
        assert len(kept) < len(self.problems), f"nothing matches {pattern!r}: {self.problems}"
        self.problems[:] = kept

    def ready(self) -> Page:
        """Wait until the page can read."""
        self.page.locator(".state[data-phase=ready]").wait_for()
        return self.page

    def read_on_server(self) -> Page:
        """Choose the server's side, and wait until it can read."""
        self.page.get_by_role("button", name="Settings", exact=True).click()
        self.page.get_by_label("On the server").check()
        self.page.keyboard.press("Escape")
        self.page.locator(".state").get_by_text("on the server").wait_for()
        return self.ready()

    def until(self, expression: str) -> None:
        """Wait until an expression holds in the page.

        Playwright's ``wait_for_function`` evaluates text in the page, which the page forbids.
        """
        end = time.monotonic() + PATIENCE_S
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"it never came to be so: {expression}"
            self.page.wait_for_timeout(50)

    def saved(self, act: Callable[[], object]) -> tuple[str, bytes]:
        """Do what downloads a file; return its name and content."""
        with self.page.expect_download() as info:
            act()
        download: Download = info.value
        return download.suggested_filename, Path(download.path()).read_bytes()

    def watch(self) -> None:
        """Collect what goes wrong from now on."""
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _is_noise(message.text):
            self.problems.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "blob:", "data:")):
            self.problems.append(f"request to another place: {request.url}")


def _is_noise(text: str) -> bool:
    """Whether a warning comes from the tests' own browser: it has no GPU, and no service worker."""
    return any(part in text for part in ("GPU stall", "WebGL", "blocked by Playwright"))


def violations(page: Page) -> list[dict[str, Any]]:
    """What axe finds, by all its rules: what is wrong, and where."""
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page, options={"resultTypes": ["violations"]})
    return [
        {
            "rule": each["id"],
            "help": each["help"],
            "where": [node["html"] for node in each["nodes"]],
        }
        for each in results.response["violations"]
    ]


def missing() -> str | None:
    """Return why there are no tests in a browser here, if so."""
    try:
        require_app()
    except MissingExtra as error:
        return str(error)
    if importlib.util.find_spec("playwright") is None:
        return "needs playwright: make dev"
    if chromium() is None:
        return "needs Chromium: apt install chromium, or name it in MIEN_CHROMIUM"
    from mien.service.page_files import Folders

    if not Folders.found().has_runtime:
        return "needs onnxruntime-web: python hatch_build.py fetches it"
    return None


def chromium() -> str | None:
    """Return the browser of this machine; Playwright's own is never downloaded."""
    named = os.environ.get("MIEN_CHROMIUM")
    return named or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def serving(*words: str, port: int = 0) -> Iterator[Server]:
    """Run a service, small and without waiting for its model, until the block ends."""
    program = [sys.executable, "-m", "mien", "serve", "--port", str(port), "--threads", "1"]
    settings = ["--model", "mien-nano", "--detector", "libface", *words]
    with subprocess.Popen(
        [*program, *settings], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()))
        reader.start()
        try:
            until(lambda: process.poll() is not None or _port_of(lines) is not None)
            found = _port_of(lines)
            assert found is not None, "".join(lines)
            until(lambda: ask(found, "/readyz").status == 200)
            yield Server(process, found)
        finally:
            process.kill()
            reader.join(PATIENCE_S)


def _port_of(lines: Sequence[str]) -> int | None:
    match = re.search(r"listening on http://[^ ]+:(\d+)", "".join(lines))
    return None if match is None else int(match[1])


def write_camera(path: Path, pictures: Sequence[Path], *, frames: int = 15) -> Path:
    """Write what a fake camera shows again and again: pictures that move a little, 640 by 480."""
    content = io.BytesIO()
    for picture in pictures:
        with Image.open(picture) as opened:
            whole = opened.convert("RGB")
        scale = max(680 / whole.width, 520 / whole.height)
        whole = whole.resize((round(whole.width * scale), round(whole.height * scale)))
        for number in range(frames):
            left = (whole.width - 640) // 2 + round(10 * (number / frames - 0.5))
            view = whole.crop((left, 0, left + 640, 480))
            view.save(content, "JPEG", quality=90)
    path.write_bytes(content.getvalue())
    return path


if __name__ == "__main__":  # for .ci/run
    if (reason := missing()) is not None:
        print(f"the tests in a browser will be skipped: {reason}", file=sys.stderr)
