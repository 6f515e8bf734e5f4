"""No report takes the place of another's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mien.core.errors import UsageError
from mien.evaluation.report import Report, write_report_json
from mien.evaluation.report_folder import EVALUATIONS
from mien.evaluation.report_place import report_place
from report_maker import make_report

REPORT = replace(make_report(), images_sha256="1" * 64)


def put(report: Report, base: Path, **options: bool) -> Path:
    folder = report_place(
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


def test_reports_on_other_data_or_another_model_go_beside_it(tmp_path: Path) -> None:
    base = tmp_path / "report"
    other_data = replace(REPORT, data="others")
    other_model = replace(REPORT, model=replace(REPORT.model, sha256="cd" * 32))
    other_images = replace(REPORT, images_sha256="2" * 64)
    for _ in range(2):
        assert put(REPORT, base) == base
        assert put(other_data, base).name == "report-2"
        assert put(other_model, base).name == "report-3"
        assert put(other_images, base).name == "report-4"


def test_other_evaluations_of_a_model_on_the_same_data_stand_together(tmp_path: Path) -> None:
    base = tmp_path / "report"
    for report in (REPORT, replace(REPORT, split="val", images_sha256="2" * 64)):
        for tta in (False, True):
            assert put(replace(report, tta=tta), base) == base


def test_a_folder_that_was_chosen_is_kept_to_and_not_replaced(tmp_path: Path) -> None:
    base = tmp_path / "mine"
    put(REPORT, base, given=True)
    put(REPORT, base, given=True)
    other = replace(REPORT, data="others")
    with pytest.raises(UsageError, match=r"holds a report on another .* --force to replace it"):
        put(other, base, given=True)
    assert put(other, base, given=True, force=True) == base


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff"])
def test_a_damaged_report_is_nobodys_to_replace(tmp_path: Path, content: bytes) -> None:
    base = tmp_path / "report"
    base.mkdir()
    (base / "report.json").write_bytes(content)
    assert put(REPORT, base).name == "report-2"


def test_a_report_of_an_earlier_version_is_replaced_by_its_successor(tmp_path: Path) -> None:
    base = tmp_path / "report"
    put(replace(REPORT, images_sha256=None), base)
    assert put(REPORT, base) == base
