"""The formats that results are written in part by part: JSON lines, CSV, TSV, Parquet, Excel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from mien.core.errors import MissingExtra, UsageError, needs_extra, printable
from mien.core.files import SOFTWARE
from mien.core.formats import csv_text, escape_surrogates, json_text
from mien.core.results import (
    SCHEMA,
    TEXT_COLUMNS,
    ModelInfo,
    Result,
    result_rows,
    table_columns,
    utf8_row,
)

FORMATS: tuple[str, ...] = ("jsonl", "csv", "tsv", "parquet", "xlsx")

DELIMITERS = {"csv": ",", "tsv": "\t"}

EXCEL_ROWS = 1 << 20
"""Rows of a sheet, its header among them: more it cannot have."""

ROW_GROUP_ROWS = 50_000
"""Rows of a Parquet file that are in memory together while parts are joined."""


def part_format(name: str, labels: Sequence[str], model: ModelInfo) -> PartFormat:
    """Return one of `FORMATS` for the results of a model.

    Raises:
        MissingExtra: if it is Parquet or Excel, and what writes it is not installed.
        UsageError: if there is no such format.
    """
    if name == "jsonl":
        return TextFormat(
            ".jsonl",
            "",
            lambda results: "".join(
                json_text(one.to_dict(), indent=None) + "\n" for one in results
            ),
        )
    if name in DELIMITERS:
        columns, tab = table_columns(labels), DELIMITERS[name]
        return TextFormat(
            f".{name}",
            csv_text([], columns, delimiter=tab),
            lambda results: csv_text(_rows(results, labels), columns, header=False, delimiter=tab),
        )
    if name == "xlsx":
        return ExcelFormat(labels)
    if name == "parquet":
        return ParquetFormat(labels, model)
    raise UsageError(f"expected a format of {', '.join(FORMATS)}, got {name!r}")


class TextFormat:
    """Lines of text; parts have no header, the whole file has one.

    All methods raise OSError as `open` does.

    Args:
        suffix: of a file's name.
        header: the first lines of a whole file.
        text: returns the lines of results.
    """

    def __init__(self, suffix: str, header: str, text: Callable[[Iterable[Result]], str]) -> None:
        self.suffix = suffix
        self._header = header.encode()
        self._text = text

    def write(self, results: Sequence[Result], path: Path) -> None:
        """Write results as a part."""
        # The halves of a file name that is not UTF-8 come out as JSON's own escapes.
        path.write_bytes(self._text(results).encode("utf-8", errors="backslashreplace"))

    def join(self, parts: Iterator[Path], path: Path) -> None:
        """Write all parts, in their order, as one complete file."""
        with path.open("wb") as whole:
            whole.write(self._header)
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)

    def to_part(self, whole: Path, path: Path) -> None:
        """Write the results of a complete file as a part."""
        with whole.open("rb") as file, path.open("wb") as part:
            file.seek(len(self._header))
            shutil.copyfileobj(file, part)


class ParquetFormat:
    """One row a face, one row where there is none; see `mien.core.results.table_columns`."""

    suffix = ".parquet"

    def __init__(self, labels: Sequence[str], model: ModelInfo) -> None:
        """Take the model and its labels; raises MissingExtra if pyarrow is not installed."""
        self._pa, self._parquet = _pyarrow()
        self._labels = tuple(labels)
        self._schema = results_schema(labels, model)

    def write(self, results: Sequence[Result], path: Path) -> None:
        """Write results as a part; raises OSError as `open` does."""
        rows = [utf8_row(row) for row in _rows(results, self._labels)]
        table = self._pa.Table.from_pylist(rows, schema=self._schema)
        self._parquet.write_table(table, path, compression="zstd")

    def join(self, parts: Iterator[Path], path: Path) -> None:
        """Write all parts as one file, in row groups of about `ROW_GROUP_ROWS`."""
        with self._parquet.ParquetWriter(path, self._schema, compression="zstd") as writer:
            waiting: list[Any] = []
            rows = 0
            for table in self._row_groups(parts):
                waiting.append(table)
                rows += table.num_rows
                if rows >= ROW_GROUP_ROWS:
                    writer.write_table(self._pa.concat_tables(waiting), row_group_size=rows)
                    waiting, rows = [], 0
            if waiting:
                writer.write_table(self._pa.concat_tables(waiting), row_group_size=max(1, rows))

    def to_part(self, whole: Path, path: Path) -> None:
        """Write the results of a complete file as a part, which is a file of its own."""
        shutil.copyfile(whole, path)

    def _row_groups(self, parts: Iterator[Path]) -> Iterator[Any]:
        """Yield tables that fit into memory: a part may be the whole file of an earlier run."""
        for part in parts:
            with self._parquet.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    yield file.read_row_group(number)


class ExcelSheets:
    """An Excel workbook that rows are added to: one sheet, or several where a sheet is full."""

    def __init__(self, columns: Sequence[str]) -> None:
        """Take the columns; raises MissingExtra if openpyxl is not installed."""
        with needs_extra("excel", "an Excel file"):
            from openpyxl import Workbook
            from openpyxl.cell import WriteOnlyCell
        self._book, self._cell = Workbook(write_only=True), WriteOnlyCell
        self._book.properties.creator = SOFTWARE
        self._columns = tuple(columns)
        self._sheet: Any = None
        self._rows = 0

    def add(self, row: Iterable[Any]) -> None:
        """Add a row, its values in the columns' order."""
        if self._sheet is None or self._rows == EXCEL_ROWS:
            number = len(self._book.worksheets) + 1
            self._sheet = self._book.create_sheet("results" if number == 1 else f"results {number}")
            self._sheet.append(self._columns)
            self._rows = 1
        self._sheet.append([self._plain(value) for value in row])
        self._rows += 1

    def save(self, path: Path) -> None:
        """Write the workbook, with at least its header; raises OSError as `open` does."""
        if self._sheet is None:
            self._sheet = self._book.create_sheet("results")
            self._sheet.append(self._columns)
        self._book.save(path)

    def _plain(self, value: Any) -> Any:
        """Return a value that Excel takes as it is: no formula, no character it does not know."""
        if not isinstance(value, str):
            return value
        cell = self._cell(self._sheet, value=printable(escape_surrogates(value)))
        cell.data_type = "s"
        return cell


