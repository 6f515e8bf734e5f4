"""`mien predict FOLDER --output FILE`: parts, --resume, every kind of file, exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mien.batch import analysis
from mien.batch.inputs import Input
from mien.cli.paths import find_inputs
from mien.core.progress import Progress
from mien.core.results import TABLE_COLUMNS
from predict_maker import Predict


def pictures(*paths: str) -> None:
    for seed, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def interrupted(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Interrupt a run to r.csv, as Ctrl-C does, after the first of three pictures in d."""
    pictures("d/a.png", "d/b.png", "d/c.png")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", interrupt)
        outcome = predict("d", "--output", "r.csv")
    assert outcome.code == 130
    assert outcome.err == (
        "1 image done: add --resume to continue with the others\nmien: interrupted\n"
    )
    return predict


# Kinds of files


@pytest.mark.skipif(os.name == "nt", reason="needs links, pipes and names as on Unix")
def test_every_kind_of_file_has_a_row(predict: Predict) -> None:
    pictures("d/脸 🙂.png", "d/лицо.png", "d/sub/x.jpg/inside.png")
    Path("d/empty.png").touch()
    Path("d/text.jpg").write_text("not an image")
    Path("d/torn.png").write_bytes(Path("d/лицо.png").read_bytes()[:300])
    Path("d/gone.png").symlink_to("nowhere.png")
    Path("d/loop.png").symlink_to("loop.png")
    Path("d/up").symlink_to(Path("d").resolve())
    os.mkfifo("d/pipe.png")
    if sys.platform == "linux":
        Path(os.fsdecode(b"d/\xff.png")).write_bytes(Path("d/лицо.png").read_bytes())
    outcome = predict("d", "--output", "r.jsonl")
    assert outcome.code == 6
    found = {item["source"]: item for item in lines("r.jsonl")}
    unreadable = {"d/empty.png", "d/text.jpg", "d/torn.png", "d/gone.png", "d/loop.png"}
    assert {name for name, item in found.items() if item["status"] == "unreadable"} == {
        *unreadable,
        "d/pipe.png",
    }
    readable = {"d/脸 🙂.png", "d/лицо.png", "d/sub/x.jpg/inside.png"}
    readable |= {os.fsdecode(b"d/\xff.png")} if sys.platform == "linux" else set()
    assert {name for name, item in found.items() if item["status"] == "ok"} == readable
    assert "is a pipe" in found["d/pipe.png"]["error"]
    assert "no such file" in found["d/gone.png"]["error"]
    assert len(lines("r.jsonl")) == len(found)
    assert re.search(r"r\.jsonl: \d faces in \d+ images: \d ok, 6 unreadable\n", outcome.err)
    assert "Traceback" not in outcome.err


