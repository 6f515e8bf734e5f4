"""The formats that results are written in part by part: JSON lines, CSV, Parquet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from mien.cli.output import csv_text, json_text
from mien.core.errors import UsageError
from mien.core.results import ModelInfo, Result, result_rows, table_columns

FORMATS: tuple[str, ...] = ("jsonl", "csv", "parquet")


class PartFormat(Protocol):
    """Writes results into a file, and joins such files into one."""

    @property
    def suffix(self) -> str:
        """The ending of a part's name."""

    def write(self, results: Sequence[Result], path: Path) -> None:
        """Write a part; raises OSError as `open` does."""

    def join(self, parts: Iterator[Path], path: Path) -> None:
        """Write all parts, in their order, as one complete file."""

    def write_part(self, whole: Path, path: Path) -> None:
        """Write a complete file's results as a part."""


def part_format(name: str, labels: Sequence[str], model: ModelInfo) -> PartFormat:
    """Return one of `FORMATS` for the results of a model.

    Raises:
        MissingExtra: if it is Parquet and pyarrow is not installed.
        UsageError: if there is no such format.
    """
    if name == "jsonl":
        return _JsonLines()
    if name == "csv":
        return _Csv(labels)
    if name == "parquet":
        from mien.batch.parquet import ParquetFormat

        return ParquetFormat(labels, model)
    raise UsageError(f"expected a format of {', '.join(FORMATS)}, got {name!r}")


class _JsonLines:
    suffix = ".jsonl"

    def write(self, results: Sequence[Result], path: Path) -> None:
        _write(path, "".join(json_text(one.to_dict(), indent=None) + "\n" for one in results))

    def join(self, parts: Iterator[Path], path: Path) -> None:
        _join(parts, path, "")

    def write_part(self, whole: Path, path: Path) -> None:
        shutil.copyfile(whole, path)


class _Csv:
    """Parts have no header; the whole has one."""

    suffix = ".csv"

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._columns = table_columns(self._labels)
        self._header = csv_text([], self._columns)

    def write(self, results: Sequence[Result], path: Path) -> None:
        rows = (row for one in results for row in result_rows(one, self._labels))
        _write(path, csv_text(rows, self._columns, header=False))

    def join(self, parts: Iterator[Path], path: Path) -> None:
        _join(parts, path, self._header)

    def write_part(self, whole: Path, path: Path) -> None:
        with whole.open("rb") as file, path.open("wb") as part:
            file.seek(len(self._header.encode()))
            shutil.copyfileobj(file, part)


def _write(path: Path, text: str) -> None:
    # The halves of a file name that is not UTF-8 come out as JSON's own escapes.
    path.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def _join(parts: Iterator[Path], path: Path, header: str) -> None:
    with path.open("wb") as whole:
        whole.write(header.encode())
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
