"""ONNX Runtime with its telemetry off, which it decides on while it is imported.

``from mien.core.onnx_runtime import onnxruntime`` stands for ``import onnxruntime`` in all of mien.
"""

from mien.core.process import disable_telemetry

disable_telemetry()  # at import, since the line below is what it has to precede

import onnxruntime  # noqa: E402, TID251

__all__ = ["new_session", "onnxruntime"]

_ERRORS_ONLY = 3


def new_session(network: str | bytes, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open a network on the CPU; raises whatever ONNX Runtime raises, and prints nothing.

    Args:
        network: its file, or what is in it.
        threads: how many one call may use, 0 for as many as there are cores.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # The fallback would print on stdout and try the same provider again.
    return onnxruntime.InferenceSession(
        network, options, providers=["CPUExecutionProvider"], enable_fallback=False
    )
