"""Why a face is read as it is: heat maps of what in it speaks for an emotion.

Occlusion covers the face patch by patch and measures how much of the score is lost (Zeiler and
Fergus 2014, 1311.2901, section 4.2). Grad-CAM weighs the last feature map by the gradient of the
emotion's logit (Selvaraju et al. 2017, 1610.02391, section 3). Neither needs more than the model's
own file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.emotions import match_label
from mien.core.errors import MienError, ModelError, UnreadableImage, UsageError, expectation
from mien.core.faces import FACE_SIZE, standard_face
from mien.core.images import ImageSource, load_image, source_name
from mien.core.manifest import OUTPUT_CONTRACT
from mien.core.progress import Progress
from mien.core.results import SCORE_DIGITS, Face, Result
from mien.inference.classifier import BATCH_SIZE, Classifier
from mien.inference.detectors import crop_scale_of
from mien.inference.onnx_file import Node, OnnxFile, read_onnx
from mien.inference.preprocess import face_crop, is_one_image
from mien.inference.recognizer import Recognizer, raise_for_status

METHODS: tuple[str, ...] = ("occlusion", "gradcam")
"""The ways to explain a reading; the first is the default."""

_HEAT_DIGITS = 3
_PARTS = {"upper": 22, "middle": 33, "lower": FACE_SIZE}
"""Rows where the parts of a face end, as FER-2013 frames them: brows and eyes; nose and cheeks;
mouth and chin."""


@dataclass(frozen=True)
class Explanation:
    """What speaks for one emotion in one face.

    Attributes:
        method: one of `METHODS`.
        emotion: the class that is explained.
        score: its calibrated score, 0 to 1.
        heat: float32 (48, 48), 0 to 1, over the standard face; 1 is where most speaks for the
            emotion. All 0 where nothing does.
        peak: what a heat of 1 stands for. Occlusion: the score that is lost, on average, where that
            pixel is covered. Grad-CAM: how much one cell of the feature map adds to the logit.
    """

    method: str
    emotion: str
    score: float
    heat: npt.NDArray[np.float32]
    peak: float

    @property
    def hottest(self) -> tuple[int, int] | None:
        """Return the row and column of the greatest heat, or None where there is none."""
        if self.peak <= 0:
            return None
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        return int(row), int(column)

    @property
    def part(self) -> str | None:
        """Return which part of an upright face is hottest, or None where there is no heat.

        "upper" is brows and eyes, "middle" nose and cheeks, "lower" mouth and chin.
        """
        if self.hottest is None:
            return None
        row = self.hottest[0]
        return next(name for name, end in _PARTS.items() if row < end)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON has it; ``heat`` is 48 rows of 48 numbers."""
        return {
            "method": self.method,
            "emotion": self.emotion,
            "score": round(self.score, SCORE_DIGITS),
            "peak": round(self.peak, SCORE_DIGITS),
            "part": self.part,
            "hottest": None if self.hottest is None else list(self.hottest),
            "heat": [[round(float(each), _HEAT_DIGITS) for each in row] for row in self.heat],
        }


@dataclass(frozen=True)
class ExplainedFace:
    """A face, its crop, uint8 (H, W, 3) RGB, as the network was shown it, and its heat map."""

    face: Face
    crop: npt.NDArray[np.uint8]
    explanation: Explanation


@dataclass(frozen=True)
class ExplainedImage:
    """An image's result, and its faces with their heat maps, left to right; none if it failed."""

    result: Result
    faces: tuple[ExplainedFace, ...]


def explain(
    recognizer: Recognizer,
    image: ImageSource,
    *,
    color: str | None = None,
    emotion: str | None = None,
    face_id: int | None = None,
    method: str = METHODS[0],
    allow_private: bool = False,
    quiet: bool = True,
) -> list[ExplainedFace]:
    """Find the faces in an image, read their emotions, and say what speaks for them.

    Args:
        recognizer: as `mien.load` gives it.
        image: as in `Recognizer.analyze`.
        color: the order of an array's channels, "rgb" or "bgr".
        emotion: the class to explain; each face's likeliest unless given.
        face_id: explain this face alone, counted from 0, left to right.
        method: one of `METHODS`.
        allow_private: as in `Recognizer.analyze`.
        quiet: draw no progress bar.

    Returns:
        The faces, left to right; empty where there is none.

    Raises:
        UnreadableImage: if the image cannot be read.
        UsageError: if an option is not as above, or there is no such face.
        ModelError: if the method is "gradcam" and the model's head is of another kind.
    """
    label = _checked(method, emotion, recognizer.labels)
    result, pixels = _analyzed(recognizer, image, color, allow_private)
    raise_for_status(result)
    faces = _chosen(result.faces, face_id)
    with Progress("explaining faces", len(faces), unit="face", quiet=quiet) as progress:
        explained = []
        for face in faces:
            explained.append(_explained(recognizer, pixels, face, label or face.emotion, method))
            progress.advance()
    return explained


