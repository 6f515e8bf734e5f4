"""Knowledge distillation: teachers, their soft targets, and a cache of their logits.

A teacher is the folder of a run, whose ``best.keras`` runs on the recipe's Keras backend, or an
exported model, which runs on ONNX Runtime. Both return raw logits, without calibration. Soft
targets are the mean of the teachers' probabilities at the recipe's temperature: a mean of logits
would follow the most confident teacher.

The cache stores the teachers' logits of views that repeat as float16, so that a slow machine can
train on what a fast one computed: one file per teacher and view, ``<teacher>-<key>-view007.npz``,
14 bytes per image. The key is a hash of everything that determines the pixels (images,
augmentation, seed, view); a probe of the pixels detects those that another version of mien or
OpenCV has rendered differently.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.emotions import EMOTIONS
from mien.core.errors import InputError, ModelError, UsageError, error_reason
from mien.core.files import replace_atomically, sha256_of
from mien.core.manifest import INPUT_CONTRACT, OUTPUT_CONTRACT, load_manifest
from mien.core.models import MANIFEST_NAME, find_model
from mien.core.progress import Progress
from mien.training.backend import prepare_backend
from mien.training.data import load_training_data
from mien.training.model import load_keras_model, predict, without_xla
from mien.training.recipe import Config
from mien.training.run_folder import ARCHIVE_ERRORS, RunFolder
from mien.training.transforms import CHUNK, Faces, Floats, View

LogitFunction = Callable[[Faces], Floats]
"""A teacher's network: standard faces, uint8 (N, 48, 48), to logits, float32 (N, classes)."""

Logits = npt.NDArray[np.float16]
"""Logits as they are cached: float16 (N, classes), rows with mean 0."""

_BATCH = 256


# ---------------------------------------------------------------- one teacher
@dataclass(frozen=True)
class Teacher:
    """A teacher of a recipe, which need not exist if its logits are cached.

    Attributes:
        source: its name in the recipe.
        file: its ``best.keras`` or ``model.onnx``; None if it is missing.
        digest: SHA-256 of that file; empty if it is missing.
    """

    source: str
    file: Path | None = None
    digest: str = ""

    @property
    def name(self) -> str:
        """Name of its folder, which its cached logits are stored under."""
        return Path(self.source).name

    def not_found(self) -> ModelError:
        """Return the error for a missing teacher that is needed."""
        return ModelError(
            f"no teacher {self.source!r}: expected a run's folder with best.keras in it, an "
            f"exported model's folder with {MANIFEST_NAME}, or a bundled model's name"
        )


def find_teacher(source: str, labels: Sequence[str] = EMOTIONS) -> Teacher:
    """Look for a teacher; a missing one is no error yet.

    Args:
        source: its name in the recipe.
        labels: the class names that it must have, in order.

    Raises:
        ModelError: if an exported model is damaged, or has other classes.
    """
    best = RunFolder(Path(source)).best
    if best.is_file():
        return Teacher(source, best, sha256_of(best))
    try:
        folder = find_model(source)
    except ModelError:
        return Teacher(source)
    if not (folder / MANIFEST_NAME).is_file():
        return Teacher(source)
    manifest = load_manifest(folder, labels=labels)
    return Teacher(source, folder / manifest.file.name, manifest.file.sha256)


def open_teacher(teacher: Teacher, *, batch: int, threads: int = 0) -> LogitFunction:
    """Open a teacher's network; Keras must be set up already.

    Args:
        teacher: of `find_teacher`.
        batch: number of faces per call of the network.
        threads: ONNX Runtime's threads, 0 for all.

    Raises:
        ModelError: if it is missing, damaged, or not a network of this project.
    """
    if teacher.file is None:
        raise teacher.not_found()
    if teacher.file.suffix == ".keras":
        return _open_keras(teacher.file, batch)
    return open_onnx(teacher.file, batch=batch, threads=threads)


def _open_keras(path: Path, batch: int) -> LogitFunction:
    import keras

    model = load_keras_model(path)
    try:
        network = keras.Model(model.input, model.get_layer("logits").output)
    except ValueError as error:
        raise ModelError(f"{path} is no teacher: expected a network of this project") from error
    return partial(predict, without_xla(network), batch=batch)


