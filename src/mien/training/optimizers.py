"""Two optimizers that Keras lacks, with a weight decay (and a rate) for each variable.

Neither holds more variables than Keras' own. Keras is imported at once here: only
`mien.training.model` imports this module, where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

MOMENTUM = 0.9


class CoupledSgd(keras.optimizers.SGD):  # type: ignore[misc]
    """SGD with Nesterov's momentum as PyTorch has it: v = 0.9 v + g and w = w - rate (g + 0.9 v).

    g is the (clipped) gradient plus the variable's decay times w. Keras' own folds the learning
    rate into the momentum, which then moves by old rates, and decays weights apart.
    """

    def __init__(self, *, decays: Sequence[float], **options: Any) -> None:
        """Take the weight decay of each variable (0 for none), in the order they are built."""
        super().__init__(momentum=MOMENTUM, nesterov=True, **options)
        self._decays = tuple(decays)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Take a step of one variable."""
        index = self._get_variable_index(variable)
        gradient = keras.ops.cast(gradient, variable.dtype)
        if self._decays[index]:
            gradient = gradient + self._decays[index] * variable
        velocity = MOMENTUM * self.momentums[index] + gradient
        self.assign(self.momentums[index], velocity)
        rate = keras.ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, rate * (gradient + MOMENTUM * velocity))


class LayerwiseAdamW(keras.optimizers.Adam):  # type: ignore[misc]
    """AdamW (Loshchilov & Hutter 2017, 1711.05101) with layer-wise learning rate decay."""

    def __init__(
        self, *, factors: Sequence[float], decays: Sequence[float], **options: Any
    ) -> None:
        """Take the rate's factor and the weight decay of each variable, in building order."""
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
