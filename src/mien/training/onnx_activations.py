"""Activations in ONNX: as layers of their own, and inside of other layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mien.training.onnx_builder import GraphBuilder
from mien.training.onnx_shapes import NoForm


def _silu(graph: GraphBuilder, owner: str, value: str) -> str:
    return graph.node(owner, "Mul", [value, graph.node(owner, "Sigmoid", [value])])


def _clip(graph: GraphBuilder, owner: str, value: str, highest: float) -> str:
    limits = [graph.constant(owner, "low", 0.0), graph.constant(owner, "high", highest)]
    return graph.node(owner, "Clip", [value, *limits])


_ACTIVATIONS: dict[str, Callable[[GraphBuilder, str, str], str]] = {
    "linear": lambda _graph, _owner, value: value,
    "relu": lambda graph, owner, value: graph.node(owner, "Relu", [value]),
    "relu6": lambda graph, owner, value: _clip(graph, owner, value, 6.0),
    "sigmoid": lambda graph, owner, value: graph.node(owner, "Sigmoid", [value]),
    "silu": _silu,
    "softmax": lambda graph, owner, value: graph.node(owner, "Softmax", [value], axis=1),
}


def activated(graph: GraphBuilder, layer: Any, value: str) -> str:
    """Add the activation that a layer ends with to a value, and return the name of its output.

    Raises:
        NoForm: if it is another than those of `keras.activations` that are known here.
    """
    import keras

    name = getattr(layer.activation, "__name__", "")
    if name not in _ACTIVATIONS or layer.activation is not getattr(keras.activations, name, None):
        raise NoForm(f"activation {name or layer.activation!r}")
    return _ACTIVATIONS[name](graph, graph.layer_name(layer), value)


def activation(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    """Add an `Activation`; as every emitter (see `mien.training.onnx_layers.Emitter`)."""
    return activated(graph, layer, inputs[0])


def relu(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    """Add a `ReLU`, with or without a largest value; raises NoForm for any other."""
    if layer.negative_slope or layer.threshold:
        raise NoForm("a slope or threshold")
    owner = graph.layer_name(layer)
    if layer.max_value is not None:
        return _clip(graph, owner, inputs[0], float(layer.max_value))
    return graph.node(owner, "Relu", inputs)


def softmax(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    """Add a `Softmax` over channels; raises NoForm for one over anything else."""
    if layer.axis not in (-1, len(layer.input.shape) - 1):
        raise NoForm(f"axis {layer.axis}")
    return graph.node(graph.layer_name(layer), "Softmax", inputs, axis=1)
