"""The webcam, video files, and sessions side by side, in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from browser_maker import PHOTO, Visit, serving, violations
from mien.core.emotions import EMOTIONS
from mien.core.results import table_columns
from mien.video.summary import comparison_columns, event_columns
from waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

Visits = Callable[..., Visit]
FPS = 25
HAS_BOXES = """() => {
  const canvas = document.querySelector(".live-boxes");
  if (!canvas?.width) return false;
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  return data.some((value, at) => at % 4 === 3 && value > 200);
}"""


def scene(left: int | None, *, second: bool = False) -> Image.Image:
    """A picture, 640 by 480: a face that is so far from the left, or nobody."""
    picture = Image.new("RGB", (640, 480), (96, 90, 84))
    with Image.open(PHOTO) as photo:
        face = photo.convert("RGB")
    if left is not None:
        picture.paste(face.resize((420, 420)), (left, 40))
    if second:
        picture.paste(face.crop((140, 10, 320, 190)).resize((150, 150)), (4, 300))
    return picture


def write_clip(path: Path, pictures: list[Image.Image], *, codec: str = "libx264") -> Path:
    """Write pictures as a video, 25 a second."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def camera_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the camera shows, 4 seconds: a face that moves, leaves and comes back."""
    path = tmp_path_factory.mktemp("live") / "camera.mjpeg"
    content = io.BytesIO()
    for number in range(4 * FPS):
        here = not 60 <= number < 70
        scene(40 + number if here else None).save(content, "JPEG", quality=90)
    path.write_bytes(content.getvalue())
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 2 seconds: a face that moves; in the last half second another one, too."""
    pictures = [scene(40 + number, second=number >= 38) for number in range(2 * FPS)]
    return write_clip(tmp_path_factory.mktemp("live") / "clip.mp4", pictures)


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def save(visit: Visit, panel: Any, item: str) -> tuple[str, bytes]:
    """Save a session's file, by its name in the menu."""
    panel.get_by_role("button", name="Save", exact=True).click()
    entry = panel.get_by_role("menuitem").filter(has_text=item).first
    return visit.saved(entry.click)


# ---------------------------------------------------------------- the webcam
def start_camera(visit: Visit) -> Page:
    """Start the camera; return the page once a face is read."""
    page = visit.ready()
    page.get_by_role("button", name="Start the camera").click()
    page.wait_for_function(HAS_BOXES)
    return page


def wait_for_badge(page: Page, text: str | re.Pattern[str]) -> None:
    """Wait until the remark in the picture's corner says something."""
    page.locator(".live-badge", has_text=text).wait_for()


def last_moment(page: Page) -> float:
    """The time of the last frame in the timeline."""
    return float(page.locator(".timeline-plot").get_attribute("aria-valuenow") or 0)


def wait_for_frames(page: Page) -> None:
    """Wait for a frame that was taken after this call: two may be on their way."""
    for _ in range(3):
        before = last_moment(page)
        until(lambda: last_moment(page) > before)  # noqa: B023


def note_remarks(page: Page) -> None:
    """Collect what the remark says from now on in ``remarks``, since it may be there briefly."""
    page.evaluate(
        """() => {
          globalThis.remarks = new Set();
          const badge = document.querySelector(".live-badge");
          const note = () => remarks.add(badge.textContent);
          new MutationObserver(note).observe(badge, { childList: true });
        }"""
    )


def remarks(page: Page) -> list[str]:
    found: list[str] = page.evaluate("[...remarks]")
    return found


def test_webcam_explains_itself_before_it_starts(visit: Visits) -> None:
    page = visit("webcam", camera=True).ready()
    text = page.locator("#view-webcam").inner_text()
    assert "will ask whether this page may use the camera" in text
    assert "Nothing is stored and nothing is sent" in text
    assert page.evaluate("document.querySelector('video').srcObject") is None


def test_webcam_shows_boxes_bars_and_a_running_timeline(visit: Visits) -> None:
    page = start_camera(visit("webcam", camera=True))
    page.get_by_role("heading", name=re.compile(r"Person \d+ reads as happy")).wait_for()
    happy = page.locator(".reading .bar.first")
    assert re.fullmatch(r"happy\s+\d\d%", happy.inner_text())
    assert page.locator(".reading .valence-value").inner_text().startswith("+0.")
    wait_for_badge(page, re.compile(r"^\d+ per second$"))
    timeline = page.get_by_role("slider", name=re.compile("Timeline of person"))
    assert float(timeline.get_attribute("aria-valuemax") or 0) == 60


def test_webcam_shows_that_no_face_is_in_view(visit: Visits) -> None:
    page = start_camera(visit("webcam", camera=True))
    wait_for_badge(page, "No face")
    page.get_by_text("No face.").wait_for()


