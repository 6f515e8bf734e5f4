"""What is installed: pinned with hashes, small without extras, whole when built."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hatch_build
from mien.cli.main import build_parser
from mien.service.app import PATHS
from mien.service.page_files import RUNTIME_FILES, Folders, page_files
from mien.training.recipe import read_tables

ROOT = Path(__file__).resolve().parent.parent.parent
LOCKS = ("core", "dev", "build")
CORE_LIMIT_BYTES = 420_000_000

Pin = tuple[str, str, str]
"""Name, version, marker."""


def pins(lock: str) -> dict[Pin, int]:
    """The pins of a lock file, and how many hashes each has."""
    text = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    found: dict[Pin, int] = {}
    for entry in re.split(r"\n(?=[a-z])", text):
        match = re.match(r"([a-z0-9._-]+)==(\S+)(?: ; (.+?))? \\\n", entry)
        if match:
            pin = (canonicalize_name(match[1]), match[2], match[3] or "")
            found[pin] = len(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry))
    return found


def needed(name: str, extra: str = "") -> Iterator[Requirement]:
    """What an installed distribution needs on this machine."""
    for line in importlib.metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def core_distributions() -> set[str]:
    """The names of all that installing mien without extras installs."""
    found: set[str] = set()
    waiting = ["mien"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            waiting += [requirement.name for requirement in needed(name)]
    return found


def size_of(name: str) -> int:
    files = importlib.metadata.files(name) or []
    paths = [Path(str(file.locate())) for file in files]
    return sum(path.stat().st_size for path in paths if path.is_file())


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_index_is_named(lock: str) -> None:
    assert pins(lock)
    assert all(count > 0 for count in pins(lock).values())
    text = (ROOT / "locks" / f"{lock}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "index-url" not in text
    assert len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) == len(pins(lock))


def test_the_locks_agree_with_each_other() -> None:
    by_name: dict[str, set[Pin]] = {}
    for pin in pins("dev"):
        by_name.setdefault(pin[0], set()).add(pin)
    assert set(pins("core")) <= set(pins("dev"))
    for pin in pins("build"):
        assert pin[1] in {known[1] for known in by_name.get(pin[0], {pin})}


@pytest.mark.parametrize(("lock", "extras"), [("core", [""]), ("dev", ["", "train", "app", "dev"])])
def test_the_locks_satisfy_the_requirements(lock: str, extras: list[str]) -> None:
    here = {
        name: version
        for name, version, marker in pins(lock)
        if not marker or Marker(marker).evaluate()
    }
    for requirement in (each for extra in extras for each in needed("mien", extra)):
        version = here[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_core_install_stays_under_420_mb() -> None:
    files = [path for path in (ROOT / "src").rglob("*") if path.is_file()]
    source = sum(path.stat().st_size for path in files if path.parent.name != "__pycache__")
    sizes = {name: size_of(name) for name in core_distributions()}
    assert sizes["numpy"] > 10 * 2**20, "nothing was measured"
    total = source + sum(sizes.values())
    assert total < CORE_LIMIT_BYTES, {name: size >> 20 for name, size in sizes.items()}


def test_the_core_holds_no_training_package() -> None:
    assert not core_distributions() & {
        "keras",
        "tensorflow-cpu",
        "tensorflow",
        "matplotlib",
        "onnx",
    }


def test_the_extra_for_a_gpu_is_that_for_training_with_another_tensorflow() -> None:
    extras = read_tables(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    parsed = {name: [Requirement(line) for line in extras[name]] for name in ("train", "train-gpu")}
    others = {
        name: {str(line) for line in lines if not line.name.startswith("tensorflow")}
        for name, lines in parsed.items()
    }
    assert others["train-gpu"] == others["train"]
    linux = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.12"}
    here = [line for line in parsed["train-gpu"] if not line.marker or line.marker.evaluate(linux)]
    flows = [line for line in here if line.name.startswith("tensorflow")]
    assert [(line.name, line.extras) for line in flows] == [("tensorflow", {"and-cuda"})]


def build(target: str, folder: Path) -> Path:
    """Build a "wheel" or "sdist" into a folder; return its file."""
    if not Folders.found().has_runtime:
        pytest.skip("a wheel needs onnxruntime-web: python hatch_build.py fetches it")
    command = [sys.executable, "-m", "hatchling", "build", "--target", target]
    subprocess.run(
        [*command, "--directory", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    (file,) = folder.iterdir()
    return file


def test_a_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as archive:
        held = {name for name in archive.namelist() if name.startswith("mien/")}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    files = [path.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*") if path.is_file()]
    source = {
        path.as_posix()
        for path in files
        if path.suffix != ".pyc" and not any(part.startswith(".") for part in path.parts)
    }
    recipes = {f"mien/configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")}
    library = ROOT / "mien-web" / "src"
    page = {
        f"mien/service/web/{path.relative_to(library).as_posix()}"
        for path in library.rglob("*")
        if path.is_file()
    }
    assert held == source | recipes | page | {"mien/service/samples/astronaut.jpg"}
    assert {f"mien/service/web/runtime/{name}" for name in RUNTIME_FILES} <= held
    assert "mien/py.typed" in held
    assert licences


def test_an_sdist_holds_what_developers_need_and_not_the_lab(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "Makefile", "CHANGELOG.md", "CITATION.cff", "locks/dev.txt"):
        assert name in held
    for folder in ("src/mien", "tests", "docs", "configs"):
        assert any(name.startswith(f"{folder}/") for name in held), folder
    assert not [name for name in held if name.startswith("lab/")]


RECIPES = """
import json
from mien.training.recipe import bundled_recipes, load_config

