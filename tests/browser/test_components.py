"""The timeline, the report and downloads of the page, on results that are made up."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageColor

from browser_maker import new_context
from mien.core.emotions import EMOTION_COLORS, EMOTIONS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page

SVG = "{http://www.w3.org/2000/svg}"

SET_UP = Path(__file__).with_name("components_bench.js").read_text(encoding="utf-8")

MARKERS = [
    {"start": 1, "end": 3, "label": 'a joke <b> & "more"'},
    {"start": 2, "end": 4, "label": "overlapping"},
    {"start": 5, "end": 5, "label": "knock"},
    {"start": 8, "end": None, "label": "debrief"},
]

SIZES = {"desktop": (1280, 900), "phone": (340, 740)}

Benches = Callable[..., "Page"]


@pytest.fixture
def bench(browser: Browser, server: Any) -> Iterator[Benches]:
    """Open a page of the service that is blank but for the studio's style, with its modules.

    An error on its console, what its policy forbids among them, fails the test.
    """
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # A browser asks for an icon where a document names none.
        if message.type == "error" and "favicon.ico" not in message.location["url"]:
            problems.append(message.text)

    def open_bench(size: str = "desktop", scheme: str = "light") -> Page:
        width, height = SIZES[size]
        context = new_context(browser, viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{server.url}studio/timeline.css")
        page.evaluate(SET_UP, {"palette": EMOTION_COLORS, "scheme": scheme})
        return page

    yield open_bench
    for context in contexts:
        context.close()
    assert problems == []


def shown(page: Page, seconds: int = 10, rate: int = 10, **options: Any) -> Any:
    """Show a timeline; return its slider."""
    page.evaluate(
        "([seconds, rate, options]) => shown(seconds, rate, options)", [seconds, rate, options]
    )
    return page.get_by_role("slider")


def now(slider: Any) -> float:
    return float(slider.get_attribute("aria-valuenow"))


# ---------------------------------------------------------------- the timeline as a control
def test_keys_go_to_moments(bench: Benches) -> None:
    page = bench()
    slider = shown(page, 10, 10)
    slider.focus()
    moments = []
    for key in (
        "Home",
        "ArrowRight",
        "ArrowRight",
        "ArrowLeft",
        "PageUp",
        "PageDown",
        "End",
        "ArrowRight",
    ):
        page.keyboard.press(key)
        moments.append(now(slider))
    assert moments == pytest.approx([0, 0.1, 0.2, 0.1, 0.6, 0.1, 10, 10])
    assert page.evaluate("seeks") == pytest.approx(moments)


def test_an_arrow_moves_a_second_if_frames_are_dense(bench: Benches) -> None:
    page = bench()
    slider = shown(page, 60, 10)
    slider.focus()
    for key in ("Home", "ArrowRight", "ArrowRight", "Shift+ArrowRight"):
        page.keyboard.press(key)
    assert now(slider) == pytest.approx(2.1)


def test_a_moment_is_described_in_words(bench: Benches) -> None:
    page = bench()
    slider = shown(page)
    descriptions = {}
    for moment in (0.5, 2.5, 6.5, 8.0):
        page.evaluate("(moment) => timeline.cursor(moment)", moment)
        descriptions[moment] = slider.get_attribute("aria-valuetext")
    assert descriptions == {
        0.5: "0:00.5 of 0:10.0: reads as neutral 30%, uncertain, valence 0.00",
        2.5: "0:02.5 of 0:10.0: reads as surprise 94%, valence 0.00",
        6.5: "0:06.5 of 0:10.0: not visible",
        8.0: "0:08.0 of 0:10.0: reads as happy 70%, valence +0.65",
    }
    assert slider.get_attribute("aria-label") == "Timeline of person 0"


def test_a_click_and_a_drag_go_to_moments(bench: Benches) -> None:
    page = bench()
    slider = shown(page)
    box = slider.bounding_box()
    middle, y = box["x"] + box["width"] / 2, box["y"] + 100
    page.mouse.click(middle, y)
    assert now(slider) == pytest.approx(5, abs=0.5)
    page.mouse.move(middle, y)
    page.mouse.down()
    page.mouse.move(middle + 100, y)
    page.mouse.move(box["x"] + box["width"] + 500, y)  # beyond its end
    page.mouse.up()
    page.mouse.move(middle, y)
    assert now(slider) == 10
    assert len(page.evaluate("seeks")) == 4


def test_a_span_is_chosen_by_a_drag_with_shift_and_by_keys(bench: Benches) -> None:
    page = bench()
    slider = shown(page)
    box = slider.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + 100
    page.keyboard.down("Shift")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 200, y)
    page.mouse.up()
    page.keyboard.up("Shift")
    (dragged,) = page.evaluate("spans")
    assert 2 < dragged["start"] < dragged["end"] < 6
    assert page.evaluate("seeks") == []
    page.evaluate("timeline.select(null)")
    slider.focus()
    for key in ("Home", "[", "PageUp", "PageUp", "]"):
        page.keyboard.press(key)
    assert page.evaluate("spans").pop() == pytest.approx({"start": 0, "end": 1})


def test_it_zooms_in_and_the_cursor_stays_in_view(bench: Benches) -> None:
    page = bench()
    slider = shown(page, 60, 10)
    page.evaluate("timeline.cursor(30)")
    for _ in range(3):
        page.get_by_role("button", name="Zoom in").click()
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 60, box["y"] + 100)
    assert 33 < now(slider) < 40
    slider.focus()
    page.keyboard.press("End")
    page.evaluate("drawn()")
    page.mouse.click(box["x"] + box["width"] - 60, box["y"] + 100)
    assert 55 < now(slider) <= 60
    page.get_by_role("button", name="Show everything").click()
    page.evaluate("drawn()")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 100)
    assert now(slider) == pytest.approx(30, abs=2)


def test_an_empty_timeline_shows_a_hint(bench: Benches) -> None:
    page = bench()
    shown(page)
    page.evaluate("timeline.set([])")
    assert page.get_by_role("slider").count() == 0
    assert page.get_by_text("Results appear here").is_visible()


def test_rows_are_appended_while_they_come(bench: Benches) -> None:
    page = bench()
    slider = shown(page, 60, 10)
    page.evaluate("timeline.set(results.slice(0, 50), { window: 5 })")
    assert slider.get_attribute("aria-valuemax") == "5.00"
    page.evaluate("for (const result of results.slice(50)) timeline.append(result)")
    page.evaluate("drawn()")
    assert slider.get_attribute("aria-valuemax") == "60.00"
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 100, box["y"] + 100)  # the left end of the last five seconds
    assert 55 <= now(slider) < 56


# ---------------------------------------------------------------- how it looks
def pixels_of(page: Page) -> Image.Image:
    """What the timeline's canvas holds, at a pixel of the screen each."""
    page.evaluate("drawn()")
    return image_of(page.evaluate(f"async () => ({BYTES_OF})(await canvasBlob())"))