def test_space_pauses_and_resumes(visit: Visits) -> None:
    page = start_camera(visit("webcam", camera=True))
    page.keyboard.press("Space")
    page.get_by_role("button", name="Resume").wait_for()
    wait_for_badge(page, "Paused")
    before = last_moment(page)
    page.wait_for_timeout(500)
    assert last_moment(page) == before
    page.keyboard.press("Space")
    wait_for_badge(page, "per second")
    until(lambda: last_moment(page) > before)


def test_recording_is_saved_as_table_session_and_picture(visit: Visits) -> None:
    seen = visit("webcam", camera=True)
    page = start_camera(seen)
    page.get_by_label("Name of event 1").fill("film")
    page.get_by_label("Name of event 1").blur()
    page.get_by_role("button", name="Record", exact=True).click()
    wait_for_frames(page)
    page.keyboard.press("m")
    page.get_by_role("button", name="End film").wait_for()
    wait_for_frames(page)
    page.keyboard.press("1")
    wait_for_frames(page)
    page.get_by_role("button", name="Stop recording").click()
    panel = page.locator(".session")
    panel.get_by_text("Not saved").wait_for()
    assert panel.get_by_label("Report").is_visible()

    name, picture = save(seen, panel, "PNG picture")
    assert name.startswith("Webcam-")
    assert name.endswith(".png")
    assert min(Image.open(io.BytesIO(picture)).size) > 200
    assert panel.get_by_text("Not saved").is_visible()

    name, content = save(seen, panel, "one row per face")
    rows = rows_of(content)
    assert name.endswith(".csv")
    assert list(rows[0]) == list(table_columns(EMOTIONS, smoothed=True))
    times = [float(row["time_s"]) for row in rows]
    assert times[0] == 0  # the moment that recording began, whoever was there
    assert times == sorted(times)
    assert panel.get_by_text("Saved", exact=True).is_visible()

    _, content = save(seen, panel, "opens in Compare")
    session = json.loads(content)
    assert session["schema"] == "mien-session/1"
    assert session["model"]["name"] == "mien-nano"
    (marker,) = session["markers"]
    assert marker["label"] == "film"
    assert 0 < marker["start"] < marker["end"] < times[-1]
    assert len(session["results"]) == len({row["frame"] for row in rows})

    _, content = save(seen, panel, "per person and event")
    rows = rows_of(content)
    assert list(rows[0]) == event_columns(EMOTIONS, corrected=False)
    assert {row["label"] for row in rows} == {"film"}


def test_page_asks_before_discarding_an_unsaved_recording(visit: Visits) -> None:
    page = start_camera(visit("webcam", camera=True))
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Record", exact=True).click()
    wait_for_frames(page)
    page.get_by_role("tab", name="Compare").click()  # the camera goes off, the recording is kept
    page.get_by_role("heading", name=re.compile("^Webcam ")).wait_for()
    page.get_by_role("tab", name="Webcam").click()
    page.get_by_role("button", name="Start the camera").wait_for()
    assert page.evaluate("document.querySelector('video').srcObject") is None
    with page.expect_event("dialog") as leaving:
        page.evaluate("() => void setTimeout(() => location.reload())")
    assert leaving.value.type == "beforeunload"
    panel = page.locator(".session")
    panel.get_by_role("button", name="Discard").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
    assert panel.is_visible()
    panel.get_by_role("button", name="Discard").click()
    page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    panel.wait_for(state="detached")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("heading", name="Compare sessions").wait_for()


@pytest.mark.slow
def test_baseline_adds_corrected_scores(visit: Visits) -> None:
    page = start_camera(visit("webcam", camera=True))
    note_remarks(page)
    corrected, read = set_baseline(page)
    assert any("Look neutral in" in each for each in remarks(page))
    # A person who smiles at rest is neutral when smiling.
    assert corrected.split()[0] == "neutral"
    assert read.split()[0] == "happy"
    page.get_by_role("button", name="Reset").click()
    page.locator(".reading [aria-label=Corrected]").wait_for(state="detached")


def set_baseline(page: Page, attempts: int = 10) -> tuple[str, str]:
    """Set the baseline; return the texts of the first corrected bar and of the first original one.

    A machine that reads no frame for seconds loses track of the person, who then needs another.
    """
    first_bars = """() => ["Corrected", "Original"].map((name) =>
      document.querySelector(`.reading [aria-label=${name}] .bar.first`)?.innerText)"""
    for _ in range(attempts):
        page.get_by_role("button", name="Set baseline").click()
        page.get_by_text("Corrected by the baseline of Person").wait_for()
        for _ in range(120):
            corrected, original = page.evaluate(first_bars)
            if corrected and original:
                return corrected, original
            page.wait_for_timeout(100)
    raise AssertionError(f"no corrected scores after {attempts} baselines")


