"""`mien studio`: the page in a browser, or exported."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mien.cli import studio
from mien.cli.main import build_parser, main
from mien.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_MODEL, EXIT_USAGE
from service_maker import ask
from waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("fastapi") is None, reason="needs the extra app"
)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_browser_opens_the_page(tiny_model: Path, tmp_path: Path) -> None:
    opened = tmp_path / "opened.txt"
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\nprintf %s "$1" > "{opened}.part"\nmv "{opened}.part" "{opened}"\n'
    )
    browser.chmod(0o755)
    settings = ["--model", str(tiny_model), "--detector", "none", "--threads", "1"]
    words = [*settings, "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(
        [sys.executable, "-m", "mien", "studio", *words],
        env={**os.environ, "BROWSER": f"{browser} %s"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until(opened.exists)
            url = opened.read_text()
            assert url.startswith("http://127.0.0.1:")
            port = int(url.rstrip("/").rpartition(":")[2])
            assert ask(port, "/").status == 200
            until(lambda: ask(port, "/readyz").status == 200)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == EXIT_DONE
        assert process.stderr is not None
        assert f"listening on http://0.0.0.0:{port} (press Ctrl-C to stop)" in process.stderr.read()


def test_the_address_is_printed_without_a_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    studio._open_browser("http://127.0.0.1:8000/", quiet=False)
    assert capsys.readouterr().err == (
        "no display found: open http://127.0.0.1:8000/ in a browser\n"
    )


@pytest.mark.parametrize("has_runtime", [True, False])
def test_a_missing_runtime_is_reported_at_the_start(
    has_runtime: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.service.page_files.Folders.has_runtime", has_runtime)
    words = ["--port", "0", "--model", "nowhere"]
    assert main(["studio", "--no-browser", *words]) == EXIT_MODEL
    errors = capsys.readouterr().err
    assert ("run 'python hatch_build.py' there and start again" in errors) is not has_runtime


@pytest.mark.parametrize(("words", "port"), [([], 0), (["--port", "8001"], 8001)])
def test_a_taken_default_port_is_replaced_by_a_free_one(
    words: list[str], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []
    monkeypatch.setattr(studio, "_is_taken", lambda *_: True)

    def run(args: argparse.Namespace, *_: object, **__: object) -> int:
        ports.append(args.port)
        return EXIT_DONE

    monkeypatch.setattr("mien.cli.serve.run", run)
    args = build_parser().parse_args(["studio", *words])
    assert args.run(args) == EXIT_DONE
    assert ports == [port]


def test_a_port_with_a_listener_is_taken() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert studio._is_taken("127.0.0.1", port)
    assert not studio._is_taken("127.0.0.1", port)


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    from mien.service.page_files import Folders

    if not Folders.found().has_runtime:
        pytest.skip("onnxruntime-web is not here: python hatch_build.py fetches it")
    assert main(["studio", "--export", str(tmp_path / "site")]) == EXIT_DONE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"the page is in {tmp_path / 'site'}: ")
    return tmp_path / "site"


def test_an_exported_site_has_all_files_of_the_service(site: Path) -> None:
    from mien.service.page_files import HEADERS, page_files

    expected = {file.name: file.content().body for file in page_files()}
    own = {"README.md", "_headers", "mien.lock"}
    held = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert held == set(expected) | own
    for name, content in expected.items():
        assert (site / name).read_bytes() == content, name
    for name, value in HEADERS.items():
        assert f"{name}: {value}" in (site / "_headers").read_text()


def test_a_second_export_removes_outdated_files_and_keeps_others(site: Path) -> None:
    listed = site / "studio" / "files.js"
    listed.write_text(
        listed.read_text().replace('"first": [', '"first": [\n"studio/old.js",\n"../x",')
    )
    (site / "studio" / "old.js").write_text("old")
    (site.parent / "x").write_text("another's")
    (site / "CNAME").write_text("example.org")
    (site / "sw.js").write_text("damaged")
    assert main(["studio", "--export", str(site), "--quiet"]) == EXIT_DONE
    assert not (site / "studio" / "old.js").exists()
    assert (site.parent / "x").read_text() == "another's"
    assert (site / "CNAME").read_text() == "example.org"
    assert "importScripts" in (site / "sw.js").read_text(encoding="utf-8")


def test_an_export_refuses_other_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.service.page_files.Folders.has_runtime", True)
    (tmp_path / "index.html").write_text("mine")
    assert main(["studio", "--export", str(tmp_path)]) == EXIT_USAGE
    assert "or give another --export" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "mine"


def test_an_export_needs_the_runtime(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mien.service.page_files.Folders.has_runtime", False)
    assert main(["studio", "--export", str(tmp_path / "site")]) == EXIT_INPUT
    assert "run 'python hatch_build.py'" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
