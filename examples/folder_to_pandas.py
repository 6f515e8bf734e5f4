"""Analyze a folder of photos into a data frame: counts, mean scores, the least certain faces.

python examples/folder_to_pandas.py photos
"""

import sys
from pathlib import Path

import pandas as pd

import mien

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def analyze_folder(folder: Path) -> pd.DataFrame:
    """Return a row per face, and one for each photo without a face or that cannot be read."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return mien.load().analyze_many(paths).to_pandas()


def main() -> None:
    """Print the summary of a folder."""
    table = analyze_folder(Path(sys.argv[1]))
    print(table["status"].value_counts().to_string(), "\n")
    faces = table[table["status"] == "ok"]
    by_emotion = faces.groupby("emotion")
    print(by_emotion.agg(faces=("source", "size"), confidence=("confidence", "mean")), "\n")
    print(faces[list(mien.EMOTIONS)].mean().rename("mean score").round(3).to_string(), "\n")
    print(faces.nsmallest(3, "confidence")[["source", "emotion", "confidence", "uncertain"]])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main()
    except mien.MienError as error:  # one line: what happened and how to fix it
        sys.exit(str(error))
