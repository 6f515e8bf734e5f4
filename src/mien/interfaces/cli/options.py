"""Options that several commands share, so that they mean and default to the same everywhere."""

from __future__ import annotations

import argparse


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
