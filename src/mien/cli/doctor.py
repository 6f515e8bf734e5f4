"""``mien doctor``: look over the installation, and say how to mend it.

Nothing here assumes that the rest of mien can be imported: what does not work is a finding.
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
import time
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
_REQUIREMENT = re.compile(r"^\s*([\w.-]+)([^;]*)(?:;(.*))?$")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_MAKERS = ("dev", "docs")
"""Extras for a checkout of mien, of which others need not hear."""

_EXPORT = "mien export RUN # and --model RUN/export"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        part: what it belongs to: "system", "packages", "extras", "models", "detectors", "cache".
        name: its own.
        state: "ok"; "-" if it is not there and need not be; "bad" if it is needed and broken.
        detail: version, size or what is wrong, in one line.
        mend: the line that mends it, or None.
    """

    part: str
    name: str
    state: str
    detail: str
    mend: str | None = None


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``doctor``."""
    parser = add_command(
        commands,
        "doctor",
        help="look over the installation, and say how to mend it",
        description="Say what is installed, whether reading emotions works, what is missing, and "
        "the line that mends it. Uses no network.",
        examples=("mien doctor", "mien doctor --model outputs/mine/export --json"),
    )
    add = parser.add_argument
    add_model_option(parser, check=None)  # a finding
    add("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    disable_telemetry()
    packages = list(_packages())
    findings = [*_system(), *packages, *_extras()]
    if all(each.state != "bad" for each in packages):
        findings += [*_models(args.model), *_detectors()]
    findings.append(_cache())
    bad = [each for each in findings if each.state == "bad"]
    listed = [asdict(each) for each in findings]
    content = {"schema": SCHEMA, "works": not bad, "findings": listed}
    write_answer(content, _table(findings), as_json=args.json)
    if bad:
        kind = ModelError if bad[0].part in ("models", "detectors") else MienError
        mend = f"; to mend it: {bad[0].mend}" if bad[0].mend else ""
        raise kind(f"reading emotions does not work: {bad[0].name}: {bad[0].detail}{mend}")
    return EXIT_DONE


def _table(findings: Sequence[Finding]) -> str:
    rows, part = [], ""
    for each in findings:
        rows.append(("" if each.part == part else each.part, each.name, each.state, each.detail))
        part = each.part
    text = table_text(("PART", "NAME", "STATE", ""), rows)
    mends = [each for each in findings if each.mend]
    if mends:
        width = max(len(each.name) for each in mends)
        lines = (f"  {each.name:<{width}}  {each.mend}" for each in mends)
        text += "\nto add or mend:\n" + "".join(printable(line) + "\n" for line in lines)
    if all(each.state != "bad" for each in findings):
        text += "\nreading emotions works\n"
    return text


# ---------------------------------------------------------------- the system
def _system() -> Iterator[Finding]:
    yield Finding("system", "mien", "ok", f"{__version__}, in {Path(__file__).parents[1]}")
    yield Finding(
        "system", "python", "ok", f"{platform.python_version()}, {platform.python_implementation()}"
    )
    yield Finding("system", "platform", "ok", platform.platform(terse=True))
    total = os.cpu_count() or 1
    machine = platform.machine() or "unknown"
    yield Finding("system", "cpu", "ok", f"{usable_cores()} of {total} cores to use, {machine}")
    if on := enabled_telemetry():
        mend = f"unset {' '.join(each.split('=')[0] for each in on)}"
        yield Finding("system", "telemetry", "-", f"on, by {', '.join(on)}", mend)
    else:
        yield Finding(
            "system", "telemetry", "ok", f"off: mien sets {', '.join(TELEMETRY_SWITCHES)}"
        )


# ---------------------------------------------------------------- packages
def _packages() -> Iterator[Finding]:
    missing = False
    for name, wanted in _requirements().get("", {}).items():
        version = package_version(name)
        try:
            with redirect_stdout(io.StringIO()):  # OpenCV tells there that it lacks NumPy
                module = importlib.import_module(_MODULES.get(name, name))
        except Exception as error:  # a broken package can raise anything
            detail = f"cannot be imported: {_line(error)}"
            # One that is there may fail for what is missing alone.
            mend = None if missing and version else f"pip install '{name}{wanted}'"
            missing = missing or version is None
            yield Finding("packages", name, "bad", detail, mend)
            continue
        version = version or str(getattr(module, "__version__", "of an unknown version"))
        yield Finding("packages", name, "ok", version)


def _extras() -> Iterator[Finding]:
    for extra, packages in _requirements().items():
        if not extra or (extra in _MAKERS and not _is_checkout()):
            continue
        missing = [name for name in packages if package_version(name) is None]
        if missing:
            detail = f"without {', '.join(missing)}"
            mend = f"pip install 'mien[{extra}]'"
            if extra == "train-gpu":  # its TensorFlow lies in the same folder as that of train
                mend = f"python -m venv gpu, and in that environment: {mend}"
            yield Finding("extras", extra, "-", detail, mend)
        else:
            yield Finding("extras", extra, "ok", f"all {len(packages)} packages")


def _is_checkout() -> bool:
    return (_PACKAGE.parents[1] / ".git").exists()


def _requirements() -> dict[str, dict[str, str]]:
    """Return the packages that mien names for this machine, by extra ("" for the core).

    Each comes with the versions it wants; empty where mien runs without being installed.
    """
    try:
        lines = importlib.metadata.requires("mien") or []
    except importlib.metadata.PackageNotFoundError:
        core = ("numpy", "onnxruntime", "opencv-python-headless", "pillow")
        return {"": dict.fromkeys(core, "")}
    found: dict[str, dict[str, str]] = {"": {}}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is None:
            continue
        name, wanted, marker = match[1], match[2].strip(), match[3] or ""
        extra = _EXTRA.search(marker)
        if _is_for_this_machine(marker):
            found.setdefault(extra[1] if extra else "", {})[name] = wanted
    return found


def _is_for_this_machine(marker: str) -> bool:
    try:
        from packaging.markers import Marker
    except ImportError:  # ONNX Runtime brings it; without it, every package is looked for
        return True
    extra = _EXTRA.search(marker)
    return not marker.strip() or Marker(marker).evaluate({"extra": extra[1] if extra else ""})


def _bundled_mend() -> str:
    try:
        origin = importlib.metadata.distribution("mien").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        origin = None
    return reinstall_line(_PACKAGE, origin)


def reinstall_line(package: Path, origin: str | None) -> str:
    """Return the line that brings mien's own models back.

    Args:
        package: the folder that mien's modules are in.
        origin: what the installer noted of where it came from (``direct_url.json``, PEP 610), if it
            did: it does so for whatever is not from an index.
    """
    clone = package.parents[1]
    if (clone / ".git").exists():
        return f"git -C {shlex.quote(str(clone))} checkout -- src/mien/models"
    place = "mien"
    if origin is not None:
        noted = json.loads(origin)
        place, repository = str(noted["url"]), noted.get("vcs_info")
        if repository is not None:
            commit = repository.get("commit_id")
            place = f"{repository['vcs']}+{place}" + (f"@{commit}" if commit else "")
        elif place.startswith("file:"):
            place = url2pathname(urlsplit(place).path)
    return f"pip install --force-reinstall --no-deps {shlex.quote(place)}"


# ---------------------------------------------------------------- models
def _models(needed: str) -> Iterator[Finding]:
    from mien.core.models import MANIFEST_NAME, bundled_models, find_model

    folders: dict[str, Path] = {name: find_model(name) for name in bundled_models()}
    for pattern in (f"*/{MANIFEST_NAME}", f"models/*/{MANIFEST_NAME}"):
        with suppress(OutputError, OSError):  # no cache, or another user's: see `_cache`
            for path in sorted(cache_folder().glob(pattern)):
                folders.setdefault(str(path.parent), path.parent)
    for name, folder in folders.items():
        if name != needed:
            yield _model(name, folder, needed=False)
    try:
        yield _model(needed, find_model(needed), needed=True)
    except ModelError as error:
        bundled = needed == DEFAULT_MODEL
        mend = _bundled_mend() if bundled else _EXPORT
        yield Finding("models", needed, "bad", _line(error), mend)


def _model(name: str, folder: Path, *, needed: bool) -> Finding:
    """Check a model's hash; of the needed one also that it reads a face."""
    from mien.core.manifest import load_manifest

    try:
        manifest = load_manifest(folder, labels=None)
        detail = f"{manifest.version}, {manifest.file.size_bytes / 1e6:.1f} MB, hash matches"
        if needed:
            detail += f", reads a face in {1000 * _seconds_a_face(folder):.1f} ms"
        return Finding("models", name, "ok", detail)
    except MienError as error:
        mend = _bundled_mend() if _PACKAGE in folder.parents else _EXPORT
        return Finding("models", name, "bad" if needed else "-", _line(error), mend)


