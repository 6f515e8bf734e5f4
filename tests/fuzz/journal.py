"""Damaged files of a folder run: its parts, their indices, run.json and the record."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fuzz.harness import changed, check, damaged, fuzz
from mien.batch.journal import Journal, parts_folder, record_file
from mien.batch.tables import result_format
from mien.core.emotions import EMOTIONS
from mien.core.results import ModelInfo, Result

_MODEL = ModelInfo("tiny", "0.0.1", "0" * 64)
_RUN = {"model": "one", "inputs": ["d"], "detector": None}
_FOLDER = Path(tempfile.mkdtemp())


def _opened(output: Path) -> Journal:
    return Journal(output, result_format("csv", EMOTIONS, _MODEL), _RUN, resume=True)


def _add(journal: Journal, *names: str) -> None:
    for name in names:
        if name not in journal:
            journal.add(Result(name, "unreadable", _MODEL, error="no image"))
    journal.flush()


def _made(*, finished: bool) -> dict[str, bytes]:
    """Return the files, by their paths, of a run that was killed, or has come to its end."""
    folder = _FOLDER / "made"
    with _opened(folder / "results.csv") as journal:
        _add(journal, "a", "b")
        _add(journal, "c")
        if finished:
            journal.finish()
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    shutil.rmtree(folder)
    return files


_KILLED, _FINISHED = _made(finished=False), _made(finished=True)
_RUN_FILE = f"{parts_folder(Path('results.csv'))}/run.json"
_RECORD = record_file(Path("results.csv")).name


def _resumed(files: dict[str, bytes], name: str, content: bytes) -> None:
    folder = _FOLDER / "work"
    shutil.rmtree(folder, ignore_errors=True)
    for each, original in files.items():
        path = folder / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if each == name else original)
    output = folder / "results.csv"

    def resume() -> None:
        with _opened(output) as journal:
            if journal.finished:
                journal.reopen()
            _add(journal, "a", "b", "c", "d")
            journal.finish()
        rows = output.read_text(encoding="utf-8").splitlines()[1:]
        assert sorted(row.partition(",")[0] for row in rows) == ["a", "b", "c", "d"]

    check(Path(name).name, content, resume)


def _damage(files: dict[str, bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    return st.one_of(
        *(st.tuples(st.just(name), damaged([content], [b"[" * 3000, b"{", b"\n"]))
          for name, content in files.items())
    )  # fmt: skip


@given(_damage(_KILLED))
def a_killed_run(one: tuple[str, bytes]) -> None:
    _resumed(_KILLED, *one)


@given(_damage(_FINISHED))
def a_finished_run(one: tuple[str, bytes]) -> None:
    _resumed(_FINISHED, *one)


@given(changed(json.loads(_KILLED[_RUN_FILE])))
def what_a_run_is_of(content: bytes) -> None:
    _resumed(_KILLED, _RUN_FILE, content)


if __name__ == "__main__":
    fuzz(a_killed_run, a_finished_run, what_a_run_is_of)