print(json.dumps({name: str(path) for name, path in bundled_recipes().items()}))
assert load_config("reference").model.backbone == "EfficientNetB0"
"""


PAGE = """
import json
from mien.service.page_files import page_files

files = page_files()
assert all(file.content().body for file in files)
print(json.dumps(sorted(file.path for file in files)))
"""


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_built_package_runs_in_a_new_environment(kind: str, tmp_path: Path) -> None:
    package = build(kind, tmp_path / "dist")
    uv = [sys.executable, "-m", "uv", "--offline", "--no-cache", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(tmp_path / "env")], check=True)
    (site,) = (tmp_path / "env").glob("[Ll]ib/**/site-packages")
    # The dependencies are those of this environment; the package itself has to be the built one.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    python = tmp_path / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    options = ["--python", str(python), "--no-deps", "--no-build-isolation", "--no-index"]
    # An sdist becomes a wheel here, without a network.
    settings = {**os.environ, hatch_build.FOLDER_VARIABLE: str(hatch_build.FOLDER)}
    subprocess.run([*uv, "pip", "install", *options, str(package)], check=True, env=settings)

    def run(*words: str) -> str:
        answer = subprocess.run(
            [str(python), *words], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    assert site in Path(run("-c", "import mien; print(mien.__file__)").strip()).parents
    for recipe, path in json.loads(run("-c", RECIPES)).items():
        assert site in Path(path).parents, recipe
    page = json.loads(run("-c", PAGE))
    assert page == sorted(file.path for file in page_files())
    picture = str(ROOT / "images/sample.png")
    output = run("-m", "mien", "predict", picture, "--format", "json", "--offline")
    assert len(json.loads(output)["faces"]) == 7


def test_files_for_the_browser_come_from_a_folder_or_say_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Folders.found().has_runtime:
        pytest.skip("onnxruntime-web is not here: python hatch_build.py fetches it")
    given, target = tmp_path / "given", tmp_path / "target"
    shutil.copytree(hatch_build.FOLDER, given)
    monkeypatch.setenv(hatch_build.FOLDER_VARIABLE, str(given))
    hatch_build.provide(target)
    assert {path.name for path in target.iterdir()} == set(RUNTIME_FILES)
    (given / RUNTIME_FILES[0]).write_text("something else", encoding="utf-8")
    hatch_build.provide(target)  # what is there is as it should be
    (target / RUNTIME_FILES[1]).unlink()
    with pytest.raises(hatch_build.Missing, match=f"{RUNTIME_FILES[0]} is missing or not that"):
        hatch_build.provide(target)
    monkeypatch.delenv(hatch_build.FOLDER_VARIABLE)
    monkeypatch.setenv(hatch_build.REGISTRY_VARIABLE, "http://127.0.0.1:9")
    with pytest.raises(hatch_build.Missing, match=r"cannot download .*run 'python hatch_build.py'"):
        hatch_build.provide(target)


def test_the_commit_hooks_run_the_locked_ruff() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (version,) = {version for name, version, _ in pins("dev") if name == "ruff"}
    assert f"rev: v{version} " in hooks


def test_the_container_serves_as_an_unprivileged_user() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    steps = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    command = json.loads(steps["CMD"])
    assert command[0] == "mien"
    assert build_parser().parse_args(command[1:]).host == "0.0.0.0"
    assert steps["USER"] == "mien"
    (path,) = re.findall(r"127\.0\.0\.1:8000(/\w+)", steps["HEALTHCHECK"])
    assert path in PATHS
    assert any("/source[app,video]" in line for line in lines if line.startswith("RUN "))
    # What the build needs of the checkout gets into it.
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    built_from = {"src", "configs", "mien-web", "images/astronaut.jpg", "hatch_build.py"}
    built_from |= {"hatch_readme.py", "pyproject.toml", "README.md", "LICENSE"}
    assert {f"!{name}" for name in built_from} <= set(kept)
