r"""Accuracy and cost of mien and its peers, fer and human.

    python benchmarks/peers/compare.py --data archive --votes ferplus.csv --photo PHOTO \
        --photos FOLDER --cache /tmp/peers --update README.md

Each tool runs in its own environment, installed into the cache folder from PyPI or npm at the
first run (fer's takes 7 GB). Predictions of the peers are cached there until their reader or the
images change; those of mien, and all times, are measured again, with the tools in turn.
docs/evidence/peers.md describes the comparison and its limits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS, find_emotion
from mien.data.dataset import Split
from mien.data.loading import load_split
from mien.data.votes import load_votes, with_majority
from mien.evaluation.tables import decimal, markdown_table, percent, update_marked_section
from mien.inference.classifier import Classifier

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECTION = "peers"
MODELS = ("mien-b0", "mien-nano")
WIDTH = 640
WARM, TIMED_CROPS = 20, 200
QUALITY = ("tool", "FER-2013", "FER+ majority", "photos", "balanced", "neutral", "no face")
COSTS = ("tool", "cold start", "ms per photo", "ms per face", "peak memory", "installed")

Emotions = Sequence["str | None"]


@dataclass(frozen=True)
class Tool:
    """One row of the tables.

    Attributes:
        name: name in the tables.
        environment: "mien", "fer" or "human".
        arguments: arguments of its reader before mode and file.
    """

    name: str
    environment: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """Result of one reader process.

    Attributes:
        emotions: emotion of each image; None where no face was found.
        seconds: processor time of each image.
        cold: processor seconds from the start of the process to its first prediction.
        memory: peak resident memory in MB.
    """

    emotions: Emotions
    seconds: Sequence[float]
    cold: float
    memory: float


@dataclass(frozen=True)
class Scores:
    """Agreement of predictions with labels, as shares 0-1."""

    accuracy: float
    balanced: float
    recalls: dict[str, float]
    no_face: int

    @classmethod
    def of(cls, emotions: Emotions, labels: npt.NDArray[np.int64]) -> Scores:
        """Score predictions; a missing face counts as wrong.

        Args:
            emotions: N predictions.
            labels: (N,), indices into `EMOTIONS`.
        """
        predicted = np.array([-1 if name is None else EMOTIONS.index(name) for name in emotions])
        right = predicted == labels
        recalls = {
            EMOTIONS[label]: float(right[labels == label].mean()) for label in np.unique(labels)
        }
        balanced = statistics.fmean(recalls.values())
        return cls(float(right.mean()), balanced, recalls, int(np.count_nonzero(predicted < 0)))


@dataclass(frozen=True)
class Costs:
    """Costs of a tool: processor time (cold in s, photo and face in ms) and MB."""

    cold: float
    photo: float
    face: float
    memory: float
    installed: float


@dataclass(frozen=True)
class Pictures:
    """The evaluated images: a split, its images with a majority of votes, and photos.

    Attributes:
        split: split of FER-2013.
        places: indices of the split's images with a majority of votes.
        majority: their majority votes, (len(places),), indices into `EMOTIONS`.
        photos: JPEG files.
        photo_labels: (len(photos),), indices into `EMOTIONS`.
    """

    split: Split
    places: list[int]
    majority: npt.NDArray[np.int64]
    photos: list[Path]
    photo_labels: npt.NDArray[np.int64]


def main() -> None:
    """Measure, and print and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="FER-2013, as in mien train")
    parser.add_argument("--votes", type=Path, required=True, help="FER+ votes, as in mien train")
    parser.add_argument(
        "--photo", type=Path, required=True, help="photo to time, scaled to a width of 640 pixels"
    )
    parser.add_argument("--photos", type=Path, help="class folders of JPEG photos")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for environments and predictions"
    )
    parser.add_argument("--turns", type=int, default=3, help="timed processes per tool")
    parser.add_argument("--only", nargs="+", choices=("mien", "fer", "human"), help="tools to run")
    parser.add_argument("--update", type=Path, nargs="+", default=[], metavar="FILE")
    args = parser.parse_args()
    cache = args.cache.resolve()
    pictures = load_pictures(args.data, args.split, args.votes, args.photos)
    chosen = [tool for tool in tools() if not args.only or tool.environment in args.only]
    for name in dict.fromkeys(tool.environment for tool in chosen):
        make_environment(name, cache / name)
    with tempfile.TemporaryDirectory() as scratch:
        crops, photos = write_inputs(pictures, Path(scratch))
        read = {
            tool.name: (
                readings(tool, cache, "crops", crops, [crops]),
                readings(tool, cache, "photos", photos, pictures.photos) if args.photos else None,
            )
            for tool in chosen
        }
        taken = costs(chosen, cache, args.photo, pictures.split, Path(scratch), args.turns)
    text = section(pictures, read, taken)
    print(text)
    for path in args.update:
        update_marked_section(path, SECTION, text)


