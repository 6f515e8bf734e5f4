"""The kit from pack to results, and the lab's own recipes."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_maker import make_tiny_splits, write_tiny_dataset
from lab.gpu.__main__ import main
from lab.gpu.kit import Plan, adapt_recipe, run_kit, with_teachers
from lab.gpu.pack import FACES, make_pack, unpack_faces, write_faces
from mien.core.errors import DataError, InputError, UsageError
from mien.data.dataset import load_splits
from mien.data.loading import load_dataset
from mien.training.recipe import config_to_toml, load_config
from mien.training.trainer import TrainingStopped
from training_maker import tiny_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "lab/configs"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A pack of tiny data, without packages and starting weights."""
    data = write_tiny_dataset(tmp_path / "faces", per_class=4)
    make_pack(ROOT, data, tmp_path / "made", start=None, packages=())
    with zipfile.ZipFile(tmp_path / "made.zip") as archive:
        archive.extractall(tmp_path / "pack")
    return tmp_path / "pack"


def write_recipe(folder: Path, name: str, seed: int) -> Path:
    config = tiny_config(
        training_backend="torch",
        training_seed=seed,
        training_head_epochs=0,
        training_epochs=4,
        augmentation_mixup=0.2,
        augmentation_plain_epochs=2,
    )
    path = folder / f"{name}.toml"
    path.write_text(config_to_toml(config), encoding="utf-8")
    return path


# ---------------------------------------------------------------- the pack
def test_a_pack_has_the_exact_images_of_both_splits_and_the_code(
    pack: Path, tmp_path: Path
) -> None:
    unpack_faces(pack, tmp_path / "faces.npz")
    found = load_splits(tmp_path / "faces.npz")
    expected = load_dataset(tmp_path / "faces", splits=("train", "val"), cache=False)
    assert list(found) == ["train", "val"]
    for name, split in found.items():
        assert np.array_equal(split.images, expected[name].images)
        assert np.array_equal(split.labels, expected[name].labels)
        assert split.files == expected[name].files
    tests = {image.tobytes() for image in make_tiny_splits()["test"].images}
    assert tests.isdisjoint(image.tobytes() for split in found.values() for image in split.images)
    assert (pack / "lab/gpu/kit.py").is_file()
    assert (pack / "src/mien/training/model.py").is_file()
    assert not [path for path in pack.rglob("*") if path.suffix in (".png", ".jpg", ".onnx")]


def test_equal_faces_are_packed_once(tmp_path: Path) -> None:
    train = make_tiny_splits(per_class=6)["train"]
    write_faces(tmp_path / "once.npz", {"train": train})
    write_faces(tmp_path / "twice.npz", {"train": train, "val": train})
    sizes = [(tmp_path / f"{name}.npz").stat().st_size for name in ("once", "twice")]
    assert sizes[1] - sizes[0] < 0.1 * train.images.size


def test_a_pack_is_not_overwritten_and_a_missing_or_damaged_one_is_an_error(
    pack: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="exists"):
        make_pack(ROOT, tmp_path / "faces", pack, start=None, packages=())
    with pytest.raises(InputError, match=r"no pack in .* expected the folder of make lab-pack"):
        unpack_faces(tmp_path / "nothing", tmp_path / "faces.npz")
    (pack / FACES).write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="is damaged: make a new pack"):
        unpack_faces(pack, tmp_path / "faces.npz")


# ---------------------------------------------------------------- sessions
def test_a_session_stops_on_time_and_the_next_one_finishes(
    keras_ready: None, pack: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    teachers = (write_recipe(tmp_path, "first", 1), write_recipe(tmp_path, "second", 2))
    plan = Plan(teachers, (write_recipe(tmp_path, "pupil", 3),), seeds=(5, 6), scale=0.5)
    work, output = tmp_path / "work", tmp_path / "results"
    with pytest.raises(TrainingStopped, match="the time is up"):
        run_kit(plan, pack, work, output, minutes=0)
    run_kit(plan, pack, work, output, minutes=10)
    parts = [part.read_bytes() for part in sorted(output.glob("results.tar.*"))]
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        held = set(archive.getnames())
    names = ("first", "second", "pupil-5", "pupil-6")
    files = ("best.keras", "history.csv")
    assert {f"runs/{name}/{file}" for name in names for file in files} < held
    pupil = load_config(work / "runs/pupil-6/config.toml")
    assert (pupil.training.seed, pupil.total_epochs, pupil.augmentation.plain_epochs) == (6, 2, 1)
    assert [Path(teacher).name for teacher in pupil.distill.teachers] == ["first", "second"]
    assert list(json.loads((output / "report.json").read_text(encoding="utf-8"))) == list(names)


def test_missing_files_are_one_line_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--pack", str(tmp_path), "--work", str(tmp_path / "work")]
    assert main(words) == 3
    assert capsys.readouterr().err.startswith("lab: no pack in")


# ---------------------------------------------------------------- the recipes
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_trained_here(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from lab.gpu.trainer import check_recipe

    monkeypatch.setattr("lab.gpu.kit.unpack_start", lambda *_: None)
    config = adapt_recipe(load_config(path), tmp_path, tmp_path, scale=0.5)
    assert config.data.votes == ""
    check_recipe(with_teachers(config, [tmp_path / "a", tmp_path / "b"]))
    assert config.total_epochs == round(load_config(path).total_epochs / 2)
