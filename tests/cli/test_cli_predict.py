"""`mien predict`: inputs, formats, annotated pictures, exit codes."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.cli.main import main
from mien.cli.paths import is_single, unique_names
from mien.core.emotions import EMOTIONS
from mien.core.results import TABLE_COLUMNS
from predict_maker import Predict


def picture(path: str | Path, seed: int = 0, size: tuple[int, int] = (60, 50)) -> str:
    """Write a small picture of noise and return its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def blank(path: str) -> str:
    Image.new("RGB", (80, 80), "white").save(path)
    return path


# Formats


def test_one_image_gives_one_json_object(predict: Predict) -> None:
    outcome = predict(picture("a.png"), "--format", "json")
    assert outcome.code == 0
    assert list(outcome.json) == [
        "schema", "source", "frame", "time_s", "status", "width", "height", "faces", "model",
        "labels",
    ]  # fmt: skip
    assert outcome.json["source"] == "a.png"
    assert (outcome.json["width"], outcome.json["height"]) == (60, 50)
    (face,) = outcome.json["faces"]
    assert face["box"] == {"x": 0, "y": 0, "w": 60, "h": 50}
    assert tuple(face["scores"]) == EMOTIONS
    assert face["confidence"] == max(face["scores"].values()) == face["scores"][face["emotion"]]
    assert outcome.json["model"]["name"] == "tiny"


@pytest.mark.parametrize("arguments", [["a.png", "b.png"], ["folder"], ["*.png"], ["fold*/*"]])
def test_other_inputs_give_a_json_list(predict: Predict, arguments: list[str]) -> None:
    for path in ("a.png", "b.png", "folder/c.png"):
        picture(path)
    assert isinstance(predict(*arguments, "--format", "json").json, list)


def test_jsonl_has_one_object_per_line(predict: Predict) -> None:
    outcome = predict(picture("a.png"), picture("b.png", 1), "--format", "jsonl")
    assert [json.loads(line)["source"] for line in outcome.out.splitlines()] == ["a.png", "b.png"]


def test_csv_has_the_table_columns_and_a_row_per_image(predict: Predict) -> None:
    picture("a.png")
    outcome = predict("a.png", "missing.png", "--format", "csv")
    first, second = csv.DictReader(io.StringIO(outcome.out))
    assert tuple(first) == TABLE_COLUMNS
    assert (first["source"], first["status"], first["uncertain"]) == ("a.png", "ok", "false")
    assert float(first["confidence"]) == max(float(first[name]) for name in EMOTIONS)
    assert (second["source"], second["status"], second["emotion"]) == (
        "missing.png", "unreadable", "",
    )  # fmt: skip


def test_the_table_is_aligned_with_wide_characters(predict: Predict) -> None:
    names = [picture("脸.png"), picture("e\u0301.png", 1), picture("a-long-name.png", 2)]
    outcome = predict(*names, "missing.png", "--format", "table")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["IMAGE", "FACE", "EMOTION", "CONFIDENCE", "BOX"]
    column = lines[0].index("BOX")
    assert lines[3][column:] == "60x50 at 0,0"
    # A wide character takes two columns, a combining one none.
    assert lines[1][column - 1 :] == lines[2][column + 1 :] == "60x50 at 0,0"
    assert "unreadable: no such file" in lines[4]


def test_control_characters_in_names_never_reach_the_terminal(predict: Predict) -> None:
    outcome = predict("evil\x1b[2J.png", "--format", "table")
    assert "\x1b" not in outcome.out + outcome.err
    assert "evil\\x1b[2J.png" in outcome.out
    assert "evil\\x1b[2J.png" in outcome.err


def test_an_uncertain_face_is_marked_and_explained(
    predict: Predict, make_tiny_model: Callable[..., Path]
) -> None:
    strict = make_tiny_model("strict", thresholds=dict.fromkeys(EMOTIONS, 1.0))
    sure = predict(picture("a.png"), "--format", "table").out
    unsure = predict("a.png", "--format", "table", model=strict).out
    assert "?" not in sure
    assert " ?  " in unsure.splitlines()[1]
    assert unsure.endswith("\n? uncertain: below the model's threshold for this emotion\n")


