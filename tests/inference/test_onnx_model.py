"""Reader of ONNX files, compared with the package onnx."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from head_maker import head_onnx
from mien.core.errors import ModelError
from mien.inference.onnx_model import check_no_external_data, read_onnx

onnx = pytest.importorskip("onnx")


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("float_data", [False, True])
def test_nodes_and_weights_match_onnx(tmp_path: Path, float_data: bool) -> None:
    content = head_onnx(float_data=float_data)
    found, graph = read_onnx(write(tmp_path, content)), onnx.load_from_string(content).graph
    assert [(node.op_type, node.inputs, node.outputs) for node in found.nodes] == [
        (node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node
    ]
    attributes = {
        each.name: onnx.helper.get_attribute_value(each)
        for node in graph.node
        for each in node.attribute
    }
    read = {name: value for node in found.nodes for name, value in node.attributes.items()}
    assert {"epsilon", "alpha", "transB", "to"} <= set(read)
    for name, value in read.items():
        assert attributes[name] == value
    assert set(found.tensors) == {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        expected = onnx.numpy_helper.to_array(tensor)
        if expected.dtype == np.float32:
            np.testing.assert_array_equal(found.weight(tensor.name), expected)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_weights_of_any_float_type(tmp_path: Path, kind: type[np.floating]) -> None:
    values = np.linspace(-3, 3, 12).astype(kind).reshape(3, 4)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"], negative=-7)],
        "one",
        [],
        [],
        [
            onnx.numpy_helper.from_array(values, "w"),
            onnx.numpy_helper.from_array(np.array(2.5, kind), "scalar"),
        ],
    )
    found = read_onnx(write(tmp_path, onnx.helper.make_model(graph).SerializeToString()))
    np.testing.assert_array_equal(found.weight("w"), values)
    assert found.weight("scalar") == 2.5
    assert found.nodes[0].attributes == {"negative": -7}


def test_missing_and_integer_weights_are_refused(tmp_path: Path) -> None:
    found = read_onnx(write(tmp_path, head_onnx()))
    with pytest.raises(ModelError, match="no weight 'nothing'"):
        found.weight("nothing")
    with pytest.raises(ModelError, match=r"'cells'.*expected floating-point"):
        found.weight("cells")


def test_external_weights_are_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(head_onnx())
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelError, match="another file"):
        read_onnx(tmp_path / "m.onnx").weight("logits/bias")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00", b"\xff" * 40, b"\x3a\x05ab"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx is not an ONNX file"):
        read_onnx(write(tmp_path, content))


CONTENT = head_onnx()


@settings(max_examples=150)
@given(st.integers(0, len(CONTENT) - 1), st.binary(max_size=6), st.booleans())
def test_damage_raises_model_errors_only(
    tmp_path_factory: pytest.TempPathFactory, place: int, junk: bytes, cut: bool
) -> None:
    damaged = CONTENT[:place] + junk + (b"" if cut else CONTENT[place + len(junk) :])
    path = write(tmp_path_factory.mktemp("damaged"), damaged)
    with contextlib.suppress(ModelError):
        found = read_onnx(path)
        for name in found.tensors:
            with contextlib.suppress(ModelError):
                assert isinstance(found.weight(name), np.ndarray)


def in_another_file(name: str) -> Any:
    """Weight with external data in the file ``weights``."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[2])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    return tensor


def with_weight(tensor: Any, *, where: str) -> bytes:
    """Network with a tensor in one of the places that ONNX allows."""
    helper = onnx.helper
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [], [])
    sparse = onnx.SparseTensorProto(values=tensor, dims=[2])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", "a", "b")], "g", [], []))
    if where == "initializer":
        model.graph.initializer.append(tensor)
    elif where == "sparse":
        model.graph.sparse_initializer.append(sparse)
    elif where == "attribute":
        model.graph.node.append(constant)
    elif where == "branch":
        model.graph.node.append(helper.make_node("If", ["a"], ["d"], then_branch=inner))
    elif where == "function":
        imports = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("own", "F", [], ["c"], [constant], imports))
    else:
        model.training_info.add(initialization=inner)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(
    "where", ["initializer", "sparse", "attribute", "branch", "function", "training"]
)
def test_external_data_is_found_anywhere_in_a_model(tmp_path: Path, where: str) -> None:
    inside = onnx.numpy_helper.from_array(np.ones(2, np.float32), "w")
    check_no_external_data(with_weight(inside, where=where), tmp_path)
    outside = with_weight(in_another_file("w"), where=where)
    with pytest.raises(ModelError, match="weights in other files"):
        check_no_external_data(outside, tmp_path)


def test_deeply_nested_graphs_are_refused(tmp_path: Path) -> None:
    # Built by hand, because the package onnx cannot nest as deeply.
    content = b""
    for field in [6, 5, 1] * 60 + [7]:  # graphs of attributes of nodes of graphs; the model's graph
        size = len(content)
        header = [field << 3 | 2, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]
        content = bytes(header) + content
    with pytest.raises(ModelError, match="too deeply"):
        check_no_external_data(content, tmp_path)
