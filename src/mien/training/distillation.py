"""What teachers say of the faces that a student sees, from their networks or from the cache.

The mean is that of the teachers' probabilities at the recipe's temperature, as an ensemble's is:
each counts the same. A mean of logits would follow whichever is the surest of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mien.core.errors import InputError, ModelError
from mien.core.progress import Progress
from mien.training.augmentation import Faces, Floats
from mien.training.config import Config
from mien.training.teacher_logits import LogitCache, Logits, images_digest, rounded
from mien.training.teachers import Network, Teacher, find_teacher, open_teacher
from mien.training.views import ViewName, views_of

_BATCH = 256


def softened_mean(logits: Sequence[Logits], temperature: float) -> Floats:
    """Return the mean over teachers of softmax(logits / temperature), float32 (N, 7).

    Args:
        logits: of each teacher, (N, 7).
        temperature: above 0.
    """
    scaled = np.stack(logits).astype(np.float32) / np.float32(temperature)
    powers = np.exp(scaled - scaled.max(axis=2, keepdims=True))
    return np.asarray((powers / powers.sum(axis=2, keepdims=True)).mean(axis=0), np.float32)


def with_evidence(taught: Floats, evidence: Floats, temperature: float) -> Floats:
    """Return softened probabilities (N, 7) with more logits (N, 7) taken into account.

    Args:
        taught: of the teachers at the temperature.
        evidence: logits at temperature 1; zeros change nothing.
        temperature: above 0.
    """
    weighed = taught * np.exp((evidence - evidence.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(weighed / weighed.sum(axis=1, keepdims=True), np.float32)


class Teaching:
    """The teachers of a run."""

    def __init__(
        self,
        config: Config,
        images: Faces,
        *,
        evidence: Floats | None = None,
        quiet: bool = False,
    ) -> None:
        """Find the teachers, and open those whose logits are not all in the cache.

        Keras must be set up already.

        Args:
            config: the recipe, with at least one teacher.
            images: the training images, uint8 (N, 48, 48).
            evidence: what FER+ votes say about each image, float32 (N, 7), see `vote_evidence`;
                it counts in views alone, which have the images in this order.
            quiet: draw no progress.

        Raises:
            ModelError: if a teacher is needed and missing, or damaged.
            InputError: if a cached file is damaged or of another teacher.
        """
        settings = config.distill
        self.config = config
        self.teachers = [find_teacher(source, config.labels) for source in settings.teachers]
        self.views = views_of(config) if settings.views else []
        self.cache: LogitCache | None = None
        if settings.cache:
            digest = images_digest(images)
            self.cache = LogitCache(Path(settings.cache), config, digest, len(images))
        self.computed = 0
        self._evidence = evidence
        self._quiet = quiet
        self._kept: dict[ViewName, Floats] = {}
        self._networks: dict[str, Network] = {}
        for teacher in self.teachers:
            lacking = self._lacking(teacher)
            if lacking and teacher.file is None and self.cache is not None:
                raise ModelError(
                    f"{teacher.missing()}; or its logits of {lacking} more views in "
                    f"{self.cache.folder}, by mien train --teacher-logits where it is"
                )
            if lacking:
                batch = _BATCH if settings.views else config.training.batch_size
                threads = config.training.threads
                network = open_teacher(teacher, batch=batch, threads=threads)
                self._networks[teacher.name] = network

    def identities(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher, by name, as its file or else the cache has it.

        Raises:
            InputError: if the cache has logits of one teacher from several networks.
        """
        return {teacher.name: self._identity(teacher) for teacher in self.teachers}

    def of_faces(self, faces: Faces) -> Floats:
        """Return the teachers' mean for faces, uint8 (N, 48, 48), as float32 (N, 7)."""
        logits = [
            self._rounded(teacher, self._networks[teacher.name](faces)) for teacher in self.teachers
        ]
        return self._mean(logits)

    def of_view(self, view: ViewName, faces: Faces) -> Floats:
        """Return the teachers' mean for a whole view, float32 (N, 7).

        Args:
            view: which; it is kept in memory, and what is computed in the cache, too.
            faces: its faces, uint8 (N, 48, 48), in the order of the images.

        Raises:
            InputError: if a cached file is damaged or of another teacher or other pixels.
            OutputError: if what was computed cannot be written.
        """
        if view not in self._kept:
            taught = self._mean([self._logits(teacher, view, faces) for teacher in self.teachers])
            if self._evidence is not None:
                settings = self.config.distill
                taught = with_evidence(
                    taught, self._evidence * settings.votes, settings.temperature
                )
            self._kept[view] = taught
        return self._kept[view]

    def cached_files(self) -> list[Path]:
        """Return the paths in the cache of all that the run needs, whether or not it is there."""
        if self.cache is None:
            return []
        return [self.cache.path(teacher, view) for teacher in self.teachers for view in self.views]

    def _lacking(self, teacher: Teacher) -> int:
        """Return how many views a teacher has to be run on; without a cache, at least one."""
        cache = self.cache
        if cache is None:
            return max(1, len(self.views))
        return sum(not cache.has(teacher, view) for view in self.views)

    def _identity(self, teacher: Teacher) -> str:
        if teacher.digest or self.cache is None:
            return teacher.digest
        found = {self.cache.digest(teacher, view) for view in self.views}
        if len(found) > 1:
            raise InputError(
                f"the logits of {teacher.name} in {self.cache.folder} were computed with "
                f"{len(found)} different networks: compute them again with one"
            )
        return found.pop()

    def _logits(self, teacher: Teacher, view: ViewName, faces: Faces) -> Logits:
        if self.cache is not None and self.cache.has(teacher, view):
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
        logits = self._rounded(teacher, np.concatenate(parts))
        self.computed += 1
        if self.cache is not None:
            self.cache.write(teacher, view, faces, logits)
        return logits

    def _rounded(self, teacher: Teacher, logits: Floats) -> Logits:
        kept = rounded(logits)
        if kept.shape[1] != len(self.config.labels) or not np.isfinite(kept).all():
            raise ModelError(
                f"the teacher {teacher.file} gave {kept.shape[1]} logits a face, or what is not a "
                f"number: expected {len(self.config.labels)}, of {', '.join(self.config.labels)}"
            )
        return kept

    def _mean(self, logits: Sequence[Logits]) -> Floats:
        return softened_mean(logits, self.config.distill.temperature)
