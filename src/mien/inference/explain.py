"""Heat maps of the areas of a face that support an emotion, by occlusion or Grad-CAM.

Occlusion covers the face patch by patch and measures the loss of score (Zeiler and Fergus 2014,
1311.2901, section 4.2). Grad-CAM weights the last feature map by the gradient of the emotion's
logit (Selvaraju et al. 2017, 1610.02391, section 3). Both need the model's file only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.checks import check_choice, check_integer, check_type
from mien.core.emotions import match_label
from mien.core.errors import MienError, ModelError, UsageError, expected_one_of
from mien.core.images import FACE_SIZE, ImageSource, load_image, source_name, standard_face
from mien.core.manifest import OUTPUT_CONTRACT
from mien.core.models import EXPLANATION_METHODS
from mien.core.progress import track
from mien.core.results import SCORE_DIGITS, Face, Result
from mien.inference.classifier import BATCH_SIZE, Classifier
from mien.inference.detectors import crop_scale_of
from mien.inference.onnx_model import Node, OnnxGraph, read_onnx
from mien.inference.preprocess import FaceBatch, check_images, face_crop
from mien.inference.recognizer import Recognizer, raise_for_status

_HEAT_DIGITS = 3
_PARTS = {"upper": 22, "middle": 33, "lower": FACE_SIZE}
"""Last rows of the parts of a face as FER-2013 frames it: brows and eyes; nose and cheeks; mouth
and chin."""


@dataclass(frozen=True)
class Explanation:
    """Heat map of one emotion in one face.

    Attributes:
        method: one of `EXPLANATION_METHODS`.
        emotion: the explained class.
        score: its calibrated score, 0 to 1.
        heat: float32 (48, 48), 0 to 1, over the standard face; 1 in the area that supports the
            emotion most, 0 everywhere if none does.
        peak: value that a heat of 1 stands for. Occlusion: mean loss of score when that pixel is
            covered. Grad-CAM: contribution of one cell of the feature map to the logit.
    """

    method: str
    emotion: str
    score: float
    heat: npt.NDArray[np.float32]
    peak: float

    @property
    def hottest(self) -> tuple[int, int] | None:
        """Row and column of the greatest heat, or None without any heat."""
        if self.peak <= 0:
            return None
        row, column = np.unravel_index(int(self.heat.argmax()), self.heat.shape)
        return int(row), int(column)

    @property
    def part(self) -> str | None:
        """Hottest part of an upright face, or None without any heat.

        "upper" is brows and eyes, "middle" nose and cheeks, "lower" mouth and chin.
        """
        if self.hottest is None:
            return None
        row = self.hottest[0]
        return next(name for name, end in _PARTS.items() if row < end)

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation for JSON; ``heat`` is 48 rows of 48 numbers."""
        return {
            "method": self.method,
            "emotion": self.emotion,
            "score": round(self.score, SCORE_DIGITS),
            "peak": round(self.peak, SCORE_DIGITS),
            "part": self.part,
            "hottest": None if self.hottest is None else list(self.hottest),
            "heat": [[round(float(heat), _HEAT_DIGITS) for heat in row] for row in self.heat],
        }


@dataclass(frozen=True)
class ExplainedFace:
    """A face, its crop, uint8 (H, W, 3) RGB, as the network was given it, and its heat map."""

    face: Face
    crop: npt.NDArray[np.uint8]
    explanation: Explanation


@dataclass(frozen=True)
class ExplainedImage:
    """An image's result and its explained faces, left to right; empty if it failed."""

    result: Result
    faces: tuple[ExplainedFace, ...]


def explain(
    recognizer: Recognizer,
    image: ImageSource,
    *,
    color: str | None = None,
    emotion: str | None = None,
    face_id: int | None = None,
    method: str = EXPLANATION_METHODS[0],
    allow_private: bool = False,
    quiet: bool = True,
) -> list[ExplainedFace]:
    """Analyze an image and explain the emotions of its faces; see `mien.Recognizer.explain`.

    With ``quiet=False``, a progress bar is shown.
    """
    label = _check_options(method, emotion, recognizer.labels)
    result, pixels = _analyze(recognizer, image, color, allow_private)
    raise_for_status(result)
    faces = _select_faces(result.faces, face_id)
    return [
        _explain_face(recognizer, pixels, face, label or face.emotion, method)
        for face in track(faces, "explaining faces", unit="face", quiet=quiet)
    ]


