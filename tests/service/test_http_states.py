"""State, version, metrics, OpenAPI description and /docs."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from mien import __version__
from mien.core.emotions import EMOTIONS
from mien.core.errors import ModelError
from mien.core.file_types import READABLE_FORMATS
from mien.core.results import SCHEMA
from mien.inference.recognizer import Recognizer
from service_maker import PNG, Service, loader, picture, running
from waiting import PATIENCE_S, until

pytest.importorskip("fastapi")


def test_healthy_at_once_and_ready_once_the_model_is_loaded(tiny_model: Path) -> None:
    gate = threading.Event()
    recognizers: list[Recognizer] = []

    def load() -> Recognizer:
        assert gate.wait(PATIENCE_S)
        return loader(tiny_model)()

    with running(load, ready=False, on_ready=recognizers.append) as service:
        until(lambda: service.ask("/healthz").status == 200)
        assert service.ask("/healthz").json == {"status": "ok"}
        for reply in (service.ask("/readyz"), service.analyze(picture())):
            assert (reply.status, reply.json["code"]) == (503, "not_ready")
            assert "retry-after" in reply.headers
        before = service.ask("/version").json
        assert before.pop("mien") == __version__
        assert before == dict.fromkeys(("model", "labels", "reading", "detector"))
        assert service.metric("mien_ready") == 0
        gate.set()
        until(lambda: service.ask("/readyz").status == 200)
        assert service.ask("/readyz").json == {"status": "ready"}
        assert service.metric("mien_ready") == 1
        assert [each.model.name for each in recognizers] == ["tiny"]


def test_a_model_that_fails_to_load_is_reported_and_never_ready(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def load() -> Recognizer:
        raise ModelError("it is gone")

    failures: list[Exception] = []
    with running(load, ready=False, on_failure=failures.append) as service:
        until(lambda: bool(failures))
        assert service.ask("/readyz").status == 503
    with running(load, ready=False) as service:
        until(lambda: "the model cannot be loaded: it is gone" in caplog.text)
        assert service.ask("/healthz").status == 200


def test_the_warm_up_finds_a_failing_detector(tiny_model: Path) -> None:
    from detector_maker import Broken

    failures: list[Exception] = []
    with running(loader(tiny_model, Broken()), ready=False, on_failure=failures.append):
        until(lambda: bool(failures))
    assert "failed at its first image" in str(failures[0])


def test_version_has_mien_the_model_and_the_detector(service: Service, tiny_model: Path) -> None:
    model = loader(tiny_model)().model
    assert service.ask("/version").json == {
        "mien": __version__,
        "model": model.to_dict(),
        "labels": list(EMOTIONS),
        "reading": model.labels or None,
        "detector": "none",
    }


def test_metrics_count_requests_images_and_faces(tiny_model: Path) -> None:
    answered: list[object] = []
    with running(loader(tiny_model), on_request=answered.append) as service:
        for content in (picture(), picture(1), b"none"):
            service.analyze(content)
        service.ask("/made-up", method="MADE-UP")
        reply = service.ask("/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=")
        analyze = 'method="POST",path="/v1/analyze"'
        for line, value in (
            (f'mien_requests_total{{{analyze},status="200"}}', 2),
            (f'mien_requests_total{{{analyze},status="422"}}', 1),
            ('mien_requests_total{method="other",path="other",status="404"}', 1),
            ('mien_request_seconds_count{path="/v1/analyze"}', 3),
            ('mien_images_total{status="ok"}', 2),
            ('mien_images_total{status="unreadable"}', 1),
            ("mien_analysis_seconds_count", 3),
            ("mien_requests_in_flight", 1),
            ("mien_places_taken", 0),
        ):
            assert service.metric(line) == value, line
        faces = re.findall(r"^mien_faces_total\{.*\} (.+)$", reply.text, re.MULTILINE)
        assert len(faces) == len(EMOTIONS)
        assert sum(map(float, faces)) == 2
        assert "made-up" not in reply.text.lower()
    line = r"127\.0\.0\.1 POST /v1/analyze 422 \d+ ms [0-9a-f]{32}"
    assert any(re.fullmatch(line, str(each)) for each in answered)


def test_services_share_no_metrics(tiny_model: Path, service: Service) -> None:
    service.analyze(picture())
    with running(loader(tiny_model)) as other:
        assert other.metric('mien_images_total{status="ok"}') == 0


def test_openapi_describes_bodies_and_every_reply(service: Service) -> None:
    described = service.ask("/openapi.json").json
    schemas = described["components"]["schemas"]
    analyze = described["paths"]["/v1/analyze"]["post"]
    assert {"multipart/form-data", "image/jpeg", "image/png"} <= set(
        analyze["requestBody"]["content"]
    )
    for media in analyze["requestBody"]["content"].values():
        file = media["schema"].get("properties", {}).get("image", media["schema"])
        assert file == {"type": "string", "format": "binary", "minLength": 1}
    for status, reply in analyze["responses"].items():
        name = reply["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert name == ("Result" if status == "200" else "Error")
    assert set(analyze["responses"]) == {
        "200", "400", "401", "408", "413", "415", "422", "500", "503",
    }  # fmt: skip
    assert schemas["Result"]["properties"]["schema"]["const"] == SCHEMA
    assert "HTTPValidationError" not in schemas
    assert set(described["paths"]) == {
        "/v1/analyze", "/v1/stream", "/v1/video", "/healthz", "/readyz", "/version", "/metrics",
    }  # fmt: skip


def test_every_readable_format_has_an_accepted_type() -> None:
    from PIL import Image

    from mien.service.uploads import IMAGE

    Image.init()
    accepted = {*IMAGE.types, *IMAGE.aliases}
    assert {Image.MIME[name] for name in READABLE_FORMATS if name in Image.MIME} <= accepted


def test_docs_need_no_script_and_no_other_server(service: Service) -> None:
    reply = service.ask("/docs")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "<script" not in reply.text
    assert not re.findall(r"""(?:src|href|action)=["']?(?:\w+:|//)""", reply.text)
    for shown in (
        "POST /v1/analyze",
        "POST /v1/video",
        "<code>every</code>",
        "multipart/form-data",
        "422",
        'id="Face"',
        "mien/1",
    ):
        assert shown in reply.text
    assert set(re.findall(r'href="#(\w+)"', reply.text)) <= set(
        re.findall(r'id="(\w+)"', reply.text)
    )
    assert service.ask("/redoc").status == 404


