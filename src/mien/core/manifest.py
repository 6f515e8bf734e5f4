"""The manifest that travels with a model's weights.

A model is a folder with ``manifest.json`` and the ONNX file it names. Inference reads nothing else:
labels, input contract, temperature, thresholds and hash are all in the manifest.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError
from mien.core.faces import FACE_SIZE
from mien.core.files import sha256_of, write_atomically
from mien.core.models import MANIFEST_NAME, MODEL_NAME
from mien.core.results import ModelInfo
from mien.core.temperature import Temperature

MANIFEST_SCHEMA = "mien-model/1"
PRECISIONS: tuple[str, ...] = ("float32", "int8")
"""In which a network may compute."""

_MOST_BYTES = 16_000_000
_MOST_BIAS = 1000.0

INPUT_CONTRACT: Mapping[str, Any] = {
    "name": "faces",
    "dtype": "uint8",
    "shape": [None, FACE_SIZE, FACE_SIZE],
    "color": "grey",
    "range": [0, 255],
}
"""What every model takes: standard faces (see `mien.core.faces`), any number of them."""

OUTPUT_CONTRACT: Mapping[str, str] = {"logits": "logits", "features": "features"}
"""What every model gives: logits (N, classes), and its last feature map (N, h, w, C)."""


@dataclass(frozen=True)
class ModelFile:
    """The ONNX file beside the manifest: its name, SHA-256 and size."""

    name: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> ModelFile:
        """Describe a file that exists."""
        return cls(path.name, sha256_of(path), path.stat().st_size)


@dataclass(frozen=True)
class Manifest:
    """What is known of a model.

    Attributes:
        name: the model's, as ``mien-b0``.
        version: as ``1.0.0``.
        created: date or time of export, ISO 8601.
        file: the ONNX file.
        labels: the classes in the order of the logits.
        temperature: what the logits are divided by before the softmax, so that scores are
            calibrated.
        entropy_exponent: how much smaller that is for surer faces (see `mien.core.temperature`); 0:
            it is the same for all.
        augmented: the same for the mean over test-time views; None: each view has `temperature`.
        bias: what is added to a class's logit before all else; 0 where a class is missing.
        precision: of the network's arithmetic, "float32" or "int8".
        thresholds: a class's confidence below which a reading is called uncertain; 0 where a class
            is missing.
        data: what it was trained on; metrics: how good it is; config: how it was trained;
            versions: with what. Free dictionaries that JSON can hold.
    """

    name: str
    version: str
    created: str
    file: ModelFile
    labels: tuple[str, ...] = EMOTIONS
    temperature: float = 1.0
    entropy_exponent: float = 0.0
    augmented: Temperature | None = None
    bias: Mapping[str, float] = field(default_factory=dict)
    precision: str = "float32"
    thresholds: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names, ranges and that thresholds belong to labels."""
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ModelError(
                f"expected two or more different labels, got {list(self.labels)!r:.200}"
            )
        if not all(label.strip() for label in self.labels):
            raise ModelError(f"expected a name for each label, got {list(self.labels)!r:.200}")
        try:
            Temperature(self.temperature, self.entropy_exponent)
        except ValueError as error:
            raise ModelError(str(error)) from error
        if self.precision not in PRECISIONS:
            raise ModelError(
                f"expected a precision of {', '.join(PRECISIONS)}, got {self.precision!r:.60}"
            )
        for label, added in self.bias.items():
            if label not in self.labels:
                raise ModelError(f"there is a bias for {label!r:.60}, which is not a label")
            if not abs(added) <= _MOST_BIAS:
                raise ModelError(f"expected a bias from -1000 to 1000, got {added!r} for {label}")
        for label, threshold in self.thresholds.items():
            if label not in self.labels:
                raise ModelError(f"there is a threshold for {label!r:.60}, which is not a label")
            if not 0.0 <= threshold <= 1.0:
                raise ModelError(f"expected a threshold from 0 to 1, got {threshold!r} for {label}")
        name = self.file.name
        if not 0 < len(name) < 256 or "\0" in name or Path(name).name != name:
            raise ModelError(f"expected a file beside the manifest, got {name!r:.60}")

    @property
    def info(self) -> ModelInfo:
        """Return what results say of their model."""
        return ModelInfo(self.name, self.version, self.file.sha256)

    def threshold(self, label: str) -> float:
        """Return the confidence below which a reading of this class is uncertain."""
        return self.thresholds.get(label, 0.0)

    @property
    def softening(self) -> Temperature:
        """Return how the logits of a face become probabilities."""
        return Temperature(self.temperature, self.entropy_exponent)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as ``manifest.json`` has it."""
        augmented = self.augmented
        return {
            "schema": MANIFEST_SCHEMA,
            "name": self.name,
            "version": self.version,
            "created": self.created,
            "labels": list(self.labels),
            "input": dict(INPUT_CONTRACT),
            "outputs": dict(OUTPUT_CONTRACT),
            "temperature": self.temperature,
            "entropy_exponent": self.entropy_exponent,
            "augmented": None
            if augmented is None
            else {"temperature": augmented.base, "entropy_exponent": augmented.exponent},
            "bias": dict(self.bias),
            "precision": self.precision,
            "thresholds": dict(self.thresholds),
            "file": {
                "name": self.file.name,
                "sha256": self.file.sha256,
                "bytes": self.file.size_bytes,
            },
            "data": dict(self.data),
            "metrics": dict(self.metrics),
            "config": dict(self.config),
            "versions": dict(self.versions),
        }


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write ``manifest.json`` into a model's folder, whole or not at all, and return its path.

    Raises:
        OutputError: if it cannot be written.
        ModelError: if it holds what JSON cannot (NaN among them).
    """
    try:
        text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"the manifest cannot be written as JSON: {error}") from error
    path = folder / MANIFEST_NAME
    write_atomically(path, (text + "\n").encode())
    return path


