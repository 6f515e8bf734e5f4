"""The network, its freezing, its losses and optimizer, and the averaging of its weights.

Face -> resize -> backbone -> global pooling -> dense head -> logits -> probabilities. The input is
the standard face, grey 48x48 in 0-255; resizing, the repetition to three channels and scaling are
layers, so that one graph serves training, evaluation and export. What only training needs (outputs
for teachers and FER+ votes, faster layers) is added by `compiled_model` and never saved.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError, UsageError, error_reason
from mien.core.images import FACE_SIZE
from mien.core.manifest import load_manifest
from mien.core.models import find_model
from mien.training.architectures import (
    backbone_layers,
    build_backbone,
    load_imagenet,
    load_lite0,
    set_input_scaling,
    update_normalization,
)
from mien.training.onnx_converter import load_onnx_weights
from mien.training.recipe import Config, ModelSettings, TrainingSettings
from mien.training.transforms import Batch, Faces, Floats


# ---------------------------------------------------------------- the network
def build_model(
    settings: ModelSettings,
    *,
    size: int,
    initialise: bool = True,
    classes: int = len(EMOTIONS),
) -> Any:
    """Build the network.

    Args:
        settings: backbone, head and starting weights.
        size: side in pixels that the face is resized to; the weights do not depend on it.
        initialise: load the starting weights; False if a checkpoint is loaded afterwards.
        classes: number of outputs.

    Returns:
        A ``keras.Model``: float32 (N, 48, 48, 1) in 0-255 -> float32 (N, classes), rows sum to 1.

    Raises:
        UsageError: if the backbone is unknown, or has no such weights.
    """
    import keras

    layers = keras.layers
    faces = layers.Input((FACE_SIZE, FACE_SIZE, 1), name="faces")
    enlarged = layers.Resizing(size, size, interpolation="bilinear", name="enlarge")(faces)
    backbone, width = settings.backbone, settings.width
    x = build_backbone(backbone, enlarged, width=width, plain_channels=settings.plain_channels)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    for index, (units, rate) in enumerate(
        zip(settings.head_units, settings.head_dropout, strict=True), start=1
    ):
        # No bias: BatchNorm has one.
        x = layers.Dense(units, use_bias=False, name=f"head{index}_dense")(x)
        x = layers.BatchNormalization(name=f"head{index}_bn")(x)
        x = layers.Activation("relu", name=f"head{index}_relu")(x)
        x = layers.Dropout(rate, name=f"head{index}_dropout")(x)
    logits = layers.Dense(classes, dtype="float32", name="logits")(x)
    probabilities = layers.Activation("softmax", dtype="float32", name="probabilities")(logits)
    model = without_xla(keras.Model(faces, probabilities, name="mien"))
    # Settings that the constructors of keras.applications do not have.
    drops = [layer for layer in backbone_layers(model) if layer.name.endswith("_drop")]
    for index, layer in enumerate(drops, start=1):
        layer.rate = settings.drop_connect * index / len(drops)
    for layer in batch_norms(model):
        layer.momentum = settings.batch_norm_momentum
    if initialise:
        load_starting_weights(model, settings)
    return model


def without_xla(model: Any) -> Any:
    """Disable XLA, which makes prediction ten times slower on a CPU; JAX requires it."""
    import keras

    model.jit_compile = keras.backend.backend() == "jax"
    return model


def batch_norms(model: Any) -> list[Any]:
    """Return a network's BatchNorm layers, in order."""
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def predict(network: Any, faces: Faces, *, batch: int = 128) -> Floats:
    """Return a network's output, float32 (N, outputs), for faces, uint8 (N, 48, 48).

    The last batch is padded, since another shape would be compiled again.
    """
    outputs = []
    for start in range(0, max(1, len(faces)), batch):
        part = faces[start : start + batch, ..., None].astype(np.float32)
        padding = [(0, batch - len(part)), (0, 0), (0, 0), (0, 0)]
        output = np.asarray(network.predict_on_batch(np.pad(part, padding)), np.float32)
        outputs.append(output[: len(part)])
    return np.concatenate(outputs)


