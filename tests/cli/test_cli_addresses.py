"""`mien predict ADDRESS`, with a server on localhost."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict_maker
from mien.cli.paths import is_single, is_video
from web_maker import Answer, Server, reply, serving

Predict = Callable[..., tuple[int, str, str]]


def _png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (60, 50, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def answers() -> dict[str, Answer]:
    return {"/face.png": reply(_png()), "/cut.png": reply(_png()[:900])}


@pytest.fixture
def server(answers: dict[str, Answer]) -> Iterator[Server]:
    with serving(answers) as running:
        yield running


@pytest.fixture
def predict(predict: predict_maker.Predict) -> Predict:
    """Run `mien predict` with JSON lines; return exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        done = predict(*arguments, "--format", "jsonl")
        return done.code, done.out, done.err

    return run


def test_an_image_from_the_web_gives_the_same_faces_as_its_file(
    predict: Predict, server: Server
) -> None:
    Path("face.png").write_bytes(_png())
    code, out, _ = predict(server.url("/face.png?size=3"), "face.png", "--allow-private")
    web, file = map(json.loads, out.splitlines())
    assert code == 0
    assert web["source"] == server.url("/face.png?size=3")
    assert web["status"] == "ok"
    assert web["faces"] == file["faces"]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("/face.png", [], "--allow-private"),
        ("/face.png", ["--allow-private", "--offline"], "offline"),
        ("/face.png", ["--allow-private", "--max-download", "0.001"], "at most 0.001 MB"),
        ("/none.png", ["--allow-private"], "404 (Not Found)"),
        ("/cut.png", ["--allow-private"], "damaged"),
    ],
)
def test_failed_downloads_are_unreadable_with_a_reason(
    predict: Predict, server: Server, path: str, options: list[str], message: str
) -> None:
    code, out, err = predict(server.url(path, login="me:hunter2@"), *options)
    result = json.loads(out)
    assert code == 3
    assert (result["status"], result["source"]) == ("unreadable", server.url(path))
    assert result["error"].startswith(server.url(path))
    assert message in result["error"]
    assert message in err
    assert err.count("\n") == 1
    assert "hunter2" not in out + err


def test_a_failed_download_does_not_stop_the_others(predict: Predict, server: Server) -> None:
    code, out, _ = predict(server.url("/none"), server.url(), "--allow-private")
    assert code == 6
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["unreadable", "ok"]


def test_results_written_in_parts_hold_no_login_and_download_once(
    predict: Predict, server: Server, tmp_path: Path
) -> None:
    url = server.url(login="me:hunter2@")
    assert predict(url, "--allow-private", "--output", "out.jsonl")[0] == 0
    assert json.loads(Path("out.jsonl").read_text())["status"] == "ok"
    assert len(server.requests) == 1
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def test_annotated_pictures_are_named_after_the_file(predict: Predict, server: Server) -> None:
    predict(server.url("/face.png?size=3"), "--allow-private", "--annotate", "drawn")
    assert [path.name for path in Path("drawn").iterdir()] == ["face.annotated.png"]


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf", "1e9"])
def test_invalid_download_limits_are_rejected(predict: Predict, size: str) -> None:
    code, out, err = predict("a.png", f"--max-download={size}")
    assert (code, out) == (2, "")
    assert "--max-download" in err


def test_an_address_is_never_a_pattern() -> None:
    assert is_single(["https://example.org/a.jpg?size=[3]*"])


def test_video_addresses_are_recognized_by_scheme_and_suffix() -> None:
    for word in ("rtsp://camera/1", "https://h/clip.MP4?x=1", "http://h/live.m3u8"):
        assert is_video(word)
    for word in ("https://h/a.jpg", "https://h/?clip.mp4", "http://[::1/a.mp4"):
        assert not is_video(word)


@pytest.mark.parametrize("start", ["https://me:hunter2@h.test/a.mp4", "rtsp://me:hunter2@h.test/1"])
def test_offline_rejects_videos_from_the_web(predict: Predict, start: str) -> None:
    code, out, err = predict(start, "--offline")
    assert (code, out) == (3, "")
    assert err.startswith(f"mien: {start.replace('me:hunter2@', '')} is on the web")
    assert err.count("\n") == 1
