"""Finding and running the networks that a student learns from.

A teacher is a run's folder, whose ``best.keras`` is run by Keras on whatever the recipe trains on,
or an exported model, which ONNX Runtime runs whatever Keras' backend is. Both give raw logits: a
temperature that was fitted for calibration is left aside, for a run has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError
from mien.core.files import sha256_of
from mien.core.manifest import INPUT_CONTRACT, OUTPUT_CONTRACT, load_manifest
from mien.core.models import MANIFEST_NAME, find_model
from mien.training.augmentation import Faces, Floats
from mien.training.model import load_keras_model
from mien.training.run_folder import RunFolder

Network = Callable[[Faces], Floats]
"""Standard faces, uint8 (N, 48, 48), to logits, float32 (N, classes)."""


@dataclass(frozen=True)
class Teacher:
    """A teacher that may or may not be there.

    Attributes:
        source: what the recipe calls it.
        file: its ``best.keras`` or ``model.onnx``, None where there is none.
        digest: SHA-256 of that file, empty where there is none.
    """

    source: str
    file: Path | None = None
    digest: str = ""

    @property
    def name(self) -> str:
        """Its folder's name, which its cached logits go by."""
        return Path(self.source).name

    def missing(self) -> ModelError:
        """Return the error for one that is needed and not there."""
        return ModelError(
            f"no teacher {self.source!r}: expected a run's folder with best.keras in it, an "
            f"exported model's folder with {MANIFEST_NAME}, or a bundled model's name"
        )


def find_teacher(source: str, labels: Sequence[str] = EMOTIONS) -> Teacher:
    """Look for a teacher; one that is not there is no error as long as its logits are.

    Args:
        source: what the recipe calls it.
        labels: the classes that it must tell apart, in order.

    Raises:
        ModelError: if an exported model is damaged, or has other classes.
    """
    run = RunFolder(Path(source))
    if run.best.is_file():
        return Teacher(source, run.best, sha256_of(run.best))
    try:
        folder = find_model(source)
    except ModelError:
        return Teacher(source)
    if not (folder / MANIFEST_NAME).is_file():
        return Teacher(source)
    manifest = load_manifest(folder, labels=labels)
    return Teacher(source, folder / manifest.file.name, manifest.file.sha256)


def open_teacher(teacher: Teacher, *, batch: int, threads: int = 0) -> Network:
    """Open a teacher; Keras must be set up already.

    Args:
        teacher: which.
        batch: faces that go through it at once.
        threads: of ONNX Runtime, 0 for all; Keras has its own.

    Raises:
        ModelError: if it is missing, damaged, or not a network of this project.
    """
    if teacher.file is None:
        raise teacher.missing()
    if teacher.file.suffix == ".keras":
        return _open_keras(teacher.file, batch)
    return open_onnx(teacher.file, batch=batch, threads=threads)


def _open_keras(path: Path, batch: int) -> Network:
    import keras

    whole = load_keras_model(path)
    try:
        network = keras.Model(whole.input, whole.get_layer("logits").output)
    except ValueError as error:
        raise ModelError(f"{path} is no teacher: expected a network of this project") from error
    # XLA on a CPU is ten times slower, but for JAX, which is nothing else.
    network.compile(jit_compile="auto" if keras.backend.backend() == "jax" else False)

    def logits(faces: Faces) -> Floats:
        # One shape for every batch: a new one would be compiled anew.
        padding = [(0, batch - len(faces)), (0, 0), (0, 0), (0, 0)]
        padded = np.pad(faces[..., None].astype(np.float32), padding)
        return np.asarray(network.predict_on_batch(padded), np.float32)[: len(faces)]

    return _in_batches(logits, batch)


def open_onnx(
    path: Path, *, batch: int, threads: int = 0, output: str = OUTPUT_CONTRACT["logits"]
) -> Network:
    """Open an exported network, one of its outputs; else as `open_teacher`."""
    from mien.core.onnx_runtime import new_session

    try:
        session = new_session(str(path), threads=threads)
    except Exception as error:  # ONNX Runtime's own errors share no nearer base
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} is not an ONNX model that can be run ({reason})") from error

    def logits(faces: Faces) -> Floats:
        inputs = {INPUT_CONTRACT["name"]: np.ascontiguousarray(faces)}
        return np.asarray(session.run([output], inputs)[0], np.float32)

    return _in_batches(logits, batch)


def _in_batches(network: Network, size: int) -> Network:
    def logits(faces: Faces) -> Floats:
        starts = range(0, len(faces), size)
        return np.concatenate([network(faces[start : start + size]) for start in starts])

    return logits
