"""Subclasses of Keras' layers and optimizers: faster on a CPU, or missing in Keras.

The layers compute what Keras' own do, up to the last digits, with TensorFlow operations that train
faster: Keras' BatchNorm is a dozen operations on the whole feature map, where TensorFlow has a
fused one; TensorFlow's gradient of a depthwise kernel is slow on small maps, where one matrix
product per channel is fast. Saved networks hold Keras' own layers.
``benchmarks/training_speed.py --plain-layers`` measures the gain.

This module imports Keras at once, so it is imported only where the backend has been set up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt


# ---------------------------------------------------------------- optimizers
class CoupledSgd(keras.optimizers.SGD):  # type: ignore[misc]
    """SGD with Nesterov momentum as in PyTorch: v = 0.9 v + g and w = w - rate (g + 0.9 v).

    g is the (clipped) gradient plus weight decay times w. Keras' SGD folds the learning rate into
    the momentum, so that old rates linger, and applies weight decay separately.

    Args:
        decays: weight decay of each variable (0 for none), in the order they are built.
        options: as for ``keras.optimizers.SGD``.
    """

    MOMENTUM = 0.9

    def __init__(self, *, decays: Sequence[float], **options: Any) -> None:
        super().__init__(momentum=self.MOMENTUM, nesterov=True, **options)
        self._decays = tuple(decays)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        index = self._get_variable_index(variable)
        gradient = keras.ops.cast(gradient, variable.dtype)
        if self._decays[index]:
            gradient = gradient + self._decays[index] * variable
        velocity = self.MOMENTUM * self.momentums[index] + gradient
        self.assign(self.momentums[index], velocity)
        rate = keras.ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, rate * (gradient + self.MOMENTUM * velocity))


class LayerwiseAdamW(keras.optimizers.Adam):  # type: ignore[misc]
    """AdamW (Loshchilov & Hutter 2017, 1711.05101) with layer-wise learning rate decay.

    Args:
        factors: factor of each variable's learning rate, in the order they are built.
        decays: weight decay of each variable, in the same order.
        options: as for ``keras.optimizers.Adam``.
    """

    def __init__(
        self, *, factors: Sequence[float], decays: Sequence[float], **options: Any
    ) -> None:
        super().__init__(**options)
        self._factors = tuple(factors)
        self._decays = tuple(decays)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable: weight decay, then Adam's step, both at its own rate."""
        index = self._get_variable_index(variable)
        rate = learning_rate * self._factors[index]
        if self._decays[index]:
            shrinkage = keras.ops.cast(rate * self._decays[index], variable.dtype)
            self.assign_sub(variable, variable * shrinkage)
        super().update_step(gradient, variable, rate)


# ---------------------------------------------------------------- layers
_MAX_PIXEL_PAIRS = 4096
"""Input times output pixels of a depthwise convolution, up to which the product is faster."""


def with_fast_layers(model: Any) -> Any:
    """Return a copy of a functional Keras network with the faster layers, on TensorFlow.

    On a GPU, which has fast kernels for all of them, the network itself is returned.
    """
    import tensorflow

    if tensorflow.config.list_physical_devices("GPU"):
        return model

    def replacement(layer: Any) -> Any:
        layer_class = type(layer)
        if layer_class is keras.layers.BatchNormalization and _is_plain_batch_norm(layer):
            layer_class = FusedBatchNormalization
        elif layer_class is keras.layers.DepthwiseConv2D and _is_slow_depthwise(layer):
            layer_class = MatmulDepthwiseConv2D
        config = layer.get_config()
        if (
            layer_class is keras.layers.Dropout
            and layer.rate == 0
            and hasattr(layer, "seed_generator")
        ):
            config["rate"] = 0.5  # created with 0, it would have no seed generator
        copy = layer_class.from_config(config)
        if layer_class is keras.layers.Dropout:
            copy.rate = layer.rate
        return copy

    copy = keras.models.clone_model(model, clone_function=replacement)
    for source, target in zip(model.variables, copy.variables, strict=True):
        target.assign(source.value)
    return copy


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """BatchNorm over the last axis that trains with TensorFlow's fused operation."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Normalise (N, H, W, C), in training by the statistics of the batch."""
        import tensorflow

        if not training or not self.trainable or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tensorflow.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon
        )
        # TensorFlow returns the unbiased variance; Keras averages the biased one.
        count = tensorflow.cast(tensorflow.size(inputs) // inputs.shape[-1], mean.dtype)
        variance = variance * (count - 1) / count
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average.value * self.momentum + value * (1.0 - self.momentum))
        return outputs


