"""Training a network: a new run, or one that goes on from where it was stopped."""

from __future__ import annotations

from pathlib import Path

from mien.core.errors import InputError
from mien.training import checkpoint, run_folder
from mien.training.backend import check_installed
from mien.training.config import Config, config_to_toml, from_folder, load_config
from mien.training.outcome import environment, finish
from mien.training.run_folder import RunFolder
from mien.training.run_state import RunState
from mien.training.sitting import Sitting
from mien.training.team import Team, check_same_images, check_team
from mien.training.training_data import fingerprint, load_training_data


def train(
    config: Config, folder: Path, *, quiet: bool = False, team: Team | None = None
) -> RunFolder:
    """Train a network and leave the run in a folder (see `run_folder`).

    Args:
        config: the recipe.
        folder: where; must not hold a run yet.
        quiet: draw no progress and print no epochs on stderr.
        team: the processes that train together, all of which call this; this one alone if None.

    Raises:
        UsageError: if the folder holds a run, or the recipe cannot be built; nothing is written.
        MissingExtra: if a package that training needs is not installed.
        InputError: if the starting weights cannot be had, or a teacher's cached logits are wrong.
        ModelError: if a teacher is missing or damaged.
        DataError: if the data are missing, empty, or fewer than a batch.
        TrainingDiverged: if the loss or the weights become NaN or infinite.
        OutputError: if something cannot be written; the last checkpoint stays whole.
        TrainingStopped: after Ctrl-C or SIGTERM, saved.
    """
    run = run_folder.new_run(folder)
    team = team or Team()
    _check(config, team)
    data = load_training_data(config, quiet=quiet or not team.leads)
    print_of_data = fingerprint(data)
    check_same_images(team.gather(print_of_data), config.data.source)
    sitting = Sitting(config, run, data, quiet, team)
    state = RunState(data=print_of_data, teachers=sitting.teachers())
    sitting.enter(state)
    if team.leads:
        run_folder.write_json(run.environment, environment(config, data, workers=team.size))
        run_folder.write_text(run.config, config_to_toml(config))
    return sitting.go_on(state)


def resume(folder: Path, *, quiet: bool = False, team: Team | None = None) -> RunFolder:
    """Go on with an interrupted run as if it had never stopped; raises as `train`.

    One that was stopped before its first checkpoint starts again; of one that has ended, only the
    curves and the summary are written anew.

    Raises:
        InputError: if there is no run, its checkpoint is missing, damaged or of another recipe, or
            the data or the teachers are not those that it began with.
    """
    run = run_folder.open_run(folder)
    config = from_folder(load_config(run.config), run_folder.begun_in(run))
    team = team or Team()
    _check(config, team)
    begun, state = team.share(_where_it_stood(run) if team.leads else (False, RunState()))
    if state.is_over(config):
        return finish(run, state) if team.leads else run
    data = load_training_data(config, quiet=quiet or not team.leads)
    print_of_data = fingerprint(data)
    check_same_images(team.gather(print_of_data), config.data.source)
    if state.data and state.data != print_of_data:
        raise InputError(
            f"the images of {config.data.source} are not those that {run.path} began with: "
            "bring the old ones back, or start a new run"
        )
    sitting = Sitting(config, run, data, quiet, team)
    teachers = sitting.teachers()
    if state.teachers and state.teachers != teachers:
        changed = ", ".join(name for name in teachers if teachers[name] != state.teachers.get(name))
        raise InputError(
            f"the teachers are not those that {run.path} began with ({changed}): "
            "bring the old ones back, or start a new run"
        )
    if begun:
        sitting.restore(state)
    state.data, state.teachers = print_of_data, teachers
    return sitting.go_on(state)


def _check(config: Config, team: Team) -> None:
    """Refuse what cannot be trained here before anything is loaded."""
    check_team(team, config)
    check_installed(config.training)


def _where_it_stood(run: RunFolder) -> tuple[bool, RunState]:
    """Return whether a run has a checkpoint, and its state; tidies up after a kill."""
    run_folder.remove_leftovers(run)
    begun = run.checkpoint.exists() or run.history.exists()
    state = checkpoint.read_state(run.checkpoint) if begun else RunState()
    if state.history:
        # A kill between the checkpoint and the history leaves the file an epoch behind.
        run_folder.write_history(run.history, state.history)
    return begun, state
