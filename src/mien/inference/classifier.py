"""The network: standard faces in, calibrated probabilities out, through ONNX Runtime."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.calibration import Temperature, log_of_mean
from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError, UsageError
from mien.core.faces import FACE_SIZE
from mien.core.manifest import (
    INPUT_CONTRACT,
    Manifest,
    ModelFile,
    load_manifest,
    read_model_file,
)
from mien.core.models import DEFAULT_MODEL, bundled_models, find_model
from mien.core.onnx_runtime import new_session, onnxruntime
from mien.core.process import ForkLock
from mien.inference.onnx_file import network_for, refuse_external_data
from mien.inference.preprocess import tta_views

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
                f"the model {self.manifest.name} failed on {len(faces)} faces: {_one_line(error)}"
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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---------------------------------------------------------------- the session
class ModelSession:
    """An ONNX Runtime session that can be pickled, copied and forked; threads may share it.

    A pickle holds where the model's file is, and its hash, which is checked on loading. Copies
    share one session. A forked child opens the file anew when it first needs it: ONNX Runtime's
    threads are not there, and its locks may be held by threads of the parent.
    """

    def __init__(
        self,
        folder: Path,
        file: ModelFile,
        *,
        threads: int | None = None,
        outputs: tuple[str, ...] = (),
    ) -> None:
        """Check a model's file by its hash, and open it.

        Args:
            folder: the model's.
            file: its ONNX file, as the manifest has it.
            threads: how many threads one call may use; as many as there are cores unless given.
            outputs: the names of those that will be asked for; all unless given.

        Raises:
            ModelError: if it is missing, another one, has weights in other files, or is no ONNX
                model that can be run.
        """
        self._folder = folder.absolute()
        self._file = file
        self._threads = threads
        self._outputs = outputs
        self._session: onnxruntime.InferenceSession | None = self._open()
        _SESSIONS.add(self)

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]:
        """Return these outputs for these inputs; raises whatever ONNX Runtime raises."""
        results: list[npt.NDArray[np.float32]] = self._opened().run(outputs, inputs)
        return results

    def get_inputs(self) -> list[Any]:
        """Return the graph's inputs: name, type and shape of each."""
        return list(self._opened().get_inputs())

    def get_outputs(self) -> list[Any]:
        """Return the graph's outputs, as `get_inputs`."""
        return list(self._opened().get_outputs())

    def get_modelmeta(self) -> Any:
        """Return what the file says of itself."""
        return self._opened().get_modelmeta()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the file is: a bundled model by its name."""
        name = self._folder.name
        bundled = name in bundled_models() and find_model(name) == self._folder
        place = name if bundled else self._folder
        return _reopened, (place, self._file, self._threads, self._outputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelSession:
        """Return the session itself, which is immutable."""
        return self

    def abandon(self) -> None:
        """Let go of the parent's session, in a forked child, without destroying it.

        Its destructor would wait for threads that are not there.
        """
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None

    def _opened(self) -> onnxruntime.InferenceSession:
        session = self._session
        if session is None:
            with _REOPENING:
                session = self._session
                if session is None:
                    session = self._session = self._open()
        return session

    def _open(self) -> onnxruntime.InferenceSession:
        path = self._folder / self._file.name
        content = read_model_file(path, self._file)
        refuse_external_data(content, path)
        try:
            network = network_for(content, self._outputs, path) if self._outputs else content
            return new_session(network, threads=self._threads or 0)
        except Exception as error:  # ONNX Runtime's own errors share no nearer base
            raise ModelError(
                f"{path} is not an ONNX model that can be run "
                f"({_one_line(error)}): "
                "export or install it again"
            ) from error


def _reopened(
    model: str | Path, file: ModelFile, threads: int | None, outputs: tuple[str, ...]
) -> ModelSession:
    return ModelSession(find_model(model), file, threads=threads, outputs=outputs)


def _abandon_all() -> None:
    for session in list(_SESSIONS):
        session.abandon()


# For the fork handler below, which has to know all sessions.
_SESSIONS: weakref.WeakSet[ModelSession] = weakref.WeakSet()
_REOPENING = ForkLock()
if sys.platform != "win32":  # which has no fork
    os.register_at_fork(after_in_child=_abandon_all)
