"""Tables, CSV and JSON with arbitrary text."""

from __future__ import annotations

import csv
import io

from hypothesis import example, given
from hypothesis import strategies as st

from mien.core.formats import csv_text, display_width, json_text, table_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def test_wide_characters_take_two_columns_and_accents_none() -> None:
    assert display_width("abc") == 3
    assert display_width("脸") == 2
    assert display_width("e\u0301") == 1


@given(st.lists(st.tuples(TEXT, TEXT), max_size=5))
def test_columns_of_a_table_line_up(rows: list[tuple[str, str]]) -> None:
    # The last cell is one letter, so every line is as wide as every other.
    lines = table_text(("A", "B", "C"), [(*row, "x") for row in rows], right=(1,)).split("\n")
    assert lines.pop() == ""
    assert len({display_width(line) for line in lines}) == 1


def test_a_short_row_does_not_widen_the_table() -> None:
    text = table_text(("A", "B", "C"), [("a", "b", "c"), ("a", "a long remark")])
    assert text == "A  B  C\na  b  c\na  a long remark\n"


@example([{"a": "", "b": "\r"}])
@given(st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), max_size=5))
def test_csv_round_trips(rows: list[dict[str, str]]) -> None:
    read = list(csv.DictReader(io.StringIO(csv_text(rows, ("a", "b")), newline="")))
    assert read == rows


def test_csv_writes_booleans_as_json_and_none_as_empty() -> None:
    row = {"a": True, "b": None, "c": 0.5}
    assert csv_text([row], ("a", "b", "c"), header=False) == "true,,0.5\n"


def test_json_does_not_escape_letters() -> None:
    assert json_text({"a": "größe"}, indent=None) == '{"a": "größe"}'
