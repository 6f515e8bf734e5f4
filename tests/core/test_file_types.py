from __future__ import annotations

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mien.core.errors import UnreadableImage
from mien.core.file_types import (
    HEAD_BYTES,
    IMAGE_SUFFIXES,
    MAX_SCANS,
    READABLE_FORMATS,
    decoding_hazard,
    sniff_format,
)
from mien.core.images import load_image, pixel_count


@pytest.mark.parametrize("kind", sorted(READABLE_FORMATS))
def test_sniffs_every_readable_format(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(buffer, kind)
    assert sniff_format(buffer.getvalue()[:HEAD_BYTES]) == kind


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
def test_sniffs_unsupported_formats(head: bytes, kind: str | None) -> None:
    assert sniff_format(head) == kind
    assert kind == "PPM" or kind not in READABLE_FORMATS


def test_suffixes_are_lower_case_and_unique() -> None:
    assert all(each == each.lower() and each.startswith(".") for each in IMAGE_SUFFIXES)
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
    assert {".jpg", ".jfif", ".jpg_large", ".png"} <= set(IMAGE_SUFFIXES)


# ---------------------------------------------------------- small files that are slow to decode
def _encoded(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.new("RGB", (32, 32), "red")).save(buffer, kind, **options)
    return buffer.getvalue()


def _progressive(scans: int, side: int = 32) -> bytes:
    """Return a progressive JPEG that repeats its last scan and claims to have this side.

    Decoders fill in missing pixels.
    """
    content = bytearray(_encoded("JPEG", progressive=True))
    frame = content.index(b"\xff\xc2")
    struct.pack_into(">HH", content, frame + 5, side, side)
    honest = content.count(b"\xff\xda")
    last = bytes(content[content.rindex(b"\xff\xda") : -2])
    return bytes(content[:-2]) + last * (scans - honest) + b"\xff\xd9"


def _chunk(kind: bytes, body: bytes = b"") -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def _png(*chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes((width + 1) * height)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + _chunk(b"IEND")


def _gif(comments: bytes) -> bytes:
    content = _encoded("GIF", Image.new("L", (8, 8)))
    start = 13 + (3 << (content[10] & 7) + 1)
    return content[:start] + b"!\xfe" + comments + b"\0" + content[start:]


def _bmp(compression: int, width: int, height: int, body: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0)
    palette = bytes(1024)
    start = 14 + len(head) + len(palette)
    size = start + len(body)
    return b"BM" + struct.pack("<IHHI", size, 0, 0, start) + head + palette + body


def _icon(frame: bytes, *, before: tuple[int, ...] = ()) -> bytes:
    """Return an icon with this frame, after smaller ones at these offsets."""
    entries = [
        *(struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 8, 99, start) for start in before),
        struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 8, len(frame), 22 + 16 * len(before)),
    ]
    return struct.pack("<HHH", 0, 1, len(entries)) + b"".join(entries) + frame


