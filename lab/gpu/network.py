"""A Keras network as a PyTorch module: the same layers and names, weights both ways.

`plan_of` lists the layers of a functional Keras model as plain dictionaries, `Network` runs them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from mien.core.errors import ModelError, UsageError
from mien.training.architectures import refresh
from mien.training.distillation import Teacher, find_teacher
from mien.training.model import load_keras_model
from mien.training.recipe import Config

Arrays = dict[str, npt.NDArray[np.float32]]
"""Weights by "layer/place", in Keras' order and layout."""

_KEPT = {
    "InputLayer": (),
    "Resizing": (),
    "Concatenate": (),
    "Rescaling": ("scale", "offset"),
    "Normalization": (),
    "ZeroPadding2D": (),
    "Conv2D": ("filters", "kernel_size", "strides", "use_bias", "activation"),
    "DepthwiseConv2D": ("kernel_size", "strides", "use_bias", "activation"),
    "BatchNormalization": ("epsilon", "momentum"),
    "Activation": ("activation",),
    "MaxPooling2D": ("pool_size",),
    "GlobalAveragePooling2D": ("keepdims",),
    "Reshape": (),
    "Multiply": (),
    "Add": (),
    "Dropout": ("rate", "noise_shape"),
    "Dense": ("units", "use_bias"),
}
"""What has to be known of each kind of layer; another kind cannot be written down."""

_FUNCTIONS = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "sigmoid": torch.sigmoid,
}
_AXES = {"Conv2D": (3, 2, 0, 1), "DepthwiseConv2D": (2, 3, 0, 1), "Dense": (1, 0)}
"""Where each axis of PyTorch's kernels stands in Keras', by the kind of layer."""
_LOGITS = "logits"
_LAST = "probabilities"
"""The softmax at the end, which the losses bring themselves."""


# ---------------------------------------------------------------- Keras
def plan_of(model: Any) -> list[dict[str, Any]]:
    """Describe a functional Keras network as a list of layers, in topological order.

    Returns:
        Of each layer its ``name``, ``kind``, ``inputs`` (names), ``shape`` (of what comes out, last
        the channels), and what its kind needs.

    Raises:
        ModelError: if it holds a layer that cannot be written down.
    """
    return [_layer(layer) for layer in model.layers]


def _layer(layer: Any) -> dict[str, Any]:
    import keras

    # A layer of ours that computes faster is its base in Keras.
    names = [base.__name__ for base in type(layer).__mro__]
    kind = next((name for name in names if name in _KEPT), names[0])
    config = layer.get_config()
    unknown = kind if kind not in _KEPT else None
    if config.get("activation", "linear") not in (*_FUNCTIONS, "softmax"):
        unknown = config["activation"]
    if unknown is not None:
        raise ModelError(
            f"{layer.name}: {unknown} cannot be trained here: expected an EfficientNet or a "
            "backbone of ours; or mien train"
        )
    inputs = [] if kind == "InputLayer" else keras.tree.flatten(layer.input)
    written = {
        "name": _name(layer),
        "kind": kind,
        "inputs": [_name(tensor._keras_history.operation) for tensor in inputs],
        "shape": list(layer.output.shape[1:]),
    }
    return written | {key: config[key] for key in _KEPT[kind]}


def _name(layer: Any) -> str:
    """Return a layer's name, the same in every network of its architecture."""
    # The one layer with weights that we leave to Keras to name, which numbers all it ever made.
    return "normalization" if type(layer).__name__ == "Normalization" else str(layer.name)


def weights_of(model: Any) -> Arrays:
    """Return all weights of a Keras network."""
    return {
        f"{_name(layer)}/{place}": np.asarray(array, np.float32)
        for layer in model.layers
        for place, array in enumerate(layer.get_weights())
    }


def set_weights(model: Any, arrays: Arrays) -> None:
    """Give a Keras network weights that `weights_of` or a training on the GPU returned.

    Raises:
        ModelError: if they are of another network.
    """
    for layer in model.layers:
        current = layer.get_weights()
        if type(layer).__name__ == "Dropout" or not current:
            continue
        try:
            layer.set_weights(_arrays_for(layer, current, arrays))
        except (KeyError, ValueError) as error:
            raise ModelError(f"{layer.name}: these weights are of another network") from error
    refresh(model)


