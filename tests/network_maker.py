"""Small Keras networks with layers under test, and what they and their ONNX form give.

Keras is imported by the tests only, so that collecting them costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mien.core.emotions import EMOTIONS
from mien.training.onnx_graph import keras_to_onnx

HEIGHT, WIDTH = 11, 8
Body = Callable[[Any, Any], Any]
"""Takes ``keras.layers`` and a tensor (N, HEIGHT, WIDTH, 4), returns a tensor."""


def network(keras: Any, body: Body, *, seed: int = 0) -> Any:
    """Faces -> four channels of mixed sign -> the layers under test -> seven probabilities."""
    layers = keras.layers
    faces = layers.Input((HEIGHT, WIDTH, 1), name="faces")
    x = layers.Rescaling(1 / 64, -2)(faces)
    x = body(layers, layers.Conv2D(4, 3, padding="same", name="stem")(x))
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(len(EMOTIONS), name="logits")(x)
    model = keras.Model(faces, layers.Activation("softmax", name="probabilities")(logits))
    randomise(model, seed)
    return model


def randomise(model: Any, seed: int) -> None:
    """Give every weight a value of its own, so that none can stand in another's place."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for variable in layer.weights:
            if variable.name == "count":
                continue
            shape = tuple(variable.shape)
            positive = variable.name in ("variance", "moving_variance", "gamma")
            reach = 1.5 / max(1, int(np.prod(shape[:-1]))) ** 0.5
            low, high = (0.5, 2.0) if positive else (-reach, reach)
            variable.assign(random.uniform(low, high, shape).astype(np.float32))
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()


def draw_faces(count: int, height: int = HEIGHT, width: int = WIDTH) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, height, width)).astype(np.uint8)


def run_onnx(ort: Any, proto: Any, faces: Any) -> tuple[Any, Any]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, features = session.run(["logits", "features"], {"faces": faces})
    return logits, features


def keras_values(keras: Any, model: Any, faces: Any) -> tuple[Any, Any]:
    """Logits, and the output of the last layer that gives a plane."""
    last = [layer.output for layer in model.layers if len(layer.output.shape) == 4][-1]
    parts = keras.Model(model.inputs[0], [model.get_layer("logits").output, last])
    values = parts(faces[..., None].astype(np.float32), training=False)
    logits, features = (keras.ops.convert_to_numpy(value) for value in values)
    return logits, features


def assert_as_in_keras(keras: Any, ort: Any, body: Body) -> None:
    """Convert a network with these layers, and compare what both give for the same faces."""
    model = network(keras, body)
    faces = draw_faces(3)
    logits, features = run_onnx(ort, keras_to_onnx(model), faces)
    expected_logits, expected_features = keras_values(keras, model, faces)
    assert logits.std() > 1e-3
    np.testing.assert_allclose(logits, expected_logits, atol=2e-5)
    np.testing.assert_allclose(features, expected_features, atol=2e-5)
