from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from mien.core import images
from mien.core.errors import InputError, UnreadableImage, UsageError
from mien.core.images import load_image, pixel_count, source_name, standard_face

Pixels = npt.NDArray[np.uint8]

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _corners(width: int = 32, height: int = 16) -> Image.Image:
    """Return a picture whose quarters show its orientation: red, green / blue, white."""
    picture = Image.new("RGB", (width, height), WHITE)
    picture.paste(RED, (0, 0, width // 2, height // 2))
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    return picture


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _quarters(pixels: Pixels) -> list[tuple[int, ...]]:
    height, width = pixels.shape[:2]
    spots = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [tuple(pixels[spot].tolist()) for spot in spots]


def _assert_upright(pixels: Pixels, tolerance: int = 12) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    for found, expected in zip(_quarters(pixels), (RED, GREEN, BLUE, WHITE), strict=True):
        assert np.abs(np.subtract(found, expected)).max() <= tolerance


def _refusal(source: Any, **options: Any) -> str:
    with pytest.raises(UnreadableImage) as error:
        load_image(source, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def _read_or_refused(content: bytes) -> Pixels | None:
    """Load damaged content; returns None if it is rejected in one line."""
    try:
        return load_image(content)
    except UnreadableImage as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "ICO", "WEBP"])
def test_every_format_gives_the_same_pixels(kind: str) -> None:
    known: dict[str, dict[str, Any]] = {
        "WEBP": {"lossless": True},
        "ICO": {"sizes": [(32, 32)]},
    }
    options = known.get(kind, {})
    picture = _corners(32, 32)
    pixels = load_image(_encoded(picture, kind, **options))
    assert np.array_equal(pixels, np.asarray(picture))


def test_jpeg_in_rgb_and_cmyk() -> None:
    _assert_upright(load_image(_encoded(_corners(), "JPEG", quality=95, subsampling=0)))
    ink = _corners().convert("CMYK")
    _assert_upright(load_image(_encoded(ink, "JPEG", quality=95, subsampling=0)))


def test_all_source_types_agree(tmp_path: Path) -> None:
    path = tmp_path / "ein Bild ü.png"
    _corners().save(path)
    content = path.read_bytes()
    expected = np.asarray(_corners())
    sources: list[Any] = [
        path,
        str(path),
        content,
        bytearray(content),
        memoryview(content),
        _corners(),
    ]
    for source in sources:
        assert np.array_equal(load_image(source), expected)
    with Image.open(path) as opened:
        assert np.array_equal(load_image(opened), expected)
    assert np.array_equal(load_image(expected, color="rgb"), expected)
    assert np.array_equal(load_image(expected[:, :, ::-1], color="bgr"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # How the camera held it: turning the stored picture by its tag gives the upright one back.
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = back.get(orientation, images._TRANSPOSES.get(orientation))
    stored = _corners() if turn is None else _corners().transpose(turn)
    lossy: dict[str, Any] = {"quality": 95} | ({"subsampling": 0} if kind == "JPEG" else {})
    options = lossy if kind in ("JPEG", "WEBP") else {}
    content = _encoded(stored, kind, exif=exif, **options)
    for source in (content, Image.open(io.BytesIO(content))):
        pixels = load_image(source)
        assert pixels.shape == (16, 32, 3)
        _assert_upright(pixels, tolerance=40)


def test_transposed_pillow_image_is_not_rotated_again() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    content = _encoded(_corners().rotate(180), "PNG", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    _assert_upright(load_image(turned))


def test_damaged_metadata_is_ignored() -> None:
    for damaged in (b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff"):
        content = _encoded(_corners(), "JPEG", exif=damaged, quality=95, subsampling=0)
        _assert_upright(load_image(content))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "La", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_becomes_rgb(mode: str) -> None:
    through = {"La": "LA", "RGBa": "RGBA"}.get(mode)
    start = _corners().convert(through) if through else _corners()
    pixels = load_image(start.convert(mode))
    assert pixels.shape == (16, 32, 3)
    if mode in ("1", "L", "LA", "La"):
        assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])
        assert _quarters(pixels)[3] == WHITE
    else:
        _assert_upright(pixels)


def test_transparency_is_composited_over_white() -> None:
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    half.paste((200, 0, 0, 255), (0, 0, 2, 4))
    half.putpixel((3, 0), (0, 0, 0, 128))
    for source in (half, _encoded(half, "PNG")):
        pixels = load_image(source)
        assert pixels[0, 0].tolist() == [200, 0, 0]
        assert pixels[1, 3].tolist() == [255, 255, 255]
        assert 120 <= pixels[0, 3, 0] <= 135
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    content = _encoded(palette, "PNG", transparency=0)
    assert load_image(content)[0].tolist() == [[255, 255, 255], [9, 9, 9]]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert load_image(_encoded(grey, "PNG"))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = load_image(_encoded(Image.fromarray(ramp), kind))
    expected = np.rint(ramp / 257).astype(np.int64)
    assert np.abs(pixels[:, :, 0] - expected).max() <= 1
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_16_bit_colour_is_scaled() -> None:
    samples = np.array([[[0, 32896, 65535]]], ">u2")
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"\x00" + samples.tobytes())),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    assert load_image(content)[0, 0].tolist() == [0, 128, 255]


def test_wide_and_real_values_keep_their_order() -> None:
    whole = Image.fromarray(np.array([[0, 70000, 140000]], np.int32))
    assert load_image(whole)[0, :, 0].tolist() == [0, 128, 255]
    shares = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert load_image(shares)[0, :, 0].tolist() == [0, 128, 255]
    levels = Image.fromarray(np.array([[0.0, 100.2, 255.0]], np.float32))
    assert load_image(levels)[0, :, 0].tolist() == [0, 100, 255]
    assert "not finite" in _refusal(Image.fromarray(np.array([[0.0, np.nan]], np.float32)))


def _grey_levels() -> Pixels:
    return np.linspace(0, 255, 32 * 16).astype(np.uint8).reshape(16, 32)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_empty_upper_bits_do_not_darken(kind: str, bits: int) -> None:
    levels = _grey_levels()
    low = (levels.astype(np.float64) * (2**bits - 1) / 255).astype(np.uint16)
    pixels = load_image(_encoded(Image.fromarray(low), kind))
    assert np.abs(pixels[:, :, 0].astype(int) - levels).max() <= 1


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_8_bit_grey_in_wider_integers(kind: type) -> None:
    levels = _grey_levels()
    pixels = load_image(_encoded(Image.fromarray(levels.astype(kind)), "TIFF"))
    assert np.array_equal(pixels[:, :, 0], levels)


def test_floats_may_overshoot_slightly() -> None:
    for white in (1.0, 255.0):
        shares = np.array([[-0.02, 0.0, 0.5, 1.0, 1.04]], np.float32) * np.float32(white)
        assert load_image(Image.fromarray(shares))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_12_bit_colours_in_16_bits(ending: str) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint16)
    for bits, factor in ((8, 1), (12, 16), (16, 257)):
        content = cv2.imencode(ending, colors[:, :, ::-1] * np.uint16(factor))[1].tobytes()
        difference = load_image(content).astype(int) - colors
        assert np.abs(difference).max() <= 1, bits


