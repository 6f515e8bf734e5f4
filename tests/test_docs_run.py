"""What the pages of the documentation show runs, on tiny data: Python, and commands of ``mien``.

Commands run in the order of the page, but for those of `PARSED`, which `test_readme` parses; then
its Python, from top to bottom. The tutorial is run by `test_readme`, the service by its own tests.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_maker import write_tiny_dataset
from document_runner import in_a_process, run
from mien.core.emotions import EMOTIONS
from mien.data.loading import load_split
from video_maker import even_times, write_video

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(page for page in ROOT.glob("docs/**/*.md") if page.name != "tutorial.md")

SLOW = ("evaluation.md", "reports.md", "training.md", "model-files.md")
SERVICE = "127.0.0.1:8000"
_LAST = ("angry", "disgust", "fear")

PARSED = {
    r"https?://|rtsp://|download": "the network",
    r"predict 0|10\.0\.0\.1": "a camera, or a cluster",
    r"engine ray": "minutes; tests/batch has it",
    r"mien serve|mien studio": "goes on until it is ended",
    r"SOURCE|FOLDER|student\.toml": "a name to be put in",
    r"mien (train|finetune|export)|outputs/": "trains; the README's and the tutorial's are run",
    r"--update|--release": "writes over the repository's own pages",
    r"mien bench": "measures, at its leisure",
}
"""What is in a command that is parsed and not run, and why."""


def blocks(page: Path, languages: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{languages})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line for block in blocks(page, "|bash|console") for line in block.splitlines()]
    typed = [line for line in lines if line.startswith(("mien ", "printf "))]
    shown = [line.split("   #")[0].strip() for line in typed]
    return [line for line in shown if not any(re.search(part, line) for part in PARSED)]


def python(page: Path) -> str:
    return "\n".join(one for one in blocks(page, "python") if SERVICE not in one)


def pages() -> list[object]:
    return [
        pytest.param(
            page,
            id=str(page.relative_to(ROOT / "docs")),
            marks=[pytest.mark.slow] if page.name in SLOW else [],
        )
        for page in PAGES
        if commands(page) or python(page)
    ]


def write_votes(archive: Path, target: Path) -> None:
    """Write a file of votes in which all ten annotators say what the label says."""
    columns = [EMOTIONS.index(name) for name in (*("neutral", "happy", "surprise", "sad"), *_LAST)]
    rows = ["split,file,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for name in ("train", "val", "test"):
        split = load_split(archive, name, cache=False)
        for file, label in zip(split.files, split.labels, strict=True):
            votes = [10 * (column == label) for column in columns]
            rows.append(f"{name},{Path(file).name}," + ",".join(map(str, [*votes, 0, 0, 0])))
    target.write_text("\n".join(rows) + "\n")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with what pages name: photos, clips, class folders, a data set."""
    pytest.importorskip("av")
    sample = ROOT / "images/sample.png"
    with Image.open(sample) as picture:
        small = picture.convert("RGB").resize((852, 332))
    with Image.open(ROOT / "images/astronaut.jpg") as picture:
        portrait = picture.convert("RGB").resize((320, 320))
    for name in ("photo.jpg", "a.jpg", "b.png", "photos/a.jpg", "ImgTest/happy/me.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        portrait.save(tmp_path / name)
    (tmp_path / "images").mkdir()
    shutil.copy(sample, tmp_path / "images")
    portrait.save(tmp_path / "images" / "astronaut.jpg")
    for name in ("clip.mp4", "a.mp4", "b.mp4"):
        write_video(tmp_path / name, even_times(50), draw=lambda _: np.asarray(small))
    write_tiny_dataset(tmp_path / "archive", per_class=10)
    write_votes(tmp_path / "archive", tmp_path / "votes.csv")
    for folder in ("faces/happy", "faces/sad", "smiles/grin", "smiles/cry", "smiles/other"):
        (tmp_path / folder).mkdir(parents=True)
        small.crop((0, 0, 200, 170)).save(tmp_path / folder / "a.png")
    for name, place in (("happy", 640), ("sad", 350)):
        (tmp_path / "photos" / name).mkdir()
        small.crop((place, 0, place + 210, 332)).save(tmp_path / "photos" / name / "c.png")
    return tmp_path


@pytest.mark.parametrize("page", pages())
def test_commands_and_python_of_a_page_run(
    page: Path, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown, code = commands(page), python(page)
    for word, module in (("evaluate", "seaborn"), ("parquet", "pyarrow"), ("pandas", "pandas")):
        if word in "\n".join([*shown, code]):
            pytest.importorskip(module)
    if "plot" in code:
        pytest.importorskip("matplotlib")
    if "mien.training" in code:
        pytest.importorskip("keras")
    for line in shown:
        status, output = run(line, workplace, capfd)
        assert status == 0, f"{line}\n{output}"
    program = workplace / "page.py"  # which processes that it starts read, too
    program.write_text("if __name__ == '__main__':\n" + re.sub("^", "    ", code, flags=re.M))
    if code:
        status, output = in_a_process([sys.executable, program.name], workplace)
        assert status == 0, output


def test_wrong_commands_and_python_fail(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = "import mien; mien.load().analyse('a')"
    assert in_a_process([sys.executable, "-c", wrong], workplace)[0] != 0
    assert run("mien predict nobody.jpg", workplace, capfd)[0] == 3
