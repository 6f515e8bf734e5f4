"""Knowledge distillation: teachers, what they say of the faces a student sees, and its cache.

A teacher is a run's folder, whose ``best.keras`` runs on the recipe's Keras backend, or an exported
model, which runs on ONNX Runtime. Both give raw logits, without a calibrated temperature. The
ensemble's answer is the mean of probabilities at the recipe's temperature: a mean of logits would
follow the most confident teacher.

The cache holds the teachers' logits of views that repeat, float16, so that a slow machine can train
on what a fast one computed: one file a teacher and view, ``<teacher>-<key>-view007.npz``, 14 bytes
an image. The key is a hash of what determines the pixels (images, augmentation, seed, view); a
probe of the pixels finds those that another version of mien or OpenCV drew otherwise.
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
from mien.core.errors import InputError, ModelError, UsageError
from mien.core.files import replace_atomically, sha256_of
from mien.core.manifest import INPUT_CONTRACT, OUTPUT_CONTRACT, load_manifest
from mien.core.models import MANIFEST_NAME, find_model
from mien.core.progress import Progress
from mien.training.backend import prepare_backend
from mien.training.data import load_training_data
from mien.training.model import load_keras_model, predict, without_xla
from mien.training.recipe import Config
from mien.training.run import DAMAGED, RunFolder
from mien.training.transforms import CHUNK, Faces, Floats, View

Network = Callable[[Faces], Floats]
"""Standard faces, uint8 (N, 48, 48), to logits, float32 (N, classes)."""

Logits = npt.NDArray[np.float16]
"""Of one teacher for many faces, float16 (N, classes), the mean of each row 0."""

_BATCH = 256


# ---------------------------------------------------------------- one teacher
@dataclass(frozen=True)
class Teacher:
    """A teacher that may or may not be there.

    Attributes:
        source: what the recipe calls it.
        file: its ``best.keras`` or ``model.onnx``, None where there is none.
        digest: SHA-256 of that file, empty where there is none.
    """

    source: str
    file: Path | None = None
    digest: str = ""

    @property
    def name(self) -> str:
        """Its folder's name, which its cached logits go by."""
        return Path(self.source).name

    def missing(self) -> ModelError:
        """Return the error for one that is needed and not there."""
        return ModelError(
            f"no teacher {self.source!r}: expected a run's folder with best.keras in it, an "
            f"exported model's folder with {MANIFEST_NAME}, or a bundled model's name"
        )


