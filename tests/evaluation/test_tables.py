"""Text and Markdown tables, their cells, and marked sections."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mien.evaluation.metrics import Interval
from mien.evaluation.tables import decimal, markdown_table, percent, percent_range, text_table

words = st.text(st.characters(codec="ascii", exclude_categories=["C", "Z"]), max_size=12)


def test_text_aligns_the_first_column_left_and_the_others_right() -> None:
    table = text_table(["emotion", "n"], [["sad", "7"], ["surprise", "1,234"]])
    assert table == "emotion       n\nsad           7\nsurprise  1,234"


def test_markdown_is_aligned_in_its_source_and_says_so_in_its_rule() -> None:
    table = markdown_table(["emotion", "n"], [["a|b", "7"]])
    assert table == "| emotion |   n |\n| ------- | --: |\n| a\\|b    |   7 |"


def test_numbers() -> None:
    assert percent(0.69044) == "69.04 %"
    assert percent(None) == "-"
    assert percent_range(Interval(0.675, 0.7051), digits=1) == "67.5 to 70.5 %"
    assert percent_range(None) == "-"
    assert decimal(1.23456, digits=2) == "1.23"
    assert decimal(None) == "-"


@given(st.lists(st.lists(words, min_size=3, max_size=3), min_size=1, max_size=5))
def test_every_line_of_a_markdown_table_is_as_long_as_the_others(rows: list[list[str]]) -> None:
    lines = markdown_table(["one", "two", "three"], rows).splitlines()
    assert len(lines) == len(rows) + 2
    assert len({len(line) for line in lines}) == 1
