"""The studio's files: a table made once, so that no path of a request ever reaches the disk.

The page itself, the library mien-web, what runs networks in a browser (onnxruntime-web), and the
bundled models, each cut to one reading: a network with two takes twice the bytes and the time.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mien.core.errors import ModelError
from mien.core.manifest import load_manifest
from mien.core.models import MANIFEST_NAME, bundled_models, find_model
from mien.inference.onnx_model import prune_outputs
from mien.service.schemas import ApiError

RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Of onnxruntime-web; `hatch_build.py` pins them."""

NO_RUNTIME = (
    "onnxruntime-web, which reads pictures in the browser, is not in this checkout: run "
    "'python hatch_build.py' there and start again; until then the page can send them to the server"
)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
        "worker-src 'self' blob:; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # Together they let a page use threads (SharedArrayBuffer).
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
"""Of every file of the page: a browser loads nothing for it from elsewhere, and shows it to nobody
in a frame."""

LIST_PATH = "studio/files.js"
"""Where the service worker learns which files there are; its version changes with any of them."""

_LIST_HEAD, _LIST_TAIL = "self.STUDIO = ", ";\n"

_TEXT = "charset=utf-8"
_TYPES = {
    ".html": f"text/html; {_TEXT}",
    ".css": f"text/css; {_TEXT}",
    ".js": f"text/javascript; {_TEXT}",
    ".mjs": f"text/javascript; {_TEXT}",
    ".txt": f"text/plain; {_TEXT}",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
_PACKED = frozenset((".html", ".css", ".js", ".mjs", ".txt", ".json", ".svg", ".wasm"))
_PACKING_LEVEL = 3  # onnxruntime-web's 14 MB become 4 in a fifth of a second
_MIN_PACKED_BYTES = 1000
_CHUNK_BYTES = 1 << 16
# A browser looks whether it has the newest whenever it loads one; what it has is not sent again.
_CACHING = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}

Answer: TypeAlias = Callable[[Request], Awaitable[Response]]

