from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data_maker import pattern
from mien.core import images
from mien.core.errors import DataError, UnreadableImage
from mien.core.faces import standard_face
from mien.core.images import load_image
from mien.data.decoding import crop_face, decode_image

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


SMALL = [image[:32, :40] for image in (FACE, np.dstack([FACE, FACE[::-1], FACE.T]))]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
WHOLE_FILES = [
    encoded(Image.fromarray(each), form, **options)
    for each in (FACE, *SMALL)
    for form, options in (
        *((form, {}) for form in LOSSLESS),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
    )
]


@given(whole=st.sampled_from([PNG, JPEG, *WHOLE_FILES]), share=st.floats(0.02, 0.999))
def test_of_a_file_that_was_cut_nothing_is_guessed(whole: bytes, share: float) -> None:
    """A decoder may fill what is missing with grey and say nothing: all pixels or none."""
    try:
        image, _ = decode_image(whole[: int(len(whole) * share)])
    except DataError:
        return
    assert np.array_equal(image, decode_image(whole)[0])


@given(whole=st.sampled_from([PNG, JPEG, *WHOLE_FILES]), trailer=st.binary(max_size=300))
def test_bytes_behind_the_end_do_not_matter(whole: bytes, trailer: bytes) -> None:
    """Phones and cameras put films, thumbnails and padding there."""
    image, other_size = decode_image(whole + trailer)
    assert np.array_equal(image, decode_image(whole)[0])
    assert other_size == decode_image(whole)[1]


@pytest.mark.parametrize("whole", [PNG, JPEG], ids=["png", "jpeg"])
@given(share=st.floats(0.05, 0.999))
def test_a_truncated_image_is_called_so(whole: bytes, share: float) -> None:
    cut = whole[: min(len(whole) - 2, int(len(whole) * share))]
    with pytest.raises(DataError, match="is truncated"):
        decode_image(cut)


# Every mode that a format of these can hold.
KEPT = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr", "LAB"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I"),
}


@st.composite
def image_files(draw: st.DrawFn) -> bytes:
    """Files of all forms, modes, sizes and orientations, with or without a transparent colour."""
    form, mode = draw(
        st.sampled_from([(form, mode) for form, modes in KEPT.items() for mode in modes])
    )
    width, height = draw(st.tuples(st.sampled_from([1, 7, 48, 60]), st.sampled_from([3, 48, 50])))
    values = np.random.default_rng(draw(st.integers(0, 99)))
    if mode in ("I;16", "I", "F"):
        top = 255 if mode == "F" else 65535
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(values.integers(0, top + 1, (height, width)).astype(kind))
    else:
        colours = values.integers(0, 256, (height, width, 4)).astype(np.uint8)
        image = Image.fromarray(colours)
        # Not every mode can be made from one with transparency.
        image = (image if mode in ("LA", "RGBA") else image.convert("RGB")).convert(mode)
    options: dict[str, Any] = {}
    if form in ("PNG", "GIF") and mode in ("L", "P") and draw(st.booleans()):
        options["transparency"] = 3
    if form in ("GIF", "PNG", "WEBP", "TIFF") and draw(st.booleans()):
        options |= {"save_all": True, "append_images": [image.rotate(180)]}
    if form in ("JPEG", "PNG", "WEBP", "TIFF") and draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(0, 9))
        options["exif"] = exif
    return encoded(image, form, **options)


@settings(max_examples=150)
@given(data=image_files())
def test_data_sets_see_the_pixels_that_predict_sees(data: bytes) -> None:
    """`mien predict` reads by `load_image` and cuts out by `standard_face`."""
    seen = load_image(data)
    image, other_size = decode_image(data)
    assert np.array_equal(image, standard_face(seen))
    assert np.array_equal(image, crop_face(data))
    size = f"{seen.shape[1]}x{seen.shape[0]}"
    assert other_size == (None if size == "48x48" else size)


@given(values=arrays(np.uint8, (48, 48)), level=st.integers(0, 9))
def test_the_short_way_of_a_plain_face_changes_no_pixel(
    values: npt.NDArray[np.uint8], level: int
) -> None:
    data = encoded(Image.fromarray(values), "PNG", compress_level=level)
    assert np.array_equal(decode_image(data)[0], values)
    assert np.array_equal(decode_image(data)[0], standard_face(load_image(data)))


@given(place=st.integers(0, len(PNG) - 1), value=st.integers(0, 255))
def test_a_damaged_face_is_read_as_predict_reads_it(place: int, value: int) -> None:
    data = PNG[:place] + bytes([value]) + PNG[place + 1 :]
    assume(PNG[-8:] in data)  # without its end it is truncated
    try:
        expected = standard_face(load_image(data))
    except UnreadableImage:
        with pytest.raises(DataError):
            decode_image(data)
    else:
        assert np.array_equal(decode_image(data)[0], expected)


def test_an_image_beyond_the_limit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 2000)
    big = encoded(Image.new("L", (60, 50)), "PNG")
    with pytest.raises(DataError, match=r"^of 60x50 is too large"):
        decode_image(big)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello, I am text", "is not an image"),
        (b"GIF89a", "is not an image"),
        (PNG[:200] + b"\0\0\0\0" + PNG[204:], "is damaged"),
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
    assert reason == "" or reason.startswith(("is ", "of ", "has "))
