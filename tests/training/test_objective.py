"""The losses of a step beside the labels' own: the teachers' and the votes'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.training.augmentation import Floats, MixedBatch
from mien.training.distillation import softened_mean
from mien.training.model import build_model, refresh
from mien.training.objective import accuracy_of, distance_at, released_network, step_arrays
from mien.training.stages import Stage, compiled_model
from mien.training.teacher_logits import rounded
from mien.training.teachers import find_teacher, open_teacher
from training_maker import tiny_config

SPLIT = make_tiny_split("train", per_class=2)
FACES = SPLIT.images[..., None].astype(np.float32)
TARGETS = np.eye(7, dtype=np.float32)[SPLIT.labels]
RANDOM = np.random.default_rng(0)
TAUGHT = RANDOM.dirichlet(np.ones(7), len(SPLIT)).astype(np.float32)
VOTES = RANDOM.dirichlet(np.ones(7), len(SPLIT)).astype(np.float32)
VOTES[3] = 0
WEIGHTS = RANDOM.uniform(0.2, 3, len(SPLIT)).astype(np.float32)
BOTH: dict[str, Any] = {
    "distill_teachers": ["mien-b0"],
    "distill_weight": 0.7,
    "distill_temperature": 3.0,
    "data_votes": "votes.csv",
    "training_votes_weight": 0.4,
    "training_label_smoothing": 0.2,
    "model_head_dropout": [0.0],
}

pytestmark = pytest.mark.usefixtures("keras_ready")


def compiled(**changes: Any) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return compiled_model(tiny_config(**changes), Stage(-1, 32), initialise=True)


def run(model: Any, batch: MixedBatch) -> dict[str, float]:
    logs: dict[str, float] = model.train_on_batch(*step_arrays(batch), return_dict=True)
    return logs


def softmax(values: Any, temperature: float = 1.0) -> Any:
    powers = np.exp(np.asarray(values, np.float64) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_loss_is_the_weighted_sum_of_labels_teachers_and_votes() -> None:
    model = compiled(**BOTH)
    # BatchNorm answers by the batch while training, so that this is what the step will see.
    said = {name: np.asarray(value, np.float64) for name, value in
            model(FACES, training=True).items()}  # fmt: skip
    smooth = TARGETS * 0.8 + 0.2 / 7
    labels = -(smooth * np.log(said["probabilities"])).sum(axis=1)
    own = softmax(said["logits"], 3.0)
    distance = (TAUGHT * np.log(TAUGHT / own)).sum(axis=1)
    votes = -(VOTES * np.log(said["votes"])).sum(axis=1)
    expected = (WEIGHTS * (0.3 * labels + 0.7 * 9 * distance + 0.4 * votes)).mean()
    logs = run(model, MixedBatch(FACES, TARGETS, WEIGHTS, TAUGHT, VOTES))
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-4)
    right = said["probabilities"].argmax(axis=1) == SPLIT.labels
    assert accuracy_of(logs) == pytest.approx(right.mean())


def test_the_distance_is_zero_at_the_teachers_and_its_slope_keeps_its_size() -> None:
    import tensorflow as tf

    logits = tf.constant(RANDOM.normal(0, 0.05, (4, 7)), tf.float32)
    slopes = []
    for temperature in (1.0, 8.0):
        own = softmax(logits, temperature)
        distance = distance_at(temperature)
        assert np.allclose(distance(own.astype(np.float32), logits), 0, atol=1e-5)
        taught = softmax(np.eye(7)[:4] * 0.5, temperature).astype(np.float32)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.reduce_sum(distance(taught, logits))
        slopes.append(float(tf.norm(tape.gradient(value, logits))))
    assert slopes[0] == pytest.approx(slopes[1], rel=0.2)


def test_a_teacher_may_be_wholly_sure() -> None:
    value = np.asarray(distance_at(2.0)(TARGETS, np.zeros((len(TARGETS), 7), np.float32)))
    assert np.allclose(value, 4 * np.log(7), atol=1e-4)


def test_without_teachers_and_votes_the_network_is_trained_as_it_is() -> None:
    model = compiled()
    assert released_network(model) is model
    arrays = step_arrays(MixedBatch(FACES, TARGETS, WEIGHTS))
    assert arrays[1] is TARGETS
    assert arrays[2] is WEIGHTS


def test_the_released_network_has_no_trace_of_the_further_outputs() -> None:
    model = compiled(**BOTH)
    run(model, MixedBatch(FACES, TARGETS, WEIGHTS, TAUGHT, VOTES))
    network = released_network(model)
    plain = build_model(tiny_config(**BOTH).model, size=32, initialise=False)
    paths = [[re.sub(r"_\d+/", "/", weight.path) for weight in one.weights]
             for one in (network, plain)]  # fmt: skip
    assert paths[0] == paths[1]
    plain.set_weights(network.get_weights())
    refresh(plain)
    expected = np.asarray(model(FACES, training=False)["probabilities"])
    assert np.allclose(np.asarray(plain(FACES, training=False)), expected, atol=1e-6)
    assert np.allclose(network.predict_on_batch(FACES), expected, atol=1e-5)


def test_the_votes_teach_the_features_that_the_labels_use() -> None:
    def features(weight: float) -> Any:
        model = compiled(**{**BOTH, "distill_teachers": [], "training_votes_weight": weight})
        batch = MixedBatch(FACES, TARGETS, WEIGHTS, votes=VOTES if weight else None)
        run(model, batch)
        return model.get_layer("block1_conv").get_weights()[0]

    assert not np.array_equal(features(0.0), features(2.0))


def test_a_taught_student_is_closer_to_its_teacher_than_one_of_labels_alone(
    tiny_model: Path,
) -> None:
    network = open_teacher(find_teacher(str(tiny_model)), batch=64)
    seen, unseen = make_tiny_split("train"), make_tiny_split("val", per_class=8)

    def taught(images: Any, temperature: float) -> Floats:
        return softened_mean([rounded(network(images))], temperature)

    def distance(**changes: Any) -> float:
        model = compiled(model_head_dropout=[0.0], **changes)
        model.optimizer.learning_rate.assign(0.01)
        faces = seen.images[..., None].astype(np.float32)
        targets = np.eye(7, dtype=np.float32)[seen.labels]
        ones = np.ones(len(seen), np.float32)
        told = taught(seen.images, 2.0) if changes else None
        for _ in range(60):
            run(model, MixedBatch(faces, targets, ones, told))
        student = released_network(model)
        own = np.asarray(student.predict_on_batch(unseen.images[..., None].astype(np.float32)))
        theirs = taught(unseen.images, 1.0)
        return float((theirs * np.log((theirs + 1e-9) / (own + 1e-9))).sum(axis=1).mean())

    assert distance(distill_teachers=["tiny"]) < 0.5 * distance()
