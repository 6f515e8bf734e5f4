from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from mien.batch.parquet import ParquetFormat
from mien.core.results import Box, Face, ModelInfo, Quality, Result


def test_classes_with_names_of_columns_keep_columns_and_types_apart(tmp_path: Path) -> None:
    scores = {"status": 0.5, "x": 0.3, "emotion": 0.2}
    face = Face(0, Box(1, 2, 5, 6), 0.9, "status", 0.5, False, scores, Quality(5, 0.0))
    model = ModelInfo("own", "1.0.0", "ab" * 32)
    form = ParquetFormat(tuple(scores), model)
    form.write([Result("a.jpg", "ok", model, 9, 9, (face,))], tmp_path / "part.parquet")
    form.join(iter([tmp_path / "part.parquet"]), tmp_path / "whole.parquet")
    (row,) = pq.read_table(tmp_path / "whole.parquet").to_pylist()
    assert (row["status"], row["x"], row["emotion"]) == ("ok", 1, "status")
    assert (row["score_status"], row["score_x"], row["score_emotion"]) == (0.5, 0.3, 0.2)
