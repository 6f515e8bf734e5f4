"""`training.validate_every`: the same training, with fewer rows in its history."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien.training import sitting
from mien.training.run_folder import RunFolder
from mien.training.run_state import RunState
from mien.training.stopping import TrainingStopped
from mien.training.trainer import resume, train
from training_maker import read_checkpoint, read_history, same_arrays, tiny_config


def test_it_trains_the_same_and_tells_the_mean_of_the_epochs(
    tiny_data: Path, tmp_path: Path
) -> None:
    often = train(tiny_config(tiny_data, training_epochs=4), tmp_path / "often", quiet=True)
    config = tiny_config(tiny_data, training_epochs=4, training_validate_every=2)
    seldom = train(config, tmp_path / "seldom", quiet=True)
    assert same_arrays(read_checkpoint(seldom), read_checkpoint(often))
    each, few = read_history(often), read_history(seldom)
    # The head's phase ends after epoch 1, the run after epoch 5.
    assert [row["epoch"] for row in few] == ["1", "2", "4", "5"]
    for row in few:
        assert row["val_loss"] == each[int(row["epoch"]) - 1]["val_loss"]
    mean = (float(each[2]["loss"]) + float(each[3]["loss"])) / 2
    assert float(few[2]["loss"]) == pytest.approx(mean)
    assert float(few[3]["loss"]) == pytest.approx(float(each[4]["loss"]))


def test_a_run_stopped_between_two_validations_goes_on(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_data, training_head_epochs=0, training_validate_every=2)
    whole = train(config, tmp_path / "whole", quiet=True)
    save = sitting.Sitting._save_if_due

    def stopping(run: sitting.Sitting, state: RunState, stop: object) -> None:
        if (state.epoch, state.step) == (1, 1):
            run._settle(state)
            run._save(state)
            raise TrainingStopped("here")
        save(run, state, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(sitting.Sitting, "_save_if_due", stopping)
    with pytest.raises(TrainingStopped):
        train(config, tmp_path / "stopped", quiet=True)
    monkeypatch.undo()
    assert not RunFolder(tmp_path / "stopped").history.exists()
    resumed = resume(tmp_path / "stopped", quiet=True)
    assert read_history(resumed) == read_history(whole)
    assert same_arrays(read_checkpoint(resumed), read_checkpoint(whole))
