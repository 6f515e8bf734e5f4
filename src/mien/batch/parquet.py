"""Results as Parquet, through pyarrow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mien.core.errors import MissingExtra
from mien.core.results import SCHEMA, ModelInfo, Result, result_rows, table_columns

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MissingExtra("batch", "a Parquet file") from error

ROW_GROUP_ROWS = 50_000
"""Rows that are in memory together while parts are joined."""

_TYPES = {
    "source": pa.string(),
    "frame": pa.int64(),
    "time_s": pa.float64(),
    "face_id": pa.int32(),
    "track_id": pa.int32(),
    "status": pa.string(),
    "x": pa.int32(),
    "y": pa.int32(),
    "w": pa.int32(),
    "h": pa.int32(),
    "emotion": pa.string(),
    "smoothed_emotion": pa.string(),
    "uncertain": pa.bool_(),
}


def results_schema(
    labels: Sequence[str], model: ModelInfo | None = None, *, smoothed: bool = False
) -> pa.Schema:
    """Return the columns of a table of results with their types; the model goes to its metadata.

    ``smoothed`` adds the columns of a video, as `mien.core.results.table_columns`.
    """
    columns = table_columns(labels, smoothed=smoothed)
    fields = [pa.field(name, _TYPES.get(name, pa.float64())) for name in columns]
    metadata = {"mien.schema": SCHEMA}
    if model is not None:
        metadata["mien.model"] = json.dumps(model.to_dict())
    return pa.schema(fields, metadata=metadata)


class ParquetFormat:
    """One row a face, one row where there is none; see `mien.core.results.table_columns`."""

    suffix = ".parquet"

    def __init__(self, labels: Sequence[str], model: ModelInfo) -> None:
        """Take the labels and the identity of the model whose results these are."""
        self._labels = tuple(labels)
        self._schema = results_schema(labels, model)

    def write(self, results: Sequence[Result], path: Path) -> None:
        """Write a part."""
        rows = [_utf8(row) for one in results for row in result_rows(one, self._labels)]
        pq.write_table(pa.Table.from_pylist(rows, schema=self._schema), path, compression="zstd")

    def join(self, parts: Iterator[Path], path: Path) -> None:
        """Write all parts as one file, in row groups of about `ROW_GROUP_ROWS`."""
        with pq.ParquetWriter(path, self._schema, compression="zstd") as writer:
            waiting: list[pa.Table] = []
            rows = 0
            for table in _row_groups(parts):
                waiting.append(table)
                rows += table.num_rows
                if rows >= ROW_GROUP_ROWS:
                    writer.write_table(pa.concat_tables(waiting), row_group_size=rows)
                    waiting, rows = [], 0
            if waiting:
                writer.write_table(pa.concat_tables(waiting), row_group_size=max(1, rows))

    def write_part(self, whole: Path, path: Path) -> None:
        """Write a complete file's results as a part, which is a file of its own."""
        shutil.copyfile(whole, path)


def _row_groups(parts: Iterator[Path]) -> Iterator[pa.Table]:
    """Yield tables that can be held together: a part may be a whole file of an earlier run."""
    for part in parts:
        with pq.ParquetFile(part) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)


def _utf8(row: dict[str, Any]) -> dict[str, Any]:
    """Escape the halves of a file name that is not UTF-8, as CSV has them."""
    source = row["source"]
    if source is None or source.isascii():
        return row
    return {**row, "source": source.encode("utf-8", "backslashreplace").decode()}
