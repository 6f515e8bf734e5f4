"""Make the pictures of the README from the two that the project carries.

    PYTHONPATH=tests python lab/readme_pictures.py

What is annotated, explained and drawn over time is read by the commands that users have: the
portrait ``images/astronaut.jpg`` (NASA, public domain), the mean faces ``images/sample.png``, and a
clip that fades from each mean face to the next. The studio is what Chromium shows of it, driven as
its tests drive it.
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
FRAMES_A_SECOND = 12
SURPRISED = 5
"""Which face of the sample picture is explained."""

STUDIO_SIZE, STUDIO_SCALE = (1280, 800), 1.5
"""Of the window that is shown, in CSS pixels, and how many of a picture's pixels each is wide."""

HOLD, FADE = 18, 12
"""Frames for which a face stands still, and in which it becomes the next."""


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
        why = ("--output", IMAGES / "why.png", "--force")
        _run("explain", IMAGES / "sample.png", "--face", SURPRISED, *why)
        _write_clip(folder / "faces.mp4")
        os.chdir(folder)  # the timeline is headed by the path that it was given
        _run("predict", "faces.mp4", "--timeline", IMAGES / "timeline.png", "--smooth", 0, *table)
    _show_studio()


def _run(*words: object) -> None:
    if code := command([*map(str, words), "--quiet"]):
        sys.exit(code)


def _show_studio() -> None:
    """Write what the studio looks like with the sample picture, in light and dark."""
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
            shown = page.screenshot(animations="disabled")
            Image.open(io.BytesIO(shown)).convert("RGB").save(
                IMAGES / f"studio.{scheme}.jpg", quality=85, optimize=True
            )


def _write_clip(path: Path) -> None:
    """Write a clip of the mean faces of the sample picture, each of which fades into the next."""
    faces = _mean_faces()
    height, width = faces[0].shape[:2]
    fourcc = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), fourcc, FRAMES_A_SECOND, (width, height))
    for face, following in zip(faces, [*faces[1:], faces[-1]], strict=True):
        for step in range(HOLD + FADE):
            share = max(0, step - HOLD) / FADE
            writer.write(cv2.addWeighted(face, 1 - share, following, share, 0))
    writer.release()


def _mean_faces(margin: float = 0.4) -> list[npt.NDArray[np.uint8]]:
    """Return the faces of the sample picture in mien's order, BGR, of one size, with a margin."""
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
