from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from data_maker import make_tiny_splits, write_tiny_csv, write_tiny_dataset, zip_folder
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, MissingExtra, OutputError, UsageError
from mien.core.files import claim_folder
from mien.data import importing, loading
from mien.data.dataset import SPLITS, Skipped
from mien.data.importing import BY_HAND, download_dataset, import_dataset
from mien.data.loading import decode_image, load_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_dataset(tmp_path / "source", per_class=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_is_copied_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    summary = import_dataset(folder, tmp_path / "archive")
    assert contents(tmp_path / "archive") == contents(folder)
    assert summary.images == 28
    assert summary.classes["train"] == dict.fromkeys(EMOTIONS, 2)
    assert (summary.skipped, summary.resized, summary.val_from) == ((), (), "folder")


@pytest.mark.parametrize("zipped", [True, False])
def test_kaggles_layout_gets_its_val_from_the_names(tmp_path: Path, zipped: bool) -> None:
    source = write_tiny_dataset(tmp_path / "kaggle", kaggle=True)
    if zipped:
        source = zip_folder(source, tmp_path / "archive.zip")
    summary = import_dataset(source, tmp_path / "archive")
    assert summary.val_from == "names"
    names = sorted(path.name for path in (tmp_path / "archive" / "val" / "sad").iterdir())
    assert names == ["PublicTest_5000.jpg", "PublicTest_5001.jpg"]
    assert not list((tmp_path / "archive" / "test").rglob("PublicTest*"))


def test_the_csv_becomes_pngs_with_the_same_pixels(tmp_path: Path) -> None:
    source = write_tiny_csv(tmp_path / "fer2013.csv")
    summary = import_dataset(source, tmp_path / "archive")
    assert summary.val_from == "usage"
    for name, expected in make_tiny_splits(per_class=2).items():
        split = load_dataset(tmp_path / "archive")[name]
        assert np.array_equal(split.images, expected.images)
        assert np.array_equal(split.labels, expected.labels)


def test_a_random_val_is_seeded_and_stratified(tmp_path: Path) -> None:
    source = write_tiny_dataset(tmp_path / "source", per_class=10)
    shutil.rmtree(source / "val")

    def val_of(name: str, seed: int, fraction: float) -> set[str]:
        summary = import_dataset(source, tmp_path / name, seed=seed, val_fraction=fraction)
        assert summary.val_from == "random"
        assert summary.classes["val"] == dict.fromkeys(EMOTIONS, round(fraction * 10))
        assert summary.images == 10 * 7 + 5 * 7
        return set(contents(tmp_path / name / "val"))

    assert val_of("a", 0, 0.2) == val_of("b", 0, 0.2)
    assert val_of("c", 1, 0.2) != val_of("d", 0, 0.2)
    assert val_of("e", 0, 0.2) < val_of("f", 0, 0.4)


def test_unusable_files_are_listed_and_not_copied(folder: Path, tmp_path: Path) -> None:
    sad = folder / "train" / "sad"
    (sad / "cut.png").write_bytes((sad / "Training_5000.png").read_bytes()[:-9])
    (sad / "fake.jpg").write_bytes(b"text")
    (folder / "train" / "hapy").mkdir()
    (folder / "train" / "hapy" / "x.png").write_bytes(b"")
    summary = import_dataset(folder, tmp_path / "archive")
    assert {item.file for item in summary.skipped} == {
        "train/sad/cut.png",
        "train/sad/fake.jpg",
        "train/hapy/x.png",
    }
    assert summary.images == 28
    assert len(contents(tmp_path / "archive")) == 28


def test_images_of_another_size_are_copied_unchanged_and_listed(
    folder: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(folder / "train" / "sad" / "large.png"), np.zeros((90, 70), np.uint8))
    summary = import_dataset(folder, tmp_path / "archive")
    assert summary.resized == ("train/sad/large.png",)
    assert contents(tmp_path / "archive") == contents(folder)


def test_a_zip_never_writes_outside(folder: Path, tmp_path: Path) -> None:
    path = zip_folder(folder, tmp_path / "d.zip")
    image = (folder / "train" / "sad" / "Training_5000.png").read_bytes()
    outside = [
        "../train/sad/a.png",
        f"{tmp_path.as_posix()}/train/sad/b.png",
        "train/sad/../../c.png",
    ]
    with zipfile.ZipFile(path, "a") as archive:
        for name in outside:
            archive.writestr(name, image)
    inner = tmp_path / "deep" / "archive"
    before = set(contents(tmp_path))
    summary = import_dataset(path, inner)
    assert {item.file for item in summary.skipped} == set(outside)
    assert set(contents(tmp_path)) - before == {f"deep/archive/{name}" for name in contents(folder)}


def test_a_class_missing_from_train_imports_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "happy").rename(folder / "train" / "hapy")
    with pytest.raises(DataError, match=r"no usable image of happy in train; nothing was imported"):
        import_dataset(folder, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_a_source_without_images_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("fer2013.csv", "emotion,pixels,Usage")
    with pytest.raises(DataError, match=r"no usable image of .*; nothing was imported: expected"):
        import_dataset(empty, tmp_path / "archive")


def test_an_existing_data_set_is_replaced_only_with_force(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    old = write_tiny_dataset(archive, per_class=3, seed=9)
    (archive / "README.md").write_text("what goes in", encoding="utf-8")
    before = contents(old)
    with pytest.raises(UsageError, match="--force to replace it"):
        import_dataset(folder, archive)
    assert contents(archive) == before
    import_dataset(folder, archive, force=True)
    assert contents(archive) == {**contents(folder), "README.md": b"what goes in"}


class Stop(KeyboardInterrupt):
    """As if the user pressed Ctrl-C."""


def stop_while_copying(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [0]

    def decode(data: bytes) -> object:
        calls[0] += 1
        if calls[0] == 20:
            raise Stop
        return decode_image(data)

    monkeypatch.setattr(loading, "decode_image", decode)


def stop_while_moving(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target.name == "train" and self.parent.name == "new":
            raise Stop
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)


@pytest.mark.parametrize("stop", [stop_while_copying, stop_while_moving])
@pytest.mark.parametrize("replacing", [True, False])
def test_an_interruption_changes_nothing(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[pytest.MonkeyPatch], None],
    replacing: bool,
) -> None:
    archive = tmp_path / "archive"
    if replacing:
        write_tiny_dataset(archive, per_class=1, seed=4)
    before = contents(tmp_path)
    stop(monkeypatch)
    with pytest.raises(Stop):
        import_dataset(folder, archive, force=True)
    assert contents(tmp_path) == before
    assert archive.exists() == replacing


@pytest.mark.parametrize("replacing", [True, False])
def test_train_never_exists_while_another_split_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool
) -> None:
    archive = tmp_path / "archive"
    if replacing:
        write_tiny_dataset(archive, per_class=1, seed=4)
    real, seen = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        moved = real(self, target)
        seen.append({name for name in SPLITS if (archive / name).exists()})
        return moved

    monkeypatch.setattr(Path, "rename", rename)
    import_dataset(folder, archive, force=True)
    assert len(seen) == (6 if replacing else 3)
    assert all("train" not in there for there in seen[:-1])
    assert seen[-1] == set(SPLITS)


def photographed(
    archive: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, fail_at: int | None = None
) -> list[Path]:
    """Import, and return copies of the archive before each rename, as a kill would leave it.

    With ``fail_at``, that rename and all later ones fail.
    """
    real, remove = Path.rename, shutil.rmtree
    copies: list[Path] = []

    def rename(self: Path, target: Path) -> Path:
        copies.append(archive.with_name(f"kill{len(copies)}"))
        shutil.copytree(archive, copies[-1])
        if fail_at is not None and len(copies) > fail_at:
            raise OSError(5, "Input/output error")
        return real(self, target)

    def rmtree(path: Path, *, ignore_errors: bool = False) -> None:
        copies.append(archive.with_name(f"kill{len(copies)}"))
        shutil.copytree(archive, copies[-1])
        remove(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        patched.setattr(shutil, "rmtree", rmtree)
        if fail_at is None:
            import_dataset(folder, archive, force=True)
        else:
            with pytest.raises(OutputError, match="Input/output error"):
                import_dataset(folder, archive, force=True)
    return copies


@pytest.mark.parametrize("replacing", [True, False])
def test_an_import_that_was_killed_while_moving_is_finished_by_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replacing: bool
) -> None:
    archive = tmp_path / "archive"
    if replacing:
        write_tiny_dataset(archive, per_class=1, seed=4)
    old = contents(archive)
    killed = photographed(archive, folder, monkeypatch)
    new = contents(archive)
    assert old != new
    assert len(killed) == (7 if replacing else 4)
    for place in killed:
        # One that is refused at once, for there is a data set.
        with pytest.raises(UsageError, match="already exists"):
            import_dataset(folder, place)
        assert contents(place) == new


@pytest.mark.parametrize("fail_at", range(6))
def test_splits_that_cannot_even_be_moved_back_are_kept_for_the_next_import(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    archive = tmp_path / "archive"
    write_tiny_dataset(archive, per_class=1, seed=4)
    old = contents(archive)
    photographed(archive, folder, monkeypatch, fail_at=fail_at)
    with pytest.raises(UsageError, match="already exists"):
        import_dataset(folder, archive)
    new = import_dataset(folder, tmp_path / "other").output
    assert contents(archive) in (old, contents(new))


def test_a_file_name_that_cannot_be_written_is_skipped(tmp_path: Path, folder: Path) -> None:
    path = zip_folder(folder, tmp_path / "long.zip")
    with zipfile.ZipFile(path, "a") as archive:
        content = archive.read(archive.namelist()[0])
        archive.writestr(f"train/sad/{'x' * 300}.png", content)
    summary = import_dataset(path, tmp_path / "archive")
    assert [skipped.reason for skipped in summary.skipped] == [
        "has a name that this system cannot write"
    ]
    assert summary.images == 28


def test_files_of_a_killed_import_are_no_data_set_and_are_removed(
    folder: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    write_tiny_dataset(archive / ".importing-123" / "new", per_class=1)
    with pytest.raises(DataError, match="no images"):
        load_dataset(archive)
    import_dataset(folder, archive)
    assert sorted(path.name for path in archive.iterdir()) == ["test", "train", "val"]


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("replacing", [True, False])
@pytest.mark.parametrize("moment", ["copying", "moving"])
def test_a_simultaneous_import_is_refused_without_effect_on_the_first(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    replacing: bool,
    force: bool,
) -> None:
    archive = tmp_path / "archive"
    if replacing:
        write_tiny_dataset(archive, per_class=1, seed=4)
    real_decode, real_rename = decode_image, Path.rename
    refused: list[str] = []

    def second() -> None:
        if len(refused) < 3:
            refused.append("")
            with pytest.raises(UsageError) as error:
                import_dataset(folder, archive, force=force)
            refused[-1] = str(error.value)

    def decode(data: bytes) -> object:
        if moment == "copying":
            second()
        return real_decode(data)

    def rename(self: Path, target: Path) -> Path:
        if moment == "moving":
            second()
        return real_rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(loading, "decode_image", decode)
        patched.setattr(Path, "rename", rename)
        import_dataset(folder, archive, force=True)
    assert len(refused) == 3
    assert all(text.startswith("another process is writing") for text in refused)
    assert contents(archive) == contents(folder)
    assert sorted(path.name for path in archive.iterdir()) == ["test", "train", "val"]


def test_an_import_that_just_ended_is_not_replaced_without_force(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    real = claim_folder

    def claimed(path: Path) -> object:
        write_tiny_dataset(archive, per_class=1, seed=4)
        return real(path)

    monkeypatch.setattr(importing, "claim_folder", claimed)
    with pytest.raises(UsageError, match="already exists"):
        import_dataset(folder, archive)
    assert len(contents(archive)) == 21


def test_a_full_disk_is_one_error_and_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path, __: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cannot write the data set to .*: No space left"):
        import_dataset(folder, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links take rights there")
def test_the_source_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "archive"
    import_dataset(folder, output)
    before = contents(output)
    inside = write_tiny_csv(output / "train" / "fer2013.csv")
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in SPLITS:
        (linked / name).symlink_to(output / name)
    beside = zip_folder(folder, output / "d.zip")
    for source in (inside, output / "train", linked):
        with pytest.raises(UsageError, match="into itself"):
            import_dataset(source, output, force=True)
    inside.unlink()
    # What only lies beside is not touched.
    import_dataset(beside, output, force=True)
    assert beside.exists()
    beside.unlink()
    assert contents(output) == before


@pytest.mark.skipif(sys.platform == "win32", reason="links take rights there")
def test_importing_into_a_split_of_the_source_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (folder / "train").rename(tmp_path / "elsewhere")
    (folder / "Training").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    for output in (
        "elsewhere",
        "elsewhere/new",
        f"{folder.name}/Training",
        "linked/../elsewhere/a",
    ):
        with pytest.raises(UsageError, match="in a split of"):
            import_dataset(folder, tmp_path / output, force=True)
    inner = tmp_path / folder.name / "val" / "new"
    with pytest.raises(UsageError, match="in a split of"):
        import_dataset(tmp_path, inner)
    assert contents(tmp_path) == before
    import_dataset(folder, folder / "new")


def test_a_file_in_the_way_and_the_source_itself_are_refused(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    with pytest.raises(UsageError, match="is a file"):
        import_dataset(folder, file)
    with pytest.raises(UsageError, match="into itself"):
        import_dataset(folder, folder, force=True)


@pytest.mark.parametrize("fraction", [-0.1, 0.6, float("nan")])
def test_a_val_fraction_out_of_range_is_refused(folder: Path, fraction: float) -> None:
    with pytest.raises(UsageError, match=r"from 0 to 0\.5"):
        import_dataset(folder, folder.parent / "archive", val_fraction=fraction)


def test_skipped_rows_of_the_csv_are_in_the_summary(tmp_path: Path) -> None:
    source = write_tiny_csv(tmp_path / "fer2013.csv")
    with source.open("a", encoding="utf-8") as text:
        text.write("9,1 2 3,Training\n")
    summary = import_dataset(source, tmp_path / "archive")
    assert summary.skipped == (Skipped("row 29", "emotion '9' is not a code from 0 to 6"),)


class UnauthenticatedError(Exception):
    """kagglehub's own."""


class HTTPError(OSError):
    """requests' own, with its answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for url ...\n\nlong\ntext")
        self.response = SimpleNamespace(status_code=status)


def put_kagglehub(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> list[str]:
    """Stand in for kagglehub: the network is not for tests. Return what it is asked for."""
    handles: list[str] = []

    def dataset_download(handle: str) -> str:
        handles.append(handle)
        print("Downloading ...")
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("kagglehub")
    module.dataset_download = dataset_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return handles


def test_kagglehubs_folder_is_returned_and_stdout_stays_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handles = put_kagglehub(monkeypatch, str(tmp_path))
    assert download_dataset() == tmp_path
    assert handles == ["msambare/fer2013"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            type("ConnectionError", (OSError,), {})("Max retries\nexceeded"),
            "no connection to Kaggle",
        ),
        (type("ReadTimeout", (OSError,), {})(), "no connection to Kaggle"),
        (UnauthenticatedError("log in"), "Kaggle asks for a credential"),
        (HTTPError(403), "Kaggle asks for a credential"),
        (HTTPError(503), "Kaggle answered 503"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError(), "(ValueError)"),
    ],
)
def test_a_failed_download_is_one_line_with_manual_instructions(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    put_kagglehub(monkeypatch, error)
    with pytest.raises(DataError) as caught:
        download_dataset()
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert message.endswith(BY_HAND)
    assert caught.value.exit_code == 3


def test_without_kagglehub_the_extra_and_manual_instructions_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MissingExtra) as caught:
        download_dataset()
    assert "pip install 'mien[train]'" in str(caught.value)
    assert BY_HAND in str(caught.value)