def tools() -> list[Tool]:
    """Return the models of mien with all their readings, and the peers."""
    mien = []
    for model in MODELS:
        manifest = Classifier.open(model, threads=1).manifest
        mien += [
            Tool(f"{model} {manifest.version}, {labels}", "mien", (model, labels))
            for labels in manifest.readings
        ]
    return [
        *mien,
        Tool("fer 25.10.3, Haar", "fer", ("haar",)),
        Tool("fer 25.10.3, MTCNN", "fer", ("mtcnn",)),
        Tool("human 3.3.6", "human"),
    ]


def load_pictures(data: Path, split: str, votes: Path, photos: Path | None) -> Pictures:
    """Load the images and their labels."""
    images = load_split(data, split)
    agreed = with_majority(images, load_votes(votes))
    index_of = {file: index for index, file in enumerate(images.files)}
    files = sorted(photos.resolve().glob("*/*.jp*g")) if photos else []
    labels = [label_of(file) for file in files]
    places = [index_of[file] for file in agreed.files]
    return Pictures(images, places, agreed.labels, files, np.array(labels, np.int64))


def label_of(file: Path) -> int:
    """Return the label of a photo from the name of its folder."""
    emotion = find_emotion(file.parent.name)
    if emotion is None:
        sys.exit(f"{file.parent}: expected a folder named after an emotion")
    return EMOTIONS.index(emotion)


def make_environment(name: str, folder: Path) -> None:
    """Install a tool into a folder, unless the same version is installed."""
    if name == "mien":  # the checkout changes, and so may what it requires
        shutil.rmtree(folder, ignore_errors=True)
        make_venv(folder, [str(ROOT)])
        return
    pins = HERE / ("fer.txt" if name == "fer" else "package.json")
    made = folder / "made-from.txt"
    if made.exists() and made.read_text() == pins.read_text():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if name == "fer":
        make_venv(folder, ["--requirement", str(pins)])
    else:
        shutil.copy(pins, folder)
        call(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
    made.write_text(pins.read_text())


def make_venv(folder: Path, wanted: list[str]) -> None:
    """Create a virtual environment with packages, and with nothing else but pip."""
    call([sys.executable, "-m", "venv", str(folder)], ROOT)
    pip = [str(python_in(folder)), "-m", "pip", "--quiet"]
    call([*pip, "uninstall", "--yes", "setuptools"], ROOT)  # Python 3.10 and 3.11 install it
    call([*pip, "install", *wanted], ROOT)


def call(command: list[str], folder: Path) -> None:
    """Run a command, with its output on stderr; exit if it fails."""
    try:
        subprocess.run(command, check=True, cwd=folder, stdout=sys.stderr)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"cannot run {command[0]}: {error}")


