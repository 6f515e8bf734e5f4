"""One sitting of a run: epochs of steps, validation, checkpoints, read from top to bottom."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from typing import Any

import numpy as np

from mien.core.errors import TrainingDiverged
from mien.core.progress import Progress, format_duration
from mien.training import checkpoint, run_folder
from mien.training.augmentation import MixedBatch
from mien.training.backend import prepare_backend, seed_step
from mien.training.batches import BatchSource
from mien.training.config import Config
from mien.training.distillation import Teaching
from mien.training.evidence import vote_evidence
from mien.training.model import build_model, refresh
from mien.training.objective import accuracy_of, released_network, step_arrays
from mien.training.outcome import diverged, finish, history_row, report_epoch, stopped
from mien.training.pace import Pace, stage_cost
from mien.training.run_folder import RunFolder
from mien.training.run_state import RunState
from mien.training.schedule import learning_rate
from mien.training.stages import (
    Stage,
    averaged_weights,
    compiled_model,
    estimated_statistics,
    stage_of,
    starting_weights,
)
from mien.training.stepping import Logs, Stepper
from mien.training.stopping import stop_signals
from mien.training.team import Team
from mien.training.training_data import TrainingData
from mien.training.validation import predict_probabilities, validation_figures


class Sitting:
    """What one process does for a run, from its start or a checkpoint to its end or a stop."""

    def __init__(
        self,
        config: Config,
        run: RunFolder,
        data: TrainingData,
        quiet: bool,
        team: Team | None = None,
    ) -> None:
        self.config = config
        self.run = run
        self.val = data.val
        self.team = team or Team()
        self.quiet = quiet or not self.team.leads
        self.saved_at = time.monotonic()
        self.model: Any = None
        self.network: Any = None
        self.bare: Any = None
        self.start: dict[str, Any] = {}
        self.stepper: Stepper | None = None
        self.pending: list[tuple[int, Logs]] = []
        self.loss = math.nan
        self.stage: Stage | None = None
        self.pace = Pace()
        prepare_backend(config.training)
        self.teaching = None
        if config.distill.teachers:
            evidence = None
            if data.counts is not None:
                evidence = vote_evidence(data.counts, data.train.labels)
            self.teaching = Teaching(config, data.train.images, evidence=evidence, quiet=self.quiet)
            # Opening a network draws from the seed: whether one was must not change the student.
            prepare_backend(config.training)
        self.source = BatchSource(data.train, config, data.votes, self.teaching, data.targets)

    def teachers(self) -> dict[str, str]:
        """Return the SHA-256 of each teacher's network, by name."""
        return {} if self.teaching is None else self.teaching.identities()

    def restore(self, state: RunState) -> None:
        """Build the network that the checkpoint was written of, and fill it."""
        # Between two stages, that is still the network of the stage before.
        epoch = state.epoch if state.step else state.epoch - 1
        stage = stage_of(self.config, epoch)
        model = compiled_model(self.config, stage, initialise=False)
        if self.team.leads:
            checkpoint.restore_variables(self.run.checkpoint, model)
        self._take(model, stage)

    def enter(self, state: RunState) -> None:
        """Build the network of the epoch's stage, with what is learnt so far in it."""
        stage = stage_of(self.config, state.epoch)
        if stage == self.stage:
            return
        model = compiled_model(self.config, stage, initialise=self.model is None)
        if self.model is not None and self.stage is not None:
            # The optimizer's moments go along to a larger size, not into another phase.
            same_phase = self.stage.blocks == stage.blocks
            values = checkpoint.all_variables if same_phase else _weights_and_seeds
            checkpoint.copy_variables(values(self.model), values(model))
            refresh(model)
        self._take(model, stage)

    def _take(self, model: Any, stage: Stage) -> None:
        self.model, self.network, self.stage = model, released_network(model), stage
        self.team.align(model)
        self.stepper, self.bare = self.team.stepper(model, self.config.training.backend), None
        self.pace.skip_one()

    def go_on(self, state: RunState) -> RunFolder:
        """Train to the end."""
        with stop_signals(self.run.path) as stop:
            self.team.heed(stop)
            while not state.is_over(self.config):
                self.enter(state)
                self._epoch(state, stop)
        return finish(self.run, state) if self.team.leads else self.run

    def _epoch(self, state: RunState, stop: threading.Event) -> None:
        size = self.config.size_at(state.epoch)
        label = f"epoch {state.epoch + 1}/{self.config.total_epochs}  {size} px"
        batches = self.source.epoch(state.epoch, state.step)
        left = self.source.steps - state.step
        with (
            Progress(label, left, unit="step", quiet=self.quiet) as progress,
            contextlib.closing(batches),
        ):
            for batch in batches:
                started = time.monotonic()
                loss = self._step(state, batch)
                spent = time.monotonic() - started
                state.seconds += spent
                state.epoch_seconds += spent
                self.pace.count(stage_cost(self.config, state.epoch), spent)
                progress.advance(1, f"loss {loss:.4f}{self._time_left(state)}")
                self._save_if_due(state, stop)
        self._end_epoch(state)

    def _step(self, state: RunState, batch: MixedBatch) -> float:
        assert self.stepper is not None
        seed_step(self.config.training, state.epoch, state.step, rank=self.team.rank)
        self.pending.append((state.step, self.stepper.step(step_arrays(batch), self._rate(state))))
        state.step += 1
        if len(self.pending) >= self.stepper.ahead:
            self._count(state)
        return self.loss

    def _count(self, state: RunState) -> None:
        """Wait for what the steps give that were not counted yet, and add it up."""
        for step, logs in self.pending:
            self.loss = float(logs["loss"])
            if not math.isfinite(self.loss):
                state.step = step
                raise self._diverged(f"the loss became {self.loss}", state)
            state.loss_sum += self.loss
            state.accuracy_sum += accuracy_of(logs)
        self.pending.clear()

    def _settle(self, state: RunState) -> None:
        """Wait for all steps, and bring the network's variables up to date."""
        assert self.stepper is not None
        self._count(state)
        self.stepper.settle()

    def _rate(self, state: RunState) -> float:
        settings = self.config.training
        if state.epoch < settings.head_epochs:
            return settings.head_learning_rate * state.plateau_scale
        done = state.epoch - settings.head_epochs + state.step / self.source.steps
        return learning_rate(settings, progress=done, scale=state.plateau_scale)

    def _diverged(self, what: str, state: RunState) -> TrainingDiverged:
        return diverged(f"{what} in epoch {state.epoch + 1}, step {state.step + 1}", self.run)

    def _save_if_due(self, state: RunState, stop: threading.Event) -> None:
        if (
            stop.is_set()
            or time.monotonic() - self.saved_at >= self.config.training.checkpoint_seconds
        ):
            self._settle(state)
            self._check_weights(state)
            self._save(state)
        if stop.is_set():
            raise stopped(self.config, self.run, state, steps=self.source.steps)

    def _check_weights(self, state: RunState) -> None:
        # A step with a finite loss can still leave NaN behind, which only the next one would show.
        if not checkpoint.is_finite(self.model):
            raise self._diverged("the weights became NaN or infinite", state)

    def _save(self, state: RunState) -> None:
        if self.team.leads:
            checkpoint.save_checkpoint(self.run.checkpoint, self.model, state)
        self.saved_at = time.monotonic()

    def _time_left(self, state: RunState) -> str:
        costs = [stage_cost(self.config, epoch) for epoch in range(self.config.total_epochs)]
        left = sum(costs[state.epoch :]) * self.source.steps - costs[state.epoch] * state.step
        seconds = self.pace.seconds_for(left)
        return "" if seconds is None else f"  run {format_duration(seconds)} left"

    # ------------------------------------------------------------ after each epoch
    def _end_epoch(self, state: RunState) -> None:
        if not self.config.is_validated(state.epoch):
            state.skip_validation()
            return
        self._settle(state)
        self._check_weights(state)
        seed_step(self.config.training, state.epoch, state.step)
        batches = self.source.plain_batches()
        count = self.config.training.statistics_batches
        with (
            averaged_weights(
                self.model, start=self._start(), share=self.config.training.start_share
            ),
            estimated_statistics(self.model, batches, count=count, stepper=self.stepper),
        ):
            mine = self.val.images[self.team.part(len(self.val.images))]
            probabilities = self.team.joined(predict_probabilities(self.network, mine))
            if not np.isfinite(probabilities).all():
                raise self._diverged("the probabilities became NaN", state)
            # The leader's: another machine's sums may differ in the last digit.
            figures = self.team.share(validation_figures(probabilities, self.val.labels))
            state.stale_epochs += state.epochs_counted
            if figures["val_accuracy"] > state.best_accuracy:
                state.best_accuracy, state.best_epoch = figures["val_accuracy"], state.epoch
                state.stale_epochs = 0
                self._keep_best(state)
        steps, rate = self.source.steps, self._rate(state)
        row = history_row(self.config, state, figures, steps=steps, rate=rate)
        state.history.append(row)
        if not self.quiet:
            report_epoch(row, total=self.config.total_epochs, best=state.best_epoch == state.epoch)
        state.end_epoch(figures["val_loss"], self.config)
        # In this order: whatever a kill leaves undone, the checkpoint knows how to do again.
        self._save(state)
        if self.team.leads:
            run_folder.write_history(self.run.history, state.history)

    def _start(self) -> dict[str, Any]:
        """Return what the network started from, where a share of that is kept."""
        if self.config.training.start_share and not self.start:
            # Drawn as at the start, after a resumption too; nothing later draws from this seed.
            prepare_backend(self.config.training)
            self.start = starting_weights(self.config)
            prepare_backend(self.config.training)
        return self.start

    def _keep_best(self, state: RunState) -> None:
        """Save the weights that stand in the model in a bare copy, without its optimizer."""
        if not self.team.leads:
            return
        if self.bare is None:
            size = self.config.size_at(state.epoch)
            classes = len(self.config.labels)
            self.bare = build_model(self.config.model, size=size, initialise=False, classes=classes)
        self.bare.set_weights(self.network.get_weights())
        refresh(self.bare)
        with run_folder.saving(self.run.best) as temporary:
            self.bare.save(temporary)


def _weights_and_seeds(model: Any) -> list[Any]:
    return list(model.variables)
