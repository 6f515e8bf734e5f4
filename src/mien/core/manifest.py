"""Model manifest: ``manifest.json``, which describes the ONNX file next to it.

It holds everything that inference needs: labels, input contract, calibration, thresholds and hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.core.calibration import Temperature
from mien.core.checks import check_list, check_type
from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError, error_reason
from mien.core.files import sha256_of, write_atomically
from mien.core.images import FACE_SIZE
from mien.core.models import MANIFEST_NAME, MODEL_NAME, READINGS
from mien.core.results import ModelInfo

MANIFEST_SCHEMA = "mien-model/1"
PRECISIONS: tuple[str, ...] = ("float32", "int8")
"""Number formats of a network."""

_MAX_BYTES = 16_000_000
_MAX_BIAS = 1000.0

INPUT_CONTRACT: Mapping[str, Any] = {
    "name": "faces",
    "dtype": "uint8",
    "shape": [None, FACE_SIZE, FACE_SIZE],
    "color": "grey",
    "range": [0, 255],
}
"""Input of every model: any number of faces from `mien.core.images.standard_face`."""

OUTPUT_CONTRACT: Mapping[str, str] = {"logits": "logits", "features": "features"}
"""Outputs of every model: logits (N, classes), and the last feature map (N, h, w, C)."""

PEOPLE_OUTPUTS: Mapping[str, str] = {"logits": "people_logits", "features": "people_features"}
"""Outputs of the reading "people" in a network that has another reading as well."""


# ---------------------------------------------------------------- manifests
@dataclass(frozen=True)
class ModelFile:
    """Name, SHA-256 and size of the ONNX file next to the manifest."""

    name: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> ModelFile:
        """Describe an existing file; raises OSError if it is missing."""
        return cls(path.name, sha256_of(path), path.stat().st_size)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One set of labels that a network was trained on: its outputs, calibration and provenance.

    Attributes:
        outputs: names of its logits and of their last feature map among the network's outputs.
        temperature: divisor of the logits before the softmax; see `mien.core.calibration`.
        entropy_exponent: as in `Temperature`; 0 for the same temperature for all faces.
        augmented: calibration of the mean over test-time views, or None to calibrate each view by
            `calibration`.
        bias: added to the logits of a class first of all; 0 for missing classes.
        thresholds: confidence below which a face of this class is uncertain; 0 for missing classes.
        data: what it was trained on. Like the next two, a free JSON object.
        metrics: how well it performs.
        config: how it was trained.
    """

    outputs: Mapping[str, str] = field(default_factory=lambda: dict(OUTPUT_CONTRACT))
    temperature: float = 1.0
    entropy_exponent: float = 0.0
    augmented: Temperature | None = None
    bias: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            Temperature(self.temperature, self.entropy_exponent)
        except ValueError as error:
            raise ModelError(str(error)) from error
        for label, bias in self.bias.items():
            if not abs(bias) <= _MAX_BIAS:
                raise ModelError(f"expected a bias from -1000 to 1000, got {bias!r} for {label}")
        for label, threshold in self.thresholds.items():
            if not 0.0 <= threshold <= 1.0:
                raise ModelError(f"expected a threshold from 0 to 1, got {threshold!r} for {label}")

    def threshold(self, label: str) -> float:
        """Return the confidence below which a face of this class is uncertain."""
        return self.thresholds.get(label, 0.0)

    @property
    def calibration(self) -> Temperature:
        """Converts the logits of a face to probabilities."""
        return Temperature(self.temperature, self.entropy_exponent)

    def _calibration_dict(self) -> dict[str, Any]:
        augmented = self.augmented
        return {
            "outputs": dict(self.outputs),
            "temperature": self.temperature,
            "entropy_exponent": self.entropy_exponent,
            "augmented": None
            if augmented is None
            else {"temperature": augmented.base, "entropy_exponent": augmented.exponent},
            "bias": dict(self.bias),
            "thresholds": dict(self.thresholds),
        }

    def _provenance_dict(self) -> dict[str, Any]:
        return {key: dict(getattr(self, key)) for key in ("data", "metrics", "config")}


