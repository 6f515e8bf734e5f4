"""A Keras network becomes an ONNX file, and the file's weights go back into a Keras network.

The conversion is this project's own and small, so that it works on every backend of Keras and gives
the same bytes for the same weights. The file holds the network up to its logits: inference divides
them by the model's temperature and takes the softmax.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mien
from mien.core.emotions import EMOTIONS
from mien.core.errors import MissingExtra, ModelError
from mien.core.manifest import INPUT_CONTRACT, OUTPUT_CONTRACT
from mien.training.onnx_builder import Array, GraphBuilder, to_keras_layout
from mien.training.onnx_join import one_reading
from mien.training.onnx_layers import EMITTERS, unsupported
from mien.training.onnx_shapes import NoForm

OPSET = 18
"""Of ONNX' operators: the first whose Resize takes the axes; ONNX Runtime has it since 1.15."""

IR_VERSION = 8
"""Of the file format: the one that came with the opset."""

_BATCH = "batch"
_UNTRAINED = ("count", "seed_generator_state")


# ---------------------------------------------------------------- Keras to ONNX
def keras_to_onnx(model: Any, *, labels: Sequence[str] = EMOTIONS, version: str = "") -> Any:
    """Convert a network.

    Args:
        model: a flat functional (or sequential) ``keras.Model``, grey faces (N, H, W, 1) in
            0-255 -> probabilities (N, classes), with a softmax layer at its end.
        labels: the classes, written into the file.
        version: of the model, written into the file too.

    Returns:
        An ``onnx.ModelProto``, checked: input "faces" uint8 (batch, H, W); outputs "logits" float32
        (batch, classes) and "features" float32 (batch, h, w, channels), the last feature map.

    Raises:
        ModelError: if a layer has no form in ONNX here (it is named), or the network's input or
            output is another.
        MissingExtra: if onnx is not installed.
    """
    onnx = _onnx()
    height, width = _check_ends(model, labels)
    graph = GraphBuilder(layer_names(model))
    name = INPUT_CONTRACT["name"]
    faces = graph.node(name, "Cast", [name], to=onnx.TensorProto.FLOAT)
    axis = graph.constant(name, "channel", [1], np.int64)
    values = {id(model.inputs[0]): graph.node(name, "Unsqueeze", [faces, axis])}
    last = model.outputs[0]
    feature_map = model.inputs[0]
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        sources, output = _connections(layer)
        if output is last:
            logits = sources[0]
            break
        if not all(id(source) in values for source in sources):
            raise unsupported(layer, "its input is of keras.ops, or of a layer used more than once")
        values[id(output)] = _emit(graph, layer, [values[id(source)] for source in sources])
        if len(output.shape) == 4:
            feature_map = output
    graph.rename(values[id(logits)], OUTPUT_CONTRACT["logits"])
    values[id(logits)] = OUTPUT_CONTRACT["logits"]
    _add_features(graph, values[id(feature_map)])
    tensor, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    proto = onnx.helper.make_graph(
        graph.nodes,
        "mien",
        [tensor(name, onnx.TensorProto.UINT8, [_BATCH, height, width])],
        [
            tensor(OUTPUT_CONTRACT["logits"], float32, [_BATCH, len(labels)]),
            tensor(OUTPUT_CONTRACT["features"], float32, [_BATCH, *feature_map.shape[1:]]),
        ],
        graph.initializers,
    )
    return _finished(proto, labels, version)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("train", "exporting a network") from error
    return onnx


def layer_names(model: Any) -> dict[int, str]:
    """Return the layers' names by ``id``, with those that Keras made up numbered within the model.

    Keras counts on through a process ("normalization_3"); here the same network always has the same
    names.
    """
    names, made_up = {}, Counter[str]()
    for layer in model.layers:
        stem = re.sub(r"_\d+$", "", layer.name)
        if stem.replace("_", "") == type(layer).__name__.lower():
            number = made_up[stem]
            made_up[stem] += 1
            names[id(layer)] = f"{stem}_{number}" if number else stem
        else:
            names[id(layer)] = layer.name
    return names


def _check_ends(model: Any, labels: Sequence[str]) -> tuple[int, int]:
    """Check a network's input and output and return the height and width of its input."""
    inputs, outputs = model.inputs, model.outputs
    shape = tuple(inputs[0].shape[1:])
    if len(inputs) != 1 or len(shape) != 3 or None in shape or shape[2] != 1:
        raise ModelError(
            f"cannot export {model.name!r}: expected one input (N, H, W, 1) of fixed size, "
            f"got {[tuple(item.shape) for item in inputs]}"
        )
    if len(outputs) != 1 or tuple(outputs[0].shape[1:]) != (len(labels),):
        raise ModelError(
            f"cannot export {model.name!r}: expected one output (N, {len(labels)}), "
            f"got {[tuple(item.shape) for item in outputs]}"
        )
    ends = [layer for layer in model.layers if _connections(layer)[1] is outputs[0]]
    if not ends or not _is_softmax(ends[0]):
        kind = type(ends[0]).__name__ if ends else "nothing"
        raise ModelError(f"cannot export {model.name!r}: expected a softmax at its end, got {kind}")
    return shape[0], shape[1]


