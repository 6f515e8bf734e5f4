"""A whole training session on a rented GPU: teachers, students distilled from them, results.

Every network is a separate run. Repeating the command continues where it stopped: finished runs
are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import json
import os
import signal
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab.gpu.pack import VOTES, unpack_faces, unpack_start
from mien.core.errors import MienError
from mien.core.files import write_atomically
from mien.core.process import stderr
from mien.training.recipe import Config, load_config
from mien.training.run_folder import RunFolder
from mien.training.trainer import TrainingStopped, resume, train

PART_BYTES = 15_500_000
"""Size of each part of the results."""
PARTS = 4
"""Largest number of parts; files that do not fit are left out."""

_RUN_FILES = ("config.toml", "environment.json", "history.csv", "summary.json")


@dataclass(frozen=True)
class Plan:
    """Runs of a session.

    Attributes:
        teachers: recipes of the teachers, in order.
        students: recipes of the networks that are distilled from all teachers.
        seeds: random seeds, with each of which every student is trained; none means its recipe's.
        scale: factor of the epochs of every recipe, for another machine or less time.
    """

    teachers: tuple[Path, ...]
    students: tuple[Path, ...]
    seeds: tuple[int, ...] = ()
    scale: float = 1.0

    def runs(self) -> Iterator[tuple[str, Path, int | None]]:
        """Yield the name, recipe and seed of every run, teachers first."""
        yield from ((recipe.stem, recipe, None) for recipe in self.teachers)
        for seed in self.seeds or (None,):
            for recipe in self.students:
                name = recipe.stem if seed is None else f"{recipe.stem}-{seed}"
                yield name, recipe, seed


def run_kit(plan: Plan, pack: Path, work: Path, output: Path, *, minutes: float) -> None:
    """Train the unfinished runs of a plan until the time is up, and collect the results.

    Args:
        plan: the runs.
        pack: a pack of `lab.gpu.pack.make_pack`.
        work: folder of the runs, kept between commands.
        output: folder of the results, updated at the end.
        minutes: time after which the current run is saved and stopped.

    Raises:
        TrainingStopped: if the plan is unfinished; all is saved.
        InputError, DataError: if the pack is missing or damaged.
        MienError: if a student fails; failed teachers are left out.
    """
    deadline = time.monotonic() + 60 * minutes
    unpack_faces(pack, work / "faces.npz")
    try:
        for name, recipe, seed in plan.runs():
            config = adapt_recipe(load_config(recipe), pack, work, seed=seed, scale=plan.scale)
            if recipe in plan.students:
                runs = [_run(work, teacher.stem) for teacher in plan.teachers]
                config = with_teachers(config, [run.path for run in runs if run.summary.is_file()])
            _train(_run(work, name), config, deadline, may_fail=recipe in plan.teachers)
    finally:
        collect_results(plan, work, output)


def _run(work: Path, name: str) -> RunFolder:
    return RunFolder(work / "runs" / name)


def _train(run: RunFolder, config: Config, deadline: float, *, may_fail: bool) -> None:
    from lab.gpu.trainer import GpuTrainer

    if run.summary.is_file():
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TrainingStopped("the time is up: run the same command again to continue")
    stderr().write(f"kit: {run.name}, {config.total_epochs} epochs\n")
    # Like Ctrl-C: the current epoch is finished and saved.
    timer = threading.Timer(left, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        if run.config.is_file():
            resume(run.path, trainer_class=GpuTrainer)
        else:
            train(config, run.path, trainer_class=GpuTrainer)
    except MienError as error:
        if not may_fail:
            raise
        stderr().write(f"kit: {run.name} failed and is left out: {error}\n")
    finally:
        timer.cancel()


def adapt_recipe(
    config: Config, pack: Path, work: Path, *, seed: int | None = None, scale: float = 1.0
) -> Config:
    """Return a recipe that uses a pack's data, votes and starting weights, with scaled epochs."""
    has_votes = (pack / VOTES).is_file()
    data = replace(
        config.data,
        source=str(work / "faces.npz"),
        votes=str(pack / VOTES) if has_votes and config.data.votes else "",
        drop_not_a_face=config.data.drop_not_a_face and has_votes,
    )
    model = config.model
    if model.weights == "lite0":
        unpack_start(pack, config, work / "start.keras")
        model = replace(model, weights=str(work / "start.keras"))

    def scaled(epochs: int) -> int:
        return max(1, round(scale * epochs)) if epochs else 0

    training = replace(
        config.training,
        epochs=scaled(config.training.epochs),
        large_epochs=scaled(config.training.large_epochs),
        votes_weight=config.training.votes_weight if has_votes else 0.0,
        seed=config.training.seed if seed is None else seed,
    )
    augmentation = replace(
        config.augmentation, plain_epochs=scaled(config.augmentation.plain_epochs)
    )
    distill = replace(config.distill, views=scaled(config.distill.views))
    return Config(data, model, augmentation, training, distill)


def with_teachers(config: Config, teachers: Sequence[Path]) -> Config:
    """Return a student's recipe with these teachers; without any it uses the labels alone."""
    folders = tuple(str(folder) for folder in teachers)
    return replace(config, distill=replace(config.distill, teachers=folders))


# ---------------------------------------------------------------- results
def collect_results(plan: Plan, work: Path, output: Path) -> None:
    """Write ``report.json`` and the runs so far, as parts for ``cat results.tar.* | tar x``.

    Raises:
        OutputError: if they cannot be written.
    """
    names = [name for name, *_ in plan.runs()]
    summaries = {
        name: json.loads(_run(work, name).summary.read_text(encoding="utf-8"))
        for name in names
        if _run(work, name).summary.is_file()
    }
    write_atomically(output / "report.json", (json.dumps(summaries, indent=2) + "\n").encode())
    tar = work / "results.tar"
    with tarfile.open(tar, "w") as archive:
        room = PARTS * PART_BYTES
        for path in _result_files(plan, work):
            size = path.stat().st_size + 3 * tarfile.RECORDSIZE  # headers and padding
            if size <= room:
                archive.add(path, path.relative_to(work).as_posix())
                room -= size
    data = tar.read_bytes()
    for part in range(PARTS):
        piece = data[part * PART_BYTES : (part + 1) * PART_BYTES]
        file = output / f"results.tar.{part}"
        if piece:
            write_atomically(file, piece)
        else:
            file.unlink(missing_ok=True)


def _result_files(plan: Plan, work: Path) -> Iterator[Path]:
    """Yield files by importance: students, the records of all runs, teachers."""
    names = [name for name, *_ in plan.runs()]
    count = len(plan.teachers)
    paths = [_run(work, name).best for name in names[count:]]
    paths += [work / "runs" / name / file for name in names for file in _RUN_FILES]
    paths += [_run(work, name).best for name in names[:count]]
    yield from (path for path in paths if path.is_file())
