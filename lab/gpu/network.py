"""Conversion of a Keras network to a PyTorch module with the same layers and names, and back.

`plan_of` lists the layers of a functional Keras model as plain dictionaries; `Network` runs them.
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
from mien.training.architectures import update_normalization
from mien.training.distillation import Teacher, find_teacher
from mien.training.model import load_keras_model
from mien.training.recipe import Config

Arrays = dict[str, npt.NDArray[np.float32]]
"""Weights by "layer/index", in Keras' order and layout."""

_CONFIG_KEYS = {
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
"""Configuration that is kept for each type of layer; other types are not supported."""

_FUNCTIONS = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "sigmoid": torch.sigmoid,
}
_AXES = {"Conv2D": (3, 2, 0, 1), "DepthwiseConv2D": (2, 3, 0, 1), "Dense": (1, 0)}
"""Position of each axis of PyTorch's kernels in Keras', by type of layer."""
_LOGITS = "logits"
_LAST = "probabilities"
"""The final softmax, which the losses include."""


# ---------------------------------------------------------------- Keras
def plan_of(model: Any) -> list[dict[str, Any]]:
    """Describe a functional Keras network as a list of layers, in topological order.

    Returns:
        For each layer its ``name``, ``kind``, ``inputs`` (names), output ``shape`` (channels last)
        and the configuration of its type.

    Raises:
        ModelError: if it has an unsupported layer.
    """
    return [_layer(layer) for layer in model.layers]


def _layer(layer: Any) -> dict[str, Any]:
    import keras

    # Our faster layers are converted as their base classes.
    names = [base.__name__ for base in type(layer).__mro__]
    kind = next((name for name in names if name in _CONFIG_KEYS), names[0])
    config = layer.get_config()
    unknown = kind if kind not in _CONFIG_KEYS else None
    if config.get("activation", "linear") not in (*_FUNCTIONS, "softmax"):
        unknown = config["activation"]
    if unknown is not None:
        raise ModelError(
            f"{layer.name}: {unknown} is not supported by this engine: expected an "
            "EfficientNet or a backbone of this project; or use mien train"
        )
    inputs = [] if kind == "InputLayer" else keras.tree.flatten(layer.input)
    description = {
        "name": _name(layer),
        "kind": kind,
        "inputs": [_name(tensor._keras_history.operation) for tensor in inputs],
        "shape": list(layer.output.shape[1:]),
    }
    return description | {key: config[key] for key in _CONFIG_KEYS[kind]}


def _name(layer: Any) -> str:
    """Return a layer's name, the same in every network of its architecture."""
    # The only layer with weights that Keras names, numbering it across the process.
    return "normalization" if type(layer).__name__ == "Normalization" else str(layer.name)


def weights_of(model: Any) -> Arrays:
    """Return all weights of a Keras network."""
    return {
        f"{_name(layer)}/{index}": np.asarray(array, np.float32)
        for layer in model.layers
        for index, array in enumerate(layer.get_weights())
    }


def set_weights(model: Any, arrays: Arrays) -> None:
    """Assign the weights of `weights_of` or `arrays_of` to a Keras network.

    Raises:
        ModelError: if they are from another network.
    """
    for layer in model.layers:
        current = layer.get_weights()
        if type(layer).__name__ == "Dropout" or not current:
            continue
        try:
            layer.set_weights(_arrays_for(layer, current, arrays))
        except (KeyError, ValueError) as error:
            raise ModelError(f"{layer.name}: these weights are from another network") from error
    update_normalization(model)


def _arrays_for(layer: Any, current: list[Any], arrays: Arrays) -> list[Any]:
    """Return a layer's arrays in the shapes it has; raises KeyError or ValueError if it can't."""
    known = len(current)
    if type(layer).__name__ == "Normalization":
        known = 2  # followed by a count of images, which is not used
    found = [arrays[f"{_name(layer)}/{index}"] for index in range(known)]
    if known < len(current):
        found = [array.reshape(old.shape) for array, old in zip(found, current, strict=False)]
    return [*found, *current[known:]]


