"""The compiled network of each stage of a run: what is trained, at which input size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.training.augmentation import MixedBatch
from mien.training.config import Config
from mien.training.fast_layers import speed_up
from mien.training.model import build_model, set_trainable
from mien.training.objective import losses, trained_network
from mien.training.settings import TrainingSettings
from mien.training.stepping import Stepper

# What Keras calls the variables that weight decay leaves alone.
_NOT_KERNELS = ["bias", "gamma", "beta"]


@dataclass(frozen=True)
class Stage:
    """What changes the graph during a run.

    Attributes:
        blocks: last blocks of the backbone that are trained, -1 for all.
        size: side in pixels that faces are enlarged to.
    """

    blocks: int
    size: int


def stage_of(config: Config, epoch: int) -> Stage:
    """Return the stage that an epoch (0-based, both phases counted through) belongs to."""
    return Stage(config.blocks_at(epoch), config.size_at(epoch))


def compiled_model(config: Config, stage: Stage, *, initialise: bool) -> Any:
    """Build a stage's network with its optimizer and losses, which may add outputs to it.

    Args:
        config: the recipe.
        stage: see `Stage`.
        initialise: fill in the starting weights; False where others follow.

    Raises:
        UsageError: if there are not as many blocks as the recipe says; or as `build_model`.
    """
    settings = config.training
    network = build_model(
        config.model, size=stage.size, initialise=initialise, classes=len(config.labels)
    )
    # Tried first, so that a wrong number is found before the head's phase and not after it.
    set_trainable(network, blocks=settings.fine_tune_blocks)
    set_trainable(network, blocks=stage.blocks)
    if settings.backend == "tensorflow":
        speed_up(network)
    model = trained_network(network, config)
    optimizer = _optimizer(settings, network, model.trainable_variables)
    model.compile(
        optimizer,
        **losses(config),
        # XLA on a CPU is ten times slower, but for JAX, which is nothing else.
        jit_compile="auto" if settings.backend == "jax" else False,
    )
    optimizer.build(model.trainable_variables)
    return model


def _optimizer(settings: TrainingSettings, model: Any, variables: list[Any]) -> Any:
    """Return the recipe's, with a rate for each variable where it wants that."""
    import keras

    options = {
        "learning_rate": settings.head_learning_rate,
        "global_clipnorm": settings.clip_norm or None,
        "use_ema": settings.ema > 0,
        "ema_momentum": settings.ema or 0.5,
        "ema_overwrite_frequency": None,
    }
    shrinking = [variable.name not in _NOT_KERNELS for variable in variables]
    decays = [settings.weight_decay * shrinks for shrinks in shrinking]
    if settings.optimizer == "sgd":
        from mien.training.coupled_sgd import CoupledSgd

        return CoupledSgd(decays=decays, **options)
    if settings.layer_decay < 1:
        from mien.training.layerwise import LayerwiseAdamW, rate_factors

        factors = rate_factors(model, variables, decay=settings.layer_decay)
        return LayerwiseAdamW(factors=factors, decays=decays, **options)
    optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, **options)
    optimizer.exclude_from_weight_decay(var_names=_NOT_KERNELS)
    return optimizer


def starting_weights(config: Config) -> dict[str, npt.NDArray[Any]]:
    """Return what a recipe's network starts from, by "layer/place"; Keras must be set up anew.

    Raises:
        UsageError, InputError, ModelError: as `mien.training.model.build_model`.
    """
    network = build_model(config.model, size=config.final_size, classes=len(config.labels))
    return {
        f"{layer.name}/{place}": np.array(array)
        for layer in network.layers
        for place, array in enumerate(layer.get_weights())
    }


@contextmanager
def averaged_weights(
    model: Any, *, start: Mapping[str, npt.NDArray[Any]] | None = None, share: float = 0.0
) -> Iterator[None]:
    """Put the optimizer's moving averages in the place of the weights for a while.

    Args:
        model: the compiled network.
        start: what it started from, see `starting_weights`.
        share: of that in the weights; what of the network it lacks is the average alone.
    """
    if not model.optimizer.use_ema:
        yield
        return
    # Copies: on some backends numpy() is a view of what is about to be written over.
    kept = [np.array(variable.numpy()) for variable in model.trainable_variables]
    try:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        # Copies again: on JAX a variable now shares its array with the average, and predicting
        # uses up the arrays of the network.
        for variable in model.trainable_variables:
            variable.assign(np.array(variable.numpy()))
        if start and share:
            names = {
                id(variable): f"{layer.name}/{place}"
                for layer in model.layers
                for place, variable in enumerate(layer.weights)
            }
            for variable in model.trainable_variables:
                first = start.get(names.get(id(variable), ""))
                if first is not None:
                    variable.assign((1 - share) * np.array(variable.numpy()) + share * first)
        yield
    finally:
        for variable, value in zip(model.trainable_variables, kept, strict=True):
            variable.assign(value)


@contextmanager
def estimated_statistics(
    model: Any, batches: Iterator[MixedBatch], *, count: int, stepper: Stepper | None = None
) -> Iterator[None]:
    """Put BatchNorm statistics that fit the weights as they stand in place for a while.

    The running statistics follow the weights of the last steps. Averaged weights are others, and
    with foreign statistics a network may read nothing at all (Izmailov et al. 2018, 1803.05407).
    They are also those of augmented images under dropout, neither of which is there when faces are
    read (Touvron et al. 2019, 1906.06423; Li et al. 2019, 1801.05134): here dropout is off, too.

    Args:
        model: the network, with the weights to estimate for.
        batches: training images as they are, not augmented.
        count: how many batches to use; 0 leaves the statistics alone.
        stepper: that of the network, which may do it faster.
    """
    norms = [
        layer
        for layer in model.layers
        if type(layer).__name__ == "BatchNormalization" and layer.trainable
    ]
    if count == 0 or not model.optimizer.use_ema or not norms:
        yield
        return
    running = [variable for layer in norms for variable in layer.non_trainable_variables]
    kept = [np.array(variable.numpy()) for variable in running]
    momenta = [layer.momentum for layer in norms]
    dropouts = [layer for layer in model.layers if type(layer).__name__ == "Dropout"]
    rates = [layer.rate for layer in dropouts]
    try:
        for layer in dropouts:
            layer.rate = 0.0
        chosen = itertools.islice(batches, count)
        (stepper or Stepper(model)).estimate(norms, (batch.faces for batch in chosen))
        yield
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for layer, rate in zip(dropouts, rates, strict=True):
            layer.rate = rate
        for variable, value in zip(running, kept, strict=True):
            variable.assign(value)
