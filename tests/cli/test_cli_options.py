"""Options shared by commands, their environment variables and their limits."""

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


def parsed(*arguments: str) -> RecognizerOptions:
    args = build_parser().parse_args(arguments)
    assert isinstance(args, argparse.Namespace)
    return recognizer_options(args)


@pytest.mark.parametrize(
    "arguments", [("predict", "a.png"), ("explain", "a.png"), ("evaluate", "--pictures", "d")]
)
def test_thorough_search_reaches_the_detector_of_each_worker(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def note_it(name: str, **options: Any) -> NoDetector:
        calls.append((name, options["thorough"]))
        return NoDetector()

    monkeypatch.setattr(detectors, "load_detector", note_it)
    for given, expected in (((), False), (("--thorough",), True)):
        chosen = parsed(*arguments, "--detector", "libface", *given)
        assert chosen.settings()["thorough"] is expected
        # A worker, here or on a Ray cluster, gets the options pickled.
        pickle.loads(pickle.dumps(chosen)).load_detector()
        assert calls.pop() == ("libface", expected)


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
def test_options_override_variables_and_variables_defaults(
    variable: str,
    text: str,
    option: str,
    given: str,
    value: str | int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = option[2:].replace("-", "_")
    default = vars(build_parser().parse_args(["predict", "a.png"]))[name]
    for content, arguments, expected in (
        ("", [], default),
        (text, [], value),
        (text, [option, given], type(value)(given)),
        ("bad", [option, given], type(value)(given)),
    ):
        monkeypatch.setenv(variable, content)
        args = build_parser().parse_args(["predict", "a.png", *arguments])
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
def test_offline_can_be_set_by_its_variable(
    text: str, value: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_OFFLINE", text)
    assert build_parser().parse_args(["serve"]).offline is value
    assert build_parser().parse_args(["serve", "--offline"]).offline is True
    monkeypatch.setenv("MIEN_OFFLINE", "maybe")
    with pytest.raises(UsageError, match="MIEN_OFFLINE: expected 1 or 0"):
        build_parser().parse_args(["serve"])


def test_variables_are_listed_in_help_and_named_at_their_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    helps = " ".join(
        str(action.help) for parser in _walk_parsers(build_parser()) for action in parser._actions
    )
    for name in options.ENVIRONMENT_VARIABLES:
        assert name in out
        assert f"[{name}]" in helps or name == "MIEN_HOME"


def refused(*arguments: str) -> str:
    """Return the message with which a command line is rejected before any work is done."""

    def run() -> None:
        args = build_parser().parse_args(arguments)
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
def test_numbers_out_of_range_are_rejected_in_one_line(command: str, value: str) -> None:
    for option in NUMBERS[command]:
        reason = refused(*command.split(), f"{option}={value}")
        assert option in reason
        assert "expected" in reason


def test_every_option_that_takes_a_number_has_bounds() -> None:
    for parser in _walk_parsers(build_parser()):
        for action in parser._actions:
            assert action.type not in (int, float), (parser.prog, action.option_strings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict a.png --output r.ods", "to end in .json, .jsonl"),
        ("predict a.png --output r", "to end in .json, .jsonl"),
        ("predict a.png --output r.JPG", "--annotate DIR writes pictures, --timeline"),
        ("predict a.mp4 --output r.mp4", "--annotate FILE writes a video"),
        ("predict a.png --output -", "omit it to write to standard output"),
        ("predict a.png --format json --output -", "omit it to write to standard output"),
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
def test_output_names_of_another_kind_are_rejected(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "shape"),
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
def test_format_follows_the_suffix_or_the_option(arguments: str, shape: str) -> None:
    args = build_parser().parse_args(["predict", "a.png", *arguments.split()])
    assert _choose_format(args.format, args.output, None) == shape


PATHS = [
    *("predict a.png --output", "predict a.png --annotate", "predict a.mp4 --markers"),
    *("predict a.mp4 --timeline", "predict a.mp4 --episodes", "predict a.mp4 --events"),
    *("predict a.mp4 --compare", "predict a.png --detector yunet --detector-weights"),
    *("predict", "predict --video", "predict a.png --model"),
    *("explain", "explain a.png --output", "models", "bench --model", "doctor --model"),
    *("evaluate --data", "evaluate --pictures", "evaluate --data d --votes"),
    *("evaluate --data d --map", "evaluate --data d --output", "evaluate --data d --update"),
    *("export", "export r --output", "export r --join", "export r --calibrate"),
    *("export r --calibrate d --votes", "export r --int8 --data"),
    *("train --config", "train --resume", "train --config tiny --run"),
    "train --config tiny --set data.source=",
    *("finetune", "finetune d --map", "finetune d --model", "finetune --resume"),
    *("data import", "data import d --output", "data audit", "data audit d --votes"),
    *("data audit d --figure", "data download --output"),
    *("serve --token-file", "studio --export"),
]


@pytest.fixture
def small_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an empty picture, an empty video and an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"")
    Path("a.mp4").write_bytes(b"")
    Path("d").mkdir()
    return tmp_path


@pytest.mark.parametrize("arguments", PATHS)
def test_an_empty_path_is_not_the_current_folder(
    arguments: str, small_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments.split()
    code = main([*words, "--quiet"] if words[-1].endswith("=") else [*words, "", "--quiet"])
    _, err = capsys.readouterr()
    assert code in (2, 3, 5)
    assert err.count("\n") == 1
    assert "''" in err or "empty" in err
    assert {path.name for path in small_folder.iterdir()} == {"a.png", "a.mp4", "d"}


@pytest.mark.parametrize(
    "arguments",
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
@pytest.mark.usefixtures("small_folder")
def test_names_that_no_file_can_have_are_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([word.replace("NAME", "n" * 300) for word in arguments] + ["--quiet"])
    _, err = capsys.readouterr()
    assert code in (2, 3, 5) or (code == 1 and "cannot write" in err)
    assert err.count("\n") == 1
    assert "internal error" not in err