def find_teacher(source: str, labels: Sequence[str] = EMOTIONS) -> Teacher:
    """Look for a teacher; one that is not there is no error as long as its logits are.

    Args:
        source: what the recipe calls it.
        labels: the classes that it must tell apart, in order.

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


def open_teacher(teacher: Teacher, *, batch: int, threads: int = 0) -> Network:
    """Open a teacher for batches of faces; Keras must be set up already.

    ``threads`` are ONNX Runtime's, 0 for all.

    Raises:
        ModelError: if it is missing, damaged, or not a network of this project.
    """
    if teacher.file is None:
        raise teacher.missing()
    if teacher.file.suffix == ".keras":
        return _open_keras(teacher.file, batch)
    return open_onnx(teacher.file, batch=batch, threads=threads)


def _open_keras(path: Path, batch: int) -> Network:
    import keras

    whole = load_keras_model(path)
    try:
        network = keras.Model(whole.input, whole.get_layer("logits").output)
    except ValueError as error:
        raise ModelError(f"{path} is no teacher: expected a network of this project") from error
    return partial(predict, without_xla(network), batch=batch)


def open_onnx(
    path: Path, *, batch: int, threads: int = 0, output: str = OUTPUT_CONTRACT["logits"]
) -> Network:
    """Open an exported network, one of its outputs; else as `open_teacher`."""
    from mien.core.onnx_runtime import new_session

    try:
        session = new_session(str(path), threads=threads)
    except Exception as error:  # ONNX Runtime's own errors share no nearer base
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} is not an ONNX model that can be run ({reason})") from error

    def logits(faces: Faces) -> Floats:
        whole = np.ascontiguousarray(faces)
        parts = (whole[start : start + batch] for start in range(0, len(whole), batch))
        answers = [session.run([output], {INPUT_CONTRACT["name"]: part})[0] for part in parts]
        return np.concatenate(answers, dtype=np.float32)

    return logits


# ---------------------------------------------------------------- cached logits
_FORMAT = 1
_MIXING = ("mixup", "cutmix", "mix_probability")
_NOT_OF_PIXELS = ("plain_epochs",)
_PROBED = 1024
_PROBE_TOLERANCE = 1.0
_PROBE_SHARE = 0.01


class LogitCache:
    """A folder of teachers' logits, for one recipe and its images; made when first written to."""

    def __init__(self, folder: Path, config: Config, images: Faces) -> None:
        """Take the folder, the recipe, and the training images, uint8 (N, 48, 48)."""
        self.folder = folder
        self._config = config
        self._count = len(images)
        self._images = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()[:16]

    def path(self, teacher: Teacher, view: View) -> Path:
        """Return where the logits of a teacher for a view stand, whether or not they do."""
        text = json.dumps(self._key(view), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self.folder / f"{teacher.name}-{digest}-{view}.npz"

    def read(self, teacher: Teacher, view: View, faces: Faces) -> Logits:
        """Read the logits of a view, whose faces are uint8 (N, 48, 48).

        Raises:
            InputError: if the file is missing, damaged, or of another teacher or other pixels.
        """
        _, logits, seen = self._open(teacher, view)
        here = _probe(faces)
        same = seen.shape == here.shape
        if not same or np.mean(np.abs(seen - here) > _PROBE_TOLERANCE) > _PROBE_SHARE:
            raise InputError(
                f"{self.path(teacher, view)} is of other pixels than {view} has here: it was "
                "computed by another version of mien or OpenCV; compute it again with this one"
            )
        return logits

    def digest(self, teacher: Teacher, view: View) -> str:
        """Return the SHA-256 of the network that a file was computed with; raises as `read`."""
        return self._open(teacher, view)[0]

    def write(self, teacher: Teacher, view: View, faces: Faces, logits: Logits) -> None:
        """Keep the logits of a view; raises OutputError if they cannot be written."""
        header = {"teacher": teacher.name, "digest": teacher.digest, "key": self._key(view)}
        text = np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)
        with (
            replace_atomically(self.path(teacher, view)) as temporary,
            temporary.open("wb") as stream,
        ):
            np.savez(stream, header=text, logits=logits, probe=_probe(faces))

    def _key(self, view: View) -> dict[str, Any]:
        """Return all that the pixels of a view follow from."""
        settings = dataclasses.asdict(self._config.augmentation)
        left_out = _NOT_OF_PIXELS if view.mixed else (*_NOT_OF_PIXELS, *_MIXING)
        return {
            "format": _FORMAT,
            "images": self._images,
            "count": self._count,
            "augmentation": {key: settings[key] for key in settings if key not in left_out},
            "seed": self._config.training.seed,
            "chunk": CHUNK,
            "view": view.number,
            "mixed": view.mixed,
            # Only where it is so: files of before there was such a key keep their names.
            **({"sharp": True} if self._config.distill.sharp else {}),
        }

    def _open(self, teacher: Teacher, view: View) -> tuple[str, Logits, Floats]:
        """Return a file's digest, logits and probe, checked but for the probe."""
        path, shape = self.path(teacher, view), (self._count, len(self._config.labels))
        try:
            # Opened here, because NumPy leaves a damaged file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes().decode())
                logits, probe = file["logits"], file["probe"]
                name, digest = header["teacher"], str(header["digest"])
                sound = header["key"] == self._key(view) and logits.shape == shape
                sound = sound and logits.dtype == np.float16 and bool(np.isfinite(logits).all())
        except FileNotFoundError as error:
            raise InputError(
                f"{path} is missing: compute it with mien train --teacher-logits"
            ) from error
        except (*DAMAGED, TypeError):
            sound = False
        if not sound:
            raise InputError(
                f"{path} is damaged, or of other images, augmentation, seed or view than its name "
                "says: delete it to compute it again"
            )
        if name != teacher.name or (teacher.digest and digest != teacher.digest):
            raise InputError(
                f"{path} was computed with another network than {teacher.file or teacher.source}: "
                "delete it to compute it again, or choose another distill.cache"
            )
        return digest, logits, probe