def open_onnx(
    path: Path, *, batch: int, threads: int = 0, output: str = OUTPUT_CONTRACT["logits"]
) -> LogitFunction:
    """Open one output of an exported network; otherwise as `open_teacher`."""
    from mien.core.onnx_runtime import new_session

    try:
        session = new_session(str(path), threads=threads)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ModelError(
            f"{path} is not an ONNX model that can be run ({error_reason(error)})"
        ) from error

    def logits(faces: Faces) -> Floats:
        faces = np.ascontiguousarray(faces)
        batches = (faces[start : start + batch] for start in range(0, len(faces), batch))
        outputs = [session.run([output], {INPUT_CONTRACT["name"]: part})[0] for part in batches]
        return np.concatenate(outputs, dtype=np.float32)

    return logits


# ---------------------------------------------------------------- cached logits
_FORMAT = 1
_MIXING_KEYS = ("mixup", "cutmix", "mix_probability")
_IRRELEVANT_KEYS = ("plain_epochs",)
_PROBE_IMAGES = 1024
_PROBE_TOLERANCE = 1.0
_PROBE_SHARE = 0.01


class LogitCache:
    """Folder with teachers' logits for one recipe and its images; created by the first write.

    Args:
        folder: the folder.
        config: the recipe.
        images: the training images, uint8 (N, 48, 48).
    """

    def __init__(self, folder: Path, config: Config, images: Faces) -> None:
        self.folder = folder
        self._config = config
        self._count = len(images)
        self._images = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()[:16]

    def path(self, teacher: Teacher, view: View) -> Path:
        """Return the path of a teacher's logits for a view, whether or not it exists."""
        text = json.dumps(self._key(view), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self.folder / f"{teacher.name}-{digest}-{view}.npz"

    def read(self, teacher: Teacher, view: View, faces: Faces) -> Logits:
        """Read the logits of a view, whose faces are uint8 (N, 48, 48).

        Raises:
            InputError: if the file is missing, damaged, or from another teacher or other pixels.
        """
        _, logits, stored = self._open(teacher, view)
        probe = _probe(faces)
        same_shape = stored.shape == probe.shape
        if not same_shape or np.mean(np.abs(stored - probe) > _PROBE_TOLERANCE) > _PROBE_SHARE:
            raise InputError(
                f"{self.path(teacher, view)} was computed from other pixels than {view} has here, "
                "by another version of mien or OpenCV: compute it again with this one"
            )
        return logits

    def digest(self, teacher: Teacher, view: View) -> str:
        """Return the SHA-256 of the network that computed a file; raises as `read`."""
        return self._open(teacher, view)[0]

    def write(self, teacher: Teacher, view: View, faces: Faces, logits: Logits) -> None:
        """Store the logits of a view; raises OutputError."""
        header = {"teacher": teacher.name, "digest": teacher.digest, "key": self._key(view)}
        text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
        with (
            replace_atomically(self.path(teacher, view)) as temporary,
            temporary.open("wb") as stream,
        ):
            np.savez(stream, header=text, logits=logits, probe=_probe(faces))

    def _key(self, view: View) -> dict[str, Any]:
        """Return everything that determines the pixels of a view."""
        settings = dataclasses.asdict(self._config.augmentation)
        excluded = _IRRELEVANT_KEYS if view.mixed else (*_IRRELEVANT_KEYS, *_MIXING_KEYS)
        return {
            "format": _FORMAT,
            "images": self._images,
            "count": self._count,
            "augmentation": {key: settings[key] for key in settings if key not in excluded},
            "seed": self._config.training.seed,
            "chunk": CHUNK,
            "view": view.number,
            "mixed": view.mixed,
            # Added only if true, so that older files keep their names.
            **({"sharp": True} if self._config.distill.sharp else {}),
        }

    def _open(self, teacher: Teacher, view: View) -> tuple[str, Logits, Floats]:
        """Return a file's digest, logits and probe; the probe is not checked yet."""
        path, shape = self.path(teacher, view), (self._count, len(self._config.labels))
        try:
            # Opened here because NumPy leaves a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes().decode())
                logits, probe = file["logits"], file["probe"]
                name, digest = header["teacher"], str(header["digest"])
                valid = header["key"] == self._key(view) and logits.shape == shape
                valid = valid and logits.dtype == np.float16 and bool(np.isfinite(logits).all())
        except FileNotFoundError as error:
            raise InputError(
                f"{path} is missing: compute it with mien train --teacher-logits"
            ) from error
        except (*ARCHIVE_ERRORS, TypeError):
            valid = False
        if not valid:
            raise InputError(
                f"{path} is damaged, or from other images, augmentation, seed or view than its "
                "name says: delete it to compute it again"
            )
        if name != teacher.name or (teacher.digest and digest != teacher.digest):
            raise InputError(
                f"{path} was computed with another network than {teacher.file or teacher.source}: "
                "delete it to compute it again, or choose another distill.cache"
            )
        return digest, logits, probe


def compact_logits(logits: Floats) -> Logits:
    """Return logits (N, classes) as they are cached; a softmax does not depend on the shift."""
    return np.asarray(logits - logits.mean(axis=1, keepdims=True), np.float16)


def _probe(faces: Faces) -> Floats:
    """Return a weighted mean of each of the first faces, which shifts and flips change."""
    _, height, width = faces.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = (rows + 1) * (columns + 1) ** 2
    ramp /= ramp.sum()
    return np.tensordot(faces[:_PROBE_IMAGES].astype(np.float32), ramp, axes=2).astype(np.float32)


# ---------------------------------------------------------------- all teachers
def mean_probabilities(logits: Sequence[Logits], temperature: float) -> Floats:
    """Return the mean over teachers of softmax(logits / temperature), float32 (N, classes)."""
    scaled = np.stack(logits).astype(np.float32) / np.float32(temperature)
    powers = np.exp(scaled - scaled.max(axis=2, keepdims=True))
    return np.asarray((powers / powers.sum(axis=2, keepdims=True)).mean(axis=0), np.float32)


def add_log_odds(probabilities: Floats, log_odds: Floats, temperature: float) -> Floats:
    """Add log-odds at temperature 1 to probabilities at another temperature, both (N, classes)."""
    shifted = log_odds - log_odds.max(axis=1, keepdims=True)
    weighted = probabilities * np.exp(shifted / temperature)
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True), np.float32)


