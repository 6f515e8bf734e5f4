"""AdamW with a learning rate for each variable, so that early blocks can be trained gently.

Keras is imported at once here: only `mien.training.stages` imports this module, where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mien.training.lite0 import backbone_layers
from mien.training.model import STEM, TOP, layer_blocks


def rate_factors(model: Any, variables: Sequence[Any], *, decay: float) -> list[float]:
    """Return what the learning rate of each variable is multiplied with.

    Args:
        model: the network.
        variables: of it, or of heads beside its own.
        decay: from one block to the one before it; the last block, what follows it and all heads
            keep the whole rate, the stem is a block before the first.
    """
    layers = backbone_layers(model)
    blocks = layer_blocks(layers)
    order = [STEM, *(name for name in dict.fromkeys(blocks) if name not in (STEM, TOP))]
    powers = {name: len(order) - 1 - index for index, name in enumerate(order)}
    factors = {
        id(variable): decay ** powers.get(block, 0)
        for layer, block in zip(layers, blocks, strict=True)
        for variable in layer.trainable_variables
    }
    return [factors.get(id(variable), 1.0) for variable in variables]


class LayerwiseAdamW(keras.optimizers.Adam):  # type: ignore[misc]
    """AdamW (Loshchilov & Hutter 2017, 1711.05101) whose rate is scaled for each variable.

    It holds no more variables than Keras' AdamW, so checkpoints are as they were.
    """

    def __init__(
        self, *, factors: Sequence[float], decays: Sequence[float], **options: Any
    ) -> None:
        """Take what is known of each variable, in the order in which it will be built.

        Args:
            factors: what the learning rate of each is multiplied with.
            decays: the weight decay of each, 0 for none.
            options: of ``keras.optimizers.Adam``.
        """
        super().__init__(**options)
        self._factors = tuple(factors)
        self._decays = tuple(decays)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Shrink a variable by its decay, then move it as Adam does, both at its own rate."""
        index = self._get_variable_index(variable)
        rate = learning_rate * self._factors[index]
        if self._decays[index]:
            shrunk = keras.ops.cast(rate * self._decays[index], variable.dtype)
            self.assign_sub(variable, variable * shrunk)
        super().update_step(gradient, variable, rate)
