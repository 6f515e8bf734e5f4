"""`mien models`: one line per reading of each model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mien.core.errors import EXIT_DONE, EXIT_MODEL
from mien.core.models import DEFAULT_MODEL, bundled_models
from predict_maker import Mien

ROOT = Path(__file__).resolve().parents[2]
CARDS = {"mien-b0": "MODEL_CARD.md", "mien-nano": "MODEL_CARD_NANO.md"}


def test_bundled_models_are_listed_with_their_figures(mien: Mien) -> None:
    done = mien("models")
    assert (done.code, done.err) == (EXIT_DONE, "")
    header, *lines = done.out.split("\n\n")[0].splitlines()
    names = ["MODEL", "VERSION", "MB", "LABELS", "ACCURACY", "LICENCE", "SHA-256"]
    assert header.split() == names
    assert [line.split()[0] for line in lines if line[0] != " "] == list(bundled_models())
    (default,) = [line for line in lines if " * " in line]
    assert default.split()[0] == DEFAULT_MODEL
    assert "people" in default  # the labels that are used unless others are asked for
    assert "MIT, for research" in default


def test_json_has_the_whole_hash_and_shares(mien: Mien) -> None:
    done = mien("models", "--json")
    assert (done.code, done.json["schema"]) == (EXIT_DONE, "mien-models/1")
    by_name = {model["name"]: model for model in done.json["models"]}
    assert set(by_name) == set(bundled_models())
    for model in by_name.values():
        assert len(model["sha256"]) == 64
        assert model["ms_a_face"] is None
        assert 0.6 < model["accuracy"]["fer2013"] < 0.8
    assert by_name["mien-b0"]["accuracy"]["people"] > 0.85
    for name in ("mien-b0", "mien-nano"):  # as the cards have it, of the network as it is read
        card = (ROOT / CARDS[name]).read_text(encoding="utf-8")
        for reading, images in (("people", "3,168"), ("fer2013", "3,589")):
            shown = f"{by_name[name]['accuracy'][reading]:.2%}".replace("%", " %")
            assert re.search(rf"^\| val, all {images} +\| +no \| +{shown} ", card, re.MULTILINE)
    # Its own figures, not those of the network in 32 bits.
    small, large = (by_name[name]["accuracy"] for name in ("mien-nano-int8", "mien-nano"))
    for reading in ("people", "fer2013"):
        assert 0 < abs(small[reading] - large[reading]) < 0.005


def test_other_models_can_be_timed(mien: Mien, tiny_model: Path) -> None:
    done = mien("models", tiny_model, "--measure", "--json")
    (model,) = done.json["models"]
    assert model["ms_a_face"] > 0
    assert (model["licence"], model["accuracy"]) == (None, {"fer2013": None})
    done = mien("models", tiny_model, "--measure")
    header, line = done.out.split("\n\n")[0].splitlines()
    assert "MS A FACE" in header
    assert line.split()[4:] == ["fer2013", "-", "-", model["sha256"][:12]]
    assert "*" not in done.out


@pytest.mark.parametrize("words", [["nowhere"], ["mien-b0", "nowhere", "--measure"]])
def test_a_missing_model_is_refused(mien: Mien, words: list[str]) -> None:
    mien("models", *words).assert_error(EXIT_MODEL, "nowhere", "mien-b0")