class ExcelFormat:
    """The rows of `ParquetFormat` as a workbook; a part is a JSON list a row."""

    suffix = ".jsonl"

    def __init__(self, labels: Sequence[str]) -> None:
        """Take the model's labels; raises MissingExtra if openpyxl is not installed."""
        self._labels, self._columns = tuple(labels), table_columns(labels)
        ExcelSheets(self._columns)  # says so before the work

    def write(self, results: Sequence[Result], path: Path) -> None:
        """Write results as a part; raises OSError as `open` does."""
        rows = (list(row.values()) for row in _rows(results, self._labels))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")

    def join(self, parts: Iterator[Path], path: Path) -> None:
        """Write all parts as one workbook."""
        sheets = ExcelSheets(self._columns)
        for part in parts:
            with part.open(encoding="ascii") as file:
                for line in file:
                    sheets.add(json.loads(line))
        sheets.save(path)

    def to_part(self, whole: Path, path: Path) -> None:
        """Write the rows of a complete file as a part."""
        from openpyxl import load_workbook

        with whole.open("rb") as file, path.open("w", encoding="ascii") as part:
            for sheet in load_workbook(file, read_only=True).worksheets:
                for row in sheet.iter_rows(min_row=2, values_only=True):
                    part.write(json.dumps(row) + "\n")


PartFormat: TypeAlias = TextFormat | ParquetFormat | ExcelFormat


def results_schema(
    labels: Sequence[str],
    model: ModelInfo | None = None,
    *,
    smoothed: bool = False,
    corrected: bool = False,
) -> Any:
    """Return the `pyarrow.Schema` of a table of results; the model goes to its metadata.

    Args:
        labels: the model's.
        model: the model.
        smoothed: with the columns of a video, as `mien.core.results.table_columns`.
        corrected: with those of a baseline, as there.

    Raises:
        MissingExtra: if pyarrow is not installed.
    """
    pa, _ = _pyarrow()
    types = {
        "frame": pa.int64(),
        **dict.fromkeys(TEXT_COLUMNS, pa.string()),
        **dict.fromkeys(("face_id", "track_id", "x", "y", "w", "h"), pa.int32()),
        "uncertain": pa.bool_(),
    }
    columns = table_columns(labels, smoothed=smoothed, corrected=corrected)
    fields = [pa.field(name, types.get(name, pa.float64())) for name in columns]
    metadata = {"mien.schema": SCHEMA}
    if model is not None:
        metadata["mien.model"] = json.dumps(model.to_dict())
    return pa.schema(fields, metadata=metadata)


def _pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet; raises MissingExtra if they are not installed."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra("batch", "a Parquet file") from error


def _rows(results: Iterable[Result], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    return (row for one in results for row in result_rows(one, labels))
