"""One sitting on a lent GPU: teachers, then students that learn from them, then the results.

Every network is a run of its own. The same command goes on where the last one stopped: what has
ended is left alone, what was stopped is resumed.
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
"""Of each part of the results, of which there are at most `PARTS`."""
PARTS = 4

_RUN_FILES = ("config.toml", "environment.json", "history.csv", "summary.json")


@dataclass(frozen=True)
class Plan:
    """What a sitting trains.

    Attributes:
        teachers: recipes, in their order.
        students: recipes of the networks that learn from all teachers.
        seeds: each student is trained once with each; none means its recipe's own.
        scale: of the epochs of every recipe, to fit another machine or less time.
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
    """Train what is not trained yet, for as long as there is time, and gather the results.

    Args:
        plan: what to train.
        pack: what `lab.gpu.pack.make_pack` made.
        work: folder of the runs, kept from one command to the next.
        output: folder of the results, brought up to date at the end.
        minutes: after which a run stops by itself, saved.

    Raises:
        TrainingStopped: if there is more to do, all saved.
        InputError, DataError: if the pack is missing or damaged.
        MienError: if a student fails; a teacher that does is left out.
    """
    deadline = time.monotonic() + 60 * minutes
    unpack_faces(pack, work / "faces.npz")
    try:
        for name, recipe, seed in plan.runs():
            config = recipe_here(load_config(recipe), pack, work, seed=seed, scale=plan.scale)
            if recipe in plan.students:
                runs = [_run(work, teacher.stem) for teacher in plan.teachers]
                config = taught(config, [run.path for run in runs if run.summary.is_file()])
            _train(_run(work, name), config, deadline, may_fail=recipe in plan.teachers)
    finally:
        gather(plan, work, output)


def _run(work: Path, name: str) -> RunFolder:
    return RunFolder(work / "runs" / name)


def _train(run: RunFolder, config: Config, deadline: float, *, may_fail: bool) -> None:
    from lab.gpu.trainer import GpuTrainer

    if run.summary.is_file():
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TrainingStopped("the time is over: run the same command again to go on")
    stderr().write(f"kit: {run.name}, {config.total_epochs} epochs\n")
    # As Ctrl-C would: the epoch under way is ended and saved.
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


def recipe_here(
    config: Config, pack: Path, work: Path, *, seed: int | None = None, scale: float = 1.0
) -> Config:
    """Return a recipe with the data, votes and starting weights of a pack, its epochs scaled."""
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


def taught(config: Config, teachers: Sequence[Path]) -> Config:
    """Return a student's recipe with these teachers; without any it learns from labels alone."""
    folders = tuple(str(folder) for folder in teachers)
    return replace(config, distill=replace(config.distill, teachers=folders))


# ---------------------------------------------------------------- results
def gather(plan: Plan, work: Path, output: Path) -> None:
    """Write ``report.json`` and the runs so far into a folder; ``cat results.tar.* | tar x``.

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
    whole = work / "results.tar"
    with tarfile.open(whole, "w") as archive:
        room = PARTS * PART_BYTES
        for path in _wanted(plan, work):
            size = path.stat().st_size + 3 * tarfile.RECORDSIZE  # headers and padding
            if size <= room:
                archive.add(path, path.relative_to(work).as_posix())
                room -= size
    data = whole.read_bytes()
    for part in range(PARTS):
        piece = data[part * PART_BYTES : (part + 1) * PART_BYTES]
        file = output / f"results.tar.{part}"
        if piece:
            write_atomically(file, piece)
        else:
            file.unlink(missing_ok=True)


def _wanted(plan: Plan, work: Path) -> Iterator[Path]:
    """Yield files, the most wanted first: students, all histories, teachers."""
    names = [name for name, *_ in plan.runs()]
    count = len(plan.teachers)
    paths = [_run(work, name).best for name in names[count:]]
    paths += [work / "runs" / name / file for name in names for file in _RUN_FILES]
    paths += [_run(work, name).best for name in names[:count]]
    yield from (path for path in paths if path.is_file())
