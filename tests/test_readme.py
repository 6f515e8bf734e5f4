"""Every command that README.md and CONTRIBUTING.md show is run here, on tiny data and a tiny model.

Commands run as they stand, in the order of their section, but for those in `CHANGED`, which says
what is different and why. A command or option that does not exist fails. Those of the other
documents and the recipes are parsed, not run.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_maker import write_tiny_dataset, zip_folder
from document_runner import in_a_process, run
from mien.cli.main import COMMANDS, build_parser
from video_maker import even_times, write_video

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
OTHERS = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/*.toml")])
ARCHIVE_IS_THERE = "cp -r data archive"

# The released model may not be there, and noise holds no face that a detector would find.
TINY = " --model tiny --detector none"
SMALL_RECIPE = "".join(
    f" --set {key}={value}"
    for key, value in {
        "model.backbone": "Plain",
        "model.weights": "none",
        "model.input_size": 32,
        "model.plain_channels": "[4]",
        "model.head_units": "[8]",
        "model.head_dropout": "[0.1]",
        "training.batch_size": 8,
        "training.head_epochs": 0,
        "training.epochs": 1,
        "training.full_epochs": 0,
        "training.large_size": 0,
        "training.large_epochs": 0,
    }.items()
)
# Neither a GPU nor FER+ votes nor teachers are here.
ALONE = "".join(
    f" --set {key}={value}"
    for key, value in {
        "training.backend": "tensorflow",
        "training.votes_weight": 0,
        "data.drop_not_a_face": "false",
        "data.votes": "",
        "data.targets": "labels",
        "distill.teachers": "[]",
        "distill.cache": "",
        "distill.sharp": "false",
        "distill.views": 0,
        "augmentation.plain_epochs": 0,
    }.items()
)
TRAIN = "mien train --config configs"
OWN_RUN = f"{TRAIN}/reference.toml --set data.source=archive --run outputs/mine"
RELEASE = [
    f"{TRAIN}/{recipe}.toml --set data.source=archive --run outputs/{run}"
    for recipe, run in (
        ("release-first", "mien-b0-first"),
        ("release", "mien-b0"),
    )
]
CHANGED: dict[str, str] = {
    # Targets of the Makefile are looked up, not run: they install packages, or run these tests.
    **{f"make {name}": f"make --dry-run {name}" for name in ("demo", "test", "dev", "lint")},
    "make format": "make --dry-run format",
    # Changes the environment that these tests run in.
    "pip install .": "pip install --help",
    # Needs Kaggle; its options are still checked.
    "mien data download": f"mien data download --help && {ARCHIVE_IS_THERE}",
    # The real recipes, made small.
    OWN_RUN: OWN_RUN + SMALL_RECIPE + " --set training.fine_tune_blocks=-1",
    "mien predict photo.jpg": "mien predict photo.jpg" + TINY,
    "mien predict images/astronaut.jpg": "mien predict images/astronaut.jpg" + TINY,
    "mien predict photos --format csv --output emotions.csv": (
        "mien predict photos --format csv --output emotions.csv" + TINY
    ),
    **{
        command: command + TINY
        for command in (
            "mien predict photos --output results.parquet",
            "mien predict photos --output results.parquet --resume",
        )
    },
    'mien predict "photos/*.jpg" --format jsonl --annotate annotated': (
        'mien predict "photos/*.jpg" --format jsonl --annotate annotated' + TINY
    ),
    "mien predict - --format json < photo.jpg": ("mien predict - --format json < photo.jpg" + TINY),
    "mien predict clip.mp4 --every 0.5 --timeline timeline.png --annotate annotated.mp4": (
        "mien predict clip.mp4 --every 0.5 --timeline timeline.png --annotate annotated.mp4" + TINY
    ),
    # Needs a camera, and somebody who ends it.
    "mien predict 0": "mien predict 0 --help",
    "mien explain photo.jpg --output why.png": "mien explain photo.jpg --output why.png" + TINY,
    "mien explain photo.jpg --face 0 --emotion sad --json": (
        "mien explain photo.jpg --face 0 --emotion sad --json" + TINY
    ),
    "mien doctor": "mien doctor --model tiny",
    "mien bench": "mien bench --model mien-nano --threads 1 --seconds 0.01",
    # Changes a file of the user's.
    "mien completion bash >> ~/.bashrc": "mien completion --help",
    # Goes on until it is ended.
    "mien studio": "mien studio --help",
    "mien serve": "mien serve --help",
    "mien predict photo.jpg --model outputs/mine/export": (
        "mien predict photo.jpg --model outputs/mine/export --detector none"
    ),
    # A released model on the tiny data, for one epoch of the head alone.
    "mien finetune faces --run outputs/own": (
        "mien finetune data --run outputs/own --model mien-nano --epochs 0 --threads 1 "
        "--set training.head_epochs=1"
    ),
    "mien predict photo.jpg --model outputs/own/export": (
        "mien predict photo.jpg --model outputs/own/export --detector none"
    ),
    "mien evaluate --model outputs/own --data faces": (
        "mien evaluate --model outputs/own --data data"
    ),
    "mien evaluate --model outputs/mine/export --pictures ImgTest": (
        "mien evaluate --model outputs/mine/export --pictures ImgTest --detector none"
    ),
}


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def sections(document: str) -> dict[str, list[str]]:
    """The commands of each section: the lines of its ```bash and ```console blocks."""
    found: dict[str, list[str]] = {}
    title = ""
    for part in re.split(r"^(#+ .+)$", text_of(document), flags=re.MULTILINE):
        if part.startswith("#"):
            title = part.lstrip("# ")
            continue
        for block in re.findall(r"^```(?:bash|console)\n(.*?)^```", part, re.MULTILINE | re.DOTALL):
            found.setdefault(title, []).extend(
                line.removeprefix("$ ") for line in block.splitlines() if line.strip()
            )
    return found


def cases() -> Iterator[object]:
    for document in DOCUMENTS:
        for title, commands in sections(document).items():
            trains = any(line.startswith(("mien train", "mien finetune")) for line in commands)
            marks = [pytest.mark.slow] if trains else []
            yield pytest.param(commands, id=f"{document}: {title}", marks=marks)


@pytest.fixture
def workplace(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder with all that the commands name: recipes, pictures, a data set, a model."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    shutil.copytree(tiny_model, tmp_path / "tiny")
    noise = np.random.default_rng(0)
    photos = ("photo.jpg", "photos/a.jpg", "photos/b.jpg", "images/astronaut.jpg")
    for name in (*photos, "ImgTest/happy/me.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 256, (60, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    if importlib.util.find_spec("av") is not None:
        write_video(tmp_path / "clip.mp4", even_times(30))
    write_tiny_dataset(tmp_path / "data", per_class=4)
    zip_folder(tmp_path / "data", tmp_path / "fer2013.zip")
    return tmp_path


@pytest.mark.parametrize("commands", list(cases()))
def test_commands_run(
    commands: list[str], workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if any("clip.mp4" in command for command in commands):
        pytest.importorskip("av")
    if any(".parquet" in command for command in commands):
        pytest.importorskip("pyarrow")
    for command in commands:
        code, output = run(CHANGED.get(command, command), workplace, capfd)
        assert code == 0, f"{command}\n{output}"


@pytest.mark.slow
def test_the_recipes_of_the_released_models_run(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (workplace / "data").rename(workplace / "archive")
    for command in RELEASE:
        assert command in text_of("docs/howto/training.md")
        code, output = run(command + SMALL_RECIPE + ALONE, workplace, capfd)
        assert code == 0, f"{command}\n{output}"


@pytest.mark.slow
def test_the_tutorial_runs_from_end_to_end(
    workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = {
        "mien train --config tiny --run outputs/mine": (
            "mien train --config tiny --run outputs/mine" + SMALL_RECIPE
        ),
        "mien predict photo.jpg --model outputs/mine/export": (
            "mien predict photo.jpg --model outputs/mine/export --detector none"
        ),
        # Goes on until it is ended.
        "mien serve --model outputs/mine/export": "mien serve --help",
    }
    shown = [line for each in sections("docs/tutorial.md").values() for line in each]
    assert set(changed) <= set(shown)
    for command in shown:
        if command.startswith("mien "):  # not pip, nor curl, which needs the service
            code, output = run(changed.get(command, command), workplace, capfd)
            assert code == 0, f"{command}\n{output}"
    assert (workplace / "outputs/mine/report/report.md").exists()


def test_documents_have_commands() -> None:
    shown = [
        line for document in DOCUMENTS for each in sections(document).values() for line in each
    ]
    for needed in ("make demo", "make test", "mien predict photo.jpg"):
        assert needed in shown
    for name in COMMANDS:
        assert any(f"{line} ".startswith(f"mien {name} ") for line in shown), name


def test_every_changed_command_is_in_a_document() -> None:
    shown = {
        line for document in DOCUMENTS for each in sections(document).values() for line in each
    }
    assert set(CHANGED) <= shown


def test_wrong_commands_fail(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("mien predict photo.jpg --no-such-option", workplace, capfd)[0] == 2
    assert run("make --dry-run no-such-target", workplace, capfd)[0] != 0


@pytest.mark.parametrize("path", OTHERS, ids=[str(path.relative_to(ROOT)) for path in OTHERS])
def test_the_commands_of_other_documents_parse(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    for line in re.findall(r"^(?:# +)?(mien .+)$", text.replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(re.sub(r"[\[\]]", "", line), comments=True)[1:]
        _, unknown = build_parser().parse_known_args(words)
        assert not unknown, line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_within_a_sentence_exist(document: str) -> None:
    for name in re.findall(r"`mien ([a-z]+)", text_of(document)):
        assert name in COMMANDS
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"`make ([a-z-]+)", text_of(document)):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_link_targets_exist(document: str) -> None:
    for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"]+)", text_of(document)):
        if not re.match(r"[a-z]+://|#", target):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_lines_of_python_run(workplace: Path) -> None:
    (shown,) = re.findall(r"^```python\n(.*?)^```", text_of("README.md"), re.MULTILINE | re.DOTALL)
    assert "mien.load()" in shown
    assert len(shown.strip().splitlines()) == 3
    tiny = shown.replace("mien.load()", 'mien.load("tiny", detector="none")')
    code, output = in_a_process([sys.executable, "-c", tiny], workplace)
    assert code == 0, output
    assert output.count("\n") == 1


def test_the_figures_are_between_marks() -> None:
    assert text_of("README.md").count("<!-- figures:begin results -->\n") == 1
    assert text_of("README.md").count("<!-- figures:end results -->\n") == 1