def _tiff(body: bytes = b"", types: dict[int, int] | None = None, **tags: tuple[int, ...]) -> bytes:
    """Return an 8-bit grey TIFF; further tags are given as ``t322``.

    Tags are of type 4 (4-byte integers) unless given in ``types``.
    """
    plain = {"t256": (64,), "t257": (64,), "t258": (8,), "t259": (1,), "t262": (1,), "t277": (1,)}
    known = {int(name[1:]): values for name, values in {**plain, **tags}.items()}
    far, entries = b"", b""
    start = 8 + len(body) + 2 + 12 * len(known) + 4
    for tag, values in sorted(known.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        place = packed if len(values) == 1 else struct.pack("<I", start + len(far))
        far += b"" if len(values) == 1 else packed
        entries += struct.pack("<HHI", tag, (types or {}).get(tag, 4), len(values)) + place
    directory = struct.pack("<H", len(known)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + far


HOSTILE = {
    "scans": _progressive(300, 7000),
    "segments": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 500_000,
    "filling": b"\xff\xd8" + b"\xff" * 1_000_000,
    "photoshop": b"\xff\xd8" + b"\xff\xed\x00\x10Photoshop 3.0\0" * 50_000,
    "chunks": _png(*[_chunk(b"abCd")] * 50_000),
    "empty pixels": _png(*[_chunk(b"IDAT")] * 50_000),
    "profiles": _png(*[_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 200),
    "comments": _gif(b"\x01a" * 500_000),
    "line ends": _bmp(1, 30_000_000, 1, b"\x00\x00" * 40),
    "runs of nothing": _bmp(1, 100, 100, b"\x64\x01" + b"\xff\x01" * 2_500_000),
    "icon": _icon(_png(width=6000, height=6000)),
    "icon behind one that is missing": _icon(
        _png(width=6000, height=6000), before=(0x7FFFFFFF,)
    ),
    "icon of runs": _icon(
        struct.pack("<IiiHHIIiiII", 40, 900, 1800, 1, 8, 1, 0, 0, 0, 0, 0) + b"\xff\x01" * 999
    ),
    "samples": _tiff(t277=(255,), t273=(8,), t279=(64,)),
    "LZMA": _tiff(t259=(34925,), t273=(8,), t279=(64,)),
    "one strip again and again": _tiff(
        bytes(4096), t273=(8,) * 100_000, t279=(4096,) * 100_000, t278=(63,)
    ),
    "many strips": _tiff(t256=(1,), t257=(60_000,), t278=(1,), t273=(8,) * 60_000),
    "strips at signed numbers": _tiff(
        t256=(1,), t257=(190_000,), t278=(1,), t273=(8,) * 190_000, types={273: 9}
    ),
    "scans in a TIFF of a signed size": _tiff(
        _progressive(300, 7000), t256=(7000,), t257=(7000,), t259=(7,), t273=(8,),
        t279=(20_000,), types={256: 9, 257: 9}
    ),
    "shared strips": _tiff(
        bytes(1 << 20), t256=(100,), t257=(100_000,), t259=(8,), t278=(1,),
        t273=(8,) * 100_000, t279=(1 << 20,) * 100_000
    ),
    "large tiles": _tiff(
        t256=(1,), t257=(1000,), t322=(65_536,), t323=(1,), t259=(8,),
        t324=(8,) * 1000, t325=(64,) * 1000
    ),
    "long": _png(width=1, height=1_000_001),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hazardous_files_are_rejected_quickly(what: str) -> None:
    content = HOSTILE[what]
    start = time.process_time()
    for read in (load_image, pixel_count):
        with pytest.raises(UnreadableImage) as error:
            read(content)
        message = str(error.value)
        assert message.startswith("image ")
        assert "\n" not in message
        assert len(message) < 200
    assert time.process_time() - start < 1.0


def test_the_limit_is_on_scans_times_pixels() -> None:
    assert "12 scans of 81 megapixels" in (decoding_hazard(_progressive(MAX_SCANS + 1, 9000)) or "")
    assert decoding_hazard(_progressive(MAX_SCANS, 9000)) is None  # as many as honest photos have
    assert decoding_hazard(_progressive(400)) is None  # they take no time
    assert load_image(_progressive(400)).shape == (32, 32, 3)


def test_scans_outside_the_image_do_not_count() -> None:
    within = b"\xff\xe1" + struct.pack(">H", 2 + 200) + b"\xff\xda" * 100
    content = _progressive(10, 9000)
    assert decoding_hazard(content[:2] + within + content[2:]) is None
    assert decoding_hazard(content + b"\xff\xda\x00\x02" * 100) is None


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("ICO", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("TIFF", {"compression": "jpeg"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {}),
    ],
)
def test_genuine_files_pass(kind: str, options: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    content = _encoded(kind, Image.fromarray(noise), **options)
    assert decoding_hazard(content) is None
    assert load_image(content).shape[2] == 3
    for stop in range(0, len(content), max(1, len(content) // 200)):
        decoding_hazard(content[:stop])  # whatever is left of it


def test_small_run_length_bitmap_is_read() -> None:
    content = _bmp(1, 4, 2, b"\x04\x00\x00\x00\x04\x00\x00\x01")
    assert load_image(content).shape == (2, 4, 3)


def test_an_animation_of_many_frames_is_read() -> None:
    frames = [Image.new("L", (8, 8), number) for number in range(150)]
    for kind in ("PNG", "GIF", "WEBP"):
        content = _encoded(kind, frames[0], save_all=True, append_images=frames[1:])
        assert decoding_hazard(content) is None
        assert load_image(content).shape == (8, 8, 3)


def test_strips_with_16_bit_lengths_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.TiffImagePlugin.STRIP_SIZE", 1)
    noise = np.random.default_rng(0).integers(0, 256, (5000, 64), np.uint8)
    content = _encoded("TIFF", Image.fromarray(noise), compression="tiff_lzw")
    assert len(content) > 1 << 16
    assert np.array_equal(load_image(content)[:, :, 0], noise)


SEEDS = [
    _encoded("JPEG"),
    _encoded("PNG"),
    _encoded("GIF"),
    _encoded("BMP"),
    _encoded("ICO"),
    _encoded("TIFF"),
    _encoded("TIFF", compression="tiff_lzw", big_tiff=True),
]


@settings(max_examples=300)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=8))))
def test_damage_never_crashes_the_check(seed: bytes, damage: list[tuple[int, bytes]]) -> None:
    content = bytearray(seed)
    for place, other in damage:
        content[place : place + len(other)] = other
    found = decoding_hazard(bytes(content))
    assert found is None or found.endswith("JPEG or PNG")