BYTES_OF = "async (blob) => [...new Uint8Array(await blob.arrayBuffer())]"


def image_of(content: list[int]) -> Image.Image:
    return Image.open(io.BytesIO(bytes(content))).convert("RGB")


def count_of(picture: Image.Image, colour: str) -> int:
    """How many pixels have a colour, nearly."""
    apart = np.abs(np.asarray(picture, np.int16) - np.array(ImageColor.getrgb(colour)[:3]))
    return int((apart.max(axis=2) <= 3).sum())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_single_frame_in_an_hour_can_be_seen(bench: Benches, scheme: str) -> None:
    page = bench(scheme=scheme)
    shown(page, 3600, 10)
    (lane,) = (
        group for group in figure(page).iter(f"{SVG}g") if group.get("data-name") == "surprise"
    )
    highest = {
        kind: least_y(path)
        for kind, path in zip(("peak", "mean"), lane.iter(f"{SVG}path"), strict=False)
    }
    # A lane is 32 units high: the peak of 0.94 reaches its top, the mean of its column does not.
    assert highest["mean"] - highest["peak"] > 20


def least_y(path: ElementTree.Element) -> float:
    return min(float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path.get("d") or ""))


def test_it_is_redrawn_when_the_theme_changes(bench: Benches) -> None:
    page = bench()
    shown(page)
    light = pixels_of(page)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    dark = pixels_of(page)
    assert light.size == dark.size
    lane = {"light": "#eceeed", "dark": "#0a0f0e"}
    assert count_of(light, lane["light"]) > 5000 > count_of(light, lane["dark"])
    assert count_of(dark, lane["dark"]) > 5000 > count_of(dark, lane["light"])
    for picture in (light, dark):
        assert count_of(picture, EMOTION_COLORS["happy"]) > 500


