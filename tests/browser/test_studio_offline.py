"""What the page can do without its server, and what happens to it when a server changes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from browser_maker import Visit, serving
from mien.cli.main import main

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHOSEN = "mien-web/models/mien-nano/fer2013.onnx"
"""What is kept once somebody chose it."""

Visits = Callable[..., Any]
KEPT = """async () => {
  const found = {};
  for (const name of await caches.keys()) {
    const kept = await (await caches.open(name)).keys();
    found[name] = kept.map((each) => new URL(each.url).pathname);
  }
  return found;
}"""


def read_sample(page: Page) -> None:
    page.get_by_role("button", name="Try a sample").click()
    page.get_by_role("heading", name="Reads as happy").wait_for()


def wait_for_worker(opened: Visit) -> None:
    """Wait until the service worker has everything and answers for this page."""
    opened.until("navigator.serviceWorker.controller !== null")


@pytest.fixture
def site(needed: None, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A host of plain files, in a folder of its own: nothing but types, no headers."""
    folder = tmp_path / "root" / "studio-of-mine"
    assert main(["studio", "--export", str(folder), "--quiet"]) == 0
    shutil.rmtree(folder / "mien-web" / "models" / "mien-b0")  # nobody asks for it here

    class Quiet(SimpleHTTPRequestHandler):
        def guess_type(self, path: Any) -> str:
            return "text/javascript" if str(path).endswith(".mjs") else super().guess_type(path)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    handler = partial(Quiet, directory=str(tmp_path / "root"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        thread = Thread(target=host.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{host.server_port}/studio-of-mine/"
        host.shutdown()
        thread.join()


def test_the_page_works_offline_once_loaded(visit: Visits) -> None:
    with serving() as own:
        opened: Visit = visit(at=own.url, offline=True)
        page = opened.ready()
        wait_for_worker(opened)
        own.stop()
        page.context.set_offline(True)
        page.reload()
        opened.ready()
        read_sample(page)
        assert page.evaluate("crossOriginIsolated"), "headers are kept, too"
    opened.problems.clear()  # a browser reports what it cannot reach


def test_answers_of_the_service_are_never_cached(visit: Visits) -> None:
    opened: Visit = visit(offline=True)
    page = opened.ready()
    wait_for_worker(opened)
    read_sample(page)
    page.evaluate("Promise.all(['version', 'healthz', 'docs'].map((path) => fetch(path)))")
    ((name, paths),) = page.evaluate(KEPT).items()
    assert re.fullmatch(r"mien-studio / [0-9a-f]{16}", name)
    allowed = re.compile(r"/|/sw\.js|/(studio|mien-web)/.+")
    assert all(allowed.fullmatch(path) for path in paths)
    assert {"/", "/studio/app.js", "/mien-web/models/mien-nano/people.onnx"} <= set(paths)
    assert "/mien-web/models/mien-b0/people.onnx" not in paths


def test_a_new_version_keeps_files_loaded_on_demand(visit: Visits, site: tuple[Path, str]) -> None:
    folder, url = site
    opened: Visit = visit(at=url, offline=True)
    page = opened.ready()
    wait_for_worker(opened)
    page.evaluate(f"fetch('{CHOSEN}').then((reply) => reply.blob())")
    opened.until(f"caches.match('{CHOSEN}').then((found) => found !== undefined)")
    (before,) = page.evaluate(KEPT)
    listed = folder / "studio" / "files.js"
    listed.write_text(re.sub(r'"version": "\w+"', '"version": "newer"', listed.read_text()))
    index = folder / "index.html"
    index.write_text(index.read_text().replace("<head>", "<head><!-- newer -->"))
    page.reload()
    assert "<!-- newer -->" in page.content(), "an old page was shown though there is a network"
    newer = before.rpartition(" ")[0] + " newer"
    opened.until(f"caches.keys().then((names) => names.join() === '{newer}')")
    assert f"/studio-of-mine/{CHOSEN}" in page.evaluate(KEPT)[newer]


def test_a_static_file_server_serves_the_page(visit: Visits, site: tuple[Path, str]) -> None:
    opened: Visit = visit(at=site[1], offline=True)
    page = opened.ready()
    read_sample(page)
    assert not page.evaluate("crossOriginIsolated")
    wait_for_worker(opened)
    page.reload()
    opened.ready()
    assert page.evaluate("crossOriginIsolated"), "the worker adds the headers that threads need"
    read_sample(page)
