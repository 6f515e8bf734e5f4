from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import run_maker
from data_maker import make_tiny_split
from mien.core.errors import ModelError, UsageError
from mien.core.manifest import load_manifest
from mien.data.dataset import Split
from mien.inference.classifier import Classifier
from mien.training.export import export_run
from mien.training.quantize import PERCENTILES, export_int8, layers_left, quantise

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model; leave it as it is."""
    pytest.importorskip("keras")
    pytest.importorskip("onnx")
    run = run_maker.write_tiny_run(tmp_path_factory.mktemp("outputs") / "tiny")
    return export_run(run, run.parent / "model", temperature=1.3)


def _read_by(model: Path, *, per_class: int = 12) -> Split:
    """Images of val, labelled as the model reads them."""
    val = make_tiny_split("val", per_class=per_class)
    labels = Classifier.open(model).logits(val.images).argmax(axis=1).astype(np.int64)
    return Split(val.name, val.images, labels, val.files)


@pytest.fixture(scope="module")
def small(model: Path) -> Path:
    train = make_tiny_split("train", per_class=8)
    return export_int8(model, model.parent / "small", train=train, val=_read_by(model), limit=20)


def test_it_is_a_model_that_reads_as_the_other_does(model: Path, small: Path) -> None:
    faces = make_tiny_split("val", per_class=8).images
    expected, found = (Classifier.open(each).classify(faces) for each in (model, small))
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(found - expected).mean() < 0.05
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.85
    assert (found != expected).any()
    features = [Classifier.open(each).features(faces[:2]) for each in (model, small)]
    assert features[0].shape == features[1].shape


def test_its_manifest_is_its_own(model: Path, small: Path) -> None:
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


def test_its_weights_are_whole_numbers_and_its_labels_stay(model: Path, small: Path) -> None:
    import onnx

    network, before = onnx.load(small / "model.onnx"), onnx.load(model / "model.onnx")
    kinds = {tensor.data_type for tensor in network.graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.INT8}
    notes = {entry.key: entry.value for entry in network.metadata_props}
    told = {entry.key: entry.value for entry in before.metadata_props}
    assert notes == {**told, "precision": "int8"}
    assert json.loads(notes["labels"])[0] == "angry"


def test_one_that_loses_too_much_is_refused_and_nothing_is_written(
    model: Path, tmp_path: Path
) -> None:
    val = _read_by(model)
    train = make_tiny_split("train", per_class=8)
    with pytest.raises(ModelError, match="refused: on 84 images of val it loses"):
        # It would have to read more than all of them right.
        export_int8(model, tmp_path / "small", train=train, val=val, limit=-1.0)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_done_is_refused(model: Path, tmp_path: Path) -> None:
    val = _read_by(model, per_class=1)
    with pytest.raises(UsageError, match="expected images"):
        export_int8(model, tmp_path / "small", train=val.take(np.zeros(0, np.int64)), val=val)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"")
    with pytest.raises(UsageError, match="holds other things"):
        export_int8(model, tmp_path / "full", train=val, val=val)
    (tmp_path / "bad.onnx").write_bytes(_empty_network())
    with pytest.raises(ModelError, match="cannot be quantised"):
        quantise(tmp_path / "bad.onnx", tmp_path / "small.onnx", val.images)


def _empty_network() -> bytes:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Nothing", ["other"], ["logits"])],
        "none",
        [tensor("other", TensorProto.FLOAT, [1])],
        [tensor("logits", TensorProto.FLOAT, [1])],
    )
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(("group", "left"), [(1, ["faces/Cast"]), (4, ["faces/Cast", "stem/Conv"])])
def test_the_first_layers_stay_as_they_are_beside_depthwise_ones(
    group: int, left: list[str]
) -> None:
    pytest.importorskip("onnx")
    from onnx import helper

    nodes = [
        helper.make_node("Cast", ["faces"], ["a"], name="faces/Cast", to=1),
        helper.make_node("Conv", ["a", "w"], ["b"], name="stem/Conv", group=1),
        helper.make_node("Conv", ["b", "v"], ["c"], name="block2a/Conv", group=group),
    ]
    assert layers_left(helper.make_model(helper.make_graph(nodes, "three", [], []))) == left


def test_a_pooled_network_pools_in_8_bits(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    node, tensor = helper.make_node, helper.make_tensor_value_info
    weights = np.random.default_rng(0).normal(size=(8, 1, 3, 3)).astype(np.float32)
    dense = np.random.default_rng(1).normal(size=(8, 7)).astype(np.float32)
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
    one = np.array([1], np.int64)
    constants: dict[str, npt.NDArray[Any]] = {"one": one, "weights": weights, "dense": dense}
    graph = helper.make_graph(
        nodes,
        "pooled",
        [tensor("faces", TensorProto.UINT8, ["N", 48, 48])],
        [tensor("logits", TensorProto.FLOAT, ["N", 7])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "big.onnx")
    faces = np.random.default_rng(2).integers(0, 256, (32, 48, 48)).astype(np.uint8)
    quantise(tmp_path / "big.onnx", tmp_path / "small.onnx", faces)
    small = onnx.load(tmp_path / "small.onnx").graph.node
    makers = {name: each.op_type for each in small for name in each.output}
    (pool,) = (each for each in small if each.op_type == "MaxPool")
    assert makers[pool.input[0]] == "DequantizeLinear"
