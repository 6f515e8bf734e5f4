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


@pytest.mark.parametrize("words", [["a.png", "b.png"], ["folder"], ["*.png"], ["fold*/*"]])
def test_all_else_gives_a_json_list(predict: Predict, words: list[str]) -> None:
    for path in ("a.png", "b.png", "folder/c.png"):
        picture(path)
    assert isinstance(predict(*words, "--format", "json").json, list)


def test_jsonl_is_one_object_a_line(predict: Predict) -> None:
    outcome = predict(picture("a.png"), picture("b.png", 1), "--format", "jsonl")
    assert [json.loads(line)["source"] for line in outcome.out.splitlines()] == ["a.png", "b.png"]


def test_csv_has_the_tables_columns_and_a_row_for_every_image(predict: Predict) -> None:
    picture("a.png")
    outcome = predict("a.png", "missing.png", "--format", "csv")
    first, second = csv.DictReader(io.StringIO(outcome.out))
    assert tuple(first) == TABLE_COLUMNS
    assert (first["source"], first["status"], first["uncertain"]) == ("a.png", "ok", "false")
    assert float(first["confidence"]) == max(float(first[name]) for name in EMOTIONS)
    assert (second["source"], second["status"], second["emotion"]) == (
        "missing.png", "unreadable", "",
    )  # fmt: skip


def test_the_table_is_aligned_whatever_the_names(predict: Predict) -> None:
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


def test_a_folder_means_its_images_and_those_below_sorted(predict: Predict) -> None:
    for path in ("d/b.png", "d/a.JPG", "d/sub/c.webp", "d/.hidden.png", "d/.h/x.png"):
        picture(path)
    Path("d/notes.txt").write_text("not an image")
    sources = [Path(result["source"]).as_posix() for result in predict("d").json]
    assert sources == ["d/a.JPG", "d/b.png", "d/sub/c.webp"]


def test_a_pattern_means_what_it_matches(predict: Predict) -> None:
    for path in ("x1.png", "x2.png", "y.png", "sub/x3.png"):
        picture(path)
    assert [one["source"] for one in predict("x*.png").json] == ["x1.png", "x2.png"]
    everywhere = [Path(one["source"]).name for one in predict("**/x*.png").json]
    assert everywhere == ["x3.png", "x1.png", "x2.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(predict: Predict) -> None:
    outcome = predict(picture("photo[1].png"))
    assert outcome.json["source"] == "photo[1].png"


def test_stdin_is_one_image(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Path(picture("a.png")).read_bytes()
    given(monkeypatch, content)
    piped = predict("-", "--format", "json").json
    assert piped["source"] == "-"
    assert piped["faces"] == predict("a.png", "--format", "json").json["faces"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "standard input is empty"), (b"hello", "standard input is not an image")],
)
def test_stdin_that_is_no_image_is_said(
    predict: Predict, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    given(monkeypatch, content)
    outcome = predict("-", "--format", "json")
    assert outcome.code == 3
    assert outcome.json["status"] == "unreadable"
    assert outcome.err.startswith(f"mien: {said}")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs devices")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/full"])