def test_unavailable_camera_can_be_retried(visit: Visits) -> None:
    page = visit("webcam", camera=True).ready()
    start = page.get_by_role("button", name="Start the camera")
    for error, title in (
        ("NotAllowedError", "Camera access was denied"),
        ("NotFoundError", "No camera found"),
        ("NotReadableError", "The camera is in use"),
        ("TypeError", "The camera could not be started"),
    ):
        page.evaluate(
            """(name) => {
              const wrong = name === "TypeError" ? new TypeError("x") : new DOMException("x", name);
              navigator.mediaDevices.getUserMedia = () => Promise.reject(wrong);
            }""",
            error,
        )
        start.click()
        alert = page.get_by_role("alert").filter(has_text=title)
        alert.wait_for()
        start = alert.get_by_role("button", name="Try again")


def test_another_camera_can_be_chosen(visit: Visits) -> None:
    page = visit("webcam", camera=True).ready()
    page.evaluate(
        """() => {
          const { mediaDevices } = navigator;
          const open = mediaDevices.getUserMedia.bind(mediaDevices);
          const camera = (deviceId, label) => ({ kind: "videoinput", deviceId, label });
          mediaDevices.enumerateDevices = async () => [camera("a", "Front"), camera("b", "")];
          mediaDevices.getUserMedia = ({ video, audio }) => {
            window.asked = video.deviceId?.exact ?? null;
            return open({ video: true, audio });
          };
        }"""
    )
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_label("Camera", exact=True).and_(page.locator("select")).select_option("Camera 2")
    page.wait_for_function("() => window.asked === 'b'")
    page.wait_for_function(HAS_BOXES)


def test_camera_refused_by_the_browser(visit: Visits) -> None:
    page = visit("webcam").ready()
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_role("heading", name="Camera access was denied").wait_for()


KEEP_TRACKS = """() => {
  const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  globalThis.given = [];
  navigator.mediaDevices.getUserMedia = async (wishes) => {
    await new Promise((resolve) => setTimeout(resolve, 700));
    const stream = await ask(wishes);
    given.push(...stream.getTracks());
    return stream;
  };
}"""


HOLD_VIDEO = """(count) => {
  const usual = createImageBitmap;
  const held = new Promise((resolve) => (globalThis.release = resolve));
  let frames = 0;
  globalThis.createImageBitmap = async (image, ...options) => {
    if (image instanceof HTMLVideoElement && ++frames > count) await held;
    return usual(image, ...options);
  };
}"""
"""Makes the page wait after so many frames of a video until `release` is called."""


def wait_for_focus(page: Page, words: str) -> None:
    """Wait until the focus is on something whose words or class begin so."""
    until(lambda: focused(page).startswith(words))


def focused(page: Page) -> str:
    """What the focus is on: a button's words, or an element's class."""
    words: str = page.evaluate(
        """() => {
          const { activeElement: focused } = document;
          return focused.checkVisibility() ? focused.innerText || focused.className : "nothing";
        }"""
    )
    return words


def test_camera_is_turned_off_if_the_view_is_left_while_it_starts(visit: Visits) -> None:
    opened = visit("webcam", camera=True)
    page = opened.ready()
    page.evaluate(KEEP_TRACKS)
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_role("tab", name="Picture").click()
    page.get_by_role("tab", name="Webcam").click()
    page.get_by_role("button", name="Start the camera").click()
    opened.until("given.length === 2 && document.querySelector('video').srcObject !== null")
    opened.until("given.filter((track) => track.readyState === 'live').length === 1")
    page.get_by_role("button", name="Camera off").click()
    assert page.evaluate("given.map((track) => track.readyState)") == ["ended", "ended"]


def test_changing_the_reading_causes_no_error(visit: Visits) -> None:
    page = start_camera(visit("webcam", camera=True))
    note_remarks(page)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("FER-2013").check()
    page.keyboard.press("Escape")
    page.locator(".state[data-phase=ready]", has_text="FER-2013").wait_for()
    page.wait_for_timeout(1000)
    wait_for_badge(page, "per second")
    assert not [each for each in remarks(page) if "Not read" in each]


def test_focus_moves_on_when_the_camera_starts(visit: Visits) -> None:
    page = visit("webcam", camera=True).ready()
    page.get_by_role("button", name="Start the camera").press("Enter")
    wait_for_focus(page, "Pause")
    page.get_by_role("button", name="Camera off").press("Enter")
    wait_for_focus(page, "Start the camera")


def test_focus_moves_on_when_the_camera_is_refused(visit: Visits) -> None:
    page = visit("webcam").ready()
    page.get_by_role("button", name="Start the camera").press("Enter")
    page.get_by_role("heading", name="Camera access was denied").wait_for()
    wait_for_focus(page, "Try again")


