from __future__ import annotations

import io
import logging
import re
from dataclasses import replace

import pytest

from mien.cli.live_bars import LiveBars
from mien.cli.output import display_width
from mien.core.emotions import EMOTIONS
from mien.inference.annotate import class_colors
from video_results import face, result

STYLE = re.compile(r"\x1b\[[0-9;]*m")


class _Terminal(io.TextIOWrapper):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def text(self) -> str:
        self.flush()
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode(self.encoding)


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _bars(terminal: _Terminal | None = None, clock: _Clock | None = None) -> LiveBars:
    return LiveBars("camera 0", EMOTIONS, stream=terminal or _Terminal(), clock=clock or _Clock())


def test_each_face_has_its_bars_side_by_side() -> None:
    bars = _bars()
    lines = bars.lines(result(42, face(0, "happy", 0.76), face(3, "sad", 0.5)), 100)
    plain = [STYLE.sub("", line) for line in lines]
    assert plain[0].startswith("camera 0  0:04.2")
    assert plain[1].split() == ["#0", "happy", "#3", "sad"]
    happy = next(line for line in plain if "happy" in line and "%" in line)
    assert happy.split() == ["happy", "█" * 9 + "░" * 3, "76%", "happy", "█" + "░" * 11, "8%"]
    assert len(lines) == 1 + 1 + len(EMOTIONS)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_what_does_not_fit_is_counted(width: int) -> None:
    lines = _bars().lines(result(0, *(face(number, "happy") for number in range(9))), width)
    plain = [STYLE.sub("", line) for line in lines]
    shown = plain[1].count("#")
    assert shown >= 1
    assert (f"(+{9 - shown})" in plain[0]) == (shown < 9)
    if width >= 40:
        assert max(display_width(line) for line in plain[1:]) <= width


def test_nobody_takes_as_many_lines_as_somebody() -> None:
    bars = _bars()
    assert len(bars.lines(result(0), 80)) == len(bars.lines(result(0, face(0, "sad")), 80))


def test_classes_of_ones_own_have_the_colours_of_annotated_pictures() -> None:
    labels = ("calm", "tense", "Surprised")
    bars = LiveBars("camera 0", labels, stream=_Terminal(), clock=_Clock())
    scores = {"calm": 0.8, "tense": 0.1, "Surprised": 0.1}
    seen = replace(face(0, "happy", 0.8), emotion="calm", scores=scores, smoothed=None)
    lines = bars.lines(result(0, seen), 80)
    for name, (red, green, blue) in class_colors(labels).items():
        line = next(line for line in lines if name in line and "%" in line)
        assert f"\x1b[38;2;{red};{green};{blue}m" in line


def test_lines_are_drawn_over_each_other_and_not_too_often() -> None:
    terminal, clock = _Terminal(), _Clock()
    with _bars(terminal, clock) as bars:
        for step in range(5):
            clock.now = step * 0.04
            bars.show(result(step, face(0, "happy")))
    text = terminal.text()
    assert text.count("camera 0") == 3  # at 0, 0.08 and 0.16 seconds
    assert text.count("\x1b[9A") == 2
    assert text.endswith("\x1b[J")


def test_notes_are_not_drawn_over() -> None:
    terminal, clock = _Terminal(), _Clock()
    with _bars(terminal, clock) as bars:
        bars.show(result(0, face(0, "happy")))
        logging.getLogger("mien.video.live").warning("lost")
        clock.now = 1.0
        bars.show(result(1, face(0, "happy")))
    assert "\x1b[9A" not in terminal.text()
    assert not any("Notes" in type(one).__name__ for one in logging.getLogger("mien").handlers)


def test_no_color_and_plain_terminals_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = _bars(_Terminal("ascii")).lines(result(0, face(0, "happy", 0.76)), 80)
    assert not any(STYLE.search(line) for line in lines)
    assert "".join(lines).isascii()