def load_manifest(folder: Path, *, labels: Sequence[str] | None = EMOTIONS) -> Manifest:
    """Read a model's manifest and check it, and the ONNX file's hash, before anything is run.

    Args:
        folder: the model's.
        labels: the classes that are expected, in order; None takes a model with classes of its own.

    Raises:
        ModelError: if the manifest or its file is missing or damaged, or is not what is expected.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = _parse(_read_json(path))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelError(
            f"cannot read {path} ({reason}): expected a folder with "
            f"{MANIFEST_NAME} and {MODEL_NAME}, as mien export writes"
        ) from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: it is not JSON in UTF-8 ({error})") from error
    if labels is not None and manifest.labels != tuple(labels):
        raise ModelError(
            f"{path}: expected the labels {', '.join(labels)} in this order, "
            f"got {', '.join(manifest.labels):.200}"
        )
    check_model_file(folder / manifest.file.name, manifest.file)
    return manifest


def _read_json(path: Path) -> object:
    """Return what a manifest holds; raises OSError, ModelError, ValueError, RecursionError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
        raise ModelError(f"expected a file of at most {_MOST_BYTES // 10**6} MB")
    text = path.read_bytes().decode("utf-8")
    content = json.loads(text, parse_constant=_refuse_constant)
    # Halves of characters, which JSON can spell, could be neither looked for nor shown.
    if "\\u" in text:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def check_model_file(path: Path, expected: ModelFile) -> None:
    """Raise ModelError unless a file is the one that a manifest describes."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size != expected.size_bytes:
            raise ModelError(
                f"{path} does not match its manifest: expected a file of {expected.size_bytes} "
                f"bytes, got {size} bytes; export or install it again"
            )
        found = ModelFile.of(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ModelError(
            f"cannot read {path}, which {MANIFEST_NAME} names: {reason}; export or install it again"
        ) from error
    if found != expected:
        raise ModelError(
            f"{path} does not match its manifest: expected SHA-256 {expected.sha256:.64} "
            f"({expected.size_bytes} bytes), got {found.sha256} ({found.size_bytes} bytes); "
            "export or install it again"
        )


def _parse(content: object) -> Manifest:
    """Check what the JSON holds, field by field, and turn it into a manifest."""
    fields = _typed(content, "the manifest", dict)
    if fields.get("schema") != MANIFEST_SCHEMA:
        raise ModelError(f"expected schema {MANIFEST_SCHEMA!r}, got {fields.get('schema')!r:.60}")
    for key, contract in (("input", INPUT_CONTRACT), ("outputs", OUTPUT_CONTRACT)):
        if fields.get(key) != contract:
            raise ModelError(f"expected {key} {dict(contract)}, got {fields.get(key)!r:.200}")
    file = _typed(fields.get("file"), "file", dict)
    thresholds = _typed(fields.get("thresholds", {}), "thresholds", dict)
    labels = _typed(fields.get("labels"), "labels", list)
    return Manifest(
        name=_typed(fields.get("name"), "name", str),
        version=_typed(fields.get("version"), "version", str),
        created=_typed(fields.get("created"), "created", str),
        file=ModelFile(
            _typed(file.get("name"), "file.name", str),
            _typed(file.get("sha256"), "file.sha256", str),
            _typed(file.get("bytes"), "file.bytes", int),
        ),
        labels=tuple(_typed(label, "a label", str) for label in labels),
        temperature=_number(fields.get("temperature"), "temperature"),
        entropy_exponent=_number(fields.get("entropy_exponent", 0.0), "entropy_exponent"),
        augmented=_augmented(fields.get("augmented")),
        bias={
            label: _number(added, f"bias.{label}")
            for label, added in _typed(fields.get("bias", {}), "bias", dict).items()
        },
        precision=_typed(fields.get("precision", "float32"), "precision", str),
        thresholds={
            label: _number(threshold, f"thresholds.{label}")
            for label, threshold in thresholds.items()
        },
        data=_typed(fields.get("data", {}), "data", dict),
        metrics=_typed(fields.get("metrics", {}), "metrics", dict),
        config=_typed(fields.get("config", {}), "config", dict),
        versions=_typed(fields.get("versions", {}), "versions", dict),
    )


def _augmented(content: object) -> Temperature | None:
    if content is None:
        return None
    fields = _typed(content, "augmented", dict)
    try:
        return Temperature(
            _number(fields.get("temperature"), "augmented.temperature"),
            _number(fields.get("entropy_exponent", 0.0), "augmented.entropy_exponent"),
        )
    except ValueError as error:
        raise ModelError(f"augmented: {error}") from error


def _typed(value: object, what: str, kind: type[Any]) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        names = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}
        raise ModelError(f"expected {what} to be {names[kind]}, got {value!r:.60}")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"expected {what} to be a number, got {value!r:.60}")
    try:
        return float(value)
    except OverflowError as error:
        raise ModelError(f"expected {what} to be a number, got one too large") from error
