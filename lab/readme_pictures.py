"""Make the pictures of the README from the project's two sample images.

    PYTHONPATH=tests python lab/readme_pictures.py

Annotations, explanations and the timeline come from mien's own commands, applied to the portrait
``images/astronaut.jpg`` (NASA, public domain), the mean faces ``images/sample.png``, and a clip
that fades from each mean face to the next. The studio is a screenshot of Chromium, controlled as in
its tests.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import sync_playwright

import mien
from browser_maker import FLAGS, Visit, chromium, serving
from mien.cli.main import main as command
from mien.core.images import load_image

IMAGES = Path(__file__).resolve().parents[1] / "images"
FPS = 12
SURPRISED = 5
"""Index of the face of the sample picture that is explained."""

STUDIO_SIZE, STUDIO_SCALE = (1280, 800), 1.5
"""Size of the browser window in CSS pixels, and image pixels per CSS pixel."""

HOLD, FADE = 18, 12
"""Frames for which a face stays, and in which it fades into the next."""


def main() -> None:
    """Write all pictures into ``images/``."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table = ("--output", folder / "readings.csv", "--force")
        pictures = (IMAGES / "astronaut.jpg", IMAGES / "sample.png")
        _run("predict", *pictures, "--annotate", folder, *table)
        for name in ("astronaut", "sample"):
            (annotated,) = folder.glob(f"{name}.annotated.*")
            Image.open(annotated).convert("RGB").save(
                IMAGES / f"{name}.annotated.jpg", quality=88, optimize=True
            )
        options = ("--output", IMAGES / "why.png", "--force")
        _run("explain", IMAGES / "sample.png", "--face", SURPRISED, *options)
        _write_clip(folder / "faces.mp4")
        start = Path.cwd()
        os.chdir(folder)  # the timeline's title is the path as it was passed
        _run("predict", "faces.mp4", "--timeline", IMAGES / "timeline.png", "--smooth", 0, *table)
        os.chdir(start)
    _show_studio()


def _run(*arguments: object) -> None:
    if code := command([*map(str, arguments), "--quiet"]):
        sys.exit(code)


def _show_studio() -> None:
    """Write screenshots of the studio with the portrait, in light and dark."""
    width, height = STUDIO_SIZE
    with serving() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=FLAGS, chromium_sandbox=False
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": width, "height": height},
                device_scale_factor=STUDIO_SCALE,
                color_scheme=scheme,
                reduced_motion="reduce",
            )
            page.goto(server.url)
            Visit(page, server.url).ready()
            page.locator(".picture input[type=file]").set_input_files(IMAGES / "astronaut.jpg")
            page.locator(".side .bar").first.wait_for()
            page.mouse.move(0, 0)
            screenshot = page.screenshot(animations="disabled")
            Image.open(io.BytesIO(screenshot)).convert("RGB").save(
                IMAGES / f"studio.{scheme}.jpg", quality=85, optimize=True
            )


def _write_clip(path: Path) -> None:
    """Write a clip in which each mean face of the sample picture fades into the next."""
    faces = _mean_faces()
    height, width = faces[0].shape[:2]
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), fourcc, FPS, (width, height))
    for face, following in zip(faces, [*faces[1:], faces[-1]], strict=True):
        for step in range(HOLD + FADE):
            share = max(0, step - HOLD) / FADE
            writer.write(cv2.addWeighted(face, 1 - share, following, share, 0))
    writer.release()


def _mean_faces(margin: float = 0.4) -> list[npt.NDArray[np.uint8]]:
    """Return crops of the sample picture's faces with a margin, BGR, of equal size, in order."""
    picture = load_image(IMAGES / "sample.png")
    boxes = [face.box for face in mien.load().analyze(IMAGES / "sample.png")]
    side = int(max(max(box.w, box.h) for box in boxes) * (1 + 2 * margin))
    cuts = []
    for box in sorted(boxes, key=lambda box: (box.y > picture.shape[0] / 2, box.x)):
        center = (box.x + box.w / 2, box.y + box.h / 2)
        cut = cv2.getRectSubPix(picture, (side, side), center)
        cuts.append(np.asarray(cut[..., ::-1], np.uint8))
    return cuts


if __name__ == "__main__":
    main()
