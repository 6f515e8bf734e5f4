"""The notebooks run from top to bottom, and are committed as they ran."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from data_maker import write_tiny_dataset

ROOT = Path(__file__).resolve().parents[2]
CLASSIC = ROOT / "facial_emotion_recognition.ipynb"
RELEASED = ROOT / "notebooks" / "released_model.ipynb"
COMMITTED = pytest.mark.parametrize("path", [CLASSIC, RELEASED], ids=lambda path: path.stem)

# Small, with each phase of the classic recipe.
THREE_PHASES = """
[model]
backbone = "Plain"
weights = "none"
input_size = 48
head_units = [16]
head_dropout = [0.2]
plain_channels = [8, 16]
[training]
batch_size = 16
head_epochs = 1
epochs = 3
fine_tune_blocks = 1
full_epochs = 1
class_weights = true
class_weight_power = 0.5
early_stopping = 4
ema = 0.9
"""

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


def read_notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cells: list[Any]) -> str:
    """Return the text of cells' outputs, each run of blanks as one."""
    parts = []
    for output in (output for cell in cells for output in cell.outputs):
        parts += [output.get("text", ""), output.get("data", {}).get("text/markdown", "")]
    return " ".join("\n".join(parts).split())


def run_cells(notebook: Any, folder: Path) -> list[Any]:
    """Run a notebook in a folder, and return its code cells."""
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    return cells


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the notebook takes from the environment, but for the data; returns the run's folder."""
    run = tmp_path / "run"
    monkeypatch.setenv("MIEN_RUN", str(run))
    monkeypatch.setenv("MIEN_PICTURES", str(ROOT / "images"))
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_classic_notebook_runs_from_kaggles_folder_to_photos(
    surroundings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(THREE_PHASES, encoding="utf-8")
    data = write_tiny_dataset(tmp_path / "data", per_class=16, kaggle=True)
    assert sorted(path.name for path in data.iterdir()) == ["test", "train"]
    monkeypatch.setenv("MIEN_DATA", str(data))
    monkeypatch.setenv("MIEN_RECIPE", str(recipe))
    notebook = read_notebook(CLASSIC)
    # Once more at the end: a finished run is opened with its own recipe, and trained no further.
    again = [cell for cell in code_cells(notebook) if "config = " in cell.source]
    again += [cell for cell in code_cells(notebook) if "trainer.resume" in cell.source]
    notebook.cells += copy.deepcopy(again)
    notebook.cells += [nbformat.v4.new_code_cell("print(len(read_history(run.history)['epoch']))")]
    cells = run_cells(notebook, ROOT)
    assert len(again) == 2
    assert printed(cells[-3:]).split() == ["4"]
    text = printed(cells)
    assert "| surprise | 16 | 8 | 8 |" in text
    assert "| head alone | 1 to 1 |" in text
    assert "| head and last 1 blocks | 2 to 3 |" in text
    assert "| everything | 4 to 4 |" in text
    assert "4 of 4 epochs" in text
    assert "early stopping did not end the run: never 4 epochs" in text
    assert "sample.png · 7 faces" in text
    assert (surroundings / "export" / "model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_notebook_of_the_released_model_runs_on_a_tiny_data_set(
    surroundings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_DATA", str(write_tiny_dataset(tmp_path / "data", per_class=16)))
    monkeypatch.setenv("MIEN_RECIPE", str(ROOT / "configs" / "tiny.toml"))
    text = printed(run_cells(read_notebook(RELEASED), ROOT))
    assert "| surprise | 16 |" in text
    assert "sample.png · 7 faces" in text
    assert (surroundings / "export" / "model.onnx").is_file()
    assert (surroundings / "notebook" / "samples.png").is_file()


@COMMITTED
def test_committed_notebooks_ran_in_order_without_errors(path: Path) -> None:
    cells = code_cells(read_notebook(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)


@COMMITTED
def test_committed_notebooks_show_real_data_and_figures(path: Path) -> None:
    cells = code_cells(read_notebook(path))
    assert "28,709" in printed(cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5


@COMMITTED
def test_committed_notebooks_name_no_folder_of_a_machine(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not any(place in source for place in (str(ROOT), "/home/", "/tmp/", "/root/", "/Users/"))


def test_the_classic_recipe_has_the_result_in_its_header() -> None:
    header = (ROOT / "configs" / "reference.toml").read_text(encoding="utf-8")
    accuracy = re.search(r"([\d.]+) % of PublicTest", header)
    assert accuracy
    assert f"best accuracy on PublicTest: {accuracy[1]} %" in printed(
        code_cells(read_notebook(CLASSIC))
    )