def test_focus_moves_on_when_a_video_is_opened(visit: Visits, clip: Path) -> None:
    page = visit("video").ready()
    page.get_by_role("button", name="Choose a video").focus()
    page.locator(".video input[type=file]").first.set_input_files(str(clip))
    wait_for_focus(page, "Read the video")
    page.evaluate(HOLD_VIDEO, 1)
    page.keyboard.press("Enter")
    wait_for_focus(page, "Reading")
    page.evaluate("release()")
    until(lambda: page.evaluate("document.activeElement.matches('.session')"))
    page.locator(".session .report table").first.wait_for()
    page.get_by_role("button", name="Discard").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Discard").press("Enter")
    page.get_by_label("Frames per second").wait_for()
    wait_for_focus(page, "Read the video")


def test_going_back_keeps_the_focus(visit: Visits) -> None:
    page = visit("compare").ready()
    page.get_by_role("link", name="video").press("Enter")
    page.locator("#view-video").wait_for()
    wait_for_focus(page, "Video")
    page.go_back()
    page.locator("#view-compare").wait_for()
    assert focused(page) == "Video"  # it had it and is there still


def test_camera_needs_a_secure_page(visit: Visits) -> None:
    page = visit("webcam", camera=True).ready()
    page.evaluate("Object.defineProperty(window, 'isSecureContext', { value: false })")
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_role("heading", name="The camera needs a secure page").wait_for()
    assert "http://localhost" in page.get_by_role("alert").inner_text()


# ---------------------------------------------------------------- video files
def open_video(visit: Visit, path: Path) -> Page:
    page = visit.ready()
    page.locator("#view-video input[type=file]").first.set_input_files(path)
    return page


def read_video(visit: Visit, path: Path, rate: str = "5 per second") -> Page:
    """Open a video and read it to its end."""
    page = open_video(visit, path)
    page.get_by_label("Frames per second").select_option(label=rate)
    page.get_by_role("button", name="Read the video").click()
    page.get_by_role("button", name="Stop here").wait_for(state="hidden")
    return page


def session_of(visit: Visit) -> dict[str, Any]:
    panel = visit.page.locator(".session")
    content = save(visit, panel, "opens in Compare")[1]
    session: dict[str, Any] = json.loads(content)
    return session


def test_video_gives_the_same_frames_each_time(visit: Visits, clip: Path) -> None:
    found = []
    for _ in range(2):
        seen = visit("video")
        read_video(seen, clip)
        found.append(session_of(seen)["results"])
    assert [result["time_s"] for result in found[0]] == pytest.approx(
        [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4, 1.6, 1.8], abs=1e-3
    )
    assert [result["frame"] for result in found[0]] == list(range(10))
    assert found[0] == found[1]
    assert [len(result["faces"]) for result in found[0]] == [1] * 8 + [2] * 2


def test_each_moment_has_the_pixels_of_its_frame(visit: Visits, tmp_path: Path) -> None:
    greys = [Image.new("RGB", (640, 480), (10 + 20 * number,) * 3) for number in range(12)]
    content = write_clip(tmp_path / "greys.mp4", greys).read_bytes()
    found = visit("video").page.evaluate(
        """async (bytes) => {
          const { openVideo, videoFrames } = await import("/studio/live/frames.js");
          const canvas = new OffscreenCanvas(1, 1);
          const context = canvas.getContext("2d", { willReadFrequently: true });
          const video = await openVideo(new File([Uint8Array.from(bytes)], "greys.mp4"));
          const found = [];
          for await (const { image, time_s } of videoFrames(video, { rate: 10 })) {
            context.drawImage(image, 0, 0, 1, 1);
            found.push([time_s, context.getImageData(0, 0, 1, 1).data[0]]);
          }
          return found;
        }""",
        list(content),
    )
    # A tenth of a second lies within a frame of the file, which is shown from its own moment on.
    assert [time for time, _ in found] == pytest.approx([0, 0.08, 0.2, 0.28, 0.4], abs=1e-3)
    assert [grey for _, grey in found] == pytest.approx([10, 50, 110, 150, 210], abs=4)


@pytest.mark.parametrize("count", [2, 12])
def test_video_is_read_frame_by_frame(visit: Visits, tmp_path: Path, count: int) -> None:
    short = write_clip(tmp_path / "short.mp4", [scene(40 + 3 * number) for number in range(count)])
    seen = visit("video")
    read_video(seen, short, "Every frame")
    results = session_of(seen)["results"]
    times = [result["time_s"] for result in results]
    assert times == pytest.approx(np.arange(count) / FPS, abs=1e-3)


