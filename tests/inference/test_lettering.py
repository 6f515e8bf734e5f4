"""Fonts for class names: the default one as ever for ASCII, one that has more for the rest."""

from __future__ import annotations

import pytest
from PIL import ImageFont

from mien.inference import lettering
from mien.inference.lettering import font_for


@pytest.fixture(autouse=True)
def fresh() -> None:
    lettering._fitting.cache_clear()


def looks(font: lettering.Font, text: str) -> bytes:
    return bytes(font.getmask(text))


def test_ascii_is_drawn_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_FONTS", ())
    assert looks(font_for("happy", 20), "happy") == looks(ImageFont.load_default(20), "happy")


def test_another_font_is_taken_for_what_the_default_one_lacks() -> None:
    try:
        ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("this machine has no DejaVu")
    font = font_for("грустно", 20)
    assert all(looks(font, one) != looks(font, "\U0010ffff") for one in "грустно")


def test_without_any_such_font_the_default_one_draws_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_FONTS", ("no such font.ttf",))
    font = font_for("びっくり", 20)
    assert looks(font, "a") == looks(ImageFont.load_default(20), "a")
    assert looks(font, "び") == looks(font, "\U0010ffff")
