"""Any zip, and any CSV, packed or not, as a data set."""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import tarfile
import tempfile
import zipfile
from pathlib import Path

from hypothesis import given

from data_maker import write_tiny_csv, write_tiny_dataset, zip_folder
from fuzz.harness import check, damaged, fuzz
from mien.data.dataset import SPLITS
from mien.data.loading import read_splits

_FOLDER = Path(tempfile.mkdtemp())


def _zips() -> list[bytes]:
    folder = write_tiny_dataset(_FOLDER / "faces", per_class=1)
    first = next(folder.rglob("*.png")).read_bytes()
    seeds = [zip_folder(folder, _FOLDER / "faces.zip", top="top/").read_bytes()]
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("train/happy/é.png", first)
            archive.writestr("test/Sad/b.jpg", first)
        seeds.append(buffer.getvalue())
    return seeds


def _tables() -> list[bytes]:
    rows = write_tiny_csv(_FOLDER / "fer2013.csv", per_class=1).read_bytes().splitlines(True)
    table = b"".join([*rows[:3], b'"6","1 2 3",PublicTest\r\n', *rows[3:5]])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("fer2013/fer2013.csv")
        info.size = len(table)
        tar.addfile(info, io.BytesIO(table))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fer2013.csv", table)
    tar_bytes = buffer.getvalue()
    return [
        table, gzip.compress(table), bz2.compress(table), lzma.compress(table), tar_bytes,
        gzip.compress(tar_bytes), zipped.getvalue(),
    ]  # fmt: skip


def _read(name: str, content: bytes) -> None:
    path = _FOLDER / name
    path.write_bytes(content)

    def read() -> None:
        splits = read_splits(path, quiet=True)
        assert set(splits) == set(SPLITS)
        for split in splits.values():
            assert len(split.images) == len(split.labels) == len(split.files)
            assert all(file.reason for file in split.skipped)

    check(name, content, read)


@given(damaged(_zips(), [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"../", b"\\", b"\0", b".zip", b".csv"]))
def a_zip(content: bytes) -> None:
    _read("set.zip", content)


@given(
    damaged(_tables(), [b",", b'"', b"\r", b"\n", b"\0", b"\xff", b"\x1f\x8b", b"emotion", b"-1"])
)
def a_table(content: bytes) -> None:
    _read("set.csv", content)


if __name__ == "__main__":
    logging.disable()  # notes on merged folders are intended
    fuzz(a_zip, a_table)