def test_video_is_navigated_with_timeline_and_keys(visit: Visits, clip: Path) -> None:
    page = read_video(visit("video"), clip)
    page.wait_for_function(HAS_BOXES)
    timeline = page.get_by_role("slider", name=re.compile("Timeline of person"))
    timeline.press("End")
    page.wait_for_function("() => document.querySelector('video').currentTime > 1.7")
    page.get_by_role("button", name=re.compile(r"^Person 1 · ")).wait_for()
    box = timeline.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("() => document.querySelector('video').currentTime < 1.5")
    page.get_by_role("slider", name="Moment of the video").fill("0")
    page.wait_for_function("() => document.querySelector('video').currentTime === 0")
    assert float(timeline.get_attribute("aria-valuenow") or 1) == 0
    page.evaluate("document.querySelector('video').loop = true")  # for a busy machine it is short
    page.locator("body").press("Space")
    page.get_by_role("button", name="Pause").wait_for()
    page.wait_for_function("() => document.querySelector('video').currentTime > 0.3")
    page.locator("body").press("Space")
    page.get_by_role("button", name="Play").wait_for()


def test_video_has_events_a_baseline_and_a_report(
    visit: Visits, clip: Path, tmp_path: Path
) -> None:
    seen = visit("video")
    page = read_video(seen, clip)
    markers = tmp_path / "events.csv"
    markers.write_text("start;end;label\n0:00.5;1.5;film\n")
    page.locator(".session input[type=file]").set_input_files(markers)
    page.get_by_role("button", name="Go to 0:00.5").wait_for()
    page.get_by_label("From (seconds)").fill("0")
    page.get_by_label("To (seconds)").fill("1")
    page.locator(".session").get_by_role("button", name="Set baseline").click()
    page.get_by_text("Corrected by the baseline from 0:00.0 to 0:01.0.").wait_for()
    report = page.get_by_label("Report", exact=True)
    assert "film" in report.inner_text()
    assert "Corrected by the baseline" in report.inner_text()
    panel = page.locator(".session")
    rows = rows_of(save(seen, panel, "one row per face")[1])
    assert list(rows[0]) == list(table_columns(EMOTIONS, smoothed=True, corrected=True))
    assert rows[0]["emotion"] == "happy"
    assert rows[0]["corrected_emotion"] == "neutral"
    assert rows[0]["source"] == "clip.mp4"
    rows = rows_of(save(seen, panel, "per person and event")[1])
    assert list(rows[0]) == event_columns(EMOTIONS, corrected=True)
    assert (rows[0]["start_s"], rows[0]["end_s"]) == ("0.5", "1.5")
    assert b"<svg" in save(seen, panel, "SVG drawing")[1]
    page.locator(".session").get_by_role("button", name="Reset").click()
    page.locator(".session input[type=file]").set_input_files(
        {"name": "wrong.csv", "mimeType": "text/csv", "buffer": b"a,b\n1,2\n"}
    )
    page.get_by_text("wrong.csv was not loaded").wait_for()


# What browsers without timestamps of frames say: nothing, millionths of the time, the time sought.
NO_TIMESTAMPS = {
    "old": "() => { delete globalThis.VideoFrame; }",
    "firefox": """() => {
      globalThis.VideoFrame = class {
        constructor(video) { this.timestamp = Math.floor(video.currentTime); }
        close() {}
      };
    }""",
    "webkit": """() => {
      globalThis.VideoFrame = class {
        constructor(video) { this.timestamp = 1e6 * (video.currentTime + 0.08); }
        close() {}
      };
    }""",
}


@pytest.mark.parametrize("script", NO_TIMESTAMPS.values(), ids=NO_TIMESTAMPS.keys())
def test_video_is_read_without_timestamps(visit: Visits, clip: Path, script: str) -> None:
    seen = visit("video")
    seen.page.evaluate(script)
    read_video(seen, clip)
    results = session_of(seen)["results"]
    assert [result["time_s"] for result in results] == pytest.approx(np.arange(10) / 5)
    assert [len(result["faces"]) for result in results] == [1] * 8 + [2] * 2


def test_every_frame_needs_timestamps_or_the_server(visit: Visits, clip: Path) -> None:
    seen = visit("video")
    seen.page.evaluate(NO_TIMESTAMPS["old"])
    page = open_video(seen, clip)
    page.get_by_label("Frames per second").select_option(label="Every frame")
    page.get_by_text("This browser does not tell when each frame begins").wait_for()
    assert page.get_by_role("button", name="Read the video").is_disabled()
    seen.read_on_server()
    page.get_by_text("Every frame of the file.").wait_for()
    assert page.get_by_role("button", name="Read the video").is_enabled()