# ---------------------------------------------------------------- starting weights
def load_starting_weights(model: Any, settings: ModelSettings) -> None:
    """Load the weights that ``model.weights`` names into a network.

    Raises:
        UsageError: if the network has no such weights.
        InputError: if they cannot be downloaded or are not installed.
        ModelError: if a file or an exported model is missing, damaged, or of another network.
        MissingExtra: if an exported model is named and onnx is not installed.
    """
    if settings.weights == "none":
        set_input_scaling(model, mean=127.5, deviation=127.5)
    elif settings.weights == "imagenet":
        load_imagenet(model, settings.backbone)
    elif settings.weights == "lite0":
        load_lite0(model)
    elif Path(settings.weights).suffix == ".keras":
        _load_keras_weights(model, Path(settings.weights))
    else:
        folder = find_model(settings.weights)
        load_onnx_weights(folder / load_manifest(folder, labels=None).file.name, model)


def _load_keras_weights(model: Any, path: Path) -> None:
    source = load_keras_model(path)
    try:
        model.set_weights(source.get_weights())
    except ValueError as error:
        raise ModelError(
            f"{path} holds another network ({error_reason(error)}): expected a .keras file with "
            "the model.backbone and model.head_units of this recipe"
        ) from error
    update_normalization(model)


def load_keras_model(path: Path) -> Any:
    """Load a ``.keras`` file; raises ModelError if it is missing or damaged."""
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"cannot load {path}: expected a .keras file of this project ({error_reason(error)})"
        ) from error


# ---------------------------------------------------------------- blocks and freezing
_BLOCK = re.compile(r"(block_?\d+[a-z]*|conv\d+_block\d+|expanded_conv(?:_\d+)?)_")
"""Prefix of the names of a block's layers: EfficientNet's and ours, ResNet's, MobileNet's."""
STEM, TOP = "stem", "top"
"""Names for the layers before the first block and after the last."""


def set_trainable(model: Any, *, blocks: int) -> None:
    """Set which layers of the backbone are trained; the head always is.

    Args:
        model: the network.
        blocks: number of last blocks to train (B0 has 16; the top convolution goes with the last);
            0 freezes the backbone, -1 trains all of it. Frozen BatchNorms keep their statistics.

    Raises:
        UsageError: if the backbone has fewer blocks.
    """
    layers, order = backbone_layers(model), block_names(model)
    if blocks > len(order):
        raise UsageError(f"training.fine_tune_blocks = {blocks}: expected at most {len(order)}")
    trained = {*order[len(order) - blocks :], TOP} if blocks > 0 else set()
    for layer, block in zip(layers, layer_blocks(layers), strict=True):
        layer.trainable = blocks < 0 or block in trained


def block_names(model: Any) -> list[str]:
    """Return the names of the backbone's blocks in order: "block1a" to "block7a" in B0."""
    names = layer_blocks(backbone_layers(model))
    return [name for name in dict.fromkeys(names) if name not in (STEM, TOP)]


def layer_blocks(layers: list[Any]) -> list[str]:
    """Return the block of each backbone layer; `STEM` before the first, `TOP` after the last."""
    matches = [_BLOCK.match(layer.name) for layer in layers]
    last = max((index for index, match in enumerate(matches) if match), default=-1)
    names, current = [], STEM
    for index, match in enumerate(matches):
        current = match.group(1) if match else (TOP if index > last else current)
        names.append(current)
    return names


def learning_rate_factors(model: Any, variables: Sequence[Any], *, decay: float) -> list[float]:
    """Return the factor of each variable's learning rate for layer-wise decay.

    Args:
        model: the network.
        variables: trainable variables, of the network or of heads that training adds to it.
        decay: factor from one block to the one before it. The last block and everything after it
            have the full rate; the stem counts as a block before the first.
    """
    layers = backbone_layers(model)
    order = [STEM, *block_names(model)]
    powers = {name: len(order) - 1 - index for index, name in enumerate(order)}
    factors = {
        id(variable): decay ** powers.get(block, 0)
        for layer, block in zip(layers, layer_blocks(layers), strict=True)
        for variable in layer.trainable_variables
    }
    return [factors.get(id(variable), 1.0) for variable in variables]


