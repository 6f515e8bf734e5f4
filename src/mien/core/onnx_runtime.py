"""The one door to ONNX Runtime, which asks as it is loaded whether it may report (`telemetry`).

``from mien.core.onnx_runtime import onnxruntime`` stands for ``import onnxruntime`` in all of mien.
"""

from mien.core.telemetry import disable_telemetry

disable_telemetry()  # at import, since the line below is what it has to precede

import onnxruntime  # noqa: E402, TID251

__all__ = ["onnxruntime"]
