"""`POST /v1/analyze`: both ways to send an image, and the answer of `mien predict`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from detector_maker import BrightSpots
from mien.batch.inputs import RecognizerOptions
from mien.cli.main import main
from service_maker import END, FORM, PNG, Service, form, loader, picture, running

pytest.importorskip("fastapi")


def predicted(path: Path, capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """The JSON of `mien predict --format json` without the source."""
    capsys.readouterr()
    main(["predict", str(path), "--format", "json", *map(str, words)])
    return without_source(json.loads(capsys.readouterr().out))


def without_source(result: Any) -> Any:
    return {**result, "source": None}


def test_form_and_raw_body_return_the_json_of_predict(
    service: Service, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    expected = predicted(path, capsys, "--model", tiny_model, "--detector", "none")
    sent_raw = service.analyze(picture())
    sent_in_form = service.analyze(form(picture()) + END, FORM)
    assert sent_raw.status == sent_in_form.status == 200
    assert sent_raw.headers["content-type"] == "application/json"
    assert sent_raw.text.endswith("}\n")
    assert sent_raw.json == expected
    assert list(sent_raw.json) == list(expected)
    assert list(sent_raw.json["faces"][0]["scores"]) == list(expected["faces"][0]["scores"])
    assert sent_in_form.json == {**expected, "source": "a.png"}


def test_answers_match_the_openapi_models(service: Service) -> None:
    from mien.service import openapi

    assert openapi.Result.model_validate(service.analyze(picture()).json).status == "ok"
    assert openapi.Error.model_validate(service.analyze(b"").json).code == "malformed"
    assert openapi.Version.model_validate(service.ask("/version").json).detector == "none"


@pytest.mark.parametrize(
    ("sent", "source"),
    [
        ("photo.jpg", "photo.jpg"),
        ("größe.png", "größe.png"),
        ("/etc/passwd", "passwd"),
        ("../../up.png", "up.png"),
        ("C:\\\\pictures\\\\me.png", "me.png"),
        ("x" * 300, "x" * 255),
        ("folder/", None),
        ("", None),
    ],
)
def test_source_is_the_file_name_without_folders(
    service: Service, sent: str, source: str | None
) -> None:
    assert service.analyze(form(picture(), name=sent) + END, FORM).json["source"] == source


@pytest.mark.parametrize("kind", ["application/octet-stream", "", "image/whatever"])
def test_a_form_file_may_have_a_generic_type(service: Service, kind: str) -> None:
    assert service.analyze(form(picture(), kind=kind) + END, FORM).status == 200


def test_images_are_not_written_to_disk(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def rollover(_: object) -> None:
        pytest.fail("a form is written to a file")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    content = picture(size=(1500, 1200))
    assert len(content) > 5_000_000
    assert service.analyze(form(content) + END, FORM).status == 200


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "ICO"])
def test_the_format_is_detected_from_the_content(service: Service, kind: str) -> None:
    reply = service.analyze(picture(kind=kind), {"Content-Type": "image/jpeg"})
    assert reply.status == 200
    assert reply.json["status"] == "ok"


@pytest.mark.parametrize(
    "kind", ["image/PNG", "image/png; a=b", "image/jpg", "image/x-ms-bmp", "image/webp"]
)
def test_aliases_of_image_types_are_accepted(service: Service, kind: str) -> None:
    assert service.analyze(picture(), {"Content-Type": kind}).status == 200


@pytest.mark.parametrize("headers", [PNG, FORM])
def test_chunked_bodies_are_accepted(service: Service, headers: dict[str, str]) -> None:
    body = picture() if headers is PNG else form(picture()) + END
    # One byte at a time: no border of a chunk falls together with one of the form's by chance.
    reply = service.analyze((body[at : at + 1] for at in range(len(body))), headers)
    assert without_source(reply.json) == service.analyze(picture()).json


def test_an_image_without_faces_is_200_no_face(tiny_model: Path) -> None:
    with running(loader(tiny_model, BrightSpots())) as service:
        reply = service.analyze(picture(size=(1, 1)))
    assert (reply.status, reply.json["status"], reply.json["faces"]) == (200, "no_face", [])


def test_a_model_with_its_own_classes(make_tiny_model: Callable[..., Path]) -> None:
    labels = ("bored", "curious", "delighted")
    options = RecognizerOptions(
        str(make_tiny_model("own", labels=labels)), detector="none", threads=1
    )
    with running(options.load) as service:
        (face,) = service.analyze(picture()).json["faces"]
        assert service.ask("/version").json["labels"] == list(labels)
        assert service.metric(f'mien_faces_total{{emotion="{face["emotion"]}"}}') == 1
    assert tuple(face["scores"]) == labels


def test_concurrent_requests_get_the_same_answers_as_single_ones(service: Service) -> None:
    pictures = [picture(seed) for seed in range(4)]
    alone = [service.analyze(each).json for each in pictures]
    assert len({each["faces"][0]["confidence"] for each in alone}) == len(alone)
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(service.analyze, 6 * pictures))
    assert [reply.json for reply in together] == 6 * alone


def test_photos_get_the_results_of_predict(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [shared / "photos" / f"{name}.jpg" for name in ("group_five", "no_face")]
    expected = [predicted(photo, capsys, "--threads", 1) for photo in photos]
    with running(RecognizerOptions("mien-b0", threads=1).load) as service:
        found = [
            service.analyze(photo.read_bytes(), {"Content-Type": "image/jpeg"}).json
            for photo in photos
        ]
    assert found == expected
    assert [len(each["faces"]) for each in found] == [5, 0]
