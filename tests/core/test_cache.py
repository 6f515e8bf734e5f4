from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mien.core.cache import PinnedFile, cache_folder, fetch, verified
from mien.core.errors import ModelError

CONTENT = b"weights of a detector"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MIEN_HOME", str(folder))
    return folder


@pytest.fixture
def pinned(tmp_path: Path) -> PinnedFile:
    """A file to download; the way is that of the network, but the address is a file's."""
    origin = tmp_path / "origin.onnx"
    origin.write_bytes(CONTENT)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return PinnedFile("weights.onnx", origin.as_uri(), digest, len(CONTENT))


def test_mien_home_comes_first(cache: Path) -> None:
    assert cache_folder() == cache


def test_else_it_is_the_platforms_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_asking_where_it_is_makes_nothing(cache: Path) -> None:
    cache_folder()
    assert not cache.exists()


def test_a_file_is_fetched_once(cache: Path, pinned: PinnedFile, tmp_path: Path) -> None:
    path = fetch(pinned)
    assert path == cache / "weights.onnx"
    assert verified(pinned, path) == CONTENT
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


def test_offline_nothing_is_fetched(cache: Path, pinned: PinnedFile) -> None:
    with pytest.raises(ModelError, match="by hand") as error:
        fetch(pinned, offline=True)
    assert pinned.url in str(error.value)
    assert not cache.exists()


def test_something_else_is_not_kept(cache: Path, pinned: PinnedFile, tmp_path: Path) -> None:
    (tmp_path / "origin.onnx").write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match="gave something else"):
        fetch(pinned)
    assert not cache.exists()


def test_a_download_that_fails_says_what_to_do(pinned: PinnedFile, tmp_path: Path) -> None:
    (tmp_path / "origin.onnx").unlink()
    with pytest.raises(ModelError, match="by hand") as error:
        fetch(pinned)
    assert "\n" not in str(error.value)


def test_a_copy_elsewhere_is_verified(pinned: PinnedFile, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    with pytest.raises(ModelError, match="cannot read"):
        verified(pinned, other)
    other.write_bytes(CONTENT + b"!")
    with pytest.raises(ModelError, match="does not match its hash"):
        verified(pinned, other)
