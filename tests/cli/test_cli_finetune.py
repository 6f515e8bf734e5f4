"""``mien finetune`` from a folder of classes to a model that ``mien predict`` takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data_maker import pattern
from mien.cli import evaluate, explain, finetune, predict
from mien.cli.finetune import CALIBRATION_IMAGES, result_text
from mien.cli.main import main
from mien.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_MODEL, EXIT_USAGE
from mien.data.dataset import Split
from mien.evaluation.evaluate import Comparison, compare, comparison_text
from mien.inference.classifier import Classifier

pytest.importorskip("keras")
pytest.importorskip("onnx")


MAP = "angry=bad,Sadness=bad,happy=good"


def write_faces(folder: Path, *, per_class: int = 10) -> Path:
    rng = np.random.default_rng(5)
    for label, name in {0: "angry", 3: "happiness", 5: "sad", 1: "tired"}.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            data = cv2.imencode(".png", pattern(label, rng))[1].tobytes()
            (folder / name / f"{number}.png").write_bytes(data)
    return folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a folder of four classes."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "cache"))
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    write_faces(place / "faces")
    return place


def run(*words: str) -> int:
    registers = [each.register for each in (finetune, predict, evaluate, explain)]
    return main([*words], registers=registers)


def test_a_folder_becomes_a_model_for_the_other_commands(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.training.export import export_run
    from training_maker import threads, write_tiny_run

    export_run(write_tiny_run(workplace / "tiny"), workplace / "base")
    (workplace / "faces/tired/broken.png").write_bytes(b"no picture")
    words = ["finetune", "faces", "--run", "mine", "--model", "base", "--map", MAP]
    words += ["--epochs", "1", "--set", "training.head_epochs=1"]
    words += ["--set", f"training.threads={threads()}"]
    assert run(*words) == EXIT_DONE
    written = capsys.readouterr()
    assert "skipped tired/broken.png: is not an image" in written.err
    assert "before: tiny 1.0.0" in written.out
    assert "after: mine 1.0.0" in written.out
    assert "(not: tired)" in written.out
    assert "train 32, val 8" in written.out
    for name in ("before_after.md", "before_after.png", "report.md", "confusion.png"):
        assert (workplace / "mine/report" / name).is_file()
    manifest = json.loads((workplace / "mine/export/manifest.json").read_text())
    assert manifest["labels"] == ["bad", "good", "tired"]

    face = "faces/tired/1.png"
    model = ("--model", "mine/export")
    assert run("predict", face, *model, "--detector", "none", "--format", "json") == EXIT_DONE
    (found,) = json.loads(capsys.readouterr().out)["faces"]
    assert set(found["scores"]) == {"bad", "good", "tired"}
    words = ["predict", face, *model, "--detector", "none", "--compat", "deepface"]
    assert run(*words, "--annotate", "drawn") == EXIT_DONE
    (other,) = json.loads(capsys.readouterr().out)
    assert set(other["emotion"]) == {"bad", "good", "tired"}
    words = ["explain", face, *model, "--detector", "none", "--emotion", "Tired"]
    assert run(*words, "--output", "why.png", "--quiet") == EXIT_DONE
    capsys.readouterr()
    # The model knows of what its classes were made: the folder's own names are understood.
    # What it was trained on is left out: the figure is that of the table before and after.
    for name in ("mine", "mine/export"):
        assert run("evaluate", "--model", name, "--data", "faces", "--json") == EXIT_DONE
        written = capsys.readouterr()
        report = json.loads(written.out)
        assert (report["all"]["count"], report["trained"], report["clean"]) == (8, 32, None)
        assert report["left_out"] == {}
        assert "trained on 32 of the 40 images, which are excluded" in written.err
        assert "its best epoch was chosen on 8 of the 8 evaluated images" in written.err
    held_out = json.loads((workplace / "mine/report/evaluations/val.json").read_text())
    assert report["all"]["accuracy"] == held_out["all"]["accuracy"]
    text = " ".join((workplace / "mine/report/report.txt").read_text().split())
    assert "excluded, as the model was trained on them: 32" in text
    words = ["evaluate", "--model", "mine", "--data", "faces"]
    assert run(*words, "--include-trained", "--json") == EXIT_DONE
    both = json.loads(capsys.readouterr().out)
    assert (both["all"]["count"], both["clean"]["count"]) == (40, 8)
    assert both["clean"]["accuracy"] == report["all"]["accuracy"]
    assert not (workplace / "mine/report-2").exists()
    # A photo is known again by its file, whatever face is cut out of it, and a face by its pixels.
    shutil.copytree("faces/tired", "copies/tired")
    for file in (workplace / "copies/tired").glob("?.png"):
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    assert run("evaluate", "--model", "mine", "--data", "copies", "--no-report") == EXIT_DONE
    assert "trained on 8 of the 10 images" in capsys.readouterr().err

    monkeypatch.chdir(workplace / "copies")  # relative paths are those of where it was started
    assert run("finetune", "--resume", "../mine", "--json") == EXIT_DONE
    monkeypatch.chdir(workplace)
    again = json.loads(capsys.readouterr().out)
    assert list(again) == ["run", "model", "images", "comparison", "calibration", "summary"]
    assert again["comparison"]["known"] == ["bad", "good"]
    assert run("finetune", "faces", "--run", "mine", "--model", "base") == EXIT_USAGE
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], EXIT_USAGE, "expected a FOLDER of classes, or --resume RUN"),
        (["faces", "--resume", "mine"], EXIT_USAGE, "expected a FOLDER"),
        (["--resume", "mine", "--epochs", "3"], EXIT_USAGE, "leave out --epochs"),
        (["--resume", "mine"], EXIT_INPUT, "mine is not a run of mien finetune"),
        (["nowhere"], EXIT_INPUT, "no folder nowhere"),
        (["empty"], EXIT_INPUT, "no class folders in empty"),
        (["hollow"], EXIT_INPUT, "no images in the class folders of hollow"),
        (["one"], EXIT_INPUT, "expected two classes or more, got angry"),
        (["few"], EXIT_INPUT, "class 'tired' has 3 usable images"),
        (["faces", "--map", "bored=x"], EXIT_USAGE, "no class 'bored'"),
        (["faces", "--map", "bored"], EXIT_USAGE, "not a=b,c=d"),
        (["faces", "--model", "nothing"], EXIT_MODEL, "nothing"),
        (["faces", "--detector", "eyes"], EXIT_USAGE, "eyes"),
        (["faces", "--val-fraction", "1"], EXIT_USAGE, "between 0 and 1"),
        (["faces", "--set", "training.none=1"], EXIT_USAGE, "unknown key"),
    ],
)
def test_bad_calls_are_one_clear_line(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    (workplace / "empty").mkdir()
    for name in ("a", "b"):
        (workplace / "hollow" / name).mkdir(parents=True)
    shutil.copytree(workplace / "faces/angry", workplace / "one/angry")
    shutil.copytree(workplace / "faces", workplace / "few")
    for number in range(3, 10):
        (workplace / "few/tired" / f"{number}.png").unlink()
    assert run("finetune", *words, "--quiet") == code
    written = capsys.readouterr()
    assert message in written.err
    assert written.err.count("\n") == 1
    assert not (workplace / "outputs").exists()


def test_an_image_in_train_and_val_is_left_out_of_val_with_a_note(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(workplace / "faces", workplace / "parted/train")
    shutil.copytree(workplace / "parted/train", workplace / "parted/val")
    assert run("finetune", "parted", "--model", "nothing") == EXIT_MODEL
    assert (
        "40 images of val are in train too, the first: val/angry/0.png; they are left out of val"
        in capsys.readouterr().err
    )


def test_copies_across_splits_are_left_out(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.training import finetune as training

    shutil.move(workplace / "faces", workplace / "parted/train")
    for split, numbers in {"val": "012", "test": "0345"}.items():
        for name in ("angry", "happiness", "sad", "tired"):
            (workplace / "parted" / split / name).mkdir(parents=True)
            for number in numbers:
                shutil.move(
                    workplace / "parted/train" / name / f"{number}.png"
                    if (workplace / "parted/train" / name / f"{number}.png").exists()
                    else workplace / "parted/val" / name / f"{number}.png",
                    workplace / "parted" / split / name / f"{number}.png",
                )
    for source, target in (("train/sad/9", "val/sad/9"), ("val/sad/1", "test/sad/1")):
        shutil.copy(workplace / f"parted/{source}.png", workplace / f"parted/{target}.png")
    seen: dict[str, Split] = {}

    def stop(splits: dict[str, Split], *_: object, **__: object) -> None:
        seen.update(splits)
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(training, "finetune", stop)
    run("finetune", "parted")
    error = capsys.readouterr().err
    assert "1 images of val are in train too, the first: val/sad/9.png" in error
    assert "1 images of test are in val too, the first: test/sad/1.png" in error
    assert {name: len(split) for name, split in seen.items()} == {"train": 16, "val": 8, "test": 16}


def test_images_that_the_model_was_trained_on_before_are_noted(
    workplace: Path,
    make_tiny_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mien.data.class_folder import list_class_folder, read_class_folder
    from mien.data.dataset import RECORD, write_record
    from mien.data.loading import decode_face
    from mien.training import finetune as training

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(training, "finetune", stop)
    model, listed = make_tiny_model(), list_class_folder(workplace / "faces")
    names = {name: name for name in listed.classes}
    (known,) = read_class_folder(
        listed, splits=listed.splits, classes=names, decoder=decode_face, quiet=True
    ).values()
    write_record(model / RECORD, {"train": known, "val": known})
    run("finetune", "faces", "--model", str(model))
    text = "the model was trained on 8 of the 8 images of val before: its figures will be too good"
    assert text in capsys.readouterr().err


def test_a_run_is_named_after_the_folder_however_it_is_given(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace / "faces")
    (workplace / "link").symlink_to("faces")
    for word in (".", "../faces", "tired/..", "angry/../../faces/"):
        assert finetune.folder_basename(Path(word)) == "faces"
    assert finetune.folder_basename(Path("../link")) == "link"


# What a finished fine-tuning prints, and gives as JSON

CLASSES = ("good", "bad")
CALIBRATION = {"images": 1200, "error_before": 0.123, "error_after": 0.04}


@pytest.fixture
def compared(make_tiny_model: Callable[..., Path]) -> Comparison:
    images = np.random.default_rng(0).integers(0, 256, (6, 48, 48)).astype(np.uint8)
    names = tuple(map(str, range(6)))
    split = Split("val", images, np.arange(6) % 2, names, (), (), CLASSES)
    old = Classifier.open(make_tiny_model("old"))
    new = Classifier.open(make_tiny_model("new", labels=CLASSES), labels=None)
    return compare(
        old, new, split, meanings={"good": ["happy"], "bad": ["angry", "sad"]}, quiet=True
    )


CONTENT: dict[str, Any] = {
    "run": "mine",
    "model": "mine/export",
    "images": {"train": {"good": 1000, "bad": 234}, "val": {"good": 3, "bad": 3}},
    "calibration": CALIBRATION,
    "summary": {"seconds": 75.0, "epochs": 9, "best": {"epoch": 7}},
}


def test_the_text_has_facts_both_matrices_and_the_next_step(compared: Comparison) -> None:
    text = result_text(CONTENT, compared)
    facts = dict(line.split(maxsplit=1) for line in text.split("\n\n")[0].splitlines()[:3])
    assert facts["run"] == "mine"
    assert facts["images"] == "train 1,234, val 6"
    assert "best epoch   7 of 9\n" in text
    assert "on 1,200 images of val, error 12.3% before, 4.0% after" in text
    assert "measured on  val, which chose the best epoch too" in text
    assert comparison_text(compared) in text
    assert text.endswith("next: mien predict --model mine/export IMAGE\n")


def test_the_text_says_if_the_model_is_not_calibrated(compared: Comparison) -> None:
    text = result_text({**CONTENT, "calibration": None}, replace(compared, split="test"))
    assert f"calibrated   no, fewer than {CALIBRATION_IMAGES} images are held out\n" in text
    assert "measured on  test\n" in text