def rounded(logits: Floats) -> Logits:
    """Return a network's logits (N, classes) as they are kept; a softmax ignores the shift."""
    return np.asarray(logits - logits.mean(axis=1, keepdims=True), np.float16)


def _probe(faces: Faces) -> Floats:
    """Return a weighted mean grey of each of the first images, which a shift or flip changes."""
    _, height, width = faces.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = (rows + 1) * (columns + 1) ** 2
    ramp /= ramp.sum()
    return np.tensordot(faces[:_PROBED].astype(np.float32), ramp, axes=2).astype(np.float32)


# ---------------------------------------------------------------- all teachers
def mean_probabilities(logits: Sequence[Logits], temperature: float) -> Floats:
    """Return the mean over teachers of softmax(logits / temperature), float32 (N, classes)."""
    scaled = np.stack(logits).astype(np.float32) / np.float32(temperature)
    powers = np.exp(scaled - scaled.max(axis=2, keepdims=True))
    return np.asarray((powers / powers.sum(axis=2, keepdims=True)).mean(axis=0), np.float32)


def add_log_odds(probabilities: Floats, log_odds: Floats, temperature: float) -> Floats:
    """Add log-odds (N, classes), of temperature 1, to probabilities (N, classes) at another."""
    shifted = log_odds - log_odds.max(axis=1, keepdims=True)
    weighted = probabilities * np.exp(shifted / temperature)
    return np.asarray(weighted / weighted.sum(axis=1, keepdims=True), np.float32)


