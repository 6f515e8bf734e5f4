"""Changes to finished ONNX graphs: two readings in one network, and simplifications for 8 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mien.core.errors import ModelError
from mien.core.manifest import OUTPUT_CONTRACT, PEOPLE_OUTPUTS

PREFIX = "people/"
"""Prefix of the nodes, values and weights that only the people's reading has."""

_SCALINGS = ("Mul", "Sub", "Add", "Div")


def keep(field: Any, values: Iterable[Any]) -> None:
    """Replace the content of a repeated protobuf field by some of its values."""
    kept = list(values)
    del field[:]
    field.extend(kept)


def rename(nodes: Iterable[Any], names: Mapping[str, str]) -> None:
    """Rename values in the inputs and outputs of nodes."""
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


# ---------------------------------------------------------------- two readings in one network
def join_networks(first: Any, second: Any) -> Any:
    """Return one network with the outputs of two: the first's names, and `PEOPLE_OUTPUTS`.

    A network trained on votes starts from one that follows FER-2013's labels, and the blocks that
    stayed frozen are bitwise equal. Nodes that compute the same with the same weights become one;
    the others form a branch whose names begin with `PREFIX`.

    Args:
        first: an ``onnx.ModelProto`` of this project, with one reading.
        second: another one with the same input and classes.

    Raises:
        ModelError: if their inputs or classes differ.
    """
    from onnx import helper

    networks = (first, second)
    inputs = [[value.SerializeToString() for value in proto.graph.input] for proto in networks]
    classes = [
        {entry.key: entry.value for entry in proto.metadata_props}.get("labels")
        for proto in networks
    ]
    if inputs[0] != inputs[1] or classes[0] != classes[1]:
        raise ModelError(
            f"two networks with different inputs or classes cannot be one model: {classes[0]} "
            f"and {classes[1]}"
        )
    joined = type(first)()
    joined.CopyFrom(first)
    graph = joined.graph
    names = {value.name: value.name for value in graph.input}
    weights = {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}
    for tensor in second.graph.initializer:
        shared = weights.get(tensor.name) == tensor.SerializeToString()
        names[tensor.name] = tensor.name if shared else PREFIX + tensor.name
        if not shared:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = PREFIX + tensor.name
    outputs = {_signature(node, list(node.input)): list(node.output) for node in graph.node}
    for node in second.graph.node:
        sources = [names[name] if name else "" for name in node.input]
        signature = _signature(node, sources)
        if signature not in outputs:
            branch_node = graph.node.add()
            branch_node.CopyFrom(node)
            if node.name:
                branch_node.name = PREFIX + node.name
            branch_node.input[:] = sources
            branch_node.output[:] = [_branch_name(name) for name in node.output]
            outputs[signature] = list(branch_node.output)
        names.update(zip(node.output, outputs[signature], strict=True))
    for output in second.graph.output:
        name = _branch_name(output.name)
        if names[output.name] != name:  # everything that leads to it is shared
            graph.node.add().CopyFrom(
                helper.make_node("Identity", [names[output.name]], [name], PREFIX + name)
            )
        graph.output.add().CopyFrom(output)
        graph.output[-1].name = name
    return joined


def _branch_name(name: str) -> str:
    names = {OUTPUT_CONTRACT[key]: PEOPLE_OUTPUTS[key] for key in OUTPUT_CONTRACT}
    return names.get(name, PREFIX + name)


def _signature(node: Any, sources: list[str]) -> tuple[Any, ...]:
    """Return what identifies a node's result: its kind, its attributes and its inputs."""
    attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
    return (node.domain, node.op_type, tuple(sources), tuple(attributes), len(node.output))


