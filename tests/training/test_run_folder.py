from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mien.core.errors import InputError, OutputError, UsageError
from mien.training import run_folder
from mien.training.run_folder import (
    RunFolder,
    describe_environment,
    new_run,
    open_run,
    remove_partial_files,
    saving,
    write_history,
    write_json,
)


def test_a_new_run_must_not_exist_and_a_resumed_one_must(tmp_path: Path) -> None:
    run = new_run(tmp_path / "outputs" / "mine")
    assert run.name == "mine"
    assert not run.path.exists()
    with pytest.raises(InputError, match="is not a run"):
        open_run(run.path)
    run_folder.write_text(run.config, "")
    assert open_run(run.path) == run
    with pytest.raises(UsageError, match="holds a run already: choose another --run, or --resume"):
        new_run(run.path)


@pytest.mark.parametrize("name", ["history.csv", "summary.json", "best.keras", "curves.png"])
def test_a_run_does_not_overwrite_other_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="exists and belongs to no run"):
        new_run(tmp_path)


def test_history_is_read_by_any_csv_reader(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "phase": "head", "loss": 1 / 3}, {"epoch": 2, "phase": "a,b", "loss": 2.0}]
    write_history(tmp_path / "history.csv", rows)
    content = (tmp_path / "history.csv").read_bytes()
    assert content.startswith(b"epoch,phase,loss\n1,head,")
    assert b"\r" not in content
    with (tmp_path / "history.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["phase"] for row in written] == ["head", "a,b"]
    assert float(written[0]["loss"]) == 1 / 3


def test_json_keeps_non_ascii_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "köln", "n": 1})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "köln" in text
    assert json.loads(text) == {"name": "köln", "n": 1}


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "best.keras"
    path.write_bytes(b"old")
    with (  # noqa: PT012
        pytest.raises(OutputError, match=r"disk is on fire.*saved before is kept"),
        saving(path) as temporary,
    ):
        temporary.write_bytes(b"half")
        assert temporary.suffix == ".keras"
        raise OSError(5, "disk is on fire")
    with pytest.raises(ZeroDivisionError), saving(path) as temporary:
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_partial_files_are_removed(tmp_path: Path) -> None:
    keep = ["best.keras", "checkpoint.npz", ".hidden", "notes.part.txt"]
    for name in (*keep, ".best.keras.x1.part.keras", ".history.csv.y.part.csv"):
        (tmp_path / name).touch()
    remove_partial_files(RunFolder(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(keep)


def test_the_environment_is_described_outside_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = describe_environment()
    assert environment["packages"]["mien"]
    assert json.loads(json.dumps(environment)) == environment
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_environment()["commit"] is None