# A video that is at its only moment, and one whose duration exceeds its last frame.
ODD_VIDEOS = """
async () => {
  const { videoFrames } = await import("/studio/live/frames.js");
  globalThis.createImageBitmap = async () => null;
  const seeks = [];
  class Video extends EventTarget {
    #time = 0;
    get currentTime() { return this.#time; }
    get readyState() { return this.#time < 0.3 ? 4 : 1; }
    set currentTime(time) {
      seeks.push(this.#time = time);
      setTimeout(() => this.dispatchEvent(new Event("seeked")));
    }
    requestVideoFrameCallback(callback) { setTimeout(callback); }
  }
  const times = [];
  for (const duration of [0.1, 0.4]) {
    for await (const { time_s } of videoFrames({ element: new Video(), duration }, { rate: 10 })) {
      times.push(time_s);
    }
  }
  return [times, seeks];
}
"""


def test_no_frame_is_awaited_where_none_comes(visit: Visits) -> None:
    times, seeks = visit("video").ready().evaluate(ODD_VIDEOS)
    assert times == pytest.approx([0, 0, 0.1, 0.2])
    assert seeks == pytest.approx([0.1, 0.2, 0.3])


# A video, 25 frames per second, whose frames are shown long after "seeked", as on a busy machine.
# For the first HIDDEN of them the tab is hidden and presents none.
SLOW_VIDEO = """
async () => {
  const { videoFrames } = await import("/studio/live/frames.js");
  let shown = 0;
  let seeks = 0;
  Object.defineProperty(document, "hidden", { get: () => seeks <= HIDDEN });
  class SlowVideo extends EventTarget {
    readyState = 4;
    #callbacks = [];
    requestVideoFrameCallback(callback) {
      seeks += 1;
      if (!document.hidden) this.#callbacks.push(callback);
    }
    set currentTime(time) {
      setTimeout(() => this.dispatchEvent(new Event("seeked")), 5);
      setTimeout(() => {
        shown = Math.floor(time * 25 + 1e-6) / 25;
        this.#callbacks.splice(0).forEach((callback) => callback());
      }, document.hidden ? 5 : 400);
    }
  }
  globalThis.VideoFrame = class { timestamp = shown * 1e6; close() {} };
  globalThis.createImageBitmap = async () => null;
  const video = { element: new SlowVideo(), duration: 0.4, hasTimestamps: true };
  const times = [];
  for await (const { time_s } of videoFrames(video, { rate: RATE })) times.push(time_s);
  return times;
}
"""


@pytest.mark.parametrize("hidden", [0, 2])
@pytest.mark.parametrize(("rate", "expected"), [(10, [0, 0.08, 0.2, 0.28]), (50, 10)])
def test_no_frame_is_lost_on_a_busy_machine(
    visit: Visits, rate: int, expected: list[float] | int, hidden: int
) -> None:
    page = visit("video").ready()
    script = SLOW_VIDEO.replace("RATE", str(rate)).replace("HIDDEN", str(hidden))
    times = page.evaluate(script)
    if isinstance(expected, int):
        expected = [number / 25 for number in range(expected)]
    assert times == pytest.approx(expected)


def test_stopped_video_keeps_what_was_read(visit: Visits, clip: Path) -> None:
    seen = visit("video")
    page = open_video(seen, clip)
    page.get_by_label("Frames per second").select_option(label="25 per second")
    page.evaluate(HOLD_VIDEO, 3)
    page.get_by_role("button", name="Read the video").click()
    page.get_by_text("3 of 50 frames").wait_for()
    page.get_by_role("button", name="Stop here").click()
    page.evaluate("release()")
    page.get_by_text("Not saved").wait_for()
    assert 3 <= len(session_of(seen)["results"]) <= 4


def test_changing_the_reading_stops_a_video_with_a_message(visit: Visits, clip: Path) -> None:
    page = open_video(visit("video"), clip)
    page.get_by_label("Frames per second").select_option(label="25 per second")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.evaluate(HOLD_VIDEO, 1)
    page.evaluate("document.querySelector('.video .button.primary').click()")
    page.get_by_label("FER-2013").check()
    page.evaluate("release()")
    page.get_by_role("status").filter(has_text="The model or reading was changed").wait_for()
    page.keyboard.press("Escape")
    page.locator(".state[data-phase=ready]", has_text="FER-2013").wait_for()


def test_video_without_a_face(visit: Visits, tmp_path: Path) -> None:
    seen = visit("video")
    page = read_video(seen, write_clip(tmp_path / "empty.mp4", [scene(None)] * 10))
    page.get_by_text("No face was found in this video").wait_for()
    assert [result["status"] for result in session_of(seen)["results"]] == ["no_face"] * 2


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("holiday.mp4", b"not a video" * 100, "This browser cannot play holiday.mp4"),
        ("nothing.mp4", b"", "nothing.mp4 is empty"),
    ],
)
def test_video_that_cannot_be_read(
    visit: Visits, tmp_path: Path, name: str, content: bytes, title: str
) -> None:
    (tmp_path / name).write_bytes(content)
    page = open_video(visit("video"), tmp_path / name)
    alert = page.get_by_role("alert").filter(has_text=title)
    alert.wait_for()
    assert alert.get_by_role("button", name="Another video").is_visible()


