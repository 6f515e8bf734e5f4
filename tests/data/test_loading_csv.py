"""The challenge's CSV: in folders, compressed, in archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_maker import make_tiny_splits, write_tiny_csv, write_tiny_dataset, zip_folder
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError
from mien.data import loading
from mien.data.loading import read_splits

PIXELS = " ".join(["7"] * 2304)


def write(folder: Path, *rows: str, header: str = "emotion,pixels,Usage") -> Path:
    path = folder / "fer2013.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_the_challenges_csv_is_read_by_name_not_by_code(tmp_path: Path) -> None:
    expected = make_tiny_splits(per_class=2)
    splits = read_splits(write_tiny_csv(tmp_path / "fer2013.csv", per_class=2))
    for name, split in expected.items():
        assert np.array_equal(splits[name].images, split.images)
        assert np.array_equal(splits[name].labels, split.labels)
        assert splits[name].skipped == ()


@pytest.mark.parametrize(
    ("code", "emotion"),
    list(enumerate(["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"])),
)
def test_each_code_means_what_the_challenge_says(tmp_path: Path, code: int, emotion: str) -> None:
    split = read_splits(write(tmp_path, f"{code},{PIXELS},PrivateTest"))["test"]
    assert EMOTIONS[split.labels[0]] == emotion
    assert split.files == (f"test/{emotion}/PrivateTest_row00001.png",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"7,{PIXELS},Training", "emotion '7' is not a code from 0 to 6"),
        (f"-1,{PIXELS},Training", "emotion '-1' is not"),
        (f"happy,{PIXELS},Training", "emotion 'happy' is not"),
        (f",{PIXELS},Training", "emotion '' is not"),
        (f"{'9' * 5000},{PIXELS},Training", "is not a code"),
        (f"3,{PIXELS} 7,Training", "has 2305 pixels, expected 2304"),
        (f"3,{PIXELS[:-2]},Training", "has 2303 pixels, expected 2304"),
        ("3,,Training", "has 0 pixels"),
        (f"3,{PIXELS[:-1]}x,Training", "pixels are not all whole numbers"),
        (f"3,{PIXELS[:-1]}.5,Training", "pixels are not all whole numbers"),
        (f"3,{PIXELS[:-1]}256,Training", "has a pixel outside 0 to 255"),
        (f"3,{PIXELS[:-1]}-1,Training", "has a pixel outside 0 to 255"),
        (f"3,{PIXELS},Spam", "usage 'Spam' is none of Training, PublicTest, PrivateTest"),
        (f"3,{PIXELS}", "usage '' is none of"),
        ("3", "usage '' is none of"),
    ],
)
def test_a_bad_row_is_skipped_by_number_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    splits = read_splits(write(tmp_path, f"3,{PIXELS},Training", row, f"4,{PIXELS},Training"))
    (skipped,) = splits["train"].skipped
    assert skipped.file == "row 2"
    assert reason in skipped.reason
    assert [EMOTIONS[label] for label in splits["train"].labels] == ["happy", "sad"]


def test_columns_may_stand_in_another_order_with_blanks(tmp_path: Path) -> None:
    path = write(tmp_path, f"3,Training,{PIXELS}", "", header="emotion, Usage, pixels")
    assert len(read_splits(path)["train"]) == 1


@pytest.mark.parametrize("header", ["", "emotion,pixels", "a,b,c"])
def test_missing_columns_are_an_error_that_names_them(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match="expected the columns emotion,pixels,Usage"):
        read_splits(write(tmp_path, header=header))


@pytest.mark.parametrize(
    "content",
    [b"emotion,pixels,Usage\n3,\xff\xfe,Training\n", b'emotion,pixels,Usage\n3,"' + b"1 " * 99999],
    ids=["not utf-8", "a quote that never ends"],
)
def test_a_file_that_is_no_csv_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable CSV"):
        read_splits(path)


def test_a_file_that_vanishes_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "source_kind", lambda _: "csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_splits(tmp_path / "none.csv")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_csv(tmp_path_factory.mktemp("table") / "fer2013.csv").read_bytes()


def tarred(files: dict[str, bytes], mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def beside(table: bytes) -> dict[str, bytes]:
    """What Kaggle puts beside the CSV: other tables, a text."""
    return {
        "fer2013/README": b"about",
        "test.csv": b"pixels\n1 2\n",
        "fer2013/fer2013.csv": table,
    }


WAYS: dict[str, Callable[[bytes], bytes]] = {
    "plain.csv": lambda table: table,
    "fer2013.csv.gz": gzip.compress,
    "fer2013.csv.bz2": bz2.compress,
    "fer2013.csv.xz": lzma.compress,
    "without_ending": gzip.compress,
    "archive.zip": lambda table: zipped(beside(table)),
    "fer2013.tar": lambda table: tarred(beside(table), "w"),
    "fer2013.tar.gz": lambda table: tarred(beside(table), "w:gz"),
    "fer2013.tgz": lambda table: tarred(beside(table), "w:gz"),
    "fer2013.tar.xz": lambda table: tarred(beside(table), "w:xz"),
    "zip_of_gz.zip": lambda table: zipped({"fer2013.csv.gz": gzip.compress(table)}),
    "challenge.zip": lambda table: zipped(
        {"train.csv": b"emotion,pixels\n", "fer2013.tar.gz": tarred(beside(table), "w:gz")}
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("in_folder", [False, True])
def test_the_csv_is_read_from_any_packing(
    tmp_path: Path, table: bytes, way: str, in_folder: bool
) -> None:
    path = tmp_path / "source" / "below" / way
    path.parent.mkdir(parents=True)
    path.write_bytes(WAYS[way](table))
    if in_folder and not path.suffix:
        pytest.skip("a folder's files are taken by their endings")
    plain = tmp_path / "fer2013.csv"
    plain.write_bytes(table)
    expected = read_splits(plain)
    splits = read_splits(tmp_path / "source" if in_folder else path, quiet=True)
    for name, split in expected.items():
        assert split.files == splits[name].files
        assert np.array_equal(split.images, splits[name].images)


def test_a_csv_may_be_larger_than_an_image(
    tmp_path: Path, table: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The challenge's has 300 MB."""
    monkeypatch.setattr("mien.data.sources.MAX_FILE_BYTES", 1000)
    (tmp_path / "below").mkdir()
    for name in ("below/fer2013.csv", "archive.zip", "fer2013.tar.gz"):
        (tmp_path / name).write_bytes(WAYS.get(name, bytes)(table))
        source = (tmp_path / name).parent if "below" in name else tmp_path / name
        assert sum(len(split) for split in read_splits(source, quiet=True).values()) == 28


