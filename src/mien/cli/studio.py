"""``mien studio``: the page in a browser, or as a folder for any web server."""

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
from mien.cli.options import add_command
from mien.cli.output import note
from mien.core.errors import EXIT_DONE, InputError
from mien.core.files import claim_folder, release_folder, write_atomically

if TYPE_CHECKING:
    from mien.service.page_files import PageFile

_DETAILS = """\
In the page pictures, videos and the camera are read in the browser, and none leaves the machine,
unless its switch says so. Where port 8000 is taken and none is given, any free one is used.
--export writes the page as files for any web server, which never sees a picture either.
"""

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}

_README = """\
# mien studio

The page of mien, for any web server of plain files: put this folder there and open it. Pictures,
videos and the camera are read in the browser; the server never sees them. Browsers give a camera,
and keep a page for use without a network, to addresses with `https://` and to `localhost` alone.

To try it: `python -m http.server` in this folder, then http://localhost:8000/.

For threads, which make it faster, browsers want these headers with every file. The page's service
worker adds them from the second visit on; a server that sends them spares the first one:

    Cross-Origin-Opener-Policy: same-origin
    Cross-Origin-Embedder-Policy: require-corp

This one keeps everything out that is not the page's own:

    Content-Security-Policy: {policy}

`_headers` has all of them in the form that Netlify and Cloudflare Pages read. `.wasm` files need
the type `application/wasm`, `.mjs` files `text/javascript`. Licences: `studio/licences.txt`.

Written by `mien studio --export`, which writes over its own files and removes those that are no
longer the page's. By `mien.lock` it knows the folder as its own.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``studio``."""
    parser = add_command(
        commands,
        "studio",
        help="open the page that reads faces in pictures, videos and the camera",
        description="Open the page that reads faces in pictures, videos and the camera.",
        examples=(
            "mien studio",
            "mien studio --no-browser --port 9000",
            "mien studio --export site",
        ),
        usage="[options]",
        details=_DETAILS,
    )
    add = parser.add_argument
    add("--no-browser", action="store_true", help="say the address, and open nothing")
    add(
        "--export",
        type=Path,
        metavar="FOLDER",
        help="write the page as files for any web server, and end",
    )
    serve.add_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.export is not None:
        return _export(args.export, quiet=args.quiet)
    if args.port == serve.PORT and _is_taken(args.host, args.port):
        args.port = 0

    def open_page(address: str) -> None:
        for everywhere, here in _EVERYWHERE.items():
            address = address.replace(everywhere, here)
        if not args.no_browser:
            _open_browser(f"http://{address}/", quiet=args.quiet)

    return serve.run(args, "mien studio", on_listening=open_page)


def _is_taken(host: str, port: int) -> bool:
    """Say whether somebody answers at an address."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _open_browser(url: str, *, quiet: bool) -> None:
    """Open the page beside the server: some browsers keep their caller until they are closed."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform.startswith("linux") and not any(map(os.environ.get, screens)):
        note(f"there is no screen here: open {url} in a browser", quiet=quiet)
        return

    def show() -> None:
        import webbrowser

        if not webbrowser.open(url):
            note(f"no browser was found: open {url} in one", quiet=quiet)

    threading.Thread(target=show, daemon=True).start()


# ---------------------------------------------------------------- as a folder
def _export(folder: Path, *, quiet: bool) -> int:
    from mien.service import require_app

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
        _remove_former(folder, files)
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
        f"the page is in {folder}: {len(files)} files, {size / 1e6:.0f} MB; README.md there says "
        "what a web server has to send",
        quiet=quiet,
    )
    return EXIT_DONE


def _remove_former(folder: Path, files: Iterable[PageFile]) -> None:
    """Remove what an earlier version exported and this one does not have."""
    from mien.service.page_files import LIST_PATH, listed

    with suppress(OSError, ValueError, KeyError):
        told = listed((folder / LIST_PATH).read_bytes())
        former = {name for name in (*told["first"], *told["later"]) if name}
        for name in former - {file.path for file in files}:
            path = folder / name
            if path.resolve().is_relative_to(folder.resolve()):
                path.unlink()
