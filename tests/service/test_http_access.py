"""Tokens, origins of pages, and request ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mien.core.errors import UsageError
from service_maker import PNG, Service, loader, picture, running

pytest.importorskip("fastapi")

from mien.service.access import Access, normalize_origin, parse_tokens

TOKEN, OTHER = "first-token-of-all", "another.token_of~it"
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def guarded(tiny_model: Path) -> Iterator[Service]:
    """A service that requires a token and allows one origin."""
    access = Access.of([TOKEN, OTHER], [PAGE])
    with running(loader(tiny_model), access=access) as started:
        yield started


def bearer(token: str, scheme: str = "Bearer") -> dict[str, str]:
    return {**PNG, "Authorization": f"{scheme} {token}"}


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("headers", [bearer(TOKEN), bearer(OTHER), bearer(TOKEN, "bearer")])
def test_a_valid_token_is_accepted(guarded: Service, headers: dict[str, str]) -> None:
    assert guarded.analyze(picture(), headers).status == 200
    assert guarded.ask("/version", headers=headers).status == 200
    assert guarded.ask("/metrics", headers=headers).status == 200


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        (PNG, 'Bearer realm="mien"'),
        (bearer(TOKEN, "Basic"), 'Bearer realm="mien"'),
        (bearer(""), 'Bearer realm="mien", error="invalid_token"'),
        (bearer(TOKEN[:-1]), 'Bearer realm="mien", error="invalid_token"'),
        (bearer(f"{TOKEN}x"), 'Bearer realm="mien", error="invalid_token"'),
        (bearer(TOKEN.upper()), 'Bearer realm="mien", error="invalid_token"'),
        (bearer("t\u00f6ken"), 'Bearer realm="mien", error="invalid_token"'),
    ],
)
def test_401_without_a_valid_token(
    guarded: Service, headers: dict[str, str], challenge: str
) -> None:
    for path in ("/v1/analyze", "/v1/nowhere", "/%761/analyze", "/metrics", "/version"):
        reply = guarded.ask(path, picture(), headers, "POST")
        assert (reply.status, reply.json["code"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == challenge
        assert TOKEN not in reply.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json"])
def test_states_and_docs_need_no_token(guarded: Service, path: str) -> None:
    assert guarded.ask(path).status == 200


def test_openapi_marks_paths_that_require_a_token(guarded: Service, service: Service) -> None:
    described = guarded.ask("/openapi.json").json
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    wants = {
        path
        for path, operations in described["paths"].items()
        if all("security" in operation for operation in operations.values())
    }
    assert wants == {"/v1/analyze", "/v1/stream", "/v1/video", "/version", "/metrics"}
    assert "securitySchemes" not in service.ask("/openapi.json").json["components"]


def test_a_token_file_has_one_token_per_line() -> None:
    text = f"# of the web page\n{TOKEN}\n\n  {OTHER}  \r\n#{TOKEN}x\n"
    assert parse_tokens(text) == [TOKEN, OTHER]
    assert len(Access.of([TOKEN, OTHER, TOKEN]).digests) == 2
    assert TOKEN not in repr(Access.of([TOKEN]))


@pytest.mark.parametrize("token", ["short", "with a blank in it", "x" * 513, "schlüssel-schlüssel"])
def test_invalid_tokens_are_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(UsageError, match="16 to 512 letters") as caught:
        Access.of([token])
    assert token not in str(caught.value)


# ---------------------------------------------------------------- origins


def test_an_allowed_origin_can_read_every_answer(guarded: Service) -> None:
    for headers, status in (({**bearer(TOKEN), "Origin": PAGE}, 200), ({"Origin": PAGE}, 401)):
        reply = guarded.analyze(picture(), headers)
        assert reply.status == status
        assert reply.headers["access-control-allow-origin"] == PAGE
        assert "Origin" in reply.headers["vary"]
        assert "X-Request-ID" in reply.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize(
    "origin",
    ["https://page.example.evil", "http://page.example", "https://page.example:444", "null"],
)
def test_other_origins_cannot_read_answers(guarded: Service, origin: str) -> None:
    reply = guarded.analyze(picture(), {**bearer(TOKEN), "Origin": origin})
    assert "access-control-allow-origin" not in reply.headers
    answer = guarded.ask("/v1/analyze", headers=preflight(origin), method="OPTIONS")
    assert answer.status == 400
    assert answer.json["code"] == "malformed"
    assert "origin" in answer.json["error"]
    assert "access-control-allow-origin" not in answer.headers


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization, content-type",
    }


def test_preflight_requests_need_no_token(guarded: Service) -> None:
    reply = guarded.ask("/v1/analyze", headers=preflight(PAGE), method="OPTIONS")
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert {"authorization", "content-type"} <= {
        each.strip().lower() for each in reply.headers["access-control-allow-headers"].split(",")
    }
    refused = guarded.ask("/v1/analyze", headers=preflight(PAGE, "DELETE"), method="OPTIONS")
    assert refused.status == 400


def test_no_origin_is_allowed_by_default(service: Service) -> None:
    reply = service.analyze(picture(), {**PNG, "Origin": PAGE})
    assert reply.status == 200
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert service.ask("/v1/analyze", headers=preflight(PAGE), method="OPTIONS").status == 405


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("https://Example.org", "https://example.org"),
        ("https://example.org/", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_origins_are_normalized(written: str, normal: str) -> None:
    assert normalize_origin(written) == normal


@pytest.mark.parametrize(
    "written",
    ["*", "", "null", "example.org", "https://", "https://*.example.org", "https://a.b/path",
     "https://user@a.b", "https://a.b:no", "ftp://a.b", "https://a.b?c"],
)  # fmt: skip
def test_invalid_origins_are_refused(written: str) -> None:
    with pytest.raises(UsageError, match=r"^expected an origin such as .* got "):
        normalize_origin(written)


# ---------------------------------------------------------------- ids


def test_each_answer_has_its_own_request_id(service: Service) -> None:
    ids = [service.ask("/healthz").headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [
        ("trace-1.of_2", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("with blank", False),
        ("a\x80b", False),
        ("<script>", False),
    ],
)
def test_a_valid_request_id_of_the_client_is_kept(
    service: Service, given: str, is_taken: bool
) -> None:
    reply = service.analyze(b"no image", {**PNG, "X-Request-ID": given})
    assert (reply.headers["x-request-id"] == given) is is_taken
    assert reply.json["request_id"] == reply.headers["x-request-id"]


def test_a_path_cannot_imitate_other_fields_of_the_access_log(tiny_model: Path) -> None:
    lines: list[str] = []
    with running(loader(tiny_model), on_request=lambda request: lines.append(str(request))) as here:
        here.ask("/%20200%201%20ms%20me%0a%1b[2J%e2%80%ae")
    logged = next(line for line in lines if "%20200" in line)
    assert len(logged.split(" ")) == 7
    assert logged.isascii()
    assert logged.isprintable()


def test_failures_are_logged_with_the_request_id(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answered: list[object] = []
    with running(loader(tiny_model), on_request=answered.append) as service:
        service.app.state.service.recognizer.find = None
        reply = service.analyze(picture(), {**PNG, "X-Request-ID": "the-one"})
    assert (reply.status, reply.json["request_id"]) == (500, "the-one")
    assert "(request the-one)" in caplog.text
    assert any(str(each).endswith(" ms the-one") for each in answered)
