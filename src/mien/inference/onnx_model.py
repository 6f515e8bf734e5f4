"""ONNX model files: sessions that survive pickling and forking, and a reader of the graph.

ONNX Runtime runs a graph but does not show it, so nodes and weights are parsed here rather than by
the package ``onnx``, which prediction does not need otherwise. A file is a protocol buffer; the few
fields that matter are named below, after ``onnx.proto``.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
import sys
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError, error_reason
from mien.core.manifest import ModelFile, read_model_file
from mien.core.models import bundled_models, find_model
from mien.core.onnx_runtime import new_session, onnxruntime
from mien.core.process import ForkLock


# ---------------------------------------------------------------- sessions
class ModelSession:
    """ONNX Runtime session that can be pickled, copied and forked; threads can share it.

    A pickle holds the path and the hash of the model file, which is checked on loading. Copies
    share one session. A forked child opens the file again on first use, because ONNX Runtime's
    threads do not survive a fork and its locks may be held.
    """

    def __init__(
        self,
        folder: Path,
        file: ModelFile,
        *,
        threads: int | None = None,
        outputs: tuple[str, ...] = (),
    ) -> None:
        """Check a model file against its hash and open it.

        Args:
            folder: the model's folder.
            file: its ONNX file, from the manifest.
            threads: threads per call; all cores if None.
            outputs: names of the outputs that will be requested; all if empty.

        Raises:
            ModelError: if the file is missing, damaged, or not a self-contained ONNX model.
        """
        self._folder = folder.absolute()
        self._file = file
        self._threads = threads
        self._outputs = outputs
        self._session: onnxruntime.InferenceSession | None = self._open()
        _SESSIONS.add(self)

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]:
        """Compute some outputs; raises whatever ONNX Runtime raises."""
        results: list[npt.NDArray[np.float32]] = self._current().run(outputs, inputs)
        return results

    def get_inputs(self) -> list[Any]:
        """Return name, type and shape of each input."""
        return list(self._current().get_inputs())

    def get_outputs(self) -> list[Any]:
        """Return name, type and shape of each output."""
        return list(self._current().get_outputs())

    def get_modelmeta(self) -> Any:
        """Return the metadata of the model file."""
        return self._current().get_modelmeta()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the location of the file: a bundled model's name, or its folder."""
        name = self._folder.name
        bundled = name in bundled_models() and find_model(name) == self._folder
        model = name if bundled else self._folder
        return _reopen, (model, self._file, self._threads, self._outputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelSession:
        """Return the session itself, which is immutable."""
        return self

    def abandon(self) -> None:
        """Drop the parent's session in a forked child."""
        # Its destructor would wait for threads that do not exist here, so it must never run.
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None

    def _current(self) -> onnxruntime.InferenceSession:
        session = self._session
        if session is None:
            with _REOPENING:
                session = self._session
                if session is None:
                    session = self._session = self._open()
        return session

    def _open(self) -> onnxruntime.InferenceSession:
        path = self._folder / self._file.name
        content = read_model_file(path, self._file)
        check_no_external_data(content, path)
        try:
            network = prune_outputs(content, self._outputs, path) if self._outputs else content
            return new_session(network, threads=self._threads or 0)
        except Exception as error:  # ONNX Runtime's errors share no narrower base
            raise ModelError(
                f"{path} is not an ONNX model that can be run ({error_reason(error)}): "
                "export or install it again"
            ) from error


def _reopen(
    model: str | Path, file: ModelFile, threads: int | None, outputs: tuple[str, ...]
) -> ModelSession:
    return ModelSession(find_model(model), file, threads=threads, outputs=outputs)


def _abandon_all() -> None:
    for session in list(_SESSIONS):
        session.abandon()


# All sessions, for the fork handler.
_SESSIONS: weakref.WeakSet[ModelSession] = weakref.WeakSet()
_REOPENING = ForkLock()
if sys.platform != "win32":  # Windows has no fork
    os.register_at_fork(after_in_child=_abandon_all)


# ---------------------------------------------------------------- files
_GRAPH = 7  # of the model
_NODE, _INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12  # of a graph
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE = 1, 2, 4, 5  # of a node
_NAME, _FLOAT, _INT = 1, 2, 3  # of an attribute; a graph output's name has the same number
_DIMS, _DATA_TYPE, _FLOAT_DATA, _TENSOR_NAME, _RAW_DATA = 1, 2, 4, 8, 9  # of a tensor
_DATA_LOCATION = 14  # of a tensor, nonzero if its numbers are in another file

# The messages that can contain tensors, and their fields that lead to tensors.
_NESTED: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
}
_MAX_DEPTH = 100

