"""Conversion of a Keras network to ONNX, and of an exported file's weights back to Keras.

Keras' own export makes the constants of `Normalization` required inputs, has no second output and
takes minutes. This converter works on every backend of Keras, and the same weights always give the
same bytes. The file holds the network up to its logits; temperature and softmax are applied by the
inference code.

Keras is channels-last; the ONNX graph is channels-first throughout: (N, C, H, W) or (N, C).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import mien
from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError, needs_extra
from mien.core.manifest import INPUT_CONTRACT, OUTPUT_CONTRACT
from mien.training.architectures import update_normalization
from mien.training.onnx_graph import one_reading, rename

Array: TypeAlias = npt.NDArray[Any]

OPSET = 18
"""The first opset whose Resize takes axes; ONNX Runtime supports it since 1.15."""
IR_VERSION = 8
"""The file format that came with the opset."""

_DESCRIPTION = "Facial emotions: standard faces (grey 48x48, 0-255) to logits of the labels."
_BATCH = "batch"
_UNTRAINED = ("count", "seed_generator_state")
_LAYOUT_MARK = "keras"


# ---------------------------------------------------------------- Keras to ONNX
def keras_to_onnx(model: Any, *, labels: Sequence[str] = EMOTIONS, version: str = "") -> Any:
    """Convert a network.

    Args:
        model: a flat functional or sequential ``keras.Model``, grey faces (N, H, W, 1) in 0-255 ->
            probabilities (N, classes), ending in a softmax layer.
        labels: class names, stored in the file.
        version: version of the model, stored in the file.

    Returns:
        A checked ``onnx.ModelProto``: input "faces" uint8 (batch, H, W); outputs "logits" float32
        (batch, classes) and "features" float32 (batch, h, w, channels), the last feature map.

    Raises:
        ModelError: if a layer is not supported (it is named), or the network's input or output is
            not the expected one.
        MissingExtra: if onnx is not installed.
    """
    import keras

    name, logits, features = INPUT_CONTRACT["name"], *OUTPUT_CONTRACT.values()
    onnx, sides, names = _onnx(), _check_ends(model, labels), layer_names(model)
    graph = _Graph()
    graph.owner = name
    faces = graph.node("Cast", [name], to=onnx.TensorProto.FLOAT)
    axis = graph.constant("channel", [1], np.int64)
    values = {id(model.inputs[0]): graph.node("Unsqueeze", [faces, axis])}
    feature_map = model.inputs[0]
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        sources = layer.input if isinstance(layer.input, list | tuple) else [layer.input]
        if not all(id(source) in values for source in sources):
            why = "its input comes from keras.ops, or from a layer used more than once"
            raise _unsupported(layer, why)
        inputs = [values[id(source)] for source in sources]
        if layer.output is model.outputs[0]:  # the softmax
            rename(graph.nodes, {inputs[0]: logits})
            break
        graph.owner, kind = names[id(layer)], type(layer).__name__
        # A user's own class may have a known name but compute something else.
        if kind not in EMITTERS or type(layer) is not getattr(keras.layers, kind):
            raise _unsupported(layer)
        values[id(layer.output)] = EMITTERS[kind](graph, layer, inputs)
        if len(layer.output.shape) == 4:
            feature_map = layer.output
    # The last feature map is the smallest, so transposing it costs next to nothing.
    graph.owner = features
    transposed = graph.node("Transpose", [values[id(feature_map)]], perm=[0, 2, 3, 1])
    rename(graph.nodes, {transposed: features})
    tensor, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    return graph.model(
        [tensor(name, onnx.TensorProto.UINT8, [_BATCH, *sides])],
        [
            tensor(logits, float32, [_BATCH, len(labels)]),
            tensor(features, float32, [_BATCH, *feature_map.shape[1:]]),
        ],
        {"labels": json.dumps(list(labels)), "producer": "mien", "version": version},
    )


def _onnx() -> Any:
    with needs_extra("train", "exporting a network"):
        import onnx
    return onnx


def layer_names(model: Any) -> dict[int, str]:
    """Return the layers' names by ``id``.

    Keras numbers the names that it makes up ("normalization_3") across the process; here they are
    numbered within the model.
    """
    names, automatic = {}, Counter[str]()
    for layer in model.layers:
        names[id(layer)] = layer.name
        stem = re.sub(r"_\d+$", "", layer.name)
        if stem.replace("_", "") == type(layer).__name__.lower():
            names[id(layer)] = f"{stem}_{automatic[stem]}" if automatic[stem] else stem
            automatic[stem] += 1
    return names


def _check_ends(model: Any, labels: Sequence[str]) -> tuple[int, int]:
    """Check a network's input and output, and return the height and width of its input."""
    inputs, outputs = ([tuple(end.shape) for end in ends] for ends in (model.inputs, model.outputs))
    side = inputs[0][1:]
    if len(inputs) != 1 or len(side) != 3 or None in side or side[2] != 1:
        expected = f"one input (N, H, W, 1) of fixed size, got {inputs}"
    elif len(outputs) != 1 or outputs[0][1:] != (len(labels),):
        expected = f"one output (N, {len(labels)}), got {outputs}"
    else:
        last = next(layer for layer in model.layers if layer.output is model.outputs[0])
        activation = getattr(getattr(last, "activation", None), "__name__", "")
        kind = type(last).__name__
        if kind == "Softmax" or (kind, activation) == ("Activation", "softmax"):
            return side[0], side[1]
        expected = f"a softmax at its end, got {kind}"
    raise ModelError(f"cannot export {model.name!r}: expected {expected}")


