from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mien


def test_public_names() -> None:
    assert mien.__all__ == [
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


@pytest.mark.parametrize("name", mien.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert getattr(mien, name) is not None
    assert name in dir(mien)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'happyness'"):
        _ = mien.happyness


def test_the_order_of_emotions() -> None:
    assert mien.EMOTIONS == ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def test_importing_loads_no_other_packages() -> None:
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import mien\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "mien.EMOTIONS\n"
        "print(*sorted({'numpy', 'cv2', 'onnxruntime', 'PIL'} & set(sys.modules)))\n"
    )
    source = str(Path(mien.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {source!r})\n{program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    brought, heavy = done.stdout.split("\n")[:2]
    standard = set(sys.stdlib_module_names)
    assert set(brought.split()) - standard == {"mien"}
    assert heavy == ""
