"""The options that several commands share."""

from __future__ import annotations

import argparse
import pickle
from typing import Any

import pytest

from mien.inference import detectors
from mien.inference.detectors.none import NoDetector
from mien.interfaces.batch.loading import RecognizerOptions
from mien.interfaces.cli.main import build_parser
from mien.interfaces.cli.options import recognizer_options


def parsed(*words: str) -> RecognizerOptions:
    args = build_parser().parse_args(words)
    assert isinstance(args, argparse.Namespace)
    return recognizer_options(args)


@pytest.mark.parametrize(
    "words", [("predict", "a.png"), ("explain", "a.png"), ("evaluate", "--pictures", "d")]
)
def test_thorough_search_reaches_the_detector_of_each_worker(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def note_it(name: str, **options: Any) -> NoDetector:
        asked.append((name, options["thorough"]))
        return NoDetector()

    monkeypatch.setattr(detectors, "load_detector", note_it)
    for given, expected in (((), False), (("--thorough",), True)):
        options = parsed(*words, "--detector", "libface", *given)
        assert options.settings()["thorough"] is expected
        # A worker, here or on a Ray cluster, gets the options pickled.
        pickle.loads(pickle.dumps(options)).load_detector()
        assert asked.pop() == ("libface", expected)
