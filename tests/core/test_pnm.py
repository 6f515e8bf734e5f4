from __future__ import annotations

import io
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from mien.core.errors import UnreadableImage
from mien.core.images import load_image


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_binary_files_are_read_as_pillow_reads_them(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (7, 13, 3), np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "PPM")
    assert np.array_equal(load_image(buffer.getvalue()), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(
    ("content", "row"),
    [
        (b"P1\n# by hand\n3 1\n1 0 1", [0, 255, 0]),
        (b"P1 3 1\n101", [0, 255, 0]),
        (b"P2\n3 1\n# white\n4\n0 2 # half\n4\n", [0, 128, 255]),
        (b"P5 3 1 100\n\x00\x32\x64", [0, 128, 255]),
        (b"P5 3 1 1023\n\x00\x00\x02\x00\x03\xff", [0, 128, 255]),
        (b"P5#a\n#b\n3#c\n1 255\n\x00\x80\xff", [0, 128, 255]),
    ],
)
def test_text_and_unusual_depths(content: bytes, row: list[int]) -> None:
    assert load_image(content)[0, :, 0].tolist() == row


def test_colours_as_text() -> None:
    assert load_image(b"P3 1 1 15 15 0 3 ")[0, 0].tolist() == [255, 0, 51]


@pytest.mark.parametrize(
    "content",
    [
        b"P5 3 1",
        b"P5 3 1 0\n\0\0\0",
        b"P5 3 1 70000\n" + bytes(6),
        b"P5 3 1 255\n\0\0",
        b"P5 3 1 100\n\0\0\x65",
        b"P4 9 1\n\0",
        b"P2 3 1 255\n1 2",
        b"P2 3 1 255\n   ",
        b"P2 1 1 255\n   ",
        b"P2 3 1 255\n1 -2 3 ",
        b"P2 3 1 255\n1 2.5 3 ",
        b"P1 3 1\n1 0 2",
        b"P1 3 1\n1 0",
        b"P6 3 1 255\n" + bytes(8),
    ],
)
def test_what_is_damaged_is_refused(content: bytes) -> None:
    with pytest.raises(UnreadableImage, match="damaged"):
        load_image(content)


def test_sizes_have_the_limits_of_all_images() -> None:
    with pytest.raises(UnreadableImage, match="150 megapixels"):
        load_image(b"P5 99999 99999 255\n")
    with pytest.raises(UnreadableImage, match="no pixels"):
        load_image(b"P5 0 1 255\n")


@pytest.mark.parametrize(
    "content",
    [
        b"P5 1000 1000 254\n" + bytes(1_000_000),
        b"P2 1000 1000 255\n" + b"7 " * 1_000_000,
        b"P2 10 10 255\n" + b"#\n" * 500_000 + b"7 " * 100,
    ],
)
def test_what_pillow_reads_in_python_takes_no_time(content: bytes) -> None:
    start = time.process_time()
    load_image(content)
    assert time.process_time() - start < 1.0


def test_a_head_is_short() -> None:
    with pytest.raises(UnreadableImage, match="head"):
        load_image(b"P5\n" + b"#\n" * 100_000 + b"1 1 255\n\0")


def test_a_bitmap_as_text_takes_little_more_memory_than_its_file() -> None:
    content = b"P1 1000 1000\n" + b"1 " * 2_000_000
    tracemalloc.start()
    try:
        assert not load_image(content).any()
        assert tracemalloc.get_traced_memory()[1] < 6 * len(content)
    finally:
        tracemalloc.stop()