class TeacherEnsemble:
    """The teachers of a run. Keras must be set up already.

    Teachers whose logits are not all cached are opened at once.

    Attributes:
        teachers: in the order of the recipe.
        views: all views of the run that repeat; empty if none do.
        cache: their cached logits; None if the recipe has no cache.

    Args:
        config: the recipe, with at least one teacher.
        images: the training images, uint8 (N, 48, 48).
        log_odds: of the FER+ votes on each image, float32 (N, 7), see `vote_log_odds`; used only
            with views.
        quiet: no progress bars.

    Raises:
        ModelError: if a teacher is needed and missing, or damaged.
        InputError: if a cached file is damaged or from another teacher.
    """

    def __init__(
        self, config: Config, images: Faces, *, log_odds: Floats | None = None, quiet: bool = False
    ) -> None:
        settings = config.distill
        self._config, self._log_odds, self._quiet = config, log_odds, quiet
        self.teachers = [find_teacher(source, config.labels) for source in settings.teachers]
        self.views = View.all_of(config) if settings.views else []
        self.cache = LogitCache(Path(settings.cache), config, images) if settings.cache else None
        self._targets: dict[View, Floats] = {}
        self._networks: dict[str, LogitFunction] = {}
        for teacher in self.teachers:
            missing = self._missing_views(teacher)
            if missing and teacher.file is None and self.cache is not None:
                raise ModelError(
                    f"{teacher.not_found()}; or its logits of {missing} more views in "
                    f"{self.cache.folder}, computed by mien train --teacher-logits"
                )
            if missing:
                self._networks[teacher.name] = open_teacher(
                    teacher,
                    batch=_BATCH if settings.views else config.training.batch_size,
                    threads=config.training.threads,
                )

    def _missing_views(self, teacher: Teacher) -> int:
        """Return how many views a teacher has to be run on; without a cache, at least one."""
        if self.cache is None:
            return max(1, len(self.views))
        return sum(not self.cache.path(teacher, view).is_file() for view in self.views)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher by name, from its file or else from the cache.

        Raises:
            InputError: if the cache has logits of one teacher from several networks.
        """
        digests = {}
        for teacher in self.teachers:
            candidates = {teacher.digest}
            if not teacher.digest and self.cache is not None:
                candidates = {self.cache.digest(teacher, view) for view in self.views}
                if len(candidates) > 1:
                    raise InputError(
                        f"the logits of {teacher.name} in {self.cache.folder} were computed with "
                        f"{len(candidates)} different networks: compute them again with one"
                    )
            digests[teacher.name] = candidates.pop()
        return digests

    def soft_targets(self, faces: Faces) -> Floats:
        """Return the ensemble's probabilities, float32 (N, 7), for faces, uint8 (N, 48, 48)."""
        logits = [
            self._compact(teacher, self._networks[teacher.name](faces)) for teacher in self.teachers
        ]
        return mean_probabilities(logits, self._config.distill.temperature)

    def soft_targets_of_view(self, view: View, faces: Faces) -> Floats:
        """Return the ensemble's probabilities for a whole view, float32 (N, 7).

        They stay in memory, and the logits in the cache.

        Args:
            view: the view.
            faces: its faces, uint8 (N, 48, 48), in the order of the images.

        Raises:
            InputError: if a cached file is damaged or from another teacher or other pixels.
            OutputError: if a new file cannot be written.
        """
        if view not in self._targets:
            settings = self._config.distill
            logits = [self._logits(teacher, view, faces) for teacher in self.teachers]
            targets = mean_probabilities(logits, settings.temperature)
            if self._log_odds is not None:
                log_odds = self._log_odds * settings.votes
                targets = add_log_odds(targets, log_odds, settings.temperature)
            self._targets[view] = targets
        return self._targets[view]

    def _logits(self, teacher: Teacher, view: View, faces: Faces) -> Logits:
        if self.cache is not None and self.cache.path(teacher, view).is_file():
            return self.cache.read(teacher, view, faces)
        if teacher.name not in self._networks:
            raise teacher.not_found()
        network = self._networks[teacher.name]
        outputs = []
        label = f"teacher {teacher.name}  {view}"
        with Progress(label, len(faces), unit="img", quiet=self._quiet) as progress:
            for start in range(0, len(faces), _BATCH):
                batch = faces[start : start + _BATCH]
                outputs.append(network(batch))
                progress.advance(len(batch))
        logits = self._compact(teacher, np.concatenate(outputs))
        if self.cache is not None:
            self.cache.write(teacher, view, faces, logits)
        return logits

    def _compact(self, teacher: Teacher, logits: Floats) -> Logits:
        """Check a teacher's logits and return them as they are cached."""
        compact, labels = compact_logits(logits), self._config.labels
        if compact.shape[1] != len(labels) or not np.isfinite(compact).all():
            raise ModelError(
                f"the teacher {teacher.file} returned {compact.shape[1]} logits per face, or NaN: "
                f"expected {len(labels)}, of {', '.join(labels)}"
            )
        return compact