_SERVICE = Path(__file__).resolve().parent
_ROOT = _SERVICE.parent.parent.parent  # of a checkout
_AT_ROOT = frozenset(("index.html", "sw.js"))
_FIRST_MODEL = "mien-nano"


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        body: its bytes.
        tag: its ETag, the same for both forms.
        packed: the bytes by gzip, where that is worth it.
    """

    body: bytes
    tag: str
    packed: bytes | None


@dataclass
class PageFile:
    """One file of the page. Its content is made when it is asked for, and kept.

    Attributes:
        path: its path under the page's address, "" for the page itself.
        suffix: of its type.
        make: reads or makes the content.
        source: the file it is made of; it is made anew when that changes, or where there is none.
        optional: whether the page works without it, until somebody chooses it.
    """

    path: str
    suffix: str
    make: Callable[[], bytes]
    source: Path | None = None
    optional: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _kept: tuple[object, Content] | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """Its path in a folder that is served as it is."""
        return self.path or "index.html"

    @property
    def kind(self) -> str:
        """Its media type."""
        return _TYPES[self.suffix]

    def content(self) -> Content:
        """Return what it holds now; any thread may ask. Raises OSError and ModelError."""
        with self._lock:
            stamp: object = None
            if self.source is not None:
                found = self.source.stat()
                stamp = (found.st_mtime_ns, found.st_size)
            if self._kept is None or stamp is None or self._kept[0] != stamp:
                self._kept = (stamp, _content(self.make(), pack=self.suffix in _PACKED))
            return self._kept[1]


def _content(body: bytes, *, pack: bool) -> Content:
    tag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    packed = None
    if pack and len(body) >= _MIN_PACKED_BYTES:
        packed = gzip.compress(body, _PACKING_LEVEL, mtime=0)
    return Content(body, tag, packed)


@dataclass(frozen=True)
class Folders:
    """Where the page's files are: in a wheel's package, or in a checkout.

    Attributes:
        studio: the page.
        library: mien-web's modules.
        runtime: onnxruntime-web's files, which a checkout may lack.
        sample: the picture to try it with.
        detector: the detector's network.
    """

    studio: Path
    library: Path
    runtime: Path
    sample: Path
    detector: Path

    @classmethod
    def found(cls) -> Folders:
        """Return where they are here."""
        packaged = (_SERVICE / "samples").is_dir()
        return cls(
            studio=_SERVICE / "studio",
            library=_SERVICE / "web" if packaged else _ROOT / "mien-web" / "src",
            runtime=_SERVICE / "web" / "runtime",
            sample=(_SERVICE / "samples" if packaged else _ROOT / "images") / "astronaut.jpg",
            detector=_SERVICE.parent / "inference" / "detectors" / "libface.onnx",
        )

    @property
    def has_runtime(self) -> bool:
        """Say whether pictures can be read in a browser."""
        return all((self.runtime / name).is_file() for name in RUNTIME_FILES)


def page_files(folders: Folders | None = None) -> tuple[PageFile, ...]:
    """Return all files of the page, those that are there; none twice."""
    there = Folders.found() if folders is None else folders
    files = [*_page(there.studio), *_library(there), *_models()]
    return (*files, PageFile(LIST_PATH, ".js", lambda: _list_of(files)))


def page_routes(files: Iterable[PageFile]) -> list[Route]:
    """Return a route for each file; those of onnxruntime-web say what to do where it is missing."""
    answers: dict[str, Answer] = {f"mien-web/runtime/{name}": _no_runtime for name in RUNTIME_FILES}
    answers |= {file.path: _answer(file) for file in files}
    return [
        Route(f"/{path}", answer, methods=["GET"], include_in_schema=False)
        for path, answer in answers.items()
    ]


def _page(folder: Path) -> Iterator[PageFile]:
    for path, name in _served(folder):
        if name == "index.html":
            yield _on_disk("", path)
        else:
            yield _on_disk(name if name in _AT_ROOT else f"studio/{name}", path)


def _library(there: Folders) -> Iterator[PageFile]:
    for path, name in _served(there.library):
        if not name.startswith("runtime/"):  # in a wheel it lies in the library's folder
            yield _on_disk(f"mien-web/{name}", path)
    named = {f"mien-web/runtime/{name}": there.runtime / name for name in RUNTIME_FILES}
    named["mien-web/models/libface.onnx"] = there.detector
    named["studio/sample.jpg"] = there.sample
    yield from (_on_disk(name, path) for name, path in named.items() if path.is_file())


def _served(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a folder that have a type of the page's, and their paths in it."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if path.suffix in _TYPES and path.is_file() and not hidden:
            yield path, name


def _on_disk(path: str, source: Path) -> PageFile:
    return PageFile(path, source.suffix, source.read_bytes, source)


def _models() -> Iterator[PageFile]:
    """Yield the bundled models: manifests as they are, networks cut to a reading each."""
    for name in bundled_models():
        folder = find_model(name)
        try:
            manifest = load_manifest(folder)
        except ModelError:  # damaged: whoever reads with it is told
            continue
        listed = _on_disk(f"mien-web/models/{name}/{MANIFEST_NAME}", folder / MANIFEST_NAME)
        yield replace(listed, optional=name != _FIRST_MODEL)
        for reading in manifest.readings:
            outputs = tuple(manifest.with_reading(reading).outputs.values())
            source = folder / manifest.file.name
            yield PageFile(
                f"mien-web/models/{name}/{reading}.onnx",
                ".onnx",
                _cutter(source, outputs),
                source,
                optional=(name, reading) != (_FIRST_MODEL, "people"),
            )


def _cutter(source: Path, outputs: tuple[str, ...]) -> Callable[[], bytes]:
    return lambda: prune_outputs(source.read_bytes(), outputs, source)


def _list_of(files: Iterable[PageFile]) -> bytes:
    """Return the list for the service worker, as a script that it imports.

    ``first`` is what works without a network once the page was open, ``later`` what does so once it
    was used. Networks do not make the version: their manifests hold their hashes.
    """
    digest = hashlib.sha256()
    for file in files:
        if file.suffix != ".onnx":
            digest.update(f"{file.path} {file.content().tag}\n".encode())
    first = [file.path for file in files if not file.optional]
    later = [file.path for file in files if file.optional]
    told = {"version": digest.hexdigest()[:16], "first": first, "later": later}
    return f"{_LIST_HEAD}{json.dumps(told, indent=1)}{_LIST_TAIL}".encode()


def listed(script: bytes) -> dict[str, Any]:
    """Return what `LIST_PATH` says; ValueError if it is no such script."""
    told = script.decode().removeprefix(_LIST_HEAD).removesuffix(_LIST_TAIL)
    found: dict[str, Any] = json.loads(told)
    return found


def _answer(file: PageFile) -> Answer:
    async def answer(request: Request) -> Response:
        content = await run_in_threadpool(file.content)
        headers = {**HEADERS, **_CACHING, "ETag": content.tag}
        if content.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        body = content.body
        if content.packed is not None and _takes_gzip(request):
            body, headers["Content-Encoding"] = content.packed, "gzip"
        headers |= {"Content-Type": file.kind, "Content-Length": str(len(body))}
        return StreamingResponse(_chunks(body), headers=headers)

    return answer


async def _no_runtime(_: Request) -> Response:
    raise ApiError(404, NO_RUNTIME, code="no_runtime", headers=HEADERS)


def _takes_gzip(request: Request) -> bool:
    """Say whether a client takes gzip; a weight of 0 means that it does not."""
    for each in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    """Yield small pieces: what a slow client has not taken yet is not buffered for it."""
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]
