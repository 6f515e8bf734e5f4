"""The notebook runs from top to bottom, and is committed as it ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_maker import write_tiny_dataset

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "facial_emotion_recognition.ipynb"

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def read_notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    """Return the text of a cell's outputs."""
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts.append(output.get("text", "") + data.get("text/markdown", ""))
    return "\n".join(parts)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_all_cells_run_on_a_tiny_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_tiny_dataset(tmp_path / "data", per_class=16)
    monkeypatch.setenv("MIEN_DATA", str(data))
    monkeypatch.setenv("MIEN_RECIPE", str(ROOT / "configs" / "tiny.toml"))
    monkeypatch.setenv("MIEN_RUN", str(tmp_path / "run"))
    monkeypatch.setenv("MIEN_PICTURES", str(ROOT / "images"))
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read_notebook()
    for cell in code_cells(notebook):
        cell.outputs = []
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = "\n".join(printed(cell) for cell in cells)
    assert "| surprise | 16 |" in " ".join(text.split())
    assert "sample.png · 7 faces" in text
    assert (tmp_path / "run" / "export" / "model.onnx").is_file()
    assert (tmp_path / "run" / "notebook" / "samples.png").is_file()


def test_committed_notebook_ran_in_order_without_errors() -> None:
    cells = code_cells(read_notebook())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)


def test_committed_notebook_shows_real_data_and_figures() -> None:
    cells = code_cells(read_notebook())
    text = "\n".join(printed(cell) for cell in cells)
    assert "28,709" in text
    pictures = [
        output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 5


def test_committed_notebook_names_no_folder_of_a_machine() -> None:
    source = NOTEBOOK.read_text(encoding="utf-8")
    assert not any(place in source for place in (str(ROOT), "/home/", "/tmp/", "/root/", "/Users/"))
