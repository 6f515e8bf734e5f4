"""`mien serve --processes N`: one port, one end, restarts."""

from __future__ import annotations

import errno
import os
import re
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from mien.cli.main import main
from mien.core.errors import EXIT_MODEL, UsageError
from serve_process import Process, needs_app, needs_signals, served
from service_maker import PNG, ask, picture
from waiting import PATIENCE_S, until

pytestmark = [needs_app, needs_signals]


def pids(process: Process) -> list[int]:
    return [int(each) for each in re.findall(r"^ready: .* process (\d+)$", process.output, re.M)]


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def metric(port: int, line: str) -> float:
    text = ask(port, "/metrics").text
    return sum(float(each.split()[-1]) for each in text.splitlines() if each.startswith(line))


def analyze(port: int) -> int:
    return ask(port, "/v1/analyze", picture(), PNG, "POST").status


def test_processes_share_the_port_the_metrics_and_the_end(tiny_model: Path) -> None:
    with served(tiny_model, "--processes", "2", "--workers", "1") as process:
        port = process.port()
        until(lambda: len(pids(process)) == 2)
        assert process.process.pid not in pids(process)
        with ThreadPoolExecutor(8) as clients:
            assert list(clients.map(lambda _: analyze(port), range(40))) == 40 * [200]
        assert {metric(port, 'mien_images_total{status="ok"}') for _ in range(5)} == {40.0}
        assert metric(port, "mien_ready ") == 1
        assert metric(port, "mien_places_taken ") == 0
        assert "mien_info{" in ask(port, "/metrics").text
        code, output = process.end(signal.SIGTERM)
    assert (code, output.splitlines()[-1]) == (0, "stopped")
    assert not any(map(is_alive, pids(process)))
    assert "Traceback" not in output


def test_a_process_that_dies_is_replaced(tiny_model: Path) -> None:
    with served(tiny_model, "--processes", "2", "--workers", "1") as process:
        port = process.port()
        until(lambda: len(pids(process)) == 2)
        first, second = pids(process)
        for _ in range(4):
            assert analyze(port) == 200
        os.kill(first, signal.SIGKILL)
        until(lambda: len(pids(process)) == 3)
        # It starts at once if the first one had lived for a while, as on a busy machine.
        died = rf"process {first} died \(SIGKILL\): another one starts in [01] s"
        assert re.search(died, process.output)
        assert is_alive(second)
        assert analyze(port) == 200
        assert metric(port, 'mien_images_total{status="ok"}') == 5
        code, output = process.end(signal.SIGINT)
    assert (code, output.splitlines()[-1]) == (130, "mien: interrupted")
    assert not any(map(is_alive, pids(process)))


def test_processes_end_and_clean_up_after_a_killed_parent(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with served(tiny_model, "--processes", "2", "--workers", "1") as process:
        until(lambda: len(pids(process)) == 2)
        assert len(list(tmp_path.glob("mien-metrics-*"))) == 1
        process.process.kill()
        process.process.wait(PATIENCE_S)
        until(lambda: not any(map(is_alive, pids(process))))
    assert not list(tmp_path.glob("mien-metrics-*"))


def test_a_missing_model_is_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "nowhere", "--port", "0", "--quiet", "--processes", "3"]
    assert main(["serve", *words]) == EXIT_MODEL
    output = capfd.readouterr().err
    assert output.startswith("mien: no model 'nowhere'")
    assert output.count("\n") == 1


def test_a_process_that_dies_at_its_start_is_restarted_after_longer_delays() -> None:
    from mien.service.server import listen, supervise

    lines: list[str] = []

    def log(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    with listen("127.0.0.1", 0) as listener, pytest.raises(KeyboardInterrupt):
        supervise(("-c", "raise SystemExit(1)"), None, listener.fileno(), 1, log)
    assert lines[0].endswith("died (exit code 1): another one starts in 1 s")
    assert lines[1].endswith("died (exit code 1): another one starts in 2 s")


def test_systems_without_fork_get_one_line_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.service.server import check_processes

    check_processes(2)
    monkeypatch.delattr(os, "fork")
    check_processes(1)
    with pytest.raises(UsageError, match=r"^--processes needs Linux or macOS: on Windows run "):
        check_processes(2)


def test_folders_of_killed_services_are_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.service.server import metrics_folder

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with metrics_folder() as running:
        left, new, linked = (Path(f"{running}{name}") for name in ("left", "new", "linked"))
        other = tmp_path / "other"
        for path in (left, new, other):
            path.mkdir()
            (path / "counter_1.db").touch()
        linked.symlink_to(other)
        for path in (Path(running), left, other):
            os.utime(path, (0, 0))
        with metrics_folder() as second:
            expected = {Path(running), new, linked, other, Path(second)}
            assert set(tmp_path.iterdir()) == expected
        assert (other / "counter_1.db").exists()


def test_metrics_need_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    from mien.service.server import metrics_folder

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks on this network folder")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with metrics_folder() as folder:
        os.utime(folder, (0, 0))
        with metrics_folder() as second:
            assert set(tmp_path.iterdir()) == {Path(folder), Path(second)}
    assert not list(tmp_path.iterdir())


def test_a_new_metrics_folder_waits_for_another_service_that_looks_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    from mien.service.server import metrics_folder

    flags: list[int] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", lambda _, flag: flags.append(flag))
    with metrics_folder():
        assert flags == [fcntl.LOCK_EX]