# ---------------------------------------------------------------- sessions side by side
def test_sessions_side_by_side(visit: Visits, clip: Path, tmp_path: Path) -> None:
    seen = visit("video")
    page = read_video(seen, clip)
    page.keyboard.press("1")
    page.get_by_role("slider", name=re.compile("Timeline")).press("End")
    page.locator("body").press("1")
    other = session_of(seen) | {"name": "other"}
    other["results"] = other["results"][:5]
    (tmp_path / "other.json").write_text(json.dumps(other))
    (tmp_path / "wrong.json").write_text("{}")
    page.get_by_role("tab", name="Compare").click()
    files = [tmp_path / "other.json", tmp_path / "wrong.json"]
    page.locator("#view-compare input[type=file]").set_input_files(files)
    page.get_by_text("wrong.json was not opened").wait_for()
    lanes = page.locator(".lane")
    assert lanes.locator("h2").all_inner_texts() == ["clip.mp4", "other"]
    ends = {each.get_attribute("aria-valuemax") for each in lanes.get_by_role("slider").all()}
    assert len(ends) == 1
    assert page.get_by_role("table").count() >= 2
    name, content = seen.saved(page.get_by_role("button", name="Save the table").click)
    rows = rows_of(content)
    assert name == "comparison.csv"
    assert list(rows[0]) == comparison_columns(EMOTIONS, corrected=False)
    assert [(row["source"], row["frames"]) for row in rows] == [("clip.mp4", "10"), ("other", "5")]
    page.get_by_role("button", name="Close other").click()
    page.get_by_role("heading", name="other").wait_for(state="detached")
    page.get_by_role("button", name="Close clip.mp4").click()  # which is saved
    page.get_by_role("heading", name="Compare sessions").wait_for()
    page.get_by_role("tab", name="Video").click()
    page.get_by_role("button", name="Read the video").wait_for()


def saved_session(path: Path, name: str, scores: dict[str, float]) -> Path:
    """Write a session of two results with one face."""
    best = max(scores, key=scores.__getitem__)
    reading = {"emotion": best, "confidence": scores[best], "scores": scores}
    face = {
        "face_id": 0,
        "track_id": 0,
        "face_confidence": 0.9,
        "uncertain": False,
        "box": {"x": 1, "y": 1, "w": 40, "h": 40},
        "quality": {"flags": []},
        **reading,
        "smoothed": reading,
    }
    shot = {"schema": "mien/1", "status": "ok", "width": 64, "height": 64, "faces": [face]}
    results = [{**shot, "frame": at, "time_s": at / 10} for at in range(2)]
    head = {"schema": "mien-session/1", "name": name, "created": "", "labels": "own"}
    path.write_text(json.dumps({**head, "markers": [], "results": results}))
    return path


def test_emotions_that_a_model_lacks_are_not_zero(visit: Visits, tmp_path: Path) -> None:
    usual = dict.fromkeys(EMOTIONS, 0.0) | {"happy": 1.0}
    files = [
        saved_session(tmp_path / "usual.json", "n" * 5000, usual),
        saved_session(tmp_path / "own.json", "own", {"calm": 0.8, "constructor": 0.2}),
    ]
    page = visit("compare").ready()
    page.locator(".compare input[type=file]").set_input_files([str(each) for each in files])
    page.get_by_role("heading", name="own", exact=True).wait_for()
    assert len(page.locator(".lane h2").first.inner_text()) == 120
    table = page.get_by_role("table").first
    heads = table.locator("thead th").all_inner_texts()
    usual_row, own_row = (
        dict(zip(heads, row.locator("th, td").all_inner_texts(), strict=True))
        for row in table.locator("tbody tr").all()
    )
    assert own_row["happy"].split() == usual_row["calm"].split() == ["\u2013"]
    assert own_row["calm"].split() == ["80%", "100%"]
    assert own_row["constructor"].split() == ["20%", "0%"]
    assert usual_row["sad"].split() == ["0%", "0%"]


@pytest.mark.parametrize("name", ["frames", "source", "head", "valence", "share_calm", "means"])
def test_emotions_may_be_named_like_columns(visit: Visits, tmp_path: Path, name: str) -> None:
    file = saved_session(tmp_path / "own.json", "own", {"calm": 0.8, name: 0.2})
    page = visit("compare").ready()
    page.locator(".compare input[type=file]").set_input_files([str(file)])
    page.get_by_role("heading", name="own", exact=True).wait_for()
    cells = page.get_by_role("table").first.locator("tbody tr").first.locator("th, td")
    assert [cell.split() for cell in cells.all_inner_texts()[-2:]] == [
        ["80%", "100%"],
        ["20%", "0%"],
    ]


