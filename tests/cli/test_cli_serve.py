"""`mien serve` as a process on loopback: start, log and end."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import re
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from mien.cli import serve
from mien.cli.main import main
from mien.cli.serve import ServiceLog
from mien.core.errors import EXIT_INPUT, EXIT_MODEL, EXIT_USAGE
from serve_process import needs_app, needs_signals, served
from service_maker import END, FORM, PNG, Reply, ask, form, picture
from waiting import PATIENCE_S, until

SLOW = picture(size=(64, 64))
SLOW_PROGRAM = """
import sys, time
from mien.inference import preprocess
from mien.service import server
from mien.cli.main import main
from mien.cli.serve import ServiceLog
usual = preprocess.load_image
def load_image(source, **options):
    pixels = usual(source, **options)
    if pixels.shape == (64, 64, 3):
        time.sleep(1000)
    return pixels
preprocess.load_image = load_image
server.GRACE_SECONDS = 1
sys.exit(main(sys.argv[1:]))
"""


@needs_app
@needs_signals
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stuck_images_delay_neither_others_nor_the_end(
    tiny_model: Path, number: int, expected: int
) -> None:
    words = ("--workers", "1", "--analysis-timeout", "0.5")
    with served(tiny_model, *words, program=["-c", SLOW_PROGRAM]) as process:
        port = process.ready()
        reply = ask(port, "/v1/analyze", SLOW, PNG, "POST")
        assert (reply.status, reply.json["code"]) == (422, "too_long")
        until(lambda: analyzed(port).status == 200)
        code, output = process.end(number)
    assert code == expected
    assert output.splitlines()[-1] == "mien: stopped without 1 image that took too long"
    assert output.count("took too long") == 1
    assert "Traceback" not in output


@needs_app
@needs_signals
def test_ctrl_c_works_even_if_it_was_ignored_at_the_start(tiny_model: Path) -> None:
    # A shell without job control starts what it puts into the background so.
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + SLOW_PROGRAM
    words = ("--workers", "1", "--analysis-timeout", "0.5")
    with served(tiny_model, *words, program=["-c", ignoring]) as process:
        assert ask(process.ready(), "/v1/analyze", SLOW, PNG, "POST").status == 422
        code, output = process.end(signal.SIGINT)
    assert (code, output.splitlines()[-1]) == (
        130,
        "mien: stopped without 1 image that took too long",
    )


@needs_app
@needs_signals
def test_requests_in_flight_get_503_before_the_end(tiny_model: Path) -> None:
    with (
        served(tiny_model, "--workers", "1", program=["-c", SLOW_PROGRAM]) as process,
        ThreadPoolExecutor(1) as clients,
    ):
        port = process.ready()
        waiting = clients.submit(ask, port, "/v1/analyze", SLOW, PNG, "POST")
        until(lambda: b"taken 1.0" in ask(port, "/metrics").content)
        code, output = process.end(signal.SIGTERM)
        reply = waiting.result()
    assert (reply.status, reply.json["code"], code) == (503, "stopping", 0)
    assert output.splitlines()[2:] == ["mien: stopped without 1 image that took too long"]


@needs_app
@needs_signals
@pytest.mark.parametrize(
    ("number", "expected", "last"),
    [
        (signal.SIGTERM, 0, "stopped"),
        (signal.SIGINT, 130, "mien: interrupted"),
    ],
)
def test_signals_do_not_wait_for_a_model_being_loaded(
    tiny_model: Path, number: int, expected: int, last: str
) -> None:
    program = (
        "import sys, time; from mien.batch.inputs import RecognizerOptions;"
        "from mien.cli.main import main;"
        "RecognizerOptions.load = lambda _: time.sleep(1000); sys.exit(main(sys.argv[1:]))"
    )
    with served(tiny_model, program=["-c", program]) as process:
        port = process.port()
        until(lambda: ask(port, "/readyz").status == 503)
        code, output = process.end(number)
    assert (code, output.splitlines()[1:]) == (expected, [last])


@needs_app
@needs_signals
def test_running_out_of_files_does_not_flood_the_log(tiny_model: Path) -> None:
    resource = pytest.importorskip("resource")
    with served(tiny_model) as process, ExitStack() as streams:
        port = process.ready()
        if not hasattr(resource, "prlimit"):
            pytest.skip("needs Linux")
        limits = resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE)
        # The system takes away what the service was sure to have.
        resource.prlimit(process.process.pid, resource.RLIMIT_NOFILE, (20, limits[1]))
        for _ in range(40):
            stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
            streams.enter_context(stream)
        until(lambda: "no connection can be accepted" in process.output)
        time.sleep(1)
        streams.close()
        until(lambda: ask(port, "/healthz").status == 200)
        assert analyzed(port).status == 200
        assert len(process.lines) < 20  # a second or more lies between two lines
        assert "Traceback" not in process.output


@needs_app
@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc and /proc")
def test_memory_of_large_images_returns_to_the_system(tiny_model: Path) -> None:
    def resident() -> int:
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024

    large = io.BytesIO()
    Image.new("RGB", (6000, 4000), (200, 100, 50)).save(large, "JPEG")
    with served(tiny_model, "--workers", "2") as process, ThreadPoolExecutor(2) as clients:
        port = process.ready()
        analyzed(port)
        before = resident()
        for _ in range(3):  # only what is freed teaches the C library to keep
            jobs = [
                clients.submit(ask, port, "/v1/analyze", large.getvalue(), PNG, "POST")
                for _ in range(2)
            ]
            assert [job.result().status for job in jobs] == [200, 200]
        # Each took 150 MB for a moment.
        until(lambda: resident() < before + 60)


def test_log_lines_are_rate_limited(capsys: pytest.CaptureFixture[str]) -> None:
    with ServiceLog().install():
        for name in ("asyncio", "uvicorn.error"):
            for number in range(1000):
                logging.getLogger(name).error("failed %d times", number)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 40
    assert lines[0] == "mien: failed 0 times"
    assert lines[19] == "mien: failed 19 times (no more of this for a minute)"


def analyzed(port: int) -> Reply:
    return ask(port, "/v1/analyze", form(picture()) + END, FORM, "POST")


@needs_app
@needs_signals
def test_it_serves_until_sigterm(tiny_model: Path) -> None:
    with served(tiny_model, "--access-log", "--workers", "1") as process:
        port = process.ready()
        assert ask(port, "/readyz").status == 200
        reply = analyzed(port)
        assert (reply.status, reply.json["source"]) == (200, "a.png")
        assert ask(port, "/../etc\x1b/passwd".replace("\x1b", "%1b")).status == 404
        code, output = process.end(signal.SIGTERM)
    assert code == 0
    lines = output.splitlines()
    assert lines[0] == f"listening on http://127.0.0.1:{port} (press Ctrl-C to stop)"
    assert lines[1] == "ready: tiny 0.0.1, none, 1 at a time"
    assert any("POST /v1/analyze 200 " in line for line in lines)
    assert lines[-1] == "stopped"
    assert "\x1b" not in output
    assert "Traceback" not in output


@needs_app
@needs_signals
def test_ctrl_c_is_exit_code_130(tiny_model: Path) -> None:
    with served(tiny_model) as process:
        process.ready()
        code, output = process.end(signal.SIGINT)
    assert code == 130
    assert output.splitlines()[-1] == "mien: interrupted"
    assert "Traceback" not in output


@needs_app
@needs_signals
def test_sigterm_during_an_upload_ends_in_time(tiny_model: Path) -> None:
    with served(tiny_model, "--upload-timeout", "0.5") as process:
        port = process.ready()
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as stream:
            head = b"POST /v1/analyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            stream.sendall(head + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n")
            assert stream.recv(12) == b"HTTP/1.1 100"  # it waits for the body now
            code, _ = process.end(signal.SIGTERM)
            assert b"HTTP/1.1 408 " in b"".join(iter(lambda: stream.recv(4096), b""))
    assert code == 0


@needs_app
def test_a_port_in_use_is_one_line_of_error(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--model", str(tiny_model), "--port", str(port)]) == EXIT_USAGE
    output = capsys.readouterr().err
    assert output.startswith(
        f"mien: cannot listen on 127.0.0.1:{port}: address already in use; choose another --host"
    )
    assert output.count("\n") == 1


@needs_app
def test_a_missing_model_is_one_line_of_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--model", "nowhere", "--port", "0", "--quiet"]) == EXIT_MODEL
    output = capsys.readouterr().err
    assert output.startswith("mien: no model 'nowhere'")
    assert output.count("\n") == 1


@needs_app
@pytest.mark.parametrize(
    "words",
    [
        ["--port", "70000"],
        ["--port", "-1"],
        ["--host", "no such host"],
        ["--max-bytes", "0"],
        ["--max-megapixels", "0"],
        ["--max-megapixels", "nan"],
        ["--max-megapixels", "151"],
        ["--workers", "0"],
        ["--max-waiting", "-1"],
        ["--upload-timeout", "nan"],
        ["--analysis-timeout", "0"],
        ["--max-connections", "0"],
        ["--max-streams", "-1"],
        ["--stream-timeout", "0"],
        ["--max-video-bytes", "0"],
        ["--video-timeout", "nan"],
        ["--processes", "0"],
        ["--processes", "257"],
        ["--log-format", "xml"],
        ["--cors-origin", "*"],
        ["--cors-origin", "example.org"],
        ["--threads", "0"],
        ["--min-face", "-1"],
    ],
)
def test_invalid_options_are_usage_errors(
    words: list[str], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", "--model", str(tiny_model), *words]) == EXIT_USAGE
    output = capsys.readouterr().err
    assert output.count("\n") == 1


@needs_app
@pytest.mark.parametrize(
    ("text", "code", "output"),
    [
        (None, EXIT_INPUT, "cannot be read: "),
        (b"# none\n\n", EXIT_INPUT, "found none"),
        (b"\xff\xfe", EXIT_INPUT, "it is not text"),
        (b"a-token-that-is-fine\nshort\n", EXIT_USAGE, "16 to 512 letters"),
    ],
)
def test_invalid_token_files_are_refused_and_not_repeated(
    text: bytes | None, code: int, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens"
    if text is not None:
        path.write_bytes(text)
    assert main(["serve", "--port", "0", "--token-file", str(path)]) == code
    error = capsys.readouterr().err
    assert output in error
    assert "short" not in error
    assert error.count("\n") == 1


@needs_app
@pytest.mark.parametrize("name", ["MIEN_TOKENS", "MIEN_TOKEN"])
@pytest.mark.parametrize("value", ["", " , "])
def test_an_empty_variable_does_not_open_the_service_to_everybody(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["serve", "--port", "0"]) == EXIT_USAGE
    assert capsys.readouterr().err == (
        f"mien: {name} is set but empty: expected a token; unset it to serve without "
        "authentication\n"
    )


@needs_app
@needs_signals
def test_tokens_come_from_a_file_and_the_environment(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"\xef\xbb\xbftoken-of-the-file-1\r\n")  # as some editors save it
    monkeypatch.setenv("MIEN_TOKENS", "token-of-tokens-1, token-of-tokens-2")
    monkeypatch.setenv("MIEN_TOKEN", "token-of-its-own-1")
    with served(tiny_model, "--token-file", str(path)) as process:
        port = process.ready()
        statuses = {
            token: ask(port, "/version", headers={"Authorization": f"Bearer {token}"}).status
            for token in (
                *("token-of-the-file-1", "token-of-tokens-1", "token-of-tokens-2"),
                *("token-of-its-own-1", "token-of-nobody-1"),
            )
        }
        assert list(statuses.values()) == [200, 200, 200, 200, 401]
        assert ask(port, "/version").status == 401
        code, output = process.end(signal.SIGTERM)
    assert (code, "token-of" in output) == (0, False)


@needs_app
@needs_signals
def test_the_json_log_contains_nothing_of_an_image(tiny_model: Path) -> None:
    words = ("--log-format", "json", "--access-log")
    with served(tiny_model, *words, program=["-c", FAILING_PROGRAM]) as process:
        port = process.ready()
        assert analyzed(port).status == 200
        headers = {**FORM, "X-Request-ID": "the-one"}
        body = form(picture(size=(64, 64)), name="of-me.png") + END
        assert ask(port, "/v1/analyze", body, headers, "POST").status == 500
        code, output = process.end(signal.SIGTERM)
    lines = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert lines[0]["message"].startswith("listening on ")
    assert lines[-1]["message"] == "stopped"
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", each["time"]) for each in lines
    )
    (error,) = [each for each in lines if each["level"] == "error"]
    assert (error["request_id"], error["logger"]) == ("the-one", "mien.service.middleware")
    analyses = [each for each in lines if each.get("path") == "/v1/analyze"]
    assert [(each["method"], each["status"]) for each in analyses] == [("POST", 200), ("POST", 500)]
    assert analyses[1]["request_id"] == "the-one"
    assert set(analyses[0]) == {
        *("time", "level", "message", "client", "method", "path", "status", "ms", "request_id"),
    }
    assert "a.png" not in output
    assert "of-me" not in output


FAILING_PROGRAM = """
import sys
from mien.inference import preprocess
from mien.cli.main import main
usual = preprocess.load_image
def load_image(source, **options):
    pixels = usual(source, **options)
    if pixels.shape == (64, 64, 3):
        raise ZeroDivisionError("on the way")
    return pixels
