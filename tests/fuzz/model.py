"""Any manifest, and any network, as a model's folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fuzz.harness import changed, check, damaged, fuzz
from mien.core.emotions import EMOTIONS
from mien.core.images import FACE_SIZE
from mien.core.manifest import ModelFile, load_manifest
from mien.core.models import MANIFEST_NAME, MODEL_NAME
from mien.inference.classifier import Classifier
from tiny_model import write_tiny_model

_FOLDER = write_tiny_model(Path(tempfile.mkdtemp()) / "tiny", EMOTIONS, 1.0, {"happy": 0.5})
_NETWORK = (_FOLDER / MODEL_NAME).read_bytes()
_MANIFEST = json.loads((_FOLDER / MANIFEST_NAME).read_bytes())
_TEXT = json.dumps(_MANIFEST, indent=2).encode()
_TOKENS = [
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"NaN", b"-Infinity", b"1e999", b"\\ud800",
    b"[" * 3000, b"9" * 5000, b"\xff", b"\xef\xbb\xbf", b"..", b"/",
]  # fmt: skip
_FACES = np.zeros((2, FACE_SIZE, FACE_SIZE), np.uint8)


@given(st.one_of(changed(_MANIFEST), damaged([_TEXT], _TOKENS)))
def a_manifest(content: bytes) -> None:
    (_FOLDER / MODEL_NAME).write_bytes(_NETWORK)
    (_FOLDER / MANIFEST_NAME).write_bytes(content)

    def read() -> None:
        manifest = load_manifest(_FOLDER, labels=None)
        try:
            _predict()
        finally:  # what was read can be written
            json.dumps(manifest.to_dict(), allow_nan=False).encode()

    check("manifest.json", content, read)


@given(damaged([_NETWORK], [b"\x08", b"\x12", b"faces", b"logits"]))
def a_network(content: bytes) -> None:
    path = _FOLDER / MODEL_NAME
    path.write_bytes(content)
    file = ModelFile.of(path)
    described = {"name": file.name, "sha256": file.sha256, "bytes": file.size_bytes}
    (_FOLDER / MANIFEST_NAME).write_text(json.dumps({**_MANIFEST, "file": described}))
    check("model.onnx", content, _predict)


def _predict() -> None:
    logits = Classifier.open(_FOLDER, threads=1, labels=None).logits(_FACES)
    assert logits.shape[0] == len(_FACES)


if __name__ == "__main__":
    fuzz(a_manifest, a_network)
