"""Hatchling build hook that adds onnxruntime-web, which runs networks in the browser.

Wheels contain its files; a checkout gets them from npm by an editable install or by
``python hatch_build.py``, and git ignores them. Each file is pinned by its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from hatchling.builders.config import BuilderConfig
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface

    Interface = BuildHookInterface[BuilderConfig]
else:
    try:
        from hatchling.builders.hooks.plugin.interface import BuildHookInterface as Interface
    except ImportError:  # when run as a script, without Hatchling
        Interface = object

VERSION = "1.30.0"
ARCHIVE_SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
"""Files of the archive's folder ``package/dist`` and their SHA-256."""

FOLDER = Path(__file__).resolve().parent / "src" / "mien" / "service" / "web" / "runtime"
FOLDER_VARIABLE = "MIEN_WEB_RUNTIME"
"""Environment variable with the path of a folder that has the files, for offline builds."""

REGISTRY_VARIABLE = "npm_config_registry"  # npm's own
_REGISTRY = "https://registry.npmjs.org"
_SECONDS = 60
_MAX_BYTES = 64_000_000


class Missing(Exception):
    """The files are missing and cannot be obtained; the message says why and what to do."""


class RuntimeHook(Interface):
    """Build hook: required for a wheel, optional for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Provide the files before a build; ``version`` is "standard" or "editable"."""
        try:
            provide(FOLDER)
        except Missing as error:
            if version != "editable":
                self.app.abort(f"no wheel was built: {error}")
            self.app.display_warning(f"the page will send pictures to the server: {error}")
        build_data["artifacts"] += [f"/src/mien/service/web/runtime/{name}" for name in FILES]


def provide(folder: Path) -> None:
    """Copy or download the files into a folder, unless it has them.

    Raises:
        Missing: if they cannot be obtained, or do not match their hashes.
    """
    if all(_matches(folder / name, sha256) for name, sha256 in FILES.items()):
        return
    source = os.environ.get(FOLDER_VARIABLE)
    contents = _read_files(Path(source)) if source else _download_files()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            temporary = folder / f".{name}.part"
            temporary.write_bytes(content)
            temporary.replace(folder / name)
    except OSError as error:
        raise Missing(f"cannot write {folder}: {error.strerror}") from error


def _matches(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _read_files(folder: Path) -> dict[str, bytes]:
    for name, sha256 in FILES.items():
        if not _matches(folder / name, sha256):
            raise Missing(
                f"{folder / name} is missing or not that of onnxruntime-web {VERSION}: "
                f"expected {FOLDER_VARIABLE} to be a folder with {', '.join(FILES)}"
            )
    return {name: (folder / name).read_bytes() for name in FILES}


def _download_files() -> dict[str, bytes]:
    registry = os.environ.get(REGISTRY_VARIABLE, _REGISTRY).rstrip("/")
    url = f"{registry}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    try:
        with urlopen(Request(url, headers={"User-Agent": "mien"}), timeout=_SECONDS) as reply:
            archive = reply.read(_MAX_BYTES)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: the registry is no URL
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Missing(
            f"cannot download {url} ({reason}): run 'python hatch_build.py' when online, or set "
            f"{FOLDER_VARIABLE} to a folder with its files"
        ) from error
    if hashlib.sha512(archive).hexdigest() != ARCHIVE_SHA512:
        raise Missing(f"{url} does not match its pinned SHA-512")
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        members = {name: package.extractfile(f"package/dist/{name}") for name in FILES}
        return {name: member.read() for name, member in members.items() if member is not None}


if __name__ == "__main__":
    try:
        provide(FOLDER)
    except Missing as error:
        sys.exit(f"{error}")
