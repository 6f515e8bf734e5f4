from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from data_maker import make_tiny_split
from mien.core.errors import ModelError, UsageError
from mien.core.manifest import load_manifest, write_manifest
from mien.data.dataset import Split
from mien.inference.classifier import Classifier
from mien.training.export import export_run
from mien.training.onnx_graph import merge_grey_channels, remove_reshapes
from mien.training.quantize import (
    PERCENTILES,
    export_int8,
    float_nodes,
    quantize_network,
)
from training_maker import write_tiny_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model; read-only."""
    pytest.importorskip("keras")
    pytest.importorskip("onnx")
    run = write_tiny_run(tmp_path_factory.mktemp("outputs") / "tiny")
    folder = export_run(run, run.parent / "model")
    write_manifest(folder, dataclasses.replace(load_manifest(folder), temperature=1.3))
    return folder


def _read_by(model: Path, *, per_class: int = 12) -> Split:
    """Images of val, labelled as the model classifies them."""
    val = make_tiny_split("val", per_class=per_class)
    labels = Classifier.open(model).logits(val.images).argmax(axis=1).astype(np.int64)
    return Split(val.name, val.images, labels, val.files)


@pytest.fixture(scope="module")
def small(model: Path) -> Path:
    train = make_tiny_split("train", per_class=8)
    return export_int8(model, model.parent / "small", train=train, val=_read_by(model), limit=20)


def test_predictions_match_the_float_model(model: Path, small: Path) -> None:
    faces = make_tiny_split("val", per_class=8).images
    expected, found = (Classifier.open(each).classify(faces) for each in (model, small))
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found - expected).mean() < 0.05
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.85
    assert (found != expected).any()
    features = [Classifier.open(each).features(faces[:2]) for each in (model, small)]
    assert features[0].shape == features[1].shape


def test_it_has_its_own_manifest(model: Path, small: Path) -> None:
    manifest, before = load_manifest(small), load_manifest(model)
    assert (manifest.precision, before.precision) == ("int8", "float32")
    assert manifest.file.sha256 != before.file.sha256
    assert (manifest.name, manifest.temperature) == (before.name, 1.3)
    figures = manifest.metrics["quantization"]
    assert figures["accuracy_float32"] == 1.0
    lost = 100 * (1 - figures["accuracy_int8"])
    assert figures["points_lost"] == pytest.approx(lost)
    assert figures["agreement"] == pytest.approx(figures["accuracy_int8"])
    # 56 images are a batch and a rest that is left out.
    assert (figures["split"], figures["images"], figures["calibration_images"]) == ("val", 84, 56)
    assert figures["percentile"] in PERCENTILES


def test_weights_are_integers_and_labels_are_kept(model: Path, small: Path) -> None:
    import onnx

    network, before = onnx.load(small / "model.onnx"), onnx.load(model / "model.onnx")
    kinds = {tensor.data_type for tensor in network.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.INT8}
    notes = {entry.key: entry.value for entry in network.metadata_props}
    notes_before = {entry.key: entry.value for entry in before.metadata_props}
    assert notes == {**notes_before, "precision": "int8"}
    assert json.loads(notes["labels"])[0] == "angry"


def test_a_model_that_loses_too_much_is_refused_and_not_written(
    model: Path, tmp_path: Path
) -> None:
    val = _read_by(model)
    train = make_tiny_split("train", per_class=8)
    with pytest.raises(ModelError, match="refused: on 84 images of val it loses"):
        # It would have to read more than all of them right.
        export_int8(model, tmp_path / "small", train=train, val=val, limit=-1.0)
    assert not list(tmp_path.iterdir())


def test_unsupported_requests_are_refused(model: Path, tmp_path: Path) -> None:
    val = _read_by(model, per_class=1)
    with pytest.raises(UsageError, match="expected images"):
        export_int8(model, tmp_path / "small", train=val.take(np.zeros(0, np.int64)), val=val)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="holds other files"):
        export_int8(model, tmp_path / "full", train=val, val=val)
    import onnx

    nonsense = onnx.helper.make_node("Nothing", ["other"], ["logits"])
    onnx.save(build([nonsense], {"other": [1], "logits": [1]}, {}), tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match="cannot be quantised"):
        quantize_network(tmp_path / "bad.onnx", tmp_path / "small.onnx", val.images)


# ---------------------------------------------------------------- small networks
def build(
    nodes: list[Any], ends: dict[str, list[Any]], constants: dict[str, npt.NDArray[Any]]
) -> Any:
    """A network of one float input, the first of ``ends``, and the outputs that follow."""
    from onnx import TensorProto, helper, numpy_helper

    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
        for name, sides in ends.items()
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(network: Any, inputs: tuple[int, ...]) -> Any:
    """The first output for noise of this shape."""
    from mien.core.onnx_runtime import onnxruntime

    session = onnxruntime.InferenceSession(network.SerializeToString())
    noise = np.random.default_rng(0).normal(size=inputs).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: noise})[0]


def kinds(network: Any) -> list[str]:
    return [node.op_type for node in network.graph.node]


@pytest.mark.parametrize(("group", "left"), [(1, ["faces/Cast"]), (4, ["faces/Cast", "stem/Conv"])])
def test_first_layers_next_to_depthwise_ones_stay_in_float(group: int, left: list[str]) -> None:
    pytest.importorskip("onnx")
    from onnx.helper import make_node as node

    nodes = [
        node("Cast", ["faces"], ["a"], name="faces/Cast", to=1),
        node("Conv", ["a", "w"], ["b"], name="stem/Conv", group=1),
        node("Conv", ["b", "v"], ["c"], name="block2a/Conv", group=group),
    ]
    assert float_nodes(build(nodes, {}, {})) == left


def test_a_pooled_network_pools_in_8_bits(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto
    from onnx.helper import make_node as node

    random = np.random.default_rng(0)
    nodes = [
        node("Cast", ["faces"], ["floats"], name="faces/Cast", to=TensorProto.FLOAT),
        node("Unsqueeze", ["floats", "one"], ["map"], name="faces/Unsqueeze"),
        node("Conv", ["map", "weights"], ["first"], name="first/Conv", pads=[1, 1, 1, 1]),
        node("Relu", ["first"], ["positive"], name="first/Relu"),
        node("MaxPool", ["positive"], ["less"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["less"], ["mean"], name="mean"),
        node("Flatten", ["mean"], ["flat"], name="flat"),
        node("MatMul", ["flat", "dense"], ["logits"], name="logits"),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "one": np.array([1], np.int64),
        "weights": random.normal(size=(8, 1, 3, 3)).astype(np.float32),
        "dense": random.normal(size=(8, 7)).astype(np.float32),
    }
    network = build(nodes, {"faces": ["N", 48, 48], "logits": ["N", 7]}, constants)
    network.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(network, tmp_path / "big.onnx")
    faces = random.integers(0, 256, (32, 48, 48)).astype(np.uint8)
    quantize_network(tmp_path / "big.onnx", tmp_path / "small.onnx", faces)
    small = onnx.load(tmp_path / "small.onnx").graph.node
    makers = {name: each.op_type for each in small for name in each.output}
    (pool,) = (each for each in small if each.op_type == "MaxPool")
    assert makers[pool.input[0]] == "DequantizeLinear"


def squeezing(*, used_twice: bool = False) -> Any:
    """A network that pools, flattens and reshapes back to 1x1 before it scales a map."""
    from onnx.helper import make_node as node

    nodes = [
        node("GlobalAveragePool", ["map"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"], axis=1),
        node("Reshape", ["flat", "shape"], ["square"]),
        node("Mul", ["map", "square"], ["scaled"]),
    ]
    ends: dict[str, list[Any]] = {"map": ["N", 4, "h", "w"], "scaled": ["N", 4, "h", "w"]}
    if used_twice:
        nodes.append(node("Identity", ["flat"], ["other"]))
        ends["other"] = ["N", 4]
    return build(nodes, ends, {"shape": np.array([-1, 4, 1, 1], np.int64)})


def test_reshapes_without_effect_are_removed() -> None:
    pytest.importorskip("onnx")
    network = squeezing()
    expected = run(network, (3, 4, 5, 5))
    remove_reshapes(network)
    assert kinds(network) == ["GlobalAveragePool", "Mul"]
    assert not network.graph.initializer
    assert (run(network, (3, 4, 5, 5)) == expected).all()
    network = squeezing(used_twice=True)
    remove_reshapes(network)
    assert len(kinds(network)) == 5


def grey(*, scale: tuple[float, ...] = (2.0,), twice: bool = False) -> Any:
    """A network that repeats a grey map as channels, scales them, and convolves with padding."""
    from onnx.helper import make_node as node

    nodes = [
        node("Concat", ["map"] * 3, ["repeated"], axis=1),
        node("Sub", ["repeated", "middle"], ["centred"]),
        node("Div", ["centred", "scale"], ["scaled"]),
        node("Conv", ["scaled", "kernel"], ["answer"], pads=[1, 1, 1, 1]),
    ]
    ends: dict[str, list[Any]] = {"map": ["N", 1, "h", "w"], "answer": ["N", 4, "h", "w"]}
    if twice:
        nodes.append(node("Identity", ["scaled"], ["other"]))
        ends["other"] = ["N", 3, "h", "w"]
    kernel = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    constants: dict[str, npt.NDArray[Any]] = {
        "middle": np.array(0.5, np.float32),
        "scale": np.array(scale, np.float32).reshape(-1, 1, 1),
        "kernel": kernel,
    }
    return build(nodes, ends, constants)


@pytest.mark.parametrize("scale", [(2.0,), (2.0, 2.0, 2.0)])
def test_equal_channels_become_one(scale: tuple[float, ...]) -> None:
    pytest.importorskip("onnx")
    network = grey(scale=scale)
    expected = run(network, (2, 1, 6, 6))
    merge_grey_channels(network)
    assert kinds(network) == ["Sub", "Div", "Conv"]
    np.testing.assert_allclose(run(network, (2, 1, 6, 6)), expected, rtol=1e-4, atol=1e-4)


def test_channels_that_differ_or_are_used_elsewhere_are_kept() -> None:
    pytest.importorskip("onnx")
    for network in (grey(scale=(1.0, 2.0, 3.0)), grey(twice=True), squeezing()):
        before = network.SerializeToString()
        merge_grey_channels(network)
        assert network.SerializeToString() == before