# ---------------------------------------------------------------- PyTorch
class Convolution(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding for any size, and its activation.

    Args:
        channels: number of input channels.
        layer: a layer of a plan.
    """

    def __init__(self, channels: int, layer: Mapping[str, Any]) -> None:
        depthwise = layer["kind"] == "DepthwiseConv2D"
        super().__init__(
            channels,
            channels if depthwise else layer["filters"],
            tuple(layer["kernel_size"]),
            stride=tuple(layer["strides"]),
            groups=channels if depthwise else 1,
            bias=layer["use_bias"],
        )
        self.activation = _FUNCTIONS[layer["activation"]]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, H, W)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        totals = [(math.ceil(n / stride) - 1) * stride + kernel - n for n in x.shape[2:]]
        high, wide = (max(0, total) for total in totals)
        if high % 2 or wide % 2:
            x = functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
            padding = (0, 0)
        else:
            padding = (high // 2, wide // 2)
        y = functional.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)
        return self.activation(y)


class Normalization(nn.Module):
    """Subtraction of a mean and division by a deviation, which are part of the weights."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("variance", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        return (x - self.mean) / self.variance.sqrt()


class Network(nn.Module):
    """Network of a plan: faces (N, 1, 48, 48) in 0-255 -> logits (N, classes).

    Its initial weights come from Keras (`load_arrays`).

    Attributes:
        size: side in pixels that faces are resized to.
    """

    def __init__(self, plan: Sequence[Mapping[str, Any]], *, size: int) -> None:
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
        """Return the logits and the input of their layer."""
        values: dict[str, Tensor] = {}
        inputs: list[Tensor] = [faces]
        name = ""
        for layer in self.plan:
            name = layer["name"]
            inputs = [values[source] for source in layer["inputs"]] or [faces]
            values[name] = self._value(layer, inputs)
            # Batches have thousands of faces, so values are freed after their last use.
            for source in set(layer["inputs"]):
                if self._last_use[source] == name:
                    del values[source]
        return values[name], inputs[0]

    def _value(self, layer: Mapping[str, Any], inputs: list[Tensor]) -> Tensor:
        kind, x = layer["kind"], inputs[0]
        if layer["name"] == _LOGITS:
            with torch.autocast(x.device.type, enabled=False):  # float32, as in Keras
                return self.parts[_LOGITS](x.float())
        if layer["name"] in self.parts:
            return self.parts[layer["name"]](x)
        if kind in ("InputLayer", "ZeroPadding2D"):  # convolutions do their own padding
            return x
        if kind == "Resizing":
            return _resized(x, self.size)
        if kind == "Concatenate":
            return torch.cat(inputs, dim=1)
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
            return inputs[0] * inputs[1]
        if kind == "Add":
            return inputs[0] + inputs[1]
        if kind == "Dropout":
            return self._dropout(x, layer)
        raise AssertionError(kind)

    def _dropout(self, x: Tensor, layer: Mapping[str, Any]) -> Tensor:
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
    channels = shapes[layer["inputs"][0]][-1] if layer["inputs"] else 0
    if kind in ("Conv2D", "DepthwiseConv2D"):
        return Convolution(channels, layer)
    if kind == "BatchNormalization":
        batch_norm = nn.BatchNorm2d if len(layer["shape"]) == 3 else nn.BatchNorm1d
        return batch_norm(channels, eps=layer["epsilon"], momentum=1 - layer["momentum"])
    if kind == "Dense":
        return nn.Linear(channels, layer["units"], bias=layer["use_bias"])
    if kind == "Normalization":
        return Normalization(channels)
    return None


def load_arrays(network: Network, arrays: Arrays) -> None:
    """Load Keras' weights into a network; layers without any in ``arrays`` keep theirs."""
    with torch.no_grad():
        for layer in network.plan:
            name = layer["name"]
            found = [arrays[key] for index in range(4) if (key := f"{name}/{index}") in arrays]
            if name not in network.parts or not found:
                continue
            if layer["kind"] == "Normalization":
                found = found[:2]  # Keras also stores a count of images
            for target, array in zip(_tensors(network.parts[name]), found, strict=True):
                value = torch.from_numpy(np.array(array, np.float32))
                if value.ndim > 1 and layer["kind"] in _AXES:
                    value = value.permute(_AXES[layer["kind"]])
                target.copy_(value.reshape(target.shape))


def arrays_of(network: Network) -> Arrays:
    """Return a network's weights in Keras' layout."""
    arrays: Arrays = {}
    for layer in network.plan:
        name = layer["name"]
        if name not in network.parts:
            continue
        for index, tensor in enumerate(_tensors(network.parts[name])):
            value = tensor.detach().float().cpu().contiguous()
            if value.ndim > 1 and layer["kind"] in _AXES:
                value = value.permute(*np.argsort(_AXES[layer["kind"]]).tolist())
            arrays[f"{name}/{index}"] = value.contiguous().numpy()
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
                f"the teacher {teacher.source!r} is an exported model: the engine needs "
                "folders of runs, with best.keras in them"
            )
    return found


def open_teacher(teacher: Teacher, device: torch.device) -> Network:
    """Return a teacher's network on a device, in evaluation mode.

    Raises:
        ModelError: if it is damaged, or has unsupported layers.
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
