"""Nothing phones home, and nothing is left in the user's home but mien's own folder.

Files are looked at wherever the tests run. Attempts to connect are those that strace sees, in
native code too; where there is no strace, they are not looked at, and one test says so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_maker import make_tiny_splits, write_tiny_dataset
from mien.core.errors import EXIT_DONE, EXIT_INPUT, EXIT_MODEL
from mien.core.process import TELEMETRY_SWITCHES
from mien.data.dataset import save_splits
from video_maker import even_times, write_video
from waiting import PATIENCE_S, until

OWN = Path(".cache", "mien")
"""Mien's folder in a home, on Linux."""

_CONNECT = re.compile(
    r"sa_family=AF_INET6?, sin6?_port=htons\((\d+)\),"
    r'.*?(?:inet_addr\(|inet_pton\(AF_INET6, )"([^"]+)"'
)
_NAMES_PORT = "53"
"""A name server on this machine asks others."""

_DROPPED = (*TELEMETRY_SWITCHES, "MIEN_HOME", "KERAS_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME")

# Only the calls that are asked for stop a process (seccomp), so the others are as quick as ever.
_TRACE = ["strace", "-f", "--seccomp-bpf", "-qq", "-A", "-e", "trace=connect"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="homes are looked at as on Linux")


def _can_trace() -> bool:
    words = [*_TRACE, "-o", os.devnull, "true"]
    return shutil.which("strace") is not None and subprocess.run(words).returncode == 0


class Home:
    """A fresh home, and the processes that are started with it."""

    def __init__(self, path: Path, log: Path, *, traced: bool) -> None:
        self.path = path
        self._log = log
        self.traced = traced

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start Python with the words after it."""
        kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
        return subprocess.Popen(
            [*([*_TRACE, "-o", str(self._log)] if self.traced else []), sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**kept, "HOME": str(self.path), "OMP_NUM_THREADS": "1"},
        )

    def mien(self, *words: str | Path, codes: Collection[int] = (EXIT_DONE,)) -> None:
        """Run a command to its end, which must be with one of the codes."""
        process = self.start("-m", "mien", *map(str, words))
        _, err = process.communicate(timeout=300)
        assert process.returncode in codes, err

    def others_files(self) -> list[str]:
        """Name the files that are not below mien's own folder."""
        files = [path.relative_to(self.path) for path in self.path.rglob("*") if path.is_file()]
        return sorted(str(path) for path in files if OWN not in path.parents)

    def contacted_addresses(self) -> set[str]:
        """Name the addresses beyond this machine that somebody tried to connect to."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        found = set(_CONNECT.findall(text))
        return {one for port, one in found if port == _NAMES_PORT or not _is_own(one)}


def _is_own(address: str) -> bool:
    """Tell whether it is this machine's: only then can one listen there."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as one:
            one.bind((address, 0))
    except OSError:
        return False
    return True


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home", tmp_path / "connects.txt", traced=_can_trace())


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    path = tmp_path / "face.png"
    assert cv2.imwrite(str(path), noise)
    return path


def nothing_left(home: Home) -> None:
    assert home.others_files() == []
    assert home.contacted_addresses() == set()


def test_predict_leaves_nothing(home: Home, picture: Path) -> None:
    home.mien("predict", picture, "--detector", "none", "--offline")
    nothing_left(home)


def test_the_check_finds_connections_and_files(home: Home) -> None:
    there = home.path / ".cache" / "somebody" / "deviceid"
    script = (
        "import pathlib, socket, sys\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "path.parent.mkdir(parents=True)\n"
        "path.touch()\n"
        "for whom in ('203.0.113.1', 80), ('127.0.0.53', 53), ('127.0.0.1', 80):\n"
        "    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(whom)\n"
    )
    home.start("-c", script, str(there)).communicate()
    assert home.others_files() == [".cache/somebody/deviceid"]
    if not home.traced:
        pytest.skip("attempts to connect are not looked at: no strace that works here")
    assert home.contacted_addresses() == {"203.0.113.1", "127.0.0.53"}


@pytest.mark.slow
def test_a_long_running_program_makes_no_connections(home: Home, picture: Path) -> None:
    # ONNX Runtime's own first attempt comes some seconds after it is loaded.
    script = (
        "import mien, sys, time\n"
        "recognizer = mien.load(detector='none')\n"
        "recognizer.analyze(sys.argv[1])\n"
        "time.sleep(12)\n"
    )
    process = home.start("-c", script, str(picture))
    assert process.communicate(timeout=120)[1] == ""
    nothing_left(home)


@pytest.mark.slow
def test_commands_that_read_leave_nothing(home: Home, picture: Path, tmp_path: Path) -> None:
    home.mien("doctor")
    home.mien("bench", "--seconds", "0", "--threads", "1")
    home.mien("explain", picture, "--detector", "none", "--output", tmp_path / "why.png")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        shutil.copy(picture, folder / f"{number}.png")
    words = ("--detector", "none", "--workers", "2", "--output", tmp_path / "read.jsonl")
    home.mien("predict", folder, *words)
    nothing_left(home)


