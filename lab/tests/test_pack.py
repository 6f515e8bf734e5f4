from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_maker import make_tiny_splits, write_tiny_dataset
from lab.gpu.pack import DATA_NAME, make_pack, read_faces, write_faces
from lab.tests.kit_maker import ROOT, write_pack
from mien.core.errors import DataError, UsageError
from mien.data.loading import load_dataset


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))


def test_a_pack_holds_the_images_labels_and_names_of_training_and_public_test(
    tmp_path: Path,
) -> None:
    pack = write_pack(tmp_path)
    splits = read_faces(pack / DATA_NAME)
    expected = load_dataset(tmp_path / "faces", splits=("train", "val"), cache=False)
    assert list(splits) == ["train", "val"]
    for name, split in splits.items():
        assert np.array_equal(split.images, expected[name].images)
        assert np.array_equal(split.labels, expected[name].labels)
        assert split.files == expected[name].files


def test_private_test_is_not_packed(tmp_path: Path) -> None:
    pack = write_pack(tmp_path)
    tests = {image.tobytes() for image in make_tiny_splits()["test"].images}
    packed = [
        image.tobytes() for split in read_faces(pack / DATA_NAME).values() for image in split.images
    ]
    assert tests.isdisjoint(packed)
    assert not [path for path in pack.rglob("*") if path.suffix in (".png", ".jpg", ".onnx")]


def test_a_pack_holds_the_code(tmp_path: Path) -> None:
    pack = write_pack(tmp_path)
    assert (pack / "lab/gpu/kit.py").is_file()
    modules = {path.relative_to(ROOT) for path in (ROOT / "src/mien").rglob("*.py")}
    assert {path.relative_to(pack) for path in (pack / "src/mien").rglob("*.py")} == modules
    assert (pack / "lab/configs/plan.toml").is_file()
    assert (pack / "Makefile").is_file()


def test_equal_faces_are_kept_once(tmp_path: Path) -> None:
    splits = make_tiny_splits(per_class=6)
    write_faces(tmp_path / "once.npz", splits, limit=10**7)
    twice = {"train": splits["train"], "val": splits["train"]}
    write_faces(tmp_path / "twice.npz", twice, limit=10**7)
    once = write_faces(tmp_path / "train.npz", {"train": splits["train"]}, limit=10**7)
    assert once == "lossless"
    assert np.array_equal(read_faces(tmp_path / "twice.npz")["val"].images, splits["train"].images)
    more = (tmp_path / "twice.npz").stat().st_size - (tmp_path / "train.npz").stat().st_size
    assert more < 0.1 * splits["train"].images.size


def test_what_does_not_fit_becomes_jpeg_and_then_is_refused(tmp_path: Path) -> None:
    splits = make_tiny_splits(per_class=40)
    path = tmp_path / "faces.npz"
    write_faces(path, splits, limit=10**9)
    lossless = path.stat().st_size
    kind = write_faces(path, splits, limit=int(0.9 * lossless))
    assert kind == "JPEG 95"
    assert path.stat().st_size <= 0.9 * lossless
    for name, split in read_faces(path).items():
        difference = split.images.astype(int) - splits[name].images
        assert np.abs(difference).mean() < 4
    with pytest.raises(UsageError, match=r"MB as JPEG 92, and 0\.1 MB are left: raise the limit"):
        write_faces(path, splits, limit=100_000)


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    data = write_tiny_dataset(tmp_path / "faces")
    with pytest.raises(UsageError, match="holds other things"):
        make_pack(ROOT, data, tmp_path / "faces", packages=(), start=False)
    assert (data / "train").is_dir()


def test_a_damaged_pack_is_said(tmp_path: Path) -> None:
    path = tmp_path / "faces.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=r"faces\.npz is damaged"):
        read_faces(path)
