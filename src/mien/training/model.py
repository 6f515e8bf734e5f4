"""The network and what it minimises: face -> backbone -> pooling -> dense layers -> probabilities.

It takes the standard face itself, grey 48x48 in 0-255; resizing, three channels and scaling are
layers, so one graph serves training, evaluation and export. What a recipe adds for training alone
(the teachers' logits, a head on the FER+ votes, faster layers) is not in the network that is kept.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, ModelError, UsageError
from mien.core.images import FACE_SIZE
from mien.core.manifest import load_manifest
from mien.core.models import find_model
from mien.core.process import stderr
from mien.training import lite0
from mien.training.architectures import (
    APPLICATIONS,
    backbone_layers,
    build_application,
    build_backbone,
    refresh,
)
from mien.training.onnx_converter import load_onnx_weights
from mien.training.recipe import Config, ModelSettings, TrainingSettings
from mien.training.transforms import Batch, Faces, Floats

IMAGENET_STDDEV = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, for pixels in 0-1 (as in ``keras.applications``)."""


# ---------------------------------------------------------------- the graph
def build_model(
    settings: ModelSettings,
    *,
    size: int,
    initialise: bool = True,
    classes: int = len(EMOTIONS),
) -> Any:
    """Build the network.

    Args:
        settings: its backbone, head and starting weights.
        size: side in pixels that the face is resized to; the weights do not depend on it.
        initialise: fill in the starting weights; False where a checkpoint follows.
        classes: how many.

    Returns:
        A ``keras.Model``: float32 (N, 48, 48, 1) in 0-255 -> float32 (N, classes), rows sum to 1.

    Raises:
        UsageError: if there is no such backbone, or no such weights for it.
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
        # BatchNorm brings the bias
        x = layers.Dense(units, use_bias=False, name=f"head{index}_dense")(x)
        x = layers.BatchNormalization(name=f"head{index}_bn")(x)
        x = layers.Activation("relu", name=f"head{index}_relu")(x)
        x = layers.Dropout(rate, name=f"head{index}_dropout")(x)
    logits = layers.Dense(classes, dtype="float32", name="logits")(x)
    probabilities = layers.Activation("softmax", dtype="float32", name="probabilities")(logits)
    model = without_xla(keras.Model(faces, probabilities, name="mien"))
    # What ``keras.applications`` does not let its caller choose.
    drops = [layer for layer in backbone_layers(model) if layer.name.endswith("_drop")]
    for index, layer in enumerate(drops, start=1):
        layer.rate = settings.drop_connect * index / len(drops)
    for layer in batch_norms(model):
        layer.momentum = settings.batch_norm_momentum
    if initialise:
        load_starting_weights(model, settings)
    return model


def without_xla(model: Any) -> Any:
    """Return a network that predicts without XLA, slower on a CPU tenfold; JAX is nothing else."""
    import keras

    model.jit_compile = keras.backend.backend() == "jax"
    return model


def batch_norms(model: Any) -> list[Any]:
    """Return a network's BatchNorm layers, in order."""
    import keras

    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


# ---------------------------------------------------------------- starting weights
def load_starting_weights(model: Any, settings: ModelSettings) -> None:
    """Fill a network with the weights that its settings name.

    Raises:
        UsageError: if there are no such weights for it.
        InputError: if they cannot be downloaded.
        ModelError: if a file or an exported model is missing, damaged, or of another network.
        MissingExtra: if an exported model is named and onnx is not installed.
    """
    if settings.weights == "none":
        set_input_scaling(model, mean=127.5, deviation=127.5)
    elif settings.weights == "imagenet":
        _load_imagenet(model, settings.backbone)
    elif settings.weights == "lite0":
        lite0.transplant_lite0(model, lite0.read_legacy_checkpoint(lite0.lite0_file()))
        set_input_scaling(model, mean=lite0.LITE0_MEAN, deviation=lite0.LITE0_SCALE)
    elif Path(settings.weights).suffix == ".keras":
        _load_file(model, Path(settings.weights))
    else:
        folder = find_model(settings.weights)
        load_onnx_weights(folder / load_manifest(folder, labels=None).file.name, model)