# ---------------------------------------------------------------- training: outputs, losses
# Names of the outputs during training.
_LABELS, _TEACHERS, _VOTES = "probabilities", "logits", "votes"
# Keras' names of the variables without weight decay.
_NO_DECAY = ["bias", "gamma", "beta"]


def compiled_model(config: Config, *, blocks: int, size: int, initialise: bool) -> Any:
    """Build a network with its optimizer, losses, and the outputs that these need.

    Args:
        config: the recipe.
        blocks: number of last backbone blocks that are trained, -1 for all.
        size: side in pixels that faces are resized to.
        initialise: load the starting weights; False if others are loaded afterwards.

    Raises:
        UsageError: if there are fewer blocks than the recipe says; or as `build_model`.
    """
    classes = len(config.labels)
    network = build_model(config.model, size=size, initialise=initialise, classes=classes)
    if config.training.backend == "tensorflow":
        from mien.training.keras_extensions import with_fast_layers

        network = without_xla(with_fast_layers(network))
        update_normalization(network)
    # Fails on a wrong number of blocks now, rather than after the head's phase.
    set_trainable(network, blocks=config.training.fine_tune_blocks)
    set_trainable(network, blocks=blocks)
    model = add_training_outputs(network, config)
    optimizer = _optimizer(config.training, network, model.trainable_variables)
    model.compile(optimizer, **losses(config), jit_compile=network.jit_compile)
    optimizer.build(model.trainable_variables)
    return model


def add_training_outputs(network: Any, config: Config) -> Any:
    """Return the network with the outputs for teachers and votes, itself if there are none."""
    import keras

    outputs = {_LABELS: network.output}
    logits = network.get_layer("logits")
    if config.distill.teachers:
        outputs[_TEACHERS] = logits.output
    if config.training.votes_weight > 0:
        votes = keras.layers.Dense(len(config.labels), dtype="float32", name="votes_logits")
        softmax = keras.layers.Activation("softmax", dtype="float32", name=_VOTES)
        outputs[_VOTES] = softmax(votes(logits.input))
    if len(outputs) == 1:
        return network
    return keras.Model(network.input, outputs, name=network.name)


def inference_network(model: Any) -> Any:
    """Return the network without the outputs of `add_training_outputs`, sharing its layers."""
    import keras

    if not isinstance(model.output, Mapping):
        return model
    return without_xla(keras.Model(model.input, model.output[_LABELS], name=model.name))


def losses(config: Config) -> dict[str, Any]:
    """Return the losses for labels, teachers and votes, as arguments of ``compile``."""
    import keras

    smoothing = config.training.label_smoothing
    labels = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
    parts: dict[str, Any] = {_LABELS: labels}
    weights = {_LABELS: 1.0}
    # Not by its name: TensorFlow traces the step twice if tracing creates the metric's variables.
    accuracy = keras.metrics.CategoricalAccuracy(name="accuracy")
    if config.distill.teachers:
        parts[_TEACHERS] = distillation_loss(config.distill.temperature)
        weights = {_LABELS: 1 - config.distill.weight, _TEACHERS: config.distill.weight}
    if config.training.votes_weight > 0:
        parts[_VOTES] = keras.losses.CategoricalCrossentropy()
        weights[_VOTES] = config.training.votes_weight
    if len(parts) == 1:
        return {"loss": labels, "metrics": [accuracy]}
    return {"loss": parts, "loss_weights": weights, "metrics": {_LABELS: [accuracy]}}


def distillation_loss(temperature: float) -> Callable[[Any, Any], Any]:
    """Return the loss of logits (N, classes) against teachers' probabilities at a temperature T.

    The Kullback-Leibler divergence times T squared, so that the scale of its gradient does not
    depend on T (Hinton et al. 2015, 1503.02531).
    """
    import keras

    ops = keras.ops

    def divergence(soft_targets: Any, logits: Any) -> Any:
        student = ops.log_softmax(ops.cast(logits, "float32") / temperature, axis=-1)
        # A probability of 0 contributes nothing; its logarithm only has to be finite.
        teacher = ops.log(ops.maximum(soft_targets, 1e-12))
        return temperature**2 * ops.sum(soft_targets * (teacher - student), axis=-1)

    return divergence


