"""Two layers that TensorFlow trains faster on a processor, with the same results.

Keras' BatchNorm is a dozen operations on the whole feature map, where TensorFlow has a fused one;
and the gradient of a depthwise kernel on a small map is computed tap by tap, where one matrix
product a channel does. Results differ in the last digits; saved networks hold Keras' own layers.
``benchmarks/training_speed.py --plain-layers`` measures the gain.

Keras and TensorFlow are imported at once here: only `mien.training.model` imports this module,
where both are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow

_LARGEST_PRODUCT = 4096
"""Of the pixels before and after a depthwise convolution: up to here the product is faster."""


def with_fast_layers(model: Any) -> Any:
    """Return a copy of a functional Keras network in which some layers train faster.

    Where a GPU is, the network itself comes back: it has fast kernels of its own.
    """
    if tensorflow.config.list_physical_devices("GPU"):
        return model

    def fast(layer: Any) -> Any:
        kind = type(layer)
        if kind is keras.layers.BatchNormalization and _is_plain_norm(layer):
            kind = FusedBatchNormalization
        elif kind is keras.layers.DepthwiseConv2D and _is_slow_depthwise(layer):
            kind = MatmulDepthwiseConv2D
        config = layer.get_config()
        if kind is keras.layers.Dropout and layer.rate == 0 and hasattr(layer, "seed_generator"):
            config["rate"] = 0.5  # made with 0, it would have no generator
        copy = kind.from_config(config)
        if kind is keras.layers.Dropout:
            copy.rate = layer.rate
        return copy

    copy = keras.models.clone_model(model, clone_function=fast)
    for old, new in zip(model.variables, copy.variables, strict=True):
        new.assign(old.value)
    return copy


# ---------------------------------------------------------------- BatchNorm
class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """BatchNorm over channels that are last, as one operation while it trains."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        """Normalise (N, H, W, C); while training, by the batch's own statistics."""
        if not training or not self.trainable or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = tensorflow.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value, self.beta.value, epsilon=self.epsilon
        )
        # It estimates the variance of all images there are; Keras keeps that of the batch.
        count = tensorflow.cast(tensorflow.size(inputs) // inputs.shape[-1], mean.dtype)
        variance = variance * (count - 1) / count
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average.value * self.momentum + value * (1.0 - self.momentum))
        return outputs


def _is_plain_norm(layer: Any) -> bool:
    return bool(
        layer.axis in (-1, 3)
        and len(layer.output.shape) == 4
        and layer.scale
        and layer.center
        and not layer.renorm
        and not layer.synchronized
    )


# ---------------------------------------------------------------- depthwise convolution
class MatmulDepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """Depthwise convolution of a small square map; its kernel's gradient is a matrix product."""

    def build(self, input_shape: Any) -> None:
        """Make the kernel, and the operation for maps of this size."""
        super().build(input_shape)
        sides = input_shape[1], self.kernel_size[0], self.strides[0]
        self._convolve = _convolution(*sides, self.padding)

    def call(self, inputs: Any) -> Any:
        """Convolve (N, H, W, C)."""
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
        and (height * rows) ** 2 <= _LARGEST_PRODUCT
        # Kernels of 3x3 have a fast gradient of their own, but for the smallest maps.
        and (kernel > 3 or height <= kernel - 1)
    )


def _convolution(size: int, kernel: int, stride: int, padding: str) -> Any:
    """Return the convolution of maps of ``size`` pixels a side by a kernel (K, K, C, 1)."""
    same = padding == "same"
    outputs = -(-size // stride) if same else (size - kernel) // stride + 1
    before = max((outputs - 1) * stride + kernel - size, 0) // 2 if same else 0
    places = tap_places(size, outputs, kernel=kernel, stride=stride, before=before)
    places = places.reshape(-1, kernel**2)
    options = {"strides": [1, stride, stride, 1], "padding": padding.upper()}
    transpose, reshape = tensorflow.transpose, tensorflow.reshape

    @tensorflow.custom_gradient  # type: ignore[untyped-decorator]
    def convolve(inputs: Any, taps: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            of_inputs = tensorflow.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tensorflow.shape(inputs), filter=taps, out_backprop=upstream, **options
            )
            channels = inputs.shape[-1]
            seen = transpose(reshape(inputs, [-1, size**2, channels]), [2, 1, 0])
            came = transpose(reshape(upstream, [-1, outputs**2, channels]), [2, 0, 1])
            pairs = reshape(tensorflow.matmul(seen, came), [channels, -1])
            of_taps = transpose(tensorflow.matmul(pairs, tensorflow.cast(places, pairs.dtype)))
            return of_inputs, reshape(of_taps, [kernel, kernel, channels, 1])

        return tensorflow.nn.depthwise_conv2d(inputs, taps, **options), gradient

    return convolve


def tap_places(
    size: int, outputs: int, *, kernel: int, stride: int, before: int
) -> npt.NDArray[np.float32]:
    """Return which tap of a kernel brings which pixel of a square map to which output.

    float32 (size², outputs², kernel²), of 0 and 1, from the sides of the map, its output and the
    kernel; ``before`` is the padding before the first pixel.
    """
    pixels, places, taps = np.arange(size), np.arange(outputs), np.arange(kernel)
    along = pixels[:, None, None] == places[None, :, None] * stride + taps - before
    both = along[:, None, :, None, :, None] & along[None, :, None, :, None, :]
    return np.asarray(both.reshape(size**2, outputs**2, kernel**2), np.float32)