def _is_softmax(layer: Any) -> bool:
    kind = type(layer).__name__
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    return kind == "Softmax" or (kind == "Activation" and activation == "softmax")


def _connections(layer: Any) -> tuple[list[Any], Any]:
    """Return a layer's inputs and its output, as symbolic tensors."""
    sources = layer.input
    return (list(sources) if isinstance(sources, list | tuple) else [sources]), layer.output


def _emit(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    import keras

    name = type(layer).__name__
    # A class of one's own may have a known name and do another thing.
    if name not in EMITTERS or type(layer) is not getattr(keras.layers, name):
        raise unsupported(layer)
    try:
        return EMITTERS[name](graph, layer, inputs)
    except NoForm as error:
        raise unsupported(layer, str(error)) from error


def _add_features(graph: GraphBuilder, feature_map: str) -> None:
    """Give out the last feature map channels last, as the manifest's contract says.

    It is the smallest of all (2x2 for a 64-pixel input), so that turning it costs next to nothing.
    """
    name = OUTPUT_CONTRACT["features"]
    turned = graph.node(name, "Transpose", [feature_map], perm=[0, 2, 3, 1])
    graph.rename(turned, name)


def _finished(graph: Any, labels: Sequence[str], version: str) -> Any:
    onnx = _onnx()
    proto = onnx.helper.make_model(
        graph,
        producer_name="mien",
        producer_version=mien.__version__,
        doc_string="Facial emotions: standard faces (grey 48x48, 0-255) to logits of the labels.",
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    notes = {"labels": json.dumps(list(labels)), "producer": "mien", "version": version}
    onnx.helper.set_model_props(proto, notes)
    onnx.checker.check_model(proto, full_check=True)
    return proto


# ---------------------------------------------------------------- ONNX to Keras
def read_weights(path: Path, outputs: Mapping[str, str] = OUTPUT_CONTRACT) -> dict[str, Array]:
    """Read the weights of an exported network.

    Args:
        path: the ONNX file.
        outputs: those of the reading whose network is wanted, see `Manifest.outputs`.

    Returns:
        Float32 arrays in Keras' layout by ``layer/variable``, as ``stem_conv/kernel``; bit for bit
        what the Keras network held.

    Raises:
        ModelError: if there is no such file, or it is not one that `keras_to_onnx` made.
        MissingExtra: if onnx is not installed.
    """
    onnx = _onnx()
    try:
        proto = onnx.load(path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf's errors share no base that is part of its interface
        raise ModelError(f"{path} is damaged or not an ONNX file: export it again") from error
    weights = {}
    for tensor in one_reading(proto, outputs).graph.initializer:
        array = to_keras_layout(onnx.numpy_helper.to_array(tensor), tensor.doc_string)
        if array is not None:
            weights[tensor.name] = array
    if not weights:
        raise ModelError(f"{path} holds no weights of Keras layers: expected one of mien export")
    return weights


def load_onnx_weights(path: Path, model: Any) -> None:
    """Fill a Keras network with the weights of an exported one of the same architecture.

    What no prediction depends on is not in the file and stays as it is: the states of dropout's
    generators and how many pixels a `Normalization` has seen.

    Args:
        path: the ONNX file.
        model: the network; on an error it is left as it was.

    Raises:
        ModelError: as `read_weights`, and if names or shapes differ; the first is named.
        MissingExtra: if onnx is not installed.
    """
    fill_network(model, read_weights(path), where=str(path))


def fill_network(model: Any, weights: Mapping[str, Array], *, where: str) -> None:
    """Fill a Keras network with weights as `read_weights` gives them, which come from ``where``.

    Raises:
        ModelError: if names or shapes differ; then the network is left as it was.
    """
    names = layer_names(model)
    targets = {
        f"{names[id(layer)]}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.weights
        if variable.name not in _UNTRAINED
    }
    lacking = sorted(targets.keys() - weights.keys()) or sorted(weights.keys() - targets.keys())
    if lacking:
        lacks = where if lacking[0] in targets else "the network"
        raise ModelError(f"{where} is of another architecture: {lacks} has no {lacking[0]}")
    for name, variable in targets.items():
        if tuple(variable.shape) != weights[name].shape:
            raise ModelError(
                f"{where} is of another architecture: {name} has shape {weights[name].shape}, "
                f"expected {tuple(variable.shape)}"
            )
    for name, variable in targets.items():
        variable.assign(weights[name])
    for layer in model.layers:
        if type(layer).__name__ == "Normalization":
            # It works with constants made from its weights.
            layer.finalize_state()