def step_arrays(batch: Batch) -> tuple[Any, Any, Any]:
    """Return a batch as arguments of ``train_on_batch``: faces, targets and sample weights."""
    targets = {_LABELS: batch.targets}
    if batch.soft_targets is not None:
        targets[_TEACHERS] = batch.soft_targets
    if batch.votes is not None:
        targets[_VOTES] = batch.votes
    if len(targets) == 1:
        return batch.faces, batch.targets, batch.weights
    return batch.faces, targets, dict.fromkeys(targets, batch.weights)


def batch_accuracy(logs: Mapping[str, Any]) -> float:
    """Return the accuracy on the labels from the logs of ``train_on_batch``."""
    return float(logs["accuracy" if "accuracy" in logs else f"{_LABELS}_accuracy"])


def _optimizer(settings: TrainingSettings, network: Any, variables: list[Any]) -> Any:
    import keras

    options = {
        "learning_rate": settings.head_learning_rate,
        "global_clipnorm": settings.clip_norm or None,
        "use_ema": settings.ema > 0,
        "ema_momentum": settings.ema or 0.5,
        "ema_overwrite_frequency": None,
    }
    decays = [settings.weight_decay * (part.name not in _NO_DECAY) for part in variables]
    if settings.optimizer == "sgd":
        from mien.training.keras_extensions import CoupledSgd

        return CoupledSgd(decays=decays, **options)
    if settings.layer_decay < 1:
        from mien.training.keras_extensions import LayerwiseAdamW

        factors = learning_rate_factors(network, variables, decay=settings.layer_decay)
        return LayerwiseAdamW(factors=factors, decays=decays, **options)
    optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, **options)
    optimizer.exclude_from_weight_decay(var_names=_NO_DECAY)
    return optimizer


# ---------------------------------------------------------------- weights for evaluation
def ema_weights(model: Any) -> list[Floats]:
    """Return the weights of the inference network, as moving averages if the optimizer has them.

    The model itself continues with its raw weights.
    """
    # Copied, because numpy() is a view of the variable on some backends.
    raw = [np.array(variable.numpy()) for variable in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    weights = [np.array(array) for array in inference_network(model).get_weights()]
    for variable, value in zip(model.trainable_variables, raw, strict=True):
        variable.assign(value)
    return weights


def recalibrate_batch_norms(network: Any, batches: Iterable[Batch]) -> None:
    """Recompute the statistics of the trainable BatchNorm layers, with dropout off.

    Averaged weights need their own statistics (Izmailov et al. 2018, 1803.05407), and those of
    training are from augmented images under dropout (Touvron et al. 2019, 1906.06423; Li et al.
    2019, 1801.05134).

    Args:
        network: the network, with its final weights.
        batches: training images without augmentation; if empty, the statistics stay.
    """
    norms = [layer for layer in batch_norms(network) if layer.trainable]
    dropouts = [layer for layer in network.layers if type(layer).__name__ == "Dropout"]
    momenta, rates = [layer.momentum for layer in norms], [layer.rate for layer in dropouts]
    for layer in dropouts:
        layer.rate = 0.0
    for index, batch in enumerate(batches):
        for layer in norms:
            layer.momentum = index / (index + 1)  # turns the moving average into a plain one
        network(batch.faces, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    for layer, rate in zip(dropouts, rates, strict=True):
        layer.rate = rate


def interpolate_weights(network: Any, initial: Sequence[Floats], alpha: float) -> None:
    """Interpolate a network's weights with its initial ones (WiSE-FT, Wortsman et al., 2109.01903).

    Args:
        network: fine-tuned. Weights that did not change, as in a frozen backbone, keep their bits.
        initial: all weights that it started from.
        alpha: share of the fine-tuned weights, 0-1.
    """
    for variable, start in zip(network.weights, initial, strict=True):
        tuned = np.array(variable.numpy())
        if tuned.dtype == np.float32:
            variable.assign(np.where(tuned == start, tuned, alpha * tuned + (1 - alpha) * start))
    update_normalization(network)
