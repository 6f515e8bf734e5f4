"""Views of all training images, each epoch its own, drawn by other processes while the GPU trains.

They are those of `mien.training.transforms`, to the bit.
"""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import Future, ProcessPoolExecutor

from mien.training.data import BatchSource
from mien.training.recipe import Config
from mien.training.transforms import CHUNK, AugmentedDataset, View

_dataset: AugmentedDataset
"""Of a process that draws, as is its recipe."""
_config: Config


class ViewMaker:
    """Makes each epoch's view, and begins the next one meanwhile."""

    def __init__(self, source: BatchSource, config: Config, *, workers: int) -> None:
        """Start the processes that draw; with 0 workers, this one does."""
        self._source, self._config, self._workers = source, config, workers
        self._coming: dict[int, list[Future[AugmentedDataset]]] = {}
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            spawn = multiprocessing.get_context("spawn")
            given = (source.dataset, config)
            self._pool = ProcessPoolExecutor(workers, spawn, initializer=_begin, initargs=given)

    def epoch(self, epoch: int) -> AugmentedDataset:
        """Return all images as an epoch shows them, in its order."""
        for each in range(epoch, min(epoch + 2, self._config.total_epochs)):
            if self._pool is not None and each not in self._coming:
                self._coming[each] = [
                    self._pool.submit(_draw, self._view(each), part) for part in self._parts()
                ]
        parts = [future.result() for future in self._coming.pop(epoch, ())]
        whole = self._source.dataset.render_view(self._config, self._view(epoch), parts)
        return whole.take(self._source.order(epoch))

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _view(self, epoch: int) -> View:
        return View(epoch, self._config.is_mixed(epoch))

    def _parts(self) -> list[range]:
        chunks = -(-len(self._source.dataset.images) // CHUNK)
        each = -(-chunks // self._workers)
        return [range(start, min(start + each, chunks)) for start in range(0, chunks, each)]


def _begin(dataset: AugmentedDataset, config: Config) -> None:
    global _dataset, _config
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that trains decides what is still drawn
    _dataset, _config = dataset, config


def _draw(view: View, numbers: range) -> AugmentedDataset:
    return AugmentedDataset.concatenate(list(_dataset.render_chunks(_config, view, numbers)))
