"""Where images are read: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import argparse
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Protocol

from mien.batch.listing import Input
from mien.batch.loading import RecognizerOptions
from mien.core.errors import UsageError
from mien.core.results import Result

if TYPE_CHECKING:
    from mien.inference.recognizer import Recognizer


class Engine(Protocol):
    """Reads images somewhere; one result each."""

    def __call__(
        self, inputs: Iterable[Input], *, in_order: bool = True, careful: bool = False
    ) -> Generator[Result, None, None]:
        """Yield the results; inputs are taken as they are needed.

        Args:
            inputs: the images.
            in_order: whatever happens; otherwise an image that takes seconds may come after others
                that have been read meanwhile.
            careful: one of the first images may have ended an earlier run.
        """


def make_engine(
    args: argparse.Namespace, source: RecognizerOptions, recognizer: Recognizer
) -> Engine:
    """Return the engine that the command line's ``--engine``, ``--workers``, ... ask for.

    Args:
        args: with ``engine``, ``address``, ``workers``, ``batch_size`` and ``timeout``.
        source: what each worker loads its recognizer from.
        recognizer: the same, loaded in this process.

    Raises:
        UsageError: if an option's value cannot be used, or does not go with another.
        MissingExtra: if Ray is asked for and not installed.
    """
    if args.engine == "ray":
        from mien.batch.ray_engine import RayEngine

        return RayEngine(
            source.absolute(),
            recognizer,
            address=args.address,
            workers=args.workers,
            batch_size=args.batch_size,
            timeout=args.timeout,
        )
    if args.address is not None:
        raise UsageError("--address is that of a Ray cluster: add --engine ray")
    from mien.batch.local import LocalEngine

    return LocalEngine(
        source,
        recognizer,
        workers=args.workers,
        batch_size=args.batch_size,
        timeout=args.timeout,
    )