def test_image_files_take_precedence_over_a_csv(tmp_path: Path) -> None:
    folder = write_tiny_dataset(tmp_path / "data", per_class=1)
    (folder / "labels.csv").write_text("file,label\n")
    for source in (folder, zip_folder(folder, tmp_path / "data.zip")):
        assert sum(map(len, read_splits(source).values())) == 21


def test_an_archive_without_the_csv_is_an_error_that_names_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    path.write_bytes(zipped({"a/train.csv": b"emotion,pixels\n1,2\n", "b.txt": b""}))
    with pytest.raises(
        DataError, match=r"expected the columns emotion,pixels,Usage, got emotion,pixels in a/train"
    ):
        read_splits(path)


def test_more_than_the_limit_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "MAX_UNPACKED_BYTES", 1 << 20)
    row = b"3," + b"7 " * 2304 + b",Training\n"
    bomb = b"emotion,pixels,Usage\n" + row * 500
    for name, content in {
        "bomb.csv.gz": gzip.compress(bomb),
        "bomb.zip": zipped({"fer2013.csv": bomb}),
        "bomb.tar.gz": tarred({"zeros.bin": bytes(4 << 20), "fer2013.csv": bomb}, "w:gz"),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="GB unpacked"):
            read_splits(tmp_path / name, quiet=True)


def test_a_tar_of_too_many_files_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: bytes
) -> None:
    monkeypatch.setattr(loading, "MAX_TAR_FILES", 10)
    path = tmp_path / "many.tar.gz"
    for others, is_read in ((9, True), (10, False)):
        files = {f"{number}.bin": b"" for number in range(others)}
        path.write_bytes(tarred({**files, "fer2013.csv": table}, "w:gz"))
        if is_read:
            assert read_splits(path, quiet=True)
        else:
            with pytest.raises(DataError, match="more than 10 files"):
                read_splits(path, quiet=True)


def test_an_endless_line_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "line.csv.gz"
    path.write_bytes(gzip.compress(b"emotion,pixels,Usage\n" + b"1" * (3 << 20)))
    with pytest.raises(DataError, match="a line of more than a million characters"):
        read_splits(path, quiet=True)


def test_a_csv_of_unusable_rows_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.data.loading.MOST_UNUSABLE", 10)
    path = tmp_path / "rows.csv"
    path.write_text("emotion,pixels,Usage\n" + "x\n" * 20)
    with pytest.raises(DataError, match=r"more than 10 rows that cannot be used, the first: row 1"):
        read_splits(path, quiet=True)


@pytest.mark.parametrize("way", ["fer2013.csv.bz2", "fer2013.tar.gz", "archive.zip"])
@given(place=st.floats(0, 0.999), value=st.integers(0, 255), cut=st.booleans())
def test_damage_is_one_error_or_none(
    tmp_path_factory: pytest.TempPathFactory, way: str, place: float, value: int, cut: bool
) -> None:
    table = b"emotion,pixels,Usage\n" + b"3," + b"7 " * 2304 + b",Training\n"
    content = WAYS[way](table)
    at = int(place * len(content))
    path = tmp_path_factory.getbasetemp() / f"damaged_{way}"
    path.write_bytes(content[:at] + (b"" if cut else bytes([value]) + content[at + 1 :]))
    message = ""
    try:
        read_splits(path, quiet=True)
    except DataError as error:
        message = str(error)
    assert "\n" not in message
