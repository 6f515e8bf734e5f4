"""Results in parts: none lost, none twice, nothing taken up that is of another run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, OutputError, UsageError
from mien.core.result_tables import result_rows
from mien.core.results import ModelInfo, Result
from mien.interfaces.batch import journal as journal_module
from mien.interfaces.batch.formats import FORMATS, part_format
from mien.interfaces.batch.journal import Journal, parts_folder
from mien.interfaces.batch.listing import Input

MakeResult = Callable[..., Result]

MODEL = ModelInfo("tiny", "0.0.1", "0" * 64)
RUN = {"model": "one", "inputs": ["d"]}


@pytest.fixture(params=FORMATS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An output in each format."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"results.{request.param}"


def opened(output: Path, run: Any = RUN, *, resume: bool = False) -> Journal:
    form = part_format(output.suffix.removeprefix("."), EMOTIONS, MODEL)
    return Journal(output, form, run, resume=resume)


def written(output: Path) -> list[dict[str, Any]]:
    """Return the rows of an output in any format, as JSON has their values."""
    if output.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(output).to_pylist())
    if output.suffix == ".csv":
        with output.open(encoding="utf-8", newline="") as file:
            return [dict(row) for row in csv.DictReader(file)]
    lines = output.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["source"] for row in rows]


def test_all_parts_become_one_file_in_order(output: Path, make_result: MakeResult) -> None:
    results = [
        make_result("a.png", 2),
        make_result("b.png", 0),
        make_result("c.png", error="c.png is not an image"),
    ]
    with opened(output) as journal:
        for result in results:
            journal.add(result)
            journal.flush()
        assert not output.exists()
        journal.finish()
    assert not parts_folder(output).exists()
    rows = written(output)
    if output.suffix == ".jsonl":
        assert rows == [result.to_dict() for result in results]
    else:
        expected = [row for result in results for row in result_rows(result)]
        assert [list(row) for row in rows] == [list(row) for row in expected]
        kind = str if output.suffix == ".csv" else lambda value: value
        assert names(rows) == ["a.png", "a.png", "b.png", "c.png"]
        assert [row["happy"] for row in rows[:2]] == [kind(0.4), kind(0.4)]
        assert rows[2]["emotion"] in ("", None)
    assert (journal.tally.images, journal.tally.faces, journal.tally.failed) == (3, 2, 1)
    assert journal.tally.first_problem == "c.png is not an image"


def test_a_resumed_run_has_the_rest_and_counts_everything(
    output: Path, make_result: MakeResult
) -> None:
    odd = os.fsdecode(b"\xff.png") if os.name != "nt" else "\udcff.png"
    with opened(output) as journal:
        journal.add(make_result("a.png", 2))
        journal.add(make_result(odd, error="damaged"))
    everything = [Input(name) for name in ("a.png", "\\udcff.png", odd, "z.png")]
    with opened(output, resume=True) as journal:
        assert journal.done == 2
        rest = [one.source for one in journal.remaining(everything)]
        # A name that is spelled as another is written is another name.
        assert rest == ["\\udcff.png", "z.png"]
        for name in rest:
            journal.add(make_result(name, 0))
        journal.finish()
    assert len(names(written(output))) == (4 if output.suffix == ".jsonl" else 5)
    assert (journal.tally.images, journal.tally.faces) == (4, 2)
    assert dict(journal.tally.statuses) == {"ok": 1, "unreadable": 1, "no_face": 2}
    assert journal.tally.first_problem == "damaged"


def test_what_a_kill_leaves_half_done_is_no_part(output: Path, make_result: MakeResult) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
        journal.flush()
        journal.add(make_result("b.png"))
        journal.flush()
    folder = parts_folder(output)
    # Killed between the two files of the second part, and while the first file of a third was
    # written.
    (folder / f"part-000002{output.suffix}").unlink()
    (folder / ".part-000003.json.0000.part.json").write_text('{"sour')
    with opened(output, resume=True) as journal:
        rest = list(journal.remaining([Input("a.png"), Input("b.png")]))
        assert [one.source for one in rest] == ["b.png"]
        journal.add(make_result("b.png"))
        journal.finish()
    assert names(written(output)) == ["a.png", "b.png"]


def test_a_kill_after_the_join_repeats_only_that(output: Path, make_result: MakeResult) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
    output.write_text("what an earlier run wrote")
    with opened(output, resume=True) as journal:
        assert list(journal.remaining([Input("a.png")])) == []
        journal.finish()
    assert names(written(output)) == ["a.png"]


def test_parts_are_not_overwritten_unasked(output: Path, make_result: MakeResult) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
    with pytest.raises(UsageError, match=r"add --resume to go on with it, or delete"):
        opened(output)
    with opened(output, resume=True) as journal:
        assert journal.done == 1


@pytest.mark.parametrize("other", [{"model": "two", "inputs": ["d"]}, {**RUN, "min_face": 20}])
def test_another_run_is_not_gone_on_with(
    output: Path, make_result: MakeResult, other: dict[str, Any]
) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
    with pytest.raises(UsageError, match=r"the interrupted run had (model one|min_face None)"):
        opened(output, other, resume=True)


def test_two_processes_never_write_the_same_parts(output: Path) -> None:
    with opened(output), pytest.raises(UsageError, match="another process is writing"):
        opened(output, resume=True)


def test_a_run_without_results_leaves_nothing(output: Path) -> None:
    with pytest.raises(KeyError), opened(output):
        raise KeyError
    assert list(output.parent.iterdir()) == []


def test_no_images_give_an_output_without_rows(output: Path) -> None:
    with opened(output) as journal:
        journal.finish()
    assert written(output) == []


def test_a_damaged_journal_is_said(output: Path, make_result: MakeResult) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
    manifest = parts_folder(output) / "part-000001.json"
    manifest.write_text("{}")
    with pytest.raises(InputError, match=r"delete .* to start anew"):
        opened(output, resume=True)
    (parts_folder(output) / "run.json").write_text("not JSON")
    with pytest.raises(InputError, match=r"delete .* to start anew"):
        opened(output, resume=True)


def test_an_output_that_is_a_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "r.csv").mkdir()
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "r.csv", tmp_path / "file/r.csv"):
        with pytest.raises(OutputError, match="cannot write"):
            opened(target)
    assert not parts_folder(tmp_path / "r.csv").exists()


def test_parts_are_written_as_time_goes_by_and_before_they_are_too_many(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "PART_IMAGES", 3)
    folder = parts_folder(tmp_path / "r.csv")
    with opened(tmp_path / "r.csv") as journal:
        monkeypatch.setattr(journal_module, "PART_SECONDS", 1000.0)
        for number in range(7):
            journal.add(make_result(f"{number}.png"))
        assert len(list(folder.glob("part-*.csv"))) == 2
        monkeypatch.setattr(journal_module, "PART_SECONDS", 0.0)
        monkeypatch.setattr(journal_module, "PART_SHARE", 0.0)
        journal.add(make_result("7.png"))
        assert len(list(folder.glob("part-*.csv"))) == 3


def test_importing_the_journal_loads_no_pyarrow() -> None:
    code = "import sys, mien.interfaces.batch.journal as j; print('pyarrow' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_parquet_has_types_and_the_model_and_joined_row_groups(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from mien.interfaces.batch import parquet

    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 4)
    output = tmp_path / "r.parquet"
    with opened(output) as journal:
        for number in range(5):
            journal.add(make_result(f"{number}.png", 2))
            journal.flush()
        journal.finish()
    file = pq.ParquetFile(output)
    groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert groups == [4, 4, 2]
    schema = file.schema_arrow
    types = [str(schema.field(name).type) for name in ("x", "uncertain", "happy")]
    assert types == ["int32", "bool", "double"]
    assert json.loads(schema.metadata[b"mien.model"]) == MODEL.to_dict()
