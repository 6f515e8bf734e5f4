"""Teachers' logits of seeded views on disk, float16: what a fast machine computed, a slow one uses.

One file a teacher and view, ``<teacher>-<key>-view007.npz``, 14 bytes an image. Its key says what
the pixels follow from (images, augmentation, seed, view), and a probe of the pixels themselves
shows where they came out otherwise: in another version of this project, say.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import InputError
from mien.core.files import replacing
from mien.training.augmentation import Faces
from mien.training.config import Config
from mien.training.teachers import Teacher
from mien.training.views import CHUNK, ViewName

Logits = npt.NDArray[np.float16]
"""Of one teacher for the images of a view, float16 (N, 7), the mean of each row 0."""

_FORMAT = 1
_MIXING = ("mixup", "cutmix", "mix_probability")
_NOT_OF_PIXELS = ("plain_epochs",)
_PROBED = 1024
_PROBE_TOLERANCE = 1.0
_PROBE_SHARE = 0.01
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def rounded(logits: npt.NDArray[np.float32]) -> Logits:
    """Return a network's logits (N, 7) as they are kept; a softmax does not see the shift."""
    return np.asarray(logits - logits.mean(axis=1, keepdims=True), np.float16)


def images_digest(images: Faces) -> str:
    """Return what tells these images, in this order, from others."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()[:16]


@dataclass(frozen=True)
class LogitCache:
    """A folder of teachers' logits, for one recipe and its images.

    Attributes:
        folder: where; made when the first file is written.
        config: the recipe.
        images: digest of the images, see `images_digest`.
        count: how many they are.
    """

    folder: Path
    config: Config
    images: str
    count: int

    def path(self, teacher: Teacher, view: ViewName) -> Path:
        """Return where the logits of a teacher for a view stand, whether or not they do."""
        text = json.dumps(self._key(view), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self.folder / f"{teacher.name}-{digest}-{view}.npz"

    def has(self, teacher: Teacher, view: ViewName) -> bool:
        """Tell whether a file is there."""
        return self.path(teacher, view).is_file()

    def read(self, teacher: Teacher, view: ViewName, faces: Faces) -> Logits:
        """Read the logits of a view.

        Args:
            teacher: whose; where it is at hand, the file must be of that very network.
            view: which.
            faces: the view itself, uint8 (N, 48, 48).

        Raises:
            InputError: if the file is missing, damaged, or of another teacher or other pixels.
        """
        path = self.path(teacher, view)
        header, arrays = _read(path, ("logits", "probe"))
        self._check(header, path, teacher, view)
        logits, seen = arrays
        expected = (self.count, len(self.config.labels))
        if logits.shape != expected or logits.dtype != np.float16:
            raise InputError(
                f"{path} holds {logits.dtype} {logits.shape}: expected float16 "
                f"{expected}; delete it and have it computed again"
            )
        here = _probe(faces)
        if seen.shape != here.shape or np.mean(np.abs(seen - here) > _PROBE_TOLERANCE) > (
            _PROBE_SHARE
        ):
            raise InputError(
                f"{path} is of other pixels than {view} has here: it was computed by another "
                "version of mien or OpenCV; compute it again with this one"
            )
        if not np.isfinite(logits).all():
            raise InputError(f"{path} holds what is not a number: delete it and compute it again")
        return np.asarray(logits, np.float16)

    def digest(self, teacher: Teacher, view: ViewName) -> str:
        """Return the SHA-256 of the network that a file was computed with; raises as `read`."""
        path = self.path(teacher, view)
        header, _ = _read(path, ())
        self._check(header, path, teacher, view)
        return str(header["digest"])

    def write(self, teacher: Teacher, view: ViewName, faces: Faces, logits: Logits) -> None:
        """Keep the logits of a view; raises OutputError if they cannot be written."""
        header = {"teacher": teacher.name, "digest": teacher.digest, "key": self._key(view)}
        text = json.dumps(header, sort_keys=True)
        with replacing(self.path(teacher, view)) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                header=np.frombuffer(text.encode(), np.uint8),
                logits=logits,
                probe=_probe(faces),
            )

    def _key(self, view: ViewName) -> dict[str, Any]:
        """Return all that the pixels of a view follow from."""
        settings = dataclasses.asdict(self.config.augmentation)
        left_out = _NOT_OF_PIXELS if view.mixed else (*_NOT_OF_PIXELS, *_MIXING)
        return {
            "format": _FORMAT,
            "images": self.images,
            "count": self.count,
            "augmentation": {key: settings[key] for key in settings if key not in left_out},
            "seed": self.config.training.seed,
            "chunk": CHUNK,
            "view": view.number,
            "mixed": view.mixed,
            # Only where it is so: files of before it was thought of keep their names.
            **({"sharp": True} if self.config.distill.sharp else {}),
        }

    def _check(self, header: Any, path: Path, teacher: Teacher, view: ViewName) -> None:
        if not isinstance(header, dict) or header.get("key") != self._key(view):
            raise InputError(
                f"{path} is of other images, augmentation, seed or view than its name says: "
                "delete it, or bring back the file that belongs there"
            )
        found = header.get("teacher"), header.get("digest")
        if found[0] != teacher.name or (teacher.digest and found[1] != teacher.digest):
            raise InputError(
                f"{path} was computed with another network than {teacher.file or teacher.source}: "
                "delete it to compute it again, or choose another distill.cache"
            )


def _read(path: Path, names: tuple[str, ...]) -> tuple[Any, list[npt.NDArray[Any]]]:
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(file["header"].tobytes().decode())
            return header, [file[name] for name in names]
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: compute it with mien train --teacher-logits") from (
            error
        )
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged: delete it and have it computed again") from error


def _probe(faces: Faces) -> npt.NDArray[np.float32]:
    """Return one number for each of the first images: a mean grey that a shift or flip changes.

    Another processor may round a grey here and there to its neighbour; that hardly moves it.
    """
    _, height, width = faces.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = (rows + 1) * (columns + 1) ** 2
    ramp /= ramp.sum()
    return np.tensordot(faces[:_PROBED].astype(np.float32), ramp, axes=2).astype(np.float32)