def test_open_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    _corners().save(path)
    expected = np.asarray(_corners())
    buffer = io.BytesIO(path.read_bytes())
    buffer.seek(0, io.SEEK_END)
    assert np.array_equal(load_image(buffer), expected)
    with path.open("rb") as file, zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        assert np.array_equal(load_image(file), expected)
        assert source_name(file) == str(path)
        archive.write(path, "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive, archive.open("a.png") as member:
        assert np.array_equal(load_image(member), expected)
    buffer.close()
    assert "closed" in _refusal(buffer)


def test_open_file_must_be_binary() -> None:
    with pytest.raises(UsageError, match="open for reading bytes"):
        load_image(io.StringIO("text"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:;base64,", "data:image/jpeg;x=y;base64,"]
)
def test_a_data_uri_is_an_image(head: str) -> None:
    content = _encoded(_corners(), "PNG")
    plain = base64.b64encode(content).decode()
    forms = (
        plain,
        plain.rstrip("="),
        plain[:40] + "\n " + plain[40:],
        plain.replace("+", "%2B").replace("/", "%2F"),
        base64.urlsafe_b64encode(content).decode(),
    )
    for form in forms:
        assert np.array_equal(load_image(head + form), np.asarray(_corners()))
    assert np.array_equal(load_image("data:," + quote(content)), np.asarray(_corners()))


@pytest.mark.parametrize("damaged", ["data:image/png;base64", "data:;base64,", "data:;base64,QUJD",
                                     "data:;base64,%%%", "data:,", "data:;base64,ü"])  # fmt: skip
def test_damaged_data_uri_is_not_quoted(damaged: str) -> None:
    message = _refusal(damaged)
    assert message.startswith("data:")
    assert "sha256=" in message
    assert len(message) < 200
    assert "Q" * 60 not in _refusal("data:image/png;base64," + "Q" * 45_000)


def test_long_names_are_shortened_in_errors() -> None:
    message = _refusal("x" * 5000 + "\x1b[31m\n.png")
    assert len(message) < 200
    assert "\x1b" not in message


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory")
def test_lack_of_memory_is_not_reported_as_damage() -> None:
    code = """
import resource, sys
from mien.core.errors import MienError, UnreadableImage
from mien.core.images import load_image
content = sys.stdin.buffer.read()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
try:
    load_image(content)
except UnreadableImage:
    raise
except MienError as error:
    print(error)
"""
    content = _encoded(Image.new("RGB", (12_000, 5000)), "PNG", compress_level=1)
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True)
    assert done.stdout == b"image: not enough memory to decode it\n", done.stderr


def test_a_side_has_a_limit() -> None:
    assert load_image(_encoded(Image.new("1", (images.MAX_SIDE, 1)), "PNG")).shape[1] == 1_000_000
    assert "too long" in _refusal(Image.new("1", (images.MAX_SIDE + 1, 1)))


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = _encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert load_image(content)[4, 4].tolist() == list(RED), kind


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_tiny_and_narrow_pictures(size: tuple[int, int]) -> None:
    pixels = load_image(_encoded(Image.new("RGB", size, RED), "PNG"))
    assert pixels.shape == (size[1], size[0], 3)
    assert (pixels == RED).all()


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_lossless_files_and_arrays_agree(pixels: Pixels) -> None:
    content = _encoded(Image.fromarray(pixels), "PNG")
    assert np.array_equal(load_image(content), load_image(pixels, color="rgb"))
    assert np.array_equal(load_image(pixels, color="bgr"), pixels[:, :, ::-1])
    grey = pixels[:, :, 0]
    assert np.array_equal(load_image(grey), np.dstack([grey] * 3))
    assert np.array_equal(load_image(grey[:, :, None]), load_image(grey))


def test_an_array_needs_its_colour_order() -> None:
    with pytest.raises(UsageError, match="color='rgb'"):
        load_image(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="'RGB'"):
        load_image(np.zeros((4, 4, 3), np.uint8), color="RGB")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.full((4, 4, 3), np.nan),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((0, 0), np.uint8),
    ],
)
def test_invalid_arrays_are_rejected(array: Any) -> None:
    with pytest.raises(UsageError, match="expected an image array"):
        load_image(array, color="rgb")


