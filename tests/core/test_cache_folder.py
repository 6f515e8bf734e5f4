from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from mien.core.errors import ModelError, OutputError
from mien.core.files import (
    PinnedFile,
    cache_folder,
    fetch,
    read_verified,
    redirect_library_caches,
    write_obstacle,
)

CONTENT = b"weights of a detector"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MIEN_HOME", str(folder))
    return folder


@pytest.fixture
def pinned(tmp_path: Path) -> PinnedFile:
    """A file to download; it is fetched by the same code, from a file:// address."""
    origin = tmp_path / "origin.onnx"
    origin.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return PinnedFile("weights.onnx", origin.as_uri(), digest, len(CONTENT))


def test_mien_home_comes_first(cache: Path) -> None:
    assert cache_folder() == cache


def test_default_is_the_platform_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MIEN_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, expected in {
        "linux": tmp_path / "xdg" / "mien",
        "win32": tmp_path / "local" / "mien" / "Cache",
        "darwin": Path.home() / "Library" / "Caches" / "mien",
    }.items():
        monkeypatch.setattr("sys.platform", platform)
        assert cache_folder() == expected


def test_lookup_creates_no_folder(cache: Path) -> None:
    cache_folder()
    assert not cache.exists()


def test_a_file_is_fetched_once(cache: Path, pinned: PinnedFile, tmp_path: Path) -> None:
    path = fetch(pinned)
    assert path == cache / "weights.onnx"
    assert read_verified(pinned, path) == CONTENT
    assert [entry.name for entry in cache.iterdir()] == ["weights.onnx"]
    (tmp_path / "origin.onnx").unlink()
    assert fetch(pinned) == path
    assert fetch(pinned, offline=True) == path


def test_a_damaged_copy_is_fetched_again(cache: Path, pinned: PinnedFile) -> None:
    cache.mkdir()
    (cache / "weights.onnx").write_bytes(b"half")
    with pytest.raises(ModelError, match="does not match its hash"):
        fetch(pinned, offline=True)
    assert fetch(pinned).read_bytes() == CONTENT


def test_offline_never_downloads(cache: Path, pinned: PinnedFile) -> None:
    with pytest.raises(ModelError, match="by hand") as error:
        fetch(pinned, offline=True)
    assert pinned.url in str(error.value)
    assert not cache.exists()


def test_wrong_content_is_not_saved(cache: Path, pinned: PinnedFile, tmp_path: Path) -> None:
    (tmp_path / "origin.onnx").write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match="returned another file"):
        fetch(pinned)
    assert not cache.exists()


def test_failed_download_explains_how_to_fix_it(pinned: PinnedFile, tmp_path: Path) -> None:
    (tmp_path / "origin.onnx").unlink()
    with pytest.raises(ModelError, match="by hand") as error:
        fetch(pinned)
    assert "\n" not in str(error.value)


def test_a_copy_elsewhere_is_verified(pinned: PinnedFile, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    with pytest.raises(ModelError, match="cannot read"):
        read_verified(pinned, other)
    other.write_bytes(CONTENT + b"!")
    with pytest.raises(ModelError, match="does not match its hash"):
        read_verified(pinned, other)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no endless device here")
def test_an_endless_device_is_not_read_whole(pinned: PinnedFile) -> None:
    with pytest.raises(ModelError, match="does not match its hash"):
        read_verified(pinned, Path("/dev/zero"))


class AnotherUser:
    """Simulates a user without access below a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stat = os.stat

        def refused(path: Any, *args: Any, **options: Any) -> os.stat_result:
            if isinstance(path, str | Path) and folder in Path(path).parents:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return stat(path, *args, **options)

        monkeypatch.setattr(os, "stat", refused)


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and no home folder in the user database."""
    for name in ("MIEN_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)


def test_missing_home_folder_suggests_mien_home(no_home: None, pinned: PinnedFile) -> None:
    with pytest.raises(OutputError, match="set MIEN_HOME"):
        cache_folder()
    with pytest.raises(OutputError, match="set MIEN_HOME"):
        fetch(pinned)
    assert not pinned.is_cached()


def test_inaccessible_cache_counts_as_missing(
    cache: Path, pinned: PinnedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    AnotherUser(cache.parent, monkeypatch)
    assert not pinned.is_cached()
    with pytest.raises(OutputError, match=r"cannot be accessed: set MIEN_HOME"):
        fetch(pinned)
    with pytest.raises(ModelError, match=r"set MIEN_HOME .* and download"):
        fetch(pinned, offline=True)


def test_a_cache_that_is_a_file_is_an_obstacle(cache: Path, pinned: PinnedFile) -> None:
    assert write_obstacle(cache) is None
    cache.touch()
    assert write_obstacle(cache / "below") == f"{cache} is not a folder"
    with pytest.raises(OutputError, match="is not a folder: set MIEN_HOME"):
        fetch(pinned)


def test_what_was_fetched_is_cached(pinned: PinnedFile) -> None:
    assert not pinned.is_cached()
    fetch(pinned)
    assert pinned.is_cached()


@pytest.mark.parametrize("has_keras_folder", [False, True])
def test_keras_and_matplotlib_use_the_cache_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_keras_folder: bool
) -> None:
    for name in ("KERAS_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    if has_keras_folder:
        (tmp_path / ".keras").mkdir()
    redirect_library_caches()
    assert os.environ["MPLCONFIGDIR"] == str(cache / "matplotlib")
    assert os.environ.get("KERAS_HOME") == (None if has_keras_folder else str(cache / "keras"))
    assert not cache.exists()


def test_existing_variables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KERAS_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "mine")
    redirect_library_caches()
    assert os.environ["KERAS_HOME"] == os.environ["MPLCONFIGDIR"] == "mine"


def test_missing_home_folder_changes_nothing(
    no_home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    redirect_library_caches()
    assert "MPLCONFIGDIR" not in os.environ