def _load_imagenet(model: Any, backbone: str) -> None:
    try:
        # Keras tells of its download on stdout, which is for data.
        with contextlib.redirect_stdout(stderr()):
            source = build_application(backbone, weights="imagenet")
    except Exception as error:  # Keras wraps whatever the network threw in a bare Exception
        raise InputError(
            f"cannot download ImageNet's weights of {backbone} ({_first_line(error)}): "
            'connect to the network, or use model.weights = "lite0" (EfficientNetB0) or a file'
        ) from error
    application = APPLICATIONS[backbone]
    if not application.scales_itself:
        set_input_scaling(model, mean=application.mean, deviation=application.deviation)
    copy_backbone(source, model)


def copy_backbone(source: Any, model: Any) -> None:
    """Copy an ImageNet backbone of ``keras.applications`` into a network, layer by name.

    Built with ``weights="imagenet"``, Keras' graph divides once more by the square root of the
    standard deviation; here that factor goes into the normalisation, so that the graph is one.
    """
    for layer in source.layers:
        weights = layer.get_weights()
        if not weights:
            continue
        if type(layer).__name__ == "Normalization":
            mean, variance = (np.asarray(part, np.float64).reshape(-1) for part in weights[:2])
            deviation = np.sqrt(variance) * np.sqrt(np.asarray(IMAGENET_STDDEV))
            set_input_scaling(model, mean=255 * mean, deviation=255 * deviation)
        else:
            model.get_layer(layer.name).set_weights(weights)


def set_input_scaling(model: Any, *, mean: Any, deviation: Any) -> None:
    """Make the network see (pixel - mean) / deviation, both in 0-255, scalars or one a channel."""
    normalization = next(layer for layer in model.layers if type(layer).__name__ == "Normalization")
    current = normalization.get_weights()
    mean = np.broadcast_to(np.asarray(mean, np.float32) / 255, current[0].shape)
    variance = np.broadcast_to((np.asarray(deviation, np.float32) / 255) ** 2, current[1].shape)
    normalization.set_weights([mean, variance, *current[2:]])
    refresh(model)


def _load_file(model: Any, path: Path) -> None:
    source = load_keras_model(path)
    try:
        model.set_weights(source.get_weights())
    except ValueError as error:
        raise ModelError(
            f"{path} holds another network ({_first_line(error)}): expected a .keras file with the "
            "model.backbone and model.head_units of this recipe"
        ) from error
    refresh(model)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def load_keras_model(path: Path) -> Any:
    """Load a whole ``.keras`` file.

    Raises:
        ModelError: if there is none or it is damaged.
    """
    import keras

    try:
        return keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"cannot load {path}: expected a .keras file of this project ({_first_line(error)})"
        ) from error


# ---------------------------------------------------------------- blocks and freezing
_BLOCK = re.compile(r"(block_?\d+[a-z]*|conv\d+_block\d+|expanded_conv(?:_\d+)?)_")
"""What a block's layers begin with: EfficientNet's and ours, ResNet's, MobileNet's."""
STEM, TOP = "stem", "top"
"""What stands for a block before the first and after the last."""


def set_trainable(model: Any, *, blocks: int) -> None:
    """Choose what of the backbone is trained; the head always is.

    Args:
        model: the network.
        blocks: how many last blocks (16 in B0, the top convolution goes with the last); 0 freezes
            the backbone, -1 trains all of it. BatchNorm in what is frozen keeps its statistics.
    """
    layers, order = backbone_layers(model), block_names(model)
    if blocks > len(order):
        raise UsageError(f"training.fine_tune_blocks = {blocks}: expected at most {len(order)}")
    free = {*order[len(order) - blocks :], TOP} if blocks > 0 else set()
    for layer, block in zip(layers, layer_blocks(layers), strict=True):
        layer.trainable = blocks < 0 or block in free


def block_names(model: Any) -> list[str]:
    """Return the names of the backbone's blocks, in order: "block1a" to "block7a" in B0."""
    names = layer_blocks(backbone_layers(model))
    return [name for name in dict.fromkeys(names) if name not in (STEM, TOP)]


