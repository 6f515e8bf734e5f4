"""What training minimises: the labels' cross-entropy, and beside it the teachers' and the votes'.

The distance to the teachers is that of Hinton et al. 2015 (1503.02531): the Kullback-Leibler
divergence of both sides' probabilities at a temperature T, times T squared, so that its gradient
keeps its size whatever T is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mien.training.augmentation import MixedBatch
from mien.training.config import Config

_LABELS, _TEACHERS, _VOTES = "probabilities", "logits", "votes"
"""The outputs of a network under training, and the layers they come from."""


def has_teachers(config: Config) -> bool:
    """Tell whether a recipe learns from other networks."""
    return bool(config.distill.teachers)


def trained_network(network: Any, config: Config) -> Any:
    """Return what is trained: the network itself, or it with the outputs that a recipe adds."""
    import keras

    outputs = {_LABELS: network.output}
    logits = network.get_layer("logits")
    if has_teachers(config):
        outputs[_TEACHERS] = logits.output
    if config.training.votes_weight > 0:
        votes = keras.layers.Dense(len(config.labels), dtype="float32", name="votes_logits")
        softmax = keras.layers.Activation("softmax", dtype="float32", name=_VOTES)
        outputs[_VOTES] = softmax(votes(logits.input))
    if len(outputs) == 1:
        return network
    return keras.Model(network.input, outputs, name=network.name)


def released_network(trained: Any) -> Any:
    """Return the network without what `trained_network` added; the layers are the same ones."""
    import keras

    if not isinstance(trained.output, Mapping):
        return trained
    network = keras.Model(trained.input, trained.output[_LABELS], name=trained.name)
    network.compile(jit_compile=trained.jit_compile)
    return network


def losses(config: Config) -> dict[str, Any]:
    """Return the losses, their weights and the metrics, as ``compile`` takes them."""
    import keras

    smoothing = config.training.label_smoothing
    labels = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
    parts: dict[str, Any] = {_LABELS: labels}
    weights = {_LABELS: 1.0}
    if has_teachers(config):
        parts[_TEACHERS] = distance_at(config.distill.temperature)
        weights = {_LABELS: 1 - config.distill.weight, _TEACHERS: config.distill.weight}
    if config.training.votes_weight > 0:
        parts[_VOTES] = keras.losses.CategoricalCrossentropy()
        weights[_VOTES] = config.training.votes_weight
    if len(parts) == 1:
        return {"loss": labels, "metrics": ["accuracy"]}
    return {"loss": parts, "loss_weights": weights, "metrics": {_LABELS: ["accuracy"]}}


def distance_at(temperature: float) -> Callable[[Any, Any], Any]:
    """Return the loss of logits (N, classes) against teachers' probabilities, both softened."""
    import keras

    ops = keras.ops

    def distance(taught: Any, logits: Any) -> Any:
        own = ops.log_softmax(ops.cast(logits, "float32") / temperature, axis=-1)
        # A probability of 0 adds nothing; its logarithm only has to be a number.
        theirs = ops.log(ops.maximum(taught, 1e-12))
        return temperature**2 * ops.sum(taught * (theirs - own), axis=-1)

    return distance


def step_arrays(batch: MixedBatch) -> tuple[np.ndarray[Any, Any], Any, Any]:
    """Return a batch as ``train_on_batch`` takes it: faces, targets and weights."""
    targets = {_LABELS: batch.targets}
    if batch.taught is not None:
        targets[_TEACHERS] = batch.taught
    if batch.votes is not None:
        targets[_VOTES] = batch.votes
    if len(targets) == 1:
        return batch.faces, batch.targets, batch.weights
    return batch.faces, targets, dict.fromkeys(targets, batch.weights)


def accuracy_of(logs: Mapping[str, Any]) -> float:
    """Return a step's accuracy against the labels."""
    return float(logs["accuracy" if "accuracy" in logs else f"{_LABELS}_accuracy"])
