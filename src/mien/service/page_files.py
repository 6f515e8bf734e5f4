"""Static files of the studio page, in a fixed table: no path of a request reaches the disk.

They are the page, the library mien-web, the runtime of networks in a browser (onnxruntime-web), and
the bundled models, cut to one reading each: a network with two takes twice the bytes and the time.
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
from mien.service.errors import ApiError

RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of onnxruntime-web; `hatch_build.py` pins them."""

NO_RUNTIME = (
    "onnxruntime-web, which runs the networks in the browser, is missing in this checkout: run "
    "'python hatch_build.py' there and start again; until then the page can send images to the "
    "server"
)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; "
        "worker-src 'self' blob:; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # These two allow threads (SharedArrayBuffer).
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
"""Headers of every file: nothing is loaded from other servers, and no other page can frame it."""

LIST_PATH = "studio/files.js"
"""Script that lists the files for the service worker; its version changes with any of them."""

_LIST_PREFIX, _LIST_SUFFIX = "self.STUDIO = ", ";\n"

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
_COMPRESSED = frozenset((".html", ".css", ".js", ".mjs", ".txt", ".json", ".svg", ".wasm"))
_GZIP_LEVEL = 3  # shrinks onnxruntime-web's 14 MB to 4 in a fifth of a second
_MIN_COMPRESSED_BYTES = 1000
_CHUNK_BYTES = 1 << 16
# Browsers revalidate at every load; what has not changed is not sent again.
_CACHING = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent.parent.parent
_AT_ROOT = frozenset(("index.html", "sw.js"))
_FIRST_MODEL = "mien-nano"

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


# ---------------------------------------------------------------- files
@dataclass(frozen=True)
class Content:
    """Content of a file.

    Attributes:
        body: its bytes.
        tag: ETag, the same with and without compression.
        compressed: the bytes compressed by gzip, or None if they are not worth it.
    """

    body: bytes
    tag: str
    compressed: bytes | None

    @classmethod
    def of(cls, body: bytes, *, compress: bool) -> Content:
        """Hash the bytes and compress them if that is worth it."""
        compressed = None
        if compress and len(body) >= _MIN_COMPRESSED_BYTES:
            compressed = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        return cls(body, f'W/"{hashlib.sha256(body).hexdigest()[:32]}"', compressed)


@dataclass
class PageFile:
    """One file of the page; its content is built on first use and cached.

    Attributes:
        path: path relative to the page's address; "" for the page itself.
        suffix: suffix that determines its media type.
        make: reads or builds the content.
        source: file that it is built from. The content is rebuilt when that file changes, and on
            every use if there is none.
        optional: True if the page works without it until a user selects it.
    """

    path: str
    suffix: str
    make: Callable[[], bytes]
    source: Path | None = None
    optional: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _cached: tuple[object, Content] | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """Path of the file in an exported folder."""
        return self.path or "index.html"

    @property
    def media_type(self) -> str:
        """Value of the header Content-Type."""
        return _TYPES[self.suffix]

    def content(self) -> Content:
        """Return the current content; thread-safe.

        Raises:
            OSError: if its source cannot be read.
            ModelError: if its source is a damaged network.
        """
        with self._lock:
            stamp: object = None
            if self.source is not None:
                stat = self.source.stat()
                stamp = (stat.st_mtime_ns, stat.st_size)
            if self._cached is None or stamp is None or self._cached[0] != stamp:
                content = Content.of(self.make(), compress=self.suffix in _COMPRESSED)
                self._cached = (stamp, content)
            return self._cached[1]


@dataclass(frozen=True)
class Folders:
    """Locations of the page's files, in an installed package or a checkout.

    Attributes:
        studio: folder of the page.
        library: folder of mien-web's modules.
        runtime: folder of onnxruntime-web's files, which a checkout may lack.
        sample: the sample picture.
        detector: network of the detector.
    """

    studio: Path
    library: Path
    runtime: Path
    sample: Path
    detector: Path

    @classmethod
    def found(cls) -> Folders:
        """Return the locations of this installation."""
        is_packaged = (_PACKAGE / "samples").is_dir()
        return cls(
            studio=_PACKAGE / "studio",
            library=_PACKAGE / "web" if is_packaged else _CHECKOUT / "mien-web" / "src",
            runtime=_PACKAGE / "web" / "runtime",
            sample=(_PACKAGE / "samples" if is_packaged else _CHECKOUT / "images")
            / "astronaut.jpg",
            detector=_PACKAGE.parent / "inference" / "detectors" / "libface.onnx",
        )

    @property
    def has_runtime(self) -> bool:
        """Whether networks can run in the browser."""
        return all((self.runtime / name).is_file() for name in RUNTIME_FILES)


