"""``mien evaluate`` on a tiny data set with a tiny real model, and on pictures."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_maker import make_tiny_split, write_tiny_dataset
from mien.batch.inputs import Input, walk_folder
from mien.cli import evaluate, paths
from mien.cli.main import main
from mien.core.emotions import EMOTIONS
from mien.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_MODEL, EXIT_PARTIAL, EXIT_USAGE
from mien.core.models import MANIFEST_NAME
from mien.data.dataset import RECORD, write_record
from mien.evaluation import pictures, report

pytest.importorskip("seaborn")

MARKS = "<!-- figures:begin {0} -->\n<!-- figures:end {0} -->\n"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a model and a data set, and an empty cache."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "cache"))
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    shutil.copytree(tiny_model, place / "tiny")
    write_tiny_dataset(place / "archive", per_class=4)
    return place


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write reports without their figures, which take most of the time."""
    monkeypatch.setattr(report, "write_figures", lambda *_, **__: ())
    for module in (report, pictures):
        monkeypatch.setattr(module, "prediction_grid", lambda *_, **__: None)


def run(*words: str) -> int:
    return main(["evaluate", *words], registers=[evaluate.register])


def evaluate_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert run(*words, "--json") == EXIT_DONE
    content: dict[str, object] = json.loads(capsys.readouterr().out)
    return content


