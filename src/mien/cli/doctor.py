"""``mien doctor``: check the installation, and suggest fixes.

Modules that may be broken are imported inside the checks, so that a failure becomes a finding.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mien import __version__
from mien.cli.options import add_command, add_model_option
from mien.cli.output import write_answer
from mien.core.errors import EXIT_DONE, MienError, ModelError, OutputError, printable
from mien.core.files import HOME_VARIABLE, cache_folder, write_obstacle
from mien.core.formats import table_text
from mien.core.models import DEFAULT_MODEL
from mien.core.process import (
    TELEMETRY_SWITCHES,
    disable_telemetry,
    enabled_telemetry,
    package_version,
    usable_cores,
)

SCHEMA = "mien-doctor/1"
"""Name and version of the JSON form."""

_PACKAGE = Path(__file__).parents[1]
_MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_DEVELOPER_EXTRAS = ("dev", "docs")
_EXPORT = "mien export RUN # and --model RUN/export"
_SET_CACHE = f"{'set' if os.name == 'nt' else 'export'} {HOME_VARIABLE}=FOLDER"
_DETECTOR_FIXES: Mapping[str, str] = {
    "yunet": "mien predict IMAGE --detector yunet # downloads its weights once",
    "libface": "pip install --force-reinstall --no-deps mien",
    "haar": "pip install 'opencv-python-headless<5'",
}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        part: "system", "packages", "extras", "models", "detectors" or "cache".
        name: the package, model, ... that was checked.
        state: "ok", "-" for something optional that is missing, "bad" for something required that
            is broken.
        detail: version, size or error, in one line.
        fix: a command that fixes it, or None.
    """

    part: str
    name: str
    state: str
    detail: str
    fix: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Return the finding as JSON, with the fix under "mend"."""
        content = asdict(self)
        return {("mend" if key == "fix" else key): value for key, value in content.items()}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``doctor``."""
    parser = add_command(
        commands,
        "doctor",
        help="check the installation, and suggest fixes",
        description="Show what is installed, whether mien works, what is missing, and the commands "
        "that fix it. Uses no network.",
        examples=("mien doctor", "mien doctor --model outputs/mine/export --json"),
    )
    add_model_option(parser, check=None)  # a missing model is a finding
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    disable_telemetry()
    packages = list(_check_packages())
    findings = [*_check_system(), *packages, *_check_extras()]
    if all(package.state != "bad" for package in packages):
        findings += [*_check_models(args.model), *_check_detectors()]
    findings.append(_check_cache())
    bad = [finding for finding in findings if finding.state == "bad"]
    listed = [finding.to_dict() for finding in findings]
    content = {"schema": SCHEMA, "works": not bad, "findings": listed}
    write_answer(content, _table(findings), as_json=args.json)
    if bad:
        error = ModelError if bad[0].part in ("models", "detectors") else MienError
        fix = f"; to fix it: {bad[0].fix}" if bad[0].fix else ""
        raise error(f"mien does not work: {bad[0].name}: {bad[0].detail}{fix}")
    return EXIT_DONE


def _table(findings: Sequence[Finding]) -> str:
    rows, part = [], ""
    for item in findings:
        rows.append(("" if item.part == part else item.part, item.name, item.state, item.detail))
        part = item.part
    text = table_text(("PART", "NAME", "STATE", ""), rows)
    fixable = [item for item in findings if item.fix]
    if fixable:
        width = max(len(item.name) for item in fixable)
        lines = (f"  {item.name:<{width}}  {item.fix}" for item in fixable)
        text += "\nto add or fix:\n" + "".join(printable(line) + "\n" for line in lines)
    if all(item.state != "bad" for item in findings):
        text += "\nmien works\n"
    return text


