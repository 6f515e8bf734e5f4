"""The network: face -> backbone -> pooling -> dense 512 -> dense 256 -> a probability a class.

It takes the standard face itself, grey 48x48 in 0-255; enlarging, three channels and scaling are
layers, so one graph serves training, evaluation and export.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, ModelError, UsageError
from mien.core.faces import FACE_SIZE
from mien.core.manifest import load_manifest
from mien.core.models import find_model
from mien.core.process import stderr
from mien.training import lite0
from mien.training.architectures.applications import APPLICATIONS, build_application
from mien.training.backbones import build_backbone
from mien.training.settings import ModelSettings

IMAGENET_STDDEV = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, for pixels in 0-1 (as in ``keras.applications``)."""

_BLOCK = re.compile(r"(block_?\d+[a-z]*|conv\d+_block\d+|expanded_conv(?:_\d+)?)_")
"""What a block's layers begin with: EfficientNet's and ours, ResNet's, MobileNet's."""
STEM, TOP = "stem", "top"
"""What stands for a block before the first and after the last."""


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
        size: side in pixels that the face is enlarged to; the weights do not depend on it.
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
    x = build_backbone(settings, enlarged)
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
    model = keras.Model(faces, probabilities, name="mien")
    _set_rates(model, settings)
    if initialise:
        load_starting_weights(model, settings)
    return model


def _set_rates(model: Any, settings: ModelSettings) -> None:
    """Set what ``keras.applications`` does not let its caller choose."""
    drops = [layer for layer in lite0.backbone_layers(model) if layer.name.endswith("_drop")]
    for index, layer in enumerate(drops, start=1):
        layer.rate = settings.drop_connect * index / len(drops)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = settings.batch_norm_momentum


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
        if settings.backbone != "EfficientNetB0":
            raise UsageError(f'weights "lite0" fit EfficientNetB0 only, not {settings.backbone}')
        lite0.transplant_lite0(model, lite0.read_legacy_checkpoint(lite0.lite0_file()))
        set_input_scaling(model, mean=lite0.LITE0_MEAN, deviation=lite0.LITE0_SCALE)
    elif Path(settings.weights).suffix == ".keras":
        _load_file(model, Path(settings.weights))
    else:
        _load_exported(model, settings.weights)


def _load_exported(model: Any, source: str) -> None:
    # Not at the top: most networks start from something else, and this takes onnx.
    from mien.training.onnx_converter import load_onnx_weights

    folder = find_model(source)
    load_onnx_weights(folder / load_manifest(folder, labels=None).file.name, model)
    refresh(model)


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


def refresh(model: Any) -> None:
    """Bring layers that cache constants made from their weights up to date with them."""
    for layer in model.layers:
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()


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


def set_trainable(model: Any, *, blocks: int) -> None:
    """Choose what of the backbone is trained; the head always is.

    Args:
        model: the network.
        blocks: how many last blocks (16 in B0, the top convolution goes with the last); 0 freezes
            the backbone, -1 trains all of it. BatchNorm in what is frozen keeps its statistics.
    """
    layers = lite0.backbone_layers(model)
    order = block_names(model)
    if blocks > len(order):
        raise UsageError(f"training.fine_tune_blocks = {blocks}: expected at most {len(order)}")
    free = {*order[len(order) - blocks :], TOP} if blocks > 0 else set()
    for layer, block in zip(layers, layer_blocks(layers), strict=True):
        layer.trainable = blocks < 0 or block in free


def block_names(model: Any) -> list[str]:
    """Return the names of the backbone's blocks, in order: "block1a" to "block7a" in B0."""
    names = layer_blocks(lite0.backbone_layers(model))
    return [name for name in dict.fromkeys(names) if name not in (STEM, TOP)]


def layer_blocks(layers: list[Any]) -> list[str]:
    """Return the block of each of a backbone's layers: `STEM` before the first, `TOP` at the end.

    What is named otherwise between two blocks goes with the one before.
    """
    found = [_BLOCK.match(layer.name) for layer in layers]
    last = max((index for index, match in enumerate(found) if match), default=-1)
    names, current = [], STEM
    for index, match in enumerate(found):
        current = match.group(1) if match else (TOP if index > last else current)
        names.append(current)
    return names
