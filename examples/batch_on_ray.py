"""Analyze photos with Ray Data actors, on this machine or a cluster, and write Parquet.

`mien predict FOLDER --output results.parquet --engine ray` does the same and can be resumed. This
example is for pipelines that process the rows further.

python examples/batch_on_ray.py photos results
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to Ray's makers

import pyarrow as pa
import ray

import mien

COLUMNS = ("source", "status", "emotion", "confidence", *mien.EMOTIONS)
SCHEMA = pa.schema(
    [
        (name, pa.string() if name in ("source", "status", "emotion") else pa.float64())
        for name in COLUMNS
    ]
)


class Analyzer:
    """Actor that loads the network once, then analyzes batch after batch."""

    def __init__(self) -> None:
        """Load the recognizer with one thread, since there is an actor per core."""
        self.recognizer = mien.load(threads=1, offline=True)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return a row per face, and one for each photo without any."""
        results = self.recognizer.analyze_many(batch["item"].to_pylist())
        rows = [row for result in results for row in mien.result_rows(result)]
        return pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in rows], SCHEMA)


def main() -> None:
    """Analyze a folder of photos into a folder of Parquet files."""
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    photos = sorted(str(path.resolve()) for path in folder.rglob("*.[jp][pn]g"))
    actors = ray.data.ActorPoolStrategy(min_size=1, max_size=os.cpu_count() or 1)
    rows = ray.data.from_items(photos).map_batches(
        Analyzer, batch_format="pyarrow", batch_size=16, compute=actors
    )
    rows.write_parquet(str(output.resolve()))
    print(f"{len(photos)} photos, {ray.data.read_parquet(str(output.resolve())).count()} rows")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
