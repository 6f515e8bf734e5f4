"""Run by test_parallel.py in processes of its own: one member of a team, noting each step's loss.

Words: folder for what it finds, data, rank, size.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mien.training import sitting, trainer
from mien.training.team import Team
from training_maker import tiny_config

# Four steps of seven: the members' parts are of different sizes.
RECIPE: dict[str, Any] = {
    "training_backend": "torch",
    "training_threads": 1,
    # A high rate makes much of the last digit: Adam takes whole steps along tiny gradients, too.
    "training_learning_rate": 0.002,
    "training_batch_size": 7,
    "training_class_weights": True,
    "training_statistics_batches": 2,
    "training_large_size": 40,
    "training_large_epochs": 1,
    "model_head_dropout": [0.0],
    "model_drop_connect": 0.0,
    "augmentation_mixup": 0.4,
    "augmentation_plain_epochs": 1,
}


def main(folder: Path, data: str, rank: int, size: int) -> None:
    losses: list[float] = []
    step = sitting.Sitting._step

    def noted(run: Any, state: Any, batch: Any) -> float:
        losses.append(step(run, state, batch))
        return losses[-1]

    sitting.Sitting._step = noted  # type: ignore[assignment]
    team = Team() if size == 1 else joined_team(folder, rank, size)
    trainer.train(tiny_config(data, **RECIPE), folder / "run", quiet=True, team=team)
    (folder / f"losses{rank}.json").write_text(json.dumps(losses))


def joined_team(folder: Path, rank: int, size: int) -> Team:
    import torch.distributed as distributed

    from mien.training.backend import prepare_backend

    prepare_backend(tiny_config(**RECIPE).training)
    from mien.training.parallel import TorchTeam

    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    return TorchTeam()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
