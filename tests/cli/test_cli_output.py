"""Bars, shortened paths, and lines on stderr."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.cli.output import bar, note, shorten
from mien.core.formats import display_width

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXT, st.integers(2, 40))
def test_a_shortened_path_fits_and_keeps_its_end(text: str, width: int) -> None:
    short = shorten(text, width)
    assert display_width(short) <= width
    assert text.endswith(short.removeprefix("…"))


@given(st.floats(-1, 2), st.integers(1, 20))
def test_a_bar_has_the_requested_width(share: float, width: int) -> None:
    assert len(bar(share, width)) == width
    assert bar(share, width).count("█") == bar(share, width, plain=True).count("#")


def test_a_full_bar_is_full_and_an_empty_one_empty() -> None:
    assert bar(1.0, 4) == "████"
    assert bar(0.0, 4, plain=True) == "...."


def test_a_line_on_stderr_shows_the_line_breaks_of_a_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    note("picture: new\nline  two.png", quiet=False)
    assert capsys.readouterr().err == "picture: new\\nline  two.png\n"