# ---------------------------------------------------------------- filling the cache
def cache_teacher_logits(config: Config, *, quiet: bool = False) -> dict[str, Any]:
    """Compute the teachers' logits that are missing in the recipe's cache.

    Each file is written as soon as it is computed, so an interrupted call can be repeated. With the
    cache complete, the recipe trains without the teachers.

    Returns:
        The cache's "folder", its "teachers", the numbers of its "views" and "files" (one per
        teacher and view), how many of these were "computed" now, and "size_bytes" of all.

    Raises:
        UsageError: if the recipe names no teachers, views or cache.
        ModelError: if a teacher is missing or damaged.
        InputError: if a cached file is damaged or from another teacher or other pixels.
        DataError: if the data are missing, empty or malformed.
        OutputError: if a file cannot be written.
    """
    settings = config.distill
    if not (settings.teachers and settings.cache):
        raise UsageError(
            "there are no teachers' logits to compute: expected a recipe with distill.teachers, "
            "distill.views and distill.cache"
        )
    data = load_training_data(config, quiet=quiet)
    prepare_backend(config.training)
    ensemble = TeacherEnsemble(config, data.train.images, quiet=quiet)
    teachers, views, cache = ensemble.teachers, ensemble.views, ensemble.cache
    assert cache is not None
    files = [cache.path(teacher, view) for teacher in teachers for view in views]
    missing = [path for path in files if not path.is_file()]
    dataset = data.dataset(config)
    for view in views:
        ensemble.soft_targets_of_view(view, dataset.render_view(config, view).teacher_images)
    # The logits of a teacher that is missing here must all be from one network.
    ensemble.digests()
    return {
        "folder": settings.cache,
        "teachers": [teacher.name for teacher in teachers],
        "views": len(views),
        "files": len(files),
        "computed": len(missing),
        "size_bytes": sum(path.stat().st_size for path in files),
    }
