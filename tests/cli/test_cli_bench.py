from __future__ import annotations

import json
from pathlib import Path

import pytest

from mien.cli import bench
from mien.cli.main import main
from mien.core.errors import EXIT_DONE, EXIT_MODEL, EXIT_USAGE


def _bench(*words: object) -> int:
    return main(["bench", *map(str, words)], registers=[bench.register])


def test_a_line_for_each_model_thread_count_and_batch_size(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", tiny_model, tiny_model, "--threads", "1", "2", "--seconds", "0")
    assert _bench(*words) == EXIT_DONE
    written = capsys.readouterr()
    assert written.err == ""
    table, where = written.out.rstrip("\n").split("\n\n")
    lines = table.splitlines()
    names = ["MODEL", "VERSION", "LABELS", "PRECISION", "MB", "THREADS", "BATCH"]
    assert lines[0].split()[:7] == names
    assert {line.split()[2] for line in lines[1:]} == {"fer2013"}
    assert [line.split()[5:7] for line in lines[1:]] == 2 * [
        ["1", "1"],
        ["1", "32"],
        ["2", "1"],
        ["2", "32"],
    ]
    assert len({line.index(line.split()[7]) + len(line.split()[7]) for line in lines[1:]}) == 1
    assert "onnxruntime" in where
    assert "core" in where


def test_json_has_the_figures_and_the_machine(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _bench("--model", tiny_model, "--threads", "1", "--seconds", "0", "--json") == EXIT_DONE
    content = json.loads(capsys.readouterr().out)
    assert content["schema"] == "mien-bench/1"
    assert content["machine"]["cores"] >= 1
    assert [each["batch_size"] for each in content["timings"]] == [1, 32]
    for each in content["timings"]:
        assert 0 < each["low"] <= each["median"] <= each["high"]
        assert each["model"] == "tiny"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--model", "nowhere"], EXIT_MODEL),
        (["--threads", "0"], EXIT_USAGE),
        (["--seconds", "-1"], EXIT_USAGE),
        (["--seconds", "nan"], EXIT_USAGE),
    ],
)
def test_what_cannot_be_timed_is_one_line(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _bench(*words) == code
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("\n") == 1