def test_a_device_that_never_ends_is_read_no_further_than_its_first_bytes(
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


def test_what_libtiff_says_of_a_damaged_file_is_not_on_stderr(
    tiny_model: Path, tmp_path: Path
) -> None:
    for kind in ("tiff_lzw", "tiff_adobe_deflate"):
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(buffer, "TIFF", compression=kind)
        content = bytearray(buffer.getvalue())
        content[2000:2100] = b"\xff" * 100
        (tmp_path / f"{kind}.tif").write_bytes(content)
        words = [sys.executable, "-m", "mien", "predict", f"{kind}.tif"]
        done = subprocess.run(
            [*words, "--model", str(tiny_model), "--detector", "none"],
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


def test_a_data_uri_is_an_image_and_its_content_is_repeated_nowhere(predict: Predict) -> None:
    content = base64.b64encode(Path(picture("a.png")).read_bytes()).decode()
    uri = f"data:image/png;base64,{content}"
    for words in (["--format", "json"], ["--output", "r.csv"], ["--annotate", "drawn"]):
        outcome = predict(uri, *words)
        assert outcome.code == 0
        assert content[30:60] not in outcome.out + outcome.err
    kept = [path for path in Path().rglob("*") if path.is_file()]
    assert all(content[30:60].encode() not in path.read_bytes() for path in kept)
    row = Path("r.csv").read_text().splitlines()[1]
    assert row.startswith("data:image/png;sha256=")
    outcome = predict(uri[:60], "--format", "json")
    assert (outcome.code, outcome.json["status"]) == (3, "unreadable")


def test_names_are_said_short_and_without_control_characters(predict: Predict) -> None:
    long, odd = "n" * 300 + ".jpg", "a\x1b[31mb\nc.jpg"
    outcome = predict(long, odd, "--format", "json")
    assert outcome.code == 3
    lines = outcome.err.splitlines()
    assert len(lines) == 1
    assert "\x1b" not in outcome.err
    errors = [one["error"] for one in outcome.json]
    assert max(map(len, errors)) < 160
    assert [one["source"] for one in outcome.json] == [long, odd]
    assert errors[1] == r"a\x1b[31mb\nc.jpg: no file matches this pattern"


def test_skipped_files_are_reported(predict: Predict) -> None:
    picture("d/a.png")
    for name in ("b.mp4", "c.HEIC", "d.heic", "notes"):
        Path("d", name).write_bytes(b"x")
    said = (
        "skipped 4 files that are not images by name: 2 .heic, 1 .mp4, 1 without a suffix; "
        "--video reads the videos; save HEIC as JPEG to have it read\n"
    )
    for words in (["--format", "csv"], ["--output", "r.csv"]):
        outcome = predict("d", *words)
        assert outcome.code == 0
        assert said in outcome.err
        assert "skipped" not in predict("d", *words, "--quiet").err
    assert "skipped" not in predict("d/a.png", "--format", "csv").err
    # What the run itself keeps in the folder until its end does not count.
    assert said in predict("d", "--output", "d/r.jsonl").err


def test_stdin_given_twice_is_a_usage_error(predict: Predict) -> None:
    assert predict("-", "-").code == 2


def given(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("missing.png", "missing.png: no such file"),
        ("*.gif", "no file matches this pattern"),
        ("", "an input's name is empty"),
        ("empty", "no image in this folder"),
        ("ftp://example.org/a.jpg", "is an address that is not read here"),
        ("nul\0byte.png", "cannot be read"),
        ("n" * 300, "cannot be read"),
    ],
)
def test_a_word_that_leads_nowhere_is_unreadable_and_says_why(
    predict: Predict, word: str, said: str
) -> None:
    Path("empty").mkdir()
    outcome = predict(word, "--format", "jsonl")
    assert outcome.code == 3
    result = json.loads(outcome.out)
    assert (result["status"], result["source"]) == ("unreadable", word)
    assert said in result["error"]
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder"
)
def test_a_folder_that_is_barred_is_named(predict: Predict) -> None:
    picture("d/a.png")
    picture("d/barred/b.png")
    Path("d/barred").chmod(0)
    try:
        good, bad = predict("d").json
    finally:
        Path("d/barred").chmod(0o700)
    assert good["status"] == "ok"
    assert "this folder cannot be read" in bad["error"]


def test_single_is_told_by_the_words_alone(tmp_path: Path) -> None:
    assert is_single(["no-such-file.png"])
    assert is_single(["-"])
    assert not is_single([str(tmp_path)])
    assert not is_single(["*.png"])
    assert not is_single(["a.png", "b.png"])


# Exit codes


def test_the_others_still_run_where_one_is_unreadable(predict: Predict) -> None:
    Path("bad.png").write_bytes(b"\x89PNG\r\n but no more")
    outcome = predict("bad.png", picture("good.png"), "--format", "json")
    assert outcome.code == 6
    assert [one["status"] for one in outcome.json] == ["unreadable", "ok"]
    assert outcome.err.startswith("mien: 1 of 2 inputs failed (1 unreadable); first: bad.png")


def test_tta_reads_more_views_of_each_face(predict: Predict) -> None:
    plain, mean = (
        predict(picture("a.png"), "--format", "json", *words).json["faces"][0]["scores"]
        for words in ((), ("--tta",))
    )
    assert plain != mean
    assert sum(mean.values()) == pytest.approx(1, abs=1e-4)


def test_no_face_anywhere_is_4_and_the_results_are_there(predict: Predict) -> None:
    outcome = predict(blank("a.png"), blank("b.png"), "--format", "json", detector="haar")
    assert outcome.code == 4
    assert [one["status"] for one in outcome.json] == ["no_face", "no_face"]
    assert "no face found in any of 2 images" in outcome.err


