"""Walking folders: every image once, whatever its name."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from mien.batch import inputs
from mien.batch.inputs import file_input, walk_folder

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs links, pipes and names as on Unix")


def touch(*paths: str) -> None:
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"x")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sources(folder: str = "d") -> list[str]:
    return [Path(one.source).as_posix() for one in walk_folder(folder)]


def test_files_come_sorted_and_before_subfolders() -> None:
    touch("d/z.png", "d/a.JPG", "d/b/x.webp", "d/a/y.gif", "d/notes.txt", "d/.hidden.png")
    touch("d/.h/x.png")
    assert sources() == ["d/a.JPG", "d/z.png", "d/a/y.gif", "d/b/x.webp"]


@pytest.mark.parametrize(("word", "first"), [("d/", "d/a.png"), ("./d", "d/a.png")])
def test_sources_are_plain_paths(word: str, first: str) -> None:
    touch("d/a.png")
    assert sources(word) == [first]


def test_current_folder_gives_bare_names() -> None:
    touch("a.png", "sub/b.png")
    assert sources(".") == ["a.png", "sub/b.png"]


def test_large_folders_come_in_sorted_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "SORTED_AT_ONCE", 4)
    names = [f"d/{number}.png" for number in range(10)]
    touch(*names, *(f"d/{number}.txt" for number in range(10)))
    assert sorted(sources()) == names


def test_a_folder_whose_name_looks_like_an_image_is_a_folder() -> None:
    touch("d/x.jpg/y.png")
    assert sources() == ["d/x.jpg/y.png"]


@POSIX
def test_names_in_any_script_and_encoding() -> None:
    touch("d/脸.png", "d/лицо.png", "d/صورة.png", "d/ new\nline.png", "d/🙂.png")
    if sys.platform == "linux":
        Path(os.fsdecode(b"d/\xff\xfe.png")).write_bytes(b"x")
    found = sources()
    assert set(found) == {f"d/{name}" for name in os.listdir("d")}  # noqa: PTH208
    assert len(found) >= 5


@POSIX
def test_links_are_followed_once_and_loops_end() -> None:
    touch("d/real/a.png", "outside/b.png")
    Path("d/real/up").symlink_to(Path("d").resolve())
    Path("d/again").symlink_to(Path("d/real").resolve())
    Path("d/out").symlink_to(Path("outside").resolve())
    Path("d/one.png").symlink_to(Path("outside/b.png").resolve())
    assert sources() == ["d/one.png", "d/real/a.png", "d/out/b.png"]


@POSIX
def test_broken_links_are_yielded() -> None:
    Path("d").mkdir()
    Path("d/gone.png").symlink_to("nowhere.png")
    Path("d/loop.png").symlink_to("loop.png")
    assert [(one.source, one.content) for one in walk_folder("d")] == [
        ("d/gone.png", "d/gone.png"),
        ("d/loop.png", "d/loop.png"),
    ]


@POSIX
def test_pipes_have_a_problem() -> None:
    Path("d").mkdir()
    os.mkfifo("d/pipe.png")
    Path("d/link.png").symlink_to("pipe.png")
    for one in walk_folder("d"):
        assert one.content is None
        assert one.problem == f"{one.source} is a pipe: expected a file"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder"
)
def test_unreadable_folder_has_a_problem() -> None:
    touch("d/barred/a.png", "d/open/b.png")
    Path("d/barred").chmod(0)
    try:
        barred, found = walk_folder("d")
    finally:
        Path("d/barred").chmod(0o700)
    assert barred.problem is not None
    assert "d/barred: this folder cannot be read" in barred.problem
    assert found.source == "d/open/b.png"


def test_vanished_folder_has_a_problem() -> None:
    touch("d/a.png", "d/sub/b.png")
    walk = walk_folder("d")
    assert next(walk).source == "d/a.png"
    Path("d/sub/b.png").unlink()
    Path("d/sub").rmdir()
    (left,) = walk
    assert (left.source, left.content) == (str(Path("d/sub")), None)


def test_empty_folder() -> None:
    Path("d").mkdir()
    assert sources() == []


def test_missing_file_is_an_input() -> None:
    assert file_input("missing.png").content == "missing.png"


def test_images_without_suffix_are_found() -> None:
    touch("d/README", "d/empty")
    Path("d/photo").write_bytes(b"\xff\xd8\xff\xe0 and so on")
    Path("d/empty").write_bytes(b"")
    assert sources() == ["d/photo"]
    # Where others are looked for, it is none.
    assert list(walk_folder("d", (".mp4",))) == []


def test_other_files_are_counted_by_suffix() -> None:
    touch("d/a.jfif", "d/b.JPG_large", "d/c.HEIC", "d/sub/d.heic", "d/e.mp4", "d/LICENSE")
    touch("d/.hidden.mp4")
    left_out: Counter[str] = Counter()
    found = [one.source for one in walk_folder("d", skipped=left_out)]
    assert found == ["d/a.jfif", "d/b.JPG_large"]
    assert left_out == {".heic": 2, ".mp4": 1, "": 1}
