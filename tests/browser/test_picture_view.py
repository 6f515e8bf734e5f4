"""The studio's pictures: what comes in, what is shown, what is saved."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from browser_maker import GROUP, PHOTO, Visit, violations
from mien.core.results import TABLE_COLUMNS
from waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

Visits = Callable[..., Visit]


@pytest.fixture(scope="module")
def nobody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture without a face."""
    path = tmp_path_factory.mktemp("pictures") / "nobody.png"
    Image.new("RGB", (320, 240), (90, 120, 140)).save(path)
    return path


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What has a picture's name and is none."""
    path = tmp_path_factory.mktemp("pictures") / "damaged.jpg"
    path.write_bytes(b"\xff\xd8 this is no picture")
    return path


def choose(page: Page, *pictures: Path) -> None:
    page.locator(".picture input[type=file]").set_input_files([str(each) for each in pictures])


def read(page: Page, *pictures: Path) -> None:
    """Choose pictures and wait until none is left to read."""
    choose(page, *pictures)
    page.locator(".card:visible, .side:visible").first.wait_for()
    page.locator(".card[data-state=queued], .card[data-state=reading]").first.wait_for(
        state="detached"
    )
    page.locator(".side .working").wait_for(state="detached")


def choose_server(page: Page) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("On the server").check()
    page.keyboard.press("Escape")


def on_server(visit: Visits) -> Visit:
    """Open the page and let the server read."""
    opened = visit()
    choose_server(opened.ready())
    opened.page.locator(".state").get_by_text("on the server").wait_for()
    return opened


def statuses(page: Page) -> list[str]:
    return [each.get_attribute("data-state") or "" for each in page.locator(".card").all()]


def bars(page: Page) -> dict[str, str]:
    """Emotions and percentages of the chosen face, in the page's order."""
    return dict(each.inner_text().split() for each in page.locator(".side .bar").all())


# ---------------------------------------------------------------- what comes in
def test_the_sample_is_read(visit: Visits) -> None:
    page = visit().ready()
    page.get_by_role("button", name="Try a sample").click()
    page.get_by_role("heading", name="Reads as happy").wait_for()
    shown = bars(page)
    assert list(shown) == ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
    assert int(shown["happy"].rstrip("%")) >= 95
    assert page.locator(".side").get_by_text("NASA, public domain").is_visible()
    assert "happy" in page.locator("[aria-live=polite]").inner_text()


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(visit: Visits, how: str) -> None:
    page = visit().ready()
    page.evaluate(
        """async ([how, address]) => {
          const blob = await (await fetch(address)).blob();
          const data = new DataTransfer();
          data.items.add(new File([blob], "given.jpg", { type: "image/jpeg" }));
          const event = how === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
          document.body.dispatchEvent(event);
        }""",
        [how, "studio/sample.jpg"],
    )
    page.get_by_role("heading", name="Reads as happy").wait_for()
    assert page.get_by_role("heading", name="given.jpg").is_visible()


def test_other_files_are_refused_with_a_message(visit: Visits, tmp_path: Path) -> None:
    page = visit().ready()
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    choose(page, notes)
    page.get_by_role("alert").filter(has_text="No picture found").wait_for()
    assert page.get_by_role("button", name="Choose pictures").is_visible()


