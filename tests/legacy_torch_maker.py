"""Files in PyTorch's format of before 1.6, made without PyTorch."""

from __future__ import annotations

import collections
import pickle
import struct
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MAGIC = 0x1950A86A20F9469CFC6C


class _Storage:
    def __init__(self, kind: type, key: str, count: int) -> None:
        self.reference = ("storage", kind, key, "cpu", count, None)


class _Tensor:
    def __init__(self, storage: _Storage, array: np.ndarray[Any, Any], rebuild: Any) -> None:
        strides = tuple(stride // array.itemsize for stride in array.strides)
        arguments: tuple[Any, ...] = (
            storage,
            0,
            array.shape,
            strides,
            False,
            collections.OrderedDict(),
        )
        self.reduced = (rebuild, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


class _Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing.reference if isinstance(thing, _Storage) else None


def write_legacy_checkpoint(
    path: Path, arrays: Mapping[str, np.ndarray[Any, Any]], *, magic: int = MAGIC
) -> Path:
    """Write a state dict; an array's memory order is kept, as a tensor's strides would be."""
    with pytest.MonkeyPatch.context() as patch, path.open("wb") as file:
        module, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        for name in ("FloatStorage", "LongStorage"):
            setattr(module, name, type(name, (), {"__module__": "torch"}))

        def rebuild() -> None:
            """Stand for the function that the file names; it is never called."""

        rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
        utils._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "torch", module)
        patch.setitem(sys.modules, "torch._utils", utils)
        tensors, stored = collections.OrderedDict(), {}
        for key, (name, array) in enumerate(arrays.items()):
            kind = module.LongStorage if array.dtype == np.int64 else module.FloatStorage
            tensors[name] = _Tensor(_Storage(kind, str(key), array.size), array, rebuild)
            stored[str(key)] = array
        for part in (magic, 1001, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        _Pickler(file, protocol=2).dump(tensors)
        pickle.dump(list(stored), file, protocol=2)
        for array in stored.values():
            file.write(struct.pack("<q", array.size) + array.ravel(order="K").tobytes())
    return path
