"""Reads the nodes and weights of an ONNX file, which ONNX Runtime runs but does not show.

The package ``onnx`` would do so too; reading emotions does without it. An ONNX file is a protocol
buffer: numbered fields, of which the few that matter here are named below, after ``onnx.proto``.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError, reason_of

_GRAPH = 7  # of the model
_NODE, _INITIALIZER, _GRAPH_OUTPUT = 1, 5, 12  # of a graph
_INPUT, _OUTPUT, _KIND, _ATTRIBUTE = 1, 2, 4, 5  # of a node
_NAME, _FLOAT, _INT = 1, 2, 3  # of an attribute (its name, as that of a graph's output)
_DIMS, _DATA_TYPE, _FLOAT_DATA, _TENSOR_NAME, _RAW_DATA = 1, 2, 4, 8, 9  # of a tensor
_LOCATION = 14  # of a tensor, other than 0 where its numbers are in another file

# Where tensors can be, the file itself being a model: fields that hold parts, by what part it is.
_PARTS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
}
_MAX_DEPTH = 100

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # wire types
_MAX_VARINT_BYTES = 10

_RAW_TYPES = {1: "<f4", 10: "<f2", 11: "<f8"}
"""ONNX's float, float16 and double."""


@dataclass(frozen=True)
class Node:
    """One operation of a network.

    Attributes:
        kind: its operator, as ``Gemm``.
        inputs: names of values and weights.
        outputs: names of values.
        attributes: those of its settings that are one number.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, float]


@dataclass(frozen=True)
class OnnxFile:
    """A network's operations and its weights, which are decoded when they are asked for."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, memoryview]

    def weight(self, name: str) -> npt.NDArray[np.float64]:
        """Return a weight by name.

        Raises:
            ModelError: if there is none, or it is damaged, of whole numbers, or in another file.
        """
        if name not in self.tensors:
            raise ModelError(f"the network has no weight {name!r}")
        try:
            return _decoded(self.tensors[name])
        except (ValueError, OverflowError) as error:
            raise ModelError(f"the network's weight {name!r} cannot be read: {error}") from error