class TeacherEnsemble:
    """The teachers of a run.

    Attributes:
        teachers: in the order of the recipe.
        views: the views that repeat, all that the run will show; empty where none does.
        cache: of their logits, if the recipe names one.
    """

    def __init__(
        self, config: Config, images: Faces, *, log_odds: Floats | None = None, quiet: bool = False
    ) -> None:
        """Find the teachers, and open those whose logits are not all in the cache.

        Keras must be set up already.

        Args:
            config: the recipe, with at least one teacher.
            images: the training images, uint8 (N, 48, 48).
            log_odds: of the FER+ votes on each image, float32 (N, 7), see `vote_log_odds`; used
                with views alone.
            quiet: draw no progress.

        Raises:
            ModelError: if a teacher is needed and missing, or damaged.
            InputError: if a cached file is damaged or of another teacher.
        """
        settings = config.distill
        self._config, self._log_odds, self._quiet = config, log_odds, quiet
        self.teachers = [find_teacher(source, config.labels) for source in settings.teachers]
        self.views = View.all_of(config) if settings.views else []
        self.cache = LogitCache(Path(settings.cache), config, images) if settings.cache else None
        self._kept: dict[View, Floats] = {}
        self._networks: dict[str, Network] = {}
        for teacher in self.teachers:
            lacking = self._lacking(teacher)
            if lacking and teacher.file is None and self.cache is not None:
                raise ModelError(
                    f"{teacher.missing()}; or its logits of {lacking} more views in "
                    f"{self.cache.folder}, by mien train --teacher-logits where it is"
                )
            if lacking:
                self._networks[teacher.name] = open_teacher(
                    teacher,
                    batch=_BATCH if settings.views else config.training.batch_size,
                    threads=config.training.threads,
                )

    def _lacking(self, teacher: Teacher) -> int:
        """Return how many views a teacher has to be run on; without a cache, at least one."""
        if self.cache is None:
            return max(1, len(self.views))
        return sum(not self.cache.path(teacher, view).is_file() for view in self.views)

    def identities(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher, by name, as its file or else the cache has it.

        Raises:
            InputError: if the cache has logits of one teacher from several networks.
        """
        known = {}
        for teacher in self.teachers:
            found = {teacher.digest}
            if not teacher.digest and self.cache is not None:
                found = {self.cache.digest(teacher, view) for view in self.views}
                if len(found) > 1:
                    raise InputError(
                        f"the logits of {teacher.name} in {self.cache.folder} were computed with "
                        f"{len(found)} different networks: compute them again with one"
                    )
            known[teacher.name] = found.pop()
        return known

    def soft_targets(self, faces: Faces) -> Floats:
        """Return the ensemble's probabilities for faces, uint8 (N, 48, 48), float32 (N, 7)."""
        logits = [self._checked(each, self._networks[each.name](faces)) for each in self.teachers]
        return mean_probabilities(logits, self._config.distill.temperature)

    def soft_targets_of_view(self, view: View, faces: Faces) -> Floats:
        """Return the ensemble's probabilities for a whole view, float32 (N, 7).

        They are kept in memory and in the cache. The view's faces are uint8 (N, 48, 48), in the
        order of the images.

        Raises:
            InputError: if a cached file is damaged or of another teacher or other pixels.
            OutputError: if what was computed cannot be written.
        """
        if view not in self._kept:
            settings = self._config.distill
            logits = [self._logits(teacher, view, faces) for teacher in self.teachers]
            targets = mean_probabilities(logits, settings.temperature)
            if self._log_odds is not None:
                log_odds = self._log_odds * settings.votes
                targets = add_log_odds(targets, log_odds, settings.temperature)
            self._kept[view] = targets
        return self._kept[view]

    def _logits(self, teacher: Teacher, view: View, faces: Faces) -> Logits:
        if self.cache is not None and self.cache.path(teacher, view).is_file():
            return self.cache.read(teacher, view, faces)
        if teacher.name not in self._networks:
            raise teacher.missing()
        network = self._networks[teacher.name]
        parts = []
        label = f"teacher {teacher.name}  {view}"
        with Progress(label, len(faces), unit="img", quiet=self._quiet) as progress:
            for start in range(0, len(faces), _BATCH):
                part = faces[start : start + _BATCH]
                parts.append(network(part))
                progress.advance(len(part))
        logits = self._checked(teacher, np.concatenate(parts))
        if self.cache is not None:
            self.cache.write(teacher, view, faces, logits)
        return logits

    def _checked(self, teacher: Teacher, logits: Floats) -> Logits:
        kept, labels = rounded(logits), self._config.labels
        if kept.shape[1] != len(labels) or not np.isfinite(kept).all():
            raise ModelError(
                f"the teacher {teacher.file} gave {kept.shape[1]} logits a face, or what is not a "
                f"number: expected {len(labels)}, of {', '.join(labels)}"
            )
        return kept


# ---------------------------------------------------------------- filling the cache
def cache_teacher_logits(config: Config, *, quiet: bool = False) -> dict[str, Any]:
    """Compute the teachers' logits that are not in the recipe's cache yet.

    Each view's file is written as soon as it is computed, so that going on after a stop is calling
    this again. With the cache full, the recipe trains without the teachers.

    Returns:
        The cache's "folder", its "teachers", how many "views" and "files" (one a teacher and view)
        it has, how many of these were "computed" now, and "size_bytes" of all.

    Raises:
        UsageError: if the recipe names no teachers, views or cache.
        ModelError: if a teacher is missing or damaged.
        InputError: if a file in the cache is damaged or of another teacher or other pixels.
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
    lacking = [path for path in files if not path.is_file()]
    dataset = data.dataset(config)
    for view in views:
        ensemble.soft_targets_of_view(view, dataset.view(config, view).for_teachers)
    # Where some teachers are not here, theirs must be of one network each.
    ensemble.identities()
    return {
        "folder": settings.cache,
        "teachers": [teacher.name for teacher in teachers],
        "views": len(views),
        "files": len(files),
        "computed": len(lacking),
        "size_bytes": sum(path.stat().st_size for path in files),
    }
