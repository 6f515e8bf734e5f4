"""Which files commands may write: no input, and of existing files only those by mien."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.cli.paths import check_target_folder, check_targets
from mien.core.errors import UsageError
from mien.core.file_types import OUTPUT_VIDEO_SUFFIXES
from mien.core.images import write_picture
from mien.core.models import MANIFEST_NAME, MODEL_NAME
from mien.video.frames import VideoFrame, Window
from mien.video.writer import write_annotated
from predict_maker import Predict
from video_maker import even_times, write_video


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Work in a folder with ``photos/a.png``; return that file's bytes."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    Path("photos").mkdir()
    Image.fromarray(pixels).save("photos/a.png")
    return Path("photos/a.png").read_bytes()


def refused(path: str, *reads: str, force: bool | None = None) -> str:
    """Return the message with which a target is rejected."""
    with pytest.raises(UsageError) as error:
        check_targets([("--output", Path(path))], reads=reads, force=force)
    assert "\n" not in str(error.value)
    return str(error.value)


def taken(path: str, *reads: str, force: bool | None = None) -> None:
    check_targets([("--output", Path(path))], reads=reads, force=force)


# Inputs


def links() -> list[str]:
    os.link("photos/a.png", "hard.png")
    Path("soft.png").symlink_to("photos/a.png")
    Path("elsewhere").symlink_to("photos")
    return ["hard.png", "soft.png", "elsewhere/a.png"]


@pytest.mark.parametrize("force", [True, False, None])
@pytest.mark.parametrize("reads", ["photos/a.png", "photos", "photos/*.png", "photos/**"])
def test_an_input_is_never_overwritten_under_any_path(reads: str, force: bool | None) -> None:
    spelt = ["photos/a.png", "./photos/a.png", "photos/../photos/a.png", "photos/a.png/"]
    for path in [*spelt, str(Path("photos/a.png").resolve()), *links()]:
        assert "would overwrite" in refused(path, reads, force=force)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no files by their number here")
def test_an_input_is_recognized_by_its_open_descriptor() -> None:
    with Path("photos/a.png").open("rb") as file:
        path = f"/proc/self/fd/{file.fileno()}"
        assert "would overwrite" in refused(path, "photos/a.png", force=True)
        assert "would overwrite" in refused("photos/a.png", path, force=True)


def test_an_input_on_standard_input_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("photos/a.png").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        assert "would overwrite" in refused("photos/a.png", "-", force=True)
        taken("photos/a.png", force=True)


def test_the_target_of_a_link_in_an_input_folder_is_protected() -> None:
    Path("far").mkdir()
    Path("photos/a.png").rename("far/b.png")
    Path("photos/link.png").symlink_to("../far/b.png")
    assert "would overwrite" in refused("far/b.png", "photos", force=True)


# Among inputs


@pytest.mark.parametrize(
    ("path", "reads"),
    [
        ("photos/new.png", "photos"),
        ("photos/sub/deeper/new.JPG", "photos"),
        ("photos/../photos/new.webp", "./photos/"),
        ("photos/new.png", "photos/*.png"),
        ("photos/sub/new.png", "photos/**/*.png"),
        ("photos/sub/new.png", "photos/**"),
        ("photos/new.png", "phot?s/*"),
    ],
)
def test_pictures_are_not_written_into_input_folders(path: str, reads: str) -> None:
    assert "among the inputs" in refused(path, reads, force=True)


def test_pictures_are_not_written_into_linked_input_folders() -> None:
    Path("far").mkdir()
    Path("photos/a.png").rename("far/b.png")
    Path("photos/sub").symlink_to("../far")
    assert "among the inputs" in refused("far/new.png", "photos")


@pytest.mark.parametrize(
    ("path", "reads"),
    [
        ("photos/results.csv", "photos"),
        ("photos/new.jpg", "photos/*.png"),
        ("photos/annotated/new.png", "photos/*.png"),
        ("photos/new.png", "photos/a.png"),
        ("photos2/new.png", "photos"),
        ("new.png", "photos/**"),
    ],
)
def test_files_that_the_next_run_would_not_read_may_be_written(path: str, reads: str) -> None:
    taken(path, reads)


# Existing files


OURS = {
    "one.json": b'{\n  "schema": "mien/1",\n',
    "list.json": b'[\n  {\n    "schema": "mien/1",\n',
    "video.json": b'{\n  "schema": "mien-video/1",\n',
    "lines.jsonl": b'{"schema": "mien/1", "source": "a.jpg"}\n',
    "table.csv": b"source,frame,time_s,face_id,track_id,status,x,y\n",
    "table.txt": b"IMAGE  FACE  EMOTION  CONFIDENCE\n",
    "episodes.txt": b"a.mp4\nPERSON  FROM  TO  EMOTION\n",
    "nobody.txt": b"nobody was seen\n",
    "nothing.json": b"",
    "no-results.json": b"[]\n",
    "report.md": b"# Evaluation of mien-b0 1.0.0 on test\n",
}
OTHERS = {
    "notes.json": b'{"schema": "mine/1"}',
    "model.json": b'{\n  "schema": "mien-model/1",\n',
    "quoted.json": b'"a note about {\\"schema\\": \\"mien/1\\"}"',
    "sales.csv": b"source,amount\nshop,3\n",
    "list.txt": b"milk\n",
    "IMAGE.txt": b"IMAGES OF FACES\n",
    "zeros.parquet": b"\0" * 100,
}
# Written by --compat or by the other tools.
EITHERS = {
    "deepface.json": b'[\n  {\n    "emotion": {\n',
    "fer.jsonl": b'[]\n[{"box": [1, 2, 3, 4]}]\n',
    "detector.json": b'{"box": [1, 2, 3, 4], "score": 0.9}',
    "emotions.json": b'{"emotion": {"happy": 98.1}}',
}


@pytest.mark.parametrize("name", OURS)
def test_files_by_mien_may_be_replaced(name: str) -> None:
    Path(name).write_bytes(OURS[name])
    taken(name, "photos")


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_replaced_only_with_force(name: str) -> None:
    Path(name).write_bytes(OTHERS[name])
    assert refused(name, "photos", force=False).endswith("or --force to replace it")
    assert "--force" not in refused(name, "photos")
    taken(name, "photos", force=True)


@pytest.mark.parametrize("name", EITHERS)
def test_files_that_may_be_another_tools_are_replaced_only_with_force(name: str) -> None:
    Path(name).write_bytes(EITHERS[name])
    message = refused(name, "photos", force=False)
    assert "may be another tool's, judged by its form: " in message
    assert message.endswith("or --force to replace it")
    taken(name, "photos", force=True)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_pictures_by_mien_are_recognized(suffix: str) -> None:
    picture = Image.new("RGB", (8, 8))
    write_picture(picture, Path("ours" + suffix))
    picture.save("theirs" + suffix)
    taken("ours" + suffix)
    assert "did not write it" in refused("theirs" + suffix)


def test_folders_and_devices_pass_the_check() -> None:
    taken(".", "photos")
    taken(os.devnull, "photos")


def test_unreadable_files_count_as_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("closed.json").write_bytes(b"[]")

    def closed(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "open", closed)
    assert "did not write it" in refused("closed.json")


def test_two_options_cannot_write_the_same_file() -> None:
    Path("link").symlink_to("photos")
    for one, two in (("r.json", "./r.json"), ("photos/r.json", "link/r.json"), ("r", "R")):
        with pytest.raises(UsageError, match="--output and --episodes would both write"):
            check_targets([("--output", Path(one)), ("--episodes", Path(two))], reads=[])


def test_one_file_by_mien_makes_its_whole_set_replaceable() -> None:
    names = ("report.json", "figure.png")
    Path("figure.png").write_bytes(b"\0")
    with pytest.raises(UsageError, match=r"figure.png already exists"):
        check_target_folder("--output", Path(), names, reads=[])
    Path("report.json").write_text('{"schema": "mien-report/1"}')
    check_target_folder("--output", Path(), names, reads=[])
    with pytest.raises(UsageError, match="would overwrite"):
        check_target_folder("--output", Path(), names, reads=["figure.png"])


@pytest.mark.parametrize("suffix", OUTPUT_VIDEO_SUFFIXES)
def test_annotated_videos_are_recognized(suffix: str) -> None:
    write_video(Path("theirs" + suffix), even_times(3))
    assert "did not write it" in refused("theirs" + suffix)
    with write_annotated(Path("ours" + suffix), None, window=Window()) as video:
        frame = np.zeros((48, 64, 3), np.uint8)
        for number in range(3):
            video.write(VideoFrame(number, number / 25, lambda: frame), ())
    taken("ours" + suffix)


# Commands


def test_predict_overwrites_no_input(predict: Predict, photo: bytes, tiny_model: Path) -> None:
    manifest = (tiny_model / MANIFEST_NAME).read_bytes()
    for arguments in (
        ("photos/a.png", "--format", "json", "--output", "soft"),
        ("photos/a.png", "--output", str(tiny_model / MANIFEST_NAME)),
        ("photos", "--annotate", "photos"),
        ("photos", "--annotate", "photos/annotated"),
        ("photos/*", "--annotate", "photos"),
    ):
        Path("soft").unlink(missing_ok=True)
        Path("soft").symlink_to("photos/a.png")
        outcome = predict(*arguments, "--force")
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.count("\n") == 1
    assert Path("photos/a.png").read_bytes() == photo
    assert (tiny_model / MANIFEST_NAME).read_bytes() == manifest
    assert [path.name for path in Path("photos").iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["r.json", "r.jsonl", "r.csv", "r.txt", "r.parquet"])
def test_predict_replaces_its_own_output(predict: Predict, name: str) -> None:
    for _ in range(2):
        assert predict("photos", "--output", name).code == 0
    Path(name).write_bytes(b"mine")
    outcome = predict("photos", "--output", name)
    assert outcome.code == 2
    assert "did not write it" in outcome.err
    assert Path(name).read_bytes() == b"mine"
    assert predict("photos", "--output", name, "--force").code == 0
    assert Path(name).read_bytes() != b"mine"


@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
@pytest.mark.parametrize("tool", ["deepface", "fer"])
def test_compat_output_is_replaced_only_with_force(predict: Predict, tool: str, name: str) -> None:
    arguments = ("photos", "--compat", tool, "--output", name)
    assert predict(*arguments).code == 0
    before = Path(name).read_bytes()
    for again in (arguments, ("photos", "--output", name)):
        outcome = predict(*again)
        assert outcome.code == 2
        assert "may be another tool's, judged by its form" in outcome.err
        assert Path(name).read_bytes() == before
        assert predict(*arguments, "--force").code == 0


def test_only_annotated_pictures_by_mien_are_replaced(predict: Predict) -> None:
    for _ in range(2):
        assert predict("photos", "--annotate", "drawn").code == 0
    Image.new("RGB", (8, 8)).save("drawn/a.annotated.png")
    outcome = predict("photos", "--annotate", "drawn")
    assert outcome.code == 2
    assert "drawn/a.annotated.png already exists" in outcome.err.replace("\\", "/")
    assert predict("photos", "--annotate", "drawn", "--force").code == 0


def test_an_annotated_picture_that_is_read_again_is_kept(predict: Predict) -> None:
    assert predict("photos/a.png", "--annotate", "photos").code == 0
    drawn = Path("photos/a.annotated.png").read_bytes()
    outcome = predict("photos/a.png", "photos/a.annotated.png", "--annotate", "photos")
    assert outcome.code == 2
    assert "would overwrite" in outcome.err
    assert Path("photos/a.annotated.png").read_bytes() == drawn


def test_the_network_of_a_model_is_never_overwritten(predict: Predict, tiny_model: Path) -> None:
    before = (tiny_model / MODEL_NAME).read_bytes()
    path = str(tiny_model / MODEL_NAME)
    assert predict("photos", "--format", "csv", "--output", path, "--force").code == 2
    assert (tiny_model / MODEL_NAME).read_bytes() == before


def test_a_video_is_never_overwritten_but_its_results_are(predict: Predict, tmp_path: Path) -> None:
    write_video(Path("clip.mp4"), even_times(3))
    before = Path("clip.mp4").read_bytes()
    Path("drawn.mp4").symlink_to("clip.mp4")
    for target in ("clip.mp4", "drawn.mp4", str(tmp_path / "clip.mp4")):
        outcome = predict("clip.mp4", "--annotate", target, "--force")
        assert outcome.code == 2
        assert "--annotate would overwrite" in outcome.err
    assert Path("clip.mp4").read_bytes() == before
    arguments = ("--annotate", "out", "--timeline", "t.png", "--episodes", "e.json")
    for shape in ("csv", "csv", "json", "json", "parquet", "parquet", "txt", "txt"):
        assert predict("clip.mp4", *arguments, "--output", f"r.{shape}").code == 0
    outcome = predict("clip.mp4", "--output", "e.json", "--episodes", "./e.json")
    assert "--output and --episodes would both write e.json" in outcome.err
