"""mien-web gives what mien gives in Python: the same boxes, crops and scores, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from browser_maker import new_context
from mien.core.emotions import EMOTION_COLORS, EMOTIONS
from mien.core.images import load_image
from mien.inference.explain import explain

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


ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
"""Headers with which threads are allowed."""
OPEN = {"Access-Control-Allow-Origin": "*"}


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder with more headers."""

    def __init__(self, *args: Any, headers: Mapping[str, str], **options: Any) -> None:
        self.more = headers
        super().__init__(*args, **options)

    def end_headers(self) -> None:
        for name, value in self.more.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(needed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, laid out by its script."""
    made = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, MAKE_SITE, made, "--models", *MODELS], check=True)
    shutil.copy(ROOT / "images" / "astronaut.jpg", made)
    return made


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    """The address of the example."""
    with serving_files(folder, ISOLATED) as address:
        yield address


@contextmanager
def serving_files(folder: Path, headers: Mapping[str, str]) -> Iterator[str]:
    """Serve a folder at an address of its own."""
    handler = partial(Handler, directory=str(folder), headers=headers)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def page(browser: Browser, site: str) -> Iterator[Page]:
    """The example, with a few helpers; what goes wrong on it fails the test."""
    context = new_context(browser, permissions=["camera"])
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
def test_faces_and_scores_match_python(
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


def test_options_match_python(page: Page, files: dict[str, bytes]) -> None:
    choices: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"minFace": 60}, {"min_face": 60}),
        ({"maxFaces": 2}, {"max_faces": 2}),
        ({"align": "on"}, {"align": "on"}),
        ({"align": "off", "minFace": 30, "maxFaces": 3}, _some("off", 30, 3)),
    ]
    some = {name: files[name] for name in ("crowd", "sample", "leaning -12")}
    for there, here in choices:
        recognizer = mien.load("mien-nano", detector="libface", threads=1, **here)
        found = analyzed(page, "mien-nano", some, choice=there)
        for name, content in some.items():
            result = recognizer.analyze_result(content, source=name)
            assert_same(found[name], result.to_dict())


def _some(align: str, min_face: int, max_faces: int) -> dict[str, Any]:
    return {"align": align, "min_face": min_face, "max_faces": max_faces}


def test_without_a_detector_images_are_face_crops(page: Page) -> None:
    rng = np.random.default_rng(0)
    sides = [(48, 48), (90, 60), (20, 70), (1, 1)]
    crops = {str(side): png(rng.integers(0, 256, (*side, 3), np.uint8)) for side in sides}
    recognizer = mien.load("mien-nano", detector="none", threads=1)
    found = analyzed(page, "mien-nano", crops, detector="none")
    for name, content in crops.items():
        assert_same(found[name], recognizer.analyze_result(content, source=name).to_dict())


def test_heat_maps_match_python(page: Page, files: dict[str, bytes]) -> None:
    recognizer = mien.load("mien-nano", detector="libface", threads=1)
    here = explain(recognizer, files["leaning -35"])
    there, again, other = page.evaluate(
        """async (text) => {
          const recognizer = await opened("mien-nano");
          const image = blobOf(text);
          const { faces: [face] } = await recognizer.analyze(image);
          const copy = JSON.parse(JSON.stringify(face)); // of which only the box is known
          const maps = [
            await recognizer.explain(image, face),
            await recognizer.explain(image, copy),
            await recognizer.explain(image, face, { emotion: "sad" }),
          ];
          recognizer.close();
          return maps.map((map) => ({ ...map, values: [...map.values] }));
        }""",
        text_of(files["leaning -35"]),
    )
    (explained,) = here
    assert there["size"] == 48
    assert there["emotion"] == explained.face.emotion
    assert there["peak"] == pytest.approx(explained.explanation.peak, abs=SCORE_TOLERANCE)
    assert np.allclose(there["values"], explained.explanation.heat.ravel(), atol=0.02)
    assert there["square"]["turn"] == pytest.approx(explained.face.turn)
    assert again == there
    assert other["emotion"] == "sad"
    assert other["values"] != there["values"]


def test_jpeg_orientation_and_transparency(page: Page) -> None:
    face = Image.open(ROOT / "images" / "astronaut.jpg").convert("RGB")
    files = {"photo.jpg": (ROOT / "images" / "astronaut.jpg").read_bytes()}
    for orientation in (3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = io.BytesIO()
        face.save(content, "PNG", exif=exif)
        files[f"orientation {orientation}"] = content.getvalue()
    clear = face.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(face.size))
    content = io.BytesIO()
    clear.save(content, "PNG")
    files["transparent"] = content.getvalue()
    recognizer = mien.load("mien-nano", detector="libface", threads=1)
    found = analyzed(page, "mien-nano", files)
    for name, content_ in files.items():
        here = recognizer.analyze_result(content_, source=name).to_dict()
        assert here["status"] == "ok"
        assert_same(found[name], here)


# --- What is taken, and what is refused


def test_every_kind_of_image_is_read(page: Page, files: dict[str, bytes]) -> None:
    found = page.evaluate(
        """async (text) => {
          const recognizer = await opened("mien-nano");
          const blob = blobOf(text);
          const bitmap = await createImageBitmap(blob);
          const { width, height } = bitmap;
          const canvas = Object.assign(document.createElement("canvas"), { width, height });
          const context = canvas.getContext("2d");
          context.drawImage(bitmap, 0, 0);
          const offscreen = new OffscreenCanvas(width, height);
          offscreen.getContext("2d").drawImage(bitmap, 0, 0);
          const element = Object.assign(new Image(), { src: URL.createObjectURL(blob) });
          await element.decode();
          const frame = new VideoFrame(bitmap, { timestamp: 0 });
          const images = {
            blob, bitmap, canvas, offscreen, element, frame,
            file: new File([blob], "named.png"),
            data: context.getImageData(0, 0, width, height),
          };
          const results = {};
          for (const [kind, image] of Object.entries(images)) {
            results[kind] = await recognizer.analyze(image);
          }
          const again = await recognizer.analyze(bitmap); // it is left as it was
          frame.close();
          recognizer.close();
          return [results, again];
        }""",
        text_of(files["face"]),
    )
    results, again = found
    first = results["blob"]
    assert first["status"] == "ok"
    assert first["source"] is None
    assert results["file"]["source"] == "named.png"
    assert again == results["bitmap"]
    for result in results.values():
        assert [face["box"] for face in result["faces"]] == [face["box"] for face in first["faces"]]
        near = pytest.approx(first["faces"][0]["scores"], abs=SCORE_TOLERANCE)
        assert result["faces"][0]["scores"] == near


def test_a_video_is_read_frame_by_frame(page: Page) -> None:
    results = page.evaluate(
        """async () => {
          const recognizer = await opened("mien-nano");
          const video = document.createElement("video");
          const before = await recognizer.analyze(video);
          video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
          await video.play();
          await new Promise((done) => video.requestVideoFrameCallback(done));
          const results = [before];
          results.push(await recognizer.analyze(video), await recognizer.analyze(video));
          video.srcObject.getTracks().forEach((track) => track.stop());
          recognizer.close();
          return results;
        }"""
    )
    assert [result["status"] for result in results] == ["unreadable", "ok", "ok"]
    assert "has no picture" in results[0]["error"]
    assert [len(result["faces"]) for result in results[1:]] == [1, 1]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "a.png is empty: expected an image"),
        (b"hello, this is no picture at all", "a.png is not an image: expected one of JPEG, PNG"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 90, "a.png is damaged and cannot be decoded"),
        (b"II*\0" + b"\0" * 90, "a.png is TIFF, which browsers do not read"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 90, "a.png is HEIC, which browsers do not read"),
    ],
)
def test_other_files_are_unreadable(page: Page, content: bytes, error: str) -> None:
    found = analyzed(page, "mien-nano", {"a.png": content})["a.png"]
    assert found["status"] == "unreadable"
    assert found["error"].startswith(error)
    assert "\n" not in found["error"]
    assert found["faces"] == []
    assert (found["width"], found["height"]) == (None, None)
    assert list(found)[-1] == "error"


def test_wrong_calls_reject_with_one_line(page: Page) -> None:
    reasons = page.evaluate(
        """async () => {
          const recognizer = await opened("mien-nano");
          const image = new ImageData(4, 4);
          const given = [
            recognizer.analyze("picture.png"),
            recognizer.analyze(image, { minFace: -1 }),
            recognizer.analyze(image, { maxFaces: 0 }),
            recognizer.analyze(image, { align: "up" }),
            recognizer.explain(image, {}),
            recognizer.explain(image, { box: { x: 0, y: 0, w: 4, h: 4 } }, { emotion: "bored" }),
            opened("nobody"),
            opened("mien-nano", { labels: "others" }),
            opened("mien-nano", { detector: "haar" }),
            opened("mien-nano", { runtime: "nowhere" }),
            opened("mien-nano", { detectorFile: "models/mien-nano/manifest.json" }),
            opened("mien-nano", { threads: 0 }),
          ];
          const reasons = [];
          for (const each of given.map(reason)) reasons.push(await each);
          recognizer.close();
          reasons.push(await reason(recognizer.analyze(image)));
          return reasons;
        }"""
    )
    expected = [
        "expected an image as a Blob, File",
        "expected minFace as a whole number of 0 or more, got -1",
        "expected maxFaces as a whole number of 1 or more, got 0",
        'expected align="auto", "on", "off", got "up"',
        "expected a face from a result of analyze",
        'unknown emotion "bored": expected one of angry',
        "models/nobody/manifest.json (status 404)",
        'has no labels "others": expected fer2013 or people',
        'expected a detector of libface or none, got "haar"',
        "nowhere/ort.wasm.min.mjs",
        "manifest.json is not a network that can be run",
        "expected threads as a whole number of 1 or more, got 0",
        "the recognizer is closed",
    ]
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason
        assert "\n" not in reason


def test_a_call_can_be_aborted(page: Page, files: dict[str, bytes]) -> None:
    found = page.evaluate(
        """async (text) => {
          const recognizer = await opened("mien-nano");
          const blob = blobOf(text);
          const giveUp = new AbortController();
          const first = recognizer.analyze(blob);
          const second = reason(recognizer.analyze(blob, { signal: giveUp.signal }));
          const third = recognizer.analyze(blob);
          giveUp.abort(new Error("enough"));
          const late = reason(recognizer.analyze(blob, { signal: giveUp.signal }));
          const closing = Promise.all([first, second, third, late]);
          const results = await closing;
          const unanswered = reason(recognizer.analyze(blob));
          recognizer.close();
          return [...results, await unanswered];
        }""",
        text_of(files["of 233"]),
    )
    assert found[0] == found[2]
    assert found[0]["status"] == "ok"
    assert (found[1], found[3]) == ("enough", "enough")
    assert "closed" in found[4]


def test_threads_do_not_change_results(page: Page, files: dict[str, bytes]) -> None:
    some = {"face": files["face"]}
    threads = page.evaluate(
        """async () => {
          const recognizer = await opened("mien-nano", { threads: 2 });
          recognizer.close();
          return [self.crossOriginIsolated, recognizer.threads];
        }"""
    )
    assert threads == [True, 2]
    two = analyzed(page, "mien-nano", some, threads=2)
    assert_same(two["face"], analyzed(page, "mien-nano", some, threads=1)["face"])


def test_one_thread_without_shared_memory(page: Page) -> None:
    threads = page.evaluate(
        """async () => {
          delete globalThis.SharedArrayBuffer;
          const recognizer = await opened("mien-nano", { threads: 2 });
          recognizer.close();
          return [self.crossOriginIsolated, recognizer.threads];
        }"""
    )
    assert threads == [True, 1]


def test_progress_is_reported(page: Page) -> None:
    states = page.evaluate(
        """async () => {
          const states = [];
          (await opened("mien-nano", { onProgress: (state) => states.push(state) })).close();
          return states;
        }"""
    )
    shares = [each["loaded"] / each["total"] for each in states if each["total"]]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_properties_of_the_library(page: Page) -> None:
    recognizer = mien.load("mien-nano", detector="libface")
    found = page.evaluate(
        """async () => {
          const library = await import(new URL("mien-web/index.js", document.baseURI));
          const { EMOTIONS, PALETTE, valence } = library;
          const { model, labels, emotions, detector } = await opened("mien-nano");
          return [model, labels, emotions, detector, [...EMOTIONS], PALETTE, valence({ happy: 1 })];
        }"""
    )
    assert found == [
        recognizer.model.to_dict(),
        "people",
        list(EMOTIONS),
        "libface",
        list(EMOTIONS),
        EMOTION_COLORS,
        None,
    ]


def test_the_example_reads_a_picture(page: Page) -> None:
    page.locator("[role=status]", has_text="Ready: mien-nano").wait_for()
    page.set_input_files("input", str(ROOT / "images" / "astronaut.jpg"))
    page.locator("[role=status]", has_text="1 faces: happy").wait_for()


# --- Where it runs


def test_a_page_on_another_site_can_import_it(browser: Browser, folder: Path) -> None:
    with serving_files(folder, OPEN) as here, serving_files(folder, OPEN) as there:
        context = new_context(browser)
        page = context.new_page()
        page.goto(here)
        found = page.evaluate(
            """async (there) => {
              const { loadRecognizer } = await import(`${there}mien-web/index.js`);
              const at = (path) => new URL(path, there);
              const [model, runtime] = [at("models/mien-nano/"), at("onnxruntime-web/")];
              const recognizer = await loadRecognizer({ model, runtime });
              const image = Object.assign(new Image(), { src: at("astronaut.jpg") });
              await image.decode();
              const foreign = await recognizer.analyze(image, { source: "foreign" });
              const shared = Object.assign(new Image(), { crossOrigin: "anonymous" });
              shared.src = at("astronaut.jpg?shared");
              await shared.decode();
              const results = [foreign, await recognizer.analyze(shared)];
              recognizer.close();
              return [results, recognizer.threads];
            }""",
            there,
        )
        context.close()
    (foreign, shared), threads = found
    assert threads == 1  # the page is not isolated
    assert foreign["status"] == "unreadable"
    assert foreign["error"].startswith("foreign comes from another site that does not share it")
    assert [face["emotion"] for face in shared["faces"]] == ["happy"]


def test_the_policy_of_the_service_allows_threads(visit: Callable[..., Any]) -> None:
    opened = visit()
    found = opened.page.evaluate(
        """async () => {
          const { loadRecognizer } = await import(new URL("mien-web/index.js", document.baseURI));
          const recognizer = await loadRecognizer({ threads: 2 }); // all at their usual places
          const blob = await (await fetch("studio/sample.jpg")).blob();
          const { faces } = await recognizer.analyze(blob);
          recognizer.close();
          return [recognizer.threads, faces.map((face) => face.emotion)];
        }"""
    )
    assert found == [2, ["happy"]]


def test_the_benchmark_counts_frames(needed: None) -> None:
    words = ["--models", "mien-nano", "--seconds", "0.2", "--turns", "2", "--json"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "web.py", *words], capture_output=True, check=True
    )
    (found,) = json.loads(done.stdout)
    assert (found["model"], found["faces"]) == ("mien-nano", [1])
    assert len(found["rates"]) == 2
    assert min(found["rates"]) > 0


# --- The package


def test_the_package_has_this_version_and_pins_the_runtime() -> None:
    package = json.loads((ROOT / "mien-web" / "package.json").read_text())
    assert package["version"] == mien.__version__
    build = (ROOT / "hatch_build.py").read_text()
    assert f'VERSION = "{package["peerDependencies"]["onnxruntime-web"]}"' in build
    for target in package["exports"].values():
        assert all((ROOT / "mien-web" / path).is_file() for path in target.values())
