"""What each kind of Keras layer is in ONNX: one small function a kind, and the table of them.

Keras' layers are channels-last; the ONNX graph is channels-first throughout, turned round once at
the input. Values of rank 4 are (N, C, H, W) there, values of rank 2 are the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from mien.core.errors import ModelError
from mien.training.onnx_activations import activated, activation, relu, softmax
from mien.training.onnx_builder import GraphBuilder
from mien.training.onnx_shapes import NoForm, input_shape, pads_of, spatial_shape


# ---------------------------------------------------------------- layers with weights
def _conv(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    return _convolution(graph, layer, inputs[0], layout="HWIO", group=layer.groups)


def _depthwise_conv(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    channels = spatial_shape(layer)[2]
    return _convolution(graph, layer, inputs[0], layout="HWCM", group=channels)


def _convolution(graph: GraphBuilder, layer: Any, value: str, *, layout: str, group: int) -> str:
    reach = [
        (size - 1) * step + 1
        for size, step in zip(layer.kernel_size, layer.dilation_rate, strict=True)
    ]
    spatial_shape(layer)
    weights = [graph.weight(layer, "kernel", layout)]
    if layer.use_bias:
        weights.append(graph.weight(layer, "bias"))
    output = graph.node(
        graph.layer_name(layer),
        "Conv",
        [value, *weights],
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        pads=pads_of(layer, reach, layer.strides),
        group=group,
    )
    return activated(graph, layer, output)


def _dense(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    if len(input_shape(layer)) != 1:
        raise NoForm(f"its input has shape {input_shape(layer)}")
    weights = [graph.weight(layer, "kernel")]
    if layer.use_bias:
        weights.append(graph.weight(layer, "bias"))
    output = graph.node(graph.layer_name(layer), "Gemm", [inputs[0], *weights])
    return activated(graph, layer, output)


def _on_channels(layer: Any) -> bool:
    """Whether the layer works along the last axis of its input, its channels."""
    axes = layer.axis if isinstance(layer.axis, list | tuple) else (layer.axis,)
    return tuple(axes) in ((-1,), (len(layer.input.shape) - 1,))


def _batch_norm(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    if not _on_channels(layer):
        raise NoForm(f"axis {layer.axis}")
    owner, channels = graph.layer_name(layer), layer.input.shape[-1]
    parts = [
        graph.weight(layer, "gamma") if layer.scale else _full(graph, owner, "ones", channels, 1.0),
        graph.weight(layer, "beta") if layer.center else _full(graph, owner, "zeros", channels, 0),
        graph.weight(layer, "moving_mean"),
        graph.weight(layer, "moving_variance"),
    ]
    epsilon = float(layer.epsilon)
    return graph.node(owner, "BatchNormalization", [inputs[0], *parts], epsilon=epsilon)


def _full(graph: GraphBuilder, owner: str, what: str, count: int, value: float) -> str:
    return graph.constant(owner, what, np.full(count, value))


def _normalization(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    import keras

    if not _on_channels(layer) or layer.invert or layer.input_mean is not None:
        raise NoForm("only the adapted kind, along channels")
    owner = graph.layer_name(layer)
    mean, variance = graph.weight(layer, "mean"), graph.weight(layer, "variance")
    if len(layer.input.shape) == 4:
        axes = graph.constant(owner, "axes", [1, 2], np.int64)
        mean = graph.node(owner, "Unsqueeze", [mean, axes])
        variance = graph.node(owner, "Unsqueeze", [variance, axes])
    least = graph.constant(owner, "epsilon", keras.config.epsilon())
    deviation = graph.node(owner, "Max", [graph.node(owner, "Sqrt", [variance]), least])
    return graph.node(owner, "Div", [graph.node(owner, "Sub", [inputs[0], mean]), deviation])


# ---------------------------------------------------------------- pixels and shapes
def _rescaling(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    owner, value = graph.layer_name(layer), inputs[0]
    scale, offset = (np.asarray(part, np.float32) for part in (layer.scale, layer.offset))
    if len(layer.input.shape) == 4:
        if not {scale.size, offset.size} <= {1, layer.input.shape[-1]}:
            raise NoForm("other than one number a channel")
        # One number a channel stands before height and width here.
        scale, offset = (part.reshape(-1, 1, 1) if part.ndim else part for part in (scale, offset))
    value = graph.node(owner, "Mul", [value, graph.constant(owner, "scale", scale)])
    if offset.any():
        value = graph.node(owner, "Add", [value, graph.constant(owner, "offset", offset)])
    return value


def _resizing(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    special = [
        option
        for option in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias")
        if getattr(layer, option, False)
    ]
    if layer.interpolation != "bilinear" or special:
        raise NoForm(", ".join([f"interpolation {layer.interpolation!r}", *special]))
    height, width, _ = spatial_shape(layer)
    if (height, width) == (layer.height, layer.width):
        return inputs[0]
    owner = graph.layer_name(layer)
    return graph.node(
        owner,
        "Resize",
        [inputs[0], "", "", graph.constant(owner, "size", [layer.height, layer.width], np.int64)],
        axes=[2, 3],
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )


def _zero_padding(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    spatial_shape(layer)
    (top, bottom), (left, right) = layer.padding
    owner = graph.layer_name(layer)
    pads = graph.constant(owner, "pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
    return graph.node(owner, "Pad", [inputs[0], pads])


def _max_pool(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    return _pool(graph, layer, inputs, "MaxPool")


def _average_pool(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    # What is padded does not count in the mean, in Keras and in ONNX' default alike.
    return _pool(graph, layer, inputs, "AveragePool")


def _pool(graph: GraphBuilder, layer: Any, inputs: list[str], kind: str) -> str:
    return graph.node(
        graph.layer_name(layer),
        kind,
        inputs,
        kernel_shape=list(layer.pool_size),
        strides=list(layer.strides),
        pads=pads_of(layer, layer.pool_size, layer.strides),
    )


def _global_average_pool(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    spatial_shape(layer)
    owner = graph.layer_name(layer)
    pooled = graph.node(owner, "GlobalAveragePool", inputs)
    return pooled if layer.keepdims else graph.node(owner, "Flatten", [pooled], axis=1)


def _reshape(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    """Keras numbers elements channels last: where there is a plane, it is turned for that."""
    owner, value = graph.layer_name(layer), inputs[0]
    source, target = input_shape(layer), tuple(layer.output.shape[1:])
    if len(source) not in (1, 3) or len(target) not in (1, 3) or None in target:
        raise NoForm(f"from {source} to {target}")
    if len(source) == 3 and source[:2] != (1, 1):
        value = graph.node(owner, "Transpose", [value], perm=[0, 2, 3, 1])
    turned = len(target) == 3 and target[:2] != (1, 1)
    sides = target if turned or len(target) == 1 else (target[2], 1, 1)
    # 0 keeps the batch, -1 would fail on an empty one.
    shape = graph.constant(owner, "shape", [0, *sides], np.int64)
    value = graph.node(owner, "Reshape", [value, shape])
    return graph.node(owner, "Transpose", [value], perm=[0, 3, 1, 2]) if turned else value


# ---------------------------------------------------------------- layers with several inputs
def _rank_of_all(layer: Any) -> int:
    ranks = {len(tensor.shape) for tensor in layer.input}
    if len(ranks) != 1 or not ranks <= {2, 4}:
        raise NoForm(f"inputs of ranks {sorted(ranks)}")
    return ranks.pop()


def _concatenate(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    rank = _rank_of_all(layer)
    axis = layer.axis % rank
    if axis == 0:
        raise NoForm("along the batch")
    if rank == 4:
        axis = {1: 2, 2: 3, 3: 1}[axis]
    return graph.node(graph.layer_name(layer), "Concat", inputs, axis=axis)


def _add(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    return _folded(graph, layer, inputs, "Add")


def _multiply(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    return _folded(graph, layer, inputs, "Mul")


def _folded(graph: GraphBuilder, layer: Any, inputs: list[str], kind: str) -> str:
    _rank_of_all(layer)
    value = inputs[0]
    for other in inputs[1:]:
        value = graph.node(graph.layer_name(layer), kind, [value, other])
    return value


def _identity(_graph: GraphBuilder, _layer: Any, inputs: list[str]) -> str:
    return inputs[0]


Emitter: TypeAlias = Callable[[GraphBuilder, Any, list[str]], str]
"""Adds a layer's nodes, given the names of its inputs, and returns the name of its output.

Raises `mien.training.onnx_shapes.NoForm` where this layer has none.
"""

EMITTERS: dict[str, Emitter] = {
    "Activation": activation,
    "Add": _add,
    "AveragePooling2D": _average_pool,
    "BatchNormalization": _batch_norm,
    "Concatenate": _concatenate,
    "Conv2D": _conv,
    "Dense": _dense,
    "DepthwiseConv2D": _depthwise_conv,
    "Dropout": _identity,
    "Flatten": _reshape,
    "GlobalAveragePooling2D": _global_average_pool,
    "MaxPooling2D": _max_pool,
    "Multiply": _multiply,
    "Normalization": _normalization,
    "ReLU": relu,
    "Rescaling": _rescaling,
    "Reshape": _reshape,
    "Resizing": _resizing,
    "Softmax": softmax,
    "ZeroPadding2D": _zero_padding,
}
"""By the name of the layer's class in ``keras.layers``."""


def unsupported(layer: Any, why: str = "") -> ModelError:
    """Return the error for a layer that has no form in ONNX here."""
    return ModelError(
        f"cannot export the layer {layer.name!r} ({type(layer).__name__}{why and ': ' + why}): "
        f"expected layers among {', '.join(sorted(EMITTERS))}, channels last"
    )
