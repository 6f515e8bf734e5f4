"""Formats of results that are written part by part: JSON lines, CSV, TSV, Parquet, Excel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from mien.core.errors import UsageError, needs_extra, printable
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
"""Maximum number of rows of an Excel sheet, including its header."""

ROW_GROUP_ROWS = 50_000
"""Rows of a Parquet file that are in memory together while parts are joined."""


def part_format(name: str, labels: Sequence[str], model: ModelInfo) -> PartFormat:
    """Return one of `FORMATS` for the results of a model.

    Raises:
        MissingExtra: if the library for Parquet or Excel is not installed.
        UsageError: if the format is unknown.
    """
    if name == "jsonl":
        return TextFormat(
            ".jsonl",
            "",
            lambda results: "".join(
                json_text(result.to_dict(), indent=None) + "\n" for result in results
            ),
        )
    if name in DELIMITERS:
        columns, delimiter = table_columns(labels), DELIMITERS[name]
        return TextFormat(
            f".{name}",
            csv_text([], columns, delimiter=delimiter),
            lambda results: csv_text(
                _rows(results, labels), columns, header=False, delimiter=delimiter
            ),
        )
    if name == "xlsx":
        return ExcelFormat(labels)
    if name == "parquet":
        return ParquetFormat(labels, model)
    raise UsageError(f"expected a format of {', '.join(FORMATS)}, got {name!r}")


class TextFormat:
    """Lines of text; the output has a header, its parts have none.

    All methods raise OSError as `open` does.

    Args:
        suffix: suffix of the files.
        header: first lines of the output.
        text: formats results as lines.
    """

    def __init__(self, suffix: str, header: str, text: Callable[[Iterable[Result]], str]) -> None:
        self.suffix = suffix
        self._header = header.encode()
        self._text = text

    def write(self, results: Sequence[Result], path: Path) -> None:
        """Write results as a part."""
        # Surrogates in file names that are not UTF-8 become JSON escapes.
        path.write_bytes(self._text(results).encode("utf-8", errors="backslashreplace"))

    def join(self, parts: Iterator[Path], path: Path) -> None:
        """Write all parts, in order, as one output."""
        with path.open("wb") as output:
            output.write(self._header)
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, output)

    def to_part(self, output: Path, path: Path) -> None:
        """Write the results of an output as a part."""
        with output.open("rb") as file, path.open("wb") as part:
            file.seek(len(self._header))
            shutil.copyfileobj(file, part)


class ParquetFormat:
    """Parquet with the columns of `mien.core.results.table_columns`; parts are Parquet files too.

    Raises MissingExtra if pyarrow is not installed.
    """

    suffix = ".parquet"

    def __init__(self, labels: Sequence[str], model: ModelInfo) -> None:
        self._pa, self._parquet = _pyarrow()
        self._labels = tuple(labels)
        self._schema = results_schema(labels, model)

    def write(self, results: Sequence[Result], path: Path) -> None:
        """Write results as a part; raises OSError as `open` does."""
        rows = [utf8_row(row) for row in _rows(results, self._labels)]
        table = self._pa.Table.from_pylist(rows, schema=self._schema)
        self._parquet.write_table(table, path, compression="zstd")

    def join(self, parts: Iterator[Path], path: Path) -> None:
        """Write all parts as one output, in row groups of about `ROW_GROUP_ROWS`."""
        with self._parquet.ParquetWriter(path, self._schema, compression="zstd") as writer:
            pending: list[Any] = []
            rows = 0
            for table in self._row_groups(parts):
                pending.append(table)
                rows += table.num_rows
                if rows >= ROW_GROUP_ROWS:
                    writer.write_table(self._pa.concat_tables(pending), row_group_size=rows)
                    pending, rows = [], 0
            if pending:
                writer.write_table(self._pa.concat_tables(pending), row_group_size=max(1, rows))

    def to_part(self, output: Path, path: Path) -> None:
        """Write the results of an output as a part."""
        shutil.copyfile(output, path)

    def _row_groups(self, parts: Iterator[Path]) -> Iterator[Any]:
        """Yield tables that fit into memory: a part may be the output of an earlier run."""
        for part in parts:
            with self._parquet.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    yield file.read_row_group(number)


class ExcelSheets:
    """Excel workbook that grows row by row; a full sheet is followed by another.

    Raises MissingExtra if openpyxl is not installed.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        with needs_extra("excel", "an Excel file"):
            from openpyxl import Workbook
            from openpyxl.cell import WriteOnlyCell
        self._book, self._cell = Workbook(write_only=True), WriteOnlyCell
        self._book.properties.creator = SOFTWARE
        self._columns = tuple(columns)
        self._sheet: Any = None
        self._rows = 0

    def add(self, row: Iterable[Any]) -> None:
        """Add a row of values in the order of the columns."""
        if self._sheet is None or self._rows == EXCEL_ROWS:
            self._add_sheet()
        self._sheet.append([self._plain(value) for value in row])
        self._rows += 1

    def save(self, path: Path) -> None:
        """Write the workbook, with at least its header; raises OSError as `open` does."""
        if self._sheet is None:
            self._add_sheet()
        self._book.save(path)

    def _add_sheet(self) -> None:
        number = len(self._book.worksheets) + 1
        self._sheet = self._book.create_sheet("results" if number == 1 else f"results {number}")
        self._sheet.append(self._columns)
        self._rows = 1

    def _plain(self, value: Any) -> Any:
        """Return a value that Excel keeps as it is: no formula, no unsupported character."""
        if not isinstance(value, str):
            return value
        cell = self._cell(self._sheet, value=printable(escape_surrogates(value)))
        cell.data_type = "s"
        return cell


class ExcelFormat:
    """Excel workbook with the same columns; in parts, each row is a JSON list.

    Raises MissingExtra if openpyxl is not installed.
    """

    suffix = ".jsonl"

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels, self._columns = tuple(labels), table_columns(labels)
        ExcelSheets(self._columns)  # raises before the images are analyzed

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

    def to_part(self, output: Path, path: Path) -> None:
        """Write the rows of a workbook as a part."""
        from openpyxl import load_workbook

        with output.open("rb") as file, path.open("w", encoding="ascii") as part:
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
    """Return the `pyarrow.Schema` of a table of results, with the model in its metadata.

    Args:
        labels: the model's labels.
        model: the model.
        smoothed: add the columns of a video, as `mien.core.results.table_columns`.
        corrected: add the columns of a baseline, likewise.

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
    """Import pyarrow and pyarrow.parquet; raises MissingExtra if they are not installed."""
    with needs_extra("batch", "a Parquet file"):
        return import_module("pyarrow"), import_module("pyarrow.parquet")


def _rows(results: Iterable[Result], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    return (row for result in results for row in result_rows(result, labels))