def test_empty_comparison_shows_a_hint(visit: Visits) -> None:
    page = visit("compare").page
    page.get_by_role("heading", name="Compare sessions").wait_for()
    page.get_by_role("link", name="Read a video").click()
    page.get_by_role("heading", name="See how expressions change in a video").wait_for()


# ---------------------------------------------------------------- on the server
def on_server(visit: Visits, view: str, **options: Any) -> Visit:
    seen = visit(view, **options)
    seen.page.evaluate("""localStorage.setItem("mien-studio", '{"side": "server"}')""")
    seen.page.reload()
    return seen


def test_server_reads_the_camera(visit: Visits) -> None:
    page = start_camera(on_server(visit, "webcam", camera=True))
    page.get_by_role("heading", name=re.compile(r"Person \d+ reads as happy")).wait_for()


def test_camera_waits_for_an_unreachable_server(visit: Visits) -> None:
    with serving() as first:
        seen = on_server(visit, "webcam", camera=True, at=first.url)
        page = start_camera(seen)
        first.stop()
        wait_for_badge(page, "Waiting for the server")
    with serving(port=first.port):
        page.locator(".live-badge", has_text="per second").wait_for()
        page.goto("about:blank")  # asks nothing of the server that stops here
    seen.forgive("WebSocket|ERR_|503")


def test_server_reads_a_video(visit: Visits, clip: Path) -> None:
    seen = on_server(visit, "video")
    page = open_video(seen, clip)
    assert "The video is sent to" in page.locator("#view-video .live-side").inner_text()
    page.get_by_label("Frames per second").select_option(label="5 per second")
    page.get_by_role("button", name="Read the video").click()
    page.locator("#view-video .report").wait_for()
    page.get_by_role("button", name="Stop here").wait_for(state="hidden")
    page.wait_for_function(HAS_BOXES)
    results = session_of(seen)["results"]
    assert len(results) == 10
    assert results[0]["source"] == "clip.mp4"
    assert results[0]["faces"][0]["smoothed"]["emotion"] == "happy"


def test_server_reads_what_the_browser_cannot_play(visit: Visits, tmp_path: Path) -> None:
    pictures = [scene(40 + number) for number in range(10)]
    seen = visit("video")
    page = open_video(seen, write_clip(tmp_path / "old.avi", pictures, codec="mpeg4"))
    page.get_by_role("heading", name="This browser cannot play old.avi").wait_for()
    page.get_by_role("button", name="Read on 127.0.0.1").click()
    page.get_by_label("Frames per second").select_option(label="Every frame")
    page.get_by_role("button", name="Read the video").click()
    page.locator("#view-video .report").wait_for()
    page.get_by_role("button", name="Stop here").wait_for(state="hidden")
    assert len(session_of(seen)["results"]) == 10


def test_server_refusals_are_shown(visit: Visits, tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"not a video" * 100)
    seen = visit("video")
    page = open_video(seen, tmp_path / "holiday.mp4")
    page.get_by_role("button", name="Read on 127.0.0.1").click()
    page.get_by_role("button", name="Read the video").click()
    page.get_by_role("alert").filter(has_text="The video was not read").wait_for()
    assert page.get_by_role("button", name="Read the video").is_visible()
    seen.forgive("422")


# ---------------------------------------------------------------- for everybody
@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_axe_finds_no_problems_during_analysis(
    visit: Visits, clip: Path, size: str, scheme: str
) -> None:
    page = start_camera(visit("webcam", size=size, scheme=scheme, camera=True))
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Begin Event 1").click()
    wait_for_frames(page)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Stop recording").click()
    assert not violations(page)
    page.get_by_role("tab", name="Video").click()
    page.locator("#view-video input[type=file]").first.set_input_files(clip)
    page.get_by_role("button", name="Read the video").wait_for()
    assert not violations(page)
    page.get_by_label("Frames per second").select_option(label="2 per second")
    page.get_by_role("button", name="Read the video").click()
    page.locator("#view-video .report").wait_for()
    page.get_by_role("button", name="Stop here").wait_for(state="hidden")
    assert not violations(page)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("heading", name="Sessions side by side").wait_for()
    assert not violations(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_phone_needs_no_sideways_scrolling(visit: Visits) -> None:
    page = visit("webcam", size="phone", scheme="dark").ready()
    for view in ("webcam", "video", "compare"):
        page.get_by_role("tab", name=view.capitalize()).click()
        page.locator(f"#view-{view} h1:visible").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
