"""What mien runs on is told not to report before it is loaded, unless somebody said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mien.core.telemetry import SWITCHES, disable_telemetry, reporting


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.setenv(name, "")  # so that monkeypatch takes back what is set meanwhile
        monkeypatch.delenv(name)


def test_every_switch_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "")
    disable_telemetry()
    assert {name: os.environ[name] for name in SWITCHES} == dict(SWITCHES)
    assert reporting() == []


def test_what_somebody_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    disable_telemetry()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert reporting() == ["RAY_USAGE_STATS_ENABLED=1"]


@pytest.mark.parametrize(
    "module",
    [
        "mien.core.onnx_runtime",
        "mien.inference.classifier",
        "mien.inference.speed",
        "mien.training.quantize",
        "mien.training.teachers",
    ],
)
def test_it_is_said_before_onnx_runtime_is_loaded(module: str) -> None:
    watching = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import {module}\n"
        "from mien.core.onnx_runtime import onnxruntime\n"
    )
    answer = subprocess.run([sys.executable, "-c", watching], capture_output=True, text=True)
    assert answer.stdout == "1\n", answer.stderr