def explain_many(
    recognizer: Recognizer,
    images: Iterable[ImageSource],
    *,
    color: str | None = None,
    emotion: str | None = None,
    method: str = EXPLANATION_METHODS[0],
    allow_private: bool = False,
) -> list[ExplainedImage]:
    """Explain the faces of several images; see `mien.Recognizer.explain_many`."""
    label = _check_options(method, emotion, recognizer.labels)
    check_images(images, "explain")
    explained = []
    for image in images:
        result, pixels = _analyze(recognizer, image, color, allow_private)
        faces = (
            _explain_face(recognizer, pixels, face, label or face.emotion, method)
            for face in result.faces
        )
        explained.append(ExplainedImage(result, tuple(faces)))
    return explained


def _analyze(
    recognizer: Recognizer, image: ImageSource, color: str | None, allow_private: bool
) -> tuple[Result, npt.NDArray[np.uint8]]:
    """Return an image's result and its pixels, empty if it cannot be read."""
    name = source_name(image)
    try:
        pixels = load_image(image, color=color, allow_private=allow_private)
    except UsageError:
        raise
    except MienError as error:
        (result,) = recognizer.read([FaceBatch.failed(name, error)])
        return result, np.empty((0, 0, 3), np.uint8)
    return recognizer.analyze_result(pixels, color="rgb", source=name), pixels


def _explain_face(
    recognizer: Recognizer,
    pixels: npt.NDArray[np.uint8],
    face: Face,
    emotion: str,
    method: str,
) -> ExplainedFace:
    scale = crop_scale_of(recognizer.detector)
    crop = face_crop(pixels, face.box, scale, turn=face.turn)
    faces = standard_face(crop)[None]
    (explanation,) = explain_faces(recognizer.classifier, faces, emotion=emotion, method=method)
    return ExplainedFace(face, crop, explanation)


def explain_faces(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    *,
    emotion: str | None = None,
    method: str = EXPLANATION_METHODS[0],
    batch_size: int = BATCH_SIZE,
) -> list[Explanation]:
    """Explain an emotion in standard faces.

    Args:
        classifier: the model.
        faces: uint8 (N, 48, 48), grey (see `mien.core.images.standard_face`).
        emotion: class to explain; each face's top class if None.
        method: one of `EXPLANATION_METHODS`.
        batch_size: images per network call.

    Returns:
        One explanation per face.

    Raises:
        UsageError: if the faces or an option are invalid.
        ModelError: if the network fails, or "gradcam" does not support its head.
    """
    label = _check_options(method, emotion, classifier.labels)
    scores = classifier.classify(faces, batch_size=batch_size)
    classes = scores.argmax(axis=1)
    if label is not None:
        classes = np.full_like(classes, classifier.labels.index(label))
    if method == "gradcam":
        maps = gradcam_maps(classifier, faces, classes, batch_size)
    else:
        maps = occlusion_maps(classifier, faces, classes, scores, batch_size)
    return [
        _normalized(method, classifier.labels[index], float(row[index]), raw)
        for index, row, raw in zip(classes, scores, maps, strict=True)
    ]


def _normalized(
    method: str, emotion: str, score: float, raw: npt.NDArray[np.float32]
) -> Explanation:
    heat = np.maximum(raw, 0.0)  # evidence against the emotion is not shown
    peak = float(heat.max())
    if peak > 0:
        heat = heat / np.float32(peak)
    return Explanation(method, emotion, score, np.clip(heat, 0, 1).astype(np.float32), peak)


def _check_options(method: str, emotion: str | None, labels: Sequence[str]) -> str | None:
    """Return the label of an emotion, None for None; raises UsageError."""
    check_choice("method", method, EXPLANATION_METHODS)
    if emotion is None:
        return None
    check_type("emotion", emotion, str, "a text")
    label = match_label(emotion, labels)
    if label is None:
        raise UsageError(f"unknown emotion {emotion!r}: {expected_one_of(emotion, labels)}")
    return label


