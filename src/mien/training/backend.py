"""Choosing and setting up Keras' backend, before Keras is imported for the first time."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable

from mien.core.errors import MissingExtra, UsageError
from mien.training.config import TrainingSettings


def prepare_backend(settings: TrainingSettings) -> None:
    """Make Keras run on the backend, with the threads, precision and seed that a recipe names.

    Raises:
        MissingExtra: if Keras or the backend is not installed.
        UsageError: if Keras already runs on another backend in this process.
    """
    for package in ("keras", settings.backend):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("train", f"training with {settings.backend}")
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.backend.backend() != settings.backend:
        raise UsageError(
            f"training.backend = {settings.backend!r}, but Keras already runs on "
            f"{loaded.backend.backend()}: start a new process"
        )
    os.environ["KERAS_BACKEND"] = settings.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _SETUPS[settings.backend](settings.threads)
    import keras

    keras.config.set_dtype_policy(settings.precision)
    keras.utils.set_random_seed(settings.seed)


def _setup_tensorflow(threads: int) -> None:
    import tensorflow

    try:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1 if threads == 1 else 0)
    except RuntimeError as error:  # TensorFlow fixes its threads at the first operation
        if tensorflow.config.threading.get_intra_op_parallelism_threads() != threads:
            raise UsageError(
                f"training.threads = {threads} comes too late: TensorFlow already runs"
            ) from error
    tensorflow.config.experimental.enable_op_determinism()


def _setup_torch(threads: int) -> None:
    import torch  # type: ignore[import-not-found]

    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)


def _setup_jax(threads: int) -> None:
    if threads == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")


_SETUPS: dict[str, Callable[[int], None]] = {
    "tensorflow": _setup_tensorflow,
    "torch": _setup_torch,
    "jax": _setup_jax,
}
