"""The backbones that a recipe can name: this project's own, and those of ``keras.applications``.

Each takes faces in 0-255 and begins with a ``Rescaling`` to 0-1 and a ``Normalization``, whose
weights the starting weights decide (see `mien.training.model.set_input_scaling`), and ends in a
feature map. Our own are made for 48 pixels and use nothing of one Keras backend alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any


def build_backbone(name: str, faces: Any, *, width: float, plain_channels: tuple[int, ...]) -> Any:
    """Return the feature map of a backbone.

    Args:
        name: one of `BACKBONES`.
        faces: Keras tensor (N, size, size, 1), 0-255.
        width: multiplier of the channels of our own.
        plain_channels: widths of the stages of "Plain".
    """
    import keras

    if name in _OWN:
        return _OWN[name](faces, width=width)
    colour = keras.layers.Concatenate(name="three_channels")([faces] * 3)
    if name == _PLAIN:
        return plain(colour, plain_channels)
    return build_application(name, images=colour).output


# ---------------------------------------------------------------- building blocks
_SE_REDUCTION = 8


def scaled(width: int, factor: float) -> int:
    """Return a number of channels times a factor, to the nearest 8 (processors like those)."""
    return max(8, round(width * factor / 8) * 8)


def scaled_input(images: Any) -> Any:
    """Return images of 0-255, normalised as their starting weights will say."""
    import keras

    x = keras.layers.Rescaling(1 / 255)(images)
    return keras.layers.Normalization(axis=-1)(x)


def refresh(model: Any) -> None:
    """Bring layers that cache constants made from their weights up to date with them."""
    for layer in model.layers:
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()


def backbone_layers(model: Any) -> list[Any]:
    """Return the layers of a model's backbone, in order: those before the pooling."""
    names = [layer.name for layer in model.layers]
    return list(model.layers[: names.index("pool")])


def conv_bn(
    x: Any, width: int, name: str, *, kernel: int = 3, stride: int = 1, relu: bool = True
) -> Any:
    """Convolution without bias, BatchNorm, and ReLU unless a sum comes before it."""
    import keras

    layers = keras.layers
    x = layers.Conv2D(
        width, kernel, strides=stride, padding="same", use_bias=False,
        kernel_initializer="he_normal", name=f"{name}_conv",
    )(x)  # fmt: skip
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x) if relu else x


def residual(x: Any, branch: Any, name: str) -> Any:
    """Return the ReLU of a sum; while training, the branch is dropped at random.

    The rate is set later, from ``model.drop_connect`` (stochastic depth: Huang et al. 2016,
    1603.09382).
    """
    import keras

    layers = keras.layers
    # One made with a rate of 0 has no generator, and could not be given another rate.
    branch = layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(branch)
    x = layers.Add(name=f"{name}_add")([x, branch])
    return layers.Activation("relu", name=f"{name}_out")(x)


