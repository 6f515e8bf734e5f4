from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_maker import pattern
from mien.core.errors import DataError
from mien.core.faces import standard_face
from mien.data.decoding import decode_image

FACE = pattern(3, np.random.default_rng(0))
PNG = cv2.imencode(".png", FACE)[1].tobytes()
JPEG = cv2.imencode(".jpg", FACE, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def test_a_png_comes_back_pixel_for_pixel() -> None:
    image, other_size = decode_image(PNG)
    assert np.array_equal(image, FACE)
    assert image.dtype == np.uint8
    assert other_size is None


def test_a_jpeg_comes_back_nearly() -> None:
    image, other_size = decode_image(JPEG)
    assert np.abs(image.astype(int) - FACE).mean() < 4
    assert other_size is None


def test_colour_becomes_grey() -> None:
    image, _ = decode_image(
        cv2.imencode(".png", cv2.cvtColor(FACE, cv2.COLOR_GRAY2BGR))[1].tobytes()
    )
    assert np.array_equal(image, FACE)


def test_another_size_is_resized_and_said() -> None:
    large = cv2.resize(FACE, (96, 120))
    image, other_size = decode_image(cv2.imencode(".png", large)[1].tobytes())
    assert other_size == "96x120"
    assert np.array_equal(image, standard_face(np.asarray(large, np.uint8)))


@pytest.mark.parametrize("whole", [PNG, JPEG], ids=["png", "jpeg"])
@given(share=st.floats(0.05, 0.999))
def test_a_truncated_image_is_never_taken(whole: bytes, share: float) -> None:
    cut = whole[: min(len(whole) - 2, int(len(whole) * share))]
    with pytest.raises(DataError, match="is truncated"):
        decode_image(cut)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello, I am text", "is not an image"),
        (b"GIF89a", "is not an image"),
        (PNG[:200] + b"\0\0\0\0" + PNG[204:], "is not an image"),
    ],
)
def test_what_is_no_image_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_image(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_image_or_a_reason(data: bytes) -> None:
    reason, shape = "", (48, 48)
    try:
        shape = decode_image(data)[0].shape
    except DataError as error:
        reason = str(error)
    assert shape == (48, 48)
    assert reason == "" or reason.startswith("is ")
