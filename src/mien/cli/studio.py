"""``mien studio``: opens the page in a browser, or exports it for any web server."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mien.cli import serve
from mien.cli.options import add_command, path_name
from mien.cli.output import note
from mien.core.errors import EXIT_DONE, InputError
from mien.core.files import claim_folder, release_folder, write_atomically
from mien.service import require_app

if TYPE_CHECKING:
    from mien.service.page_files import PageFile

_DETAILS = """\
The page analyzes pictures, videos and the camera in the browser; nothing leaves the machine unless
you switch to the server. If port 8000 is taken and --port is not given, any free port is used.
--export writes the page as files for any web server, which never receives a picture either.
"""

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Address for a browser on this machine, when the service listens on all interfaces."""

_README = """\
# mien studio

The page of mien for any static web server: copy this folder there and open it. Pictures, videos
and the camera are analyzed in the browser; the server never receives them. Browsers allow the
camera, and use without a network, only on `https://` addresses and `localhost`.

To try it: `python -m http.server` in this folder, then http://localhost:8000/.

Browsers only allow threads, which make the page faster, if these headers come with every file. The
page's service worker adds them from the second visit on; send them to cover the first visit, too:

    Cross-Origin-Opener-Policy: same-origin
    Cross-Origin-Embedder-Policy: require-corp

This one stops the page from loading anything from other servers:

    Content-Security-Policy: {policy}

`_headers` holds all of them in the format of Netlify and Cloudflare Pages. `.wasm` files need the
type `application/wasm`, `.mjs` files `text/javascript`. Licences: `studio/licences.txt`.

Written by `mien studio --export`, which replaces its own files and removes outdated ones. It
recognizes its folder by `mien.lock`.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``studio``."""
    parser = add_command(
        commands,
        "studio",
        help="open the page that reads emotions in pictures, videos and the camera",
        description="Open the page that reads emotions in pictures, videos and the camera.",
        examples=(
            "mien studio",
            "mien studio --no-browser --port 9000",
            "mien studio --export site",
        ),
        usage="[options]",
        details=_DETAILS,
    )
    add = parser.add_argument
    add("--no-browser", action="store_true", help="print the address, but open no browser")
    add(
        "--export",
        type=path_name,
        metavar="FOLDER",
        help="write the page as files for any web server, then exit",
    )
    serve.add_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.export is not None:
        return _export(args.export, quiet=args.quiet)
    if args.port == serve.PORT and _is_taken(args.host, args.port):
        args.port = 0

    def open_page(address: str) -> None:
        for wildcard, loopback in _LOOPBACK.items():
            address = address.replace(wildcard, loopback)
        if not args.no_browser:
            _open_browser(f"http://{address}/", quiet=args.quiet)

    return serve.run(args, "mien studio", on_listening=open_page)


def _is_taken(host: str, port: int) -> bool:
    """Return True if a server accepts connections at an address."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _open_browser(url: str, *, quiet: bool) -> None:
    """Open the page in a thread, since some browsers block their caller until they are closed."""
    variables = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, variables)):
        note(f"no display found: open {url} in a browser", quiet=quiet)
        return

    def show() -> None:
        import webbrowser

        if not webbrowser.open(url):
            note(f"no browser found: open {url} in one", quiet=quiet)

    threading.Thread(target=show, daemon=True).start()


# ---------------------------------------------------------------- export
def _export(folder: Path, *, quiet: bool) -> int:
    require_app("mien studio --export")
    from mien.service.page_files import HEADERS, NO_RUNTIME, Folders, page_files

    if not Folders.found().has_runtime:
        raise InputError(f"nothing was exported: {NO_RUNTIME}")
    files = page_files()
    policy = HEADERS["Content-Security-Policy"]
    headers = "".join(f"  {name}: {value}\n" for name, value in HEADERS.items())
    contents = {
        "README.md": _README.format(policy=policy).encode(),
        "_headers": f"/*\n{headers}".encode(),
    }
    lock = claim_folder(folder, option="--export")
    try:
        _remove_outdated(folder, files)
        for name, content in contents.items():
            write_atomically(folder / name, content)
        size = 0
        for file in files:
            body = file.content().body
            write_atomically(folder / file.name, body)
            size += len(body)
    finally:
        release_folder(folder, lock)
    note(
        f"the page is in {folder}: {len(files)} files, {size / 1e6:.0f} MB; README.md there lists "
        "the headers that a web server should send",
        quiet=quiet,
    )
    return EXIT_DONE


def _remove_outdated(folder: Path, files: Iterable[PageFile]) -> None:
    """Remove files that an earlier version exported and this one does not have."""
    from mien.service.page_files import LIST_PATH, parse_list

    with suppress(OSError, ValueError, KeyError):
        listing = parse_list((folder / LIST_PATH).read_bytes())
        exported = {name for name in (*listing["first"], *listing["later"]) if name}
        for name in exported - {file.path for file in files}:
            path = folder / name
            if path.resolve().is_relative_to(folder.resolve()):
                path.unlink()