def _select_faces(faces: Sequence[Face], face_id: int | None) -> list[Face]:
    if face_id is None:
        return list(faces)
    check_integer("face_id", face_id, 0)
    if face_id >= len(faces):
        valid = f"0 to {len(faces) - 1}" if len(faces) > 1 else "0"
        expected = f"expected {valid}" if faces else "no face was found"
        raise UsageError(f"no face {face_id} in this image: {expected}")
    return [faces[face_id]]


# ---------------------------------------------------------------- occlusion
PATCH = 12
"""Side of the covering patch, in pixels of the 48: an eye, or half a mouth."""

STRIDE = 4
"""Step of the patch; each pixel is covered (PATCH / STRIDE) ** 2 = 9 times."""


def occlusion_maps(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.intp],
    scores: npt.NDArray[np.float32],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Return the loss of score where each pixel is covered, float32 (N, 48, 48).

    It averages over the patches that cover the pixel, weighted towards their centres; negative
    where covering the pixel raises the score. ``faces`` are uint8 (N, 48, 48), grey; ``classes``
    (N,) has the index of each face's class, ``scores`` float32 (N, classes) the uncovered scores.
    """
    weights = _patch_weights()
    maps = np.zeros(faces.shape, np.float32)
    for number, (face, index) in enumerate(zip(faces, classes, strict=True)):
        covered = classifier.classify(cover(face), batch_size=batch_size)[:, index]
        loss = (scores[number, index] - covered).reshape(len(weights), len(weights))
        maps[number] = weights.T @ loss @ weights
    return maps


def cover(face: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a face (48, 48) with a patch at each position, row by row, uint8 (196, 48, 48).

    Patches have the face's mean grey. The network was trained on faces with such patches (random
    erasing), so a patch alone does not mislead it.
    """
    inside = _patch_weights() > 0
    patches = (inside[:, None, :, None] & inside[None, :, None, :]).reshape(-1, *face.shape)
    return np.where(patches, np.uint8(round(float(face.mean()))), face)


def _patch_weights() -> npt.NDArray[np.float32]:
    """Return the weight of each patch along one side, float32 (14, 48): a smooth bump each.

    Columns sum to 1. Patches reach beyond the border, so that each pixel is covered equally often.
    """
    starts = np.arange(STRIDE - PATCH, FACE_SIZE, STRIDE)
    distance = np.arange(FACE_SIZE) + 0.5 - (starts[:, None] + PATCH / 2)
    bumps = np.where(abs(distance) < PATCH / 2, np.cos(np.pi * distance / PATCH) ** 2, 0.0)
    return np.asarray(bumps / bumps.sum(axis=0), np.float32)


# ---------------------------------------------------------------- Grad-CAM
# ONNX Runtime computes no gradients. Between the feature map and the logits there are only global
# average pooling, affine layers and ReLU, so the gradient is computed in NumPy.
_Array: TypeAlias = npt.NDArray[np.float64]

_MAX_DIFFERENCE = 1e-3
_POOLING = ("GlobalAveragePool", "ReduceMean")
_NO_OPS = ("Flatten", "Identity", "Dropout", "Squeeze", "Reshape")
"""Operators that keep the values of pooled features."""


