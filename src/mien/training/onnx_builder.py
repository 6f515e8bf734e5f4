"""Collecting an ONNX graph's nodes and weights, and the layouts of weights there and in Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_LAYOUT_MARK = "keras"


class GraphBuilder:
    """Collects nodes and constants; every value is known by its name.

    A layer's trained arrays are named ``layer/variable`` as Keras names them, and their notes say
    the layout and shape that they have there, for `mien.training.onnx_graph.read_weights`.
    """

    def __init__(self, layer_names: dict[int, str]) -> None:
        """Take the names of the layers, by ``id``."""
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._layer_names = layer_names
        self._taken: set[str] = set()

    def layer_name(self, layer: Any) -> str:
        """Return the name that a layer has in this graph."""
        return self._layer_names[id(layer)]

    def node(self, owner: str, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node and return the name of its one output, ``owner/kind``."""
        from onnx import helper

        name = self._free_name(f"{owner}/{kind}")
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, owner: str, what: str, value: Any, dtype: type = np.float32) -> str:
        """Add a constant that is no trained weight, and return its name, ``owner:what``."""
        from onnx import numpy_helper

        name = self._free_name(f"{owner}:{what}")
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, layer: Any, variable_name: str, layout: str = "") -> str:
        """Add one of a layer's variables and return its name; layouts as in `to_onnx_layout`."""
        from onnx import numpy_helper

        variable = next(item for item in layer.weights if item.name == variable_name)
        value = np.asarray(variable.numpy(), np.float32)
        name = self._free_name(f"{self.layer_name(layer)}/{variable_name}")
        tensor = numpy_helper.from_array(to_onnx_layout(value, layout), name)
        sides = ",".join(str(side) for side in value.shape)
        tensor.doc_string = f"{_LAYOUT_MARK} {layout or 'same'} {sides}"
        self.initializers.append(tensor)
        return name

    def rename(self, old: str, new: str) -> None:
        """Give a value another name wherever it stands."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == old:
                        names[place] = new

    def _free_name(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name


# ---------------------------------------------------------------- layouts of weights
def to_onnx_layout(array: Array, layout: str) -> Array:
    """Bring a Keras array into ONNX's order.

    Args:
        array: as Keras keeps it.
        layout: "HWIO" (convolution: height, width, in, out), "HWCM" (depthwise: height, width,
            channel, multiplier), or "" for what is the same in both.
    """
    if layout == "HWIO":
        array = array.transpose(3, 2, 0, 1)
    elif layout == "HWCM":
        height, width, channels, multiplier = array.shape
        array = array.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    return np.ascontiguousarray(array)


def to_keras_layout(array: Array, note: str) -> Array | None:
    """Undo `to_onnx_layout` by a tensor's note; None if the note is not that of a trained array."""
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
