"""The head in NumPy: the network's own logits, and gradients held against small steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from head_maker import head_onnx, write_head_model
from mien.core.errors import ModelError
from mien.inference.classifier import Classifier
from mien.inference.head import Dense, Relu, Scale, read_head

pytest.importorskip("onnx")

FACES = np.random.default_rng(0).integers(0, 256, (9, 48, 48)).astype(np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_head_model(tmp_path / "with_head")


@pytest.mark.parametrize("float_data", [False, True])
def test_the_head_gives_the_networks_logits(tmp_path: Path, float_data: bool) -> None:
    folder = write_head_model(tmp_path / "m", float_data=float_data)
    classifier = Classifier.open(folder, threads=1)
    head = read_head(folder / "model.onnx")
    assert [type(step) for step in head.steps] == [Dense, Scale, Relu, Dense, Scale]
    found = head.logits(classifier.features(FACES))
    np.testing.assert_allclose(found, classifier.logits(FACES), atol=1e-4)


def test_the_tiny_models_head_is_read_too(tiny_model: Path) -> None:
    classifier = Classifier.open(tiny_model, threads=1)
    head = read_head(tiny_model / "model.onnx")
    found = head.logits(classifier.features(FACES))
    np.testing.assert_allclose(found, classifier.logits(FACES), atol=1e-4)


@pytest.mark.parametrize("chosen", range(7))
def test_gradients_are_what_small_steps_give(model: Path, chosen: int) -> None:
    head = read_head(model / "model.onnx")
    features = Classifier.open(model, threads=1).features(FACES).astype(np.float64)
    found = head.gradients(features, np.full(len(FACES), chosen))
    assert found.shape == (len(FACES), features.shape[3])
    assert (abs(found).max(axis=1) > 0).all()
    step = 1e-6
    for channel in range(features.shape[3]):
        for row, column in ((0, 0), (2, 1)):
            moved = np.zeros_like(features)
            moved[:, row, column, channel] = step
            rise = head.logits(features + moved) - head.logits(features - moved)
            slope = rise[:, chosen] / (2 * step)
            np.testing.assert_allclose(found[:, channel], slope, atol=1e-6)


def test_each_face_has_its_own_class(model: Path) -> None:
    head = read_head(model / "model.onnx")
    features = Classifier.open(model, threads=1).features(FACES)
    mixed = head.gradients(features, np.arange(9) % 7)
    for number in range(9):
        alone = head.gradients(features[number : number + 1], np.array([number % 7]))
        np.testing.assert_allclose(mixed[number : number + 1], alone)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation": "Sigmoid"}, "there is Sigmoid between"),
        ({"stray": True}, "there is GlobalAveragePool between"),
    ],
)
def test_another_head_is_named_and_a_way_out_given(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(head_onnx(**options))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=reason) as caught:
        read_head(path)
    assert "--method occlusion" in str(caught.value)


def test_nodes_that_lead_round_in_a_circle_end(tmp_path: Path) -> None:
    import onnx

    nodes = [
        onnx.helper.make_node("Relu", ["a"], ["logits"]),
        onnx.helper.make_node("Relu", ["logits"], ["a"]),
    ]
    path = tmp_path / "m.onnx"
    graph = onnx.helper.make_graph(nodes, "round", [], [])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with pytest.raises(ModelError, match="do not come from"):
        read_head(path)