def explain_many(
    recognizer: Recognizer,
    images: Iterable[ImageSource],
    *,
    color: str | None = None,
    emotion: str | None = None,
    method: str = METHODS[0],
    allow_private: bool = False,
) -> list[ExplainedImage]:
    """Explain the faces of images, one after the other; arguments as `explain`.

    Returns:
        One explanation an image. One that cannot be read has a result that says so, and the others
        still run.

    Raises:
        UsageError: if these are not images, or an option is not as in `explain`.
        ModelError: as `explain`.
    """
    label = _checked(method, emotion, recognizer.labels)
    if is_one_image(images):
        raise UsageError(
            f"expected a list of images, got one {type(images).__name__}: "
            "use explain for a single image"
        )
    done = []
    for image in images:
        result, pixels = _analyzed(recognizer, image, color, allow_private)
        faces = (
            _explained(recognizer, pixels, face, label or face.emotion, method)
            for face in result.faces
        )
        done.append(ExplainedImage(result, tuple(faces)))
    return done


def _analyzed(
    recognizer: Recognizer, image: ImageSource, color: str | None, allow_private: bool
) -> tuple[Result, npt.NDArray[np.uint8]]:
    """Return an image's result and its pixels, of which an image that cannot be read has none."""
    name = source_name(image)
    try:
        pixels = load_image(image, color=color, allow_private=allow_private)
    except UsageError:
        raise
    except MienError as error:
        status = "unreadable" if isinstance(error, UnreadableImage) else "error"
        failed = Result(name, status, recognizer.model, error=str(error))
        return failed, np.empty((0, 0, 3), np.uint8)
    return recognizer.analyze_result(pixels, color="rgb", source=name), pixels


def _explained(
    recognizer: Recognizer,
    pixels: npt.NDArray[np.uint8],
    face: Face,
    emotion: str,
    method: str,
) -> ExplainedFace:
    scale = crop_scale_of(recognizer.detector)
    crop = face_crop(pixels, face.box, scale, turn=face.turn)
    classifier, standard = recognizer.classifier, standard_face(crop)[None]
    (found,) = explain_faces(classifier, standard, emotion=emotion, method=method)
    return ExplainedFace(face, crop, found)


def explain_faces(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    *,
    emotion: str | None = None,
    method: str = METHODS[0],
    batch_size: int = BATCH_SIZE,
) -> list[Explanation]:
    """Say what speaks for an emotion in standard faces.

    Args:
        classifier: the model.
        faces: uint8 (N, 48, 48), grey (see `mien.core.faces.standard_face`).
        emotion: the class to explain; each face's likeliest unless given.
        method: one of `METHODS`.
        batch_size: images that go through the network at once.

    Returns:
        One explanation a face.

    Raises:
        UsageError: if the faces or an option are not as above.
        ModelError: if the network fails, or "gradcam" cannot read its head.
    """
    label = _checked(method, emotion, classifier.labels)
    scores = classifier.classify(faces, batch_size=batch_size)
    classes = scores.argmax(axis=1)
    if label is not None:
        classes = np.full_like(classes, classifier.labels.index(label))
    if method == "gradcam":
        maps = gradcam_maps(classifier, faces, classes, batch_size)
    else:
        maps = occlusion_maps(classifier, faces, classes, scores, batch_size)
    return [
        _explanation(method, classifier.labels[index], float(row[index]), raw)
        for index, row, raw in zip(classes, scores, maps, strict=True)
    ]


def _explanation(
    method: str, emotion: str, score: float, raw: npt.NDArray[np.float32]
) -> Explanation:
    # What speaks against the emotion is left out.
    heat = np.maximum(raw, 0.0)
    peak = float(heat.max())
    if peak > 0:
        heat = heat / np.float32(peak)
    return Explanation(method, emotion, score, np.clip(heat, 0, 1).astype(np.float32), peak)


def _checked(method: str, emotion: str | None, labels: Sequence[str]) -> str | None:
    """Return the label that an emotion's name means, if one is given; raises UsageError."""
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}: expected {' or '.join(METHODS)}")
    if emotion is None:
        return None
    known = match_label(emotion, labels)
    if known is None:
        raise UsageError(f"unknown emotion {emotion!r}: {expectation(emotion, labels)}")
    return known


def _chosen(faces: Sequence[Face], face_id: int | None) -> list[Face]:
    if face_id is None:
        return list(faces)
    if not 0 <= face_id < len(faces):
        there = f"0 to {len(faces) - 1}" if len(faces) > 1 else "0" if faces else "none is there"
        raise UsageError(f"no face {face_id} in this image: expected {there}")
    return [faces[face_id]]


