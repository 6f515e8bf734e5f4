"""Results in parts: none lost, none duplicated, and none of another run."""

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
from hypothesis import given
from hypothesis import strategies as st

from mien.batch import journal as journal_module
from mien.batch.inputs import Input
from mien.batch.journal import (
    DigestSet,
    Journal,
    digest,
    parts_folder,
    read_index,
    record_file,
)
from mien.batch.tables import FORMATS, result_format
from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, OutputError, UsageError
from mien.core.files import LOCK_NAME
from mien.core.results import Box, Face, ModelInfo, Quality, Result, result_rows

MakeResult = Callable[..., Result]

MODEL = ModelInfo("tiny", "0.0.1", "0" * 64)
RUN = {"model": "one", "inputs": ["d"]}


@pytest.fixture(params=FORMATS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An output in each format."""
    if package := {"parquet": "pyarrow", "xlsx": "openpyxl"}.get(request.param):
        pytest.importorskip(package)
    return tmp_path / f"results.{request.param}"


def opened(output: Path, run: Any = RUN, *, resume: bool = False) -> Journal:
    form = result_format(output.suffix.removeprefix("."), EMOTIONS, MODEL)
    return Journal(output, form, run, resume=resume)


def written(output: Path) -> list[dict[str, Any]]:
    """Return the rows of an output in any format, with JSON values."""
    if output.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(output).to_pylist())
    if output.suffix in (".csv", ".tsv"):
        tab = "," if output.suffix == ".csv" else "\t"
        with output.open(encoding="utf-8", newline="") as file:
            return [dict(row) for row in csv.DictReader(file, delimiter=tab)]
    if output.suffix == ".xlsx":
        from openpyxl import load_workbook

        header, *rows = load_workbook(output).active.iter_rows(values_only=True)
        return [dict(zip(map(str, header), row, strict=True)) for row in rows]
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
        kind = str if output.suffix in (".csv", ".tsv") else lambda value: value
        assert names(rows) == ["a.png", "a.png", "b.png", "c.png"]
        assert [row["happy"] for row in rows[:2]] == [kind(0.4), kind(0.4)]
        assert rows[2]["emotion"] in ("", None)
    assert (journal.summary.images, journal.summary.faces, journal.summary.failed) == (3, 2, 1)
    assert journal.summary.first_problem == "c.png is not an image"


def test_resumed_run_analyzes_the_rest(output: Path, make_result: MakeResult) -> None:
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
    assert (journal.summary.images, journal.summary.faces) == (4, 2)
    assert dict(journal.summary.statuses) == {"ok": 1, "unreadable": 1, "no_face": 2}
    assert journal.summary.first_problem == "damaged"


def test_partial_files_of_a_kill_are_ignored(output: Path, make_result: MakeResult) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
        journal.flush()
        journal.add(make_result("b.png"))
        journal.flush()
    folder = parts_folder(output)
    # Killed between the two files of the second part, and while the first file of a third was
    # written.
    (folder / "part-000002.jsonl").unlink()
    (folder / ".part-000003.json.0000.part.json").write_text('{"sour')
    with opened(output, resume=True) as journal:
        rest = list(journal.remaining([Input("a.png"), Input("b.png")]))
        assert [one.source for one in rest] == ["b.png"]
        journal.add(make_result("b.png"))
        journal.finish()
    assert names(written(output)) == ["a.png", "b.png"]


def test_rows_that_were_lists_are_joined(tmp_path: Path, make_result: MakeResult) -> None:
    pytest.importorskip("openpyxl")
    output = tmp_path / "results.xlsx"
    form = result_format("xlsx", EMOTIONS, MODEL)
    part = tmp_path / "part"
    rows = form.rows(make_result("a.png", 2))
    part.write_text("".join(json.dumps(list(row.values())) + "\n" for row in rows))
    form.join([part], output)
    assert names(written(output)) == ["a.png", "a.png"]


def test_a_kill_after_the_join_repeats_only_that(output: Path, make_result: MakeResult) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
    output.write_text("what an earlier run wrote")
    with opened(output, resume=True) as journal:
        assert list(journal.remaining([Input("a.png")])) == []
        journal.finish()
    assert names(written(output)) == ["a.png"]


def test_parts_are_not_overwritten_without_resume(output: Path, make_result: MakeResult) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
    with pytest.raises(UsageError, match=r"add --resume to continue it, or delete"):
        opened(output)
    with opened(output, resume=True) as journal:
        assert journal.done == 1


def test_two_processes_never_write_the_same_parts(output: Path) -> None:
    with opened(output), pytest.raises(UsageError, match="another process is writing"):
        opened(output, resume=True)


def test_a_run_without_results_leaves_nothing(output: Path) -> None:
    with pytest.raises(KeyError), opened(output):
        raise KeyError
    assert list(output.parent.iterdir()) == []


def test_no_images_give_an_empty_output(output: Path) -> None:
    with opened(output) as journal:
        journal.finish()
    assert written(output) == []


def test_damaged_settings_are_an_error(output: Path, make_result: MakeResult) -> None:
    with opened(output) as journal:
        journal.add(make_result("a.png"))
    for damaged in ("not JSON", "", "3", '{"inputs": [[]]}', '{"inputs": 3}', "[" * 100_000):
        (parts_folder(output) / "run.json").write_text(damaged)
        with pytest.raises(InputError, match=r"delete .* to start again"):
            opened(output, resume=True)
    assert len(list(parts_folder(output).glob("part-*"))) == 2


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def halved(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_by_a_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


DAMAGE = [emptied, halved, flipped, cut_by_a_line, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("what", ["results", "index"])
def test_images_of_a_damaged_part_are_analyzed_again(
    output: Path, make_result: MakeResult, damage: Callable[[Path], None], what: str
) -> None:
    everything = [Input(f"{number}.png") for number in range(4)]
    with opened(output) as journal:
        for one in everything[:3]:
            journal.add(make_result(one.source, 0))
            journal.flush()
    suffix = ".jsonl" if what == "results" else ".index"
    damage(parts_folder(output) / f"part-000002{suffix}")
    with opened(output, resume=True) as journal:
        # A part that is not there at all may as well never have been written.
        assert journal.damaged == (0 if (what, damage) == ("results", Path.unlink) else 1)
        assert (journal.done, journal.summary.images) == (2, 2)
        rest = [one.source for one in journal.remaining(everything)]
        assert rest == ["1.png", "3.png"]
        for name in rest:
            journal.add(make_result(name, 0))
        journal.finish()
    assert sorted(names(written(output))) == [one.source for one in everything]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_part_damaged_meanwhile_ends_a_resumable_run(
    output: Path, make_result: MakeResult, damage: Callable[[Path], None]
) -> None:
    with opened(output) as journal:
        for name in ("a.png", "b.png"):
            journal.add(make_result(name))
            journal.flush()
        damage(parts_folder(output) / "part-000001.jsonl")
        with pytest.raises(OutputError, match="changed or removed since it was written"):
            journal.finish()
    assert not output.exists()
    with opened(output, resume=True) as journal:
        for one in journal.remaining([Input("a.png"), Input("b.png")]):
            journal.add(make_result(one.source))
        journal.finish()
    assert sorted(names(written(output))) == ["a.png", "b.png"]


# Files of others


def foreign(folder: Path) -> dict[str, bytes]:
    folder.mkdir(parents=True)
    for name in ("letter.txt", "run.json", "part-000001.csv", "part-000001.index"):
        (folder / name).write_bytes(b"mine")
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("resume", [False, True])
def test_foreign_folder_is_left_alone(tmp_path: Path, resume: bool) -> None:
    folder = parts_folder(tmp_path / "r.csv")
    before = foreign(folder)
    with pytest.raises(UsageError, match="was not created by mien: move it away"):
        opened(tmp_path / "r.csv", resume=resume)
    assert contents(folder) == before
    (folder / LOCK_NAME).write_bytes(b"another program's")
    with pytest.raises(UsageError, match="was not created by mien: move it away"):
        opened(tmp_path / "r.csv", resume=resume)
    assert contents(folder) == {**before, LOCK_NAME: b"another program's"}


@pytest.mark.skipif(os.name == "nt", reason="needs links as on Unix")
@pytest.mark.parametrize("resume", [False, True])
def test_a_link_is_never_followed(tmp_path: Path, make_result: MakeResult, resume: bool) -> None:
    output = tmp_path / "r.csv"
    (tmp_path / "empty").mkdir()
    with opened(tmp_path / "other.csv") as journal:
        journal.add(make_result("a.png"))
    for target in ("empty", "other.csv.parts", "nowhere"):
        parts_folder(output).symlink_to(tmp_path / target)
        with pytest.raises(UsageError, match="was not created by mien"):
            opened(output, resume=resume)
        parts_folder(output).unlink()
    assert contents(tmp_path / "empty") == {}
    assert len(contents(tmp_path / "other.csv.parts")) == 4
    # Nor is that of a file in the folder.
    (tmp_path / "precious").write_bytes(b"mine")
    parts_folder(output).mkdir()
    (parts_folder(output) / LOCK_NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="was not created by mien"):
        opened(output, resume=resume)
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    parts_folder(tmp_path / "r.csv").write_bytes(b"mine")
    with pytest.raises(UsageError, match="was not created by mien"):
        opened(tmp_path / "r.csv")
    record_file(tmp_path / "q.csv").write_bytes(b"mine")
    with pytest.raises(UsageError, match="was not created by mien"):
        opened(tmp_path / "q.csv")
    assert not parts_folder(tmp_path / "q.csv").exists()
    assert record_file(tmp_path / "q.csv").read_bytes() == b"mine"


def test_foreign_files_in_the_folder_are_kept(tmp_path: Path, make_result: MakeResult) -> None:
    output = tmp_path / "r.csv"
    with opened(output) as journal:
        journal.add(make_result("a.png"))
        (parts_folder(output) / "letter.txt").write_bytes(b"mine")
        journal.finish()
    assert sorted(contents(parts_folder(output))) == ["letter.txt", LOCK_NAME]
    with opened(output) as journal:
        journal.finish()
    assert (parts_folder(output) / "letter.txt").read_bytes() == b"mine"


def test_kill_at_the_start_can_be_resumed(tmp_path: Path, make_result: MakeResult) -> None:
    output = tmp_path / "r.csv"
    for left in ([], [LOCK_NAME], [LOCK_NAME, ".run.json.0000.part.json"]):
        parts_folder(output).mkdir()
        for name in left:
            (parts_folder(output) / name).touch()
        with opened(output, resume=True) as journal:
            journal.add(make_result("a.png"))
            journal.finish()
        assert not parts_folder(output).exists()
        output.unlink()


# Going on with what is finished


def finished(output: Path, make_result: MakeResult, run: Any = RUN) -> None:
    with opened(output, run) as journal:
        for name in ("a.png", "b.png"):
            journal.add(make_result(name, error="b.png is torn" if name == "b.png" else None))
            journal.flush()
        journal.finish()


def test_finished_output_is_extended(output: Path, make_result: MakeResult) -> None:
    finished(output, make_result)
    before = written(output)
    text = output.read_bytes() if output.suffix in (".jsonl", ".csv", ".tsv") else b""
    everything = [Input(f"{name}.png") for name in "bcda"]
    for number, new in enumerate((["c.png", "d.png"], [])):
        with opened(output, resume=True) as journal:
            assert journal.finished
            assert [one.source for one in journal.remaining(everything)] == new
            assert (journal.done, journal.skipped) == ((2, 2) if number == 0 else (4, 4))
            assert (journal.summary.failed, journal.summary.first_problem) == (1, "b.png is torn")
            if new:
                journal.reopen()
                for name in new:
                    journal.add(make_result(name))
                    journal.flush()
                assert written(output) == before
                journal.finish()
        assert not parts_folder(output).exists()
    rows = written(output)
    assert rows[:2] == before
    assert output.read_bytes().startswith(text)
    assert names(rows) == ["a.png", "b.png", "c.png", "d.png"]


def test_killed_extension_can_be_resumed(output: Path, make_result: MakeResult) -> None:
    finished(output, make_result)
    with opened(output, resume=True) as journal:
        journal.reopen()
        journal.add(make_result("c.png"))
    with pytest.raises(UsageError, match="add --resume to continue it"):
        opened(output)
    output.unlink()  # its rows are in the parts
    with opened(output, resume=True) as journal:
        assert (journal.done, journal.finished, journal.interrupted) == (3, False, True)
        journal.finish()
    assert names(written(output)) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({**RUN, "model": "two"}, "had model one, this one model two"),
        ({**RUN, "inputs": ["d2"]}, "d is missing here"),
        ({**RUN, "min_face": 3}, "had min_face None, this one min_face 3"),
    ],
)
def test_another_run_is_not_resumed(
    output: Path, make_result: MakeResult, other: dict[str, Any], message: str, is_finished: bool
) -> None:
    if is_finished:
        finished(output, make_result)
    else:
        with opened(output) as journal:
            journal.add(make_result("a.png"))
    before = contents(output.parent if is_finished else parts_folder(output))
    with pytest.raises(UsageError, match=message):
        opened(output, other, resume=True)
    assert contents(output.parent if is_finished else parts_folder(output)) == before


def test_inputs_may_be_added(output: Path, make_result: MakeResult) -> None:
    finished(output, make_result)
    more = {**RUN, "inputs": ["d2", "d"]}
    with opened(output, more, resume=True) as journal:
        journal.reopen()
        journal.add(make_result("c.png"))
    # From then on they belong to it.
    with pytest.raises(UsageError, match="d2 is missing here"):
        opened(output, RUN, resume=True)
    with opened(output, more, resume=True) as journal:
        journal.finish()
    assert names(written(output)) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_changed_output_is_not_resumed(
    output: Path, make_result: MakeResult, damage: Callable[[Path], None]
) -> None:
    finished(output, make_result)
    damage(record_file(output))
    with pytest.raises(UsageError, match="is missing or damaged: leave --resume out"):
        opened(output, resume=True)
    finished(output, make_result)
    damage(output)
    if damage is Path.unlink:
        with opened(output, resume=True) as journal:
            assert (journal.done, journal.finished) == (0, False)
    else:
        with pytest.raises(UsageError, match="changed since it was written: leave --resume out"):
            opened(output, resume=True)
    assert not parts_folder(output).exists()


@pytest.mark.skipif(os.name == "nt", reason="needs links as on Unix")
def test_linked_output_is_resumed(tmp_path: Path, make_result: MakeResult) -> None:
    (tmp_path / "far").mkdir()
    output = tmp_path / "r.csv"
    output.symlink_to(tmp_path / "far" / "r.csv")
    finished(output, make_result)
    assert output.is_symlink()
    with opened(output, resume=True) as journal:
        assert (journal.done, journal.finished) == (2, True)
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == [".r.csv.mien", "r.csv"]


def test_folder_as_output_is_rejected_first(tmp_path: Path) -> None:
    (tmp_path / "r.csv").mkdir()
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "r.csv", tmp_path / "file/r.csv"):
        with pytest.raises(OutputError, match="cannot write"):
            opened(target)
    assert not parts_folder(tmp_path / "r.csv").exists()


def test_parts_are_written_by_time_and_size(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "PART_IMAGES", 3)
    folder = parts_folder(tmp_path / "r.csv")
    with opened(tmp_path / "r.csv") as journal:
        monkeypatch.setattr(journal_module, "PART_SECONDS", 1000.0)
        for number in range(7):
            journal.add(make_result(f"{number}.png"))
        assert len(list(folder.glob("part-*.jsonl"))) == 2
        monkeypatch.setattr(journal_module, "PART_SECONDS", 0.0)
        monkeypatch.setattr(journal_module, "PART_SHARE", 0.0)
        journal.add(make_result("7.png"))
        assert len(list(folder.glob("part-*.jsonl"))) == 3


def test_import_loads_no_pyarrow() -> None:
    code = "import sys, mien.batch.run; print('pyarrow' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_parquet_has_types_and_the_model_and_joined_row_groups(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from mien.batch import tables

    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 4)
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


def test_clashing_class_names_keep_column_types(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    scores = {"status": 0.5, "x": 0.3, "emotion": 0.2}
    face = Face(0, Box(1, 2, 5, 6), 0.9, "status", 0.5, False, scores, Quality(5, 0.0))
    model = ModelInfo("own", "1.0.0", "ab" * 32)
    form = result_format("parquet", tuple(scores), model)
    with form.open(tmp_path / "whole.parquet") as write_rows:
        write_rows(form.rows(Result("a.jpg", "ok", model, 9, 9, (face,))))
    (row,) = pq.read_table(tmp_path / "whole.parquet").to_pylist()
    assert (row["status"], row["x"], row["emotion"]) == ("ok", 1, "status")
    assert (row["score_status"], row["score_x"], row["score_emotion"]) == (0.5, 0.3, 0.2)


# The index

# Names of files that are not UTF-8 have lone surrogates.
any_name = st.text(st.characters(exclude_categories=()), max_size=5)


@given(st.sets(any_name), any_name)
def test_digest_set_membership(done: set[str], other: str) -> None:
    digests = DigestSet(b"".join(map(digest, done)))
    assert all(name in digests for name in done)
    assert (other in digests) == (other in done)


def test_digest_set_finds_many_names() -> None:
    # One in 256 digests ends with a NUL, which NumPy drops.
    many = [f"{number}.png" for number in range(2000)]
    digests = DigestSet(b"".join(map(digest, many)))
    assert len(digests) == 2000
    assert [name for name in many if name not in digests] == []
    assert "other.png" not in digests


def test_missing_name_equals_empty_name() -> None:
    assert "" in DigestSet(digest(None))
    assert None not in DigestSet(b"")


def test_deeply_nested_index_is_damaged(tmp_path: Path) -> None:
    index = tmp_path / "part-000001.index"
    index.write_bytes(b"mien batch 1\n{" + b'"a":{' * 100_000)
    with pytest.raises(ValueError, match="changed"):
        read_index(index)