preprocess.load_image = load_image
sys.exit(main(sys.argv[1:]))
"""


def test_a_missing_extra_is_reported_with_its_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main(["serve"], registers=[serve.register]) == EXIT_USAGE
    assert capsys.readouterr().err == (
        "mien: mien serve needs the extra [app], which is not installed: pip install 'mien[app]'\n"
    )


@pytest.mark.parametrize("debug", [False, True])
def test_debug_shows_tracebacks_of_failed_requests(
    debug: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServiceLog(debug=debug).install():
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        try:
            raise ZeroDivisionError("by a client")
        except ZeroDivisionError as error:
            logging.getLogger("mien.service.app").error("failed", exc_info=error)
    assert ("Traceback" in capsys.readouterr().err) is debug


def test_the_network_uses_a_workers_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "usable_cores", lambda: 16)
    shares = [(4, 1), (4, 2), (16, 1), (4, 8)]
    assert [serve.network_threads(*each) for each in shares] == [4, 2, 1, 1]


def test_only_loopback_addresses_are_private() -> None:
    class Port:
        def __init__(self, host: str) -> None:
            self.host = host

        def getsockname(self) -> tuple[str, int]:
            return self.host, 80

    own = {host: serve._is_loopback(Port(host)) for host in ("127.0.0.1", "::1", "0.0.0.0", "::")}  # type: ignore[arg-type]
    assert own == {"127.0.0.1": True, "::1": True, "0.0.0.0": False, "::": False}
