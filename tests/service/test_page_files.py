"""The page's files over HTTP: a fixed table, strict headers, caching."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.manifest import load_manifest
from mien.core.models import bundled_models, find_model
from mien.core.onnx_runtime import onnxruntime
from mien.service import page_files as pages
from mien.service.page_files import Folders, PageFile, page_files, page_routes
from service_maker import Service, loader, running


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A page of a few files."""
    root = tmp_path_factory.mktemp("page")
    contents = {
        "studio/index.html": "<!doctype html><title>studio</title>",
        "studio/app.js": "export const long = 'x';\n" * 100,
        "studio/sw.js": "importScripts('studio/files.js');",
        "studio/icons/icon.svg": "<svg/>",
        "studio/.hidden.js": "no",
        "studio/notes.rst": "no",
        "library/index.js": "export {};",
        "library/runtime/other.mjs": "no",
        "secret.txt": "no",
        **{f"runtime/{name}": f"// {name}" for name in pages.RUNTIME_FILES},
        "sample.jpg": "picture",
        "libface.onnx": "network",
    }
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
    return Folders(
        studio=root / "studio",
        library=root / "library",
        runtime=root / "runtime",
        sample=root / "sample.jpg",
        detector=root / "libface.onnx",
    )


@pytest.fixture(scope="module")
def served(tiny_model: Path, folders: Folders) -> Iterator[Service]:
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Folders, "found", classmethod(lambda _: folders))
            service = stack.enter_context(running(loader(tiny_model)))
        yield service


def by_path(files: tuple[PageFile, ...]) -> dict[str, PageFile]:
    found = {file.path: file for file in files}
    assert len(found) == len(files), "a path is there twice"
    return found


def test_the_table_has_visible_files_of_known_types(folders: Folders) -> None:
    models = {
        f"mien-web/models/{name}/{file}"
        for name in bundled_models()
        for file in ("manifest.json", "people.onnx", "fer2013.onnx")
    }
    assert set(by_path(page_files(folders))) == models | {
        "",
        "sw.js",
        "studio/app.js",
        "studio/icons/icon.svg",
        "studio/files.js",
        "studio/sample.jpg",
        "mien-web/index.js",
        "mien-web/models/libface.onnx",
        *(f"mien-web/runtime/{name}" for name in pages.RUNTIME_FILES),
    }


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/studio/app.js", "text/javascript; charset=utf-8"),
        ("/studio/icons/icon.svg", "image/svg+xml"),
        ("/studio/sample.jpg", "image/jpeg"),
        ("/sw.js", "text/javascript; charset=utf-8"),
        ("/mien-web/index.js", "text/javascript; charset=utf-8"),
        ("/mien-web/runtime/ort-wasm-simd-threaded.wasm", "application/wasm"),
        ("/mien-web/models/mien-nano/manifest.json", "application/json"),
        ("/mien-web/models/mien-nano/people.onnx", "application/octet-stream"),
    ],
)
def test_files_have_their_type_and_strict_headers(served: Service, path: str, kind: str) -> None:
    reply = served.ask(path)
    headers = {name.lower(): value for name, value in reply.headers.items()}
    assert (reply.status, headers["content-type"]) == (200, kind)
    assert {name: headers[name.lower()] for name in pages.HEADERS} == pages.HEADERS
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe-inline" not in headers["content-security-policy"]
    assert int(headers["content-length"]) == len(reply.content)
    head = served.ask(path, method="HEAD")
    assert (head.status, head.content) == (200, b"")
    assert head.headers["etag"] == headers["etag"]


