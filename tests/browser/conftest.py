"""What the tests of the studio share.

A test asks for `visit` and gets a page that is watched: an error on its console, or a request to
another host, fails the test. A browser lives for a module, since Playwright keeps an event loop in
the thread of its tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from browser_maker import (
    FLAGS,
    PHOTO,
    SIZES,
    Server,
    Visit,
    chromium,
    missing,
    new_context,
    serving,
    write_camera,
)
from waiting import PATIENCE_S

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext


@pytest.fixture(scope="session")
def needed() -> None:
    """Skip, saying why, where something is missing."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def server(needed: None) -> Iterator[Server]:
    """The service that all tests of a process share; who ends one runs `serving` itself."""
    with serving() as started:
        yield started


@pytest.fixture(scope="session")
def camera_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fake camera shows: a face that moves a little."""
    return write_camera(tmp_path_factory.mktemp("camera") / "face.mjpeg", [PHOTO])


@pytest.fixture(scope="module")
def launch(needed: None) -> Iterator[Callable[..., Browser]]:
    """Start a browser, with a camera that shows a file; ``words`` are more of its flags."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:

        def start(camera: Path, *words: str) -> Browser:
            flags = [*FLAGS, f"--use-file-for-fake-video-capture={camera}", *words]
            return playwright.chromium.launch(
                executable_path=chromium(),
                args=flags,
                chromium_sandbox=False,
                timeout=1000 * PATIENCE_S,
            )

        yield start


@pytest.fixture(scope="module")
def browser(launch: Callable[..., Browser], camera_file: Path) -> Iterator[Browser]:
    """The browser of a module's tests; its camera is a file, and asks for permission."""
    started = launch(camera_file)
    yield started
    started.close()


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Callable[..., Visit]]:
    """Open the page, each time as somebody new: ``visit("webcam", size="phone", scheme="dark")``.

    Args:
        view: "picture", "webcam", "video" or "compare".
        size: of `SIZES`.
        scheme: "light" or "dark", as the system prefers it.
        camera: whether the page may use the camera.
        offline: whether the page may keep itself for later, which takes a second of every visit.
        at: another address than that of the shared service.
        options: go to Playwright's ``new_context``.
    """
    opened: list[tuple[BrowserContext, Visit]] = []

    def open_page(
        view: str = "picture",
        *,
        size: str = "desktop",
        scheme: str = "light",
        camera: bool = False,
        offline: bool = False,
        at: str | None = None,
        **options: Any,
    ) -> Visit:
        width, height = SIZES[size]
        is_phone = size == "phone"
        context = new_context(
            browser,
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            is_mobile=is_phone,
            has_touch=is_phone,
            reduced_motion="reduce",
            permissions=["camera"] if camera else [],
            service_workers="allow" if offline else "block",
            **options,
        )
        url = at or server.url
        made = Visit(context.new_page(), url)
        opened.append((context, made))
        made.watch()
        made.page.goto(f"{url}#{view}")
        return made

    yield open_page
    for context, made in opened:
        context.close()
        assert not made.problems, "\n".join(made.problems)
