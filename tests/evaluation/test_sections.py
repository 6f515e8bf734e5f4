"""Sections of Markdown files that the evaluation writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import InputError
from mien.evaluation.sections import (
    render_sections,
    section_names,
    update_marked_section,
    update_sections,
)
from report_maker import make_report

PAGE = """# Title

<!-- figures:begin results -->
old
<!-- figures:end results -->

Kept.

<!-- figures:begin speed -->
another's
<!-- figures:end speed -->
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(PAGE)
    return path


def test_only_the_text_between_the_marks_changes(page: Path) -> None:
    update_marked_section(page, "results", "new\nlines")
    assert page.read_text() == PAGE.replace("old", "\nnew\nlines\n")


def test_line_ends_of_the_rest_stay_as_they_are(page: Path) -> None:
    page.write_bytes(PAGE.replace("\n", "\r\n").encode())
    update_marked_section(page, "results", "new")
    assert page.read_bytes().startswith(b"# Title\r\n\r\n")
    assert page.read_bytes().endswith(b"<!-- figures:end speed -->\r\n")


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="<")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_updating_twice_is_updating_once(page: Path, text: str) -> None:
    update_marked_section(page, "results", text)
    once = page.read_bytes()
    update_marked_section(page, "results", text)
    assert page.read_bytes() == once


@pytest.mark.parametrize(
    "content",
    [
        "nothing here",
        "<!-- figures:begin results -->",
        "<!-- figures:end results --><!-- figures:begin results -->",
        "<!-- figures:begin results --><!-- figures:end results -->" * 2,
    ],
)
def test_marks_that_are_missing_or_mixed_up_are_refused_and_the_file_is_kept(
    page: Path, content: str
) -> None:
    page.write_text(content)
    with pytest.raises(InputError, match="exactly once"):
        update_marked_section(page, "results", "new")
    assert page.read_text() == content


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.md"):
        update_marked_section(tmp_path / "none.md", "results", "new")
    (tmp_path / "latin.md").write_bytes(b"\xe9\xff")
    with pytest.raises(InputError, match=r"latin\.md: it is not UTF-8"):
        section_names(tmp_path / "latin.md")


def test_known_sections_are_filled_and_those_of_others_left_alone(page: Path) -> None:
    reports = [make_report("val"), make_report("test"), make_report("test", tta=True)]
    assert section_names(page) == ("results", "speed")
    assert update_sections(page, reports) == ("results",)
    text = page.read_text()
    assert "| test, clean 112 | yes |" in text
    assert "another's" in text
    assert "old" not in text


def test_a_page_without_a_known_section_is_refused(page: Path) -> None:
    page.write_text("<!-- figures:begin speed -->\n<!-- figures:end speed -->\n")
    with pytest.raises(InputError, match="results, per-class, confusion"):
        update_sections(page, [make_report()])


def test_details_are_of_the_test_split_without_augmentation_where_there_is_one() -> None:
    reports = [make_report("val"), make_report("test"), make_report("test", tta=True)]
    assert render_sections(reports)["per-class"].startswith("little 1.2.3 on test:")
    assert render_sections(reports[:1])["per-class"].startswith("little 1.2.3 on val:")
    assert "| surprise " in render_sections(reports)["confusion"]
