"""What one training step does, of the compiled network of a stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.training.augmentation import MixedBatch
from mien.training.checkpoint import all_variables
from mien.training.stages import (
    Stage,
    averaged_weights,
    compiled_model,
    estimated_statistics,
    stage_of,
    starting_weights,
)
from training_maker import tiny_config

SPLIT = make_tiny_split("train", per_class=2)
FACES = SPLIT.images[..., None].astype(np.float32)
TARGETS = np.eye(7, dtype=np.float32)[SPLIT.labels]
ONES = np.ones(len(SPLIT), np.float32)

pytestmark = pytest.mark.usefixtures("keras_ready")


ALL = Stage(-1, 32)


def compiled(stage: Stage = ALL, **changes: Any) -> Any:
    """A compiled tiny network, the same each time."""
    import keras

    keras.utils.set_random_seed(1)
    return compiled_model(tiny_config(**changes), stage, initialise=True)


def step(model: Any, weights: np.ndarray[Any, Any] = ONES, *, rate: float = 0.01) -> float:
    model.optimizer.learning_rate.assign(rate)
    return float(model.train_on_batch(FACES, TARGETS, weights, return_dict=True)["loss"])


def values(variables: list[Any]) -> list[np.ndarray[Any, Any]]:
    return [np.array(variable.numpy()) for variable in variables]


def equal(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_stages_follow_the_phases_and_sizes() -> None:
    config = tiny_config(
        training_head_epochs=1,
        training_epochs=3,
        training_fine_tune_blocks=2,
        training_large_size=48,
        training_large_epochs=1,
    )
    stages = [stage_of(config, epoch) for epoch in range(4)]
    assert stages == [Stage(0, 32), Stage(2, 32), Stage(2, 32), Stage(2, 48)]


def test_a_frozen_backbone_stays_bit_for_bit_with_its_batch_norms_statistics() -> None:
    from mien.training.lite0 import backbone_layers

    model = compiled(Stage(0, 32))
    backbone = [value for layer in backbone_layers(model) for value in layer.variables]
    head = model.get_layer("head1_bn").variables
    before, head_before = values(backbone), values(head)
    for _ in range(3):
        step(model)
    assert len(before) == 3 + 2 * 5
    assert equal(values(backbone), before)
    assert not any(np.array_equal(a, b) for a, b in zip(values(head), head_before, strict=True))


def test_fine_tuning_changes_the_free_blocks_alone() -> None:
    model = compiled(Stage(1, 32))
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


def test_more_blocks_than_there_are_is_said_before_the_head_is_trained() -> None:
    from mien.core.errors import UsageError

    with pytest.raises(UsageError, match="fine_tune_blocks = 3: expected at most 2"):
        compiled(Stage(0, 32), training_fine_tune_blocks=3)


def test_the_loss_is_smoothed_cross_entropy_weighted_by_image() -> None:
    smoothing = 0.3
    model = compiled(model_head_dropout=[0.0], training_label_smoothing=smoothing)
    weights = np.random.default_rng(0).uniform(0.2, 3, len(SPLIT)).astype(np.float32)
    # BatchNorm answers by the batch while training, so that this is what the step will see.
    probabilities = np.asarray(model(FACES, training=True))
    targets = TARGETS * (1 - smoothing) + smoothing / 7
    losses = -(targets * np.log(probabilities)).sum(axis=1)
    assert step(model, weights) == pytest.approx((weights * losses).mean(), rel=1e-4)


def test_weight_decay_shrinks_kernels_and_nothing_else() -> None:
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
    """Norm of the gradient that the first step took, from Adam's first moment."""
    step(model)
    # After one step that moment is a tenth of the gradient.
    moments = [v.numpy() for v in model.optimizer.variables if v.name.endswith("_momentum")]
    assert len(moments) == len(model.trainable_variables)
    return float(np.sqrt(sum(np.square(moment * 10).sum() for moment in moments)))


def test_the_gradient_is_clipped_by_its_whole_norm() -> None:
    free = gradient_norm(compiled(training_clip_norm=0.0))
    assert free > 0.5
    assert gradient_norm(compiled(training_clip_norm=0.1)) == pytest.approx(0.1, rel=1e-3)


def test_averages_are_evaluated_and_training_goes_on_from_the_raw_weights() -> None:
    model = compiled(training_ema=0.8)
    step(model)
    averages = values(model.trainable_variables)
    for _ in range(3):
        step(model)
        raw = values(model.trainable_variables)
        averages = [0.8 * old + 0.2 * new for old, new in zip(averages, raw, strict=True)]
    with averaged_weights(model):
        inside = values(model.trainable_variables)
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(inside, averages, strict=True))
    assert not equal(inside, raw)
    assert equal(values(model.trainable_variables), raw)
    with pytest.raises(OSError, match="full"), averaged_weights(model):
        raise OSError("full")
    assert equal(values(model.trainable_variables), raw)


