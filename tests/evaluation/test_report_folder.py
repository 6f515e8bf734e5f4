"""A report's folder: which files, and that they can be opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mien.core.errors import InputError, OutputError
from mien.evaluation.report import read_report_json, write_report_json
from mien.evaluation.report_folder import read_history, write_figures, write_report
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


def test_a_history_becomes_curves(tmp_path: Path) -> None:
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
