"""Any bytes as an image."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import given
from PIL import Image, features

from fuzz.harness import check, damaged, fuzz
from mien.core import images
from mien.core.images import load_image, pixel_count

# Large pictures may take more time and memory than the rule allows; only small ones are decoded.
images.MAX_PIXELS = 4_000_000


def _seeds() -> list[bytes]:
    picture = Image.linear_gradient("L").resize((40, 30))
    forms: list[tuple[str, str, dict[str, Any]]] = [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "icc_profile": b"x" * 200}),
        ("JPEG", "CMYK", {}),
        ("MPO", "RGB", {"save_all": True, "append_images": [picture.convert("RGB")]}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {"transparency": 3}),
        ("PNG", "I;16", {}),
        ("GIF", "P", {"save_all": True, "append_images": [picture], "comment": b"hello"}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("ICO", "RGBA", {"sizes": [(16, 16), (32, 32)]}),
        ("ICO", "RGBA", {"sizes": [(16, 16), (32, 32)], "bitmap_format": "bmp"}),
        ("PPM", "RGB", {}),
        ("PPM", "1", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "I;16", {}),
        ("TIFF", "F", {}),
        ("TIFF", "L", {"big_tiff": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [picture.convert("RGB")]}),
    ]
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        forms.append(("TIFF", "RGB", {"compression": compression}))
    if features.check("avif"):
        forms.append(("AVIF", "RGB", {}))
    seeds = [
        b"P1\n3 2\n1 0 1 0 1 0\n",
        b"P2\n# grey\n3 1 255\n0 128 255\n",
        b"P3 1 1 255 1 2 3\n",
        b"P5 3 1 1023\n\0\0\2\0\3\xff",
        # Run lengths of 4x2.
        b"BM\x3e\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\4\0\0\0\2\0\0\0\1\0\x08\0\1"
        + bytes(23) + b"\4\0\0\0\4\0\0\1",
    ]  # fmt: skip
    for kind, mode, options in forms:
        buffer = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        extra = {"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {}
        picture.convert("L").convert(mode).save(buffer, kind, **extra, **options)
        seeds.append(buffer.getvalue())
    return seeds


@given(damaged(_seeds(), [b"\xff\xda", b"IDAT", b"\0\0\0\0IEND", b"9999999", b"-1"]))
def an_image(content: bytes) -> None:
    def read() -> None:
        try:
            pixels = load_image(content)
        finally:
            pixel_count(content)
        assert pixels.dtype == "uint8"
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.size > 0

    check("image", content, read)


if __name__ == "__main__":
    fuzz(an_image)