_RAW_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
"""NumPy's types for ONNX's float, float16 and double."""


@dataclass(frozen=True)
class Node:
    """One operation of a graph."""

    op_type: str  # the operator, such as ``Gemm``
    inputs: tuple[str, ...]  # names of values and weights
    outputs: tuple[str, ...]  # names of values
    attributes: Mapping[str, float]  # those with a single number


@dataclass(frozen=True)
class OnnxGraph:
    """Nodes and weights of a graph; weights are decoded on access."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, memoryview]

    def weight(self, name: str) -> npt.NDArray[np.float64]:
        """Return a weight by name.

        Raises:
            ModelError: if it is missing, damaged, not floating-point, or in another file.
        """
        if name not in self.tensors:
            raise ModelError(f"the network has no weight {name!r}")
        try:
            return _decode_tensor(self.tensors[name])
        except (ValueError, OverflowError) as error:
            raise ModelError(f"the network's weight {name!r} cannot be read: {error}") from error


def read_onnx(path: Path) -> OnnxGraph:
    """Read the graph of an ONNX file; raises ModelError if it cannot be read or is not one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error_reason(error)}") from error
    with _parsing(content, path) as fields:
        return _parse_model(fields, path)


def prune_outputs(content: bytes, outputs: Collection[str], path: Path) -> bytes:
    """Return an ONNX file's content without what only other outputs need.

    ONNX Runtime computes all branches, whichever outputs are requested. ``path`` is for errors;
    raises ModelError if the content is not an ONNX file.
    """
    with _parsing(content, path) as fields:
        needed = set(outputs)
        for node in reversed(_parse_model(fields, path).nodes):
            if needed & set(node.outputs):
                needed |= set(node.inputs)
        kept: list[bytes | memoryview] = []
        for number, value in _fields(fields):
            if number == _GRAPH:
                parts = _prune_graph(value, needed)
                kept += [_bytes_header(number, sum(map(len, parts))), *parts]
            else:
                kept += _encode_field(number, value)
        return b"".join(kept)


def check_no_external_data(content: bytes, path: Path) -> None:
    """Raise ModelError if weights are in other files (external data), which no hash covers."""
    with _parsing(content, path) as fields:
        if _has_external_data(fields, "model"):
            raise ModelError(
                f"{path} has weights in other files, which its manifest's hash does not cover: "
                "expected all in one file, as mien export writes and onnx.save does"
            )


@contextmanager
def _parsing(content: bytes, path: Path) -> Iterator[memoryview]:
    """Raise ModelError where the content turns out not to be a protocol buffer."""
    try:
        yield memoryview(content)
    except ValueError as error:
        raise ModelError(f"{path} is not an ONNX file, or a damaged one ({error})") from error


def _parse_model(content: memoryview, path: Path) -> OnnxGraph:
    nodes: list[Node] = []
    tensors: dict[str, memoryview] = {}
    for graph in _grouped(content)[_GRAPH]:
        fields = _grouped(_as_bytes(graph))
        nodes += [_parse_node(_as_bytes(node)) for node in fields[_NODE]]
        tensors |= {
            _name(tensor, _TENSOR_NAME): tensor for tensor in map(_as_bytes, fields[_INITIALIZER])
        }
    if not nodes:
        raise ModelError(f"{path} is not an ONNX file: it contains no network")
    return OnnxGraph(tuple(nodes), tensors)


def _prune_graph(graph: int | memoryview, needed: set[str]) -> list[bytes | memoryview]:
    """Encode a graph, in pieces, without the nodes, weights and outputs that are not needed."""

    def is_needed(number: int, value: int | memoryview) -> bool:
        if number == _NODE:
            return not needed.isdisjoint(_parse_node(_as_bytes(value)).outputs)
        if number in (_INITIALIZER, _GRAPH_OUTPUT):
            field = _TENSOR_NAME if number == _INITIALIZER else _NAME
            return _name(_as_bytes(value), field) in needed
        return True

    kept = (field for field in _fields(_as_bytes(graph)) if is_needed(*field))
    return [piece for number, value in kept for piece in _encode_field(number, value)]