def read_onnx(path: Path) -> OnnxFile:
    """Read an ONNX file; raises ModelError if it cannot be read or is not one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {reason_of(error)}") from error
    with _content(content, path) as fields:
        return _parsed(fields, path)


def network_for(content: bytes, outputs: Collection[str], path: Path) -> bytes:
    """Return an ONNX file without the branches that some outputs do not need.

    ONNX Runtime computes every branch of a network, whichever outputs it is asked for.

    Args:
        content: of the file.
        outputs: the names of the outputs that stay.
        path: the file's, for errors.

    Raises:
        ModelError: if it is not an ONNX file.
    """
    with _content(content, path) as fields:
        needed = set(outputs)
        for node in reversed(_parsed(fields, path).nodes):
            if needed & set(node.outputs):
                needed |= set(node.inputs)
        kept: list[bytes | memoryview] = []
        for number, value in _fields(fields):
            if number == _GRAPH:
                parts = _pruned(value, needed)
                kept += [_head(number, sum(map(len, parts))), *parts]
            else:
                kept += _written(number, value)
        return b"".join(kept)


def refuse_external_data(content: bytes, path: Path) -> None:
    """Make sure that a network is all in its file, since a model's hash is of that file alone.

    Args:
        content: of the file.
        path: the file's, for errors.

    Raises:
        ModelError: if some of its weights are in another file (ONNX's external data), or it is not
            an ONNX file.
    """
    with _content(content, path) as fields:
        if _has_external_data(fields, "model"):
            raise ModelError(
                f"{path} has weights in other files, which its manifest's hash does not cover: "
                "expected all in one file, as mien export writes and onnx.save does"
            )


@contextmanager
def _content(content: bytes, path: Path) -> Iterator[memoryview]:
    """Give a file's content to be parsed; what is no protocol buffer is a ModelError."""
    try:
        yield memoryview(content)
    except ValueError as error:
        raise ModelError(f"{path} is not an ONNX file, or a damaged one ({error})") from error


# ---------------------------------------------------------------- ONNX
def _parsed(content: memoryview, path: Path) -> OnnxFile:
    nodes, tensors = [], {}
    for number, graph in _fields(content):
        if number != _GRAPH:
            continue
        for part, value in _fields(_bytes(graph)):
            if part == _NODE:
                nodes.append(_node(_bytes(value)))
            elif part == _INITIALIZER:
                tensors[_name(_bytes(value), _TENSOR_NAME)] = _bytes(value)
    if not nodes:
        raise ModelError(f"{path} is not an ONNX file: it holds no network")
    return OnnxFile(tuple(nodes), tensors)


def _pruned(graph: int | memoryview, needed: set[str]) -> list[bytes | memoryview]:
    """Return a graph's fields, in pieces, without what is not needed of nodes, weights, outputs."""

    def is_needed(number: int, value: int | memoryview) -> bool:
        if number == _NODE:
            return not needed.isdisjoint(_node(_bytes(value)).outputs)
        if number in (_INITIALIZER, _GRAPH_OUTPUT):
            field = _TENSOR_NAME if number == _INITIALIZER else _NAME
            return _name(_bytes(value), field) in needed
        return True

    kept = (each for each in _fields(_bytes(graph)) if is_needed(*each))
    return [piece for number, value in kept for piece in _written(number, value)]


def _has_external_data(content: memoryview, part: str, depth: int = 0) -> bool:
    if depth > _MAX_DEPTH:
        raise ValueError("its parts lie in one another too deeply")
    if part == "tensor":
        return any(number == _LOCATION and value != 0 for number, value in _fields(content))
    inner = _PARTS[part]
    return any(
        _has_external_data(_bytes(value), inner[number], depth + 1)
        for number, value in _fields(content)
        if number in inner
    )


def _node(content: memoryview) -> Node:
    kind, inputs, outputs, attributes = "", [], [], {}
    for number, value in _fields(content):
        if number == _KIND:
            kind = _text(value)
        elif number == _INPUT:
            inputs.append(_text(value))
        elif number == _OUTPUT:
            outputs.append(_text(value))
        elif number == _ATTRIBUTE:
            attributes.update(_attribute(_bytes(value)))
    return Node(kind, tuple(inputs), tuple(outputs), attributes)


def _attribute(content: memoryview) -> dict[str, float]:
    name, found = "", None
    for number, value in _fields(content):
        if number == _NAME:
            name = _text(value)
        elif number == _FLOAT:
            found = float(struct.unpack("<f", _bytes(value, 4))[0])
        elif number == _INT:
            found = _signed(value)
    return {} if found is None else {name: found}


def _name(content: memoryview, field: int) -> str:
    return next((_text(value) for number, value in _fields(content) if number == field), "")


def _decoded(content: memoryview) -> npt.NDArray[np.float64]:
    shape: list[int] = []
    kind, raw, floats = 0, b"", b""
    for number, value in _fields(content):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == _DATA_TYPE:
            kind = _signed(value)
        elif number == _FLOAT_DATA:  # all in one field, or each in its own
            floats += bytes(_bytes(value))
        elif number == _RAW_DATA:
            raw = bytes(_bytes(value))
        elif number == _LOCATION and value:
            raise ValueError("it is in another file")
    if kind not in _RAW_TYPES:
        raise ValueError(f"expected floating-point numbers, got ONNX's type {kind}")
    values = np.frombuffer(floats, "<f4") if floats else np.frombuffer(raw, _RAW_TYPES[kind])
    if values.size != math.prod(shape):
        raise ValueError(f"expected {shape} numbers, got {values.size}")
    return values.reshape(shape).astype(np.float64)


# ---------------------------------------------------------------- protocol buffers
def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield each field's number and value: a whole number, or bytes; raises ValueError."""
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


def _written(number: int, value: int | memoryview) -> list[bytes | memoryview]:
    """Encode a field, in pieces; no field of a model or a graph is a fraction."""
    if isinstance(value, int):
        return [_varint_bytes(number << 3 | _VARINT) + _varint_bytes(value)]
    return [_head(number, len(value)), value]


def _head(number: int, size: int) -> bytes:
    """Encode what stands before the bytes of a field."""
    return _varint_bytes(number << 3 | _BYTES) + _varint_bytes(size)


def _varint(content: memoryview, position: int) -> tuple[int, int]:
    """Decode a varint (seven bits a byte, least first); return it and where it ends."""
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
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def _bytes(value: int | memoryview, size: int | None = None) -> memoryview:
    if isinstance(value, int) or (size is not None and len(value) != size):
        raise ValueError("a field holds something else than expected")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8")


def _signed(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a field holds something else than expected")
    return value - (1 << 64) if value >> 63 else value
