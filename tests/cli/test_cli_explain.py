"""`mien explain`: the picture, the table, JSON, and exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from head_maker import write_head_model
from mien.cli.main import main
from mien.core.models import EXPLANATION_METHODS
from predict_maker import Outcome

pytest.importorskip("onnx")


Explain = Callable[..., Outcome]


@pytest.fixture
def explain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Explain:
    """Run `mien explain` in a folder with a.png; the picture counts as a face crop."""
    monkeypatch.chdir(tmp_path)
    model = write_head_model(tmp_path / "with_head")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("a.png")

    def run(*arguments: object, detector: str = "none") -> Outcome:
        settings = ["--model", str(model), "--detector", detector]
        return Outcome(main(["explain", *map(str, arguments), *settings]), *capsys.readouterr())

    return run


@pytest.mark.parametrize("method", EXPLANATION_METHODS)
def test_a_picture_and_a_table(explain: Explain, method: str) -> None:
    outcome = explain("a.png", "--method", method)
    assert outcome.code == 0
    assert "picture: a.explained.png" in outcome.err
    header, row = outcome.out.splitlines()
    assert header.split() == ["FACE", "EMOTION", "CONFIDENCE", "WHY", "PEAK", "WHERE"]
    assert row.startswith("0 ")
    with Image.open("a.explained.png") as picture:
        assert picture.width > 700


def test_output_must_be_png_or_jpeg(explain: Explain) -> None:
    assert explain("a.png", "--output", "sub/why.jpg").code == 0
    with Image.open("sub/why.jpg") as picture:
        assert picture.format == "JPEG"
    outcome = explain("a.png", "--output", "why.gif")
    assert outcome.code == 2
    assert ".png" in outcome.err


def test_json_holds_the_heat_map_and_writes_no_picture_by_default(explain: Explain) -> None:
    outcome = explain("a.png", "--json", "--emotion", "sadness")
    assert not Path("a.explained.png").exists()
    written = outcome.json
    assert written["schema"] == "mien-explanation/1"
    assert written["picture"] is None
    (face,) = written["faces"]
    why = face["explanation"]
    assert why["emotion"] == "sad"
    assert why["score"] == pytest.approx(face["scores"]["sad"], abs=1e-5)
    assert np.asarray(why["heat"]).shape == (48, 48)
    assert len(outcome.out.splitlines()) < 120
    both = explain("a.png", "--json", "--output", "why.png").json
    assert both["picture"] == "why.png"
    assert Path("why.png").exists()


def test_brackets_in_a_file_name_are_unchanged_in_json(explain: Explain) -> None:
    name = "b[ 1,  2 ].png"
    Path("a.png").rename(name)
    assert explain(name, "--json").json["source"] == name


def test_stdin(explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Path("a.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert explain("-").code == 0
    assert Path("stdin.explained.png").exists()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"no image")))
    outcome = explain("-")
    assert outcome.code == 3
    assert outcome.err.startswith("mien: standard input")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.png"], 3, "nothing.png"),
        (["."], 2, "among the inputs"),
        (["*.jpg"], 3, "no file matches"),
        (["a.png", "--face", "1"], 2, "no face 1"),
        (["a.png", "--emotion", "bored"], 2, "unknown emotion"),
        (["a.png", "--method", "magic"], 2, "magic"),
    ],
)
def test_invalid_arguments_are_one_line(
    explain: Explain, arguments: list[str], code: int, message: str
) -> None:
    outcome = explain(*arguments)
    assert outcome.code == code
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not list(Path().glob("*.explained.png"))


def test_faces_are_filtered_as_in_predict(explain: Explain) -> None:
    (face,) = explain("a.png", "--json", "--min-face", "50", "--max-faces", "1").json["faces"]
    assert face["box"]["w"] == 50
    outcome = explain("a.png", "--min-face", "51")
    assert outcome.code == 4
    assert "no face found in a.png" in outcome.err
    outcome = explain("a.png", "--max-faces", "0")
    assert outcome.code == 2
    assert "--max-faces: expected a whole number from 1" in outcome.err


@pytest.mark.slow
def test_faces_are_aligned_as_in_predict(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = shared / "models/face_detection_yunet_2026may.onnx"
    with Image.open(shared / "photos/portrait.jpg") as photo:
        photo.rotate(-20).save("leaning.png")
    model = write_head_model(tmp_path / "with_head")
    arguments = ["leaning.png", "--model", str(model), "--detector", "yunet"]
    arguments += ["--detector-weights", str(weights), "--align"]

    def scores(*command: str) -> Any:
        assert main(list(command)) == 0
        (face,) = json.loads(capsys.readouterr().out)["faces"]
        return face["scores"]

    on, off = (
        scores("explain", *arguments, align, "--method", "gradcam", "--json")
        for align in ("on", "off")
    )
    assert on != off
    assert on == scores("predict", *arguments, "on", "--format", "json")


def test_several_images_get_a_picture_each(explain: Explain) -> None:
    Path("in").mkdir()
    Image.open("a.png").save("in/b.png")
    Path("in/c.png").write_bytes(b"no image")
    outcome = explain("a.png", "in", "--output", "out", "--method", "gradcam")
    assert outcome.code == 6
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "a.explained.png",
        "b.explained.png",
    ]
    header, *rows = outcome.out.splitlines()
    assert header.split()[:2] == ["IMAGE", "FACE"]
    assert [row.split()[:2] for row in rows] == [["a.png", "0"], ["in/b.png", "0"]]
    assert "in/c.png" in outcome.err.splitlines()[-1]
    listed = explain("in", "--json", "--method", "gradcam").json
    assert [(item["source"], item["picture"]) for item in listed] == [("in/b.png", None)]
    assert explain("in/c.png", "gone.png").code == 3


def test_no_face_exits_with_4(explain: Explain) -> None:
    outcome = explain("a.png", detector="haar")
    assert outcome.code == 4
    assert "no face found in a.png" in outcome.err


def test_gradcam_imports_no_training_package(tmp_path: Path) -> None:
    model = write_head_model(tmp_path / "with_head")
    Image.new("L", (48, 48), 90).save(tmp_path / "a.png")
    arguments = ["explain", "a.png", "--model", str(model), "--detector", "none"]
    program = (
        "import sys\n"
        "from mien.cli.main import main\n"
        f"code = main({[*arguments, '--method', 'gradcam']!r})\n"
        "assert code == 0\n"
        "heavy = {'keras', 'tensorflow', 'onnx', 'matplotlib', 'sklearn', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