def test_a_folder_without_pictures_shows_a_message(visit: Visits) -> None:
    page = visit().ready()
    page.evaluate(
        """() => {
          const reader = { readEntries: (done) => done([]) };
          const folder = { isFile: false, isDirectory: true, createReader: () => reader };
          DataTransferItem.prototype.webkitGetAsEntry = () => folder;
          const data = new DataTransfer();
          data.items.add(new File(["x"], "folder"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
    )
    page.get_by_role("alert").filter(has_text="No picture found").wait_for()


def test_a_transparent_picture_is_saved_on_white(visit: Visits, tmp_path: Path) -> None:
    with Image.open(PHOTO) as opened:
        picture = opened.convert("RGBA").resize((700, 700))
    picture.putalpha(Image.new("L", picture.size, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 700, 40))
    picture.save(tmp_path / "clear.png")
    opened_page = visit()
    page = opened_page.ready()
    read(page, tmp_path / "clear.png")
    page.get_by_role("button", name="Download").click()
    _, content = opened_page.saved(page.get_by_role("menuitem", name="Annotated picture").click)
    with Image.open(io.BytesIO(content)) as saved:
        assert saved.size == (700, 700)
        assert saved.convert("RGBA").getpixel((600, 10)) == (255, 255, 255, 255)


# ---------------------------------------------------------------- several
def test_focus_follows_the_action(visit: Visits) -> None:
    page = visit().ready()
    page.get_by_role("button", name="Choose pictures").focus()
    read(page, PHOTO, GROUP)
    assert page.evaluate("document.activeElement.matches('.card-open')")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Next picture").focus()
    page.keyboard.press("Enter")
    page.get_by_text("2 of 2").wait_for()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Next picture"


def test_omitted_files_are_reported(visit: Visits, tmp_path: Path) -> None:
    page = visit().ready()
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    choose(page, PHOTO, notes)
    page.get_by_role("status").filter(
        has_text="1 file is not a picture and was left out."
    ).wait_for()


def test_pictures_are_read_if_the_reading_changes_during_analysis(visit: Visits) -> None:
    opened = visit()
    page = opened.ready()
    page.get_by_role("button", name="Settings", exact=True).click()
    choose(page, *[PHOTO] * 16)
    page.get_by_label("FER-2013").check()
    page.keyboard.press("Escape")
    opened.until(
        "document.querySelectorAll('.card[data-state=ok], .card[data-state=error]').length === 16"
    )
    assert statuses(page) == ["ok"] * 16


def test_many_pictures_form_a_grid_and_a_single_one_is_opened(
    visit: Visits, nobody: Path, damaged: Path
) -> None:
    page = visit().ready()
    read(page, PHOTO, GROUP, nobody, damaged)
    assert statuses(page) == ["ok", "ok", "no_face", "unreadable"]
    assert page.get_by_role("heading", name="4 pictures").is_visible()
    page.get_by_role("button", name="Open sample.png").click()
    page.get_by_role("group", name="Faces").get_by_role("button").nth(6).wait_for()
    assert page.evaluate("document.activeElement.matches('.stage-surface')")
    page.get_by_role("button", name="Next picture").click()
    page.get_by_role("heading", name="No face found").wait_for()
    page.get_by_role("button", name="Next picture").click()
    page.get_by_role("heading", name="This file cannot be read as a picture").wait_for()
    page.keyboard.press("Escape")
    focused = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert focused.startswith("Open damaged.jpg")


def test_thumbnails_fill_their_cards_and_show_the_faces(visit: Visits, tmp_path: Path) -> None:
    with Image.open(PHOTO) as face:
        wide = Image.new("RGB", (1600, 400))
        wide.paste(face.convert("RGB").resize((400, 400)), (0, 0))
        wide.paste(face.convert("RGB").resize((400, 400)), (1200, 0))
    wide.save(tmp_path / "wide.jpg")
    tall = Image.new("RGB", (400, 3000), (90, 100, 120))
    with Image.open(PHOTO) as face:
        tall.paste(face.convert("RGB").resize((380, 380)), (10, 1800))
    tall.save(tmp_path / "tall.jpg")
    page = visit().ready()
    read(page, tmp_path / "tall.jpg", tmp_path / "wide.jpg")
    for card in page.locator(".card-image").all():
        assert card.locator("img").bounding_box() == card.bounding_box()
    tall_place, wide_place = page.locator(".card-image img").evaluate_all(
        "(images) => images.map((image) => getComputedStyle(image).objectPosition)"
    )
    assert 55 < float(tall_place.split()[1].rstrip("%")) < 75
    assert wide_place == "50% 50%"  # whole, since no crop shows both faces


def test_labels_in_a_crowd_cover_no_other_face(visit: Visits) -> None:
    page = visit().ready()
    labels = """async ([gap, selected]) => {
      const { drawFaces } = await import("/studio/components/faces.js");
      const context = new OffscreenCanvas(2000, 200).getContext("2d");
      const labels = [];
      context.fillText = (text) => labels.push(text);
      const faces = Array.from({ length: 10 }, (_, index) => ({
        box: { x: 20 + index * (30 + gap), y: 80, w: 30, h: 40 },
        ...{ emotion: "happy", confidence: index / 10, scores: { happy: 1 }, track_id: null },
      }));
      drawFaces(context, faces, { palette: { happy: "#f6c026" }, selected });
      return labels;
    }"""
    assert len(page.evaluate(labels, [100, 3])) == 10
    crowded = page.evaluate(labels, [4, 3])
    assert len(crowded) < 10
    assert "happy 30%" in crowded


def test_faces_are_chosen_by_keys_and_by_click(visit: Visits) -> None:
    page = visit().ready()
    read(page, GROUP)
    faces = page.get_by_role("group", name="Faces").get_by_role("button")

    def pressed() -> int:
        states = [each.get_attribute("aria-pressed") for each in faces.all()]
        return states.index("true")

    before = pressed()
    page.get_by_role("group", name=re.compile("Arrow keys choose a face")).focus()
    page.keyboard.press("ArrowRight")
    assert pressed() == (before + 1) % 7
    page.keyboard.press("ArrowLeft")
    assert pressed() == before
    faces.nth(3).click()
    assert pressed() == 3
    assert "Face 4" in page.locator("[aria-live=polite]").inner_text()
    # The picture is 1704 x 664 with a smiling face at the right of its upper row.
    box = page.locator(".stage-canvas").bounding_box()
    assert box is not None
    scale = min(box["width"] / 1704, box["height"] / 664)
    left = box["x"] + (box["width"] - 1704 * scale) / 2
    top = box["y"] + (box["height"] - 664 * scale) / 2
    page.mouse.click(left + 1410 * scale, top + 180 * scale)
    page.get_by_role("heading", name="Reads as happy").wait_for()


def test_a_picture_is_zoomed(visit: Visits) -> None:
    page = visit().ready()
    read(page, PHOTO)

    def zoom() -> int:
        return int(page.locator(".stage-zoom").inner_text().rstrip("%") or 0)

    until(zoom)  # it is drawn with the next frame
    whole = zoom()
    page.get_by_role("group", name=re.compile("Arrow keys choose a face")).focus()
    page.keyboard.press("+")
    until(lambda: zoom() > whole)
    closer = zoom()
    page.locator(".stage-canvas").hover()
    page.mouse.wheel(0, -300)
    until(lambda: zoom() > closer)
    page.keyboard.press("0")
    until(lambda: zoom() == whole)


def test_analysis_is_stopped_and_resumed(visit: Visits) -> None:
    page = visit().ready()
    # The page itself presses the button at once: all could be read before a busy machine does.
    page.evaluate(
        """() => new MutationObserver((_, observer) => {
          const buttons = [...document.querySelectorAll("button")];
          const stop = buttons.find((button) => button.innerText.trim() === "Stop");
          if (stop) observer.disconnect();
          stop?.click();
        }).observe(document.body, { childList: true, subtree: true })"""
    )
    choose(page, *[GROUP] * 12)
    left = page.locator(".card[data-state=cancelled]")
    left.first.wait_for()
    until(lambda: set(statuses(page)) <= {"ok", "cancelled"})
    page.get_by_role("button", name="Read the rest").click()
    page.locator(".card[data-state=ok]").nth(11).wait_for()
    page.get_by_role("button", name="Clear").click()
    assert page.get_by_role("button", name="Choose pictures").is_visible()


# ---------------------------------------------------------------- one face
def test_an_uncertain_face_is_marked(visit: Visits) -> None:
    page = visit().ready()
    read(page, GROUP)
    page.get_by_role("button", name=re.compile("uncertain")).first.click()
    assert page.locator(".side").get_by_text("Uncertain", exact=True).is_visible()
    assert page.get_by_text("Look at the bars instead.").is_visible()


def test_a_heat_map_is_made_on_demand(visit: Visits) -> None:
    page = visit().ready()
    page.evaluate("delete CanvasRenderingContext2D.prototype.filter")  # as in Safari
    read(page, PHOTO)
    page.get_by_role("button", name="Show heat map").click()
    page.get_by_role("img", name="Heat map of Face 1 for happy").wait_for()
    red, green, blue = page.locator(".heat-canvas").evaluate(
        """(canvas) => [...canvas.getContext("2d").getImageData(60, 240, 1, 1).data.slice(0, 3)]"""
    )
    assert max(red, green, blue) - min(red, green, blue) < 8  # the face is grey
    page.get_by_label("Heat map for").select_option("surprise")
    page.get_by_role("img", name="Heat map of Face 1 for surprise").wait_for()
    page.get_by_role("button", name="Hide heat map").click()
    page.get_by_role("button", name="Show heat map").wait_for()
    assert not page.get_by_label("Heat map for").is_visible()


# ---------------------------------------------------------------- what is saved
def download(opened: Visit, menu: str, item: str) -> tuple[str, bytes]:
    page = opened.page
    page.get_by_role("button", name=menu, exact=True).click()
    return opened.saved(page.get_by_role("menuitem", name=item).click)


def test_one_picture_is_saved(visit: Visits) -> None:
    opened = visit()
    read(opened.ready(), PHOTO)
    name, content = download(opened, "Download", "Annotated picture")
    assert name == "astronaut.annotated.png"
    with Image.open(io.BytesIO(content)) as picture, Image.open(PHOTO) as original:
        assert picture.format == "PNG"
        assert picture.size == (2 * original.width, 2 * original.height)
        happy = (0xF6, 0xC0, 0x26)
        pixels = np.asarray(picture.convert("RGB"))
        assert np.all(pixels == happy, axis=-1).sum() > 500
    name, content = download(opened, "Download", "Results")
    assert name == "astronaut.json"
    result = json.loads(content)
    assert (result["schema"], result["source"], result["status"]) == (
        "mien/1",
        "astronaut.jpg",
        "ok",
    )
    assert result["labels"] == "people"
    assert sum(result["faces"][0]["scores"].values()) == pytest.approx(1, abs=1e-4)
    name, content = download(opened, "Download", "Table")
    assert name == "astronaut.csv"
    (row,) = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    assert list(row) == list(TABLE_COLUMNS)
    assert row["emotion"] == "happy"


def test_all_pictures_are_saved_at_once(visit: Visits, nobody: Path) -> None:
    opened = visit()
    read(opened.ready(), PHOTO, PHOTO, nobody)
    name, content = download(opened, "Download all", "Annotated pictures")
    assert name == "mien-pictures.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["astronaut.annotated.png", "astronaut.annotated-2.png"]
        Image.open(io.BytesIO(archive.read("astronaut.annotated-2.png"))).verify()
    _, content = download(opened, "Download all", "Results")
    assert [each["status"] for each in json.loads(content)] == ["ok", "ok", "no_face"]
    _, content = download(opened, "Download all", "Table")
    assert len(list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))) == 3


def test_charts_are_left_out_of_saved_pictures(visit: Visits) -> None:
    opened = visit()
    page = opened.ready()
    read(page, PHOTO)
    _, with_chart = download(opened, "Download", "Annotated picture")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Scores next to each face").uncheck()
    page.keyboard.press("Escape")
    _, without = download(opened, "Download", "Annotated picture")
    assert with_chart != without


# ---------------------------------------------------------------- the server's side
def test_the_page_shows_that_the_server_reads(visit: Visits) -> None:
    opened = on_server(visit)
    page = opened.page
    assert page.get_by_text("Pictures are sent to 127.0.0.1").is_visible()
    page.get_by_text("Every picture is sent there").wait_for()
    read(page, PHOTO)
    page.get_by_role("heading", name="Reads as happy").wait_for()
    assert "on the server" in page.locator(".state").inner_text()
    page.get_by_role("button", name="Show heat map").click()
    assert page.get_by_text("Heat maps are made in the browser").is_visible()


def test_switching_to_the_server_uploads_no_earlier_pictures(visit: Visits) -> None:
    page = visit().ready()
    sent: list[str] = []
    page.on("request", lambda each: sent.append(each.url) if each.method == "POST" else None)
    read(page, PHOTO)
    choose_server(page)
    page.locator(".state").get_by_text("on the server").wait_for()
    assert sent == []
    page.get_by_role("button", name="Read again with these settings").click()
    page.get_by_role("heading", name="Reads as happy").wait_for()
    page.get_by_role("button", name="Read again with these settings").wait_for(state="detached")
    assert len(sent) == 1


def answer(status: int, code: str, text: str, **headers: str) -> Callable[[Route], None]:
    body = json.dumps({"schema": "mien-error/1", "code": code, "error": text})
    kind = "application/json"
    return lambda route: route.fulfill(
        status=status, body=body, content_type=kind, headers=dict(headers)
    )


def test_a_busy_server_is_retried(visit: Visits) -> None:
    opened = on_server(visit)
    page = opened.page
    busy = answer(503, "busy", "all places are taken", **{"Retry-After": "1"})
    page.route("**/v1/analyze", busy, times=1)
    page.evaluate(
        """() => {
          globalThis.seen = "";
          const note = () => (seen += document.body.innerText);
          const changes = { childList: true, subtree: true, characterData: true };
          new MutationObserver(note).observe(document.body, changes);
        }"""
    )
    choose(page, PHOTO)
    page.get_by_role("heading", name="Reads as happy").wait_for()
    seen = page.evaluate("seen")
    assert "Server busy, waiting" in seen
    assert "Trying again in" in seen
    opened.forgive("503")


@pytest.mark.parametrize(
    ("status", "code", "text", "heading"),
    [
        (413, "too_large", "the image is too large: expected less", "This picture is too large"),
        (422, "undecodable", "no image", "This file cannot be read as a picture"),
        (500, "internal", "something failed inside", "This picture could not be read"),
    ],
)
def test_refusals_of_the_server_are_shown(
    visit: Visits, status: int, code: str, text: str, heading: str
) -> None:
    opened = on_server(visit)
    page = opened.page
    page.route("**/v1/analyze", answer(status, code, text))
    choose(page, PHOTO)
    page.get_by_role("heading", name=heading).wait_for()
    assert page.get_by_text(text).is_visible()
    opened.forgive(str(status))


def test_a_token_is_requested_and_kept_in_memory_only(visit: Visits) -> None:
    opened = visit()
    page = opened.ready()
    seen: list[str | None] = []

    def guard(route: Route) -> None:
        seen.append(route.request.headers.get("authorization"))
        if seen[-1] == "Bearer right":
            route.continue_()
        else:
            answer(401, "unauthorized", "a token is needed")(route)

    page.route("**/version", guard)
    page.route("**/v1/analyze", guard)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("On the server").check()
    for token in ("wrong", "right"):
        page.get_by_role("textbox", name="Token").fill(token)
        page.get_by_role("button", name="Use token").click()
        if token == "wrong":
            page.get_by_text("did not accept this token").wait_for()
    page.locator(".state").get_by_text("on the server").wait_for()
    page.keyboard.press("Escape")
    read(page, PHOTO)
    page.get_by_role("heading", name="Reads as happy").wait_for()
    assert seen == [None, "Bearer wrong", "Bearer right", "Bearer right"]
    stored = page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }])")
    assert "right" not in stored
    opened.forgive("401")


def test_an_unreachable_model_is_reported_and_retried(visit: Visits) -> None:
    opened = visit()
    page = opened.ready()
    page.route("**/people.onnx", lambda route: route.abort())
    page.reload()
    page.get_by_role("heading", name="The model could not be loaded").wait_for()
    choose(page, PHOTO)
    page.locator(".side").get_by_text("Waiting for the model").wait_for()
    page.unroute("**/people.onnx")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("heading", name="Reads as happy").wait_for()


# ---------------------------------------------------------------- the shell
def test_a_changed_reading_is_offered_for_existing_results(visit: Visits) -> None:
    opened = visit()
    page = opened.ready()
    read(page, GROUP)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("FER-2013\u2019s").check()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Read again with these settings").click()
    page.get_by_text("FER-2013\u2019s label would say so").wait_for()
    _, content = download(opened, "Download", "Results")
    assert json.loads(content)["labels"] == "fer2013"
    assert "FER-2013\u2019s reading" in page.locator(".state").inner_text()


@pytest.mark.parametrize("view", ["picture", "webcam", "video", "compare"])
def test_the_explanation_of_scores_is_one_click_away(visit: Visits, view: str) -> None:
    page = visit(view).page
    opener = page.get_by_role("button", name="What these numbers mean").first
    opener.click()
    dialog = page.get_by_role("dialog", name="What these numbers mean")
    assert dialog.get_by_text("What they must not be used for").is_visible()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == (
        "What these numbers mean"
    )


def test_colours_are_switched_and_remembered(visit: Visits) -> None:
    opened = visit(scheme="dark")
    page = opened.ready()
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    page.get_by_role("button", name=re.compile("Switch to light")).click()
    assert page.evaluate(theme) == "light"
    page.reload()
    assert page.evaluate(theme) == "light"
    opened.ready()


@pytest.mark.parametrize(
    ("size", "scheme"), [("desktop", "light"), ("desktop", "dark"), ("phone", "light")]
)
def test_axe_finds_no_problems_in_any_state(
    visit: Visits, nobody: Path, damaged: Path, size: str, scheme: str
) -> None:
    page = visit(size=size, scheme=scheme).ready()
    found: dict[str, Sequence[Any]] = {}

    def look(state: str) -> None:
        found[state] = violations(page)
        wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert not wide, f"{state}: the page is wider than its window"

    for name in ("Settings", "What these numbers mean"):
        page.get_by_role("button", name=name, exact=True).first.click()
        look(name)
        page.keyboard.press("Escape")
    read(page, GROUP, nobody, damaged)
    look("grid")
    for name in ("sample.png", "nobody.png", "damaged.jpg"):
        page.get_by_role("button", name=f"Open {name}").click()
        if name == "sample.png":
            page.get_by_role("button", name="Show heat map").click()
            page.locator(".heat-canvas").wait_for()
            page.get_by_text("Details", exact=True).click()
            page.get_by_role("button", name="Download", exact=True).click()
        look(name)
        page.get_by_role("button", name="All pictures").click()
    assert not any(found.values()), json.dumps(found, indent=1)
