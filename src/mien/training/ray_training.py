"""Training in several processes at once, over the machines of a Ray cluster (Ray Train).

Ray starts the workers and joins them by torch.distributed; the trainer in each of them is the one
that runs alone, with a team (see `mien.training.parallel`); their side is in
`mien.training.ray_worker`. Ray must be connected already.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mien.core.errors import InputError, MienError, MissingExtra, UsageError
from mien.core.process import disable_telemetry, stderr
from mien.training import run_folder
from mien.training.backend import check_installed
from mien.training.config import Config, load_config
from mien.training.run_folder import RunFolder
from mien.training.stopping import stop_signals

try:
    # Both are read when Ray Train is imported: versions before 2.51 have its older half as well.
    disable_telemetry()
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray
    import ray.train

    from mien.training.ray_worker import BACKEND, POLL_SECONDS, Board, Task, work_on
except ImportError as error:
    raise MissingExtra("ray", "--engine ray") from error

_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
"""What a line begins with in which Python names an error."""
_REASON_LENGTH = 120
_SETTINGS = {
    # A busy machine takes longer to start a worker than Ray thinks.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


def train_on_ray(
    config: Config, folder: Path, *, workers: int | None = None, quiet: bool = False
) -> RunFolder:
    """Train a network as `mien.training.trainer.train`, in several processes.

    Args:
        config: the recipe, of the backend "torch".
        folder: the run's; all machines must see it, the data, and this working folder.
        workers: processes; one for each machine with a core unless given.
        quiet: draw no progress and print no epochs on stderr.

    Raises:
        UsageError: if the recipe is of another backend, or the cluster has too few cores.
        MienError: if a worker is lost; the run can be gone on with.
        MissingExtra, and other errors: as `mien.training.trainer.train`.
    """
    run_folder.new_run(folder)
    _check_backend(config)
    return _run(_task(folder, config, quiet=quiet), workers)


def resume_on_ray(folder: Path, *, workers: int | None = None, quiet: bool = False) -> RunFolder:
    """Go on with a run as `mien.training.trainer.resume`; otherwise as `train_on_ray`.

    How many workers began it does not matter.
    """
    _check_backend(load_config(run_folder.open_run(folder).config))
    return _run(_task(folder, None, quiet=quiet), workers)


def on_torch(config: Config) -> Config:
    """Return the recipe with the backend that workers need."""
    return replace(config, training=replace(config.training, backend=BACKEND))


def cores_each(machines: Sequence[float], workers: int) -> int:
    """Return how many cores each worker can have at most.

    Args:
        machines: the cores of each.
        workers: how many, each of which is on one machine.

    Raises:
        UsageError: if there are fewer cores than workers.
    """
    for cores in range(int(max(machines, default=0)), 0, -1):
        if sum(int(each) // cores for each in machines) >= workers:
            return cores
    total = sum(map(int, machines))
    raise UsageError(f"the Ray cluster has {total} cores: expected --workers {total} at most")


def _check_backend(config: Config) -> None:
    if config.training.backend != BACKEND:
        raise UsageError(
            f'--engine ray trains on Keras\' backend "{BACKEND}" alone, and this run is of '
            f'"{config.training.backend}": leave out --engine'
        )
    check_installed(config.training)


def _task(folder: Path, config: Config | None, *, quiet: bool) -> Task:
    return Task(str(Path.cwd()), folder, config, quiet, stderr().isatty())


def _run(task: Task, workers: int | None) -> RunFolder:
    machines = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call, unused-ignore]
    workers = workers or max(1, sum(cores >= 1 for cores in machines))
    cores = cores_each(machines, workers)
    board = _new_board()
    with _scratch(task.folder) as scratch:
        fit = _Fit(_trainer(task, board, workers=workers, cores=cores, scratch=scratch).fit)
        _watch(fit, board, task.folder)
    told = ray.get(board.outcome.remote())
    if told is not None:
        kind, message = told
        raise kind(message)
    run = RunFolder(task.folder)
    if fit.error is not None:
        goes_on = f"; to go on: mien train --engine ray --resume {task.folder}"
        raise MienError(
            f"a worker of the Ray cluster failed or was lost ({_reason(fit.error)})"
            f"{goes_on if run.config.exists() else ''}"
        ) from fit.error
    if not run.summary.exists():
        raise InputError(
            f"{task.folder} was written by another machine of the cluster: "
            "use a --run folder that all machines see"
        )
    return run


def _trainer(task: Task, board: Any, *, workers: int, cores: int, scratch: Path) -> Any:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from ray.train.torch import TorchConfig, TorchTrainer

    def work() -> None:
        work_on(task, board)

    return TorchTrainer(
        work,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, resources_per_worker={"CPU": cores}
        ),
        run_config=ray.train.RunConfig(name="train", storage_path=str(scratch)),
    )


class _Fit:
    """A call in a thread of its own, so that signals are heard meanwhile."""

    def __init__(self, fit: Callable[[], Any]) -> None:
        self.error: Exception | None = None
        self._fit = fit
        # A daemon: after a second Ctrl-C nobody waits for it.
        self._thread = threading.Thread(target=self._call, daemon=True)
        self._thread.start()

    def _call(self) -> None:
        try:
            self._fit()
        except Exception as error:  # Ray raises many kinds; told as one by who started this
            self.error = error

    def has_ended(self, seconds: float) -> bool:
        """Wait at most so long for the end."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


def _watch(fit: _Fit, board: Any, folder: Path) -> None:
    """Show what the leader writes until the end; Ctrl-C asks the workers to stop."""
    with stop_signals(folder) as stop:
        ended = asked = False
        while not ended:
            ended = fit.has_ended(POLL_SECONDS)
            if stop.is_set() and not asked:
                asked = True
                ray.get(board.stop.remote())
            stderr().write(ray.get(board.read.remote()))
            stderr().flush()


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give Ray Train a folder that all machines see, for as long as it runs."""
    was_there = folder.exists()
    scratch = folder.resolve() / ".ray"
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if not was_there:
            with contextlib.suppress(OSError):  # it holds a run now, or was never made
                folder.rmdir()


def _reason(error: Exception) -> str:
    """Return what Ray says of a failure, in a line: the first error that a trace names."""
    failures = getattr(error, "worker_failures", None)
    said = str(next(iter(failures.values())) if failures else error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR.match(line)]
    reason = next(iter([*named, *lines[-1:], type(error).__name__]))
    return textwrap.shorten(reason, _REASON_LENGTH, placeholder=" …")


def _new_board() -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(here, soft=False)
    board: Any = ray.remote(Board)
    return board.options(num_cpus=0, scheduling_strategy=strategy).remote()
