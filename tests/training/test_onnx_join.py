"""Joined networks: both outputs are unchanged, and shared parts are stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mien.core.errors import ModelError
from mien.core.manifest import OUTPUT_CONTRACT, PEOPLE_OUTPUTS
from mien.inference.onnx_model import prune_outputs
from mien.training.onnx_graph import join_networks, one_reading
from tiny_model import tiny_onnx

FACES = np.random.default_rng(3).integers(0, 256, (5, 48, 48)).astype(np.uint8)


def network(**changed: float) -> Any:
    """A tiny network whose named weights are multiplied by a number."""
    proto = onnx.load_model_from_string(tiny_onnx())
    for tensor in proto.graph.initializer:
        if tensor.name in changed:
            values = onnx.numpy_helper.to_array(tensor) * np.float32(changed[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return proto


def run(content: bytes, output: str) -> np.ndarray[Any, Any]:
    from mien.core.onnx_runtime import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], {"faces": FACES})[0])


@pytest.mark.parametrize("changed", [{"weights": 2.0}, {"pattern": 3.0}, {"half": 0.5}, {}])
def test_both_readings_give_the_outputs_of_their_networks(changed: dict[str, float]) -> None:
    first, second = network(), network(**changed)
    joined = join_networks(first, second)
    onnx.checker.check_model(joined, full_check=True)
    content = joined.SerializeToString()
    for source, outputs in ((first, OUTPUT_CONTRACT), (second, PEOPLE_OUTPUTS)):
        for what in ("logits", "features"):
            expected = run(source.SerializeToString(), what)
            assert np.array_equal(run(content, outputs[what]), expected)
        alone = one_reading(joined, outputs)
        assert np.array_equal(
            run(alone.SerializeToString(), "logits"), run(source.SerializeToString(), "logits")
        )


def test_shared_layers_are_stored_once() -> None:
    first = network()
    joined = join_networks(first, network(weights=2.0))
    added = len(joined.graph.node) - len(first.graph.node)
    assert added == 3  # the last layer's product and sum, and the features' second name
    names = [tensor.name for tensor in joined.graph.initializer]
    assert names.count("pattern") == 1
    assert [name for name in names if name.startswith("people/")] == ["people/weights"]


def test_the_first_reading_is_extracted_exactly() -> None:
    first = network()
    joined = join_networks(first, network(pattern=2.0))
    assert one_reading(joined).SerializeToString() == first.SerializeToString()


def test_the_branch_that_is_not_requested_is_removed(tmp_path: Path) -> None:
    joined = join_networks(network(), network(half=0.5))
    path = tmp_path / "model.onnx"
    path.write_bytes(joined.SerializeToString())
    for outputs in (OUTPUT_CONTRACT, PEOPLE_OUTPUTS):
        content = prune_outputs(path.read_bytes(), outputs.values(), path)
        alone = onnx.load_model_from_string(content)
        onnx.checker.check_model(alone, full_check=True)
        assert len(alone.graph.node) < len(joined.graph.node)
        assert np.array_equal(
            run(content, outputs["logits"]), run(joined.SerializeToString(), outputs["logits"])
        )


def test_networks_of_other_classes_cannot_be_joined() -> None:
    other = onnx.load_model_from_string(tiny_onnx())
    onnx.helper.set_model_props(other, {"labels": '["calm", "tense"]'})
    with pytest.raises(ModelError, match="different inputs or classes"):
        join_networks(network(), other)


def test_a_missing_reading_is_an_error() -> None:
    with pytest.raises(ModelError, match="people_logits"):
        one_reading(network(), PEOPLE_OUTPUTS)