# ---------------------------------------------------------------- system and packages
def _check_system() -> Iterator[Finding]:
    python = f"{platform.python_version()}, {platform.python_implementation()}"
    cores = f"{usable_cores()} of {os.cpu_count() or 1} cores usable"
    yield Finding("system", "mien", "ok", f"{__version__}, in {_PACKAGE}")
    yield Finding("system", "python", "ok", python)
    yield Finding("system", "platform", "ok", platform.platform(terse=True))
    yield Finding("system", "cpu", "ok", f"{cores}, {platform.machine() or 'unknown'}")
    if enabled := enabled_telemetry():
        fix = f"unset {' '.join(switch.split('=')[0] for switch in enabled)}"
        yield Finding("system", "telemetry", "-", f"on, by {', '.join(enabled)}", fix)
    else:
        yield Finding(
            "system", "telemetry", "ok", f"off: mien sets {', '.join(TELEMETRY_SWITCHES)}"
        )


def _check_packages() -> Iterator[Finding]:
    is_one_missing = False
    for name, versions in _requirements().get("", {}).items():
        version = package_version(name)
        try:
            with redirect_stdout(io.StringIO()):  # OpenCV prints that it lacks NumPy
                module = importlib.import_module(_MODULES.get(name, name))
        except Exception as error:  # a broken package can raise anything
            # An installed package may fail only because another one is missing.
            fix = None if is_one_missing and version else f"pip install '{name}{versions}'"
            is_one_missing = is_one_missing or version is None
            detail = f"cannot be imported: {_error_line(error)}"
            yield Finding("packages", name, "bad", detail, fix)
            continue
        version = version or str(getattr(module, "__version__", "unknown version"))
        yield Finding("packages", name, "ok", version)


def _check_extras() -> Iterator[Finding]:
    for extra, packages in _requirements().items():
        if not extra or (extra in _DEVELOPER_EXTRAS and not _is_checkout()):
            continue
        missing = [name for name in packages if package_version(name) is None]
        if missing:
            fix = f"pip install 'mien[{extra}]'"
            if extra == "train-gpu":  # its TensorFlow uses the same folder as that of train
                fix = f"python -m venv gpu, and in that environment: {fix}"
            yield Finding("extras", extra, "-", f"without {', '.join(missing)}", fix)
        else:
            yield Finding("extras", extra, "ok", "installed")


def _is_checkout() -> bool:
    return (_PACKAGE.parents[1] / ".git").exists()


def _requirements() -> dict[str, dict[str, str]]:
    """Return the version specifiers of required packages, by extra ("" for the core) and name.

    Only packages for this machine; only the core, without specifiers, if mien is not installed or
    lacks packaging, a dependency of ONNX Runtime.
    """
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires("mien") or []
    except (ImportError, importlib.metadata.PackageNotFoundError):
        core = ("numpy", "onnxruntime", "opencv-python-headless", "pillow")
        return {"": dict.fromkeys(core, "")}
    requirements: dict[str, dict[str, str]] = {"": {}}
    for item in map(Requirement, lines):
        match = _EXTRA.search(str(item.marker))
        extra = match[1] if match else ""
        if item.marker is None or item.marker.evaluate({"extra": extra}):
            requirements.setdefault(extra, {})[item.name] = str(item.specifier)
    return requirements


# ---------------------------------------------------------------- models
def _check_models(required: str) -> Iterator[Finding]:
    from mien.core.models import MANIFEST_NAME, bundled_models, find_model

    folders: dict[str, Path] = {name: find_model(name) for name in bundled_models()}
    for pattern in (f"*/{MANIFEST_NAME}", f"models/*/{MANIFEST_NAME}"):
        with suppress(OutputError, OSError):  # reported by _check_cache
            for path in sorted(cache_folder().glob(pattern)):
                folders.setdefault(str(path.parent), path.parent)
    for name, folder in folders.items():
        if name != required:
            yield _check_model(name, folder, required=False)
    try:
        yield _check_model(required, find_model(required), required=True)
    except ModelError as error:
        fix = _reinstall_model() if required == DEFAULT_MODEL else _EXPORT
        yield Finding("models", required, "bad", _error_line(error), fix)


