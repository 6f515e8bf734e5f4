"""The folder of a report, and the sections of Markdown files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mien.core.errors import InputError, OutputError, UsageError
from mien.data.votes import EMOTION_COLUMNS
from mien.evaluation.figures import read_history
from mien.evaluation.metrics import measure_agreement
from mien.evaluation.report import (
    EVALUATIONS,
    Report,
    choose_report_folder,
    read_report_json,
    render_sections,
    update_sections,
    write_figures,
    write_report,
    write_report_json,
)
from mien.evaluation.tables import section_names, update_marked_section
from report_maker import make_report, make_samples, renamed

pytest.importorskip("seaborn")

FILES = {
    "confusion.png",
    "evaluations",
    "per_class.png",
    "reliability.png",
    "report.json",
    "report.md",
    "report.txt",
    "samples.png",
}


def test_the_folder_holds_text_markdown_json_and_figures(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "report"
    report = make_report()
    assert write_report(report, folder, samples=make_samples()) == (report,)
    assert {path.name for path in folder.iterdir()} == FILES
    assert read_report_json(folder / "report.json") == report
    markdown = (folder / "report.md").read_text()
    for path in folder.glob("*.png"):
        assert f"]({path.name})" in markdown
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 500


def test_earlier_evaluations_of_the_same_model_are_kept_and_listed(tmp_path: Path) -> None:
    for earlier in (renamed(make_report("train"), sha256="cd" * 32), make_report("val")):
        write_report_json(earlier, tmp_path / "evaluations" / f"{earlier.key}.json")
    reports = write_report(make_report("test"), tmp_path, samples=make_samples())
    assert [report.key for report in reports] == ["val", "test"]
    assert "on test" in (tmp_path / "report.txt").read_text()
    assert "| val, all 140 " in (tmp_path / "report.md").read_text()


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_figures(make_report(), tmp_path / name)
    for path in (tmp_path / "one").glob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_history_is_drawn_as_curves(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("epoch,phase,loss,val_accuracy\n1,head,1.9,\n2,all,1.5,0.4\n")
    history = read_history(path)
    assert history["val_accuracy"] == ["", "0.4"]
    assert "curves.png" in write_figures(make_report(), tmp_path, history=history)
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("content", ["", "epoch,loss\n", "epoch,loss\n1\n"])
def test_a_history_without_rows_or_with_a_torn_one_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "history.csv"
    path.write_text(content)
    with pytest.raises(InputError, match="a line for each epoch"):
        read_history(path)
    with pytest.raises(InputError, match=r"none\.csv"):
        read_history(tmp_path / "none.csv")


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        write_report(make_report(), tmp_path / "file" / "report", samples=make_samples())


REPORT = replace(make_report(), images_sha256="1" * 64)


def put(report: Report, base: Path, **options: bool) -> Path:
    folder = choose_report_folder(
        base,
        report.model,
        report.data,
        key=report.key,
        images_sha256=report.images_sha256,
        **options,
    )
    write_report_json(report, folder / "report.json")
    write_report_json(report, folder / EVALUATIONS / f"{report.key}.json")
    return folder


def test_reports_on_other_data_or_another_model_get_their_own_folder(tmp_path: Path) -> None:
    base = tmp_path / "report"
    other_data = replace(REPORT, data="others")
    other_model = replace(REPORT, model=replace(REPORT.model, sha256="cd" * 32))
    other_images = replace(REPORT, images_sha256="2" * 64)
    for _ in range(2):
        assert put(REPORT, base) == base
        assert put(other_data, base).name == "report-2"
        assert put(other_model, base).name == "report-3"
        assert put(other_images, base).name == "report-4"


def test_evaluations_of_a_model_on_the_same_data_share_a_folder(tmp_path: Path) -> None:
    base = tmp_path / "report"
    for report in (REPORT, replace(REPORT, split="val", images_sha256="2" * 64)):
        for tta in (False, True):
            assert put(replace(report, tta=tta), base) == base


def test_a_given_folder_is_used_and_not_replaced(tmp_path: Path) -> None:
    base = tmp_path / "mine"
    put(REPORT, base, given=True)
    put(REPORT, base, given=True)
    other = replace(REPORT, data="others")
    with pytest.raises(UsageError, match=r"holds a report on another .* --force to replace it"):
        put(other, base, given=True)
    assert put(other, base, given=True, force=True) == base


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_a_damaged_report_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    base = tmp_path / "report"
    base.mkdir()
    (base / "report.json").write_bytes(content)
    assert put(REPORT, base).name == "report-2"


def test_a_report_of_an_earlier_version_is_replaced_by_its_successor(tmp_path: Path) -> None:
    base = tmp_path / "report"
    put(replace(REPORT, images_sha256=None), base)
    assert put(REPORT, base) == base


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


def test_only_known_sections_are_filled(page: Path) -> None:
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


def test_the_peoples_labels_have_their_own_section(page: Path) -> None:
    counts = np.zeros((140, 10), np.int64)
    counts[np.arange(140), np.array(EMOTION_COLUMNS)[np.arange(140) % 7]] = 10
    agreement = measure_agreement(make_samples().probabilities, counts)
    people = renamed(make_report(), labels="people")
    assert render_sections([people]) == {}
    voted = replace(people, agreement=agreement)
    text = render_sections([voted])["agreement"]
    assert "| test, all 140" in text
    assert "| surprise " in text
    # A page with sections for FER-2013's labels only is not changed.
    before = page.read_text()
    with pytest.raises(InputError, match="one of agreement"):
        update_sections(page, [voted])
    assert page.read_text() == before
    page.write_text("<!-- figures:begin agreement -->\n<!-- figures:end agreement -->\n")
    assert update_sections(page, [voted]) == ("agreement",)
