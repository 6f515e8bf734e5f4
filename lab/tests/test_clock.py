from __future__ import annotations

from pathlib import Path

import pytest

from lab.gpu.clock import Journal
from mien.core.errors import InputError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_of_all_pieces_adds_up_that_between_them_does_not(tmp_path: Path) -> None:
    clock = Clock()
    first = Journal(tmp_path / "journal.json", clock)
    clock.now += 30
    assert (first.spent, first.in_piece) == (30, 30)
    first.notes["epochs"] = 7
    first.save()
    clock.now += 1000
    second = Journal(tmp_path / "journal.json", clock)
    clock.now += 12
    assert second.notes["epochs"] == 7
    assert (second.spent, second.in_piece) == (42, 12)


def test_a_killed_piece_has_most_of_its_time_counted(tmp_path: Path) -> None:
    clock = Clock()
    killed = Journal(tmp_path / "journal.json", clock)
    for _ in range(20):
        clock.now += 1
        killed.beat()
    assert Journal(tmp_path / "journal.json", clock).spent == pytest.approx(20, abs=5)


def test_a_damaged_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_text("{")
    with pytest.raises(InputError, match="is damaged: delete it"):
        Journal(tmp_path / "journal.json")
