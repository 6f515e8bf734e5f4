"""Every script in examples/ runs, on tiny inputs, and says what it promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service_maker import loader, running
from video_maker import even_times, write_video

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SAMPLE = ROOT / "images/sample.png"
"""Seven faces."""


def example(name: str, folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *words],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of the sample picture and one in which nobody is."""
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(SAMPLE, folder)
    Image.new("RGB", (64, 64), "grey").save(folder / "nobody.png")
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds of the sample picture."""
    pytest.importorskip("av")
    with Image.open(SAMPLE) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((852, 332)))
    write_video(tmp_path / "clip.mp4", even_times(20), draw=lambda _: pixels)
    return tmp_path / "clip.mp4"


def test_the_table_of_examples_names_each_of_them() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    there = {path.name for kind in ("*.py", "*.ipynb") for path in EXAMPLES.glob(kind)}
    assert set(re.findall(r"\((\w+\.(?:py|ipynb))\)", table)) == there


def test_webcam(clip: Path) -> None:
    lines = example("webcam.py", clip.parent, "clip.mp4").splitlines()
    assert lines[0].startswith("   0.0 s  #0 ")
    assert lines[0].count("%") == 7


def test_folder_to_pandas(photos: Path) -> None:
    pytest.importorskip("pandas")
    shown = example("folder_to_pandas.py", photos, str(photos))
    assert re.search(r"ok +7", shown)
    assert re.search(r"no_face +1", shown)
    assert re.search(r"happy +1 ", shown)


def test_video_report(clip: Path) -> None:
    assert example("video_report.py", clip.parent, "clip.mp4").startswith("people: 7, ")
    with Image.open(clip.parent / "clip.timeline.png") as picture:
        assert picture.width > 600
    rows = (clip.parent / "clip.episodes.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("person,start_s,end_s,emotion")
    assert len(rows) == 8


def test_own_classes(tmp_path: Path) -> None:
    with Image.open(SAMPLE) as picture:  # 1704 x 664: angry, disgust, fear, happy; below, three
        halves = {
            "left": picture.crop((0, 0, 430, 350)),
            "right": picture.crop((1250, 0, 1704, 350)),
        }
    for name, part in halves.items():
        (tmp_path / "faces" / name).mkdir(parents=True)
        part.save(tmp_path / "faces" / name / "a.png")
        part.resize((part.width * 2, part.height * 2)).save(tmp_path / "faces" / name / "b.png")
    halves["right"].save(tmp_path / "photo.png")
    lines = example("own_classes.py", tmp_path, "faces", "photo.png").splitlines()
    assert lines[:2] == ["left: 2 faces", "right: 2 faces"]
    assert lines[2].startswith("right ")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["folder_to_pandas", "video_report"])
def test_notebooks(
    name: str, photos: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat, nbclient = map(pytest.importorskip, ("nbformat", "nbclient"))
    pytest.importorskip("pandas")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    settings = {"timeout": 240, "kernel_name": "python3"}
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, resources=place, **settings).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert all(output.output_type != "stream" for output in shown), "a warning, or a note"
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == {"folder_to_pandas": 1, "video_report": 2}[name]
    text = " ".join(output.data["text/plain"] for output in shown if "data" in output)
    assert {"folder_to_pandas": "no_face", "video_report": "second half"}[name] in text


@pytest.mark.slow
def test_batch_on_ray(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    assert "2 photos, 8 rows" in example("batch_on_ray.py", tmp_path, str(photos), "results")


def test_http_client(photos: Path, tiny_model: Path) -> None:
    pytest.importorskip("uvicorn")
    (photos / "broken.png").write_bytes(b"no picture")
    with running(loader(tiny_model)) as service:
        address = f"http://127.0.0.1:{service.port}"
        names = ("sample.png", "broken.png")
        read, refused = example("http_client.py", photos, "--address", address, *names).splitlines()
    assert re.fullmatch(r"sample\.png: \w+ \d+% at \{'x': 0, .*\}", read)
    assert refused.startswith("broken.png: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["folder_to_pandas.py"], "python examples/folder_to_pandas.py photos"),
        (["own_classes.py", "folder"], "python examples/own_classes.py FOLDER photo.jpg"),
        (["http_client.py", "missing.jpg"], "missing.jpg"),
    ],
)
def test_a_wrong_call_is_an_error_without_a_traceback(
    words: list[str], message: str, tmp_path: Path
) -> None:
    if words[0] == "folder_to_pandas.py":
        pytest.importorskip("pandas")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / words[0]), *words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