def test_nothing_readable_is_3(predict: Predict) -> None:
    outcome = predict("a.png", "b.png", "--format", "jsonl")
    assert outcome.code == 3
    assert len(outcome.out.splitlines()) == 2
    assert "none of 2 inputs could be read; first: a.png: no such file" in outcome.err


def test_a_missing_model_is_5(predict: Predict) -> None:
    outcome = predict(picture("a.png"), model=Path("no/such/model"))
    assert (outcome.code, outcome.out) == (5, "")
    assert outcome.err.startswith("mien: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--threads", "0"], "--threads: expected a whole number from 1 to 1024"),
        (["--threads", "two"], "a whole number from 1 to 1024, got 'two'"),
        (["--format", "xml"], "unknown --format 'xml': expected one of json"),
        (["--detector", "face"], "unknown detector 'face'"),
        (["--detector-weights", "w.onnx"], "only detector='yunet' takes weights"),
    ],
)
def test_a_wrong_option_is_2(
    words: list[str], said: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "a.png", "--model", str(tiny_model), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


# Files that are written


@pytest.mark.parametrize(
    ("name", "start"),
    [("r.json", "{"), ("r.jsonl", '{"schema"'), ("r.csv", "source,"), ("r.txt", "IMAGE")],
)
def test_output_goes_to_a_file_in_the_format_of_its_suffix(
    predict: Predict, name: str, start: str
) -> None:
    outcome = predict(picture("a.png"), "--output", name)
    assert (outcome.code, outcome.out) == (0, "")
    assert Path(name).read_text(encoding="utf-8").startswith(start)
    assert outcome.err == f"{name}: 1 face in 1 image\n"


def test_an_output_that_cannot_be_written_is_said_and_leaves_nothing(predict: Predict) -> None:
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


def test_annotated_pictures_never_share_or_take_a_name(predict: Predict) -> None:
    sources = [picture("x/a.png"), picture("y/a.png", 1), picture("z/A.PNG", 2)]
    outcome = predict(*sources, "missing.png", "--annotate", "x")
    assert outcome.code == 6
    assert "annotated: 3 pictures in x\n" in outcome.err
    written = sorted(path.name for path in Path("x").iterdir())
    assert written == ["A-3.annotated.png", "a-2.annotated.png", "a.annotated.png", "a.png"]
    with Image.open("x/a.annotated.png") as drawn:
        assert drawn.mode == "RGB"
        assert max(drawn.size) >= 640


def test_an_annotated_photo_stays_a_jpeg(predict: Predict) -> None:
    outcome = predict(picture("a.jpeg"), "--annotate", "out")
    assert outcome.err == f"annotated: {Path('out/a.annotated.jpg')}\n"
    with Image.open("out/a.annotated.jpg") as drawn:
        assert drawn.format == "JPEG"


def test_picture_names_step_aside_for_one_another() -> None:
    names = [("a", ".png"), ("A", ".png"), ("a-2", ".png"), ("a", ".jpg")]
    assert unique_names(names) == ["a.png", "A-2.png", "a-2-2.png", "a.jpg"]


def test_compat_gives_another_tools_structure(predict: Predict) -> None:
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


@pytest.mark.parametrize("words", [("--format", "csv"), ("--output", "faces.txt")])
def test_compat_is_json_alone(predict: Predict, words: tuple[str, ...]) -> None:
    outcome = predict(picture("a.png"), "--compat", "fer", *words)
    assert outcome.code == 2
    assert "--format json" in outcome.err


def test_quiet_leaves_stderr_to_errors(predict: Predict) -> None:
    picture("a.png")
    assert predict("a.png", "--output", "r.json", "--annotate", "out", "--quiet").err == ""
    assert predict("missing.png", "--quiet").err == "mien: missing.png: no such file\n"


# The real process


def test_one_photo_loads_only_what_it_takes(tiny_model: Path, tmp_path: Path) -> None:
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
    words = ["predict", *map(os.fsdecode, names), "--model", str(tiny_model), "--detector", "none"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "mien", *words, "--format", "json"],
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sources = [one["source"] for one in json.loads(done.stdout.decode("utf-8"))]
    assert [os.fsencode(source) for source in sources] == names


def test_small_faces_are_left_out(predict: Predict) -> None:
    small, large = picture("small.png", size=(40, 40)), picture("large.png", size=(90, 80))
    outcome = predict(small, large, "--min-face", "80", "--max-faces", "1", "--align", "off")
    assert [result["status"] for result in outcome.json] == ["no_face", "ok"]
