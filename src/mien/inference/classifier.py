"""Emotion classifier in ONNX Runtime: standard faces to calibrated probabilities, and its speed."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.calibration import Temperature, log_mean
from mien.core.checks import check_integer, check_type
from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError, UsageError, error_reason
from mien.core.images import FACE_SIZE
from mien.core.manifest import INPUT_CONTRACT, Manifest, load_manifest
from mien.core.models import DEFAULT_MODEL, find_model
from mien.core.onnx_runtime import onnxruntime
from mien.core.process import usable_cores
from mien.inference.onnx_model import ModelSession
from mien.inference.preprocess import tta_views

BATCH_SIZE = 64
"""Default number of faces per network call."""

Session: TypeAlias = "onnxruntime.InferenceSession | ModelSession"


class Classifier:
    """ONNX session with its manifest; keeps no state between calls, so that threads can share it.

    A classifier opened from a folder can be pickled, copied and forked (see `ModelSession`).
    """

    def __init__(self, session: Session, manifest: Manifest, *, path: Path | None = None) -> None:
        """Wrap a session of the manifest's model, opened from ``path``; `open` does both."""
        self._session = session
        self.manifest = manifest
        self.path = path
        bias = np.array([manifest.bias.get(label, 0.0) for label in manifest.labels], np.float64)
        self._bias: npt.NDArray[np.float64] | None = bias if bias.any() else None

    @classmethod
    def open(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        threads: int | None = None,
        labels: Sequence[str] | None = EMOTIONS,
        reading: str | None = None,
    ) -> Classifier:
        """Open a model.

        Args:
            model: name of a bundled model, or a model's folder.
            threads: threads per call; all cores if None.
            labels: expected classes; None accepts a model with any classes.
            reading: labels to follow, "people" or "fer2013" (see `mien.core.models`); if None,
                "people" if the model has that reading, else the one it has.

        Raises:
            ModelError: if the model is missing or damaged, does not match its hash or its manifest,
                or has no such reading.
            UsageError: if threads is less than 1.
        """
        if threads is not None:
            check_integer("threads", threads, 1)
        folder = find_model(model)
        manifest = load_manifest(folder, labels=labels, check_file=False).with_reading(reading)
        outputs = tuple(manifest.outputs.values()) if manifest.others else ()
        session = ModelSession(folder, manifest.file, threads=threads, outputs=outputs)
        path = folder / manifest.file.name
        _check_contract(session, manifest, path)
        return cls(session, manifest, path=path)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle; raises UsageError if the session has no model file."""
        if isinstance(self._session, onnxruntime.InferenceSession):
            raise UsageError(
                "a classifier with an ONNX Runtime session of your own cannot be pickled or "
                "copied: open it by Classifier.open(FOLDER)"
            )
        return self.__dict__

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of `classify`'s columns."""
        return self.manifest.labels

    def classify(
        self,
        faces: npt.NDArray[np.uint8],
        *,
        augment: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> npt.NDArray[np.float32]:
        """Classify standard faces.

        Args:
            faces: uint8 (N, 48, 48), grey (see `mien.core.images.standard_face`); N may be 0.
            augment: average over ten mirrored and shifted views, at ten times the cost.
            batch_size: faces per network call.

        Returns:
            Calibrated probabilities, float32 (N, classes); each row sums to 1.

        Raises:
            UsageError: if the array has another type or shape.
            ModelError: if the network fails, or a logit is not finite.
        """
        calibration = self.manifest.calibration
        if not augment:
            logits = self._biased_logits(faces, batch_size)
            return calibration.probabilities(logits).astype(np.float32)
        _check_faces(faces)
        # If the mean over views has its own calibration, the views themselves are not calibrated.
        augmented = self.manifest.augmented
        per_view = calibration if augmented is None else Temperature()
        views = [
            per_view.probabilities(self._biased_logits(view, batch_size))
            for view in tta_views(faces)
        ]
        if augmented is None:
            return np.asarray(sum(views) / len(views), np.float32)
        return augmented.probabilities(log_mean(views)).astype(np.float32)

    def logits(
        self, faces: npt.NDArray[np.uint8], *, batch_size: int = BATCH_SIZE
    ) -> npt.NDArray[np.float32]:
        """Return the network's raw output, float32 (N, classes), before bias and temperature.

        Arguments and errors as `classify`.
        """
        return self._run(self.manifest.outputs["logits"], faces, batch_size)

    def features(
        self, faces: npt.NDArray[np.uint8], *, batch_size: int = BATCH_SIZE
    ) -> npt.NDArray[np.float32]:
        """Return the network's last feature map, float32 (N, h, w, channels).

        Arguments and errors as `classify`.
        """
        return self._run(self.manifest.outputs["features"], faces, batch_size)

    def _biased_logits(
        self, faces: npt.NDArray[np.uint8], batch_size: int
    ) -> npt.NDArray[np.float64]:
        logits = self.logits(faces, batch_size=batch_size).astype(np.float64)
        if self._bias is not None:
            logits += self._bias
        if not np.logical_and.reduce(np.isfinite(logits), axis=None):
            raise ModelError(
                f"the model {self.manifest.name} returned scores that are not a number: "
                "export or install it again"
            )
        return logits

    def _run(
        self, output: str, faces: npt.NDArray[np.uint8], batch_size: int
    ) -> npt.NDArray[np.float32]:
        _check_faces(faces)
        check_integer("batch_size", batch_size, 1)
        if len(faces) == 0:
            # Not every operator accepts an empty batch, so the network does not run.
            return np.empty((0, *self._output_shape(output)), np.float32)
        starts = range(0, len(faces), batch_size)
        batches = [self._run_batch(output, faces[start : start + batch_size]) for start in starts]
        return batches[0] if len(batches) == 1 else np.concatenate(batches)

    def _output_shape(self, output: str) -> tuple[int, ...]:
        """Return the shape of an output for one face; sides that the file leaves open are 0."""
        if output == self.manifest.outputs["logits"]:
            return (len(self.labels),)
        node = next(node for node in self._session.get_outputs() if node.name == output)
        return tuple(side if isinstance(side, int) else 0 for side in node.shape[1:])

    def _run_batch(self, output: str, faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        inputs = {INPUT_CONTRACT["name"]: np.ascontiguousarray(faces)}
        try:
            return np.asarray(self._session.run([output], inputs)[0], np.float32)
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise ModelError(
                f"the model {self.manifest.name} failed on {len(faces)} faces: "
                f"{error_reason(error)}"
            ) from error


def _check_contract(session: Session, manifest: Manifest, path: Path) -> None:
    """Raise ModelError unless inputs, outputs and the file's class names match the manifest."""
    name = INPUT_CONTRACT["name"]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    input_shape = [None, FACE_SIZE, FACE_SIZE]
    if len(inputs) != 1 or not _has_node(inputs, name, "tensor(uint8)", input_shape):
        raise ModelError(
            f"{path}: expected one input {name!r}, uint8 (N, {FACE_SIZE}, {FACE_SIZE}), "
            f"got {_describe(inputs)}"
        )
    expected: dict[str, list[int | None]] = {
        manifest.outputs["logits"]: [None, len(manifest.labels)],
        manifest.outputs["features"]: [None, None, None, None],
    }
    for output, shape in expected.items():
        if not _has_node(outputs, output, "tensor(float)", shape):
            raise ModelError(
                f"{path}: expected an output {output!r}, float32 with shape {shape}, "
                f"got {_describe(outputs)}"
            )
    labels = session.get_modelmeta().custom_metadata_map.get("labels")
    if labels is not None and labels != json.dumps(list(manifest.labels)):
        raise ModelError(
            f"{path}: its classes are {labels}, but its manifest has "
            f"{', '.join(manifest.labels)}: export or install it again"
        )


def _has_node(
    nodes: Sequence[Any], name: str, tensor_type: str, shape: Sequence[int | None]
) -> bool:
    """Return True if an input or output has this name, type and shape; None is any length."""
    for node in nodes:
        if node.name == name and node.type == tensor_type and len(node.shape) == len(shape):
            # A side that the file leaves open is a name or None; the batch size has to be open.
            return not isinstance(node.shape[0], int) and all(
                side is None or not isinstance(actual, int) or side == actual
                for side, actual in zip(shape, node.shape, strict=True)
            )
    return False


def _describe(nodes: Sequence[Any]) -> str:
    return ", ".join(f"{node.name!r} {node.type} {node.shape}" for node in nodes) or "none"


def _check_faces(faces: npt.NDArray[np.uint8]) -> None:
    check_type("faces", faces, np.ndarray, "an array")
    if faces.dtype != np.uint8 or faces.ndim != 3 or faces.shape[1:] != (FACE_SIZE, FACE_SIZE):
        raise UsageError(
            f"expected faces as uint8 (N, {FACE_SIZE}, {FACE_SIZE}), "
            f"got {faces.dtype} {faces.shape}"
        )


# ---------------------------------------------------------------- speed
TIMED_BATCH_SIZES: tuple[int, ...] = (1, 32)
WARM_UP_RUNS = 3  # untimed: they allocate memory and fill caches
MIN_TIMED_RUNS = 10


@dataclass(frozen=True)
class Timing:
    """Milliseconds per face of one model at one batch size: median and quartiles of all runs."""

    model: str
    version: str
    precision: str
    megabytes: float
    threads: int
    batch_size: int
    median: float
    low: float
    high: float
    runs: int
    labels: str


def time_model(
    model: str | Path,
    *,
    threads: int,
    batch_size: int,
    seconds: float = 1.0,
    reading: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time `Classifier.classify` on faces of random noise.

    Args:
        model: name of a bundled model, or a model's folder.
        threads: threads per call.
        batch_size: faces per call.
        seconds: minimum duration of all timed runs; at least `MIN_TIMED_RUNS` are timed.
        reading: labels to follow, as for `Classifier.open`.
        clock: current time in seconds.

    Raises:
        ModelError: if the model is missing or damaged, or fails.
        UsageError: if a number is out of range.
    """
    if batch_size < 1 or not seconds >= 0:
        raise UsageError(
            f"expected a batch size of 1 or more and 0 seconds or more, got {batch_size}, {seconds}"
        )
    classifier = Classifier.open(model, threads=threads, labels=None, reading=reading)
    shape = (batch_size, FACE_SIZE, FACE_SIZE)
    faces = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for _ in range(WARM_UP_RUNS):
        classifier.classify(faces, batch_size=batch_size)
    durations: list[float] = []
    while len(durations) < MIN_TIMED_RUNS or sum(durations) < seconds:
        start = clock()
        classifier.classify(faces, batch_size=batch_size)
        durations.append(clock() - start)
    per_face_ms = 1000 * np.array(durations) / batch_size
    low, median, high = np.percentile(per_face_ms, (25, 50, 75)).tolist()
    manifest = classifier.manifest
    return Timing(
        model=manifest.name,
        version=manifest.version,
        precision=manifest.precision,
        megabytes=manifest.file.size_bytes / 1e6,
        threads=threads,
        batch_size=batch_size,
        median=median,
        low=low,
        high=high,
        runs=len(durations),
        labels=manifest.reading,
    )


def describe_machine() -> dict[str, Any]:
    """Return what timings depend on: processor, cores, system and versions."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
