"""The pieces that this project's own networks are made of. Nothing here is of one Keras backend."""

from __future__ import annotations

from typing import Any

_REDUCTION = 8
"""Of the channels within a squeeze-and-excite gate."""


def scaled(width: int, factor: float) -> int:
    """Return a number of channels times a factor, to the nearest 8 (processors like those)."""
    return max(8, round(width * factor / 8) * 8)


def scaled_input(images: Any) -> Any:
    """Return images of 0-255, scaled as their starting weights will say."""
    import keras

    x = keras.layers.Rescaling(1 / 255)(images)
    return keras.layers.Normalization(axis=-1)(x)


def conv_norm(
    x: Any, width: int, name: str, *, kernel: int = 3, stride: int = 1, relu: bool = True
) -> Any:
    """Convolution without bias, BatchNorm, and ReLU unless told otherwise.

    Args:
        x: Keras tensor (N, H, W, C).
        width: channels of the result.
        name: what the layers' names begin with.
        kernel: side of the kernel.
        stride: 2 halves height and width.
        relu: False where a sum comes before it.
    """
    import keras

    layers = keras.layers
    x = layers.Conv2D(
        width, kernel, strides=stride, padding="same", use_bias=False,
        kernel_initializer="he_normal", name=f"{name}_conv",
    )(x)  # fmt: skip
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x) if relu else x


def added(x: Any, branch: Any, name: str) -> Any:
    """Return the ReLU of a sum; while training, the branch is left out at random.

    The rate is set later, from ``model.drop_connect`` (stochastic depth: Huang et al. 2016,
    1603.09382).
    """
    import keras

    layers = keras.layers
    # One made with a rate of 0 has no generator, and could not be given another rate.
    branch = layers.Dropout(0.5, noise_shape=(None, 1, 1, 1), name=f"{name}_drop")(branch)
    return layers.Activation("relu", name=f"{name}_out")(
        layers.Add(name=f"{name}_add")([x, branch])
    )


def squeeze_excite(x: Any, name: str) -> Any:
    """Weigh each channel by a gate that sees the mean of all (Hu et al. 2018, 1709.01507)."""
    import keras

    layers = keras.layers
    width = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
    inner = max(4, width // _REDUCTION)
    gate = layers.Conv2D(inner, 1, activation="relu", name=f"{name}_reduce")(gate)
    gate = layers.Conv2D(width, 1, activation="sigmoid", name=f"{name}_expand")(gate)
    return layers.Multiply(name=f"{name}_excite")([x, gate])