def layer_blocks(layers: list[Any]) -> list[str]:
    """Return the block of each layer of a backbone; `STEM` before the first, `TOP` at the end."""
    found = [_BLOCK.match(layer.name) for layer in layers]
    last = max((index for index, match in enumerate(found) if match), default=-1)
    names, current = [], STEM
    for index, match in enumerate(found):
        current = match.group(1) if match else (TOP if index > last else current)
        names.append(current)
    return names


def rate_factors(model: Any, variables: Sequence[Any], *, decay: float) -> list[float]:
    """Return the layer-wise factor of each variable's learning rate.

    Args:
        model: the network.
        variables: of it, or of heads beside its own.
        decay: from one block to the one before it; the last block, what follows it and all heads
            keep the whole rate, the stem is a block before the first.
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


# ---------------------------------------------------------------- under training
# The outputs of a network under training.
_LABELS, _TEACHERS, _VOTES = "probabilities", "logits", "votes"
# What Keras calls the variables that weight decay leaves alone.
_NOT_KERNELS = ["bias", "gamma", "beta"]


def compiled_model(config: Config, *, blocks: int, size: int, initialise: bool) -> Any:
    """Build a network with its optimizer and losses, which may add outputs to it.

    Args:
        config: the recipe.
        blocks: last blocks of the backbone that are trained, -1 for all.
        size: side in pixels that faces are resized to.
        initialise: fill in the starting weights; False where others follow.

    Raises:
        UsageError: if there are not as many blocks as the recipe says; or as `build_model`.
    """
    classes = len(config.labels)
    network = build_model(config.model, size=size, initialise=initialise, classes=classes)
    if config.training.backend == "tensorflow":
        from mien.training.layers import with_fast_layers

        network = without_xla(with_fast_layers(network))
        refresh(network)
    # Tried first, so that a wrong number is found before the head's phase and not after it.
    set_trainable(network, blocks=config.training.fine_tune_blocks)
    set_trainable(network, blocks=blocks)
    model = with_outputs(network, config)
    optimizer = _optimizer(config.training, network, model.trainable_variables)
    model.compile(optimizer, **losses(config), jit_compile=network.jit_compile)
    optimizer.build(model.trainable_variables)
    return model


def with_outputs(network: Any, config: Config) -> Any:
    """Return what is trained: the network itself, or it with the outputs that a recipe adds."""
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


def kept_network(model: Any) -> Any:
    """Return the network without what `with_outputs` added; the layers are the same ones."""
    import keras

    if not isinstance(model.output, Mapping):
        return model
    return without_xla(keras.Model(model.input, model.output[_LABELS], name=model.name))


def predict(network: Any, faces: Faces, *, batch: int = 128) -> Floats:
    """Return a network's answers, float32 (N, outputs), to faces, uint8 (N, 48, 48).

    The last batch is padded: another shape would be compiled anew.
    """
    parts = []
    for start in range(0, max(1, len(faces)), batch):
        part = faces[start : start + batch, ..., None].astype(np.float32)
        padding = [(0, batch - len(part)), (0, 0), (0, 0), (0, 0)]
        answers = np.asarray(network.predict_on_batch(np.pad(part, padding)), np.float32)
        parts.append(answers[: len(part)])
    return np.concatenate(parts)


def losses(config: Config) -> dict[str, Any]:
    """Return the losses of labels, teachers and votes, as ``compile`` takes them."""
    import keras

    smoothing = config.training.label_smoothing
    labels = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
    parts: dict[str, Any] = {_LABELS: labels}
    weights = {_LABELS: 1.0}
    if config.distill.teachers:
        parts[_TEACHERS] = distillation_loss(config.distill.temperature)
        weights = {_LABELS: 1 - config.distill.weight, _TEACHERS: config.distill.weight}
    if config.training.votes_weight > 0:
        parts[_VOTES] = keras.losses.CategoricalCrossentropy()
        weights[_VOTES] = config.training.votes_weight
    if len(parts) == 1:
        return {"loss": labels, "metrics": ["accuracy"]}
    return {"loss": parts, "loss_weights": weights, "metrics": {_LABELS: ["accuracy"]}}


def distillation_loss(temperature: float) -> Callable[[Any, Any], Any]:
    """Return the loss of logits (N, classes) against teachers' probabilities, both softened.

    The Kullback-Leibler divergence at a temperature T, times T squared, so that its gradient keeps
    its size whatever T is (Hinton et al. 2015, 1503.02531).
    """
    import keras

    ops = keras.ops

    def divergence(soft_targets: Any, logits: Any) -> Any:
        own = ops.log_softmax(ops.cast(logits, "float32") / temperature, axis=-1)
        # A probability of 0 adds nothing; its logarithm only has to be a number.
        theirs = ops.log(ops.maximum(soft_targets, 1e-12))
        return temperature**2 * ops.sum(soft_targets * (theirs - own), axis=-1)

    return divergence


def step_arrays(batch: Batch) -> tuple[Any, Any, Any]:
    """Return a batch as ``train_on_batch`` takes it: faces, targets and weights."""
    targets = {_LABELS: batch.targets}
    if batch.soft_targets is not None:
        targets[_TEACHERS] = batch.soft_targets
    if batch.votes is not None:
        targets[_VOTES] = batch.votes
    if len(targets) == 1:
        return batch.faces, batch.targets, batch.weights
    return batch.faces, targets, dict.fromkeys(targets, batch.weights)


def accuracy_of(logs: Mapping[str, Any]) -> float:
    """Return a step's accuracy against the labels."""
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
    decays = [settings.weight_decay * (each.name not in _NOT_KERNELS) for each in variables]
    if settings.optimizer == "sgd":
        from mien.training.optimizers import CoupledSgd

        return CoupledSgd(decays=decays, **options)
    if settings.layer_decay < 1:
        from mien.training.optimizers import LayerwiseAdamW

        factors = rate_factors(network, variables, decay=settings.layer_decay)
        return LayerwiseAdamW(factors=factors, decays=decays, **options)
    optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, **options)
    optimizer.exclude_from_weight_decay(var_names=_NOT_KERNELS)
    return optimizer


