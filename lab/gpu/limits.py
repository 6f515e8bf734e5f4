"""What of a recipe training on the device cannot do, said before anything is loaded or written."""

from __future__ import annotations

from mien.core.errors import UsageError
from mien.training.recipe import Config


def check_recipe(config: Config) -> None:
    """Check that a recipe is one that can be trained on the device.

    Raises:
        UsageError: at the first key that it cannot, with what was expected.
    """
    training, distill, mixing = config.training, config.distill, config.augmentation
    rules = {
        "training.head_epochs": (training.head_epochs, training.head_epochs == 0, "0"),
        "training.fine_tune_blocks": (
            training.fine_tune_blocks,
            training.fine_tune_blocks == -1,
            "-1, all of the backbone",
        ),
        "training.layer_decay": (training.layer_decay, training.layer_decay == 1, "1"),
        "training.schedule": (
            training.schedule,
            training.schedule != "plateau",
            '"cosine" or "constant"',
        ),
        "training.early_stopping": (training.early_stopping, training.early_stopping == 0, "0"),
        "training.wise_ft_alpha": (training.wise_ft_alpha, training.wise_ft_alpha == 1, "1"),
        "augmentation.cutmix": (mixing.cutmix, mixing.cutmix == 0, "0, or mixup alone"),
        "distill.views": (
            distill.views,
            distill.views == 0 or distill.views >= config.total_epochs,
            "0, or as many as epochs, for teachers are asked live",
        ),
        "distill.cache": (distill.cache, not distill.cache, "none, for teachers are asked live"),
        "distill.votes": (distill.votes, distill.votes == 0, "0"),
    }
    for key, (value, holds, expected) in rules.items():
        if not holds:
            raise UsageError(
                f"{key} = {value!r} cannot be trained on the device: expected {expected}; "
                "or mien train"
            )
