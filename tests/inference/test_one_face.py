from __future__ import annotations

import cv2
import numpy as np
import pytest

from detector_maker import BrightSpots, Broken, Pixels, bright_scene
from mien.core.errors import NoFaceError, UnreadableImage
from mien.core.results import Box
from mien.inference.choice import FaceChoice
from mien.inference.crops import cut_face
from mien.inference.one_face import largest_face

SMALL, LARGE = Box(20, 20, 40, 40), Box(150, 60, 80, 80)


def as_png(pixels: Pixels) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def test_the_largest_face_is_cut_out_as_the_recognizer_cuts_it() -> None:
    detector = BrightSpots()
    for boxes in ((SMALL, LARGE), (LARGE,)):
        scene = bright_scene(*boxes)
        face = largest_face(detector)(as_png(scene))
        np.testing.assert_array_equal(face, cut_face(scene, LARGE, detector.framing))


def test_without_a_face_it_says_what_was_looked_for() -> None:
    nobody = as_png(bright_scene())
    with pytest.raises(NoFaceError, match=r"^has no face that bright finds$"):
        largest_face(BrightSpots())(nobody)
    with pytest.raises(NoFaceError, match="no face of 90 pixels or more"):
        largest_face(BrightSpots(), FaceChoice(min_face=90))(as_png(bright_scene(LARGE)))


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_what_cannot_be_read_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableImage):
        largest_face(BrightSpots())(content)


def test_an_image_that_is_too_much_for_the_detector_is_refused_in_one_line() -> None:
    with pytest.raises(UnreadableImage, match=r"face detection failed: .*a filter failed") as error:
        largest_face(Broken())(as_png(bright_scene()))
    assert "\n" not in str(error.value)