def one_reading(network: Any, outputs: Mapping[str, str] = OUTPUT_CONTRACT) -> Any:
    """Return the network of a single reading, undoing `join_networks`.

    Args:
        network: an ``onnx.ModelProto`` with one reading or two.
        outputs: names of the reading's logits and features, see `Manifest.outputs`.

    Raises:
        ModelError: if it has no such outputs.
    """
    single = type(network)()
    single.CopyFrom(network)
    graph = single.graph
    available = [value.name for value in graph.output]
    if not set(outputs.values()) <= set(available):
        raise ModelError(f"expected a network with {', '.join(outputs.values())}, got {available}")
    needed = set(outputs.values())
    renamed = {outputs[key]: name for key, name in OUTPUT_CONTRACT.items()}
    nodes = []
    for node in reversed(network.graph.node):
        if not needed & set(node.output):
            continue
        needed |= set(node.input)
        if node.op_type == "Identity" and node.name.startswith(PREFIX):
            renamed[node.input[0]] = renamed[node.output[0]]  # a second name of a shared value
        else:
            nodes.append(node)
    renamed |= {name: name.removeprefix(PREFIX) for name in needed if name.startswith(PREFIX)}
    keep(graph.initializer, [part for part in network.graph.initializer if part.name in needed])
    keep(graph.node, reversed(nodes))
    keep(graph.output, [part for part in network.graph.output if part.name in outputs.values()])
    for value in (*graph.initializer, *graph.output):
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        if node.name.startswith(PREFIX):
            node.name = node.name.removeprefix(PREFIX)
    rename(graph.node, renamed)
    return single


# ---------------------------------------------------------------- simplifications of the graph
# They do not change the outputs. A float32 file keeps these nodes, since training can continue from
# its weights by their Keras names.
def remove_reshapes(network: Any) -> None:
    """Remove squeeze-and-excite's flatten and reshape to 1x1, which split an 8-bit network."""
    graph = network.graph
    producers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    renamed, removed = {}, set()
    for node in graph.node:
        flatten = producers.get(node.input[0]) if node.op_type == "Reshape" else None
        if flatten is None or flatten.op_type != "Flatten" or uses[flatten.output[0]] != 1:
            continue
        pool = producers.get(flatten.input[0])
        if pool is not None and pool.op_type == "GlobalAveragePool":
            renamed[node.output[0]] = pool.output[0]
            removed |= {node.output[0], flatten.output[0]}
    keep(graph.node, [node for node in graph.node if node.output[0] not in removed])
    rename(graph.node, renamed)
    needed = {name for node in graph.node for name in node.input}
    keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])


def merge_grey_channels(network: Any) -> None:
    """Replace the three equal channels of a grey image by one, summing the first kernels.

    Only if all channels are scaled alike before the first convolution. BatchNorm and constants must
    be folded already.
    """
    from onnx import numpy_helper

    graph = network.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    repeat = next((node for node in graph.node if _repeats_channel(node)), None)
    if repeat is None:
        return
    changed, name = {}, repeat.output[0]
    while uses[name] == 1:
        node = next(node for node in graph.node if name in node.input)
        if node.op_type == "Conv":
            break
        constants = [source for source in node.input if source in weights]
        values = [numpy_helper.to_array(weights[constant]) for constant in constants]
        alike = len(values) == 1 and np.unique(values[0]).size == 1 and uses[constants[0]] == 1
        if node.op_type not in _SCALINGS or not alike:
            return
        changed[constants[0]] = np.full((), values[0].flat[0], values[0].dtype)
        name = node.output[0]
    else:
        return
    kernel = numpy_helper.to_array(weights[node.input[1]])
    if kernel.shape[1] != len(repeat.input):
        return
    changed[node.input[1]] = kernel.sum(axis=1, keepdims=True)
    for weight, value in changed.items():
        weights[weight].CopyFrom(numpy_helper.from_array(value, weight))
    graph.node.remove(repeat)
    rename(graph.node, {repeat.output[0]: repeat.input[0]})
    del graph.value_info[:]  # inferred shapes, which are outdated now


def _repeats_channel(node: Any) -> bool:
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return node.op_type == "Concat" and axes == [1] and len({*node.input}) == 1
