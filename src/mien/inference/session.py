"""An ONNX Runtime session of a file, which survives pickling, copying and forking."""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.core.errors import ModelError, reason_of
from mien.core.manifest import ModelFile, read_model_file
from mien.core.models import bundled_models, find_model
from mien.core.onnx_runtime import new_session, onnxruntime
from mien.core.process import ForkLock
from mien.inference.onnx_file import network_for, refuse_external_data


class ModelSession:
    """An ONNX Runtime session that can be pickled, copied and forked; threads may share it.

    A pickle holds where the model's file is, and its hash, which is checked on loading. Copies
    share one session. A forked child opens the file anew when it first needs it: ONNX Runtime's
    threads are not there, and its locks may be held by threads of the parent.
    """

    def __init__(
        self,
        folder: Path,
        file: ModelFile,
        *,
        threads: int | None = None,
        outputs: tuple[str, ...] = (),
    ) -> None:
        """Check a model's file by its hash, and open it.

        Args:
            folder: the model's.
            file: its ONNX file, as the manifest has it.
            threads: how many threads one call may use; as many as there are cores unless given.
            outputs: the names of those that will be asked for; all unless given.

        Raises:
            ModelError: if it is missing, another one, has weights in other files, or is no ONNX
                model that can be run.
        """
        self._folder = folder.absolute()
        self._file = file
        self._threads = threads
        self._outputs = outputs
        self._session: onnxruntime.InferenceSession | None = self._open()
        _SESSIONS.add(self)

    def run(
        self, outputs: Sequence[str], inputs: Mapping[str, npt.NDArray[np.uint8]]
    ) -> list[npt.NDArray[np.float32]]:
        """Return these outputs for these inputs; raises whatever ONNX Runtime raises."""
        results: list[npt.NDArray[np.float32]] = self._opened().run(outputs, inputs)
        return results

    def get_inputs(self) -> list[Any]:
        """Return the graph's inputs: name, type and shape of each."""
        return list(self._opened().get_inputs())

    def get_outputs(self) -> list[Any]:
        """Return the graph's outputs, as `get_inputs`."""
        return list(self._opened().get_outputs())

    def get_modelmeta(self) -> Any:
        """Return what the file says of itself."""
        return self._opened().get_modelmeta()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the file is: a bundled model by its name."""
        name = self._folder.name
        bundled = name in bundled_models() and find_model(name) == self._folder
        place = name if bundled else self._folder
        return _reopened, (place, self._file, self._threads, self._outputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelSession:
        """Return the session itself, which is immutable."""
        return self

    def abandon(self) -> None:
        """Let go of the parent's session, in a forked child, without destroying it.

        Its destructor would wait for threads that are not there.
        """
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None

    def _opened(self) -> onnxruntime.InferenceSession:
        session = self._session
        if session is None:
            with _REOPENING:
                session = self._session
                if session is None:
                    session = self._session = self._open()
        return session

    def _open(self) -> onnxruntime.InferenceSession:
        path = self._folder / self._file.name
        content = read_model_file(path, self._file)
        refuse_external_data(content, path)
        try:
            network = network_for(content, self._outputs, path) if self._outputs else content
            return new_session(network, threads=self._threads or 0)
        except Exception as error:  # ONNX Runtime's own errors share no nearer base
            raise ModelError(
                f"{path} is not an ONNX model that can be run "
                f"({reason_of(error)}): "
                "export or install it again"
            ) from error


def _reopened(
    model: str | Path, file: ModelFile, threads: int | None, outputs: tuple[str, ...]
) -> ModelSession:
    return ModelSession(find_model(model), file, threads=threads, outputs=outputs)


def _abandon_all() -> None:
    for session in list(_SESSIONS):
        session.abandon()


# For the fork handler below, which has to know all sessions.
_SESSIONS: weakref.WeakSet[ModelSession] = weakref.WeakSet()
_REOPENING = ForkLock()
if sys.platform != "win32":  # which has no fork
    os.register_at_fork(after_in_child=_abandon_all)