def gradcam_maps(
    classifier: Classifier,
    faces: npt.NDArray[np.uint8],
    classes: npt.NDArray[np.intp],
    batch_size: int,
) -> npt.NDArray[np.float32]:
    """Return the contribution of each place to the class's logit, float32 (N, 48, 48), 0 or more.

    Arguments as `occlusion_maps`. The maps are enlarged from the cells of the feature map.

    Raises:
        ModelError: if the network fails, or its head is not supported.
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
    """Return the model's head after checking that it reproduces the network's logits."""
    if classifier.path is None:
        raise ModelError("Grad-CAM reads the model's file: open the model with Classifier.open")
    head = read_head(classifier.path, classifier.manifest.outputs)
    expected = classifier.logits(faces, batch_size=batch_size)
    try:
        difference = float(np.abs(head.logits(features) - expected).max(initial=0.0))
    except ValueError as error:  # incompatible shapes of weights
        raise ModelError(f"Grad-CAM cannot follow {classifier.path}: {error}") from error
    if not difference <= _MAX_DIFFERENCE * max(1.0, float(np.abs(expected).max(initial=0.0))):
        raise ModelError(
            f"Grad-CAM misreads {classifier.path}: the logits that follow from its features are "
            f"off by {difference:.2g}; use --method occlusion"
        )
    return head


@dataclass(frozen=True)
class Affine:
    """x -> x weight + shift; weight is a matrix (inputs, outputs) or a factor per unit."""

    weight: _Array
    shift: _Array | float = 0.0


@dataclass(frozen=True)
class Head:
    """From a feature map to logits: global average pooling, then layers; None is a ReLU."""

    layers: tuple[Affine | None, ...]

    def logits(self, features: npt.NDArray[np.floating]) -> _Array:
        """Return the logits (N, classes) of feature maps (N, h, w, channels)."""
        return self._activations(features)[-1]

    def gradients(
        self, features: npt.NDArray[np.floating], classes: npt.NDArray[np.intp]
    ) -> _Array:
        """Return the gradient of one logit per face by its features (N, h, w, channels).

        Because the head starts with pooling, it is the same in all cells: (N, channels).
        """
        *inputs, logits = self._activations(features)
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

    def _activations(self, features: npt.NDArray[np.floating]) -> list[_Array]:
        """Return the input of each layer, then the logits."""
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
        outputs: names of the logits and of the features that they follow from.

    Raises:
        ModelError: if the file cannot be read, or the head has other layers than pooling, dense,
            BatchNorm and ReLU.
    """
    graph = read_onnx(path)
    producers = {output: node for node in graph.nodes for output in node.outputs}
    name, features = outputs["logits"], outputs["features"]
    producer = producers.get(features)
    poolable = {features}  # or the value that is transposed to become it
    if producer is not None and producer.op_type == "Transpose":
        poolable.update(producer.inputs[:1])
    layers: list[Affine | None] = []
    # From the logits backwards; bounded, because nodes of a damaged file may form a cycle.
    for _ in graph.nodes:
        node = producers.get(name)
        if node is None:
            break
        if node.op_type in _POOLING and poolable.intersection(node.inputs[:1]):
            return Head(tuple(reversed(layers)))
        name, layer = _read_layer(node, graph, path)
        layers += layer
    raise _unsupported_head(path, "its logits do not come from the mean of its features")


def _read_layer(node: Node, graph: OnnxGraph, path: Path) -> tuple[str, tuple[Affine | None, ...]]:
    """Return the name of a node's input, and its layer; no layer for one that changes nothing."""
    op_type, inputs = node.op_type, node.inputs
    if op_type in _NO_OPS and inputs:
        return inputs[0], ()
    if op_type == "Relu" and len(inputs) == 1:
        return inputs[0], (None,)
    if op_type == "MatMul" and len(inputs) == 2:
        return inputs[0], (Affine(graph.weight(inputs[1])),)
    if op_type == "Gemm" and len(inputs) in (2, 3) and not node.attributes.get("transA"):
        weight = graph.weight(inputs[1]) * node.attributes.get("alpha", 1.0)
        bias = graph.weight(inputs[2]) * node.attributes.get("beta", 1.0) if inputs[2:] else 0.0
        return inputs[0], (Affine(weight.T if node.attributes.get("transB") else weight, bias),)
    if op_type == "BatchNormalization" and len(inputs) == 5:
        gamma, beta, mean, variance = map(graph.weight, inputs[1:])
        factor = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return inputs[0], (Affine(factor, beta - mean * factor),)
    if op_type == "Add" and len(inputs) == 2:
        value, shift = inputs if inputs[1] in graph.tensors else inputs[::-1]
        bias = graph.weight(shift)
        return value, (Affine(np.ones_like(bias), bias),)
    raise _unsupported_head(path, f"there is {op_type} between its features and its logits")


def _unsupported_head(path: Path, why: str) -> ModelError:
    return ModelError(
        f"Grad-CAM cannot read {path}: {why}; expected pooling, dense layers, BatchNorm and ReLU "
        "(--method occlusion works with any model)"
    )
