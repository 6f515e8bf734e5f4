"""Cost of data loading and augmentation: whole training steps against bare ones.

    python benchmarks/training_speed.py --config configs/release.toml --data archive

Bare steps train on the same random arrays; whole ones take batches as the trainer does, drawn,
augmented and mixed in the background. Both alternate in one run. ``--plain-layers`` also times
bare steps with Keras' own layers instead of the faster ones (see
`mien.training.keras_extensions`). Results: docs/howto/training.md.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from typing import Any
from unittest import mock

import numpy as np

from mien.training.backend import prepare_backend, seed_step
from mien.training.data import BatchSource, load_training_data
from mien.training.model import compiled_model, step_arrays
from mien.training.recipe import Config, load_config

LIMIT = 1.15


def main() -> None:
    """Measure and print the ratio of each round and their median."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", default="configs/release.toml", help="name or path of the recipe"
    )
    parser.add_argument("--data", required=True, help="the data set, as in mien train")
    parser.add_argument("--steps", type=int, default=40, help="steps of each kind in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain-layers", action="store_true", help="also time Keras' own layers")
    args = parser.parse_args()
    settings = [
        f"data.source={args.data}",
        "model.weights=none",  # the duration of a step does not depend on the weights
        f"training.threads={args.threads}",
    ]
    config = load_config(args.config, settings)
    prepare_backend(config.training)
    data = load_training_data(config, quiet=True)
    source = BatchSource(data, config)
    model = warm_model(config)
    plain = None
    if args.plain_layers:
        with mock.patch("mien.training.keras_extensions.with_fast_layers", lambda model: model):
            plain = warm_model(config)
    ratios, gains = [], []
    for number in range(args.rounds):
        bare = bare_steps(model, config, args.steps)
        whole = whole_steps(model, source, config, epoch=number, count=args.steps)
        ratios.append(whole / bare)
        speed = args.steps * config.training.batch_size
        print(
            f"round {number + 1}   bare {speed / bare:6.1f} img/s   "
            f"whole {speed / whole:6.1f} img/s   ratio {whole / bare:.3f}",
            flush=True,
        )
        if plain is not None:
            gains.append(bare_steps(plain, config, args.steps) / bare)
            print(f"          Keras' own layers {speed / bare / gains[-1]:6.1f} img/s", flush=True)
    ratio = statistics.median(ratios)
    verdict = "kept" if ratio <= LIMIT else "missed"
    print(f"\nmedian ratio {ratio:.3f}: the limit of {LIMIT} is {verdict}")
    if gains:
        print(
            f"bare steps with Keras' own layers take {statistics.median(gains):.2f} times as long"
        )


def warm_model(config: Config) -> Any:
    """Return the compiled network of the fine-tuning phase, traced by its first steps."""
    epoch = config.training.head_epochs
    model = compiled_model(
        config, blocks=config.blocks_at(epoch), size=config.size_at(epoch), initialise=True
    )
    bare_steps(model, config, 3)
    return model


def bare_steps(model: Any, config: Config, count: int) -> float:
    """Return the seconds of steps on random arrays."""
    size, classes = config.training.batch_size, len(config.labels)
    random = np.random.default_rng(0)
    faces = random.uniform(0, 255, (size, 48, 48, 1)).astype(np.float32)
    targets = np.eye(classes, dtype=np.float32)[random.integers(0, classes, size)]
    weights = np.ones(size, np.float32)
    started = time.perf_counter()
    for _ in range(count):
        model.train_on_batch(faces, targets, weights)
    return time.perf_counter() - started


def whole_steps(
    model: Any, source: BatchSource, config: Config, *, epoch: int, count: int
) -> float:
    """Return the seconds of steps that prepare their batches."""
    started = time.perf_counter()
    with contextlib.closing(source.epoch(epoch)) as batches:
        for step, batch in zip(range(count), batches, strict=False):
            seed_step(config.training, epoch, step)
            model.train_on_batch(*step_arrays(batch))
    # The few batches prepared ahead but not used count against the whole steps.
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
