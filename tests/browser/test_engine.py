"""The studio's engines: this browser, or the service by POST and WebSocket."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from browser_maker import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Page, WebSocketRoute

Visits = Callable[..., Visit]

FRAMES = """async ([side, count]) => {
  const { createEngine } = await import(new URL("studio/engine.js", document.baseURI));
  const engine = await createEngine({ side, model: "mien-nano", labels: "people" });
  const photo = await (await fetch("studio/sample.jpg")).blob();
  const frame = await createImageBitmap(photo);
  const asked = Array.from({ length: count }, (_, number) => engine.frame(frame, number / 10));
  const results = await Promise.all(asked);
  const whole = await engine.analyze(photo, { source: "a.jpg" });
  engine.close();
  return { results, whole, explains: engine.explains, name: engine.model.name };
}"""


def frames(page: Page, side: str, count: int) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(FRAMES, [side, count])
    return found


def emotions(found: dict[str, Any]) -> list[str | None]:
    """Of each frame's face; None for a frame that was overtaken."""
    return [None if each is None else each["faces"][0]["emotion"] for each in found["results"]]


def test_the_newest_frame_wins_on_both_sides(visit: Visits) -> None:
    page = visit().ready()
    for side in ("browser", "server"):
        found = frames(page, side, 4)
        assert emotions(found) == ["happy", None, None, "happy"], side
        assert [each and each["time_s"] for each in found["results"]] == [0, None, None, 0.3]
        assert found["whole"]["source"] == "a.jpg"
        assert found["name"] == "mien-nano"
        assert found["explains"] == (side == "browser")


def test_frames_are_sent_over_one_socket(visit: Visits) -> None:
    page = visit().ready()
    opened: list[str] = []
    sent: list[str] = []
    page.on("websocket", lambda socket: opened.append(socket.url))
    page.on("request", lambda each: sent.append(each.url) if each.method == "POST" else None)
    assert emotions(frames(page, "server", 2)) == ["happy", "happy"]
    assert len(opened) == 1
    assert opened[0].endswith("/v1/stream")
    assert len(sent) == 1  # the whole picture


def test_frames_are_posted_if_no_socket_can_be_opened(visit: Visits) -> None:
    page = visit().ready()
    page.route_web_socket("**/v1/stream", lambda socket: socket.close())
    sent: list[str] = []
    page.on("request", lambda each: sent.append(each.url) if each.method == "POST" else None)
    assert emotions(frames(page, "server", 2)) == ["happy", "happy"]
    assert len(sent) == 3


def test_a_frame_that_gets_busy_is_skipped(visit: Visits) -> None:
    page = visit().ready()

    def busy(socket: WebSocketRoute) -> None:
        error = {"schema": "mien-error/1", "code": "busy", "error": "all places are taken"}
        socket.on_message(lambda _: socket.send(json.dumps(error)))

    page.route_web_socket("**/v1/stream", busy)
    assert frames(page, "server", 1)["results"] == [None]
