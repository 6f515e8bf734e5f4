"""One of the processes of ``mien serve --processes N``, which starts it: it is no command."""

from __future__ import annotations

import argparse
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING

from mien.cli.main import main
from mien.cli.signals import Terminated, raise_on_sigterm
from mien.core.errors import EXIT_DONE

if TYPE_CHECKING:
    from mien.cli.serve import Settings


def _register(
    settings: Settings, fd: int, commands: argparse._SubParsersAction[argparse.ArgumentParser]
) -> None:
    commands.add_parser("serve").set_defaults(run=lambda _: _run(settings, fd))


def _run(settings: Settings, fd: int) -> int:
    from mien.cli.serve import serve
    from mien.service.processes import say_ready

    try:
        with raise_on_sigterm(), socket.socket(fileno=fd) as port, settings.log.catching():
            serve(port, settings, on_ready=say_ready)
    except Terminated:
        pass  # the parent says what there is to say
    return EXIT_DONE


if __name__ == "__main__":
    from mien.service.processes import received

    _settings = received()
    _flags = [name for name in ("quiet", "debug") if getattr(_settings.log, name)]
    _words = ["serve", *(f"--{name}" for name in _flags)]
    sys.exit(main(_words, registers=[partial(_register, _settings, int(sys.argv[1]))]))