def _arrays_for(layer: Any, current: list[Any], arrays: Arrays) -> list[Any]:
    """Return a layer's arrays in the shapes it has; raises KeyError or ValueError if it can't."""
    known = len(current)
    if type(layer).__name__ == "Normalization":
        known = 2  # then a number of images that nobody asks for
    found = [arrays[f"{_name(layer)}/{place}"] for place in range(known)]
    if known < len(current):
        found = [array.reshape(old.shape) for array, old in zip(found, current, strict=False)]
    return [*found, *current[known:]]


# ---------------------------------------------------------------- PyTorch
class Convolution(nn.Conv2d):
    """A convolution that pads as TensorFlow does, whatever the size, and its activation."""

    def __init__(self, given: int, layer: Mapping[str, Any]) -> None:
        """Make it for a number of channels from a plan's layer."""
        depthwise = layer["kind"] == "DepthwiseConv2D"
        super().__init__(
            given,
            given if depthwise else layer["filters"],
            tuple(layer["kernel_size"]),
            stride=tuple(layer["strides"]),
            groups=given if depthwise else 1,
            bias=layer["use_bias"],
        )
        self.activation = _FUNCTIONS[layer["activation"]]

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes out for (N, C, H, W)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        wanted = [(math.ceil(n / stride) - 1) * stride + kernel - n for n in x.shape[2:]]
        high, wide = (max(0, total) for total in wanted)
        if high % 2 or wide % 2:
            x = functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
            around = (0, 0)
        else:
            around = (high // 2, wide // 2)
        y = functional.conv2d(x, self.weight, self.bias, self.stride, around, 1, self.groups)
        return self.activation(y)


class Normalization(nn.Module):
    """Subtracts a mean and divides by a deviation, both of which come with the weights."""

    def __init__(self, channels: int) -> None:
        """Make it for a number of channels."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("variance", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) scaled."""
        return (x - self.mean) / self.variance.sqrt()


class Network(nn.Module):
    """A plan's network: faces (N, 1, 48, 48) in 0-255 -> logits (N, classes).

    Attributes:
        size: side in pixels that faces are enlarged to.
    """

    def __init__(self, plan: Sequence[Mapping[str, Any]], *, size: int) -> None:
        """Build it; what it starts from comes from Keras (`load_arrays`)."""
        super().__init__()
        self.size = size
        self.plan = [layer for layer in plan if layer["name"] != _LAST]
        shapes = {layer["name"]: layer["shape"] for layer in plan}
        self._last_use = {name: layer["name"] for layer in self.plan for name in layer["inputs"]}
        self.parts = nn.ModuleDict()
        for layer in self.plan:
            part = _part(layer, shapes)
            if part is not None:
                self.parts[layer["name"]] = part

    def forward(self, faces: Tensor) -> Tensor:
        """Return logits."""
        return self.logits_and_features(faces)[0]

    def logits_and_features(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and what their layer saw."""
        values: dict[str, Tensor] = {}
        given: list[Tensor] = [faces]
        name = ""
        for layer in self.plan:
            name = layer["name"]
            given = [values[source] for source in layer["inputs"]] or [faces]
            values[name] = self._value(layer, given)
            # Thousands of faces are read at once: what nobody needs any more must not stay.
            for source in set(layer["inputs"]):
                if self._last_use[source] == name:
                    del values[source]
        return values[name], given[0]

    def _value(self, layer: Mapping[str, Any], given: list[Tensor]) -> Tensor:
        kind, x = layer["kind"], given[0]
        if layer["name"] == _LOGITS:
            with torch.autocast(x.device.type, enabled=False):  # in float32, as Keras has them
                return self.parts[_LOGITS](x.float())
        if layer["name"] in self.parts:
            return self.parts[layer["name"]](x)
        if kind in ("InputLayer", "ZeroPadding2D"):  # convolutions pad by themselves
            return x
        if kind == "Resizing":
            return _resized(x, self.size)
        if kind == "Concatenate":
            return torch.cat(given, dim=1)
        if kind == "Rescaling":
            return x * layer["scale"] + layer["offset"]
        if kind == "Activation":
            return _FUNCTIONS[layer["activation"]](x)
        if kind == "MaxPooling2D":
            return functional.max_pool2d(x, tuple(layer["pool_size"]))
        if kind == "GlobalAveragePooling2D":
            return x.mean((2, 3), keepdim=layer["keepdims"])
        if kind == "Reshape":  # of a squeeze-and-excite gate: (C) to (1, 1, C)
            return x.reshape(len(x), -1, 1, 1)
        if kind == "Multiply":
            return given[0] * given[1]
        if kind == "Add":
            return given[0] + given[1]
        if kind == "Dropout":
            return self._dropped(x, layer)
        raise AssertionError(kind)

    def _dropped(self, x: Tensor, layer: Mapping[str, Any]) -> Tensor:
        rate = layer["rate"]
        if not self.training or rate == 0:
            return x
        if layer["noise_shape"] is None:
            return functional.dropout(x, rate)
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= rate
        return x * kept.to(x.dtype) / (1 - rate)


def _resized(x: Tensor, size: int) -> Tensor:
    if size == x.shape[-1]:
        return x
    return functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def _part(layer: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> nn.Module | None:
    kind = layer["kind"]
    given = shapes[layer["inputs"][0]][-1] if layer["inputs"] else 0
    if kind in ("Conv2D", "DepthwiseConv2D"):
        return Convolution(given, layer)
    if kind == "BatchNormalization":
        made = nn.BatchNorm2d if len(layer["shape"]) == 3 else nn.BatchNorm1d
        return made(given, eps=layer["epsilon"], momentum=1 - layer["momentum"])
    if kind == "Dense":
        return nn.Linear(given, layer["units"], bias=layer["use_bias"])
    if kind == "Normalization":
        return Normalization(given)
    return None


def load_arrays(network: Network, arrays: Arrays) -> None:
    """Give a network weights of Keras; layers without any in ``arrays`` keep theirs."""
    with torch.no_grad():
        for layer in network.plan:
            name = layer["name"]
            found = [arrays[key] for place in range(4) if (key := f"{name}/{place}") in arrays]
            if name not in network.parts or not found:
                continue
            if layer["kind"] == "Normalization":
                found = found[:2]  # Keras counts images, too
            for target, array in zip(_tensors(network.parts[name]), found, strict=True):
                value = torch.from_numpy(np.array(array, np.float32))
                if value.ndim > 1 and layer["kind"] in _AXES:
                    value = value.permute(_AXES[layer["kind"]])
                target.copy_(value.reshape(target.shape))


def arrays_of(network: Network) -> Arrays:
    """Return the weights as Keras has them."""
    arrays: Arrays = {}
    for layer in network.plan:
        name = layer["name"]
        if name not in network.parts:
            continue
        for place, tensor in enumerate(_tensors(network.parts[name])):
            value = tensor.detach().float().cpu().contiguous()
            if value.ndim > 1 and layer["kind"] in _AXES:
                value = value.permute(*np.argsort(_AXES[layer["kind"]]).tolist())
            arrays[f"{name}/{place}"] = value.contiguous().numpy()
    return arrays


def _tensors(part: nn.Module) -> list[Tensor]:
    if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return [part.weight, part.bias, part.running_mean, part.running_var]
    if isinstance(part, Normalization):
        return [part.mean, part.variance]
    return [part.weight] if part.bias is None else [part.weight, part.bias]


# ---------------------------------------------------------------- teachers
def find_teachers(config: Config) -> list[Teacher]:
    """Return the teachers of a recipe, all of which are runs.

    Raises:
        ModelError: if one is missing or damaged.
        UsageError: if one is an exported model.
    """
    found = [find_teacher(source, config.labels) for source in config.distill.teachers]
    for teacher in found:
        if teacher.file is None:
            raise teacher.not_found()
        if teacher.file.suffix != ".keras":
            raise UsageError(
                f"the teacher {teacher.source!r} is an exported model: the device learns from "
                "runs' folders alone, with best.keras in them"
            )
    return found


def open_teacher(teacher: Teacher, device: torch.device) -> Network:
    """Return a teacher's network on a device, in evaluation mode.

    Raises:
        ModelError: if it is damaged, or holds layers that cannot be built here.
    """
    assert teacher.file is not None
    model = load_keras_model(teacher.file)
    plan = plan_of(model)
    size = next(layer["shape"][0] for layer in plan if layer["kind"] == "Resizing")
    network = Network(plan, size=size)
    load_arrays(network, weights_of(model))
    network.to(device).eval().requires_grad_(False)
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last)
    return network
