"""Selection and set-up of Keras' backend, before Keras is imported for the first time.

On JAX, each step is split over all devices of the machine (data parallelism, `keras.distribution`).
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mien.core.errors import MissingExtra, UsageError, error_reason
from mien.core.process import stderr
from mien.training.recipe import BACKENDS, TrainingSettings


def check_installed(settings: TrainingSettings) -> None:
    """Check that every package a run needs is installed, without importing it.

    Raises:
        MissingExtra: if a package of the extra [train] is not installed.
        UsageError: if the backend is, which the recipe chose instead of TensorFlow.
    """
    backend = settings.backend
    packages = {"keras", "sklearn", "matplotlib", *{backend} & {"tensorflow"}}
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise MissingExtra("train", "training")
    if importlib.util.find_spec(backend) is None:
        raise UsageError(
            f'training.backend = "{backend}" needs a package that is not installed: '
            f'pip install {backend}, or use "tensorflow"'
        )


def prepare_backend(settings: TrainingSettings) -> None:
    """Set up Keras for training: backend, threads, precision and random seed.

    Raises:
        UsageError: if this process already runs Keras on another backend, or TensorFlow with
            another number of threads; if a batch cannot be split evenly over the devices; or as
            `check_installed`.
    """
    check_installed(settings)
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.backend.backend() != settings.backend:
        raise UsageError(
            f"training.backend = {settings.backend!r}, but Keras already runs on "
            f"{loaded.backend.backend()}: start a new process"
        )
    if loaded is None:
        os.environ["KERAS_BACKEND"] = settings.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with silence_native_stderr():
        _set_threads(settings.backend, settings.threads)
        keras = import_keras(settings.precision)
        if settings.backend == "jax":
            _split_over_devices(keras, settings.batch_size)
        # On any backend, this imports TensorFlow if it is installed.
        keras.utils.set_random_seed(settings.seed)


def prepare_keras(preferred: str) -> None:
    """Set up Keras to read and write networks, on the preferred backend or any installed one.

    Raises:
        MissingExtra: if Keras or all of its backends are not installed.
        UsageError: as `import_keras`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    order = sorted(BACKENDS, key=lambda name: name != preferred)
    installed = [name for name in order if importlib.util.find_spec(name) is not None]
    if importlib.util.find_spec("keras") is None or not installed:
        raise MissingExtra("train", "exporting a network")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or installed[0]
    with silence_native_stderr():
        import_keras()


def import_keras(precision: str = "float32") -> Any:
    """Import Keras with a dtype policy and fixed defaults, whatever the user's ``keras.json`` says.

    Raises:
        UsageError: if the import fails because of that file or of ``KERAS_BACKEND``.
    """
    try:
        keras: Any = importlib.import_module("keras")
    except Exception as error:  # an invalid setting there fails in many ways
        raise UsageError(
            f"Keras cannot be imported ({error_reason(error)[:200]}): look at KERAS_BACKEND, "
            "and at keras.json in KERAS_HOME or ~/.keras, which may be deleted"
        ) from error
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy(precision)
    return keras


def seed_step(settings: TrainingSettings, epoch: int, step: int) -> None:
    """Seed torch's dropout for one step; the other backends' generators are in checkpoints."""
    if settings.backend == "torch":
        import torch

        key = [settings.seed, epoch, step]
        (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        torch.manual_seed(int(seed))


@contextmanager
def silence_native_stderr() -> Iterator[None]:
    """Discard what native code writes to stderr, but print it if an exception follows."""
    stderr().flush()
    try:
        saved = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        except BaseException:
            buffer.seek(0)
            os.write(saved, buffer.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _split_over_devices(keras: Any, batch_size: int) -> None:
    devices = keras.distribution.list_devices()
    if len(devices) == 1:
        return
    if batch_size % len(devices):
        raise UsageError(
            f"training.batch_size = {batch_size} is split over {len(devices)} devices: "
            "expected a multiple of that"
        )
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


def _set_threads(backend: str, threads: int) -> None:
    """Set a backend's threads (0 for all) and make it deterministic where it can be."""
    if backend == "tensorflow":
        _set_up_tensorflow(threads)
    elif backend == "torch":
        import torch

        if threads:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
    elif threads == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")


def _set_up_tensorflow(threads: int) -> None:
    import tensorflow

    threading = tensorflow.config.threading
    inter_op = 1 if threads == 1 else 0
    try:
        # Once initialised, TensorFlow refuses to set even the current numbers.
        if threading.get_intra_op_parallelism_threads() != threads:
            threading.set_intra_op_parallelism_threads(threads)
        if threading.get_inter_op_parallelism_threads() != inter_op:
            threading.set_inter_op_parallelism_threads(inter_op)
    except RuntimeError as error:  # TensorFlow fixes its threads at the first operation
        raise UsageError(
            f"training.threads = {threads} comes too late, TensorFlow already runs: "
            "start a new process"
        ) from error
    tensorflow.config.experimental.enable_op_determinism()
    # It warns of each further network that one process traces, such as a teacher.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
