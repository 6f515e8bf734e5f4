"""One worker of a training on a Ray cluster: it runs the trainer as a member of a team.

The command that started it is in `mien.training.ray_training`; a `Board` stands between them.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train

from mien.core.errors import InputError, MienError, MissingExtra, UsageError
from mien.training.config import Config
from mien.training.stopping import TrainingStopped

BACKEND = "torch"
"""Of Keras: the one on which a step can be split over processes."""

POLL_SECONDS = 0.5
"""How long workers and command wait before they look at the board again."""


@dataclass(frozen=True)
class Task:
    """What each worker is to do.

    Attributes:
        here: the working folder, which relative paths are meant from.
        folder: the run's.
        config: the recipe of a new run; None to go on with the one that is there.
        quiet: draw no progress and print no epochs.
        is_terminal: whether what the leader draws goes to a terminal.
    """

    here: str
    folder: Path
    config: Config | None
    quiet: bool
    is_terminal: bool


class Board:
    """What workers and command tell each other: an actor beside the command."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._stops = False
        self._outcome: tuple[type[BaseException], str] | None = None

    def write(self, text: str) -> None:
        """Add to what the command is to show."""
        self._text.append(text)

    def read(self) -> str:
        """Take what is to be shown."""
        text, self._text = "".join(self._text), []
        return text

    def stop(self) -> None:
        """Ask the workers to save and stop."""
        self._stops = True

    def stops(self) -> bool:
        """Tell whether they are to."""
        return self._stops

    def end(self, kind: type[BaseException], message: str) -> None:
        """Keep what ended the run; the first word counts, others follow from it."""
        self._outcome = self._outcome or (kind, message)

    def outcome(self) -> tuple[type[BaseException], str] | None:
        """Return what ended the run before its time, if the workers know."""
        return self._outcome


def work_on(task: Task, board: Any) -> None:
    """Run the trainer in one worker, and tell the board how it ended."""
    try:
        _enter(task.here)
        leads = ray.train.get_context().get_world_rank() == 0
        shown = contextlib.redirect_stderr(_Shown(board, terminal=task.is_terminal))
        with shown if leads else contextlib.nullcontext(), _asked(board) as asked:
            _train(task, asked)
    except TrainingStopped as stop:
        # All members stop after the same step, so none is waited for.
        ray.get(board.end.remote(type(stop), str(stop)))
    except MienError as error:
        # The one that a missing extra raises is made of other words.
        kind = UsageError if isinstance(error, MissingExtra) else type(error)
        ray.get(board.end.remote(kind, str(error)))
        raise MienError(str(error)) from error


def _train(task: Task, asked: Callable[[], bool]) -> None:
    # The workers of one machine would all use the same GPU.
    os.environ["KERAS_TORCH_DEVICE"] = "cpu"
    os.environ["KERAS_BACKEND"] = BACKEND
    from mien.training import trainer
    from mien.training.parallel import TorchTeam

    team = TorchTeam(asked)
    if task.config is None:
        trainer.resume(task.folder, quiet=task.quiet, team=team)
    else:
        trainer.train(task.config, task.folder, quiet=task.quiet, team=team)


def _enter(folder: str) -> None:
    try:
        os.chdir(folder)
    except OSError as error:
        raise InputError(
            f"a machine of the cluster has no folder {folder}: all must see the one that "
            "mien train is called in"
        ) from error


@contextlib.contextmanager
def _asked(board: Any) -> Iterator[Callable[[], bool]]:
    """Give what tells whether to stop, kept up to date in the background."""
    stop, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS) and not stop.is_set():
            if ray.get(board.stops.remote()):
                stop.set()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield stop.is_set
    finally:
        over.set()


class _Shown(io.TextIOBase):
    """A stream that the command shows as its own stderr."""

    def __init__(self, board: Any, *, terminal: bool) -> None:
        self._board = board
        self._terminal = terminal

    def write(self, text: str) -> int:
        """Send a text to the command."""
        self._board.write.remote(text)
        return len(text)

    def isatty(self) -> bool:
        """Tell whether the command's stderr is a terminal."""
        return self._terminal
