"""The page as a whole: what it loads, what it may do, and that everybody can use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mien
from browser_maker import GROUP, PHOTO, Visit, serving, violations
from mien.service.page_files import HEADERS, NO_RUNTIME

if TYPE_CHECKING:
    from playwright.sync_api import Page

Visits = Callable[..., Any]
VIEWS = ("picture", "webcam", "video", "compare")


def chosen(page: Page) -> str:
    """The name of the tab that is chosen; there is exactly one."""
    (name,) = page.get_by_role("tab", selected=True).all_inner_texts()
    return str(name).strip().lower()


def test_it_loads_only_from_its_own_host_without_an_error(visit: Visits) -> None:
    opened = visit()
    page = opened.ready()
    assert page.title() == "mien studio"
    # A page that may use threads; they need both headers.
    assert page.evaluate("crossOriginIsolated")
    assert all(
        name.startswith(opened.url)
        for name in page.evaluate(
            "performance.getEntriesByType('resource').map((each) => each.name)"
        )
    )


def test_the_policy_blocks_other_hosts(visit: Visits) -> None:
    opened = visit()
    page = opened.page
    assert (
        opened.page.request.get(opened.url).headers["content-security-policy"]
        == (HEADERS["Content-Security-Policy"])
    )
    refused = page.evaluate(
        """async () => {
          const seen = [];
          const note = (event) => seen.push(event.effectiveDirective);
          addEventListener("securitypolicyviolation", note);
          const inline = document.createElement("script");
          inline.textContent = "window.wasRun = true";
          document.head.append(inline);
          await fetch("https://example.invalid/").catch(() => {});
          const picture = new Image();
          picture.src = "https://example.invalid/a.png";
          while (new Set(seen).size < 3) await new Promise((resolve) => setTimeout(resolve, 50));
          return { seen, wasRun: window.wasRun === true };
        }"""
    )
    assert set(refused["seen"]) == {"script-src-elem", "connect-src", "img-src"}
    assert not refused["wasRun"]
    opened.forgive(r"Content Security Policy|example\.invalid")


def test_a_socket_to_the_service_itself_is_allowed(visit: Visits) -> None:
    opened = visit()
    blocked = opened.page.evaluate(
        """async () => {
          let blocked = null;
          addEventListener("securitypolicyviolation", (event) => (blocked = event.blockedURI));
          const socket = new WebSocket(new URL("v1/nowhere", location.href.replace(/^http/, "ws")));
          await new Promise((resolve) => (socket.onclose = resolve));
          return blocked;
        }"""
    )
    assert blocked is None
    opened.forgive("WebSocket")  # nobody answers there


@pytest.mark.parametrize("side", ["browser", "server"])
@pytest.mark.parametrize("picture", [PHOTO, GROUP], ids=lambda path: path.stem)
def test_both_sides_match_python(visit: Visits, side: str, picture: Path) -> None:
    opened: Visit = visit()
    page = opened.ready()
    if side == "server":
        opened.read_on_server()
    page.locator(".picture input[type=file]").set_input_files(str(picture))
    page.locator(".side .bar").first.wait_for()
    page.get_by_role("button", name="Download", exact=True).click()
    _, content = opened.saved(page.get_by_role("menuitem", name="Results").click)
    found = json.loads(content)
    expected = mien.load("mien-nano", detector="libface").analyze_result(picture).to_dict()
    assert found.keys() == expected.keys()
    assert found["model"] == expected["model"]
    assert len(found["faces"]) == len(expected["faces"])
    for mine, theirs in zip(found["faces"], expected["faces"], strict=True):
        assert mine["box"] == theirs["box"]
        assert mine["emotion"] == theirs["emotion"]
        assert mine["scores"] == pytest.approx(theirs["scores"], abs=1e-3)


def test_pictures_wait_for_an_unreachable_server(visit: Visits) -> None:
    with serving() as first:
        opened: Visit = visit(at=first.url)
        opened.ready()
        page = opened.read_on_server()
        first.stop()
        page.locator(".picture input[type=file]").set_input_files(str(PHOTO))
        page.locator(".side").get_by_text("The server cannot be reached").wait_for()
    with serving(port=first.port):
        page.get_by_role("heading", name="Reads as happy").wait_for()
    opened.forgive("ERR_CONNECTION_REFUSED|503")  # it is asked again until it is ready


def test_without_the_runtime_the_page_explains_and_the_server_reads(visit: Visits) -> None:
    with serving() as own:
        opened: Visit = visit(at=own.url)
        page = opened.page
        error = {"schema": "mien-error/1", "code": "no_runtime", "error": NO_RUNTIME}
        page.context.route(
            "**/mien-web/runtime/*", lambda route: route.fulfill(status=404, json=error)
        )
        page.reload()
        failure = page.locator(".failure")
        failure.get_by_text("run 'python hatch_build.py' there").wait_for()
        failure.get_by_role("button", name="Read on the server").click()
        opened.ready()
        page.locator(".state").get_by_text("on the server").wait_for()
    opened.forgive("404")


def test_licences_are_a_click_away(visit: Visits) -> None:
    page = visit().page
    page.get_by_role("button", name="What these numbers mean").first.click()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Licences").click()
    text = opened.value.locator("body").inner_text()
    for each in ("ONNX Runtime Web", "Microsoft", "libfacedetection", "Shiqi Yu", "NASA"):
        assert each in text


def test_arrow_keys_go_through_the_tabs(visit: Visits) -> None:
    page = visit().page
    first = page.get_by_role("tab").first
    first.focus()
    seen = [chosen(page)]
    for _ in VIEWS:
        page.keyboard.press("ArrowRight")
        seen.append(chosen(page))
    assert seen == [*VIEWS, VIEWS[0]]
    page.keyboard.press("End")
    assert chosen(page) == VIEWS[-1]
    page.keyboard.press("Home")
    assert chosen(page) == VIEWS[0]


@pytest.mark.parametrize(
    ("size", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")]
)
def test_axe_finds_no_problems_and_nothing_overflows(visit: Visits, size: str, scheme: str) -> None:
    page = visit(size=size, scheme=scheme).page
    for view in VIEWS:
        page.evaluate(f"location.hash = '{view}'")
        page.locator(f"#view-{view} :is(h1, h2):visible").first.wait_for()
        assert chosen(page) == view
        found = violations(page)
        assert not found, json.dumps(found, indent=1)
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], view


def test_axe_finds_no_problems_while_the_server_is_unreachable(visit: Visits) -> None:
    opened = visit("compare")
    page = opened.ready()
    page.context.set_offline(True)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("On the server").check()
    page.keyboard.press("Escape")
    page.get_by_role("alert").filter(has_text="does not respond").wait_for()
    found = violations(page)
    assert not found, json.dumps(found, indent=1)
    opened.forgive("version")