def python_in(folder: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return folder / "bin" / "python"


def installed_size(name: str, folder: Path) -> float:
    """Return the size of a tool's packages in MB, without pip, Python and Node."""
    packages = (
        folder / "node_modules" if name == "human" else next(folder.glob("lib/*/site-packages"))
    )
    files = (path for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
    return (
        sum(
            path.stat().st_size
            for path in files
            if not path.relative_to(packages).parts[0].startswith("pip")
        )
        / 1e6
    )


def write_inputs(pictures: Pictures, scratch: Path) -> tuple[Path, Path]:
    """Write the inputs of the readers: the bytes of all crops, and a list of the photos."""
    crops, photos = scratch / "crops.bin", scratch / "photos.txt"
    pictures.split.images.tofile(crops)
    photos.write_text("".join(f"{path}\n" for path in pictures.photos))
    return crops, photos


def readings(tool: Tool, cache: Path, mode: str, file: Path, contents: Iterable[Path]) -> Emotions:
    """Return the predictions of a tool; those of peers are cached.

    Args:
        tool: the tool.
        cache: folder of the environments and predictions.
        mode: "crops" or "photos".
        file: input file of the reader.
        contents: files with the bytes of the images, which identify a cached result.
    """
    if tool.environment == "mien":
        return run(tool, cache, mode, file).emotions
    key = ("crops" if mode == "crops" else " ".join(tool.arguments), mode)
    digest = hashlib.sha256(" ".join((tool.environment, *key)).encode())
    sources = {
        "fer": ("reader.py", "fer_reader.py", "fer.txt"),
        "human": ("human_reader.cjs", "package.json"),
    }
    for path in (*(HERE / name for name in sources[tool.environment]), *contents):
        digest.update(path.read_bytes())
    cached = cache / "readings" / f"{tool.environment}-{mode}-{digest.hexdigest()[:16]}.json"
    if not cached.exists():
        emotions = run(tool, cache, mode, file).emotions
        cached.parent.mkdir(exist_ok=True)
        cached.write_text(json.dumps(emotions))
    return list(json.loads(cached.read_text()))


def costs(
    chosen: Sequence[Tool], cache: Path, photo: Path, split: Split, scratch: Path, turns: int
) -> dict[str, Costs]:
    """Time a photo and crops with each tool in turn; return the minimum of each time."""
    picture = cv2.imread(str(photo))
    if picture is None:
        sys.exit(f"{photo}: expected a picture")
    height, width = picture.shape[:2]
    size = (WIDTH, round(height * WIDTH / width))
    file, crops = scratch / "photo.jpg", scratch / "some.bin"
    cv2.imwrite(str(file), cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    again = scratch / "again.txt"
    again.write_text(f"{file}\n" * (1 + WARM))
    split.images[:TIMED_CROPS].tofile(crops)
    runs: dict[str, list[tuple[Run, Run]]] = {tool.name: [] for tool in chosen}
    for _ in range(turns):
        for tool in chosen:
            both = run(tool, cache, "photos", again), run(tool, cache, "crops", crops)
            runs[tool.name].append(both)
    return {
        tool.name: Costs(
            cold=min(photos.cold for photos, _ in runs[tool.name]),
            photo=1e3 * min(statistics.median(photos.seconds[1:]) for photos, _ in runs[tool.name]),
            face=1e3 * min(statistics.median(faces.seconds[1:]) for _, faces in runs[tool.name]),
            memory=max(photos.memory for photos, _ in runs[tool.name]),
            installed=installed_size(tool.environment, cache / tool.environment),
        )
        for tool in chosen
    }


def run(tool: Tool, cache: Path, mode: str, file: Path) -> Run:
    """Run the reader of a tool on one thread."""
    folder = cache / tool.environment
    if tool.environment == "human":
        command = ["node", str(HERE / "human_reader.cjs")]
    else:
        command = [str(python_in(folder)), str(HERE / f"{tool.environment}_reader.py")]
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {
        **os.environ,
        **dict.fromkeys(names, "1"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONDONTWRITEBYTECODE": "1",  # for the readers; packages are compiled at installation
        "MIEN_HOME": str(cache / "home"),  # so that mien uses only what its package contains
    }
    environment.pop("PYTHONPATH", None)
    command += [*tool.arguments, mode, str(file)]
    print(" ".join(command), file=sys.stderr)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=output, stderr=errors, env=environment, cwd=folder
        )
        _, status, usage = os.wait4(process.pid, 0)
        # os.wait4() has already waited, so the Popen object needs the result.
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed: {errors.read().strip().splitlines()[-1:]}")
        # Messages of the tool come first; the last line is the reader's.
        result = json.loads(output.read().strip().splitlines()[-1])
    return Run(result["emotions"], result["seconds"], result["first"], usage.ru_maxrss / 1024)


def section(
    pictures: Pictures, read: dict[str, tuple[Emotions, Emotions | None]], taken: dict[str, Costs]
) -> str:
    """Return both tables in Markdown, with a description of their columns."""
    quality = [
        (
            name,
            *quality_cells(
                Scores.of(crops, pictures.split.labels),
                Scores.of([crops[place] for place in pictures.places], pictures.majority),
                Scores.of(photos, pictures.photo_labels) if photos is not None else None,
            ),
        )
        for name, (crops, photos) in read.items()
    ]
    spent = [(name, *cost_cells(tool_costs)) for name, tool_costs in taken.items()]
    images, agreed, photos = len(pictures.split), len(pictures.places), len(pictures.photos)
    return (
        f"{markdown_table(QUALITY, quality)}\n\n"
        f"FER-2013: accuracy on the labels of its {pictures.split.name} split, {images:,} faces. "
        f"FER+ majority: agreement with the majority of ten annotators on {agreed:,} of these. "
        f"Photos, balanced, neutral: accuracy on {photos:,} photos, end to end, for the largest "
        "face; its mean over the emotions; and on neutral photos. No face: photos without a "
        "detected face, which count as wrong.\n\n"
        f"{markdown_table(COSTS, spent)}\n\n"
        "Times are CPU times on one thread. Cold start: from the start of the process to its first "
        f"reading. Photo: {WIDTH} pixels wide, including detection. Face: 48 x 48 pixels, already "
        "cropped. Installed: without Python and Node themselves."
    )


def quality_cells(labels: Scores, majority: Scores, photos: Scores | None) -> tuple[str, ...]:
    """Return the cells of `QUALITY` after the first."""
    shares = (labels.accuracy, majority.accuracy)
    seen = (
        (None, None, None)
        if photos is None
        else (photos.accuracy, photos.balanced, photos.recalls.get("neutral"))
    )
    cells = [percent(share, digits=1) for share in (*shares, *seen)]
    return (*cells, "-" if photos is None else f"{photos.no_face:,}")


def cost_cells(costs: Costs) -> tuple[str, ...]:
    """Return the cells of `COSTS` after the first."""
    return (
        f"{decimal(costs.cold, digits=2)} s",
        decimal(costs.photo, digits=0),
        decimal(costs.face, digits=2),
        f"{costs.memory:,.0f} MB",
        f"{costs.installed:,.0f} MB",
    )


if __name__ == "__main__":
    main()
