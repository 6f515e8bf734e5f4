"""Reports as JSON, text and Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UsageError
from mien.evaluation.report import (
    read_report_json,
    read_reports,
    render_markdown,
    render_text,
    results_table,
    versions,
    write_report_json,
)
from report_maker import MODEL, make_report, make_samples, renamed


@pytest.mark.parametrize("classes", [7, 3])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.6, 1.0])
def test_a_report_read_back_equals_the_one_that_was_written(
    tmp_path: Path, classes: int, clean: bool, threshold: float | None
) -> None:
    samples = make_samples(classes=classes)
    report = make_report(clean=clean, threshold=threshold, samples=samples)
    write_report_json(report, tmp_path / "report.json")
    assert read_report_json(tmp_path / "report.json") == report


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"schema": "mien-report/1"}', '{"schema": "mien/1"}']
)
def test_the_error_names_a_damaged_report(tmp_path: Path, content: str) -> None:
    path = tmp_path / "test.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"test\.json"):
        read_report_json(path)
    with pytest.raises(DataError, match=r"none\.json"):
        read_report_json(tmp_path / "none.json")


def test_a_report_of_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="val, test, train"):
        make_report("holdout")


def test_reports_are_read_in_order_and_those_of_another_model_are_left_out(tmp_path: Path) -> None:
    reports = [make_report("test", tta=True), make_report("val"), make_report("test")]
    for report in (*reports, renamed(make_report("train"), sha256="cd" * 32)):
        write_report_json(report, tmp_path / f"{report.key}.json")
    assert [report.key for report in read_reports(tmp_path, MODEL)] == ["val", "test", "test-tta"]


def test_the_text_report_holds_the_numbers() -> None:
    report = make_report()
    every, clean = report.evaluation.all, report.evaluation.clean
    assert clean is not None
    assert every.certain is not None
    text = render_text(report, [make_report("val"), report])
    for part in (
        "Evaluation of little 1.2.3 on test\n===",
        "ab" * 32,
        "faces.zip, test",
        "140, of which 112 clean (2 files could not be read)",
        "mien evaluate --model little --data faces.zip --split test",
        f"{100 * every.accuracy:.2f} %",
        f"{100 * clean.accuracy:.2f} %",
        f"{100 * every.macro_f1:.2f} %",
        f"{100 * every.balanced_accuracy:.2f} %",
        f"{every.loss:.4f}",
        f"{100 * every.certain.share:.2f} %",
        "Accuracy of each emotion\n---",
        "Classification report\n---",
        "Confusion matrix\n---",
        "Confusion matrix, clean images\n---",
        "Calibration\n---",
        "All evaluations of this model\n---",
        "\nval, all 140 ",
    ):
        assert part in text
    assert all(len(line) <= 120 and line == line.rstrip() for line in text.splitlines())


def test_the_text_has_the_confusion_counts() -> None:
    report = make_report()
    lines = render_text(report).split("Confusion matrix\n")[1].splitlines()[1:9]
    assert lines[0].split()[-7:] == list(EMOTIONS)
    for line, counts in zip(lines[1:], report.evaluation.all.confusion, strict=True):
        assert [int(cell) for cell in line.split()[1:]] == list(counts)


def test_emotions_without_images_are_listed() -> None:
    report = make_report(samples=make_samples(classes=5), clean=False)
    for text in (render_text(report), render_markdown(report)):
        assert "No images of: sad, surprise." in text
    assert json.dumps(report.to_dict(), allow_nan=False)


def test_the_results_table_has_a_row_for_all_and_one_for_clean_images() -> None:
    header, rows = results_table([make_report("val", clean=False), make_report("test", tta=True)])
    assert [row[:2] for row in rows] == [
        ["val, all 140", "no"],
        ["test, all 140", "yes"],
        ["test, clean 112", "yes"],
    ]
    assert all(len(row) == len(header) for row in rows)


def test_the_tables_give_share_and_accuracy_of_certain_predictions() -> None:
    report = make_report(clean=False)
    certain = report.evaluation.all.certain
    assert certain is not None
    assert certain.accuracy is not None
    assert certain.accuracy > report.evaluation.all.accuracy
    _, rows = results_table([report, make_report("val", clean=False, threshold=None)])
    shares = [f"{100 * certain.share:.1f} %", f"{100 * certain.accuracy:.1f} %"]
    assert [row[-2:] for row in rows] == [shares, ["-", "-"]]
    assert "certain predictions" not in render_text(make_report(threshold=None))


def test_a_report_without_certain_predictions_can_be_read(tmp_path: Path) -> None:
    report = make_report(threshold=None)
    path = tmp_path / "test.json"
    write_report_json(report, path)
    content = json.loads(path.read_text())
    for part in ("all", "clean"):
        del content[part]["certain"]
    path.write_text(json.dumps(content))
    assert read_report_json(path) == report


def test_versions_name_python_and_the_packages() -> None:
    numbers = versions()
    assert {"python", "mien", "numpy", "onnxruntime"} <= set(numbers)
    assert numbers["numpy"] == np.__version__
