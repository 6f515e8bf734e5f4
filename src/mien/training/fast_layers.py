"""Two layers computed faster, to the same numbers, where TensorFlow runs on a processor.

Keras takes BatchNorm apart into a dozen operations, each of which reads and writes the whole
feature map; TensorFlow has one for all of them. And the gradient of a depthwise kernel on a small
feature map is computed tap by tap, where one product of matrices a channel does. Neither changes
what is learnt or kept, but for the last digits; a network that is saved knows nothing of them.
``benchmarks/training_speed.py --plain-layers`` measures what they bring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_LARGEST_PRODUCT = 4096
"""Of the pixels before and after a depthwise convolution: up to here the product is faster."""


def speed_up(model: Any) -> None:
    """Have a network's layers computed the faster way, those for which there is one.

    Args:
        model: a built Keras network on the TensorFlow backend. Where a GPU is, nothing changes:
            it has fast kernels of its own.
    """
    import tensorflow

    if tensorflow.config.list_physical_devices("GPU"):
        return
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "BatchNormalization" and _is_plain_norm(layer):
            layer.call = _fused_norm(layer)
        elif kind == "DepthwiseConv2D" and _is_plain_depthwise(layer):
            fast = _fast_depthwise(layer)
            if fast is not None:
                layer.call = fast


def _is_plain_norm(layer: Any) -> bool:
    return bool(
        layer.axis in (-1, 3)
        and len(layer.output.shape) == 4
        and layer.scale
        and layer.center
        and not layer.renorm
        and not layer.synchronized
    )


def _fused_norm(layer: Any) -> Callable[..., Any]:
    """Return BatchNorm's call as one operation while it trains, and as Keras' own otherwise."""
    import tensorflow

    plain = layer.call

    def call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        if not training or not layer.trainable or mask is not None:
            return plain(inputs, training=training, mask=mask)
        outputs, mean, variance = tensorflow.compat.v1.nn.fused_batch_norm(
            inputs, layer.gamma.value, layer.beta.value, epsilon=layer.epsilon
        )
        # It estimates the variance of all images there are; Keras keeps that of the batch.
        count = tensorflow.cast(tensorflow.size(inputs) // inputs.shape[-1], mean.dtype)
        _follow(layer.moving_mean, mean, layer.momentum)
        _follow(layer.moving_variance, variance * (count - 1) / count, layer.momentum)
        return outputs

    return call


def _follow(average: Any, value: Any, momentum: float) -> None:
    average.assign(average.value * momentum + value * (1.0 - momentum))


def _is_plain_depthwise(layer: Any) -> bool:
    return bool(
        not layer.use_bias
        and layer.depth_multiplier == 1
        and layer.data_format == "channels_last"
        and tuple(layer.dilation_rate) == (1, 1)
        and len({*layer.kernel_size}) == len({*layer.strides}) == 1
        and getattr(layer.activation, "__name__", "") == "linear"
    )


def tap_places(
    size: int, outputs: int, *, kernel: int, stride: int, before: int
) -> npt.NDArray[np.float32]:
    """Return which tap of a kernel brings which pixel of a feature map to which.

    Args:
        size: side of the feature map.
        outputs: side of the one that comes out.
        kernel: side of the kernel.
        stride: of the convolution.
        before: rows and columns of zeros before the first pixel.

    Returns:
        float32 (size², outputs², kernel²): 1 where that tap does, else 0.
    """
    pixels, places, taps = np.arange(size), np.arange(outputs), np.arange(kernel)
    along = pixels[:, None, None] == places[None, :, None] * stride + taps - before
    both = along[:, None, :, None, :, None] & along[None, :, None, :, None, :]
    return np.asarray(both.reshape(size**2, outputs**2, kernel**2), np.float32)


def _fast_depthwise(layer: Any) -> Callable[[Any], Any] | None:
    """Return a depthwise convolution's call with a faster gradient, or None if it is not faster."""
    import tensorflow

    (_, height, width, channels), (kernel, _) = layer.input.shape, layer.kernel_size
    _, outputs, others, _ = layer.output.shape
    stride = layer.strides[0]
    product = (height * outputs) ** 2
    # Kernels of 3x3 have a fast gradient of their own, but for the smallest maps.
    slow = kernel > 3 or height <= kernel - 1
    if height != width or outputs != others or product > _LARGEST_PRODUCT or not slow:
        return None
    rows = max((outputs - 1) * stride + kernel - height, 0) if layer.padding == "same" else 0
    places = tap_places(height, outputs, kernel=kernel, stride=stride, before=rows // 2)
    places = places.reshape(-1, kernel**2)
    options = {"strides": [1, stride, stride, 1], "padding": layer.padding.upper()}
    transpose, reshape = tensorflow.transpose, tensorflow.reshape

    @tensorflow.custom_gradient  # type: ignore[untyped-decorator]
    def convolve(inputs: Any, taps: Any) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]:
        def gradient(upstream: Any) -> tuple[Any, Any]:
            of_inputs = tensorflow.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tensorflow.shape(inputs), filter=taps, out_backprop=upstream, **options
            )
            seen = transpose(reshape(inputs, [-1, height**2, channels]), [2, 1, 0])
            came = transpose(reshape(upstream, [-1, outputs**2, channels]), [2, 0, 1])
            pairs = reshape(tensorflow.matmul(seen, came), [channels, -1])
            of_taps = transpose(tensorflow.matmul(pairs, tensorflow.cast(places, pairs.dtype)))
            return of_inputs, reshape(of_taps, [kernel, kernel, channels, 1])

        return tensorflow.nn.depthwise_conv2d(inputs, taps, **options), gradient

    return lambda inputs: convolve(inputs, tensorflow.convert_to_tensor(layer.kernel))
