"""Two networks in one ONNX file, one for each reading; what they have in common is there once.

A network that learnt the votes was trained from one that follows FER-2013's labels, and the blocks
that stayed frozen are the same in both, bit for bit. Nodes that do the same with the same weights
become one node; what differs is a branch whose names begin with `PREFIX`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mien.core.errors import ModelError
from mien.core.manifest import OUTPUT_CONTRACT, PEOPLE_OUTPUTS

PREFIX = "people/"
"""What the names of the second network's own nodes, values and weights begin with."""


def join_networks(first: Any, second: Any) -> Any:
    """Return a network with the outputs of both: the first's names, and `PEOPLE_OUTPUTS`.

    Args:
        first: an ``onnx.ModelProto`` of this project, with one reading.
        second: another one of the same input and classes.

    Raises:
        ModelError: if their inputs or classes differ.
    """
    from onnx import helper

    inputs = [[value.SerializeToString() for value in each.graph.input] for each in (first, second)]
    classes = [
        {entry.key: entry.value for entry in each.metadata_props}.get("labels")
        for each in (first, second)
    ]
    if inputs[0] != inputs[1] or classes[0] != classes[1]:
        raise ModelError(
            f"two networks of different inputs or classes cannot be one model: {classes[0]} "
            f"and {classes[1]}"
        )
    joined = type(first)()
    joined.CopyFrom(first)
    graph = joined.graph
    names = {value.name: value.name for value in graph.input}
    weights = {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}
    for tensor in second.graph.initializer:
        same = weights.get(tensor.name) == tensor.SerializeToString()
        names[tensor.name] = tensor.name if same else PREFIX + tensor.name
        if not same:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = PREFIX + tensor.name
    known = {_signature(node, list(node.input)): list(node.output) for node in graph.node}
    for node in second.graph.node:
        sources = [names[name] if name else "" for name in node.input]
        signature = _signature(node, sources)
        if signature not in known:
            own = graph.node.add()
            own.CopyFrom(node)
            if node.name:
                own.name = PREFIX + node.name
            own.input[:] = sources
            own.output[:] = [_own_name(name) for name in node.output]
            known[signature] = list(own.output)
        names.update(zip(node.output, known[signature], strict=True))
    for output in second.graph.output:
        wanted = _own_name(output.name)
        if names[output.name] != wanted:  # all that leads to it is shared
            second_name = [names[output.name]], [wanted], PREFIX + wanted
            graph.node.add().CopyFrom(helper.make_node("Identity", *second_name))
        graph.output.add().CopyFrom(output)
        graph.output[-1].name = wanted
    return joined


def one_reading(network: Any, outputs: Mapping[str, str] = OUTPUT_CONTRACT) -> Any:
    """Return the network of one reading alone, as it was before `join_networks`.

    Args:
        network: an ``onnx.ModelProto`` with one reading or two.
        outputs: the names of the logits and features that are wanted, see `Manifest.outputs`.

    Raises:
        ModelError: if it has no such outputs.
    """
    alone = type(network)()
    alone.CopyFrom(network)
    graph = alone.graph
    found = [value.name for value in graph.output]
    if not set(outputs.values()) <= set(found):
        raise ModelError(f"expected a network with {', '.join(outputs.values())}, got {found}")
    needed = set(outputs.values())
    renamed = {outputs[key]: name for key, name in OUTPUT_CONTRACT.items()}
    nodes = []
    for node in reversed(network.graph.node):
        if not needed & set(node.output):
            continue
        needed |= set(node.input)
        if node.op_type == "Identity" and node.name.startswith(PREFIX):
            renamed[node.input[0]] = renamed[node.output[0]]  # a second name of what is shared
        else:
            nodes.append(node)
    renamed |= {name: name.removeprefix(PREFIX) for name in needed if name.startswith(PREFIX)}
    keep(graph.initializer, [each for each in network.graph.initializer if each.name in needed])
    keep(graph.node, reversed(nodes))
    keep(graph.output, [each for each in network.graph.output if each.name in outputs.values()])
    for value in (*graph.initializer, *graph.output):
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        if node.name.startswith(PREFIX):
            node.name = node.name.removeprefix(PREFIX)
    rename(graph.node, renamed)
    return alone


def keep(field: Any, values: Iterable[Any]) -> None:
    """Leave only these values in a repeated field of a network."""
    kept = list(values)
    del field[:]
    field.extend(kept)


def rename(nodes: Iterable[Any], names: Mapping[str, str]) -> None:
    """Rename values wherever nodes use or make them."""
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


def _own_name(name: str) -> str:
    names = {OUTPUT_CONTRACT[key]: PEOPLE_OUTPUTS[key] for key in OUTPUT_CONTRACT}
    return names.get(name, PREFIX + name)


def _signature(node: Any, sources: list[str]) -> tuple[Any, ...]:
    """Return what a node computes: its kind, its attributes, and from which values."""
    attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
    return (node.domain, node.op_type, tuple(sources), tuple(attributes), len(node.output))
