"""SGD as PyTorch has it: weight decay in the gradient, on kernels, and a rate outside the momentum.

Keras' own folds the learning rate into the momentum, so that a step after the rate has changed
still moves by old rates; and it decays weights apart from the gradient.

Keras is imported at once here: only `mien.training.stages` imports this module, where it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

MOMENTUM = 0.9


class CoupledSgd(keras.optimizers.SGD):  # type: ignore[misc]
    """SGD with Nesterov's momentum: v = 0.9 v + g and w = w - rate (g + 0.9 v).

    In which g is the gradient, clipped if the recipe says so, plus the variable's decay times w.
    """

    def __init__(self, *, decays: Sequence[float], **options: Any) -> None:
        """Take the weight decay of each variable, in the order in which it will be built.

        Args:
            decays: 0 for none.
            options: of ``keras.optimizers.SGD``.
        """
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
