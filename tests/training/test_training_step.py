"""What one training step does: losses, freezing, optimizers, clipping, precision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.core.errors import UsageError
from mien.training.architectures import update_normalization
from mien.training.distillation import (
    compact_logits,
    find_teacher,
    mean_probabilities,
    open_teacher,
)
from mien.training.model import (
    batch_accuracy,
    build_model,
    distillation_loss,
    inference_network,
    learning_rate_factors,
    step_arrays,
)
from mien.training.trainer import all_variables
from mien.training.transforms import Batch, Floats
from step_maker import FACES, ONES, SPLIT, TARGETS, compiled, equal, step, values
from training_maker import tiny_config

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


def weights_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {variable.path: np.array(variable.numpy()) for variable in model.trainable_variables}


def test_a_frozen_backbone_keeps_its_weights_and_statistics() -> None:
    from mien.training.architectures import backbone_layers

    model = compiled(0)
    backbone = [value for layer in backbone_layers(model) for value in layer.variables]
    head = model.get_layer("head1_bn").variables
    before, head_before = values(backbone), values(head)
    for _ in range(3):
        step(model)
    assert len(before) == 3 + 2 * 5
    assert equal(values(backbone), before)
    assert not any(np.array_equal(a, b) for a, b in zip(values(head), head_before, strict=True))


def test_fine_tuning_changes_only_trainable_blocks() -> None:
    model = compiled(1)
    names = ("block1_conv", "block1_bn", "block2_conv", "block2_bn")
    before = {name: values(model.get_layer(name).variables) for name in names}
    for _ in range(2):
        step(model)
    changed = {name: not equal(values(model.get_layer(name).variables), before[name])
               for name in names}  # fmt: skip
    assert changed == {
        "block1_conv": False,
        "block1_bn": False,
        "block2_conv": True,
        "block2_bn": True,
    }


def test_too_many_blocks_are_an_error_before_the_head_is_trained() -> None:
    with pytest.raises(UsageError, match="fine_tune_blocks = 3: expected at most 2"):
        compiled(0, training_fine_tune_blocks=3)


def test_the_loss_is_smoothed_cross_entropy_weighted_by_image() -> None:
    smoothing = 0.3
    model = compiled(model_head_dropout=[0.0], training_label_smoothing=smoothing)
    weights = np.random.default_rng(0).uniform(0.2, 3, len(SPLIT)).astype(np.float32)
    # BatchNorm answers by the batch while training, so that this is what the step will see.
    probabilities = np.asarray(model(FACES, training=True))
    targets = TARGETS * (1 - smoothing) + smoothing / 7
    losses = -(targets * np.log(probabilities)).sum(axis=1)
    assert step(model, weights) == pytest.approx((weights * losses).mean(), rel=1e-4)


def test_a_step_on_labels_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = compiled()
    train_step = Mock(wraps=model.train_step)
    monkeypatch.setattr(model, "train_step", train_step)
    for _ in range(2):
        step(model)
    train_step.assert_called_once()


def test_weight_decay_applies_to_kernels_only() -> None:
    model = compiled(training_weight_decay=0.5, training_clip_norm=0.0)
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    # Without weight in the loss there is no gradient: all that moves is moved by the decay.
    step(model, 0 * ONES, rate=0.1)
    ratios = {
        variable.path: variable.numpy()
        / np.where(before[variable.path] == 0, 1, before[variable.path])
        for variable in model.trainable_variables
    }
    kernels = {path: ratio for path, ratio in ratios.items() if path.endswith("kernel")}
    assert len(kernels) == 4
    for ratio in kernels.values():
        assert np.allclose(ratio, 1 - 0.1 * 0.5, atol=1e-5)
    for path in ratios.keys() - kernels.keys():
        after = next(v.numpy() for v in model.trainable_variables if v.path == path)
        assert np.array_equal(after, before[path]), path


def gradient_norm(model: Any) -> float:
    """Norm of the first step's gradient, from Adam's first moment."""
    step(model)
    # After one step that moment is a tenth of the gradient.
    moments = [v.numpy() for v in model.optimizer.variables if v.name.endswith("_momentum")]
    assert len(moments) == len(model.trainable_variables)
    return float(np.sqrt(sum(np.square(moment * 10).sum() for moment in moments)))


def test_the_gradient_is_clipped_by_its_global_norm() -> None:
    free = gradient_norm(compiled(training_clip_norm=0.0))
    assert free > 0.5
    assert gradient_norm(compiled(training_clip_norm=0.1)) == pytest.approx(0.1, rel=1e-3)


def test_dropout_differs_from_step_to_step_and_is_repeated_from_its_state() -> None:
    model = compiled(model_head_dropout=[0.5])
    seeds = [variable for variable in model.variables if "seed" in variable.path]
    assert seeds
    assert all(any(seed is variable for variable in all_variables(model)) for seed in seeds)
    before = values(seeds)
    # With a rate of almost nothing, the masks are all that changes.
    first, second, third = (step(model, rate=1e-12) for _ in range(3))
    assert len({first, second, third}) == 3
    for seed, value in zip(seeds, before, strict=True):
        seed.assign(value)
    assert [step(model, rate=1e-12) for _ in range(3)] == pytest.approx([first, second, third])


def test_mixed_precision_computes_in_bfloat16_and_outputs_float32() -> None:
    import keras

    from mien.training.backend import prepare_backend

    prepare_backend(tiny_config(training_precision="mixed_bfloat16").training)
    model = compiled(training_precision="mixed_bfloat16")
    dtypes = {layer.name: layer.compute_dtype for layer in model.layers}
    assert dtypes["block2_conv"] == dtypes["head1_dense"] == "bfloat16"
    assert dtypes["logits"] == dtypes["probabilities"] == "float32"
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    inner = keras.Model(model.input, model.get_layer("block2_conv").output)
    assert str(inner(FACES).dtype) in ("<dtype: 'bfloat16'>", "bfloat16")
    losses = [step(model, rate=0.02) for _ in range(8)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    probabilities = np.asarray(model(FACES))
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    prepare_backend(tiny_config().training)
    assert compiled().get_layer("block2_conv").compute_dtype == "float32"


def test_sgd_adds_decay_to_the_momentum_and_scales_the_step_by_the_rate() -> None:
    decay, rates = 0.5, (0.1, 0.02, 0.3)
    model = compiled(training_optimizer="sgd", training_weight_decay=decay, training_clip_norm=0.0)
    weights = {variable.path: np.array(variable.numpy()) for variable in model.trainable_variables}
    moving = {path: np.zeros_like(value) for path, value in weights.items()}
    for rate in rates:
        # Without weight in the loss there is no gradient but that of the decay, on kernels.
        step(model, 0 * ONES, rate=rate)
        for path in weights:
            if path.endswith("kernel"):
                gradient = decay * weights[path]
                moving[path] = 0.9 * moving[path] + gradient
                weights[path] = weights[path] - rate * (gradient + 0.9 * moving[path])
    for variable in model.trainable_variables:
        assert np.allclose(variable.numpy(), weights[variable.path], atol=1e-6), variable.path


def test_sgd_follows_the_gradient() -> None:
    model = compiled(
        training_optimizer="sgd",
        training_weight_decay=0.0,
        training_clip_norm=0.0,
        model_head_dropout=[0.0],
    )
    before = values(model.trainable_variables)
    losses = [step(model, rate=0.05) for _ in range(15)]
    assert losses[-1] < losses[0] / 2
    assert not equal(before, values(model.trainable_variables))


# ---------------------------------------------------------------- layer-wise rates
def test_the_last_block_and_the_head_have_the_full_rate() -> None:
    model = compiled(model_plain_channels=[4, 4, 8])
    variables = model.trainable_variables
    factors = learning_rate_factors(model, variables, decay=0.5)
    by_layer = {
        variable.path.split("/")[-2]: factor
        for variable, factor in zip(variables, factors, strict=True)
    }
    assert by_layer == {
        "block1_conv": 0.25,
        "block1_bn": 0.25,
        "block2_conv": 0.5,
        "block2_bn": 0.5,
        "block3_conv": 1,
        "block3_bn": 1,
        "head1_dense": 1,
        "head1_bn": 1,
        "logits": 1,
    }


def test_the_stem_counts_as_a_block_before_the_first(b0: Any) -> None:
    names = ("stem_conv", "block1a_dwconv", "block7a_dwconv", "top_conv", "head1_dense")
    variables = [b0.get_layer(name).kernel for name in names]
    powers = np.log(learning_rate_factors(b0, variables, decay=0.9)) / np.log(0.9)
    assert np.allclose(powers, [16, 15, 0, 0, 0])


def test_each_update_is_scaled_by_the_factor_of_its_variable() -> None:
    plain, scaled = compiled(), compiled(training_layer_decay=0.25)
    before = weights_of(plain)
    step(plain)
    step(scaled)
    after, scaled_after = weights_of(plain), weights_of(scaled)
    assert any("block1" in path for path in before)
    for path, start in before.items():
        factor = 0.25 if "block1" in path else 1.0
        expected = factor * (after[path] - start)
        assert np.allclose(scaled_after[path] - start, expected, atol=1e-6), path


def test_weight_decay_is_scaled_by_the_rate_and_applies_to_kernels_only() -> None:
    model = compiled(training_layer_decay=0.5, training_weight_decay=0.5, training_clip_norm=0.0)
    before = weights_of(model)
    # Without weight in the loss there is no gradient: all that moves is moved by the decay.
    step(model, 0 * ONES, rate=0.1)
    for path, start in before.items():
        rate = 0.05 if "block1" in path else 0.1
        shrunk = 1 - rate * 0.5 if path.endswith("kernel") else 1.0
        assert np.allclose(weights_of(model)[path], start * shrunk, atol=1e-6), path


def test_with_equal_rates_it_equals_keras_adamw() -> None:
    from mien.training.keras_extensions import LayerwiseAdamW

    theirs, ours = compiled(training_weight_decay=0.1), compiled(training_weight_decay=0.1)
    assert type(theirs.optimizer).__name__ == "AdamW"
    variables = ours.trainable_variables
    decays = [0.1 * (variable.name == "kernel") for variable in variables]
    optimizer = LayerwiseAdamW(
        factors=[1.0] * len(variables),
        decays=decays,
        learning_rate=0.01,
        global_clipnorm=1.0,
        use_ema=True,
        ema_momentum=0.5,
        ema_overwrite_frequency=None,
    )
    ours.compile(optimizer, "categorical_crossentropy", jit_compile=False)
    theirs.compile(theirs.optimizer, "categorical_crossentropy", jit_compile=False)
    for _ in range(3):
        step(theirs)
        step(ours)
    for path, value in weights_of(theirs).items():
        assert np.allclose(weights_of(ours)[path], value, atol=1e-6), path
    names = [variable.name for variable in theirs.optimizer.variables]
    assert [variable.name for variable in ours.optimizer.variables] == names


# ---------------------------------------------------------------- teachers and votes
def run(model: Any, batch: Batch) -> dict[str, float]:
    logs: dict[str, float] = model.train_on_batch(*step_arrays(batch), return_dict=True)
    return logs


def softmax(values: Any, temperature: float = 1.0) -> Any:
    powers = np.exp(np.asarray(values, np.float64) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def test_the_loss_is_the_weighted_sum_of_labels_teachers_and_votes() -> None:
    model = compiled(**BOTH)
    # BatchNorm answers by the batch while training, so that this is what the step will see.
    outputs = {name: np.asarray(value, np.float64) for name, value in
            model(FACES, training=True).items()}  # fmt: skip
    smooth = TARGETS * 0.8 + 0.2 / 7
    labels = -(smooth * np.log(outputs["probabilities"])).sum(axis=1)
    own = softmax(outputs["logits"], 3.0)
    distance = (TAUGHT * np.log(TAUGHT / own)).sum(axis=1)
    votes = -(VOTES * np.log(outputs["votes"])).sum(axis=1)
    expected = (WEIGHTS * (0.3 * labels + 0.7 * 9 * distance + 0.4 * votes)).mean()
    logs = run(model, Batch(FACES, TARGETS, WEIGHTS, votes=VOTES, soft_targets=TAUGHT))
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-4)
    right = outputs["probabilities"].argmax(axis=1) == SPLIT.labels
    assert batch_accuracy(logs) == pytest.approx(right.mean())


def test_the_divergence_is_zero_at_the_teachers_and_its_gradient_keeps_its_scale() -> None:
    import tensorflow as tf

    logits = tf.constant(RANDOM.normal(0, 0.05, (4, 7)), tf.float32)
    slopes = []
    for temperature in (1.0, 8.0):
        own = softmax(logits, temperature)
        distance = distillation_loss(temperature)
        assert np.allclose(distance(own.astype(np.float32), logits), 0, atol=1e-5)
        taught = softmax(np.eye(7)[:4] * 0.5, temperature).astype(np.float32)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = tf.reduce_sum(distance(taught, logits))
        slopes.append(float(tf.norm(tape.gradient(value, logits))))
    assert slopes[0] == pytest.approx(slopes[1], rel=0.2)


def test_a_teacher_may_give_probabilities_of_zero_and_one() -> None:
    value = np.asarray(distillation_loss(2.0)(TARGETS, np.zeros((len(TARGETS), 7), np.float32)))
    assert np.allclose(value, 4 * np.log(7), atol=1e-4)


def test_without_teachers_and_votes_no_outputs_are_added() -> None:
    model = compiled()
    assert inference_network(model) is model
    arrays = step_arrays(Batch(FACES, TARGETS, WEIGHTS))
    assert arrays[1] is TARGETS
    assert arrays[2] is WEIGHTS


def test_the_saved_network_lacks_the_additional_outputs() -> None:
    model = compiled(**BOTH)
    run(model, Batch(FACES, TARGETS, WEIGHTS, votes=VOTES, soft_targets=TAUGHT))
    network = inference_network(model)
    plain = build_model(tiny_config(**BOTH).model, size=32, initialise=False)
    paths = [[re.sub(r"_\d+/", "/", weight.path) for weight in one.weights]
             for one in (network, plain)]  # fmt: skip
    assert paths[0] == paths[1]
    plain.set_weights(network.get_weights())
    update_normalization(plain)
    expected = np.asarray(model(FACES, training=False)["probabilities"])
    assert np.allclose(np.asarray(plain(FACES, training=False)), expected, atol=1e-6)
    assert np.allclose(network.predict_on_batch(FACES), expected, atol=1e-5)


def test_votes_train_the_features_that_the_labels_use() -> None:
    def features(weight: float) -> Any:
        model = compiled(**{**BOTH, "distill_teachers": [], "training_votes_weight": weight})
        batch = Batch(FACES, TARGETS, WEIGHTS, votes=VOTES if weight else None)
        run(model, batch)
        return model.get_layer("block1_conv").get_weights()[0]

    assert not np.array_equal(features(0.0), features(2.0))


def test_distillation_brings_the_student_closer_to_its_teacher(
    tiny_model: Path,
) -> None:
    network = open_teacher(find_teacher(str(tiny_model)), batch=64)
    seen, unseen = make_tiny_split("train"), make_tiny_split("val", per_class=8)

    def taught(images: Any, temperature: float) -> Floats:
        return mean_probabilities([compact_logits(network(images))], temperature)

    def distance(**changes: Any) -> float:
        model = compiled(model_head_dropout=[0.0], **changes)
        model.optimizer.learning_rate.assign(0.01)
        faces = seen.images[..., None].astype(np.float32)
        targets = np.eye(7, dtype=np.float32)[seen.labels]
        ones = np.ones(len(seen), np.float32)
        soft_targets = taught(seen.images, 2.0) if changes else None
        for _ in range(60):
            run(model, Batch(faces, targets, ones, soft_targets=soft_targets))
        student = inference_network(model)
        own = np.asarray(student.predict_on_batch(unseen.images[..., None].astype(np.float32)))
        theirs = taught(unseen.images, 1.0)
        return float((theirs * np.log((theirs + 1e-9) / (own + 1e-9))).sum(axis=1).mean())

    assert distance(distill_teachers=["tiny"]) < 0.5 * distance()