def test_it_follows_the_width(bench: Benches) -> None:
    page = bench()
    shown(page)
    before = page.evaluate("document.querySelector('.timeline-canvas').width")
    page.set_viewport_size({"width": 340, "height": 700})
    page.wait_for_function(
        "(old) => document.querySelector('.timeline-canvas').width < old", arg=before
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 340


# ---------------------------------------------------------------- figures
def figure(page: Page) -> ElementTree.Element:
    return ElementTree.fromstring(page.evaluate("timeline.toSvg()"))


def test_the_svg_is_self_contained(bench: Benches) -> None:
    page = bench(scheme="dark")
    shown(page, 10, 10, markers=MARKERS)
    root = figure(page)
    names = {each.get("data-name") for each in root.iter(f"{SVG}g")}
    assert {*EMOTIONS, "valence", "likeliest", "uncertain", "not seen", "markers", "time"} <= names
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert 'a joke <b> & "more"' in texts
    assert {"talk.mp4", "knock", "debrief", "mean", "not visible", "uncertain", *EMOTIONS} <= set(
        texts
    )
    assert any(text and text.startswith("mien studio · mien-nano 1.0.0 · people") for text in texts)
    assert root.find(f"{SVG}title") is not None
    ground = root.find(f"{SVG}rect")
    assert ground is not None
    assert ground.get("fill") == "#ffffff"
    tags = {each.tag.removeprefix(SVG) for each in root.iter()}
    assert tags <= {
        "svg",
        "title",
        "desc",
        "defs",
        "pattern",
        "clipPath",
        "g",
        "rect",
        "path",
        "text",
    }
    assert not {
        name
        for each in root.iter()
        for name in each.attrib
        if name in ("style", "href") or name.startswith("on")
    }


def test_a_browser_draws_the_svg(bench: Benches) -> None:
    page = bench()
    shown(page, 10, 10, markers=MARKERS)
    size = page.evaluate(
        """async () => {
          const picture = new Image();
          const content = new Blob([timeline.toSvg()], { type: "image/svg+xml" });
          picture.src = URL.createObjectURL(content);
          await picture.decode();
          return [picture.naturalWidth, picture.naturalHeight];
        }"""
    )
    assert size[0] == 1200
    assert 400 < size[1] < 700


def test_the_png_is_large_and_white_whatever_the_theme(bench: Benches) -> None:
    page = bench(scheme="dark")
    shown(page, 10, 10, markers=MARKERS)
    picture = image_of(page.evaluate(f"async () => ({BYTES_OF})(await timeline.toPng())"))
    assert picture.width == 2400
    assert 800 < picture.height < 1400
    assert picture.getpixel((3, 3)) == (255, 255, 255)
    for emotion in ("neutral", "happy", "surprise"):
        assert count_of(picture, EMOTION_COLORS[emotion]) > 200, emotion


# ---------------------------------------------------------------- the report
def report(page: Page, seconds: int, options: Mapping[str, Any]) -> None:
    page.evaluate(
        """([seconds, options]) => {
          window.results = seconds > 0 ? made(seconds, 10) : [];
          const span = options.baseline;
          const baseline = span ? analysis.measureBaseline(results, span) : null;
          main.replaceChildren(renderReport(results, { palette, ...options, baseline }));
        }""",
        [seconds, options],
    )


def cells(page: Page, table: str) -> list[list[str]]:
    found = page.get_by_role("table").filter(has=page.locator("caption", has_text=table))
    return [row.locator("th, td").all_inner_texts() for row in found.get_by_role("row").all()]


def test_the_report_has_people_episodes_and_events(bench: Benches) -> None:
    page = bench()
    report(page, 10, {"markers": MARKERS})
    head, *people = cells(page, "People")
    assert head[:3] == ["Person", "Visible", "Shares of time"]
    assert head[3:] == [*EMOTIONS, "Valence", "Uncertain"]
    first = dict(zip(head, people[0], strict=True))
    assert first["Person"] == "Person 0"
    assert (first["Visible"], first["neutral"], first["happy"], first["Uncertain"]) == (
        "9.2 s",
        "53%",
        "46%",
        "11%",
    )
    assert (people[1][0], people[1][1], people[1][head.index("sad")]) == (
        "Person 1",
        "2.0 s",
        "100%",
    )
    _, *episodes = cells(page, "Episodes")
    assert ["Person 0", "0:02.5", "0:02.6", "0.1 s", "surprise", "94%", "94%"] in episodes
    head, *events = cells(page, "Events")
    assert [(row[0], row[3]) for row in events] == [
        ('a joke <b> & "more"', "Person 0"),
        ("overlapping", "Person 0"),
        ("knock", "nobody"),
        ("debrief", "Person 0"),
        ("debrief", "Person 1"),
    ]
    assert events[0][head.index("Reads as")] == "neutral"
    scopes = page.locator("th").evaluate_all(
        "(all) => all.every((one) => ['row', 'col'].includes(one.scope))"
    )
    assert scopes


def test_the_report_explains_what_a_baseline_corrects(bench: Benches) -> None:
    page = bench()
    report(page, 10, {"baseline": {"start": 6, "end": 8}, "markers": MARKERS[3:]})
    head, *people = cells(page, "People")
    assert people[0][head.index("happy")] == "0%"  # who is happy in the baseline looks so at rest
    assert people[1][0] == "Person 1 (not in the baseline)"
    assert page.get_by_text("Not corrected by the baseline.").count() == 1
    assert page.get_by_text("their valence. Corrected by the baseline.").count() == 1


def test_an_empty_report_shows_a_message(bench: Benches) -> None:
    page = bench()
    report(page, 0, {})
    assert page.get_by_text("No face was seen.", exact=True).is_visible()
    assert page.get_by_role("table").count() == 0


def test_long_tables_are_shown_on_demand(bench: Benches) -> None:
    page = bench()
    markers = [
        {"start": number, "end": number + 1, "label": f"event {number}"} for number in range(40)
    ]
    report(page, 60, {"markers": markers})
    assert len(cells(page, "Events")) == 26
    page.get_by_role("button", name="Show all 40 rows").click()
    assert len(cells(page, "Events")) == 41


# ---------------------------------------------------------------- everybody can use them
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_problems(bench: Benches, size: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = bench(size, scheme)
    shown(page, 10, 10, markers=MARKERS)
    page.evaluate(
        """(markers) => {
          const title = Object.assign(document.createElement("h1"), { textContent: "Components" });
          main.prepend(title);
          main.append(renderReport(results, { palette, markers }));
        }""",
        MARKERS,
    )
    assert violations_of(axe.run(page)) == []
    page.evaluate("timeline.set([]); main.lastChild.replaceWith(renderReport([], { palette }))")
    assert violations_of(axe.run(page)) == []


def violations_of(found: Any) -> list[Any]:
    """What axe found: the rule, and where."""
    violations = found.response["violations"]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations]


def test_a_download_has_its_name_and_content(bench: Benches) -> None:
    page = bench()
    for content, expected in (
        ('"größer"', "größer".encode()),
        ("new Uint8Array([1, 2])", b"\x01\x02"),
    ):
        with page.expect_download() as info:
            page.evaluate(f"download('a file.txt', {content}, 'text/plain')")
        assert info.value.suggested_filename == "a file.txt"
        assert info.value.path().read_bytes() == expected