def test_a_file_that_vanishes_during_the_run_has_a_row(
    predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures("d/a.png", "d/b.png")
    whole = analysis.analyze_chunk

    def vanishing(recognizer: Any, chunk: Any, **options: Any) -> Any:
        Path("d/b.png").unlink()
        return whole(recognizer, chunk, **options)

    monkeypatch.setattr("mien.batch.analysis.analyze_chunk", vanishing)
    assert predict("d", "--output", "r.jsonl").code == 6
    assert [item["status"] for item in lines("r.jsonl")] == ["ok", "unreadable"]


def test_a_source_named_twice_has_one_row(predict: Predict) -> None:
    pictures("d/a.png", "d/b.png")
    predict("d/a.png", "d", "d/a.png", "--output", "r.jsonl")
    assert [item["source"] for item in lines("r.jsonl")] == ["d/a.png", "d/b.png"]


def test_parquet_has_the_rows_of_csv(predict: Predict) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    pictures("d/a.png", "d/b.png")
    Path("d/c.png").touch()
    assert predict("d", "--output", "r.csv").code == 6
    outcome = predict("d", "--output", "r.parquet")
    assert outcome.err.startswith(
        "r.parquet: 2 faces in 3 images: 2 ok, 1 unreadable\n"
        "mien: 1 of 3 inputs failed (1 unreadable); first: "
    )
    assert outcome.err.endswith("; r.parquet lists them by their status\n")
    table = pq.read_table("r.parquet").to_pylist()
    with Path("r.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert tuple(table[0]) == TABLE_COLUMNS
    for row, texts in zip(table, expected, strict=True):
        shown = {
            name: "" if value is None else str(value).lower() if value in (True, False) else value
            for name, value in row.items()
        }
        for name, text in texts.items():
            assert str(shown[name]).removesuffix(".0") == text.removesuffix(".0")


def test_excel_has_the_rows_of_csv_and_no_formulas(predict: Predict) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    pictures("d/a.png", "d/=1+1.png")
    Path("d/c.png").touch()
    assert predict("d", "--output", "r.tsv").code == 6
    for _ in range(2):  # the second one knows it for mien's own
        assert predict("d/=1+1.png", "d", "--output", "r.xlsx").code == 6
    sheet = openpyxl.load_workbook("r.xlsx").active
    header, *rows = sheet.iter_rows(values_only=True)
    assert header == TABLE_COLUMNS
    with Path("r.tsv").open(encoding="utf-8", newline="") as file:
        expected = {row["source"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert {str(row[0]) for row in rows} == {*expected}
    for row in rows:
        for name, value in zip(header, row, strict=True):
            text = expected[str(row[0])][name]
            shown = (
                "" if value is None else str(value).lower() if isinstance(value, bool) else value
            )
            assert shown == text or float(shown) == float(text), name
    predict("d/=1+1.png", "--output", "one.xlsx")
    assert not [
        cell
        for row in openpyxl.load_workbook("one.xlsx").active
        for cell in row
        if cell.data_type == "f"
    ]
    assert "--format xlsx" not in predict("d", "--format", "xlsx").out
    Path("other.xlsx").write_bytes(b"PK somebody's own")
    assert "mien did not write it" in predict("d", "--output", "other.xlsx").err


def test_files_written_in_parts_equal_stdout(predict: Predict) -> None:
    pictures("d/a.png", "d/b.png")
    for shape in ("csv", "tsv", "jsonl"):
        predict("d", "--output", f"r.{shape}")
        assert predict("d", "--format", shape).out == Path(f"r.{shape}").read_text("utf-8")


# Resuming


def test_resume_continues_an_interrupted_run(interrupted: Predict) -> None:
    outcome = interrupted("d", "--output", "r.csv", "--resume")
    assert outcome.code == 0
    assert outcome.err == ("resuming r.csv: 1 image done\nr.csv: 3 faces in 3 images\n")
    rows = list(csv.DictReader(io.StringIO(Path("r.csv").read_text("utf-8"))))
    assert [row["source"] for row in rows] == ["d/a.png", "d/b.png", "d/c.png"]
    assert sorted(path.name for path in Path().iterdir()) == [".r.csv.mien", "d", "r.csv"]


def test_an_interrupted_run_is_not_overwritten(interrupted: Predict) -> None:
    outcome = interrupted("d", "--output", "r.csv")
    assert outcome.code == 2
    assert "add --resume to continue it, or delete that folder" in outcome.err


def test_resume_rejects_another_model_detector_or_folder(
    interrupted: Predict, make_tiny_model: Callable[..., Path]
) -> None:
    other = make_tiny_model("other", temperature=2.0)
    arguments = ("--output", "r.csv", "--resume")
    for outcome, message in (
        (interrupted("d", *arguments, detector="haar"), "the run of r.csv had detector none"),
        (interrupted("d2", *arguments), 'the inputs of r.csv were ["d"], and d is missing here'),
        (interrupted("d", *arguments, model=other), "the run of r.csv had temperature 1.0"),
    ):
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.err.count("\n") == 1


def test_resume_starts_new_runs_and_leaves_complete_ones(predict: Predict) -> None:
    pictures("d/a.png")
    assert predict("d", "--output", "r.csv", "--resume").err == "r.csv: 1 face in 1 image\n"
    content = Path("r.csv").read_bytes()
    again = predict("d", "--output", "r.csv", "--resume")
    assert (again.code, again.err) == (0, "r.csv is complete: nothing to resume\n")
    assert Path("r.csv").read_bytes() == content


def test_resume_adds_the_new_images_of_a_folder(predict: Predict) -> None:
    pictures("d/b.png", "d/gone.png")
    Path("d/torn.png").touch()
    arguments = ("d", "--output", "r.jsonl", "--resume")
    assert predict(*arguments).code == 6
    before = lines("r.jsonl")
    pictures("d/a.png", "d/sub/c.png")
    Path("d/gone.png").unlink()
    outcome = predict(*arguments)
    assert outcome.err.splitlines()[:2] == [
        "resuming r.jsonl: 3 images done",
        "r.jsonl: 4 faces in 5 images: 4 ok, 1 unreadable (1 of them no longer among the inputs)",
    ]
    after = lines("r.jsonl")
    assert after[:3] == before
    assert [item["source"] for item in after[3:]] == ["d/a.png", "d/sub/c.png"]
    # Failures are reported again.
    again = predict(*arguments)
    assert again.code == outcome.code == 6
    assert again.err.splitlines() == [
        "r.jsonl is complete: nothing to resume (1 of them no longer among the inputs)",
        outcome.err.splitlines()[-1],
    ]
    assert predict("d/sub", "--output", "r.jsonl", "--resume").code == 2
    assert lines("r.jsonl") == after


def test_other_images_with_the_same_names_are_not_taken_for_complete(
    predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures("one/d/a.png", "two/d/a.png")
    for name, code, message in (("one", 0, ""), ("two", 2, "had working folder one, this one")):
        with monkeypatch.context() as patch:
            patch.chdir(name)
            outcome = predict("d", "--output", "../r.csv", "--resume")
            assert outcome.code == code
            assert message in outcome.err
    for name, code in (("one", 0), ("two", 2)):
        content = Path(name, "d/a.png").read_bytes() + name.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        outcome = predict("-", "--output", "stdin.csv", "--resume")
        assert outcome.code == code
    assert "had standard input" in outcome.err


def test_a_parts_folder_of_the_user_is_untouched(predict: Predict) -> None:
    pictures("d/a.png", "r.csv.parts/holidays.png")
    before = Path("r.csv.parts/holidays.png").read_bytes()
    for arguments in ([], ["--resume"]):
        outcome = predict("d", "--output", "r.csv", *arguments)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "r.csv.parts exists and was not created by mien: move it away" in outcome.err
    assert Path("r.csv.parts/holidays.png").read_bytes() == before
    assert not Path("r.csv").exists()


def test_progress_counts_only_the_remaining_images(
    interrupted: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("mien.core.progress.SHOWN_AFTER_S", 0.0)
    outcome = interrupted("d", "--output", "r.csv", "--resume")
    assert "reading faces" in outcome.err
    assert "100% 2/2" in outcome.err
    assert interrupted("d", "--output", "q.csv", "--quiet").err == ""


def test_counting_downloads_nothing() -> None:
    def refuse(address: str) -> Input:
        raise AssertionError(address)

    inputs = find_inputs(["https://user:secret@example.org/a.png", "b.png"], read_url=refuse)
    names = [item.source for item in inputs.for_counting()]
    assert names == ["https://example.org/a.png", "b.png"]


# Options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--resume continues a file"),
        (["--resume", "--output", "r.json"], "--resume continues a file"),
        (["--resume", "--output", "r.csv", "--annotate", "x"], "--resume continues a file"),
        (["--format", "parquet"], "Parquet needs --output FILE"),
        (["--output", "r.parquet", "--annotate", "x"], "Parquet needs --output FILE"),
        (["--workers", "0"], "--workers: expected a whole number from 1"),
        (["--batch-size", "0"], "--batch-size: expected a whole number from 1"),
        (["--address", "auto"], "add --engine ray"),
        (["--engine", "spark"], "unknown --engine 'spark': expected one of local, ray"),
    ],
)
def test_invalid_options_exit_with_2(predict: Predict, arguments: list[str], message: str) -> None:
    pictures("d/a.png")
    outcome = predict("d", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_missing_pyarrow_is_one_line(predict: Predict, tiny_model: Path) -> None:
    pictures("d/a.png")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from mien.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["predict", "d", "--model", str(tiny_model), "--output", "r.parquet"]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("mien: a Parquet file needs the extra [batch]")
    assert ran.stderr.count("\n") == 1
