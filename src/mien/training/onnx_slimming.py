"""What a network that only reads can do without: work in an ONNX graph that changes no answer.

Exported networks keep it, since their weights carry Keras' names and shapes for training to go on
from; their 8-bit form, from which nobody trains, does not.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

_SCALINGS = ("Mul", "Sub", "Add", "Div")


def without_reshapes(network: Any) -> None:
    """Take out what flattens a pooled map and brings it back to 1x1, as squeeze-and-excite does.

    It does nothing, but splits a network of 8 bits into parts with a change of layout between.
    """
    graph = network.graph
    made_by = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    gone: set[str] = set()
    for node in graph.node:
        flatten = made_by.get(node.input[0]) if node.op_type == "Reshape" else None
        if flatten is None or flatten.op_type != "Flatten" or uses[flatten.output[0]] != 1:
            continue
        pool = made_by.get(flatten.input[0])
        if pool is None or pool.op_type != "GlobalAveragePool":
            continue
        for user in graph.node:
            for place, name in enumerate(user.input):
                if name == node.output[0]:
                    user.input[place] = pool.output[0]
        gone |= {node.output[0], flatten.output[0]}
    kept = [node for node in graph.node if node.output[0] not in gone]
    needed = {name for node in kept for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, values in ((graph.node, kept), (graph.initializer, weights)):
        del field[:]
        field.extend(values)


def with_one_channel(network: Any) -> None:
    """Have a network that repeats a grey image as channels see it once, where that is the same.

    So it is where all channels are scaled alike before the first convolution: its kernels for them
    add up to one. Everything else is left as it is. BatchNorm and constants must be folded already.

    Args:
        network: a loaded ONNX model, changed in place.
    """
    from onnx import numpy_helper

    graph = network.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    repeat = next((node for node in graph.node if _repeats(node)), None)
    if repeat is None:
        return
    changed, name = {}, repeat.output[0]
    while len(users.get(name, [])) == 1 and users[name][0].op_type in _SCALINGS:
        node = users[name][0]
        constants = [each for each in node.input if each in weights]
        values = [numpy_helper.to_array(weights[each]) for each in constants]
        if len(constants) != 1 or np.unique(values[0]).size != 1 or len(users[constants[0]]) != 1:
            return
        changed[constants[0]] = np.full((), values[0].flat[0], values[0].dtype)
        name = node.output[0]
    last = users.get(name, [])
    if len(last) != 1 or last[0].op_type != "Conv" or last[0].input[0] != name:
        return
    kernel = numpy_helper.to_array(weights[last[0].input[1]])
    if kernel.shape[1] != len(repeat.input):
        return
    changed[last[0].input[1]] = kernel.sum(axis=1, keepdims=True)
    for each, value in changed.items():
        weights[each].CopyFrom(numpy_helper.from_array(value, each))
    for node in users[repeat.output[0]]:
        node.input[list(node.input).index(repeat.output[0])] = repeat.input[0]
    graph.node.remove(repeat)
    # Shapes that were inferred before are now others.
    del graph.value_info[:]


def _repeats(node: Any) -> bool:
    along = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return node.op_type == "Concat" and along == [1] and len({*node.input}) == 1