def _is_plain_batch_norm(layer: Any) -> bool:
    return bool(
        layer.axis in (-1, 3)
        and len(layer.output.shape) == 4
        and layer.scale
        and layer.center
        and not layer.renorm
        and not layer.synchronized
    )


class MatmulDepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """Depthwise convolution of a small square map; the kernel's gradient is a matrix product."""

    def build(self, input_shape: Any) -> None:
        """Create the kernel, and the operation for maps of this size."""
        super().build(input_shape)
        sides = input_shape[1], self.kernel_size[0], self.strides[0]
        self._convolve = _convolution(*sides, self.padding)

    def call(self, inputs: Any) -> Any:
        """Convolve (N, H, W, C)."""
        import tensorflow

        return self._convolve(inputs, tensorflow.convert_to_tensor(self.kernel))


def _is_slow_depthwise(layer: Any) -> bool:
    (_, height, width, _), (_, rows, columns, _) = layer.input.shape, layer.output.shape
    kernel = layer.kernel_size[0]
    return bool(
        not layer.use_bias
        and layer.depth_multiplier == 1
        and layer.data_format == "channels_last"
        and tuple(layer.dilation_rate) == (1, 1)
        and len({*layer.kernel_size}) == len({*layer.strides}) == 1
        and getattr(layer.activation, "__name__", "") == "linear"
        and height == width
        and rows == columns
        and (height * rows) ** 2 <= _MAX_PIXEL_PAIRS
        # TensorFlow has a fast gradient of 3x3 kernels, except on the smallest maps.
        and (kernel > 3 or height <= kernel - 1)
    )


def _convolution(size: int, kernel: int, stride: int, padding: str) -> Any:
    """Return the convolution of (N, size, size, C) maps with a kernel (K, K, C, 1)."""
    import tensorflow

    same = padding == "same"
    outputs = -(-size // stride) if same else (size - kernel) // stride + 1
    before = max((outputs - 1) * stride + kernel - size, 0) // 2 if same else 0
    positions = tap_positions(size, outputs, kernel=kernel, stride=stride, before=before)
    positions = positions.reshape(-1, kernel**2)
    options = {"strides": [1, stride, stride, 1], "padding": padding.upper()}
    transpose, reshape = tensorflow.transpose, tensorflow.reshape

    @tensorflow.custom_gradient  # type: ignore[untyped-decorator]
    def convolve(inputs: Any, taps: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            input_gradient = tensorflow.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tensorflow.shape(inputs), filter=taps, out_backprop=upstream, **options
            )
            channels = inputs.shape[-1]
            # For each channel, the product of every input pixel with every output gradient, summed
            # over the batch (size², outputs²); then the sum of the pairs that each tap connects.
            pixels = transpose(reshape(inputs, [-1, size**2, channels]), [2, 1, 0])
            gradients = transpose(reshape(upstream, [-1, outputs**2, channels]), [2, 0, 1])
            pairs = reshape(tensorflow.matmul(pixels, gradients), [channels, -1])
            per_tap = tensorflow.matmul(pairs, tensorflow.cast(positions, pairs.dtype))
            return input_gradient, reshape(transpose(per_tap), [kernel, kernel, channels, 1])

        return tensorflow.nn.depthwise_conv2d(inputs, taps, **options), gradient

    return convolve


def tap_positions(
    size: int, outputs: int, *, kernel: int, stride: int, before: int
) -> npt.NDArray[np.float32]:
    """Return which tap of a kernel connects which input pixel with which output pixel.

    Args:
        size: side of the square input map.
        outputs: side of the output map.
        kernel: side of the kernel.
        stride: stride of the convolution.
        before: padding before the first pixel.

    Returns:
        float32 (size², outputs², kernel²) of 0 and 1.
    """
    pixels, places, taps = np.arange(size), np.arange(outputs), np.arange(kernel)
    along = pixels[:, None, None] == places[None, :, None] * stride + taps - before
    both = along[:, None, :, None, :, None] & along[None, :, None, :, None, :]
    return np.asarray(both.reshape(size**2, outputs**2, kernel**2), np.float32)
