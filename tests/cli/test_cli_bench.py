"""`mien bench`: one line per model, number of threads and batch size."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien.core.errors import EXIT_DONE, EXIT_MODEL, EXIT_USAGE
from predict_maker import Mien


def test_a_line_for_each_model_thread_count_and_batch_size(mien: Mien, tiny_model: Path) -> None:
    words = ("--model", tiny_model, tiny_model, "--threads", "1", "2", "--seconds", "0")
    done = mien("bench", *words)
    assert (done.code, done.err) == (EXIT_DONE, "")
    table, where = done.out.rstrip("\n").split("\n\n")
    header, *lines = table.splitlines()
    names = ["MODEL", "VERSION", "LABELS", "PRECISION", "MB", "THREADS", "BATCH"]
    assert header.split()[:7] == names
    assert {line.split()[2] for line in lines} == {"fer2013"}
    cases = [tuple(line.split()[5:7]) for line in lines]
    assert cases == 2 * [("1", "1"), ("1", "32"), ("2", "1"), ("2", "32")]
    assert len({line.index(line.split()[7]) + len(line.split()[7]) for line in lines}) == 1
    assert "onnxruntime" in where
    assert "core" in where


def test_json_has_the_figures_and_the_machine(mien: Mien, tiny_model: Path) -> None:
    done = mien("bench", "--model", tiny_model, "--threads", 1, "--seconds", 0, "--json")
    assert (done.code, done.json["schema"]) == (EXIT_DONE, "mien-bench/1")
    assert done.json["machine"]["cores"] >= 1
    assert [timing["batch_size"] for timing in done.json["timings"]] == [1, 32]
    for timing in done.json["timings"]:
        assert 0 < timing["low"] <= timing["median"] <= timing["high"]
        assert timing["model"] == "tiny"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--model", "nowhere"], EXIT_MODEL),
        (["--threads", "0"], EXIT_USAGE),
        (["--seconds", "-1"], EXIT_USAGE),
        (["--seconds", "nan"], EXIT_USAGE),
    ],
)
def test_bad_options_are_refused(mien: Mien, words: list[str], code: int) -> None:
    mien("bench", *words).assert_error(code)
