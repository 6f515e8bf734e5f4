"""A few images at a time: one result each, whatever one of them does to the recognizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from batch_maker import alike
from mien.api import Recognizer, load
from mien.batch.chunks import analyze_chunk, chunked
from mien.batch.listing import Input
from mien.core.errors import ModelError
from mien.core.results import Result


class Fragile(Recognizer):
    """Fails in a way of its own, or in the network's, where an image with a certain name is."""

    def analyze_many(self, images: Any, **options: Any) -> list[Result]:
        for image in images:
            if "poison" in str(image):
                raise ZeroDivisionError("no good")
            if "nan" in str(image):
                raise ModelError("the model gave what is not a number")
        return super().analyze_many(images, **options)


@pytest.fixture
def fragile(tiny_model: Path) -> Fragile:
    whole = load(tiny_model, detector="none")
    return Fragile(whole.classifier, whole.detector)


def inputs(paths: Sequence[str]) -> list[Input]:
    return [Input(path, content=path) for path in paths]


def test_chunks_have_everything_once_in_order() -> None:
    assert list(chunked(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(chunked([])) == []


def test_results_are_those_of_the_recognizer(
    fragile: Fragile, tmp_path: Path, make_pictures: Callable[..., list[str]]
) -> None:
    paths = make_pictures(tmp_path, 5)
    found = analyze_chunk(fragile, inputs(paths), batch_size=2)
    expected = fragile.analyze_many(paths)
    assert alike([one.to_dict() for one in found], [one.to_dict() for one in expected])


def test_an_image_that_breaks_the_recognizer_is_an_error_and_the_others_are_read(
    fragile: Fragile, tmp_path: Path, make_pictures: Callable[..., list[str]]
) -> None:
    first, second = make_pictures(tmp_path, 2)
    found = analyze_chunk(fragile, inputs([first, "poison.png", second]), batch_size=64)
    assert [one.status for one in found] == ["ok", "error", "ok"]
    assert found[1].error == "poison.png: ZeroDivisionError: no good"
    assert found[1].source == "poison.png"


def test_a_network_that_fails_ends_the_run(fragile: Fragile) -> None:
    with pytest.raises(ModelError, match="not a number"):
        analyze_chunk(fragile, inputs(["nan.png"]), batch_size=64)


def test_an_input_with_a_problem_is_unreadable(fragile: Fragile) -> None:
    (found,) = analyze_chunk(fragile, [Input("p.png", problem="p.png is a pipe")], batch_size=64)
    assert (found.status, found.error) == ("unreadable", "p.png is a pipe")


def test_a_huge_file_is_not_read(fragile: Fragile, tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate((1 << 30) + 1)  # no disk is used: there is nothing in it
    (found,) = analyze_chunk(fragile, inputs([str(huge)]), batch_size=64)
    assert found.status == "unreadable"
    assert found.error == f"{huge} is too large: expected at most 1 GiB, got 1,073,741,825 bytes"


def test_a_result_has_its_inputs_name_wherever_it_was_read_from(
    fragile: Fragile, tmp_path: Path
) -> None:
    one = Input("a.png", content=str(tmp_path / "a.png"))
    (found,) = analyze_chunk(fragile, [one], batch_size=64)
    assert (found.source, found.error) == ("a.png", "a.png: no such file")