PATHS = ("/healthz", "/readyz", "/version", "/metrics", "/docs", "/openapi.json")


@pytest.mark.parametrize("path", [*PATHS, "/nowhere", "/v1/analyze"])
def test_head_is_answered_as_get_without_the_body(service: Service, path: str) -> None:
    got, head = service.ask(path), service.ask(path, method="HEAD")
    assert (head.status, head.content) == (got.status, b"")
    assert head.status == (200 if path in PATHS else 404 if path == "/nowhere" else 405)
    changing = ("date", "x-request-id", *(("content-length",) if path == "/metrics" else ()))
    for headers in (got.headers, head.headers):
        assert int(headers["content-length"]) > 0
    assert [each for each in head.headers.items() if each[0] not in changing] == [
        each for each in got.headers.items() if each[0] not in changing
    ]
    assert service.metric(f'mien_requests_total{{method="HEAD",path="{path}",status="200"}}') == (
        1 if path in PATHS else 0
    )


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "MADE-UP"])
def test_405_lists_the_allowed_methods(service: Service, method: str) -> None:
    for path in PATHS:
        reply = service.ask(path, method=method)
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    if method != "POST":
        assert service.ask("/v1/analyze", method=method).headers["allow"] == "POST"


def test_unknown_queries_and_bodies_are_ignored(service: Service) -> None:
    for path in ("/healthz?a=1&a=2", "/healthz?%00=%ff", "/healthz?" + "&" * 4000):
        assert service.ask(path, b"a body", {"Content-Type": "text/plain"}).status == 200
    assert service.ask("/v1/analyze?url=x", picture(), PNG, "POST").status == 200


def test_there_is_no_server_header(service: Service) -> None:
    assert "server" not in {name.lower() for name in service.ask("/healthz").headers}