# ---------------------------------------------------------------- weights that are kept
def averaged_weights(model: Any) -> list[Floats]:
    """Return the weights of a compiled model's kept network, their moving averages if it has any.

    The model itself trains on from the raw weights.
    """
    # Copies: on some backends numpy() is a view of what is about to be written over.
    raw = [np.array(variable.numpy()) for variable in model.trainable_variables]
    model.optimizer.finalize_variable_values(model.trainable_variables)
    weights = [np.array(array) for array in kept_network(model).get_weights()]
    for variable, value in zip(model.trainable_variables, raw, strict=True):
        variable.assign(value)
    return weights


def recalibrate_batch_norms(network: Any, batches: Iterable[Batch]) -> None:
    """Recompute the statistics of the trainable BatchNorm layers under the present weights.

    Averaged weights need statistics of their own (Izmailov et al. 2018, 1803.05407), and those of
    training are of augmented images under dropout (Touvron et al. 2019, 1906.06423; Li et al. 2019,
    1801.05134). Here dropout is off.

    Args:
        network: with the weights to estimate for.
        batches: training images, not augmented; none leaves the statistics alone.
    """
    norms = [layer for layer in batch_norms(network) if layer.trainable]
    dropouts = [layer for layer in network.layers if type(layer).__name__ == "Dropout"]
    momenta, rates = [layer.momentum for layer in norms], [layer.rate for layer in dropouts]
    for layer in dropouts:
        layer.rate = 0.0
    for seen, batch in enumerate(batches):
        for layer in norms:
            layer.momentum = seen / (seen + 1)  # makes the running mean a plain one
        network(batch.faces, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    for layer, rate in zip(dropouts, rates, strict=True):
        layer.rate = rate


def interpolate_weights(network: Any, start: Sequence[Floats], alpha: float) -> None:
    """Mix a network's weights and statistics with those that it started from.

    Args:
        network: fine-tuned; what did not change, as a frozen backbone, stays bit for bit.
        start: all weights that it began with.
        alpha: share of its own, 0-1 (WiSE-FT, Wortsman et al. 2021, 2109.01903).
    """
    for variable, first in zip(network.weights, start, strict=True):
        own = np.array(variable.numpy())
        if own.dtype == np.float32:
            variable.assign(np.where(own == first, own, alpha * own + (1 - alpha) * first))
    refresh(network)
