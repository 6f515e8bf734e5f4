"""Augmented views of all training images, rendered by other processes while the GPU trains.

They are bit for bit those of `mien.training.transforms`, a new one for each epoch.
"""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import Future, ProcessPoolExecutor

from mien.training.data import BatchSource
from mien.training.recipe import Config
from mien.training.transforms import CHUNK, AugmentedDataset, View

# Set in the processes that render.
_dataset: AugmentedDataset
_config: Config


class ViewMaker:
    """Renders the view of each epoch, and the next one ahead of time.

    Args:
        source: the training images.
        config: the recipe.
        workers: processes that render; with 0, this one does.
    """

    def __init__(self, source: BatchSource, config: Config, *, workers: int) -> None:
        self._source, self._config, self._workers = source, config, workers
        self._pending: dict[int, list[Future[AugmentedDataset]]] = {}
        self._pool: ProcessPoolExecutor | None = None
        if workers:
            spawn = multiprocessing.get_context("spawn")
            arguments = (source.dataset, config)
            self._pool = ProcessPoolExecutor(
                workers, spawn, initializer=_initialise, initargs=arguments
            )

    def epoch(self, epoch: int) -> AugmentedDataset:
        """Return all images as an epoch shows them, in the order of the epoch."""
        for number in range(epoch, min(epoch + 2, self._config.total_epochs)):
            if self._pool is not None and number not in self._pending:
                self._pending[number] = [
                    self._pool.submit(_render, self._view(number), part) for part in self._parts()
                ]
        chunks = [future.result() for future in self._pending.pop(epoch, ())]
        view = self._source.dataset.render_view(self._config, self._view(epoch), chunks)
        return view.take(self._source.order(epoch))

    def close(self) -> None:
        """Stop the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _view(self, epoch: int) -> View:
        return View(epoch, self._config.is_mixed(epoch))

    def _parts(self) -> list[range]:
        chunks = -(-len(self._source.dataset.images) // CHUNK)
        size = -(-chunks // self._workers)
        return [range(start, min(start + size, chunks)) for start in range(0, chunks, size)]


def _initialise(dataset: AugmentedDataset, config: Config) -> None:
    global _dataset, _config
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process decides when to stop
    _dataset, _config = dataset, config


def _render(view: View, numbers: range) -> AugmentedDataset:
    return AugmentedDataset.concatenate(list(_dataset.render_chunks(_config, view, numbers)))
