from __future__ import annotations

import math
from typing import Any

from mien.training.run_state import RunState
from training_maker import tiny_config


def epochs_of(losses: list[float], accuracies: list[float], **changes: Any) -> RunState:
    """The state after epochs with these validation figures, or as many as there were."""
    config = tiny_config(**changes)
    state = RunState()
    for loss, accuracy in zip(losses, accuracies, strict=True):
        if state.is_over(config):
            break
        state.stale_epochs += 1
        if accuracy > state.best_accuracy:
            state.best_accuracy, state.best_epoch, state.stale_epochs = accuracy, state.epoch, 0
        state.step = 3
        state.history.append({})
        state.end_epoch(loss, config)
    return state


def test_an_epoch_counts_and_begins_anew() -> None:
    state = RunState(step=3, loss_sum=4.0, accuracy_sum=2.0, epoch_seconds=9.0)
    state.end_epoch(1.0, tiny_config())
    assert (state.epoch, state.step, state.loss_sum, state.accuracy_sum) == (1, 0, 0.0, 0.0)
    assert state.epoch_seconds == 0.0
    assert not state.is_over(tiny_config())


def test_a_run_is_over_after_its_last_epoch() -> None:
    state = epochs_of([1.0] * 9, [0.1] * 9, training_epochs=2)
    assert len(state.history) == 3
    assert not state.stopped_early


def test_early_stopping_waits_for_its_patience() -> None:
    changes = {"training_head_epochs": 0, "training_epochs": 9, "training_early_stopping": 2}
    accuracies = [0.1, 0.3, 0.3, 0.4, 0.2, 0.4, 0.5, 0.6, 0.7]
    state = epochs_of([1.0] * 9, accuracies, **changes)
    # 0.4 in the fourth epoch; neither of the next two is better.
    assert len(state.history) == 6
    assert state.stopped_early
    assert state.best_epoch == 3
    off = epochs_of([1.0] * 9, accuracies, **{**changes, "training_early_stopping": 0})
    assert len(off.history) == 9
    assert not off.stopped_early


def test_early_stopping_in_the_head_phase_goes_over_to_fine_tuning() -> None:
    changes = {"training_head_epochs": 5, "training_epochs": 3, "training_early_stopping": 1}
    state = epochs_of([1.0] * 2, [0.3, 0.2], **changes)
    assert state.epoch == 5
    assert not state.stopped_early
    assert state.stale_epochs == 0
    ended = epochs_of([1.0] * 2, [0.3, 0.2], **{**changes, "training_epochs": 0})
    assert ended.stopped_early


def test_plateau_lowers_the_rate_each_time_its_patience_runs_out() -> None:
    changes = {
        "training_head_epochs": 0,
        "training_epochs": 20,
        "training_schedule": "plateau",
        "training_plateau_patience": 2,
        "training_plateau_factor": 0.1,
    }
    losses = [1.0, 0.9, 0.9, 0.95]
    assert epochs_of(losses[:3], [0.1] * 3, **changes).plateau_scale == 1.0
    assert epochs_of(losses, [0.1] * 4, **changes).plateau_scale == 0.1
    # Counted anew after it, and from a better loss on.
    again = epochs_of([*losses, 0.5, 0.6, 0.6], [0.1] * 7, **changes)
    assert math.isclose(again.plateau_scale, 0.01)
    other = epochs_of(losses, [0.1] * 4, **{**changes, "training_schedule": "cosine"})
    assert other.plateau_scale == 1.0


def test_fine_tuning_is_judged_by_itself() -> None:
    changes = {
        "training_head_epochs": 3,
        "training_schedule": "plateau",
        "training_plateau_patience": 1,
    }
    state = epochs_of([0.1, 0.2], [0.5, 0.4], **changes)
    assert state.plateau_scale == 0.5
    state = epochs_of([0.1, 0.2, 0.2], [0.5, 0.4, 0.4], **changes)
    assert (state.plateau_scale, state.plateau_loss, state.plateau_wait) == (1.0, math.inf, 0)
    assert state.stale_epochs == 0
    assert state.best_accuracy == 0.5