def _has_external_data(content: memoryview, message: str, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("its parts are nested too deeply")
    if message == "tensor":
        return any(number == _DATA_LOCATION and value != 0 for number, value in _fields(content))
    nested = _NESTED[message]
    return any(
        _has_external_data(_as_bytes(value), nested[number], depth + 1)
        for number, value in _fields(content)
        if number in nested
    )


def _parse_node(content: memoryview) -> Node:
    fields = _grouped(content)
    attributes: dict[str, float] = {}
    for attribute in fields[_ATTRIBUTE]:
        attributes |= _parse_attribute(_as_bytes(attribute))
    inputs, outputs = (tuple(map(_as_text, fields[number])) for number in (_INPUT, _OUTPUT))
    return Node(_name(content, _OP_TYPE), inputs, outputs, attributes)


def _parse_attribute(content: memoryview) -> dict[str, float]:
    """Return name and value of an attribute with a single number, else an empty dictionary."""
    fields = _grouped(content)
    if fields[_FLOAT]:
        value = float(struct.unpack("<f", _as_bytes(fields[_FLOAT][-1], 4))[0])
    elif fields[_INT]:
        value = _as_signed(fields[_INT][-1])
    else:
        return {}
    return {_name(content, _NAME): value}


def _name(content: memoryview, field: int) -> str:
    return next((_as_text(value) for number, value in _fields(content) if number == field), "")


def _decode_tensor(content: memoryview) -> npt.NDArray[np.float64]:
    fields = _grouped(content)
    if any(fields[_DATA_LOCATION]):
        raise ValueError("it is in another file")
    data_type = _as_signed(fields[_DATA_TYPE][-1]) if fields[_DATA_TYPE] else 0
    if data_type not in _RAW_TYPES:
        raise ValueError(f"expected floating-point numbers, got ONNX's type {data_type}")
    shape: list[int] = []
    for dims in fields[_DIMS]:  # packed into one field, or one field per number, like float data
        shape += [dims] if isinstance(dims, int) else _varints(dims)
    raw = b"".join(map(_as_bytes, fields[_RAW_DATA]))
    floats = b"".join(map(_as_bytes, fields[_FLOAT_DATA]))
    values = np.frombuffer(floats, "<f4") if floats else np.frombuffer(raw, _RAW_TYPES[data_type])
    if values.size != math.prod(shape):
        raise ValueError(f"expected {shape} numbers, got {values.size}")
    return values.reshape(shape).astype(np.float64)


# ---------------------------------------------------------------- protocol buffers
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_MAX_VARINT_BYTES = 10


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field, an integer or bytes; raises ValueError if damaged."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value, position = _varint(content, position)
            yield number, value
            continue
        if wire_type == _BYTES:
            size, position = _varint(content, position)
        elif wire_type in (_FOUR_BYTES, _EIGHT_BYTES):
            size = 4 if wire_type == _FOUR_BYTES else 8
        else:
            raise ValueError(f"a field has an unknown wire type, {wire_type}")
        if size > len(content) - position:
            raise ValueError("it ends within a field")
        yield number, content[position : position + size]
        position += size


def _grouped(content: memoryview) -> defaultdict[int, list[int | memoryview]]:
    """Return the values of all fields by number; raises ValueError if damaged."""
    fields: defaultdict[int, list[int | memoryview]] = defaultdict(list)
    for number, value in _fields(content):
        fields[number].append(value)
    return fields


def _encode_field(number: int, value: int | memoryview) -> list[bytes | memoryview]:
    """Encode a field, in pieces; models and graphs have no fixed-width fields."""
    if isinstance(value, int):
        return [_varint_bytes(number << 3 | _VARINT) + _varint_bytes(value)]
    return [_bytes_header(number, len(value)), value]


def _bytes_header(number: int, size: int) -> bytes:
    return _varint_bytes(number << 3 | _BYTES) + _varint_bytes(size)


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """Decode a varint (seven bits a byte, least first); return it and its end."""
    number = 0
    for index, byte in enumerate(content[position : position + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + index + 1
    raise ValueError("a number does not end")


def _varints(content: memoryview) -> list[int]:
    numbers, position = [], 0
    while position < len(content):
        number, position = _varint(content, position)
        numbers.append(number)
    return numbers


def _varint_bytes(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def _as_bytes(value: int | memoryview, size: int | None = None) -> memoryview:
    if isinstance(value, int) or (size is not None and len(value) != size):
        raise ValueError("a field has an unexpected type")
    return value


def _as_text(value: int | memoryview) -> str:
    return bytes(_as_bytes(value)).decode("utf-8")


def _as_signed(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a field has an unexpected type")
    return value - (1 << 64) if value >> 63 else value
