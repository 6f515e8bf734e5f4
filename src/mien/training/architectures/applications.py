"""The families of ``keras.applications`` that can be trained here, and how each wants its pixels.

EfficientNet's own graph begins with a scaling; the others get one in front, so that every network
takes 0-255 and its starting weights decide the scaling.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mien.core.errors import UsageError
from mien.training.architectures.blocks import scaled_input

_HALF = 127.5
_PHOTOS_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_PHOTOS_DEVIATION = (0.229 * 255, 0.224 * 255, 0.225 * 255)
# ResNet's weights come from Caffe: blue first, means taken off, never divided.
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class Application:
    """How a network of ``keras.applications`` is built.

    Attributes:
        scales_itself: its graph begins with ``Rescaling`` and ``Normalization``.
        mean: of the pixels (0-255) that its ImageNet weights expect; one, or one a channel.
        deviation: what they are divided by.
        options: further arguments.
    """

    scales_itself: bool = False
    mean: float | tuple[float, ...] = _HALF
    deviation: float | tuple[float, ...] = _HALF
    options: dict[str, Any] = field(default_factory=dict)


_OWN_SCALING = Application(scales_itself=True)
_PHOTOS = Application(mean=_PHOTOS_MEAN, deviation=_PHOTOS_DEVIATION)
_PHOTOS_V2 = Application(
    mean=_PHOTOS_MEAN, deviation=_PHOTOS_DEVIATION, options={"include_preprocessing": False}
)
_CAFFE = Application(mean=_CAFFE_MEAN, deviation=1.0)

APPLICATIONS: dict[str, Application] = {
    **{f"EfficientNetB{number}": _OWN_SCALING for number in range(8)},
    **{f"EfficientNetV2B{number}": _PHOTOS_V2 for number in range(4)},
    "ResNet50": _CAFFE,
    "DenseNet121": _PHOTOS,
    "MobileNetV2": Application(),
    "MobileNetV3Small": Application(options={"include_preprocessing": False}),
    "MobileNetV3Large": Application(options={"include_preprocessing": False}),
}
"""By the name in ``keras.applications``."""


def build_application(name: str, *, weights: str | None = None, images: Any = None) -> Any:
    """Build a network of ``keras.applications`` without its top.

    Args:
        name: one of `APPLICATIONS`.
        weights: "imagenet" to download them, or None.
        images: Keras tensor (N, size, size, 3), 0-255, to build on; an input of its own if None.

    Returns:
        A ``keras.Model``, whose output is the last feature map.

    Raises:
        UsageError: if there is no such network here.
    """
    import keras

    if name not in APPLICATIONS:
        raise UsageError(f"{name!r} is not known: expected one of {', '.join(APPLICATIONS)}")
    application = APPLICATIONS[name]
    if images is not None and not application.scales_itself:
        images = scaled_input(images)
    build = getattr(keras.applications, name)
    return build(include_top=False, weights=weights, input_tensor=images, **application.options)
