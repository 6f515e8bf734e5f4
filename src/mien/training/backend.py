"""Choose and set up Keras' backend, before Keras is imported for the first time.

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

from mien.core.errors import MissingExtra, UsageError
from mien.core.process import stderr
from mien.training.recipe import BACKENDS, TrainingSettings


def check_installed(settings: TrainingSettings) -> None:
    """Check that all that a run needs up to its end is installed, without importing it.

    Raises:
        MissingExtra: if a package of the extra is not installed.
        UsageError: if it is the backend that the recipe chose instead of TensorFlow.
    """
    package = settings.backend
    of_the_extra = {"keras", "sklearn", "matplotlib", *{package} & {"tensorflow"}}
    if any(importlib.util.find_spec(each) is None for each in of_the_extra):
        raise MissingExtra("train", "training")
    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f'training.backend = "{settings.backend}" needs a package that is not installed: '
            f'pip install {package}, or use "tensorflow"'
        )


def prepare_backend(settings: TrainingSettings) -> None:
    """Set up Keras with a recipe's backend, threads, precision and seed.

    Raises:
        UsageError: if Keras already runs on another backend in this process, or TensorFlow with
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
    with stderr_held_back():
        _set_threads(settings.backend, settings.threads)
        keras = import_keras(settings.precision)
        if settings.backend == "jax":
            _split_over_devices(keras, settings.batch_size)
        # On any backend, Keras imports TensorFlow here if it is installed.
        keras.utils.set_random_seed(settings.seed)


def prepare_keras(preferred: str) -> None:
    """Set up Keras to read and write networks: on this backend, else on one that is installed.

    Raises:
        MissingExtra: if Keras or all of its backends are not installed.
        UsageError: as `import_keras`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    order = sorted(BACKENDS, key=lambda name: name != preferred)
    found = [name for name in order if importlib.util.find_spec(name) is not None]
    if importlib.util.find_spec("keras") is None or not found:
        raise MissingExtra("train", "exporting a network")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or found[0]
    with stderr_held_back():
        import_keras()


def import_keras(precision: str = "float32") -> Any:
    """Import Keras with a dtype policy and the settings used here, whatever ``keras.json`` says.

    Raises:
        UsageError: if it cannot be imported with what that file or ``KERAS_BACKEND`` says.
    """
    try:
        keras: Any = importlib.import_module("keras")
    except Exception as error:  # a wrong value there ends its import in many ways
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(
            f"Keras cannot be imported ({reason}): look at KERAS_BACKEND, and at keras.json in "
            "KERAS_HOME or ~/.keras, which may be deleted"
        ) from error
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy(precision)
    return keras


def seed_step(settings: TrainingSettings, epoch: int, step: int) -> None:
    """Seed torch's dropout for one step; other backends keep its states in checkpoints."""
    if settings.backend == "torch":
        import torch

        key = [settings.seed, epoch, step]
        (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        torch.manual_seed(int(seed))


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


@contextmanager
def stderr_held_back() -> Iterator[None]:
    """Hold back what native code writes to stderr, unless an error follows."""
    stderr().flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _set_threads(backend: str, threads: int) -> None:
    """Set the threads of a backend, 0 for all, and make it deterministic where it can be."""
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
    between = 1 if threads == 1 else 0
    try:
        # Once it runs, TensorFlow refuses even the numbers that it has.
        if threading.get_intra_op_parallelism_threads() != threads:
            threading.set_intra_op_parallelism_threads(threads)
        if threading.get_inter_op_parallelism_threads() != between:
            threading.set_inter_op_parallelism_threads(between)
    except RuntimeError as error:  # TensorFlow fixes its threads at the first operation
        raise UsageError(
            f"training.threads = {threads} comes too late, TensorFlow already runs: "
            "start a new process"
        ) from error
    tensorflow.config.experimental.enable_op_determinism()
    # It warns of each further network that one process traces, such as a teacher.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