def page_files(folders: Folders | None = None) -> tuple[PageFile, ...]:
    """Return all files of the page that exist, each once."""
    folders = folders or Folders.found()
    files = [*_studio_files(folders.studio), *_library_files(folders), *_model_files()]
    return (*files, PageFile(LIST_PATH, ".js", lambda: _list_script(files)))


def _studio_files(folder: Path) -> Iterator[PageFile]:
    for path, name in _typed_files(folder):
        if name == "index.html":
            yield _file_on_disk("", path)
        else:
            yield _file_on_disk(name if name in _AT_ROOT else f"studio/{name}", path)


def _library_files(folders: Folders) -> Iterator[PageFile]:
    for path, name in _typed_files(folders.library):
        if not name.startswith("runtime/"):  # part of the library's folder in a wheel
            yield _file_on_disk(f"mien-web/{name}", path)
    sources = {f"mien-web/runtime/{name}": folders.runtime / name for name in RUNTIME_FILES}
    sources["mien-web/models/libface.onnx"] = folders.detector
    sources["studio/sample.jpg"] = folders.sample
    yield from (_file_on_disk(name, path) for name, path in sources.items() if path.is_file())


def _typed_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield a folder's visible files of known types, with their paths relative to it."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if path.suffix in _TYPES and path.is_file() and not is_hidden:
            yield path, name


def _file_on_disk(path: str, source: Path) -> PageFile:
    return PageFile(path, source.suffix, source.read_bytes, source)


def _model_files() -> Iterator[PageFile]:
    """Yield the bundled models' manifests, and their networks cut to one reading each."""
    for name in bundled_models():
        folder = find_model(name)
        try:
            manifest = load_manifest(folder)
        except ModelError:  # damaged; reported when the model is used
            continue
        file = _file_on_disk(f"mien-web/models/{name}/{MANIFEST_NAME}", folder / MANIFEST_NAME)
        yield replace(file, optional=name != _FIRST_MODEL)
        for reading in manifest.readings:
            outputs = tuple(manifest.with_reading(reading).outputs.values())
            source = folder / manifest.file.name
            yield PageFile(
                f"mien-web/models/{name}/{reading}.onnx",
                ".onnx",
                _network_maker(source, outputs),
                source,
                optional=(name, reading) != (_FIRST_MODEL, "people"),
            )


def _network_maker(source: Path, outputs: tuple[str, ...]) -> Callable[[], bytes]:
    return lambda: prune_outputs(source.read_bytes(), outputs, source)


def _list_script(files: Iterable[PageFile]) -> bytes:
    """Return the script that the service worker imports.

    It caches ``first`` at the first visit and ``later`` at the first use. Networks are left out of
    the version, since their manifests contain their hashes.
    """
    digest = hashlib.sha256()
    for file in files:
        if file.suffix != ".onnx":
            digest.update(f"{file.path} {file.content().tag}\n".encode())
    first = [file.path for file in files if not file.optional]
    later = [file.path for file in files if file.optional]
    listing = {"version": digest.hexdigest()[:16], "first": first, "later": later}
    return f"{_LIST_PREFIX}{json.dumps(listing, indent=1)}{_LIST_SUFFIX}".encode()


def parse_list(script: bytes) -> dict[str, Any]:
    """Parse the content of `LIST_PATH`; raise ValueError if it is another script."""
    text = script.decode().removeprefix(_LIST_PREFIX).removesuffix(_LIST_SUFFIX)
    listing: dict[str, Any] = json.loads(text)
    return listing


# ---------------------------------------------------------------- routes
def page_routes(files: Iterable[PageFile]) -> list[Route]:
    """Return a route for each file; missing ones of onnxruntime-web answer how to get them."""
    endpoints: dict[str, Endpoint] = {
        f"mien-web/runtime/{name}": _missing_runtime for name in RUNTIME_FILES
    }
    endpoints |= {file.path: _endpoint(file) for file in files}
    return [
        Route(f"/{path}", endpoint, methods=["GET"], include_in_schema=False)
        for path, endpoint in endpoints.items()
    ]


def _endpoint(file: PageFile) -> Endpoint:
    async def answer(request: Request) -> Response:
        content = await run_in_threadpool(file.content)
        headers = {**HEADERS, **_CACHING, "ETag": content.tag}
        if content.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        body = content.body
        if content.compressed is not None and _accepts_gzip(request):
            body, headers["Content-Encoding"] = content.compressed, "gzip"
        headers |= {"Content-Type": file.media_type, "Content-Length": str(len(body))}
        return StreamingResponse(_chunks(body), headers=headers)

    return answer


async def _missing_runtime(_: Request) -> Response:
    raise ApiError(404, NO_RUNTIME, code="no_runtime", headers=HEADERS)


def _accepts_gzip(request: Request) -> bool:
    """Return True if a client accepts gzip, with a weight above 0."""
    for coding in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or not weight
    return False


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    """Yield small chunks, so that the rest is not buffered for a slow client."""
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]
