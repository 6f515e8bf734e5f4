"""Learning rates that fall from block to block toward the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.training.checkpoint import all_variables, copy_variables
from mien.training.stages import Stage, compiled_model
from training_maker import tiny_config

SPLIT = make_tiny_split("train", per_class=2)
FACES = SPLIT.images[..., None].astype(np.float32)
TARGETS = np.eye(7, dtype=np.float32)[SPLIT.labels]

pytestmark = pytest.mark.usefixtures("keras_ready")


def compiled(**changes: Any) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return compiled_model(tiny_config(**changes), Stage(-1, 32), initialise=True)


def step(model: Any, *, rate: float = 0.01, weight: float = 1.0) -> None:
    model.optimizer.learning_rate.assign(rate)
    model.train_on_batch(FACES, TARGETS, np.full(len(SPLIT), weight, np.float32))


def values(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {variable.path: np.array(variable.numpy()) for variable in model.trainable_variables}


def test_the_last_block_and_the_head_keep_the_whole_rate() -> None:
    from mien.training.layerwise import rate_factors

    model = compiled(model_plain_channels=[4, 4, 8])
    variables = model.trainable_variables
    factors = rate_factors(model, variables, decay=0.5)
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


def test_the_stem_is_a_block_before_the_first(b0: Any) -> None:
    from mien.training.layerwise import rate_factors

    names = ("stem_conv", "block1a_dwconv", "block7a_dwconv", "top_conv", "head1_dense")
    variables = [b0.get_layer(name).kernel for name in names]
    powers = np.log(rate_factors(b0, variables, decay=0.9)) / np.log(0.9)
    assert np.allclose(powers, [16, 15, 0, 0, 0])


def test_every_change_is_scaled_by_the_variables_own_factor() -> None:
    plain, scaled = compiled(), compiled(training_layer_decay=0.25)
    before = values(plain)
    step(plain)
    step(scaled)
    after, scaled_after = values(plain), values(scaled)
    assert any("block1" in path for path in before)
    for path, start in before.items():
        factor = 0.25 if "block1" in path else 1.0
        expected = factor * (after[path] - start)
        assert np.allclose(scaled_after[path] - start, expected, atol=1e-6), path


def test_weight_decay_follows_the_rate_and_shrinks_kernels_alone() -> None:
    model = compiled(training_layer_decay=0.5, training_weight_decay=0.5, training_clip_norm=0.0)
    before = values(model)
    # Without weight in the loss there is no gradient: all that moves is moved by the decay.
    step(model, rate=0.1, weight=0.0)
    for path, start in before.items():
        rate = 0.05 if "block1" in path else 0.1
        shrunk = 1 - rate * 0.5 if path.endswith("kernel") else 1.0
        assert np.allclose(values(model)[path], start * shrunk, atol=1e-6), path


def test_with_one_rate_for_all_it_is_keras_adamw() -> None:
    from mien.training.layerwise import LayerwiseAdamW

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
    for path, value in values(theirs).items():
        assert np.allclose(values(ours)[path], value, atol=1e-6), path
    names = [variable.name for variable in theirs.optimizer.variables]
    assert [variable.name for variable in ours.optimizer.variables] == names


def test_what_a_checkpoint_holds_is_enough_to_go_on_exactly() -> None:
    whole = compiled(training_layer_decay=0.5, model_head_dropout=[0.0])
    for _ in range(2):
        step(whole)
    resumed = compiled(training_layer_decay=0.5, model_head_dropout=[0.0])
    copy_variables(all_variables(whole), all_variables(resumed))
    step(whole)
    step(resumed)
    for path, value in values(whole).items():
        assert np.array_equal(values(resumed)[path], value), path
