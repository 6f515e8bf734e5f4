"""The kit from pack to results, stopped and killed on the way."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lab.gpu import kit, workplace
from lab.gpu.kit import run_kit
from lab.tests.kit_maker import write_pack, write_plan
from mien.core.errors import EXIT_DONE, EXIT_INTERRUPTED, InputError
from mien.training.recipe import load_config
from training_maker import wait_for


def results(folder: Path) -> dict[str, bytes]:
    """Put the parts of the archive together, and return its files."""
    parts = sorted(folder.glob("results.tar.*"))
    whole = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=whole) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in files.items() if file is not None}


@pytest.mark.slow
@pytest.mark.parametrize("on_device", [False, True])
def test_it_is_killed_stopped_and_gone_on_with_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plan, pack, work = write_plan(tmp_path / "plan"), write_pack(tmp_path), tmp_path / "work"
    output = tmp_path / "results"
    if on_device:
        # As if it had found a GPU: what trains there runs on a processor, too.
        pytest.importorskip("torch")
        work.mkdir()
        (work / "journal.json").write_text('{"backend": "cuda", "gpu": false}')
    words = ["run", "--plan", str(tmp_path / "plan/plan.toml"), "--pack", str(pack)]
    words += ["--work", str(work), "--output", str(output), "--workers", "2"]

    # Killed while the first teacher trains, or just after.
    with (tmp_path / "log").open("wb") as log:
        killed = subprocess.Popen([sys.executable, "-m", "lab.gpu", *words], stdout=log, stderr=log)
        try:
            wait_for(work / "runs/first/config.toml", killed, seconds=1200)
        finally:
            killed.kill()
            killed.wait()
    assert not (output / "report.json").exists()

    # Its time is over when the second teacher has begun.
    def is_late(_: object) -> bool:
        return (work / "runs/second/config.toml").exists()

    monkeypatch.setattr(kit._Kit, "_is_late", is_late)
    assert run_kit(plan, pack, work, output, workers=2) == EXIT_INTERRUPTED
    part = json.loads((output / "report.json").read_text())
    assert list(part["runs"]) == ["first"]
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    assert run_kit(plan, pack, work, output, workers=2) == EXIT_DONE
    report = json.loads((output / "report.json").read_text())
    names = ["first", "second", "pupil", *(["other"] if on_device else [])]
    assert list(report["runs"]) == names
    assert set(report["public_test"]) == {*names, "teachers together"}
    assert report["kit"]["backend"] in (["cuda"] if on_device else ["jax", "torch", "tensorflow"])
    assert report["kit"]["spent"] > 0
    files = results(output)
    assert {"runs/pupil/best.keras", "runs/first/history.csv", "report/report.md"} <= set(files)
    assert any(name.startswith("logits/first-") for name in files) != on_device
    assert any(name.startswith("logits/second-") for name in files) != on_device
    assert ("runs/other/best.keras" in files) == on_device
    assert not any("checkpoint" in name for name in files)
    with np.load(io.BytesIO(files["probabilities.npz"])) as stored:
        assert sorted(stored.files) == sorted(names)
        assert stored["pupil"].shape == (2, 14, 7)
        assert np.allclose(stored["pupil"].astype(float).sum(axis=2), 1, atol=0.01)
    config = load_config(work / "runs/pupil/config.toml")
    assert len(config.distill.teachers) == 2
    assert (config.distill.views == 0) == on_device
    assert (config.training.backend == "cuda") == on_device
    assert config.data.source == str(work / "faces.npz")

    # Done once more: nothing is trained again.
    before = {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("*")}
    assert run_kit(plan, pack, work, output, workers=2) == EXIT_DONE
    assert {path: path.stat().st_mtime_ns for path in (work / "runs").rglob("*")} == before


def test_without_a_pack_it_says_how_to_make_one(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan")
    with pytest.raises(InputError, match=r"no pack in .*: expected what make lab-pack makes"):
        run_kit(plan, tmp_path / "pack", tmp_path / "work", tmp_path / "results", workers=1)


def test_two_at_once_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(workplace, "_LOCK_SECONDS", 0.0)
    plan = write_plan(tmp_path / "plan")
    (tmp_path / "work").mkdir()
    with (tmp_path / "work/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"runs in .* already"):
            run_kit(plan, tmp_path, tmp_path / "work", tmp_path / "results", workers=1)
