"""Live bars on a terminal."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mien.cli import live_view
from mien.cli.live_view import LiveBars
from mien.core.display import class_colors
from mien.core.emotions import EMOTIONS
from mien.core.results import Result
from video_results import face, result

CONTROL = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]")


class _Terminal(io.TextIOWrapper):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(autouse=True)
def colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(live_view, "_REDRAW_S", 0.0)


def drawn(
    monkeypatch: pytest.MonkeyPatch,
    *results: Result,
    labels: Sequence[str] = EMOTIONS,
    width: int = 100,
    encoding: str = "utf-8",
) -> str:
    """Return what is drawn for results on a terminal; a line on stderr follows each of them."""
    terminal = _Terminal(encoding)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    with LiveBars("camera 0", labels) as bars:
        for item in results:
            bars.show(item)
            print("mien: lost", file=sys.stderr)
    return terminal.text()


def test_faces_have_bars_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(monkeypatch, result(42, face(0, "happy", 0.76), face(3, "sad", 0.5)))
    lines = CONTROL.sub("", text).splitlines()
    assert any(line.startswith("camera 0  0:04.2") for line in lines)
    assert any(line.split() == ["#0", "happy", "#3", "sad"] for line in lines)
    happy = next(line.split() for line in lines if "76%" in line)
    assert (happy[0], happy[3]) == ("happy", "happy")
    assert "mien: lost" in (line.strip() for line in lines)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_bars_wrap_to_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    text = drawn(monkeypatch, result(0, *(face(n, "happy") for n in range(3))), width=width)
    lines = CONTROL.sub("", text).splitlines()
    assert max(map(len, lines)) <= width
    assert {word for line in lines for word in line.split() if "#" in word} == {"#0", "#1", "#2"}


def test_a_frame_without_faces_shows_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no face" in drawn(monkeypatch, result(0))


def test_custom_classes_have_the_colors_of_annotated_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = ("calm", "tense", "Surprised")
    scores = {"calm": 0.8, "tense": 0.1, "Surprised": 0.1}
    seen = replace(face(0, "happy", 0.8), emotion="calm", scores=scores, smoothed=None)
    text = drawn(monkeypatch, result(0, seen), labels=labels)
    for red, green, blue, *_ in class_colors(labels).values():
        assert f"38;2;{red};{green};{blue}m" in text


def test_each_result_redraws_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    text = drawn(monkeypatch, *(result(step, face(0, "happy")) for step in range(3)))
    assert "\x1b[1A" in text
    assert CONTROL.sub("", text).count("mien: lost") == 3


def test_no_color_and_plain_terminals_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = drawn(monkeypatch, result(0, face(0, "happy", 0.76)), encoding="ascii")
    assert "38;" not in text
    assert text.isascii()