@dataclass(frozen=True, kw_only=True)
class Manifest(Reading):
    """Description of a model; itself the `Reading` in use.

    Attributes:
        name: as ``mien-b0``.
        version: as ``1.0.0``.
        created: date or time of export, ISO 8601.
        file: the ONNX file.
        labels: the classes in the order of the logits.
        reading: name of the reading in use, one of `READINGS`; by default "fer2013" for the seven
            emotions and "own" for other classes.
        others: the network's other readings, by name.
        precision: number format of the network, one of `PRECISIONS`.
        versions: versions of the packages it was trained with.
    """

    name: str
    version: str
    created: str
    file: ModelFile
    labels: tuple[str, ...] = EMOTIONS
    reading: str = ""
    others: Mapping[str, Reading] = field(default_factory=dict)
    precision: str = "float32"
    versions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = self.labels
        if len(set(labels)) != len(labels) or len(labels) < 2:
            raise ModelError(f"expected two or more different labels, got {list(labels)!r:.200}")
        if not all(label.strip() for label in labels):
            raise ModelError(f"expected a name for each label, got {list(labels)!r:.200}")
        if not self.reading:
            object.__setattr__(self, "reading", "fer2013" if labels == EMOTIONS else "own")
        if self.precision not in PRECISIONS:
            raise ModelError(
                f"expected a precision of {', '.join(PRECISIONS)}, got {self.precision!r:.60}"
            )
        for name in self.readings:
            if name not in READINGS:
                raise ModelError(f"expected a reading of {', '.join(READINGS)}, got {name!r:.60}")
        for reading in (self, *self.others.values()):
            for what, values in (("bias", reading.bias), ("threshold", reading.thresholds)):
                for label in values:
                    if label not in labels:
                        raise ModelError(f"{what} for {label!r:.60}, which is not a label")
        name = self.file.name
        if not 0 < len(name) < 256 or "\0" in name or Path(name).name != name:
            raise ModelError(f"expected a file next to the manifest, got {name!r:.60}")

    @property
    def readings(self) -> tuple[str, ...]:
        """Names of all readings, the one in use first."""
        return (self.reading, *self.others)

    def with_reading(self, reading: str | None) -> Manifest:
        """Return the manifest with another reading in use.

        Args:
            reading: its name; None for "people" if the model has it, else the one in use.

        Raises:
            ModelError: if the model has no such reading.
        """
        if reading is None:
            reading = "people" if "people" in self.readings else self.reading
        check_type("labels", reading, str, "a text")
        if reading == self.reading:
            return self
        if reading not in self.others:
            raise ModelError(
                f"the model {self.name} {self.version} has no labels {reading!r:.60}: "
                f"expected {' or '.join(self.readings)}"
            )
        others = {self.reading: Reading(**_reading_fields(self)), **self.others}
        chosen = _reading_fields(others.pop(reading))
        return dataclasses.replace(self, reading=reading, others=others, **chosen)

    @property
    def info(self) -> ModelInfo:
        """The model's identity in results."""
        return ModelInfo(self.name, self.version, self.file.sha256, self.reading)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as a JSON object.

        The reading with the outputs of `OUTPUT_CONTRACT` is at the top level, for programs that
        support a single reading.
        """
        first = [name for name, other in self.others.items() if other.outputs == OUTPUT_CONTRACT]
        if self.outputs != OUTPUT_CONTRACT and first:
            return self.with_reading(first[0]).to_dict()
        return {
            "schema": MANIFEST_SCHEMA,
            "name": self.name,
            "version": self.version,
            "created": self.created,
            "labels": list(self.labels),
            "input": dict(INPUT_CONTRACT),
            "precision": self.precision,
            "reading": self.reading,
            **self._calibration_dict(),
            "readings": {
                name: {**other._calibration_dict(), **other._provenance_dict()}
                for name, other in self.others.items()
            },
            "file": {
                "name": self.file.name,
                "sha256": self.file.sha256,
                "bytes": self.file.size_bytes,
            },
            **self._provenance_dict(),
            "versions": dict(self.versions),
        }


def _reading_fields(reading: Reading) -> dict[str, Any]:
    return {item.name: getattr(reading, item.name) for item in dataclasses.fields(Reading)}


# ---------------------------------------------------------------- files
def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write ``manifest.json`` into a model's folder, atomically, and return its path.

    Raises:
        OutputError: if it cannot be written.
        ModelError: if it contains values that JSON does not support (such as NaN).
    """
    try:
        text = json.dumps(manifest.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"the manifest cannot be written as JSON: {error}") from error
    path = folder / MANIFEST_NAME
    write_atomically(path, (text + "\n").encode())
    return path


