"""`mien serve` as a process."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from waiting import PATIENCE_S, until

needs_app = pytest.mark.skipif(
    importlib.util.find_spec("fastapi") is None, reason="needs the extra app"
)
needs_signals = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


class Process:
    """A running ``mien serve``: its port and its stderr."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def port(self) -> int:
        until(lambda: "listening on " in self.output)
        match = re.search(r"http://127\.0\.0\.1:(\d+)", self.output)
        assert match is not None
        return int(match[1])

    def ready(self) -> int:
        port = self.port()
        until(lambda: "ready: " in self.output)
        return port

    def end(self, number: int) -> tuple[int, str]:
        """Send a signal; return the exit code and everything on stderr."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code, self.output

    def close(self) -> None:
        """Wait for the last line."""
        self._reader.join(PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "onnxruntime-web" not in line:  # whether a checkout has it is no matter here
                self.lines.append(line)


@contextmanager
def served(model: Path, *words: str, program: Sequence[str] = ("-m", "mien")) -> Iterator[Process]:
    settings = ["--model", str(model), "--detector", "none", "--threads", "1", "--port", "0"]
    command = [sys.executable, *program, "serve", *settings, *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        running = Process(process)
        try:
            yield running
        finally:
            process.kill()
            running.close()