def _seconds_a_face(folder: Path) -> float:
    import numpy as np

    from mien.core.images import FACE_SIZE
    from mien.inference.classifier import Classifier

    classifier = Classifier.open(folder, labels=None)
    face = np.full((1, FACE_SIZE, FACE_SIZE), 128, np.uint8)
    classifier.classify(face)  # the first run is slower
    started = time.perf_counter()
    classifier.classify(face)
    return time.perf_counter() - started


# ---------------------------------------------------------------- detectors and the cache
_CACHE_MEND = f"{'set' if os.name == 'nt' else 'export'} {HOME_VARIABLE}=FOLDER # of your own"
_DETECTOR_MENDS: Mapping[str, str] = {
    "yunet": "mien predict IMAGE --detector yunet # downloads its weights once",
    "libface": "pip install --force-reinstall --no-deps mien",
    "haar": "pip install 'opencv-python-headless<5'",
}


def _detectors() -> Iterator[Finding]:
    from mien.inference.detectors import load_detector
    from mien.inference.detectors.yunet import WEIGHTS

    for name, mend in _DETECTOR_MENDS.items():
        try:
            load_detector(name, offline=True)
        except MienError as error:
            line = _line(error)
            if name == "yunet":
                is_there = WEIGHTS.is_cached()
                if not is_there and isinstance(error, ModelError):
                    line = f"its weights are not in {WEIGHTS.path.parent}"
                mend = f"delete {WEIGHTS.path}" if is_there else mend
            yield Finding("detectors", name, "-", line, mend)
        else:
            yield Finding("detectors", name, "ok", "loads")
    try:
        yield Finding("detectors", "auto", "ok", f"is {load_detector('auto').name}")
    except MienError as error:
        damaged = isinstance(error, ModelError) and WEIGHTS.is_cached()
        mend = f"delete {WEIGHTS.path}" if damaged else _DETECTOR_MENDS["haar"]
        yield Finding("detectors", "auto", "bad", _line(error), mend)


def _cache() -> Finding:
    """Look at the cache, which reading emotions can do without."""
    try:
        folder = cache_folder()
    except OutputError as error:
        return Finding("cache", HOME_VARIABLE, "-", _line(error), _CACHE_MEND)
    origin = HOME_VARIABLE if os.environ.get(HOME_VARIABLE) else "the platform's"
    trouble = write_obstacle(folder)
    with suppress(OSError):
        if folder.is_dir():
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            detail = f"{origin}, {size / 1e6:.1f} MB" + (", read-only" if trouble else "")
            return Finding("cache", str(folder), "ok", detail)
    if trouble:
        detail = f"{origin}, cannot be made: {trouble}"
        return Finding("cache", str(folder), "-", detail, _CACHE_MEND)
    return Finding("cache", str(folder), "-", f"{origin}, not made yet")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