def test_the_report_holds_what_the_classifier_gives_on_the_split(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien.inference.classifier import Classifier

    content = evaluate_json(capsys, "--model", "tiny", "--data", "archive")
    split = make_tiny_split("test", per_class=2)
    predicted = Classifier.open(workplace / "tiny").classify(split.images).argmax(axis=1)
    report = json.loads((workplace / "outputs/tiny/report/report.json").read_text())
    assert content == report
    assert (report["split"], report["tta"]) == ("test", False)
    assert report["all"]["count"] == report["clean"]["count"] == 14
    assert report["all"]["correct"] == int((predicted == split.labels).sum())
    assert report["command"] == "mien evaluate --model tiny --data archive --split test"
    assert {path.name for path in (workplace / "outputs/tiny/report").glob("*.png")} == {
        "confusion.png",
        "per_class.png",
        "reliability.png",
        "samples.png",
    }


def test_the_table_is_on_stdout_and_the_rest_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", "tiny", "--data", "archive", "--split", "val") == EXIT_DONE
    written = capsys.readouterr()
    assert written.out.startswith("tiny 0.0.1 on val\n\n")
    assert "balanced accuracy" in written.out
    assert "report: outputs/tiny/report/report.md" in written.err.replace("\\", "/")
    assert "report" not in written.out
    words = ("--model", "tiny", "--data", "archive", "--split", "val", "--no-report", "--quiet")
    assert run(*words) == EXIT_DONE
    assert capsys.readouterr().err == ""


def test_without_a_report_nothing_is_written(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_json(capsys, "--model", "tiny", "--data", "archive", "--no-report")
    assert {path.name for path in workplace.iterdir()} == {"tiny", "archive"}


def test_figures_alone_need_no_plotting_or_statistics_package(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", "tiny", "--data", "archive")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert run(*words, "--quiet") == EXIT_DONE
    for package in ("matplotlib", "seaborn"):
        monkeypatch.setitem(sys.modules, package, None)
    capsys.readouterr()
    assert run(*words) == EXIT_USAGE
    assert "the figures of mien evaluate (--no-report leaves them out)" in capsys.readouterr().err
    evaluate_json(capsys, *words, "--no-report")
    evaluate_json(capsys, *words, "--robustness")


def test_images_with_a_copy_in_training_are_not_clean(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = next((workplace / "archive/train/happy").iterdir())
    shutil.copy(original, workplace / "archive/test/happy/PrivateTest_99.png")
    content = evaluate_json(capsys, "--model", "tiny", "--data", "archive", "--no-report")
    every, clean = content["all"], content["clean"]
    assert isinstance(every, dict)
    assert isinstance(clean, dict)
    assert (every["count"], clean["count"]) == (15, 14)


def test_train_and_data_without_train_have_no_clean_figures(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "tiny", "--data", "archive", "--no-report")
    assert evaluate_json(capsys, *words, "--split", "train")["clean"] is None
    shutil.rmtree(workplace / "archive/train")
    assert run(*words, "--json") == EXIT_DONE
    written = capsys.readouterr()
    assert json.loads(written.out)["clean"] is None
    assert "no figures on clean images" in written.err


def test_tta_changes_the_figures_and_the_batch_size_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--model", "tiny", "--data", "archive", "--no-report")
    plain = evaluate_json(capsys, *words)
    other = evaluate_json(capsys, *words, "--batch-size", "3")
    augmented = evaluate_json(capsys, *words, "--tta")
    assert plain["all"] == other["all"] != augmented["all"]
    assert augmented["command"] == "mien evaluate --model tiny --data archive --split test --tta"


@pytest.mark.parametrize("model", ["outputs/first", "outputs/first/export"])
def test_the_report_of_a_run_goes_into_the_run_with_its_curves(
    workplace: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    folder = workplace / "outputs/first"
    shutil.copytree(workplace / "tiny", folder / "export")
    (folder / "config.toml").write_text("")
    (folder / "history.csv").write_text("epoch,loss\n1,1.9\n2,1.5\n")
    evaluate_json(capsys, "--model", model, "--data", "archive")
    assert (folder / "report/curves.png").is_file()


def test_a_run_that_was_not_exported_is_an_error_with_the_next_step(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workplace / "outputs/first").mkdir(parents=True)
    (workplace / "outputs/first/config.toml").write_text("")
    assert run("--model", "outputs/first", "--data", "archive") == EXIT_MODEL
    assert "mien export" in capsys.readouterr().err


def test_pages_are_updated_and_the_release_report_is_written(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = workplace / "README.md"
    page.write_text("# Title\n\n" + MARKS.format("results") + MARKS.format("per-class"))
    words = ("--model", "tiny", "--data", "archive")
    evaluate_json(capsys, *words, "--split", "val")
    evaluate_json(capsys, *words, "--update", "README.md", "--release")
    text = page.read_text()
    assert "| val, all 14 " in text
    assert "| test, all 14 " in text
    assert "tiny 0.0.1 on test:\n" in text
    assert (workplace / "report.txt").read_text() == (
        workplace / "outputs/tiny/report/report.txt"
    ).read_text()
    images = {path.name for path in (workplace / "images").iterdir()}
    assert images == {"confusion.png", "per_class.png", "reliability.png"}


def test_reports_do_not_contain_names_of_outside_folders(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = workplace.parent / "secret"
    shutil.move(workplace / "archive", secret / "faces")
    content = evaluate_json(capsys, "--model", "tiny", "--data", str(secret / "faces"))
    assert content["data"] == "faces"
    for path in Path("outputs/tiny/report").rglob("*.*"):
        assert b"secret" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "tiny"], EXIT_USAGE, "--data --pictures"),
        (["--data", "archive", "--pictures", "x"], EXIT_USAGE, "not allowed with"),
        (["--data", "archive", "--batch-size", "0"], EXIT_USAGE, "--batch-size"),
        (["--data", "archive", "--seed", "-1"], EXIT_USAGE, "--seed"),
        (["--pictures", "archive", "--map", "a=b"], EXIT_USAGE, "--map is for --data"),
        (["--data", "archive", "--map", "bored=x"], EXIT_USAGE, "no class 'bored'"),
        (["--data", "archive", "--no-report", "--release"], EXIT_USAGE, "--no-report"),
        (["--data", "archive", "--release", "--tta"], EXIT_USAGE, "--release"),
        (["--data", "archive", "--release", "--split", "val"], EXIT_USAGE, "--release"),
        (
            ["--pictures", "archive", "--min-face", "-1"],
            EXIT_USAGE,
            "expected a whole number from 0",
        ),
        (["--data", "archive", "--min-face", "9"], EXIT_USAGE, "--min-face finds faces in photos"),
        (["--data", "archive", "--align", "on"], EXIT_USAGE, "--align finds faces in photos"),
        (["--data", "archive", "--thorough"], EXIT_USAGE, "--thorough finds faces in photos"),
        (["--data", "archive", "--max-faces", "1"], EXIT_USAGE, "--max-faces is for --pictures"),
        (["--pictures", "archive", "--tta"], EXIT_USAGE, "--tta is for --data"),
        (["--data", "archive", "--update", "none.md"], EXIT_INPUT, "none.md"),
        (["--data", "archive", "--update", "empty.md"], EXIT_INPUT, "no section"),
        (["--data", "nowhere"], EXIT_INPUT, "nowhere"),
        (["--model", "nothing", "--data", "archive"], EXIT_MODEL, "nothing"),
        (["--data", ""], EXIT_INPUT, "the name after --data or --pictures is empty: give"),
        (["--pictures", ""], EXIT_INPUT, "the name after --data or --pictures is empty: give"),
        (["--pictures", "nowhere"], EXIT_INPUT, "no folder nowhere"),
        (["--pictures", "blank"], EXIT_INPUT, "no pictures in blank: put photos of faces there"),
    ],
)
def test_bad_calls_are_one_clear_line(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    message: str,
) -> None:
    (workplace / "empty.md").write_text("# Nothing marked\n")
    (workplace / "blank").mkdir()
    model = [] if "--model" in words else ["--model", "tiny"]
    assert run(*model, *words) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (workplace / "outputs").exists()


def write_pictures(folder: Path) -> None:
    """Write a face crop for each emotion, in a folder of its name, and one of unknown emotion."""
    split = make_tiny_split("test", per_class=1)
    for image, label in zip(split.images, split.labels, strict=True):
        path = folder / EMOTIONS[label] / "me.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    Image.fromarray(split.images[0]).resize((90, 70)).save(folder / "unknown.png")


def test_pictures_become_a_grid_and_a_table(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(workplace / "ImgTest")
    words = ("--model", "tiny", "--pictures", "ImgTest", "--detector", "none")
    content = evaluate_json(capsys, *words)
    assert content["known"] == 7
    pictures = content["pictures"]
    assert isinstance(pictures, list)
    # A folder's own files come before those of the folders in it.
    assert [picture["truth"] for picture in pictures] == [None, *EMOTIONS]
    read = [picture["faces"][0]["emotion"] for picture in pictures]
    assert content["right"] == sum(np.equal(read[1:], EMOTIONS))
    folder = workplace / "outputs/tiny/pictures"
    assert (folder / "pictures.csv").read_text().count("\n") == 9
    with Image.open(folder / "pictures.png") as image:
        image.load()
    assert run(*words) == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["picture", "face", "emotion", "confidence", "true", "read"]
    assert lines[1].split()[-2:] == ["-", "-"]
    assert lines[2].split()[-2] == "angry"


def test_face_options_apply_to_pictures(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(workplace / "ImgTest")
    words = ("--model", "tiny", "--pictures", "ImgTest", "--detector", "none")
    content = evaluate_json(capsys, *words, "--min-face", "49", "--align", "off")
    pictures = content["pictures"]
    assert isinstance(pictures, list)
    # Only the enlarged one, 90 x 70 pixels, is not smaller than that.
    assert [len(picture["faces"]) for picture in pictures] == [1] + [0] * 7


def test_an_unreadable_subfolder_is_reported_with_exit_code_6(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(workplace / "ImgTest")
    barred = Input("ImgTest/mine", problem="ImgTest/mine: this folder cannot be read")
    monkeypatch.setattr(paths, "walk_folder", lambda *args: [*walk_folder(*args), barred])
    words = ("--model", "tiny", "--pictures", "ImgTest", "--detector", "none")
    assert run(*words) == EXIT_PARTIAL
    assert "mien: ImgTest/mine: this folder cannot be read\n" in capsys.readouterr().err


def test_an_unreadable_picture_is_reported_and_the_others_are_read(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(workplace / "ImgTest")
    (workplace / "ImgTest/broken.jpg").write_bytes(b"no image")
    words = ("--model", "tiny", "--pictures", "ImgTest", "--detector", "none")
    assert run(*words) == EXIT_PARTIAL
    written = capsys.readouterr()
    assert "broken.jpg" in written.err
    assert "unreadable" in written.out
    for path in (workplace / "ImgTest").rglob("*.png"):
        path.unlink()
    assert run(*words) == EXIT_INPUT


def test_robustness_is_measured_on_val_and_written(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = workplace / "README.md"
    page.write_text(MARKS.format("robustness"))
    words = ("--model", "tiny", "--data", "archive", "--robustness")
    content = evaluate_json(capsys, *words, "--update", "README.md")
    assert (content["split"], content["count"], content["tta"]) == ("val", 14, False)
    assert content["command"] == (
        "mien evaluate --model tiny --data archive --split val --robustness"
    )
    assert json.loads((workplace / "outputs/tiny/report/robustness.json").read_text()) == content
    assert "| half the resolution |" in page.read_text()
    plain = evaluate_json(
        capsys, "--model", "tiny", "--data", "archive", "--split", "val", "--no-report"
    )
    assert isinstance(plain["all"], dict)
    assert content["correct"] == plain["all"]["correct"]

    assert run(*words, "--no-report", "--tta", "--split", "test") == EXIT_DONE
    written = capsys.readouterr()
    assert written.out.startswith("tiny 0.0.1 on test with test-time augmentation, 14 images\n\n")
    assert "report" not in written.err


@pytest.mark.parametrize("extra", [["--release"], ["--seed", "1"], ["--update", "page.md"]])
def test_robustness_refuses_options_without_effect(
    workplace: Path, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    (workplace / "page.md").write_text(MARKS.format("results"))
    assert run("--model", "tiny", "--data", "archive", "--robustness", *extra) == EXIT_USAGE
    assert "robustness" in capsys.readouterr().err
    assert not (workplace / "outputs").exists()


def test_any_class_folder_is_measured_on_the_classes_of_the_model(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, emotion in (("Happiness", "happy"), ("sadness", "sad"), ("bored", "fear")):
        shutil.copytree(workplace / "archive/test" / emotion, workplace / "own" / name)
    (workplace / "own/sadness/broken.png").write_bytes(b"")
    assert run("--model", "tiny", "--data", "own", "--json") == EXIT_DONE
    written = capsys.readouterr()
    report = json.loads(written.out)
    assert report["split"] == "all"
    assert report["left_out"] == {"bored": 2}
    assert report["all"]["count"] == 4
    assert report["all"]["absent"] == ["angry", "disgust", "fear", "neutral", "surprise"]
    assert report["command"] == "mien evaluate --model tiny --data own"
    assert "excluded, as the model has no such class: bored (2 images)" in written.err
    assert "skipped sadness/broken.png: is empty" in written.err
    text = (workplace / "outputs/tiny/report/report.txt").read_text()
    assert "Evaluation of tiny 0.0.1 on all of own" in text
    assert "bored 2" in text


def test_a_class_folder_may_be_mapped_and_has_no_splits(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(workplace / "archive/test/happy", workplace / "own/grin")
    shutil.copytree(workplace / "archive/test/sad", workplace / "own/cry")
    words = ("--model", "tiny", "--data", "own", "--no-report")
    content = evaluate_json(capsys, *words, "--map", "grin=joy,cry=sad")
    every = content["all"]
    assert isinstance(every, dict)
    assert every["count"] == 4
    assert content["left_out"] == {}
    assert run(*words) == EXIT_INPUT
    assert "rename them with --map" in capsys.readouterr().err
    assert run(*words, "--map", "grin=joy", "--split", "val") == EXIT_USAGE
    assert "no splits, only classes" in capsys.readouterr().err


def remember(workplace: Path, *, per_class: int) -> None:
    """Record the first images of each class of test as training images of the tiny model."""
    test = make_tiny_split("test", per_class=2)
    first = test.take(np.arange(len(test)) % 2 < per_class)
    none = test.take(np.zeros(len(test), np.bool_))
    write_record(workplace / "tiny" / RECORD, {"train": first, "val": none})


def test_training_images_are_left_out_or_reported_separately(
    workplace: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(workplace, per_class=1)
    shutil.copytree(workplace / "archive/test", workplace / "own")
    for data in ("archive", "own"):
        words = ("--model", "tiny", "--data", data, "--json")
        assert run(*words) == EXIT_DONE
        written = capsys.readouterr()
        alone = json.loads(written.out)
        assert (alone["all"]["count"], alone["trained"]) == (7, 7)
        assert "trained on 7 of the 14 images, which are excluded" in written.err
        assert run(*words, "--include-trained") == EXIT_DONE
        both = json.loads(capsys.readouterr().out)
        assert (both["all"]["count"], both["clean"]["count"]) == (14, 7)
        assert both["clean"]["correct"] == alone["all"]["correct"]
    assert run("--model", "tiny", "--data", "archive", "--robustness", "--split", "test") == 0
    assert "trained on 7 of the 14 images" in capsys.readouterr().err


def test_a_folder_of_only_training_images_is_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remember(workplace, per_class=2)
    shutil.copytree(workplace / "archive/test", workplace / "own")
    assert run("--model", "tiny", "--data", "own") == EXIT_INPUT
    assert "trained on 14 of the 14 images; figures on these" in capsys.readouterr().err
    assert not (workplace / "outputs").exists()
    content = evaluate_json(capsys, "--model", "tiny", "--data", "own", "--include-trained")
    assert (content["with_trained"], content["clean"]) == (True, None)


def test_a_report_on_other_data_goes_next_to_the_first(
    workplace: Path, undrawn: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(workplace / "archive/test", workplace / "own")
    for place in ("a", "b"):
        write_pictures(workplace / place)
    for _ in range(2):
        assert run("--model", "tiny", "--data", "archive") == EXIT_DONE
        assert run("--model", "tiny", "--data", "own") == EXIT_DONE
        for place in ("a", "b"):
            words = ("--model", "tiny", "--pictures", place, "--detector", "none")
            assert run(*words) == EXIT_DONE
    folder = workplace / "outputs/tiny"
    assert {path.name for path in folder.iterdir()} == {
        "report",
        "report-2",
        "pictures",
        "pictures-2",
    }
    for name, data in (("report", "archive"), ("report-2", "own")):
        assert json.loads((folder / name / "report.json").read_text())["data"] == data
    capsys.readouterr()
    words = ("--model", "tiny", "--data", "own", "--output", str(folder / "report"))
    assert run(*words) == EXIT_USAGE
    assert "holds a report on another model or other data" in capsys.readouterr().err
    assert run(*words, "--force") == EXIT_DONE
    assert json.loads((folder / "report/report.json").read_text())["data"] == "own"


def test_a_model_with_other_classes_is_measured_on_a_data_set(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = workplace / "tiny" / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    manifest["labels"] = ["bad", "good", "c", "d", "e", "f", "g"]
    manifest["data"] = {"classes": {"bad": ["angry", "sad"], "good": ["happy"]}}
    path.write_text(json.dumps(manifest))
    content = evaluate_json(capsys, "--model", "tiny", "--data", "archive")
    every, clean = content["all"], content["clean"]
    assert isinstance(every, dict)
    assert isinstance(clean, dict)
    assert every["count"] == clean["count"] == 6
    assert [entry["support"] for entry in every["classes"]][:2] == [4, 2]
    assert content["left_out"] == dict.fromkeys(["disgust", "fear", "neutral", "surprise"], 2)
