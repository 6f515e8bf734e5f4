"""mien-web gives what mien gives in Python: the same boxes, crops and scores, in a real browser."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import mien
from mien.core.images import load_image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent.parent
MAKE_SITE = ROOT / "mien-web" / "example" / "make_site.py"
MODELS = ("mien-nano", "mien-b0")
SCORE_TOLERANCE = 1e-3

Picture = npt.NDArray[np.uint8]

HELPERS = """
window.blobOf = (text) => new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]);
window.opened = async (model, options = {}) => {
  const { loadRecognizer } = await import(new URL("mien-web/index.js", document.baseURI));
  return loadRecognizer({ model: `models/${model}`, runtime: "onnxruntime-web", ...options });
};
window.reason = (promise) => promise.then(() => "nothing went wrong", (error) => error.message);
"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the example's folder to itself alone, so that threads are allowed."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(needed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the example, laid out by its script."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, MAKE_SITE, folder, "--models", *MODELS], check=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    """The example, with a few helpers; what goes wrong on it fails the test."""
    context = browser.new_context()
    made = context.new_page()
    problems: list[str] = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda each: problems.append(each.text) if each.type == "error" else None)
    made.goto(site)
    made.evaluate(f"() => {{{HELPERS}}}")
    yield made
    context.close()
    assert not [each for each in problems if "404" not in each]


def png(picture: Picture) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def analyzed(page: Page, model: str, files: dict[str, bytes], **options: Any) -> dict[str, Any]:
    """What mien-web says of files, by their names; options are `loadRecognizer`'s."""
    given = {name: text_of(content) for name, content in files.items()}
    found: dict[str, Any] = page.evaluate(
        """async ([model, files, options, choice]) => {
          const recognizer = await opened(model, options);
          const results = {};
          for (const [source, text] of Object.entries(files)) {
            results[source] = await recognizer.analyze(blobOf(text), { source, ...choice });
          }
          recognizer.close();
          return results;
        }""",
        [model, given, options, options.pop("choice", {})],
    )
    return found


def assert_same(there: dict[str, Any], here: dict[str, Any]) -> None:
    """The same JSON, key by key in the same order, but for scores and blur, which may be near."""
    assert list(there) == list(here)
    assert len(there["faces"]) == len(here["faces"]), here["source"]
    for one, other in zip(there["faces"], here["faces"], strict=True):
        assert list(one) == list(other)
        near = {"scores", "confidence", "quality"}
        assert {k: v for k, v in one.items() if k not in near} == {
            k: v for k, v in other.items() if k not in near
        }, here["source"]
        assert one["scores"] == pytest.approx(other["scores"], abs=SCORE_TOLERANCE)
        assert list(one["scores"]) == list(other["scores"])
        assert one["confidence"] == max(one["scores"].values())
        assert one["quality"] == {
            **other["quality"],
            "blur": pytest.approx(other["quality"]["blur"], abs=SCORE_TOLERANCE),
        }
    assert {**there, "faces": []} == {**here, "faces": []}


def pictures() -> dict[str, Picture]:
    """Upright, leaning, lying, small, large, tiny and cut-off faces, and none."""
    face = load_image(ROOT / "images" / "astronaut.jpg")
    sample = load_image(ROOT / "images" / "sample.png")
    made = {"face": face, "sample": sample}
    made |= {f"lying {k}": np.ascontiguousarray(np.rot90(face, k)) for k in (1, 2, 3)}
    height, width = face.shape[:2]
    for angle in (-35, -12, 18):
        turning = cv2.getRotationMatrix2D((width / 2, height / 2), -angle, 1.0)
        edge = cv2.BORDER_REPLICATE
        leaning = cv2.warpAffine(face, turning, (width, height), borderMode=edge)
        made[f"leaning {angle}"] = np.asarray(leaning, np.uint8)
    for side in (40, 64, 100, 150, 233, 777, 1500):
        size = (side, round(side * height / width))
        made[f"of {side}"] = np.asarray(cv2.resize(face, size, interpolation=cv2.INTER_AREA))
    crowd = np.full((480, 640, 3), 90, np.uint8)
    for number, side in enumerate((36, 60, 110, 180)):
        left = 10 + 150 * number
        small = cv2.resize(face[: min(height, width), : min(height, width)], (side, side))
        crowd[20 + 60 * number : 20 + 60 * number + side, left : left + side] = small
    made["crowd"] = crowd
    made["cut off"] = np.ascontiguousarray(face[height // 8 :, width // 3 :])
    made["grey blur"] = np.asarray(cv2.GaussianBlur(sample, (0, 0), 3), np.uint8)
    made["nobody"] = np.full((300, 200, 3), 200, np.uint8)
    made["noise"] = np.random.default_rng(0).integers(0, 256, (240, 500, 3), np.uint8)
    made["a pixel"] = np.zeros((1, 1, 3), np.uint8)
    made["a line"] = face[:1].repeat(3, axis=0)
    return made


@pytest.fixture(scope="module")
def files(shared_photos: dict[str, Picture]) -> dict[str, bytes]:
    return {name: png(picture) for name, picture in (pictures() | shared_photos).items()}


@pytest.fixture(scope="module")
def shared_photos(request: pytest.FixtureRequest) -> dict[str, Picture]:
    try:
        shared: Path = request.getfixturevalue("shared")
    except pytest.skip.Exception:
        return {}
    return {path.name: load_image(path) for path in sorted((shared / "photos").glob("*.jpg"))}


# --- The same as in Python


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("labels", ["people", "fer2013"])
def test_the_same_faces_and_scores(
    page: Page, files: dict[str, bytes], model: str, labels: str
) -> None:
    recognizer = mien.load(model, detector="libface", labels=labels, threads=1)
    there = analyzed(page, model, files, labels=labels)
    faces = 0
    for name, content in files.items():
        here = recognizer.analyze_result(content, source=name).to_dict()
        faces += len(here["faces"])
        assert_same(there[name], here)
    assert faces >= 30
