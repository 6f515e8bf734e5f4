"""``mien train``: its options, what it prints where, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mien.cli import train as command
from mien.cli.main import main
from mien.core.errors import MissingExtra, OutputError, TrainingDiverged
from mien.training import distillation, trainer
from mien.training.recipe import Config
from mien.training.run_folder import RunFolder, write_json
from mien.training.trainer import TrainingStopped
from training_maker import HISTORY

SUMMARY = {
    "run": "mine",
    "best": {"epoch": 2, "val_accuracy": 0.6543, "val_macro_f1": 0.61, "val_loss": 1.02},
    "epochs": 3,
    "stopped_early": False,
    "seconds": 125.0,
}


class Trainer:
    """Fake trainer: records its arguments and writes a summary, or fails."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.summary: dict[str, Any] = SUMMARY

    def train(self, config: Config, folder: Path, *, quiet: bool) -> RunFolder:
        return self._answer(folder, config=config, quiet=quiet)

    def resume(self, folder: Path, *, quiet: bool) -> RunFolder:
        return self._answer(folder, quiet=quiet)

    def _answer(self, folder: Path, **arguments: Any) -> RunFolder:
        self.arguments = {"folder": folder, **arguments}
        if self.error is not None:
            raise self.error
        run = RunFolder(folder)
        write_json(run.summary, self.summary)
        run.history.write_text(HISTORY, encoding="utf-8")
        return run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    fake = Trainer()
    monkeypatch.setattr(trainer, "train", fake.train)
    monkeypatch.setattr(trainer, "resume", fake.resume)
    return fake


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text('[model]\nbackbone = "Plain"\nweights = "none"\n', encoding="utf-8")
    return path


def test_the_result_is_printed_to_stdout(
    fake: Trainer, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mine"
    words = ["train", "--config", str(recipe), "--run", str(run), "--set", "training.epochs=3"]
    assert main([*words, "--set", "data.source=faces.zip", "--quiet"]) == 0
    assert fake.arguments["folder"] == run
    assert fake.arguments["quiet"] is True
    config = fake.arguments["config"]
    assert (config.training.epochs, config.data.source) == (3, "faces.zip")
    assert config.model.backbone == "Plain"
    out, err = capsys.readouterr()
    assert err == ""
    assert "val accuracy  65.43%" in out
    assert "time          2m05s" in out
    assert f"next: mien export {run}" in out
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_the_summary_and_the_folder(
    fake: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--resume", str(tmp_path / "mine"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**SUMMARY, "folder": str(tmp_path / "mine")}


def test_an_early_stop_is_reported(
    fake: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.summary = {**SUMMARY, "stopped_early": True}
    assert main(["train", "--resume", str(tmp_path / "mine")]) == 0
    assert "3 (early stop)" in capsys.readouterr().out


def test_a_new_run_is_named_after_its_recipe_and_the_time(
    fake: Trainer, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", str(recipe)]) == 0
    folder = fake.arguments["folder"]
    assert folder.parent == command.OUTPUTS == Path("outputs")
    name, date, time = folder.name.split("-")
    assert (name, len(date), len(time)) == ("quick", 8, 6)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train"], 2, "one of the arguments --config --resume is required"),
        (["train", "--config", "a.toml", "--resume", "b"], 2, "not allowed with"),
        (["train", "--resume", "b", "--set", "training.epochs=3"], 2, "leave out --set and --run"),
        (["train", "--resume", "b", "--run", "c"], 2, "leave out --set and --run"),
        (["train", "--config", "nowhere.toml"], 3, "cannot read the configuration nowhere.toml"),
        (["train", "--resume", "nowhere"], 3, "nowhere is not a run"),
        (["train", "--resume", "b", "--engine", "ray"], 2, "--set training.backend=jax"),
        (["train", "--config", "b", "--workers", "2"], 2, "leave out --engine, --workers and"),
    ],
)
def test_bad_arguments(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_unknown_key_is_an_error_with_suggestions(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(recipe), "--set", "training.epoch=3"]) == 2
    err = capsys.readouterr().err
    assert "unknown key training.epoch: did you mean 'epochs'?" in err
    assert main(["train", "--config", str(recipe), "--set", "training.colour=3"]) == 2
    assert " epochs, " in capsys.readouterr().err


def test_missing_data_have_exit_code_3(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["train", "--config", str(recipe), "--run", str(run)]
    assert main([*words, "--set", f"data.source={tmp_path / 'nowhere'}"]) == 3
    assert "nowhere" in capsys.readouterr().err
    assert not run.exists()


def test_a_folder_that_holds_a_run_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").touch()
    assert main(["train", "--config", str(recipe), "--run", str(tmp_path)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def go_to_a_run(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where the recipe is, with a run of it begun in the folder "run"."""
    monkeypatch.chdir(recipe.parent)
    (recipe.parent / "run").mkdir()
    (recipe.parent / "run" / "config.toml").write_text(recipe.read_text())


@pytest.mark.parametrize("words", [["--resume", "run"], ["--config", "quick.toml"]])
def test_without_keras_the_extra_is_named(
    words: list[str],
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing(_: object) -> None:
        raise MissingExtra("train", "training")

    go_to_a_run(recipe, monkeypatch)
    monkeypatch.setattr(trainer, "check_installed", missing)
    assert main(["train", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mien: training needs the extra [train], which is not installed: ")
    assert err.endswith("pip install 'mien[train]', or 'mien[train-gpu]' for an NVIDIA GPU\n")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TrainingDiverged("the loss became nan"), 1, "mien: the loss became nan\n"),
        (OutputError("cannot write: disk full"), 1, "mien: cannot write: disk full\n"),
        (TrainingStopped("stopped; to go on: …"), 130, "mien: stopped; to go on: …\n"),
        (KeyboardInterrupt("stopped at once"), 130, "mien: stopped at once\n"),
        (KeyboardInterrupt(), 130, "mien: interrupted\n"),
    ],
)
def test_what_stops_a_run_is_one_line_and_a_code(
    fake: Trainer,
    error: BaseException,
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake.error = error
    assert main(["train", "--resume", "run"]) == code
    assert capsys.readouterr() == ("", message)


FILLED = {
    "folder": "logits",
    "teachers": ["wise", "old"],
    "views": 3,
    "files": 6,
    "computed": 4,
    "size_bytes": 2_400_000,
}


def test_teachers_logits_are_computed_without_training(
    fake: Trainer, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs: list[Config] = []

    def fill(config: Config, *, quiet: bool) -> dict[str, Any]:
        configs.append(config)
        return FILLED

    monkeypatch.setattr(distillation, "cache_teacher_logits", fill)
    words = ["train", "--config", str(recipe), "--teacher-logits", "--set", "distill.views=3"]
    assert main(words) == 0
    assert configs[0].distill.views == 3
    assert capsys.readouterr().out.splitlines() == [
        "cache         logits",
        "teachers      wise, old",
        "views         3",
        "files         6, 4 of them computed now",
        "size          2.4 MB",
    ]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["computed"] == 4
    assert fake.arguments == {}


@pytest.mark.parametrize("words", [["--resume", "run"], ["--config", "x.toml", "--run", "run"]])
def test_teachers_logits_are_of_a_recipe_alone(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--teacher-logits", *words]) == 2
    assert "--teacher-logits goes with --config and --set alone" in capsys.readouterr().err


def test_a_recipe_without_teachers_has_no_logits_to_compute(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(recipe), "--teacher-logits"]) == 2
    assert "expected a recipe with distill.teachers" in capsys.readouterr().err
