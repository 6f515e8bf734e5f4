from __future__ import annotations

import io

import pytest

from mien.core.progress import Progress, format_duration, track


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (8.4, "8s"), (59.4, "59s"), (185, "3m05s"), (3720, "1h02m"), (-1, "0s")],
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_nothing_is_drawn_but_on_a_terminal() -> None:
    for stream, quiet in ((io.StringIO(), False), (_Terminal(), True)):
        with Progress("Reading", 3, stream=stream, quiet=quiet) as progress:
            progress.advance(3)
        assert stream.getvalue() == ""


def test_a_terminal_sees_count_rate_and_end() -> None:
    stream = _Terminal()
    with Progress("Reading", 4, unit="img", stream=stream) as progress:
        progress.advance(2, note="angry")
        assert "50% 2/4" in progress.line()
        assert "left" in progress.line()
        progress.advance(2)
    last = stream.getvalue().split("\r")[-1]
    assert "100% 4/4" in last
    assert "img/s" in last
    assert "angry" in last
    assert last.endswith("\n")


def test_tracking_yields_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(5), "Counting")) == [0, 1, 2, 3, 4]
    assert list(track(iter("ab"), "Counting")) == ["a", "b"]
    assert capsys.readouterr() == ("", "")