def test_a_share_of_the_starting_weights_is_mixed_into_the_averages_for_a_while() -> None:
    import keras

    model = compiled(training_ema=0.8)
    keras.utils.set_random_seed(1)  # as `compiled` does: the same start
    start = starting_weights(tiny_config())
    for _ in range(3):
        step(model)
    raw = values(model.trainable_variables)
    with averaged_weights(model):
        averages = values(model.trainable_variables)
    with averaged_weights(model, start=start, share=0.25):
        inside = values(model.trainable_variables)
        kernel = np.array(model.get_layer("block1_conv").kernel.numpy())
    assert equal(values(model.trainable_variables), raw)
    with averaged_weights(model, start=start, share=1.0 - 1e-9):
        begun = values(model.trainable_variables)
    for mixed, average, first in zip(inside, averages, begun, strict=True):
        assert np.allclose(mixed, 0.75 * average + 0.25 * first, atol=1e-5)
    assert not np.allclose(begun[0], averages[0], atol=1e-6)
    # What the start lacks, as a head that is dropped in the end, is the average alone.
    lacking = {name: array for name, array in start.items() if "block1_conv" not in name}
    with averaged_weights(model, start=lacking, share=0.25):
        alone = np.array(model.get_layer("block1_conv").kernel.numpy())
    assert not np.allclose(alone, kernel, atol=1e-7)
    assert any(np.allclose(alone, average) for average in averages if average.shape == alone.shape)


def mixed_batches(count: int) -> list[MixedBatch]:
    """Batches of the same faces, ever brighter."""
    return [MixedBatch(FACES * (0.4 + 0.3 * n), TARGETS, ONES) for n in range(count)]


def norms_of(model: Any) -> dict[str, list[np.ndarray[Any, Any]]]:
    names = ("block1_bn", "block2_bn", "head1_bn")
    return {name: values(model.get_layer(name).non_trainable_variables) for name in names}


def test_statistics_are_the_mean_over_the_batches_and_only_lent() -> None:
    import keras

    model = compiled(model_head_dropout=[0.0])
    before = norms_of(model)
    batches = mixed_batches(3)
    first = keras.Model(model.input, model.get_layer("block1_conv").output)
    outputs = [np.asarray(first(batch.faces)) for batch in batches]
    with estimated_statistics(model, iter(batches), count=9):
        inside = norms_of(model)
    mean, variance = inside["block1_bn"]
    axes = (0, 1, 2)
    assert np.allclose(mean, np.mean([o.mean(axis=axes) for o in outputs], axis=0), atol=1e-4)
    assert np.allclose(variance, np.mean([o.var(axis=axes) for o in outputs], axis=0), rtol=1e-3)
    assert not equal(inside["head1_bn"], before["head1_bn"])
    assert all(equal(norms_of(model)[name], before[name]) for name in before)
    assert model.get_layer("block1_bn").momentum == 0.8
    with estimated_statistics(model, iter(batches), count=1):
        fewer = norms_of(model)
    assert np.allclose(fewer["block1_bn"][0], outputs[0].mean(axis=axes), atol=1e-4)


def test_statistics_are_those_of_reading_without_dropout() -> None:
    units: dict[str, Any] = {"model_head_units": [8, 8]}
    dropping = compiled(model_head_dropout=[0.6, 0.6], **units)
    whole = compiled(model_head_dropout=[0.0, 0.0], **units)
    whole.set_weights(dropping.get_weights())
    found = []
    for model in (dropping, whole):
        with estimated_statistics(model, iter(mixed_batches(3)), count=3):
            found.append(values(model.get_layer("head2_bn").non_trainable_variables))
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))
    assert dropping.get_layer("head1_dropout").rate == 0.6


def test_statistics_come_back_after_an_error_too() -> None:
    model = compiled()
    before = norms_of(model)
    with (
        pytest.raises(OSError, match="full"),
        estimated_statistics(model, iter(mixed_batches(2)), count=2),
    ):
        raise OSError("full")
    assert all(equal(norms_of(model)[name], before[name]) for name in before)


def test_statistics_are_left_alone_where_frozen_off_or_without_averages() -> None:
    frozen = compiled(Stage(0, 32))
    before = norms_of(frozen)
    with estimated_statistics(frozen, iter(mixed_batches(2)), count=2):
        inside = norms_of(frozen)
    assert equal(inside["block2_bn"], before["block2_bn"])
    assert not equal(inside["head1_bn"], before["head1_bn"])
    for model, count in ((frozen, 0), (compiled(training_ema=0.0), 2)):
        before = norms_of(model)
        with estimated_statistics(model, iter(mixed_batches(2)), count=count):
            assert all(equal(norms_of(model)[name], before[name]) for name in before)


def test_without_averages_the_weights_themselves_are_evaluated() -> None:
    model = compiled(training_ema=0.0)
    raw = values(model.trainable_variables)
    with averaged_weights(model):
        assert equal(values(model.trainable_variables), raw)
    assert not any("average" in variable.name for variable in model.optimizer.variables)


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


def test_mixed_precision_computes_in_bfloat16_and_answers_in_float32() -> None:
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


def test_sgd_puts_decay_into_its_momentum_and_the_rate_outside_it() -> None:
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
