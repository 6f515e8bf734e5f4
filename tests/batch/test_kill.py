"""`mien predict` killed again and again: at the end each file has exactly one result."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_maker import alike
from mien.batch.inputs import Input
from mien.batch.journal import Journal, parts_folder
from mien.batch.tables import result_format
from mien.cli.main import main
from mien.core.emotions import EMOTIONS
from mien.core.results import ModelInfo, Result
from waiting import until

PICTURES = 400  # more than is done before the last kill

# The command itself, but slow enough to be killed at work and quick to write parts. It stops by
# itself before it has done too much, since a busy machine may be slow to kill it.
SLOW = """
import itertools, sys, time
from mien.batch import journal
journal.PART_SECONDS = journal.PART_SHARE = 0.0
whole, added = journal.Journal.add, itertools.count()
def slow(self, result):
    time.sleep(0.01 if next(added) < 40 else 1000)
    whole(self, result)
journal.Journal.add = slow
from mien.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def words(folder: Path, output: Path, model: Path) -> list[str]:
    options = ["--model", str(model), "--detector", "none", "--workers", "1", "--resume"]
    return ["predict", str(folder), "--output", str(output), *options]


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "kills"), [("jsonl", 8), ("csv", 3), ("parquet", 3)])
def test_kills_neither_lose_nor_duplicate_results(
    tmp_path: Path,
    tiny_model: Path,
    make_pictures: Callable[..., list[str]],
    suffix: str,
    kills: int,
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    pictures = make_pictures(tmp_path / "d", PICTURES)
    (tmp_path / "d" / "bad.png").write_bytes(b"no image")
    killed, straight = tmp_path / f"killed.{suffix}", tmp_path / f"straight.{suffix}"
    chance = random.Random(suffix)
    parts = 0
    for kill in range(kills):
        command = [sys.executable, "-c", SLOW, *words(tmp_path / "d", killed, tiny_model)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Some are killed before they write anything, most while they do.
        if kill % 5:
            wait_for_part(killed, parts, process)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        assert process.wait() != 0, "it was done before it was killed"
        assert not killed.exists()
        parts = count_parts(killed)
    assert 0 < parts < PICTURES
    assert main(words(tmp_path / "d", killed, tiny_model)) == 6
    assert not parts_folder(killed).exists()
    assert main(words(tmp_path / "d", straight, tiny_model)) == 6
    assert [row["source"] for row in rows(killed)] == sorted(
        [*pictures, str(tmp_path / "d" / "bad.png")]
    )
    assert alike(rows(killed), rows(straight))


def wait_for_part(output: Path, before: int, process: subprocess.Popen[bytes]) -> None:
    until(lambda: count_parts(output) > before or process.poll() is not None)


def count_parts(output: Path) -> int:
    return len(list(parts_folder(output).glob("part-*.jsonl")))


def rows(output: Path) -> list[dict[str, Any]]:
    if output.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(output).to_pylist())
    with output.open(encoding="utf-8", newline="") as file:
        if output.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return [{**row, **scores(row)} for row in csv.DictReader(file)]


def scores(row: dict[str, str]) -> dict[str, float]:
    return {name: float(row[name]) for name in ("confidence", *EMOTIONS) if row[name]}


CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def killed_at(step: int, work: Callable[[], None], folder: Path) -> bool:
    """Work in a fork that exits before its n-th disk change; returns True if it got there.

    A fork keeps what it has not written to itself, as a process that is killed.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = step

    def count(event: str, words: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES and str(words[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                os._exit(9)

    try:
        sys.addaudithook(count)
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_kill_between_any_two_disk_changes(
    tmp_path: Path, make_result: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a process has written outlives it in any case.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    form = result_format("csv", EMOTIONS, ModelInfo("tiny", "0.0.1", "0" * 64))

    def run(output: Path, names: str) -> None:
        """Resume as `run_batch` does, with a part per image."""
        with Journal(output, form, {"inputs": ["d"]}, resume=True) as journal:
            rest = list(journal.remaining([Input(name) for name in names]))
            if journal.finished and not rest:
                return
            if journal.finished:
                journal.reopen()
            for one in rest:
                journal.add(make_result(one.source))
                journal.flush()
            journal.finish()

    (tmp_path / "0").mkdir()
    run(tmp_path / "0" / "r.csv", "a")
    step, there = 1, True
    while there:
        output = tmp_path / str(step) / "r.csv"
        shutil.copytree(tmp_path / "0", output.parent)
        # Twice at the same step: what is gone on with is killed, too.
        there = killed_at(step, lambda: run(output, "abc"), output.parent)  # noqa: B023
        killed_at(step, lambda: run(output, "abc"), output.parent)  # noqa: B023
        run(output, "abcd")
        assert sorted(row["source"] for row in rows(output)) == list("abcd"), step
        assert sorted(path.name for path in output.parent.iterdir()) == [".r.csv.mien", "r.csv"]
        step += 1
    assert step > 30