def load_manifest(
    folder: Path, *, labels: Sequence[str] | None = EMOTIONS, check_file: bool = True
) -> Manifest:
    """Load and validate a model's manifest, and check its ONNX file, without running the model.

    Args:
        folder: the model's folder.
        labels: the expected classes, in order; None accepts any.
        check_file: check the ONNX file too, as `read_model_file` does.

    Raises:
        ModelError: if the manifest or its file is missing or damaged, or is not as expected.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = _parse(_read_json(path))
    except OSError as error:
        raise ModelError(
            f"cannot read {path} ({error_reason(error)}): expected a folder with "
            f"{MANIFEST_NAME} and {MODEL_NAME}, as mien export writes"
        ) from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: not JSON in UTF-8 ({error})") from error
    if labels is not None:
        check_list("labels", labels)
        labels = tuple(labels)
        check_list("labels", labels, str, "a list of texts")
        if manifest.labels != labels:
            raise ModelError(
                f"{path}: expected the labels {', '.join(labels)} in this order, "
                f"got {', '.join(manifest.labels):.200}"
            )
    if check_file:
        read_model_file(folder / manifest.file.name, manifest.file)
    return manifest


def read_model_file(path: Path, expected: ModelFile) -> bytes:
    """Return the content of an ONNX file after checking it against its manifest.

    Raises:
        ModelError: if it is missing or does not match.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if path.is_file() and size == expected.size_bytes else None
    except OSError as error:
        raise ModelError(
            f"cannot read {path}, which {MANIFEST_NAME} names: {error_reason(error)}; "
            "export or install it again"
        ) from error
    if content is None:
        raise ModelError(
            f"{path} does not match its manifest: expected a file of {expected.size_bytes} "
            f"bytes, got {size} bytes; export or install it again"
        )
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != expected.sha256:
        raise ModelError(
            f"{path} does not match its manifest: expected SHA-256 {expected.sha256:.64} "
            f"({expected.size_bytes} bytes), got {sha256} ({len(content)} bytes); "
            "export or install it again"
        )
    return content


# ---------------------------------------------------------------- parsing
def _read_json(path: Path) -> object:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
        raise ModelError(f"expected a file of at most {_MAX_BYTES // 10**6} MB")
    text = path.read_bytes().decode("utf-8")
    content = json.loads(text, parse_constant=_reject_constant)
    # JSON escapes can spell lone surrogates, which cannot be encoded.
    if "\\u" in text:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    return content


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _parse(content: object) -> Manifest:
    """Build the manifest from its JSON, checking the type of every field."""
    fields = _typed(content, "the manifest", dict)
    if fields.get("schema") != MANIFEST_SCHEMA:
        raise ModelError(f"expected schema {MANIFEST_SCHEMA!r}, got {fields.get('schema')!r:.60}")
    for key, contract in (("input", INPUT_CONTRACT), ("outputs", OUTPUT_CONTRACT)):
        if fields.get(key) != contract:
            raise ModelError(f"expected {key} {dict(contract)}, got {fields.get(key)!r:.200}")
    file = _typed(fields.get("file"), "file", dict)
    labels = _typed(fields.get("labels"), "labels", list)
    others = _typed(fields.get("readings", {}), "readings", dict)
    return Manifest(
        **{key: _typed(fields.get(key), key, str) for key in ("name", "version", "created")},
        file=ModelFile(
            _typed(file.get("name"), "file.name", str),
            _typed(file.get("sha256"), "file.sha256", str),
            _typed(file.get("bytes"), "file.bytes", int),
        ),
        labels=tuple(_typed(label, "a label", str) for label in labels),
        reading=_typed(fields.get("reading", ""), "reading", str),
        others={
            name: Reading(**_parse_reading(_typed(other, f"readings.{name:.60}", dict)))
            for name, other in others.items()
        },
        precision=_typed(fields.get("precision", "float32"), "precision", str),
        versions=_typed(fields.get("versions", {}), "versions", dict),
        **_parse_reading(fields),
    )


def _parse_reading(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Reading` from JSON, checking their types."""
    outputs = _typed(fields.get("outputs"), "outputs", dict)
    if outputs not in (OUTPUT_CONTRACT, PEOPLE_OUTPUTS):
        raise ModelError(f"expected outputs {dict(PEOPLE_OUTPUTS)}, got {outputs!r:.200}")
    parsed: dict[str, Any] = {
        "outputs": outputs,
        "temperature": _number(fields.get("temperature"), "temperature"),
        "entropy_exponent": _number(fields.get("entropy_exponent", 0.0), "entropy_exponent"),
    }
    if fields.get("augmented") is not None:
        augmented = _typed(fields["augmented"], "augmented", dict)
        base = _number(augmented.get("temperature"), "augmented.temperature")
        exponent = _number(augmented.get("entropy_exponent", 0.0), "augmented.entropy_exponent")
        try:
            parsed["augmented"] = Temperature(base, exponent)
        except ValueError as error:
            raise ModelError(f"augmented: {error}") from error
    for key in ("bias", "thresholds"):
        values = _typed(fields.get(key, {}), key, dict)
        parsed[key] = {label: _number(value, f"{key}.{label}") for label, value in values.items()}
    for key in ("data", "metrics", "config"):
        parsed[key] = _typed(fields.get(key, {}), key, dict)
    return parsed


def _typed(value: object, what: str, expected: type[Any]) -> Any:
    if not isinstance(value, expected) or isinstance(value, bool):
        names = {dict: "an object", list: "a list", str: "a string", int: "an integer"}
        raise ModelError(f"expected {what} to be {names[expected]}, got {value!r:.60}")
    return value


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"expected {what} to be a number, got {value!r:.60}")
    try:
        return float(value)
    except OverflowError as error:
        raise ModelError(f"expected {what} to be a number, got one that is too large") from error