# ---------------------------------------------------------------- occlusion
PATCH = 12
"""Side of the square that occlusion covers, in pixels of the 48: an eye, or half a mouth."""

STRIDE = 4
"""By how much that square is moved; each pixel is covered (PATCH / STRIDE) ** 2 = 9 times."""


def occlusion_maps(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.intp],
    scores: npt.NDArray[np.float32],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Return the score that is lost where each pixel is covered, float32 (N, 48, 48).

    It is a mean over the patches that cover the pixel, weighted towards their middle, and below 0
    where covering the pixel raises the score. The faces are uint8 (N, 48, 48), grey, the classes
    (N,) indices, the scores float32 (N, classes).
    """
    weights = _patch_weights()
    maps = np.zeros(faces.shape, np.float32)
    for number, (face, index) in enumerate(zip(faces, classes, strict=True)):
        left = classifier.classify(covered_faces(face), batch_size=batch_size)[:, index]
        lost = (scores[number, index] - left).reshape(len(weights), len(weights))
        maps[number] = weights.T @ lost @ weights
    return maps


def covered_faces(face: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a face (48, 48) with a patch covered, once for each place, row by row, (196, 48, 48).

    A patch is filled with the face's mean grey: the network was trained on faces with such patches
    (random erasing), so that the patch alone does not mislead it.
    """
    places = _patch_weights() > 0
    patches = (places[:, None, :, None] & places[None, :, None, :]).reshape(-1, *face.shape)
    return np.where(patches, np.uint8(round(float(face.mean()))), face)


def _patch_weights() -> npt.NDArray[np.float32]:
    """Return where patches lie along a side, float32 (14, 48): a smooth bump each, else 0.

    Columns sum to 1. Patches reach over the border, so that each pixel is covered equally often.
    """
    starts = np.arange(STRIDE - PATCH, FACE_SIZE, STRIDE)
    distance = np.arange(FACE_SIZE) + 0.5 - (starts[:, None] + PATCH / 2)
    bumps = np.where(abs(distance) < PATCH / 2, np.cos(np.pi * distance / PATCH) ** 2, 0.0)
    return np.asarray(bumps / bumps.sum(axis=0), np.float32)


# ---------------------------------------------------------------- Grad-CAM
# ONNX Runtime gives values, not gradients. From the feature map to the logits there are only a mean
# over the plane, affine layers and ReLU, so the gradient is written down in NumPy.
_Array: TypeAlias = npt.NDArray[np.float64]

_MAX_DIFFERENCE = 1e-3
_POOLING = ("GlobalAveragePool", "ReduceMean")
_NO_OPS = ("Flatten", "Identity", "Dropout", "Squeeze", "Reshape")
"""Operations that leave the numbers of pooled features as they are."""


def gradcam_maps(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.intp],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Return what each place adds to the class's logit, float32 (N, 48, 48), 0 or more.

    The maps are enlarged from the cells of the feature map. The faces are uint8 (N, 48, 48), grey,
    the classes (N,) indices.

    Raises:
        ModelError: if the network fails, or its head cannot be read or is misread.
    """
    features = classifier.features(faces, batch_size=batch_size)
    head = _checked_head(classifier, faces, features, batch_size)
    gradients = head.gradients(features, classes)
    cells = np.einsum("nhwc,nc->nhw", features, gradients).astype(np.float32)
    maps = np.zeros(faces.shape, np.float32)
    for number, plane in enumerate(np.maximum(cells, 0)):
        size = (FACE_SIZE, FACE_SIZE)
        maps[number] = cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR)
    return maps


def _checked_head(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    features: npt.NDArray[np.float32],
    batch_size: int,
) -> Head:
    """Return the model's head, if it gives the logits that the network gives for these faces."""
    if classifier.path is None:
        raise ModelError("Grad-CAM reads the model's file: open the model with Classifier.open")
    head = read_head(classifier.path, classifier.manifest.outputs)
    expected = classifier.logits(faces, batch_size=batch_size)
    try:
        found = head.logits(features)
        difference = float(np.abs(found - expected).max(initial=0.0))
    except ValueError as error:  # weights whose shapes do not go together
        raise ModelError(f"Grad-CAM cannot follow {classifier.path}: {error}") from error
    if not difference <= _MAX_DIFFERENCE * max(1.0, float(np.abs(expected).max(initial=0.0))):
        raise ModelError(
            f"Grad-CAM misreads {classifier.path}: the logits that follow from its features are "
            f"off by {difference:.2g}; use --method occlusion"
        )
    return head


