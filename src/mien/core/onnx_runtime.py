"""ONNX Runtime with its telemetry off.

Telemetry is decided while ``onnxruntime`` is imported, so all of mien imports it from here.
"""

from mien.core.process import disable_telemetry

disable_telemetry()  # must precede the import below

import onnxruntime  # noqa: E402, TID251

__all__ = ["new_session", "onnxruntime"]

_ERRORS_ONLY = 3


def new_session(network: str | bytes, *, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open a network on the CPU, without printing anything; raises ONNX Runtime's errors.

    Args:
        network: path or content of an ONNX file.
        threads: threads per call; 0 for one per core.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # The fallback would print on stdout and try the same provider again.
    return onnxruntime.InferenceSession(
        network, options, providers=["CPUExecutionProvider"], enable_fallback=False
    )