def test_reading_a_video_leaves_nothing(home: Home, tmp_path: Path, tiny_model: Path) -> None:
    for package in ("av", "matplotlib"):
        pytest.importorskip(package)
    clip = tmp_path / "clip.mp4"
    write_video(clip, even_times(10), sound=True)
    words = ("predict", clip, "--model", tiny_model, "--detector", "none")
    drawn = ("--annotate", tmp_path / "drawn.mp4", "--timeline", tmp_path / "drawn.png")
    home.mien(*words, *drawn, "--episodes", tmp_path / "told.json")
    nothing_left(home)


@pytest.mark.slow
def test_a_cluster_on_this_machine_leaves_its_key_alone(
    home: Home, picture: Path, tmp_path: Path
) -> None:
    for package in ("ray", "pyarrow"):
        pytest.importorskip(package)
    words = ("--engine", "ray", "--workers", "1", "--detector", "none")
    home.mien("predict", picture, *words, "--output", tmp_path / "read.jsonl")
    assert set(home.others_files()) <= {".ray/auth_token"}
    # Ray opens a socket for 8.8.8.8 to learn its own address, through which it sends nothing. Its
    # head process asks, whatever one sets, whose cloud the machine is in.
    resolver = Path("/etc/resolv.conf").read_text() if Path("/etc/resolv.conf").exists() else ""
    name_servers = set(re.findall(r"^nameserver\s+(\S+)", resolver, re.MULTILINE))
    assert home.contacted_addresses() <= {"8.8.8.8", "169.254.169.254", *name_servers}


@pytest.mark.slow
def test_the_service_leaves_nothing(home: Home, picture: Path) -> None:
    pytest.importorskip("fastapi")
    process = home.start("-m", "mien", "serve", "--port", "0", "--detector", "none")
    assert process.stderr is not None
    matches = (re.search(r"http://\S+?:\d+", line) for line in process.stderr)
    address = next(found[0] for found in matches if found)
    try:
        request = urllib.request.Request(
            f"{address}/v1/analyze", picture.read_bytes(), {"Content-Type": "image/png"}
        )
        until(lambda: _answers(request))
    finally:
        _interrupt(process)
    nothing_left(home)


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:  # not ready yet
        return False


@pytest.mark.slow
def test_training_and_what_follows_leave_nothing(home: Home, tmp_path: Path) -> None:
    for package in ("keras", "matplotlib", "onnx", "seaborn", "sklearn"):
        pytest.importorskip(package)
    faces, run, model = _faces(tmp_path), tmp_path / "run", tmp_path / "model"
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(_recipe(faces), encoding="utf-8")
    home.mien("train", "--config", recipe, "--run", run)
    # On so few images one that is read otherwise is enough to refuse the 8-bit model, once made.
    small = ("--int8", "--data", faces)
    codes = (EXIT_DONE, EXIT_MODEL)
    home.mien("export", run, "--output", model, "--calibrate", faces, *small, codes=codes)
    words = ("--model", model, "--epochs", "1", "--set", "training.head_epochs=1")
    classes = write_tiny_dataset(tmp_path / "classes")
    home.mien("finetune", classes, *words, "--threads", "1", "--run", tmp_path / "finetuned")
    nothing_left(home)


@pytest.mark.slow
def test_evaluation_leaves_nothing(
    home: Home, picture: Path, tmp_path: Path, tiny_model: Path
) -> None:
    for package in ("matplotlib", "seaborn", "sklearn"):
        pytest.importorskip(package)
    faces = _faces(tmp_path)
    (tmp_path / "mine").mkdir()
    shutil.copy(picture, tmp_path / "mine")
    evaluate = ("evaluate", "--model", tiny_model, "--output")
    home.mien(*evaluate, tmp_path / "report", "--data", faces)
    home.mien(*evaluate, tmp_path / "lost", "--data", faces, "--robustness")
    own = ("--pictures", tmp_path / "mine", "--detector", "none")
    home.mien(*evaluate, tmp_path / "grid", *own)
    nothing_left(home)


@pytest.mark.slow
def test_handling_data_leaves_nothing(home: Home, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    archive = tmp_path / "archive"
    home.mien("data", "import", write_tiny_dataset(tmp_path / "copy"), "--output", archive)
    home.mien("data", "audit", archive, "--figure", tmp_path / "audit.png")
    nothing_left(home)


def test_a_download_that_fails_leaves_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kagglehub")
    # No proxy is there, so Kaggle cannot be reached, and nobody else is to be tried.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    home.mien("data", "download", "--output", tmp_path / "archive", codes=[EXIT_INPUT])
    nothing_left(home)


def _faces(folder: Path) -> Path:
    save_splits(folder / "faces.npz", make_tiny_splits(per_class=4))
    return folder / "faces.npz"


def _recipe(faces: Path) -> str:
    tables = {
        "data": [f"source = '{faces}'"],
        "model": [
            'backbone = "Plain"',
            'weights = "none"',
            "input_size = 32",
            "head_units = []",
            "head_dropout = []",
            "plain_channels = [4]",
        ],
        "training": ["batch_size = 8", "epochs = 1", "head_epochs = 0", "threads = 1"],
    }
    return "".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in tables.items())


def _interrupt(process: subprocess.Popen[str]) -> None:
    """End a service in good order; strace itself does not pass signals on."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]) if children else process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
