from __future__ import annotations

import io

import pytest
from PIL import Image

from mien.core.file_types import HEAD_BYTES, IMAGE_SUFFIXES, READABLE, image_kind


@pytest.mark.parametrize("kind", sorted(READABLE))
def test_first_bytes_of_all_kinds_that_are_read_are_known(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, kind)
    assert image_kind(buffer.getvalue()[:HEAD_BYTES]) == kind


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"P5#by hand\n", "PPM"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"%PDF-1.7", "PDF"),
        (b"Photos of 2020", None),
        (b"", None),
    ],
)
def test_what_is_not_read_is_known_or_not(head: bytes, kind: str | None) -> None:
    assert image_kind(head) == kind
    assert kind == "PPM" or kind not in READABLE


def test_suffixes_are_as_they_are_compared() -> None:
    assert all(each == each.lower() and each.startswith(".") for each in IMAGE_SUFFIXES)
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
    assert {".jpg", ".jfif", ".jpg_large", ".png"} <= set(IMAGE_SUFFIXES)
