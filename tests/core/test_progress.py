from __future__ import annotations

import io
import re
import sys

import pytest

from mien.core import progress as module
from mien.core.progress import Progress, format_duration, track


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """The drawn lines, including redrawn ones, without styles."""
        plain = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", self.getvalue())
        return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def terminal_for(monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """Replace stderr by a terminal on which bars are drawn at once."""
    stream = _Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(module, "SHOWN_AFTER_S", 0.0)
    monkeypatch.setattr(module, "_REDRAW_S", 0.0)
    monkeypatch.setenv("COLUMNS", "100")
    return stream


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (8.4, "8s"), (59.4, "59s"), (185, "3m05s"), (3720, "1h02m"), (-1, "0s")],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_nothing_is_drawn_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(5), "Counting")) == [0, 1, 2, 3, 4]
    assert list(track(iter("ab"), "Counting")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_quiet_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    assert list(track("ab", "Counting", quiet=True)) == ["a", "b"]
    assert terminal.getvalue() == ""


def test_short_work_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    monkeypatch.setattr(module, "SHOWN_AFTER_S", 60.0)
    assert list(track("ab", "Counting")) == ["a", "b"]
    assert terminal.getvalue() == ""


def test_bar_shows_count_rate_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    with Progress("Reading", 4, unit="img") as progress:
        progress.advance(2, note="loss [b]0.3[/b]")
        print("mien: a note", file=sys.stderr)
        progress.advance(2)
    first, *_, last = lines = terminal.lines
    assert "50% 2/4" in first
    assert "left" in first
    assert "mien: a note" in lines  # above the bar, on a line of its own
    for word in ("Reading", "100% 4/4", "img/s", "loss [b]0.3[/b]"):
        assert word in last
    assert sys.stderr is terminal


def test_total_may_be_set_later_or_never(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_for(monkeypatch)
    with Progress("Counting") as progress:
        progress.advance(1500)
    assert "1,500" in terminal.lines[0]
    assert "100% 1,500/1,500" in terminal.lines[-1]