def squeeze_excite(x: Any, name: str) -> Any:
    """Weight each channel by a gate that sees the mean of all (Hu et al. 2018, 1709.01507)."""
    import keras

    layers = keras.layers
    width = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    inner = max(4, width // _SE_REDUCTION)
    gate = layers.Conv2D(inner, 1, activation="relu", name=f"{name}_reduce")(gate)
    gate = layers.Conv2D(width, 1, activation="sigmoid", name=f"{name}_expand")(gate)
    return layers.Multiply(name=f"{name}_excite")([x, gate])


# ---------------------------------------------------------------- our own
def plain(images: Any, channels: tuple[int, ...]) -> Any:
    """A stage a width: convolution, BatchNorm, ReLU, halving; for experiments and tests."""
    import keras

    layers = keras.layers
    x = scaled_input(images)
    for index, width in enumerate(channels, start=1):
        block = f"block{index}"
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{block}_conv")(x)
        x = layers.BatchNormalization(name=f"{block}_bn")(x)
        x = layers.Activation("relu", name=f"{block}_relu")(x)
        x = layers.MaxPooling2D(2, name=f"{block}_pool")(x)
    return x


def nano(faces: Any, *, width: float = 1.0) -> Any:
    """Nano: half a million weights, a third of a millisecond a face on one core.

    Its 19 million multiplications are all in 3x3 convolutions whose channels are multiples of 16,
    which ONNX Runtime computes near the processor's peak; depthwise ones take more time for fewer.
    The first layer sees all 48 pixels; max pooling learns faster than strides of the same cost.

    Args:
        faces: Keras tensor (N, size, size, 1), 0-255.
        width: multiplier of all numbers of channels.

    Returns:
        A feature map of 1/16 of the face's side.
    """
    import keras

    x = conv_bn(scaled_input(faces), scaled(16, width), "stem")
    for index, channels in enumerate((32, 64, 112, 192), start=1):
        block = f"block{index}"
        x = keras.layers.MaxPooling2D(2, name=f"{block}_pool")(x)
        x = conv_bn(x, scaled(channels, width), f"{block}_first")
        if index in (2, 3):
            branch = conv_bn(x, x.shape[-1], f"{block}_second", relu=False)
            x = residual(x, branch, block)
    return x


def vgg(faces: Any, *, width: float = 1.0) -> Any:
    """VGG with BatchNorm (Simonyan & Zisserman 2014, 1409.1556); arguments as of `nano`.

    A teacher for distillation, as are the ResNets: slow, but more accurate than networks made for
    photographs of 224 pixels. No pooling before the first stage.
    """
    import keras

    x = scaled_input(faces)
    stages = zip((64, 128, 256, 512), (2, 2, 3, 3), strict=True)
    for stage, (channels, depth) in enumerate(stages, start=1):
        if stage > 1:
            x = keras.layers.MaxPooling2D(2, name=f"block{stage}_pool")(x)
        for layer in range(1, depth + 1):
            x = conv_bn(x, scaled(channels, width), f"block{stage}_{layer}")
    return x


def resnet(faces: Any, *, depths: tuple[int, ...], gates: bool = False, width: float = 1.0) -> Any:
    """ResNet of two-layer blocks (He et al. 2015, 1512.03385); other arguments as of `nano`.

    Args:
        faces: Keras tensor (N, size, size, 1), 0-255.
        depths: blocks of each of the four stages; each stage but the first halves at its start.
        gates: a squeeze-and-excite gate at the end of each block's branch.
        width: multiplier of all numbers of channels.
    """
    x = conv_bn(scaled_input(faces), scaled(64, width), "stem")
    for stage, depth in enumerate(depths, start=1):
        channels = scaled(64 * 2 ** (stage - 1), width)
        for index in range(depth):
            name = f"block{stage}{chr(ord('a') + index)}"
            stride = 2 if stage > 1 and index == 0 else 1
            branch = conv_bn(x, channels, f"{name}_first", stride=stride)
            branch = conv_bn(branch, channels, f"{name}_second", relu=False)
            if gates:
                branch = squeeze_excite(branch, name)
            if stride > 1 or x.shape[-1] != channels:
                x = conv_bn(x, channels, f"{name}_way", kernel=1, stride=stride, relu=False)
            x = residual(x, branch, name)
    return x


_OWN: dict[str, Callable[..., Any]] = {
    "Nano": nano,
    "VGG": vgg,
    "ResNet18": partial(resnet, depths=(2, 2, 2, 2)),
    "ResNet34": partial(resnet, depths=(3, 4, 6, 3)),
    "SEResNet18": partial(resnet, depths=(2, 2, 2, 2), gates=True),
}


# ---------------------------------------------------------------- keras.applications
_HALF = 127.5
_PHOTOS_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_PHOTOS_DEVIATION = (0.229 * 255, 0.224 * 255, 0.225 * 255)
# ResNet's weights come from Caffe: blue first, means taken off, never divided.
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Application:
    """How a network of ``keras.applications`` is built.

    EfficientNet's own graph begins with a scaling; the others get one in front, so that every
    network takes 0-255 and its starting weights decide the scaling.

    Attributes:
        scales_itself: its graph begins with ``Rescaling`` and ``Normalization``.
        mean: of the pixels (0-255) that its ImageNet weights expect; one, or one a channel.
        deviation: what they are divided by.
        options: further arguments.
    """

    scales_itself: bool = False
    mean: float | tuple[float, ...] = _HALF
    deviation: float | tuple[float, ...] = _HALF
    options: dict[str, Any] = field(default_factory=dict)


_NO_SCALING = {"include_preprocessing": False}
_PHOTOS = Application(mean=_PHOTOS_MEAN, deviation=_PHOTOS_DEVIATION)
_PHOTOS_V2 = Application(mean=_PHOTOS_MEAN, deviation=_PHOTOS_DEVIATION, options=_NO_SCALING)

APPLICATIONS: dict[str, Application] = {
    **{f"EfficientNetB{number}": Application(scales_itself=True) for number in range(8)},
    **{f"EfficientNetV2B{number}": _PHOTOS_V2 for number in range(4)},
    "ResNet50": Application(mean=_CAFFE_MEAN, deviation=1.0),
    "DenseNet121": _PHOTOS,
    "MobileNetV2": Application(),
    "MobileNetV3Small": Application(options=_NO_SCALING),
    "MobileNetV3Large": Application(options=_NO_SCALING),
}
"""By the name in ``keras.applications``."""
_PLAIN = "Plain"
BACKBONES = (*APPLICATIONS, *_OWN, _PLAIN)


def build_application(name: str, *, weights: str | None = None, images: Any = None) -> Any:
    """Build a network of `APPLICATIONS` without its top, a ``keras.Model`` ending in a feature map.

    Args:
        name: one of `APPLICATIONS`.
        weights: "imagenet" to download them, or None.
        images: Keras tensor (N, size, size, 3), 0-255, to build on; an input of its own if None.
    """
    import keras

    application = APPLICATIONS[name]
    if images is not None and not application.scales_itself:
        images = scaled_input(images)
    build = getattr(keras.applications, name)
    return build(include_top=False, weights=weights, input_tensor=images, **application.options)
