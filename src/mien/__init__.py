"""mien: facial emotion recognition, with scores that mean something.

>>> import mien
>>> recognizer = mien.load()
>>> faces = recognizer.analyze("photo.jpg")
>>> faces[0].emotion, faces[0].confidence

Importing mien is fast: ONNX Runtime, OpenCV and what needs them are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mien.api import Recognizer, load
    from mien.core.display import annotate
    from mien.core.emotions import EMOTIONS
    from mien.core.errors import (
        DataError,
        InputError,
        MienError,
        MissingExtra,
        ModelError,
        NoFaceError,
        OutputError,
        TrainingDiverged,
        UnreadableImage,
        UsageError,
    )
    from mien.core.images import load_image
    from mien.core.results import (
        TABLE_COLUMNS,
        Box,
        Face,
        Faces,
        ModelInfo,
        Quality,
        Result,
        Results,
        result_rows,
        to_pandas,
    )
    from mien.inference.classifier import Classifier
    from mien.inference.detectors import Detection, Detector, load_detector

__version__ = "1.3.0"

__all__ = [
    "EMOTIONS",
    "TABLE_COLUMNS",
    "Box",
    "Classifier",
    "DataError",
    "Detection",
    "Detector",
    "Face",
    "Faces",
    "InputError",
    "MienError",
    "MissingExtra",
    "ModelError",
    "ModelInfo",
    "NoFaceError",
    "OutputError",
    "Quality",
    "Recognizer",
    "Result",
    "Results",
    "TrainingDiverged",
    "UnreadableImage",
    "UsageError",
    "__version__",
    "annotate",
    "load",
    "load_detector",
    "load_image",
    "result_rows",
    "to_pandas",
]

_MODULES = {
    "mien.api": ("Recognizer", "load"),
    "mien.core.emotions": ("EMOTIONS",),
    "mien.core.errors": (
        "DataError",
        "InputError",
        "MienError",
        "MissingExtra",
        "ModelError",
        "NoFaceError",
        "OutputError",
        "TrainingDiverged",
        "UnreadableImage",
        "UsageError",
    ),
    "mien.core.images": ("load_image",),
    "mien.core.results": (
        "TABLE_COLUMNS",
        "Box",
        "Face",
        "Faces",
        "ModelInfo",
        "Quality",
        "Result",
        "Results",
        "result_rows",
        "to_pandas",
    ),
    "mien.core.display": ("annotate",),
    "mien.inference.classifier": ("Classifier",),
    "mien.inference.detectors": ("Detection", "Detector", "load_detector"),
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first access."""
    for module, names in _MODULES.items():
        if name in names:
            value: object = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'mien' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
