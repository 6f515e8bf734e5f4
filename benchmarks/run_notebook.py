"""Execute the notebook of the classic recipe on a finished run and save its outputs.

The run is loaded, not trained again; the data must be those it was trained on.

    python benchmarks/run_notebook.py --run outputs/reference --data archive
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "facial_emotion_recognition.ipynb"


def main() -> None:
    """Execute all cells in the project's folder; the file is written only if all succeed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=ROOT / "outputs" / "reference")
    parser.add_argument("--data", type=Path, default=ROOT / "archive")
    options = parser.parse_args()
    if not (options.run / "summary.json").is_file():
        parser.error(f"{options.run} is not a finished run: it has no summary.json")
    os.environ["MIEN_RUN"] = str(options.run.resolve())
    os.environ["MIEN_DATA"] = str(options.data.resolve())
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(ROOT)}},
    ).execute()
    nbformat.write(notebook, NOTEBOOK)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