def _check_model(name: str, folder: Path, *, required: bool) -> Finding:
    """Check a model's hash; of the required one also that it classifies a face."""
    from mien.core.manifest import load_manifest

    try:
        manifest = load_manifest(folder, labels=None)
        detail = f"{manifest.version}, {manifest.file.size_bytes / 1e6:.1f} MB, hash matches"
        if required:
            from mien.inference.classifier import time_model

            timing = time_model(folder, threads=usable_cores(), batch_size=1, seconds=0)
            detail += f", reads a face in {timing.median:.1f} ms"
        return Finding("models", name, "ok", detail)
    except MienError as error:
        fix = _reinstall_model() if _PACKAGE in folder.parents else _EXPORT
        return Finding("models", name, "bad" if required else "-", _error_line(error), fix)


def _reinstall_model() -> str:
    try:
        direct_url = importlib.metadata.distribution("mien").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        direct_url = None
    return reinstall_command(_PACKAGE, direct_url)


def reinstall_command(package: Path, direct_url: str | None) -> str:
    """Return the command that restores the bundled models.

    Args:
        package: the folder of mien's modules.
        direct_url: the content of ``direct_url.json`` (PEP 610), which installers write for
            packages that are not from an index.
    """
    clone = package.parents[1]
    if (clone / ".git").exists():
        return f"git -C {shlex.quote(str(clone))} checkout -- src/mien/models"
    requirement = "mien"
    if direct_url is not None:
        origin = json.loads(direct_url)
        requirement, repository = str(origin["url"]), origin.get("vcs_info")
        if repository is not None:
            commit = repository.get("commit_id")
            requirement = f"{repository['vcs']}+{requirement}" + (f"@{commit}" if commit else "")
        elif requirement.startswith("file:"):
            requirement = url2pathname(urlsplit(requirement).path)
    return f"pip install --force-reinstall --no-deps {shlex.quote(requirement)}"


# ---------------------------------------------------------------- detectors and cache
def _check_detectors() -> Iterator[Finding]:
    from mien.inference.detectors import load_detector
    from mien.inference.detectors.yunet import WEIGHTS

    is_cached = WEIGHTS.is_cached()
    for name, fix in _DETECTOR_FIXES.items():
        try:
            load_detector(name, offline=True)
        except MienError as error:
            detail = _error_line(error)
            if name == "yunet" and is_cached:
                fix = f"delete {WEIGHTS.path}"
            elif name == "yunet" and isinstance(error, ModelError):
                detail = f"its weights are not in {WEIGHTS.path.parent}"
            yield Finding("detectors", name, "-", detail, fix)
        else:
            yield Finding("detectors", name, "ok", "loads")
    try:
        yield Finding("detectors", "auto", "ok", f"is {load_detector('auto').name}")
    except MienError as error:
        is_damaged = isinstance(error, ModelError) and is_cached
        fix = f"delete {WEIGHTS.path}" if is_damaged else _DETECTOR_FIXES["haar"]
        yield Finding("detectors", "auto", "bad", _error_line(error), fix)


def _check_cache() -> Finding:
    """Check the cache folder, which is optional."""
    try:
        folder = cache_folder()
    except OutputError as error:
        return Finding("cache", HOME_VARIABLE, "-", _error_line(error), _SET_CACHE)
    origin = HOME_VARIABLE if os.environ.get(HOME_VARIABLE) else "platform default"
    problem = write_obstacle(folder)
    with suppress(OSError):
        if folder.is_dir():
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            detail = f"{origin}, {size / 1e6:.1f} MB" + (", read-only" if problem else "")
            return Finding("cache", str(folder), "ok", detail)
    if problem:
        detail = f"{origin}, cannot be created: {problem}"
        return Finding("cache", str(folder), "-", detail, _SET_CACHE)
    return Finding("cache", str(folder), "-", f"{origin}, not created yet")


def _error_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