class _Graph:
    """Nodes and constants of an ONNX graph under construction.

    Attributes:
        owner: name of the layer being converted, the prefix of new names. Weights are named
            ``layer/variable``; their ``doc_string`` keeps Keras' layout and shape for
            `read_weights`.
    """

    def __init__(self) -> None:
        self.owner = ""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._taken: set[str] = set()

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node and return the name of its output, ``owner/kind``."""
        from onnx import helper

        name = self._free_name(f"{self.owner}/{kind}")
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, what: str, value: Any, dtype: type = np.float32) -> str:
        """Add a constant that is no trained weight and return its name, ``owner:what``."""
        from onnx import numpy_helper

        name = self._free_name(f"{self.owner}:{what}")
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, layer: Any, variable: str, layout: str = "same") -> str:
        """Add a variable of a layer and return its name; layouts as in `_to_onnx_layout`."""
        from onnx import numpy_helper

        weight = next(item for item in layer.weights if item.name == variable)
        value = np.asarray(weight.numpy(), np.float32)
        name = self._free_name(f"{self.owner}/{variable}")
        tensor = numpy_helper.from_array(_to_onnx_layout(value, layout), name)
        tensor.doc_string = f"{_LAYOUT_MARK} {layout} {','.join(map(str, value.shape))}"
        self.initializers.append(tensor)
        return name

    def model(
        self, inputs: Sequence[Any], outputs: Sequence[Any], properties: Mapping[str, str]
    ) -> Any:
        """Return the finished ``onnx.ModelProto``, checked."""
        onnx = _onnx()
        graph = onnx.helper.make_graph(self.nodes, "mien", inputs, outputs, self.initializers)
        proto = onnx.helper.make_model(
            graph,
            producer_name="mien",
            producer_version=mien.__version__,
            doc_string=_DESCRIPTION,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.helper.set_model_props(proto, properties)
        onnx.checker.check_model(proto, full_check=True)
        return proto

    def _free_name(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


# ---------------------------------------------------------------- layouts of weights
def _to_onnx_layout(array: Array, layout: str) -> Array:
    """Transpose a Keras array to ONNX's order.

    Layouts: "HWIO" (convolution), "HWCM" (depthwise, with a multiplier), "same" (as in Keras).
    """
    if layout == "HWIO":
        array = array.transpose(3, 2, 0, 1)
    elif layout == "HWCM":
        height, width, channels, multiplier = array.shape
        array = array.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    return np.ascontiguousarray(array)


def _to_keras_layout(array: Array, note: str) -> Array | None:
    """Invert `_to_onnx_layout`, given a tensor's note; None if it is no trained weight."""
    mark, _, rest = note.partition(" ")
    layout, _, sides = rest.partition(" ")
    if mark != _LAYOUT_MARK or layout not in ("same", "HWIO", "HWCM"):
        return None
    shape = tuple(int(side) for side in sides.split(",") if side)
    if layout == "HWIO":
        array = array.transpose(2, 3, 1, 0)
    elif layout == "HWCM":
        height, width, channels, multiplier = shape
        array = array.reshape(channels, multiplier, height, width).transpose(2, 3, 0, 1)
    return np.ascontiguousarray(array.reshape(shape))


