"""Options that several commands share, so that they mean and default to the same everywhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from mien.interfaces.batch.loading import RecognizerOptions

ENGINES: tuple[str, ...] = ("local", "ray")
"""Where ``--engine`` lets images be read: on this machine, or on a Ray cluster."""


def add_recognizer_options(parser: argparse.ArgumentParser, *, crops: str) -> None:
    """Add ``--model``, ``--detector`` and ``--threads``.

    Args:
        parser: the command's.
        crops: when ``--detector none`` fits, as "where the image is a face crop".
    """
    parser.add_argument(
        "--model",
        default="mien-b0",
        help="a bundled model's name, or a model's folder (%(default)s)",
    )
    parser.add_argument(
        "--detector",
        default="auto",
        help=f"auto, yunet, libface, haar, or none {crops} (%(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the network (all cores)"
    )


def add_detector_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--detector-weights`` and ``--offline``."""
    parser.add_argument(
        "--detector-weights", type=Path, metavar="FILE", help="weights of --detector yunet"
    )
    parser.add_argument(
        "--offline", action="store_true", help="never use the network"
    )


def recognizer_options(args: argparse.Namespace) -> RecognizerOptions:
    """Return what the options of `add_recognizer_options` and `add_detector_options` say."""
    return RecognizerOptions(
        model=args.model,
        detector=args.detector,
        detector_weights=args.detector_weights,
        offline=args.offline,
        threads=args.threads,
    )


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume``, ``--workers``, ``--batch-size``, ``--engine`` and ``--address``."""
    many = parser.add_argument_group("many images")
    many.add_argument(
        "--resume",
        action="store_true",
        help="go on with an --output that was interrupted; start it if it was not",
    )
    many.add_argument(
        "--workers", type=int, metavar="N", help="processes that read images (one a core)"
    )
    many.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="faces that go through the network at once (%(default)s)",
    )
    many.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="local, or ray: over the machines of a Ray cluster (%(default)s)",
    )
    many.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the cluster of --engine ray; without it, one is started on this machine",
    )