@dataclass(frozen=True)
class Affine:
    """x -> x weight + shift; weight is a matrix (inputs, outputs), or one factor a unit."""

    weight: _Array
    shift: _Array | float = 0.0


@dataclass(frozen=True)
class Head:
    """From a feature map to logits: the mean over the plane, then layers; None is a ReLU."""

    layers: tuple[Affine | None, ...]

    def logits(self, features: npt.NDArray[np.floating]) -> _Array:
        """Return the logits (N, classes) of feature maps (N, h, w, channels)."""
        return self._values(features)[-1]

    def gradients(
        self, features: npt.NDArray[np.floating], classes: npt.NDArray[np.intp]
    ) -> _Array:
        """Return the gradient of one logit of each face by its features, (N, channels).

        Since the head begins with the mean over the plane, it is the same at all places of the
        features (N, h, w, channels).
        """
        *inputs, logits = self._values(features)
        gradient = np.zeros_like(logits)
        gradient[np.arange(len(logits)), classes] = 1.0
        for layer, value in zip(reversed(self.layers), reversed(inputs), strict=True):
            if layer is None:
                gradient = gradient * (value > 0)
            elif layer.weight.ndim == 2:
                gradient = gradient @ layer.weight.T
            else:
                gradient = gradient * layer.weight
        return np.asarray(gradient / (features.shape[1] * features.shape[2]), np.float64)

    def _values(self, features: npt.NDArray[np.floating]) -> list[_Array]:
        """Return the input of each layer, and the logits."""
        values = [np.asarray(features.mean(axis=(1, 2), dtype=np.float64), np.float64)]
        for layer in self.layers:
            value = values[-1]
            if layer is None:
                values.append(np.maximum(value, 0.0))
            elif layer.weight.ndim == 2:
                values.append(value @ layer.weight + layer.shift)
            else:
                values.append(value * layer.weight + layer.shift)
        return values


def read_head(path: Path, outputs: Mapping[str, str] = OUTPUT_CONTRACT) -> Head:
    """Read a network's head from its ONNX file.

    Args:
        path: the file.
        outputs: the names of the logits and of the features that they come from.

    Raises:
        ModelError: if the file cannot be read, or what lies between ``features`` and ``logits`` is
            other than pooling, dense layers, BatchNorm and ReLU.
    """
    file = read_onnx(path)
    makers = {output: node for node in file.nodes for output in node.outputs}
    name, features = outputs["logits"], outputs["features"]
    maker = makers.get(features)
    pooled = {features}  # or what is transposed to become it
    if maker is not None and maker.kind == "Transpose":
        pooled.update(maker.inputs[:1])
    layers: list[Affine | None] = []
    # Backwards; in a damaged file, nodes may form a cycle.
    for _ in file.nodes:
        node = makers.get(name)
        if node is None:
            break
        if node.kind in _POOLING and pooled.intersection(node.inputs[:1]):
            return Head(tuple(reversed(layers)))
        name, made = _read_layer(node, file, path)
        layers += made
    raise _not_a_head(path, "its logits do not come from the mean of its features")


def _read_layer(node: Node, file: OnnxFile, path: Path) -> tuple[str, tuple[Affine | None, ...]]:
    """Return the name of a node's input and what it does to it: a layer, or nothing."""
    kind, inputs = node.kind, node.inputs
    if kind in _NO_OPS and inputs:
        return inputs[0], ()
    if kind == "Relu" and len(inputs) == 1:
        return inputs[0], (None,)
    if kind == "MatMul" and len(inputs) == 2:
        return inputs[0], (Affine(file.weight(inputs[1])),)
    if kind == "Gemm" and len(inputs) in (2, 3) and not node.attributes.get("transA"):
        weight = file.weight(inputs[1]) * node.attributes.get("alpha", 1.0)
        bias = file.weight(inputs[2]) * node.attributes.get("beta", 1.0) if inputs[2:] else 0.0
        return inputs[0], (Affine(weight.T if node.attributes.get("transB") else weight, bias),)
    if kind == "BatchNormalization" and len(inputs) == 5:
        gamma, beta, mean, variance = (file.weight(each) for each in inputs[1:])
        factor = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return inputs[0], (Affine(factor, beta - mean * factor),)
    if kind == "Add" and len(inputs) == 2:
        value, shift = inputs if inputs[1] in file.tensors else inputs[::-1]
        bias = file.weight(shift)
        return value, (Affine(np.ones_like(bias), bias),)
    raise _not_a_head(path, f"there is {kind} between its features and its logits")


def _not_a_head(path: Path, why: str) -> ModelError:
    return ModelError(
        f"Grad-CAM cannot read {path}: {why}; expected pooling, dense layers, BatchNorm and ReLU "
        "(--method occlusion takes any model)"
    )