# ---------------------------------------------------------------- layers
Emitter: TypeAlias = Callable[[_Graph, Any, list[str]], str]
"""Adds a layer's nodes, given the names of its inputs, and returns the name of its output.

Raises ModelError for unsupported options of the layer.
"""


def _unsupported(layer: Any, why: str = "") -> ModelError:
    return ModelError(
        f"cannot export the layer {layer.name!r} ({type(layer).__name__}{why and ': ' + why}): "
        f"expected layers among {', '.join(sorted(EMITTERS))}, channels last"
    )


def _input_shape(layer: Any) -> tuple[int, ...]:
    """Return (H, W, C) or (C,) of a layer's only input, which must be fixed."""
    shape = tuple(layer.input.shape[1:])
    if None in shape:
        raise _unsupported(layer, f"its input's shape {shape} is not fixed")
    return shape


def _plane(layer: Any) -> tuple[int, int, int]:
    """Return (H, W, C) of the feature map that is a layer's only input."""
    shape = _input_shape(layer)
    if len(shape) != 3 or getattr(layer, "data_format", "channels_last") != "channels_last":
        raise _unsupported(layer, f"its input has shape {shape}")
    return shape[0], shape[1], shape[2]


def _pads(layer: Any, kernel: Sequence[int]) -> list[int]:
    """Return ONNX's pads [top, left, bottom, right] for Keras' padding.

    "same" puts the odd pixel at the bottom and right, and depends on the input's size if strided.
    """
    plane = _plane(layer)
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding != "same":
        raise _unsupported(layer, f"padding {layer.padding!r}")
    before, after = [], []
    for side, window, stride in zip(plane, kernel, layer.strides, strict=False):
        total = max((math.ceil(side / stride) - 1) * stride + window - side, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before + after


def _on_channels(layer: Any) -> bool:
    """Return True if a layer's axis is the last of its input, the channels."""
    axes = layer.axis if isinstance(layer.axis, list | tuple) else (layer.axis,)
    return tuple(axes) in ((-1,), (len(layer.input.shape) - 1,))


# Layers with weights
def _convolution(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    sizes = zip(layer.kernel_size, layer.dilation_rate, strict=True)
    pads = _pads(layer, [(size - 1) * step + 1 for size, step in sizes])
    weights = [graph.weight(layer, "kernel", "HWCM" if depthwise else "HWIO")]
    if layer.use_bias:
        weights.append(graph.weight(layer, "bias"))
    output = graph.node(
        "Conv",
        [*inputs, *weights],
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        pads=pads,
        group=_plane(layer)[2] if depthwise else layer.groups,
    )
    return _activation(graph, layer, [output])


def _dense(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    if len(_input_shape(layer)) != 1:
        raise _unsupported(layer, f"its input has shape {_input_shape(layer)}")
    weights = [graph.weight(layer, "kernel")]
    if layer.use_bias:
        weights.append(graph.weight(layer, "bias"))
    return _activation(graph, layer, [graph.node("Gemm", [*inputs, *weights])])


def _batch_norm(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    if not _on_channels(layer):
        raise _unsupported(layer, f"axis {layer.axis}")
    ones = np.ones(layer.input.shape[-1])
    gamma = graph.weight(layer, "gamma") if layer.scale else graph.constant("ones", ones)
    beta = graph.weight(layer, "beta") if layer.center else graph.constant("zeros", 0 * ones)
    statistics = [graph.weight(layer, name) for name in ("moving_mean", "moving_variance")]
    parts = [*inputs, gamma, beta, *statistics]
    return graph.node("BatchNormalization", parts, epsilon=float(layer.epsilon))


def _normalization(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    import keras

    if not _on_channels(layer) or layer.invert or layer.input_mean is not None:
        raise _unsupported(layer, "only adapted statistics along channels")
    mean, variance = graph.weight(layer, "mean"), graph.weight(layer, "variance")
    if len(layer.input.shape) == 4:
        axes = graph.constant("axes", [1, 2], np.int64)
        mean, variance = (graph.node("Unsqueeze", [part, axes]) for part in (mean, variance))
    least = graph.constant("epsilon", keras.config.epsilon())
    deviation = graph.node("Max", [graph.node("Sqrt", [variance]), least])
    return graph.node("Div", [graph.node("Sub", [*inputs, mean]), deviation])


# Pixels and shapes
def _rescaling(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    scale, offset = (np.asarray(part, np.float32) for part in (layer.scale, layer.offset))
    if len(layer.input.shape) == 4:
        if not {scale.size, offset.size} <= {1, layer.input.shape[-1]}:
            raise _unsupported(layer, "other than one number per channel")
        scale, offset = (part.reshape(-1, 1, 1) if part.ndim else part for part in (scale, offset))
    value = graph.node("Mul", [*inputs, graph.constant("scale", scale)])
    if offset.any():
        value = graph.node("Add", [value, graph.constant("offset", offset)])
    return value


def _resizing(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    options = ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias")
    special = [option for option in options if getattr(layer, option, False)]
    if layer.interpolation != "bilinear" or special:
        raise _unsupported(layer, f"interpolation {', '.join([layer.interpolation, *special])}")
    size = (layer.height, layer.width)
    if _plane(layer)[:2] == size:
        return inputs[0]
    return graph.node(
        "Resize",
        [*inputs, "", "", graph.constant("size", size, np.int64)],
        axes=[2, 3],
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def _zero_padding(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    _plane(layer)
    (top, bottom), (left, right) = layer.padding
    pads = graph.constant("pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
    return graph.node("Pad", [*inputs, pads])


def _pool(graph: _Graph, layer: Any, inputs: list[str], *, kind: str) -> str:
    # Averages exclude the padding, in Keras and by ONNX's default.
    return graph.node(
        kind,
        inputs,
        kernel_shape=list(layer.pool_size),
        strides=list(layer.strides),
        pads=_pads(layer, layer.pool_size),
    )


def _global_average_pool(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    _plane(layer)
    pooled = graph.node("GlobalAveragePool", inputs)
    return pooled if layer.keepdims else graph.node("Flatten", [pooled], axis=1)


def _reshape(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    source, target = _input_shape(layer), tuple(layer.output.shape[1:])
    if len(target) == 3 and target[:2] == (1, 1):
        target = (target[2], 1, 1)
    elif len(target) != 1 or None in target:
        raise _unsupported(layer, f"from {source} to {target}")
    if len(source) == 3 and source[:2] != (1, 1):  # Keras orders elements channels-last
        inputs = [graph.node("Transpose", inputs, perm=[0, 2, 3, 1])]
    # 0 keeps the batch; -1 would fail on an empty one.
    return graph.node("Reshape", [*inputs, graph.constant("shape", [0, *target], np.int64)])


# Layers with several inputs
def _check_ranks(layer: Any) -> None:
    ranks = {len(tensor.shape) for tensor in layer.input}
    if ranks not in ({2}, {4}):
        raise _unsupported(layer, f"inputs of ranks {sorted(ranks)}")


def _concatenate(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    _check_ranks(layer)
    if layer.axis not in (-1, len(layer.output.shape) - 1):
        raise _unsupported(layer, f"axis {layer.axis}")
    return graph.node("Concat", inputs, axis=1)


def _fold(graph: _Graph, layer: Any, inputs: list[str], *, kind: str) -> str:
    _check_ranks(layer)
    value = inputs[0]
    for other in inputs[1:]:
        value = graph.node(kind, [value, other])
    return value


# Activations, as layers and within others
def _activation(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    import keras

    name = getattr(layer.activation, "__name__", "")
    if layer.activation is not getattr(keras.activations, name, None):
        raise _unsupported(layer, f"activation {name or layer.activation!r}")
    if name == "linear":
        return inputs[0]
    if name == "relu6":
        return _clip(graph, inputs, 6.0)
    if name == "silu":
        return graph.node("Mul", [*inputs, graph.node("Sigmoid", inputs)])
    if name in ("relu", "sigmoid"):
        return graph.node(name.capitalize(), inputs)
    raise _unsupported(layer, f"activation {name!r}")


def _clip(graph: _Graph, inputs: list[str], highest: float) -> str:
    limits = [graph.constant("low", 0.0), graph.constant("high", highest)]
    return graph.node("Clip", [*inputs, *limits])


def _relu(graph: _Graph, layer: Any, inputs: list[str]) -> str:
    if layer.negative_slope or layer.threshold:
        raise _unsupported(layer, "a slope or threshold")
    if layer.max_value is not None:
        return _clip(graph, inputs, float(layer.max_value))
    return graph.node("Relu", inputs)


EMITTERS: Mapping[str, Emitter] = {
    "Activation": _activation,
    "Add": partial(_fold, kind="Add"),
    "AveragePooling2D": partial(_pool, kind="AveragePool"),
    "BatchNormalization": _batch_norm,
    "Concatenate": _concatenate,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Dropout": lambda _graph, _layer, inputs: inputs[0],
    "Flatten": _reshape,
    "GlobalAveragePooling2D": _global_average_pool,
    "MaxPooling2D": partial(_pool, kind="MaxPool"),
    "Multiply": partial(_fold, kind="Mul"),
    "Normalization": _normalization,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "Resizing": _resizing,
    "ZeroPadding2D": _zero_padding,
}
"""By the name of the layer's class in ``keras.layers``."""


# ---------------------------------------------------------------- ONNX to Keras
def read_weights(path: Path, outputs: Mapping[str, str] = OUTPUT_CONTRACT) -> dict[str, Array]:
    """Read the weights of an exported network, for the reading with these outputs.

    Returns:
        Float32 arrays in Keras' layout by ``layer/variable``, such as ``stem_conv/kernel``; equal
        to those of the Keras network, bit for bit.

    Raises:
        ModelError: if there is no such file, or it was not made by `keras_to_onnx`.
        MissingExtra: if onnx is not installed.
    """
    onnx = _onnx()
    try:
        proto = onnx.load(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf's errors have no public base class
        raise ModelError(f"{path} is damaged or not an ONNX file: export it again") from error
    weights = {}
    for tensor in one_reading(proto, outputs).graph.initializer:
        array = _to_keras_layout(onnx.numpy_helper.to_array(tensor), tensor.doc_string)
        if array is not None:
            weights[tensor.name] = array
    if not weights:
        raise ModelError(f"{path} holds no weights of Keras layers: expected one of mien export")
    return weights


def load_onnx_weights(path: Path, model: Any) -> None:
    """Load an exported network's weights into a Keras one; raises ModelError, MissingExtra."""
    assign_weights(model, read_weights(path), where=str(path))


def assign_weights(model: Any, weights: Mapping[str, Array], *, where: str) -> None:
    """Assign the weights of `read_weights` to a Keras network.

    States of dropout generators and the pixel count of a `Normalization` stay: no prediction
    depends on them.

    Args:
        model: the network; left unchanged on an error.
        weights: exactly its weights.
        where: their origin, for errors.

    Raises:
        ModelError: if names or shapes differ; the first is named.
    """
    names = layer_names(model)
    targets = {
        f"{names[id(layer)]}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
        if variable.name not in _UNTRAINED
    }
    missing = sorted(targets.keys() - weights.keys()) or sorted(weights.keys() - targets.keys())
    if missing:
        incomplete = where if missing[0] in targets else "the network"
        raise ModelError(f"{where} is of another architecture: {incomplete} has no {missing[0]}")
    for name, variable in targets.items():
        if tuple(variable.shape) != weights[name].shape:
            raise ModelError(
                f"{where} is of another architecture: {name} has shape {weights[name].shape}, "
                f"expected {tuple(variable.shape)}"
            )
    for name, variable in targets.items():
        variable.assign(weights[name])
    update_normalization(model)
