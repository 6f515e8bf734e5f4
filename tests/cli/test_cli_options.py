"""The options that several commands share."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from mien.batch.inputs import RecognizerOptions
from mien.cli import options
from mien.cli.main import _walk_parsers, build_parser, main
from mien.cli.options import recognizer_options
from mien.cli.predict import _choose_format
from mien.core.errors import ModelError, UsageError
from mien.inference import detectors
from mien.inference.detectors import NoDetector


def parsed(*words: str) -> RecognizerOptions:
    args = build_parser().parse_args(words)
    assert isinstance(args, argparse.Namespace)
    return recognizer_options(args)


@pytest.mark.parametrize(
    "words", [("predict", "a.png"), ("explain", "a.png"), ("evaluate", "--pictures", "d")]
)
def test_thorough_search_reaches_the_detector_of_each_worker(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def note_it(name: str, **options: Any) -> NoDetector:
        asked.append((name, options["thorough"]))
        return NoDetector()

    monkeypatch.setattr(detectors, "load_detector", note_it)
    for given, expected in (((), False), (("--thorough",), True)):
        found = parsed(*words, "--detector", "libface", *given)
        assert found.settings()["thorough"] is expected
        # A worker, here or on a Ray cluster, gets the options pickled.
        pickle.loads(pickle.dumps(found)).load_detector()
        assert asked.pop() == ("libface", expected)


def test_detectors_are_those_of_the_library() -> None:
    assert options.DETECTORS == detectors.DETECTORS


@pytest.mark.parametrize(
    ("variable", "text", "option", "given", "value"),
    [
        ("MIEN_MODEL", "mien-nano", "--model", "mien-b0", "mien-nano"),
        ("MIEN_LABELS", "fer2013", "--labels", "people", "fer2013"),
        ("MIEN_DETECTOR", "haar", "--detector", "none", "haar"),
        ("MIEN_THREADS", "3", "--threads", "2", 3),
        ("MIEN_BATCH_SIZE", "8", "--batch-size", "9", 8),
        ("MIEN_WORKERS", "3", "--workers", "2", 3),
    ],
)
def test_an_option_wins_over_its_variable_and_that_over_the_default(
    variable: str,
    text: str,
    option: str,
    given: str,
    value: str | int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = option[2:].replace("-", "_")
    default = vars(build_parser().parse_args(["predict", "a.png"]))[name]
    for content, words, expected in (
        ("", [], default),
        (text, [], value),
        (text, [option, given], type(value)(given)),
        ("bad", [option, given], type(value)(given)),
    ):
        monkeypatch.setenv(variable, content)
        args = build_parser().parse_args(["predict", "a.png", *words])
        assert vars(args)[name] == expected
    with pytest.raises((UsageError, ModelError), match=f"{variable}: .*bad"):
        build_parser().parse_args(["predict", "a.png"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("true", True),
        ("0", False),
    ],
)
def test_offline_by_its_variable(text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_OFFLINE", text)
    assert build_parser().parse_args(["serve"]).offline is value
    assert build_parser().parse_args(["serve", "--offline"]).offline is True
    monkeypatch.setenv("MIEN_OFFLINE", "maybe")
    with pytest.raises(UsageError, match="MIEN_OFFLINE: expected 1 or 0"):
        build_parser().parse_args(["serve"])


def test_every_variable_is_listed_and_named_by_its_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    helps = " ".join(str(each.help) for p in _walk_parsers(build_parser()) for each in p._actions)
    for name in options.ENVIRONMENT_VARIABLES:
        assert name in out
        assert f"[{name}]" in helps or name == "MIEN_HOME"


def refused(*words: str) -> str:
    """Return why the words of a command are refused, before any work is done."""

    def run() -> None:
        args = build_parser().parse_args(words)
        args.run(args)

    with pytest.raises(UsageError) as error:
        run()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


NUMBERS = {
    "predict a.png": (
        *("--threads", "--min-face", "--max-faces", "--workers", "--batch-size"),
        *("--smooth", "--reconnect", "--max-download"),
    ),
    "explain a.png": ("--threads", "--min-face", "--max-faces", "--face"),
    "evaluate --data d": ("--batch-size", "--seed", "--min-face", "--max-faces"),
    "bench": ("--threads", "--seconds"),
    "finetune d": ("--threads", "--epochs", "--seed", "--val-fraction"),
    "export r": ("--balance",),
    "data import d": ("--seed", "--val-fraction"),
    "data audit d": ("--near-threshold", "--limit"),
    "serve": (
        *("--port", "--max-bytes", "--max-megapixels", "--workers", "--max-waiting"),
        *("--upload-timeout", "--threads", "--min-face", "--max-faces"),
    ),
}


@pytest.mark.parametrize("value", ["9" * 20, "9" * 5000, "-9" + "9" * 20, "1e999", "nan", "", "x"])
@pytest.mark.parametrize("command", NUMBERS)
def test_numbers_without_measure_are_refused_in_a_line(command: str, value: str) -> None:
    for option in NUMBERS[command]:
        reason = refused(*command.split(), f"{option}={value}")
        assert option in reason
        assert "expected" in reason


def test_every_option_that_takes_a_number_has_bounds() -> None:
    for each in _walk_parsers(build_parser()):
        for action in each._actions:
            assert action.type not in (int, float), (each.prog, action.option_strings)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("predict a.png --output r.ods", "to end in .json, .jsonl"),
        ("predict a.png --output r", "to end in .json, .jsonl"),
        ("predict a.png --output r.JPG", "--annotate DIR writes pictures, --timeline"),
        ("predict a.mp4 --output r.mp4", "--annotate FILE writes a video"),
        ("predict a.png --output -", "leave it out for standard output"),
        ("predict a.png --format json --output -", "leave it out for standard output"),
        ("predict a.png --format csv --output r.json", "does not match --format csv"),
        ("predict a.png --format json --output r.xlsx", "does not match --format json"),
        ("predict a.png --format json --output r.png", "does not match --format json"),
        ("predict a.mp4 --format csv --output r.parquet", "does not match --format csv"),
        ("predict a.png --annotate b.png", "expected a folder's name"),
        ("predict a.png --annotate b.mp4", "expected a folder's name"),
        ("predict a.png --annotate r.csv", "expected a folder's name"),
        ("predict a.png --annotate -", "expected a folder's name"),
        ("predict a.mp4 --annotate b.avi", "or a name ending in .mp4, .m4v, .mov, .mkv"),
        ("predict a.mp4 --annotate b.png", "or a name ending in .mp4, .m4v, .mov, .mkv"),
        ("predict a.mp4 --timeline t.svg", "ending in .png, .jpg, .jpeg, .webp"),
        ("predict a.mp4 --timeline -", "ending in .png, .jpg, .jpeg, .webp"),
        ("predict a.mp4 --episodes e.csv", "ending in .json"),
        ("explain a.png --output why.gif", "ending in .png, .jpg, .jpeg"),
        ("explain a.png b.png --output why.png", "expected --output as a folder"),
        ("explain a.png --output -", "ending in .png, .jpg, .jpeg"),
        ("data audit d --figure f.svg", "ending in .png"),
        ("data import d --output e.zip", "expected a folder's name"),
        ("evaluate --data d --output r.json", "expected a folder's name"),
        ("export r --output model.onnx", "expected a folder's name"),
        ("finetune d --run r.keras", "expected a folder's name"),
        ("train --config c --run -", "expected a folder's name"),
    ],
)
def test_a_name_that_tells_something_else_is_refused(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(*words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        ("--output r.JSON", "json"),
        ("--output r.ndjson", "jsonl"),
        ("--output r --format csv", "csv"),
        ("--output results.2024-05-01 --format jsonl", "jsonl"),
        ("--output r.json --format json", "json"),
        (f"--output {os.devnull}", "json"),
        (f"--output {os.devnull} --format csv", "csv"),
    ],
)
def test_the_format_of_a_file(words: str, shape: str) -> None:
    args = build_parser().parse_args(["predict", "a.png", *words.split()])
    assert _choose_format(args.format, args.output, None) == shape


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "NAME"],
        ["predict", "NAME.mp4"],
        ["predict", "NAME*.png"],
        ["predict", "a.png", "--output", "NAME.json"],
        ["predict", "a.png", "--output", "NAME.csv"],
        ["predict", "a.png", "--annotate", "NAME"],
        ["predict", "a.png", "--model", "NAME"],
        ["predict", "a.png", "--detector", "yunet", "--detector-weights", "NAME"],
        ["predict", "a.mp4", "--timeline", "NAME.png"],
        ["predict", "2147483648"],
        ["predict", "9" * 30],
        ["explain", "NAME"],
        ["explain", "a.png", "--output", "NAME.png"],
        ["evaluate", "--data", "NAME"],
        ["evaluate", "--pictures", "NAME"],
        ["evaluate", "--model", "NAME", "--data", "d"],
        ["evaluate", "--data", "d", "--map", "NAME"],
        ["evaluate", "--data", "d", "--update", "NAME"],
        ["export", "NAME"],
        ["export", "r", "--output", "NAME"],
        ["finetune", "NAME"],
        ["train", "--config", "NAME"],
        ["train", "--resume", "NAME"],
        ["data", "import", "NAME"],
        ["data", "import", "d", "--output", "NAME"],
        ["data", "audit", "NAME"],
        ["data", "audit", "d", "--votes", "NAME"],
        ["bench", "--model", "NAME"],
        ["doctor", "--model", "NAME"],
    ],
)
def test_names_that_no_file_can_have_are_one_line(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"")
    Path("a.mp4").write_bytes(b"")
    Path("d").mkdir()
    code = main([word.replace("NAME", "n" * 300) for word in words] + ["--quiet"])
    _, err = capsys.readouterr()
    assert code in (2, 3, 5) or (code == 1 and "cannot write" in err)
    assert err.count("\n") == 1
    assert "internal error" not in err