@pytest.mark.parametrize(
    ("array", "mend"),
    [
        (np.full((4, 4, 3), 200.0), "up to 200: divide it by 255"),
        (np.full((4, 4, 3), -2.0, np.float32), "from -2 to -2: undo its normalisation"),
        (np.zeros((4, 4), np.uint16), "array / 65535"),
        (np.zeros((4, 4), bool), r"array\.astype\('uint8'\)"),
        (np.zeros((4, 4), np.int64), r"array\.astype\('uint8'\)"),
        (np.zeros((3, 5, 6), np.uint8), r"array\.transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "use analyze_many for a batch of images"),
    ],
)
def test_invalid_array_error_says_how_to_fix_it(array: Any, mend: str) -> None:
    with pytest.raises(UsageError, match=f"expected an image array .*{mend}"):
        load_image(array, color="rgb")


def test_floats_are_scaled_from_0_1() -> None:
    pixels = np.asarray(_corners())
    for kind in (np.float16, np.float32, np.float64):
        shares = (pixels / 255).astype(kind)
        assert np.array_equal(load_image(shares, color="rgb"), pixels)
        assert np.array_equal(load_image(shares[:, :, 0]), load_image(pixels[:, :, 0]))
    assert load_image(np.full((2, 2), 1.02)).max() == 255


def test_array_alpha_is_composited_over_white() -> None:
    picture = _corners().convert("RGBA")
    picture.putalpha(100)
    expected = load_image(picture)
    pixels = np.asarray(picture)
    assert np.array_equal(load_image(pixels, color="rgb"), expected)
    assert np.array_equal(load_image(pixels[:, :, [2, 1, 0, 3]], color="bgr"), expected)
    assert np.array_equal(load_image(pixels / 255, color="rgb"), expected)
    with pytest.raises(UsageError, match="colour order"):
        load_image(pixels)


class _Tensor:
    """Stand-in for a PyTorch tensor; NumPy has no bfloat16."""

    def __init__(self, values: Pixels | npt.NDArray[Any], *, bfloat16: bool = False) -> None:
        self.values, self.bfloat16 = values, bfloat16
        self.shape = values.shape

    def detach(self) -> _Tensor:
        return self

    def cpu(self) -> _Tensor:
        return self

    def float(self) -> _Tensor:
        return _Tensor(self.values)

    def numpy(self) -> npt.NDArray[Any]:
        if self.bfloat16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.values


def test_a_tensor_has_its_channels_first_or_last() -> None:
    pixels = np.asarray(_corners())
    first = np.moveaxis(pixels, 2, 0)
    tensors = [
        _Tensor(first),
        _Tensor(pixels),
        _Tensor((first / 255).astype(np.float32)),
        _Tensor(first / 255, bfloat16=True),
    ]
    for tensor in tensors:
        assert np.array_equal(load_image(tensor, color="rgb"), pixels)
    assert np.array_equal(load_image(_Tensor(first[::-1]), color="bgr"), pixels)
    assert np.array_equal(load_image(_Tensor(first[:1])), load_image(pixels[:, :, 0]))
    with pytest.raises(UsageError, match="analyze_many"):
        load_image(_Tensor(first[None]), color="rgb")


def test_address_is_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(url: str, *, allow_private: bool) -> bytes:
        if "lost" in url:
            raise InputError("no image within 20 seconds")
        return _encoded(_corners(), "PNG")

    monkeypatch.setattr(images, "fetch_image", fetch)
    address = "https://me:secret@example.org/face.png"
    assert np.array_equal(load_image(address), np.asarray(_corners()))
    assert source_name(address) == "https://example.org/face.png"
    assert _refusal("https://me:secret@example.org/lost") == (
        "https://example.org/lost: no image within 20 seconds"
    )


def test_private_host_is_rejected_by_default() -> None:
    text = _refusal("http://127.0.0.1:9/face.png")
    assert text.endswith("its host is not on the public internet: allow_private=True allows it")
    with pytest.raises(UnreadableImage, match="127"):  # it is asked, and nobody is there
        load_image("http://127.0.0.1:9/face.png", allow_private=True)


def test_other_types_are_rejected() -> None:
    with pytest.raises(UsageError, match="got int"):
        load_image(3)  # type: ignore[arg-type]


def test_other_files_are_unreadable(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "notes.jpg is not an image" in _refusal(text)
    assert "empty.png is empty" in _refusal(empty)
    assert "folder" in _refusal(tmp_path)
    assert _refusal("") == "the image's name is empty: give a file or an address"
    assert "no such file" in _refusal(tmp_path / "missing.jpg")
    assert "cannot be read" in _refusal("a\0b.jpg")
    assert "empty" in _refusal(b"")
    assert "is PostScript" in _refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "is HEIC, which is not supported" in _refusal(b"\0\0\0\x18ftypheic\0\0\0\0")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_files_are_unreadable_or_decoded(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    content = _encoded(Image.fromarray(noise), kind)
    assert ("damaged" in (message := _refusal(content[: len(content) // 2]))) or (
        "not an image" in message
    )
    for stop in range(1, len(content), 37):
        pixels = _read_or_refused(content[:stop])
        assert pixels is None or pixels.shape == (24, 24, 3)


@given(st.integers(0, 2**32 - 1))
def test_damage_raises_unreadable_image_only(seed: int) -> None:
    noise = np.random.default_rng(seed)
    kind = noise.choice(["JPEG", "PNG", "TIFF", "GIF", "WEBP"])
    content = bytearray(_encoded(_corners(), str(kind)))
    for spot in noise.integers(0, len(content), 5):
        content[spot] = noise.integers(0, 256)
    pixels = _read_or_refused(bytes(content))
    assert pixels is None or pixels.shape[2] == 3


def test_too_many_pixels_are_rejected() -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = (
        struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    message = _refusal(b"\x89PNG\r\n\x1a\n" + body + b"\x00\x00\x00\x00IDAT")
    assert "150 megapixels" in message


def test_own_pixel_limit_applies() -> None:
    content = _encoded(Image.new("1", (13000, 12000)), "PNG")
    assert "13000x12000 is too large" in _refusal(content)


def test_100_megapixels_are_read_without_a_warning() -> None:
    content = _encoded(Image.new("L", (12500, 8000), 7), "PNG", compress_level=1)
    pixels = load_image(content)
    assert pixels.shape == (8000, 12500, 3)
    assert pixels[-1, -1].tolist() == [7, 7, 7]


def test_pixels_are_counted_without_decoding_them() -> None:
    content = _encoded(Image.new("L", (300, 200)), "PNG")
    assert pixel_count(content) == 60_000
    assert pixel_count(content[:60]) == 60_000  # its head is all there
    for none in (b"", b"no image"):
        with pytest.raises(UnreadableImage):
            pixel_count(none)


def test_pillow_warnings_are_silenced_only_while_reading() -> None:
    before = list(warnings.filters)
    corrupt = _encoded(_corners(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x09")

    def read() -> None:
        for _ in range(20):
            load_image(corrupt)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_a_source_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    _corners().save(path)
    assert source_name("a/b.jpg") == "a/b.jpg"
    assert source_name(path) == str(path)
    with Image.open(path) as opened:
        assert source_name(opened) == str(path)
    assert source_name(b"content") is None
    assert source_name(np.zeros((2, 2), np.uint8)) is None
    assert source_name(_corners()) is None


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_binary_pnm_matches_pillow(mode: str) -> None:
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
def test_text_pnm_and_unusual_depths(content: bytes, row: list[int]) -> None:
    assert load_image(content)[0, :, 0].tolist() == row


def test_text_ppm() -> None:
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
def test_damaged_pnm_is_rejected(content: bytes) -> None:
    with pytest.raises(UnreadableImage, match="damaged"):
        load_image(content)


def test_pnm_size_limits() -> None:
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
def test_pnm_is_fast(content: bytes) -> None:
    start = time.process_time()
    load_image(content)
    assert time.process_time() - start < 1.0


def test_pnm_header_is_bounded() -> None:
    with pytest.raises(UnreadableImage, match="head"):
        load_image(b"P5\n" + b"#\n" * 100_000 + b"1 1 255\n\0")


def test_text_bitmap_memory() -> None:
    content = b"P1 1000 1000\n" + b"1 " * 2_000_000
    tracemalloc.start()
    try:
        assert not load_image(content).any()
        assert tracemalloc.get_traced_memory()[1] < 6 * len(content)
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- face crops
sizes = st.integers(1, 150)


@settings(max_examples=50)
@given(arrays.arrays(np.uint8, st.tuples(sizes, sizes), elements=st.integers(0, 255)))
def test_any_crop_becomes_48_by_48(crop: npt.NDArray[np.uint8]) -> None:
    face = standard_face(crop)
    assert face.shape == (48, 48)
    assert face.dtype == np.uint8
    # No resampling that is used here can leave the crop's own range.
    assert crop.min() <= face.min()
    assert face.max() <= crop.max()
    assert np.array_equal(standard_face(np.dstack([crop] * 3)), face)


def test_standard_face_is_idempotent() -> None:
    face = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    assert np.array_equal(standard_face(face), face)


def test_colour_is_converted_by_luma() -> None:
    red = np.zeros((5, 5, 3), np.uint8)
    red[:, :, 0] = 255
    assert set(standard_face(red).ravel().tolist()) == {76}


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((0, 5), np.uint8),
        np.zeros((5, 5)),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros(5, np.uint8),
    ],
)
def test_invalid_crops_are_rejected(crop: Any) -> None:
    with pytest.raises(UsageError, match="expected a face crop"):
        standard_face(crop)
