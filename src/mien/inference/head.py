"""What a network does after its last feature map, read from its file and redone in NumPy.

ONNX Runtime gives values, not gradients. From the feature map to the logits there are only a mean
over the plane, dense layers, BatchNorm and ReLU, so the gradient can be written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError
from mien.core.manifest import OUTPUT_CONTRACT
from mien.inference.onnx_file import Node, OnnxFile, read_onnx

_Array: TypeAlias = npt.NDArray[np.float64]

_POOLING = ("GlobalAveragePool", "ReduceMean")
_WITHOUT_EFFECT = ("Flatten", "Identity", "Dropout", "Squeeze", "Reshape")
"""Operations that leave the numbers of pooled features as they are."""


@dataclass(frozen=True)
class Dense:
    """x -> x @ weight; weight is (inputs, outputs)."""

    weight: _Array


@dataclass(frozen=True)
class Scale:
    """x -> x * factor + shift, for each unit: BatchNorm in inference, or a bias."""

    factor: _Array
    shift: _Array


@dataclass(frozen=True)
class Relu:
    """x -> max(x, 0)."""


Step: TypeAlias = Dense | Scale | Relu


@dataclass(frozen=True)
class Head:
    """From a feature map to logits: the mean over the plane, then steps."""

    steps: tuple[Step, ...]

    def logits(self, features: npt.NDArray[np.floating]) -> _Array:
        """Return the logits (N, classes) of feature maps (N, h, w, channels)."""
        value = _pooled(features)
        for step in self.steps:
            value = _forward(step, value)
        return value

    def gradients(
        self, features: npt.NDArray[np.floating], classes: npt.NDArray[np.intp]
    ) -> _Array:
        """Return how one logit of each face changes with its features.

        Args:
            features: (N, h, w, channels).
            classes: (N,), indices of the logits.

        Returns:
            (N, channels): the derivative by each channel at any one place; since the head begins
            with the mean over the plane, it is the same at all places.
        """
        value = _pooled(features)
        inputs = []
        for step in self.steps:
            inputs.append(value)
            value = _forward(step, value)
        gradient = np.zeros_like(value)
        gradient[np.arange(len(value)), classes] = 1.0
        for step, before in zip(reversed(self.steps), reversed(inputs), strict=True):
            if isinstance(step, Dense):
                gradient = gradient @ step.weight.T
            elif isinstance(step, Scale):
                gradient = gradient * step.factor
            else:
                gradient = gradient * (before > 0)
        return np.asarray(gradient / (features.shape[1] * features.shape[2]), np.float64)


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
    steps: list[tuple[Step, ...]] = []
    # Backwards; as many nodes as there are end it in a file whose nodes lead round in a circle.
    for _ in file.nodes:
        node = makers.get(name)
        if node is None:
            break
        if (
            node.kind in _POOLING
            and node.inputs[:1]
            and _is_features(node.inputs[0], features, makers)
        ):
            return Head(tuple(step for group in reversed(steps) for step in group))
        name, made = _read_step(node, file, path)
        steps.append(made)
    raise _not_a_head(path, "its logits do not come from the mean of its features")


def _pooled(features: npt.NDArray[np.floating]) -> _Array:
    return np.asarray(features.mean(axis=(1, 2), dtype=np.float64), np.float64)


def _forward(step: Step, value: _Array) -> _Array:
    if isinstance(step, Dense):
        return value @ step.weight
    if isinstance(step, Scale):
        return value * step.factor + step.shift
    return np.maximum(value, 0.0)


def _is_features(name: str, features: str, makers: Mapping[str, Node]) -> bool:
    """Whether a value is the feature map that the network gives out, or what is turned for it."""
    maker = makers.get(features)
    turned = maker is not None and maker.kind == "Transpose" and maker.inputs[:1] == (name,)
    return name == features or turned


def _read_step(node: Node, file: OnnxFile, path: Path) -> tuple[str, tuple[Step, ...]]:
    """Return the name of a node's input and what it does to it, in order."""
    kind, inputs = node.kind, node.inputs
    if kind in _WITHOUT_EFFECT and inputs:
        return inputs[0], ()
    if kind == "Relu" and len(inputs) == 1:
        return inputs[0], (Relu(),)
    if kind == "MatMul" and len(inputs) == 2:
        return inputs[0], (Dense(file.weight(inputs[1])),)
    if kind == "Gemm" and len(inputs) in (2, 3) and not node.attributes.get("transA"):
        return inputs[0], _gemm(node, file)
    if kind == "BatchNormalization" and len(inputs) == 5:
        gamma, beta, mean, variance = (file.weight(each) for each in inputs[1:])
        factor = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        return inputs[0], (Scale(factor, beta - mean * factor),)
    if kind == "Add" and len(inputs) == 2:
        value, shift = inputs if inputs[1] in file.tensors else inputs[::-1]
        weight = file.weight(shift)
        return value, (Scale(np.ones_like(weight), weight),)
    raise _not_a_head(path, f"there is {kind} between its features and its logits")


def _gemm(node: Node, file: OnnxFile) -> tuple[Step, ...]:
    weight = file.weight(node.inputs[1]) * node.attributes.get("alpha", 1.0)
    dense = Dense(weight.T if node.attributes.get("transB") else weight)
    if len(node.inputs) == 2:
        return (dense,)
    bias = file.weight(node.inputs[2]) * node.attributes.get("beta", 1.0)
    return (dense, Scale(np.ones_like(bias), bias))


def _not_a_head(path: Path, why: str) -> ModelError:
    return ModelError(
        f"Grad-CAM cannot read {path}: {why}; expected pooling, dense layers, BatchNorm and ReLU "
        "(--method occlusion takes any model)"
    )
