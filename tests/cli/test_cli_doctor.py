"""`mien doctor`: findings in working and broken installations."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mien.cli import doctor
from mien.cli.main import main

Doctor = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    """Run `mien doctor --json` with an empty cache; return exit code, findings and stderr."""
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))

    def call(model: Path | str = tiny_model) -> tuple[int, Any, str]:
        code = main(["doctor", "--json", "--model", str(model)])
        out, err = capsys.readouterr()
        written = json.loads(out)
        assert written["schema"] == "mien-doctor/1"
        assert written["works"] == (code == 0)
        return code, {(item["part"], item["name"]): item for item in written["findings"]}, err

    return call


def test_a_good_installation_is_0(run: Doctor, tiny_model: Path, tmp_path: Path) -> None:
    code, found, err = run()
    assert (code, err) == (0, "")
    assert found["system", "python"]["state"] == "ok"
    for name in ("numpy", "onnxruntime", "opencv-python-headless", "pillow"):
        assert found["packages", name]["detail"] == importlib.metadata.version(name)
    assert "hash matches, reads a face in" in found["models", str(tiny_model)]["detail"]
    assert found["detectors", "haar"]["state"] == "ok"
    assert found["detectors", "auto"]["state"] == "ok"
    yunet = found["detectors", "yunet"]
    assert yunet["state"] == "-"
    assert "--detector yunet" in yunet["mend"]
    assert found["cache", str(tmp_path / "home")]["detail"] == "MIEN_HOME, not created yet"


def test_the_table_is_aligned_and_says_that_it_works(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--model", str(tiny_model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    column = lines[0].index("STATE")
    table = lines[: lines.index("")]
    assert all(line[column - 1] == " " and line[column] in "So-b" for line in table)
    assert lines[-1] == "mien works"


def test_a_missing_model_is_5_with_a_fix(run: Doctor) -> None:
    code, found, err = run("no-such-model")
    assert code == 5
    finding = found["models", "no-such-model"]
    assert finding["state"] == "bad"
    assert "mien export" in finding["mend"]
    assert finding["mend"] in err
    assert len(err.splitlines()) == 1


def test_a_damaged_model_is_5(run: Doctor, make_tiny_model: Callable[..., Path]) -> None:
    model = make_tiny_model("damaged")
    path = model / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, found, err = run(model)
    assert code == 5
    assert "does not match" in found["models", str(model)]["detail"]
    assert "does not match" in err


def test_bundled_models_are_reinstalled_from_the_origin_of_mien(tmp_path: Path) -> None:
    package = tmp_path / "a clone" / "src" / "mien"
    origin = '{"url": "file:///home/me/my%20mien", "dir_info": {}}'
    line = doctor.reinstall_command
    assert line(package, origin) == "pip install --force-reinstall --no-deps '/home/me/my mien'"
    assert line(package, None) == "pip install --force-reinstall --no-deps mien"
    (package.parents[1] / ".git").mkdir(parents=True)
    mend = f"git -C '{tmp_path / 'a clone'}' checkout -- src/mien/models"
    assert line(package, None) == line(package, origin) == mend


@pytest.mark.parametrize(
    ("origin", "place"),
    [
        ('"url": "https://host/mien.git", "vcs_info": {"vcs": "git"}', "git+https://host/mien.git"),
        (
            '"url": "https://host/mien.git", '
            '"vcs_info": {"vcs": "git", "requested_revision": "v1", "commit_id": "0a1b"}',
            "git+https://host/mien.git@0a1b",
        ),
        (
            '"url": "https://host/mien-1.0.tar.gz", "archive_info": {}',
            "https://host/mien-1.0.tar.gz",
        ),
    ],
    ids=["repository", "revision", "archive"],
)
def test_bundled_models_are_reinstalled_from_a_url(tmp_path: Path, origin: str, place: str) -> None:
    line = doctor.reinstall_command(tmp_path / "lib" / "mien", f"{{{origin}}}")
    assert line == f"pip install --force-reinstall --no-deps {place}"


def test_packages_that_only_lack_another_one_have_no_fix(
    run: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, load = importlib.metadata.version, importlib.import_module

    def without_numpy(name: str, *rest: str) -> Any:
        if name == "numpy":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    def fail(name: str, *rest: str) -> ModuleType:
        if name in ("numpy", "cv2"):
            print("needs numpy")  # as OpenCV does, which must not get among the JSON
            raise ModuleNotFoundError("No module named 'numpy'")
        return load(name, *rest)

    monkeypatch.setattr(importlib.metadata, "version", without_numpy)
    monkeypatch.setattr(importlib, "import_module", fail)
    code, found, _ = run()
    assert code == 1
    assert found["packages", "numpy"]["mend"] == "pip install 'numpy>=1.26'"
    opencv = found["packages", "opencv-python-headless"]
    assert (opencv["state"], opencv["mend"]) == ("bad", None)


def test_models_in_the_cache_are_checked_but_not_needed(
    run: Doctor, make_tiny_model: Callable[..., Path]
) -> None:
    good, bad = make_tiny_model("home/good"), make_tiny_model("home/models/bad")
    (bad / "model.onnx").unlink()
    code, found, _ = run()
    assert code == 0
    assert found["models", str(good)]["state"] == "ok"
    assert found["models", str(bad)]["state"] == "-"
    assert "cannot read" in found["models", str(bad)]["detail"]


def test_damaged_detector_weights_are_5_because_auto_uses_them(run: Doctor, tmp_path: Path) -> None:
    from mien.inference.detectors.yunet import WEIGHTS

    WEIGHTS.path.parent.mkdir()
    WEIGHTS.path.write_bytes(b"half a download")
    code, found, err = run()
    assert code == 5
    for name in ("yunet", "auto"):
        assert found["detectors", name]["mend"] == f"delete {WEIGHTS.path}"
    assert str(WEIGHTS.path) in err


def test_yunet_in_the_cache_is_what_auto_means(run: Doctor, shared: Path) -> None:
    from mien.inference.detectors.yunet import WEIGHTS

    WEIGHTS.path.parent.mkdir()
    WEIGHTS.path.write_bytes((shared / "models" / WEIGHTS.name).read_bytes())
    _, found, _ = run()
    assert found["detectors", "auto"]["detail"] == "is yunet"


def test_a_broken_package_is_a_finding(run: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str, *args: Any) -> ModuleType:
        if name == "onnxruntime":
            raise ImportError("libonnx.so: no such file")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", broken)
    code, found, err = run()
    assert code == 1
    finding = found["packages", "onnxruntime"]
    assert list(finding) == ["part", "name", "state", "detail", "mend"]
    assert finding["state"] == "bad"
    assert finding["mend"].startswith("pip install 'onnxruntime")
    assert "no such file" in err


@pytest.mark.parametrize("is_checkout", [True, False])
def test_developer_extras_are_only_checked_in_a_checkout(
    is_checkout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["numpy; extra == 'dev'"])
    monkeypatch.setattr(doctor, "_is_checkout", lambda: is_checkout)
    assert [finding.name for finding in doctor._check_extras()] == ["dev"] * is_checkout


def test_extras_are_those_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=1.26",
        "other>=1; sys_platform == 'nowhere'",
        "numpy; extra == 'full'",
        "no-such-package>=2; extra == 'empty'",
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    assert doctor._requirements() == {
        "": {"numpy": ">=1.26"},
        "full": {"numpy": ""},
        "empty": {"no-such-package": ">=2"},
    }
    full, empty = doctor._check_extras()
    assert (full.state, full.detail) == ("ok", "installed")
    assert (empty.state, empty.fix) == ("-", "pip install 'mien[empty]'")
    assert empty.detail == "without no-such-package"


def test_without_an_installation_the_core_is_still_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(_: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert set(doctor._requirements()[""]) >= {"numpy", "onnxruntime"}


def test_telemetry_is_off_unless_it_is_enabled(
    run: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "")
    _, found, _ = run()
    assert found["system", "telemetry"]["state"] == "ok"
    assert "ORT_DISABLE_TELEMETRY" in found["system", "telemetry"]["detail"]
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    code, found, _ = run()
    finding = found["system", "telemetry"]
    assert (code, finding["state"]) == (0, "-")
    assert finding["detail"] == "on, by ORT_DISABLE_TELEMETRY=0"
    assert finding["mend"] == "unset ORT_DISABLE_TELEMETRY"


def test_an_unusable_cache_is_a_finding_but_no_failure(
    run: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "file" / "cache"))
    code, found, err = run()
    assert (code, err) == (0, "")
    finding = found["cache", str(tmp_path / "file" / "cache")]
    assert finding["state"] == "-"
    assert "is not a folder" in finding["detail"]
    assert "MIEN_HOME=FOLDER" in finding["mend"]


def test_a_missing_home_folder_is_a_finding_but_no_failure(
    run: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MIEN_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    code, found, err = run()
    assert (code, err) == (0, "")
    assert "no home folder" in found["cache", "MIEN_HOME"]["detail"]
    assert "MIEN_HOME=FOLDER" in found["cache", "MIEN_HOME"]["mend"]
