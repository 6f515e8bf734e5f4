from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mien.core.errors import MissingExtra, UsageError
from mien.training.backend import (
    check_installed,
    import_keras,
    prepare_backend,
    seed_step,
    silence_native_stderr,
)
from mien.training.recipe import TrainingSettings
from training_maker import tiny_config


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, *rest: Any) -> Any:
        return None if name == package else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.mark.parametrize("package", ["keras", "tensorflow", "sklearn", "matplotlib"])
def test_all_packages_of_a_run_are_checked_first(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(package, monkeypatch)
    with pytest.raises(MissingExtra, match=r"pip install 'mien\[train\]'"):
        check_installed(TrainingSettings())


def test_a_missing_backend_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    without("torch", monkeypatch)
    with pytest.raises(UsageError, match=r'"torch" needs a package .* pip install torch') as caught:
        check_installed(TrainingSettings(backend="torch"))
    assert not isinstance(caught.value, MissingExtra)


def test_another_backend_does_not_need_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec("numpy")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "tensorflow" else found
    )
    check_installed(TrainingSettings(backend="torch"))


def test_seed_and_precision_are_set(keras_ready: None) -> None:
    import keras

    def drawn(seed: int) -> float:
        prepare_backend(
            tiny_config(training_seed=seed, training_precision="mixed_bfloat16").training
        )
        return float(keras.random.uniform(()))

    assert drawn(1) == drawn(1) != drawn(2)
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


def test_keras_settings_of_other_programs_are_overridden(keras_ready: None) -> None:
    import keras

    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float16")
    keras.config.set_epsilon(0.5)
    keras.config.set_dtype_policy("float16")
    assert import_keras() is keras
    assert keras.config.image_data_format() == "channels_last"
    assert keras.config.floatx() == keras.config.dtype_policy().name == "float32"
    assert keras.config.epsilon() == 1e-7


@pytest.mark.slow
def test_the_keras_json_of_the_user_is_overridden(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    settings = {
        "image_data_format": "channels_first",
        "floatx": "float16",
        "epsilon": 0.5,
        "backend": "theano",
    }
    (tmp_path / "keras.json").write_text(json.dumps(settings), encoding="utf-8")
    code = (
        "from mien.training.backend import prepare_keras\n"
        "prepare_keras('tensorflow')\n"
        "import keras\n"
        "network = keras.Sequential([keras.Input((48, 48, 1)), keras.layers.Conv2D(2, 3)])\n"
        "print(network.output_shape, network.layers[0].dtype, keras.config.epsilon())\n"
    )
    kept = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**kept, "KERAS_HOME": str(tmp_path)},
    )
    assert answer.stdout == "(None, 46, 46, 2) float32 1e-07\n", answer.stderr


def test_failed_import_of_keras_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ValueError("Invalid `floatx` configuration.\nExpected one of")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UsageError, match=r"Invalid `floatx` .* look at .* keras\.json") as error:
        import_keras()
    assert "\n" not in str(error.value)


def test_settings_that_come_too_late_are_an_error(
    keras_ready: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    keras.random.uniform(())  # TensorFlow runs
    with pytest.raises(UsageError, match=r"training\.threads = 7 comes too late"):
        prepare_backend(tiny_config(training_threads=7).training)
    monkeypatch.setattr("mien.training.backend.check_installed", lambda _: None)
    with pytest.raises(UsageError, match="Keras already runs on tensorflow: start a new process"):
        prepare_backend(tiny_config(training_backend="torch").training)


def test_on_torch_each_step_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    torch = types.SimpleNamespace(manual_seed=seeds.append)
    monkeypatch.setitem(sys.modules, "torch", torch)
    for seed, epoch, step in [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0), (1, 0, 1)]:
        seed_step(TrainingSettings(backend="torch", seed=seed), epoch, step)
    assert len(set(seeds)) == 4
    assert seeds[1] == seeds[4]
    seed_step(TrainingSettings(backend="tensorflow"), 0, 0)
    assert len(seeds) == 5


def test_native_messages_are_suppressed_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with silence_native_stderr():
        os.write(2, b"TensorFlow greets")


def test_importing_the_package_loads_neither_keras_nor_tensorflow() -> None:
    code = (
        "import sys, mien.training.trainer, mien.training.export, mien.cli.train\n"
        "heavy = {'keras', 'tensorflow', 'torch', 'matplotlib', 'sklearn', 'onnx', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert answer.stdout.strip() == "[]"
