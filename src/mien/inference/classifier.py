"""The network: standard faces in, calibrated probabilities out, through ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.calibration import Temperature, log_of_mean
from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError, UsageError, reason_of
from mien.core.faces import FACE_SIZE
from mien.core.manifest import INPUT_CONTRACT, Manifest, load_manifest
from mien.core.models import DEFAULT_MODEL, find_model
from mien.core.onnx_runtime import onnxruntime
from mien.inference.preprocess import tta_views
from mien.inference.session import ModelSession

BATCH_SIZE = 64
"""Faces that go through the network at once unless said otherwise."""

Session: TypeAlias = "onnxruntime.InferenceSession | ModelSession"


class Classifier:
    """One ONNX session and its manifest; it keeps nothing between calls: threads may share it.

    One that was opened from a folder can be pickled, copied and forked (see `ModelSession`).
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        *,
        path: Path | None = None,
    ) -> None:
        """Take a session that keeps to the manifest's contract, and the file it was opened from.

        `open` makes one from a model's folder.
        """
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
            model: a bundled model's name, or the folder of one.
            threads: how many threads one call may use; as many as there are cores unless given.
            labels: the classes that are expected; None takes a model with classes of its own.
            reading: whose labels to follow, "people" or "fer2013" (see `mien.core.models`);
                unless given "people" where the model has that, else what it has.

        Raises:
            ModelError: if the model is missing, damaged, does not match its hash, does not keep
                to the contract, or has no such reading.
            UsageError: if threads is less than 1.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"expected 1 thread or more, got {threads}")
        folder = find_model(model)
        manifest = load_manifest(folder, labels=labels, check_file=False).read_by(reading)
        outputs = tuple(manifest.outputs.values()) if manifest.others else ()
        session = ModelSession(folder, manifest.file, threads=threads, outputs=outputs)
        path = folder / manifest.file.name
        _check_contract(session, manifest, path)
        return cls(session, manifest, path=path)

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickles and copies hold; raises UsageError if there is no model's file."""
        if isinstance(self._session, onnxruntime.InferenceSession):
            raise UsageError(
                "a classifier with an ONNX Runtime session of your own cannot be pickled or "
                "copied: open it by Classifier.open(FOLDER)"
            )
        return self.__dict__

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the columns of what `classify` returns."""
        return self.manifest.labels

    def classify(
        self,
        faces: npt.NDArray[np.uint8],
        *,
        augment: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> npt.NDArray[np.float32]:
        """Return the calibrated probabilities of faces.

        Args:
            faces: uint8 (N, 48, 48), grey (see `mien.core.faces.standard_face`); N may be 0.
            augment: take the mean over mirrored and shifted views (ten times the work).
            batch_size: faces that go through the network at once.

        Returns:
            float32 (N, classes); each row sums to 1.

        Raises:
            UsageError: if the array is of another type or shape.
            ModelError: if the network fails, or a logit is not a number.
        """
        calibration = self.manifest.calibration
        if not augment:
            logits = self._biased_logits(faces, batch_size)
            return calibration.probabilities(logits).astype(np.float32)
        _check_faces(faces)
        together = self.manifest.augmented
        each = calibration if together is None else Temperature()
        views = [
            each.probabilities(self._biased_logits(view, batch_size)) for view in tta_views(faces)
        ]
        if together is None:
            return np.asarray(sum(views) / len(views), np.float32)
        return together.probabilities(log_of_mean(views)).astype(np.float32)

    def logits(
        self, faces: npt.NDArray[np.uint8], *, batch_size: int = BATCH_SIZE
    ) -> npt.NDArray[np.float32]:
        """Return the network's own output, float32 (N, classes), before temperature and softmax.

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
                f"the model {self.manifest.name} gave what is not a number: "
                "export or install it again"
            )
        return logits

    def _run(
        self, output: str, faces: npt.NDArray[np.uint8], batch_size: int
    ) -> npt.NDArray[np.float32]:
        _check_faces(faces)
        if batch_size < 1:
            raise UsageError(f"expected a batch size of 1 or more, got {batch_size}")
        if len(faces) == 0:
            # Not every operator takes an empty batch, so the network does not run.
            return np.empty((0, *self._sides(output)), np.float32)
        starts = range(0, len(faces), batch_size)
        batches = [self._run_batch(output, faces[start : start + batch_size]) for start in starts]
        return batches[0] if len(batches) == 1 else np.concatenate(batches)

    def _sides(self, output: str) -> tuple[int, ...]:
        """Return the sides of an output but the first; one that the file leaves open is 0."""
        if output == self.manifest.outputs["logits"]:
            return (len(self.labels),)
        node = next(node for node in self._session.get_outputs() if node.name == output)
        return tuple(side if isinstance(side, int) else 0 for side in node.shape[1:])

    def _run_batch(self, output: str, faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        inputs = {INPUT_CONTRACT["name"]: np.ascontiguousarray(faces)}
        try:
            return np.asarray(self._session.run([output], inputs)[0], np.float32)
        except Exception as error:  # ONNX Runtime's own errors share no nearer base
            raise ModelError(
                f"the model {self.manifest.name} failed on {len(faces)} faces: {reason_of(error)}"
            ) from error


def _check_contract(session: Session, manifest: Manifest, path: Path) -> None:
    """Raise unless inputs, outputs and, where the file names them, classes are as promised."""
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name: node for node in session.get_outputs()}
    name = INPUT_CONTRACT["name"]
    if set(inputs) != {name} or not _fits(
        inputs[name], "tensor(uint8)", [None, FACE_SIZE, FACE_SIZE]
    ):
        raise ModelError(
            f"{path}: expected one input {name!r}, uint8 (N, {FACE_SIZE}, {FACE_SIZE}), "
            f"got {_described(inputs)}"
        )
    expected: dict[str, list[int | None]] = {
        manifest.outputs["logits"]: [None, len(manifest.labels)],
        manifest.outputs["features"]: [None, None, None, None],
    }
    for output, shape in expected.items():
        if output not in outputs or not _fits(outputs[output], "tensor(float)", shape):
            raise ModelError(
                f"{path}: expected an output {output!r}, float32 with shape {shape}, "
                f"got {_described(outputs)}"
            )
    written = session.get_modelmeta().custom_metadata_map.get("labels")
    if written is not None and written != json.dumps(list(manifest.labels)):
        raise ModelError(
            f"{path}: its classes are {written}, but its manifest has "
            f"{', '.join(manifest.labels)}: export or install it again"
        )


def _fits(node: Any, kind: str, shape: list[int | None]) -> bool:
    """Whether a graph's input or output has this type and shape; None is a side that may vary."""
    if node.type != kind or len(node.shape) != len(shape) or isinstance(node.shape[0], int):
        return False  # a first side that is a number would refuse other batches
    pairs = zip(shape, node.shape, strict=True)
    # A side that the file leaves open is a name or None.
    return all(side is None or not isinstance(found, int) or side == found for side, found in pairs)


def _described(nodes: dict[str, Any]) -> str:
    return ", ".join(f"{name!r} {node.type} {node.shape}" for name, node in nodes.items()) or "none"


def _check_faces(faces: npt.NDArray[np.uint8]) -> None:
    if faces.dtype != np.uint8 or faces.ndim != 3 or faces.shape[1:] != (FACE_SIZE, FACE_SIZE):
        raise UsageError(
            f"expected faces as uint8 (N, {FACE_SIZE}, {FACE_SIZE}), "
            f"got {faces.dtype} {faces.shape}"
        )
