"""Formats of files of results: JSON lines, CSV, TSV, Parquet, Excel.

A file is written row by row, or in parts, which hold its rows as JSON lines in any format.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

from mien.core.errors import UsageError, needs_extra, printable
from mien.core.files import SOFTWARE
from mien.core.formats import csv_text, escape_surrogates, json_text
from mien.core.results import (
    ARROW_TYPES,
    SCHEMA,
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
"""Rows of a Parquet file that are compressed, and in memory, together."""

_ARROW_ROWS = 4096
"""Rows that are kept as dictionaries, which take more memory, until they are converted."""

Row: TypeAlias = dict[str, Any]
"""Values of JSON by name: a face of a table, or an image without any; in JSON lines a result."""

WriteRows: TypeAlias = Callable[[Sequence[Row]], object]


def result_format(
    name: str, labels: Sequence[str], model: ModelInfo | None = None, **scores: bool
) -> ResultFormat:
    """Return one of `FORMATS` for the results of a model.

    Args:
        name: the format.
        labels: the model's labels.
        model: the model, for the metadata of Parquet.
        scores: ``smoothed`` and ``corrected``, as for `mien.core.results.table_columns`.

    Raises:
        MissingExtra: if the library for Parquet or Excel is not installed.
        UsageError: if the format is unknown.
    """
    if name == "jsonl":
        return _JsonLines(labels, **scores)
    if name in DELIMITERS:
        return CsvFormat(labels, name, **scores)
    if name == "xlsx":
        return _ExcelFormat(labels, **scores)
    if name == "parquet":
        return _ParquetFormat(labels, model, **scores)
    raise UsageError(f"expected a format of {', '.join(FORMATS)}, got {name!r}")


class ResultFormat(ABC):
    """A format of files with the columns of `mien.core.results.table_columns`.

    All methods with a path raise OSError as `open` does.
    """

    def __init__(self, labels: Sequence[str], **scores: bool) -> None:
        self.columns = table_columns(labels, **scores)
        self._labels, self._scores = tuple(labels), scores

    def rows(self, result: Result) -> list[Row]:
        """Return the rows of a result."""
        return result_rows(result, self._labels, **self._scores)

    @abstractmethod
    def open(self, path: Path) -> AbstractContextManager[WriteRows]:
        """Open a new file; the function appends rows to it."""

    @abstractmethod
    def read(self, path: Path) -> Iterator[Row]:
        """Yield the rows of a file, which become the same again when written."""

    def write_part(self, rows: Iterable[Row], path: Path) -> None:
        """Write rows as a part."""
        with path.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    def join(self, parts: Iterable[Path], path: Path) -> None:
        """Write the rows of all parts, in order, into one file."""
        with self.open(path) as write_rows:
            for part in parts:
                with part.open(encoding="ascii") as file:
                    for line in file:
                        row = json.loads(line)
                        if isinstance(row, list):  # of an Excel run that an earlier version left
                            row = dict(zip(self.columns, row, strict=True))
                        write_rows([row])


class TextFormat(ResultFormat):
    """Lines of text, after a header."""

    header = ""

    @abstractmethod
    def text(self, rows: Iterable[Row]) -> str:
        """Return rows as lines."""

    @contextmanager
    def open(self, path: Path) -> Iterator[WriteRows]:
        """Open a new file; the function appends lines to it."""
        # Surrogates in file names that are not UTF-8 become JSON escapes.
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(self.header)
            yield lambda rows: file.write(self.text(rows))


class _JsonLines(TextFormat):
    """One JSON object per result."""

    def rows(self, result: Result) -> list[Row]:
        return [result.to_dict()]

    def text(self, rows: Iterable[Row]) -> str:
        return "".join(json_text(row, indent=None) + "\n" for row in rows)

    def read(self, path: Path) -> Iterator[Row]:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


class CsvFormat(TextFormat):
    """CSV, or TSV with a tab as delimiter."""

    def __init__(self, labels: Sequence[str], name: str = "csv", **scores: bool) -> None:
        super().__init__(labels, **scores)
        self._delimiter = DELIMITERS[name]
        self.header = csv_text([], self.columns, delimiter=self._delimiter)

    def text(self, rows: Iterable[Row]) -> str:
        """Return rows as lines."""
        return csv_text(rows, self.columns, header=False, delimiter=self._delimiter)

    def read(self, path: Path) -> Iterator[Row]:
        """Yield the rows of a file, all of them texts."""
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file, delimiter=self._delimiter)


class _ParquetFormat(ResultFormat):
    """Parquet, with the model in its metadata, in groups of `ROW_GROUP_ROWS`.

    Raises MissingExtra if pyarrow is not installed.
    """

    def __init__(
        self, labels: Sequence[str], model: ModelInfo | None = None, **scores: bool
    ) -> None:
        super().__init__(labels, **scores)
        with needs_extra("batch", "a Parquet file"):
            self._pa, self._parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        self._schema = self._make_schema(model)

    def rows(self, result: Result) -> list[Row]:
        return [utf8_row(row) for row in super().rows(result)]

    @contextmanager
    def open(self, path: Path) -> Iterator[WriteRows]:
        rows: list[Row] = []
        tables: list[Any] = []

        def write_group() -> None:
            group = self._pa.concat_tables(tables)
            tables.clear()
            if group.num_rows:
                file.write_table(group, row_group_size=group.num_rows)

        def convert() -> None:
            tables.append(self._pa.Table.from_pylist(rows, schema=self._schema))
            rows.clear()

        def write_rows(new: Sequence[Row]) -> None:
            rows.extend(new)
            if len(rows) >= min(_ARROW_ROWS, ROW_GROUP_ROWS):
                convert()
                if sum(table.num_rows for table in tables) >= ROW_GROUP_ROWS:
                    write_group()

        with self._parquet.ParquetWriter(path, self._schema, compression="zstd") as file:
            yield write_rows
            convert()
            write_group()

    def read(self, path: Path) -> Iterator[Row]:
        with self._parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ARROW_ROWS):
                yield from batch.to_pylist()

    def _make_schema(self, model: ModelInfo | None) -> Any:
        types = {name: ARROW_TYPES.get(name, "double") for name in self.columns}
        fields = [(name, self._pa.type_for_alias(alias)) for name, alias in types.items()]
        metadata = {"mien.schema": SCHEMA}
        if model is not None:
            metadata["mien.model"] = json.dumps(model.to_dict())
        return self._pa.schema(fields, metadata=metadata)


class _ExcelFormat(ResultFormat):
    """Excel workbook; a full sheet is followed by another.

    openpyxl keeps the rows on disk until it saves. Raises MissingExtra if it is not installed.
    """

    def __init__(self, labels: Sequence[str], **scores: bool) -> None:
        super().__init__(labels, **scores)
        with needs_extra("excel", "an Excel file"):
            self._openpyxl = import_module("openpyxl")

    @contextmanager
    def open(self, path: Path) -> Iterator[WriteRows]:
        book = self._openpyxl.Workbook(write_only=True)
        book.properties.creator = SOFTWARE
        sheet, sheet_rows = self._add_sheet(book), 1

        def write(rows: Sequence[Row]) -> None:
            nonlocal sheet, sheet_rows
            for row in rows:
                if sheet_rows == EXCEL_ROWS:
                    sheet, sheet_rows = self._add_sheet(book), 1
                sheet.append([self._plain(sheet, value) for value in row.values()])
                sheet_rows += 1

        try:
            yield write
        except BaseException:
            for unfinished in book.worksheets:
                unfinished.close()
            raise
        book.save(path)

    def read(self, path: Path) -> Iterator[Row]:
        with path.open("rb") as file:
            for sheet in self._openpyxl.load_workbook(file, read_only=True).worksheets:
                for row in sheet.iter_rows(min_row=2, values_only=True):
                    yield dict(zip(self.columns, row, strict=False))  # without trailing blanks

    def _add_sheet(self, book: Any) -> Any:
        number = len(book.worksheets) + 1
        sheet = book.create_sheet("results" if number == 1 else f"results {number}")
        sheet.append(self.columns)
        return sheet

    def _plain(self, sheet: Any, value: Any) -> Any:
        """Return a value that Excel keeps as it is: no formula, no unsupported character."""
        if not isinstance(value, str):
            return value
        cell = self._openpyxl.cell.WriteOnlyCell(sheet, printable(escape_surrogates(value)))
        cell.data_type = "s"
        return cell