def test_304_if_the_file_has_not_changed(served: Service) -> None:
    tag = served.ask("/studio/app.js").headers["etag"]
    reply = served.ask("/studio/app.js", headers={"If-None-Match": f'"other", {tag}'})
    assert (reply.status, reply.content) == (304, b"")
    assert reply.headers["etag"] == tag
    assert reply.headers["Cross-Origin-Embedder-Policy".lower()] == "require-corp"
    assert served.ask("/studio/app.js", headers={"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip, br", True), ("br;q=1, gzip;q=0.5", True), ("gzip;q=0", False), ("br", False)],
)
def test_text_is_compressed_for_clients_that_accept_it(
    served: Service, accepted: str, packed: bool
) -> None:
    plain = served.ask("/studio/app.js")
    reply = served.ask("/studio/app.js", headers={"Accept-Encoding": accepted})
    assert "content-encoding" not in plain.headers
    assert (reply.headers.get("content-encoding") == "gzip") is packed
    assert (gzip.decompress(reply.content) if packed else reply.content) == plain.content
    assert reply.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "path",
    [
        "/studio/../secret.txt",
        "/studio/%2e%2e/secret.txt",
        "/studio/.hidden.js",
        "/studio/notes.rst",
        "/studio/index.html",
        "/studio/",
        "/mien-web/runtime/other.mjs",
        "/mien-web/models/mien-nano/model.onnx",
    ],
)
def test_other_paths_are_404(served: Service, path: str) -> None:
    reply = served.ask(path)
    assert (reply.status, reply.json["code"]) == (404, "not_found")
    assert "expected one of /, /v1/analyze" in reply.json["error"]


def test_the_page_allows_get_and_head_only(served: Service) -> None:
    reply = served.ask("/", body=b"x", method="POST")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


def test_a_missing_runtime_is_404_with_a_fix(tiny_model: Path) -> None:
    files = [file for file in page_files() if "/runtime/" not in file.path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mien.service.app.page_files", lambda: files)
        with running(loader(tiny_model)) as service:
            reply = service.ask(f"/mien-web/runtime/{pages.RUNTIME_FILES[0]}")
    assert (reply.status, reply.json["code"]) == (404, "no_runtime")
    assert "run 'python hatch_build.py'" in reply.json["error"]


def test_a_changed_file_is_reloaded_and_changes_the_version(
    folders: Folders, tmp_path: Path
) -> None:
    script = tmp_path / "app.js"
    script.write_text("1", encoding="utf-8")
    (tmp_path / "sw.js").write_text("", encoding="utf-8")
    changed = Folders(tmp_path, folders.library, folders.runtime, folders.sample, folders.detector)
    files = by_path(page_files(changed))
    before = listed(files)
    assert listed(files) == before
    script.write_text("22", encoding="utf-8")
    assert files["studio/app.js"].content().body == b"22"
    after = listed(files)
    assert after.pop("version") != before.pop("version")
    assert after == before


def listed(files: dict[str, PageFile]) -> dict[str, Any]:
    """The list for the service worker."""
    return pages.parse_list(files[pages.LIST_PATH].content().body)


def test_the_service_worker_lists_every_file_once(folders: Folders) -> None:
    files = by_path(page_files(folders))
    listing = listed(files)
    first, later = listing["first"], listing["later"]
    assert sorted([*first, *later, pages.LIST_PATH]) == sorted(files)
    assert "mien-web/models/mien-nano/people.onnx" in first
    assert "mien-web/models/libface.onnx" in first
    assert {path.split("/")[2] for path in later} == set(bundled_models())


@pytest.mark.parametrize("reading", ["people", "fer2013"])
def test_a_network_cut_to_one_reading_returns_the_same_probabilities(reading: str) -> None:
    files = by_path(page_files())
    cut = files[f"mien-web/models/mien-nano/{reading}.onnx"].content().body
    folder = find_model("mien-nano")
    manifest = load_manifest(folder).with_reading(reading)
    whole = (folder / manifest.file.name).read_bytes()
    assert len(cut) < 0.6 * len(whole)
    outputs = list(manifest.outputs.values())
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)
    sessions = (onnxruntime.InferenceSession(each) for each in (cut, whole))
    one, other = (session.run(outputs, {"faces": faces}) for session in sessions)
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_the_runtime_is_the_pinned_one() -> None:
    import hatch_build

    assert set(hatch_build.FILES) == set(pages.RUNTIME_FILES)
    there = Folders.found()
    assert there.runtime == hatch_build.FOLDER
    if not there.has_runtime:
        pytest.skip("onnxruntime-web is not here: python hatch_build.py fetches it")
    for name, expected in hatch_build.FILES.items():
        assert hashlib.sha256((there.runtime / name).read_bytes()).hexdigest() == expected


def test_every_file_has_a_route(folders: Folders) -> None:
    files = page_files(folders)
    assert [route.path for route in page_routes(files)].count("/") == 1
    assert {f"/{file.path}" for file in files} == {route.path for route in page_routes(files)}
