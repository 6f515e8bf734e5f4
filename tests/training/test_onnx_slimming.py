"""Taking out of an ONNX graph what changes no answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mien.training.onnx_slimming import with_one_channel, without_reshapes


def _squeezing(*, used_twice: bool = False) -> Any:
    """A network that pools, flattens and reshapes back to 1x1 before it scales a map."""
    from onnx import TensorProto, helper, numpy_helper

    node, tensor = helper.make_node, helper.make_tensor_value_info
    outputs = [tensor("scaled", TensorProto.FLOAT, ["N", 4, "h", "w"])]
    if used_twice:
        outputs.append(tensor("flat", TensorProto.FLOAT, ["N", 4]))
    nodes = [
        node("GlobalAveragePool", ["map"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"], axis=1),
        node("Reshape", ["flat", "shape"], ["square"]),
        node("Mul", ["map", "square"], ["scaled"]),
    ]
    if used_twice:
        nodes.append(node("Identity", ["flat"], ["other"]))
    shape = numpy_helper.from_array(np.array([-1, 4, 1, 1], np.int64), "shape")
    inputs = [tensor("map", TensorProto.FLOAT, ["N", 4, "h", "w"])]
    graph = helper.make_graph(nodes, "squeeze", inputs, outputs, [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _run(network: Any) -> Any:
    from mien.core.onnx_runtime import onnxruntime

    session = onnxruntime.InferenceSession(network.SerializeToString())
    maps = np.random.default_rng(0).normal(size=(3, 4, 5, 5)).astype(np.float32)
    return session.run(["scaled"], {"map": maps})[0]


def test_reshapes_that_do_nothing_are_taken_out() -> None:
    pytest.importorskip("onnx")
    network = _squeezing()
    expected = _run(network)
    without_reshapes(network)
    assert [node.op_type for node in network.graph.node] == ["GlobalAveragePool", "Mul"]
    assert not network.graph.initializer
    assert (_run(network) == expected).all()


def test_what_others_use_stays() -> None:
    pytest.importorskip("onnx")
    network = _squeezing(used_twice=True)
    without_reshapes(network)
    assert len(network.graph.node) == 5


def _grey(*, scale: tuple[float, ...] = (2.0,), channels: int = 3, twice: bool = False) -> Any:
    """A network that repeats a grey map as channels, scales them, and convolves with padding."""
    from onnx import TensorProto, helper, numpy_helper

    node, tensor = helper.make_node, helper.make_tensor_value_info
    random = np.random.default_rng(1)
    kernel = random.normal(size=(4, channels, 3, 3)).astype(np.float32)
    factors = np.array(scale, np.float32).reshape(-1, 1, 1)
    nodes = [
        node("Concat", ["map"] * channels, ["repeated"], axis=1),
        node("Sub", ["repeated", "middle"], ["centred"]),
        node("Div", ["centred", "scale"], ["scaled"]),
        node("Conv", ["scaled", "kernel"], ["answer"], pads=[1, 1, 1, 1]),
    ]
    outputs = [tensor("answer", TensorProto.FLOAT, ["N", 4, "h", "w"])]
    if twice:
        nodes.append(node("ReduceMean", ["scaled"], ["other"]))
        outputs.append(tensor("other", TensorProto.FLOAT, None))
    weights = [
        numpy_helper.from_array(np.array(0.5, np.float32), "middle"),
        numpy_helper.from_array(factors, "scale"),
        numpy_helper.from_array(kernel, "kernel"),
    ]
    inputs = [tensor("map", TensorProto.FLOAT, ["N", 1, "h", "w"])]
    graph = helper.make_graph(nodes, "grey", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _answer(network: Any) -> Any:
    from mien.core.onnx_runtime import onnxruntime

    session = onnxruntime.InferenceSession(network.SerializeToString())
    maps = np.random.default_rng(0).normal(size=(2, 1, 6, 6)).astype(np.float32)
    return session.run(["answer"], {"map": maps})[0]


@pytest.mark.parametrize("scale", [(2.0,), (2.0, 2.0, 2.0)])
def test_channels_that_are_alike_become_one(scale: tuple[float, ...]) -> None:
    pytest.importorskip("onnx")
    network = _grey(scale=scale)
    expected = _answer(network)
    with_one_channel(network)
    assert [node.op_type for node in network.graph.node] == ["Sub", "Div", "Conv"]
    np.testing.assert_allclose(_answer(network), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{"scale": (1.0, 2.0, 3.0)}, {"twice": True}])
def test_channels_that_differ_or_are_used_elsewhere_stay(changes: dict[str, Any]) -> None:
    pytest.importorskip("onnx")
    network = _grey(**changes)
    before = network.SerializeToString()
    with_one_channel(network)
    assert network.SerializeToString() == before


def test_a_network_that_repeats_nothing_stays() -> None:
    pytest.importorskip("onnx")
    network = _squeezing()
    before = network.SerializeToString()
    with_one_channel(network)
    assert network.SerializeToString() == before