def test_a_pipe_gets_json_and_a_terminal_a_table(
    predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture("a.png")
    assert predict("a.png").json["source"] == "a.png"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert predict("a.png").out.startswith("IMAGE")


# Inputs


def test_a_folder_is_searched_recursively_in_sorted_order(predict: Predict) -> None:
    for path in ("d/b.png", "d/a.JPG", "d/sub/c.webp", "d/.hidden.png", "d/.h/x.png"):
        picture(path)
    Path("d/notes.txt").write_text("not an image")
    sources = [Path(result["source"]).as_posix() for result in predict("d").json]
    assert sources == ["d/a.JPG", "d/b.png", "d/sub/c.webp"]


def test_a_pattern_expands_to_its_matches(predict: Predict) -> None:
    for path in ("x1.png", "x2.png", "y.png", "sub/x3.png"):
        picture(path)
    assert [item["source"] for item in predict("x*.png").json] == ["x1.png", "x2.png"]
    everywhere = [Path(item["source"]).name for item in predict("**/x*.png").json]
    assert everywhere == ["x3.png", "x1.png", "x2.png"]


def test_a_file_named_like_a_pattern_is_read(predict: Predict) -> None:
    outcome = predict(picture("photo[1].png"))
    assert outcome.json["source"] == "photo[1].png"


def test_stdin_is_one_image(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Path(picture("a.png")).read_bytes()
    given(monkeypatch, content)
    piped = predict("-", "--format", "json").json
    assert piped["source"] == "-"
    assert piped["faces"] == predict("a.png", "--format", "json").json["faces"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "standard input is empty"), (b"hello", "standard input is not an image")],
)
def test_stdin_without_an_image_is_reported(
    predict: Predict, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    given(monkeypatch, content)
    outcome = predict("-", "--format", "json")
    assert outcome.code == 3
    assert outcome.json["status"] == "unreadable"
    assert outcome.err.startswith(f"mien: {message}")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/full"])
def test_endless_devices_are_rejected_by_their_first_bytes(
    predict: Predict, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    outcome = predict(device, "--format", "json")
    assert outcome.code == 3
    assert outcome.err.startswith(f"mien: {device} is not an image")
    with open(device, encoding="latin-1") as endless:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", endless)
        outcome = predict("-", "--format", "json")
    assert outcome.code == 3
    assert outcome.err.startswith("mien: standard input is not an image")


def test_messages_of_libtiff_are_hidden(tiny_model: Path, tmp_path: Path) -> None:
    for kind in ("tiff_lzw", "tiff_adobe_deflate"):
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(buffer, "TIFF", compression=kind)
        content = bytearray(buffer.getvalue())
        content[2000:2100] = b"\xff" * 100
        (tmp_path / f"{kind}.tif").write_bytes(content)
        arguments = [sys.executable, "-m", "mien", "predict", f"{kind}.tif"]
        done = subprocess.run(
            [*arguments, "--model", str(tiny_model), "--detector", "none"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 3
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"mien: {kind}.tif is damaged")


def test_stdin_is_read_up_to_a_limit(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mien.core.images.MAX_FILE_BYTES", 3 << 20)
    content = b"\xff\xd8\xff" + bytes(5 << 20)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    outcome = predict("-", "--format", "json")
    assert outcome.code == 3
    assert outcome.err.startswith("mien: standard input is too large: expected at most")


def test_a_data_uri_is_read_and_its_content_never_repeated(predict: Predict) -> None:
    content = base64.b64encode(Path(picture("a.png")).read_bytes()).decode()
    uri = f"data:image/png;base64,{content}"
    for arguments in (["--format", "json"], ["--output", "r.csv"], ["--annotate", "drawn"]):
        outcome = predict(uri, *arguments)
        assert outcome.code == 0
        assert content[30:60] not in outcome.out + outcome.err
    kept = [path for path in Path().rglob("*") if path.is_file()]
    assert all(content[30:60].encode() not in path.read_bytes() for path in kept)
    row = Path("r.csv").read_text().splitlines()[1]
    assert row.startswith("data:image/png;sha256=")
    outcome = predict(uri[:60], "--format", "json")
    assert (outcome.code, outcome.json["status"]) == (3, "unreadable")


def test_names_in_errors_are_short_and_without_control_characters(predict: Predict) -> None:
    long, odd = "n" * 300 + ".jpg", "a\x1b[31mb\nc.jpg"
    outcome = predict(long, odd, "--format", "json")
    assert outcome.code == 3
    lines = outcome.err.splitlines()
    assert len(lines) == 1
    assert "\x1b" not in outcome.err
    errors = [item["error"] for item in outcome.json]
    assert max(map(len, errors)) < 160
    assert [item["source"] for item in outcome.json] == [long, odd]
    assert errors[1] == r"a\x1b[31mb\nc.jpg: no file matches this pattern"


def test_skipped_files_are_reported(predict: Predict) -> None:
    picture("d/a.png")
    for name in ("b.mp4", "c.HEIC", "d.heic", "notes"):
        Path("d", name).write_bytes(b"x")
    message = (
        "skipped 4 files that are not images by name: 2 .heic, 1 .mp4, 1 without a suffix; "
        "--video reads the videos; save HEIC as JPEG to have it read\n"
    )
    for arguments in (["--format", "csv"], ["--output", "r.csv"]):
        outcome = predict("d", *arguments)
        assert outcome.code == 0
        assert message in outcome.err
        assert "skipped" not in predict("d", *arguments, "--quiet").err
    assert "skipped" not in predict("d/a.png", "--format", "csv").err
    # The run's own temporary files in the folder do not count.
    assert message in predict("d", "--output", "d/r.jsonl").err


def test_stdin_given_twice_is_a_usage_error(predict: Predict) -> None:
    assert predict("-", "-").code == 2


def given(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("missing.png", "missing.png: no such file"),
        ("*.gif", "no file matches this pattern"),
        ("", "an input's name is empty"),
        ("empty", "no image in this folder"),
        ("ftp://example.org/a.jpg", "an address that this command cannot read"),
        ("nul\0byte.png", "cannot be read"),
        ("n" * 300, "cannot be read"),
    ],
)
def test_inputs_that_lead_nowhere_are_unreadable_with_a_reason(
    predict: Predict, word: str, message: str
) -> None:
    Path("empty").mkdir()
    outcome = predict(word, "--format", "jsonl")
    assert outcome.code == 3
    result = json.loads(outcome.out)
    assert (result["status"], result["source"]) == ("unreadable", word)
    assert message in result["error"]
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder"
)
def test_a_folder_without_permission_is_reported(predict: Predict) -> None:
    picture("d/a.png")
    picture("d/barred/b.png")
    Path("d/barred").chmod(0)
    try:
        good, bad = predict("d").json
    finally:
        Path("d/barred").chmod(0o700)
    assert good["status"] == "ok"
    assert "this folder cannot be read" in bad["error"]


def test_single_depends_only_on_the_arguments(tmp_path: Path) -> None:
    assert is_single(["no-such-file.png"])
    assert is_single(["-"])
    assert not is_single([str(tmp_path)])
    assert not is_single(["*.png"])
    assert not is_single(["a.png", "b.png"])


# Exit codes


def test_an_unreadable_image_does_not_stop_the_others(predict: Predict) -> None:
    Path("bad.png").write_bytes(b"\x89PNG\r\n but no more")
    outcome = predict("bad.png", picture("good.png"), "--format", "json")
    assert outcome.code == 6
    assert [item["status"] for item in outcome.json] == ["unreadable", "ok"]
    assert outcome.err.startswith("mien: 1 of 2 inputs failed (1 unreadable); first: bad.png")


def test_tta_changes_scores(predict: Predict) -> None:
    plain, mean = (
        predict(picture("a.png"), "--format", "json", *arguments).json["faces"][0]["scores"]
        for arguments in ((), ("--tta",))
    )
    assert plain != mean
    assert sum(mean.values()) == pytest.approx(1, abs=1e-4)


def test_no_face_exits_with_4_after_writing_results(predict: Predict) -> None:
    outcome = predict(blank("a.png"), blank("b.png"), "--format", "json", detector="haar")
    assert outcome.code == 4
    assert [item["status"] for item in outcome.json] == ["no_face", "no_face"]
    assert "no face found in any of 2 images" in outcome.err


def test_no_readable_input_exits_with_3(predict: Predict) -> None:
    outcome = predict("a.png", "b.png", "--format", "jsonl")
    assert outcome.code == 3
    assert len(outcome.out.splitlines()) == 2
    assert "none of 2 inputs could be read; first: a.png: no such file" in outcome.err


def test_a_missing_model_exits_with_5(predict: Predict) -> None:
    outcome = predict(picture("a.png"), model=Path("no/such/model"))
    assert (outcome.code, outcome.out) == (5, "")
    assert outcome.err.startswith("mien: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads: expected a whole number from 1 to 1024"),
        (["--threads", "two"], "a whole number from 1 to 1024, got 'two'"),
        (["--format", "xml"], "unknown --format 'xml': expected one of json"),
        (["--detector", "face"], "unknown detector 'face'"),
        (["--detector-weights", "w.onnx"], "only detector='yunet' takes weights"),
    ],
)
def test_invalid_options_exit_with_2(
    arguments: list[str], message: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "a.png", "--model", str(tiny_model), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


# Files that are written


@pytest.mark.parametrize(
    ("name", "start"),
    [("r.json", "{"), ("r.jsonl", '{"schema"'), ("r.csv", "source,"), ("r.txt", "IMAGE")],
)
def test_output_has_the_format_of_its_suffix(predict: Predict, name: str, start: str) -> None:
    outcome = predict(picture("a.png"), "--output", name)
    assert (outcome.code, outcome.out) == (0, "")
    assert Path(name).read_text(encoding="utf-8").startswith(start)
    assert outcome.err == f"{name}: 1 face in 1 image\n"


def test_an_unwritable_output_is_reported_and_leaves_nothing(predict: Predict) -> None:
    picture("a.png")
    Path("file").write_text("in the way")
    for target in ("file/r.json", "."):
        outcome = predict("a.png", "--output", target)
        assert outcome.code == 1
        assert outcome.err.startswith(f"mien: cannot write {target}")
    assert sorted(path.name for path in Path().iterdir()) == ["a.png", "file"]


def test_output_to_a_device_leaves_the_device(predict: Predict) -> None:
    assert predict(picture("a.png"), "--output", os.devnull).code == 0
    assert not Path(os.devnull).is_file()


def test_output_through_a_link_keeps_the_link(predict: Predict) -> None:
    Path("real.json").write_text("[]\n")
    Path("link.json").symlink_to("real.json")
    predict(picture("a.png"), "--output", "link.json")
    assert Path("link.json").is_symlink()
    assert json.loads(Path("real.json").read_text())["source"] == "a.png"


def test_annotated_pictures_have_unique_names(predict: Predict) -> None:
    sources = [picture("x/a.png"), picture("y/a.png", 1), picture("z/A.PNG", 2)]
    outcome = predict(*sources, "missing.png", "--annotate", "x")
    assert outcome.code == 6
    assert "annotated: 3 pictures in x\n" in outcome.err
    written = sorted(path.name for path in Path("x").iterdir())
    assert written == ["A-3.annotated.png", "a-2.annotated.png", "a.annotated.png", "a.png"]
    with Image.open("x/a.annotated.png") as drawn:
        assert drawn.mode == "RGB"
        assert max(drawn.size) >= 640


def test_one_annotated_picture_of_several_is_counted_as_one(predict: Predict) -> None:
    outcome = predict(picture("a.png"), "missing.png", "--annotate", "x")
    assert "annotated: 1 picture in x\n" in outcome.err


def test_an_annotated_photo_stays_a_jpeg(predict: Predict) -> None:
    outcome = predict(picture("a.jpeg"), "--annotate", "out")
    assert outcome.err == f"annotated: {Path('out/a.annotated.jpg')}\n"
    with Image.open("out/a.annotated.jpg") as drawn:
        assert drawn.format == "JPEG"


def test_duplicate_names_get_a_number() -> None:
    names = [("a", ".png"), ("A", ".png"), ("a-2", ".png"), ("a", ".jpg")]
    assert unique_names(names) == ["a.png", "A-2.png", "a-2-2.png", "a.jpg"]


def test_compat_writes_the_structure_of_another_tool(predict: Predict) -> None:
    one, two = picture("a.png", 1), picture("b.png", 2)
    plain = predict(one).json["faces"][0]
    (fer,) = predict(one, "--compat", "fer").json
    assert fer["box"] == list(plain["box"].values())
    assert fer["emotions"] == pytest.approx(plain["scores"], abs=0.00501)
    (deepface,) = predict(one, "--compat", "deepface").json
    assert deepface["dominant_emotion"] == plain["emotion"]
    both = predict(one, two, "--compat", "deepface").json
    assert [len(faces) for faces in both] == [1, 1]
    assert both[0][0]["emotion"] == pytest.approx(deepface["emotion"])
    lines = predict(one, two, "--compat", "fer", "--format", "jsonl").out.splitlines()
    assert json.loads(lines[0]) == [fer]
    assert len(lines) == 2


@pytest.mark.parametrize("arguments", [("--format", "csv"), ("--output", "faces.txt")])
def test_compat_requires_json(predict: Predict, arguments: tuple[str, ...]) -> None:
    outcome = predict(picture("a.png"), "--compat", "fer", *arguments)
    assert outcome.code == 2
    assert "--format json" in outcome.err


def test_quiet_prints_only_errors(predict: Predict) -> None:
    picture("a.png")
    assert predict("a.png", "--output", "r.json", "--annotate", "out", "--quiet").err == ""
    assert predict("missing.png", "--quiet").err == "mien: missing.png: no such file\n"


# In a separate process


def test_a_photo_imports_no_heavy_packages(tiny_model: Path, tmp_path: Path) -> None:
    heavy = (
        *("keras", "tensorflow", "onnx", "matplotlib", "sklearn", "pandas", "scipy"),
        *("pyarrow", "ray", "rich", "urllib3"),
        *("multiprocessing.connection", "concurrent.futures.process"),
    )
    code = (
        "import sys\n"
        "from mien.cli.main import main\n"
        f"code = main(['predict', 'a.png', '--model', {str(tiny_model)!r}, '--detector', 'none'])\n"
        f"print(code, [name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\n"
    )
    picture(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stderr == "0 []\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes")
def test_names_that_are_not_utf8_and_an_ascii_locale_still_give_valid_json(
    tiny_model: Path, tmp_path: Path
) -> None:
    picture(tmp_path / "a.png")
    names = [b"caf\xe9.png", "größe-😀.png".encode()]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes((tmp_path / "a.png").read_bytes())
    arguments = [
        "predict",
        *map(os.fsdecode, names),
        "--model",
        str(tiny_model),
        "--detector",
        "none",
    ]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "mien", *arguments, "--format", "json"],
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sources = [item["source"] for item in json.loads(done.stdout.decode("utf-8"))]
    assert [os.fsencode(source) for source in sources] == names


def test_small_faces_are_ignored(predict: Predict) -> None:
    small, large = picture("small.png", size=(40, 40)), picture("large.png", size=(90, 80))
    outcome = predict(small, large, "--min-face", "80", "--max-faces", "1", "--align", "off")
    assert [result["status"] for result in outcome.json] == ["no_face", "ok"]
