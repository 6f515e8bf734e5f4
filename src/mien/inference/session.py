"""An ONNX Runtime session that goes where Python objects go: into copies, pickles and forks."""

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

from mien.core.errors import ModelError
from mien.core.manifest import ModelFile, check_model_file
from mien.core.models import bundled_models, find_model
from mien.core.onnx_runtime import new_session, onnxruntime
from mien.core.process import ForkLock
from mien.inference.onnx_file import network_for


class ModelSession:
    """A session on a model's file, with what is needed of `onnxruntime.InferenceSession`.

    Threads may share it. A pickle holds no network but where its file is, and the file's hash,
    which is checked where the pickle is loaded. Copies share one session.

    After a fork the child opens the file anew when it first needs it: ONNX Runtime's threads are
    not there, and its locks may be held by threads of the parent.
    """

    def __init__(
        self,
        folder: Path,
        file: ModelFile,
        *,
        threads: int | None = None,
        outputs: tuple[str, ...] = (),
    ) -> None:
        """Open a model's file, whose hash has been checked.

        Args:
            folder: the model's.
            file: its ONNX file, as the manifest has it.
            threads: how many threads one call may use; as many as there are cores unless given.
            outputs: the names of those that will be asked for; all unless given.

        Raises:
            ModelError: if it is no ONNX model that can be run.
        """
        self._folder = folder.absolute()
        self._file = file
        self._threads = threads
        self._outputs = outputs
        self._session: onnxruntime.InferenceSession | None = self._open()
        _ALL.add(self)

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
        """Pickle where the file is: a bundled model by its name, which is elsewhere elsewhere."""
        name = self._folder.name
        bundled = name in bundled_models() and find_model(name) == self._folder
        place = name if bundled else self._folder
        return _reopened, (place, self._file, self._threads, self._outputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelSession:
        """Return the session itself: nothing of it can be changed."""
        return self

    def leave_behind(self) -> None:
        """Let go of the parent's session, in a forked child, without ending it.

        Its end would wait for threads that are not there, so it is kept from being collected.
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
                    check_model_file(self._folder / self._file.name, self._file)
                    session = self._session = self._open()
        return session

    def _open(self) -> onnxruntime.InferenceSession:
        path = self._folder / self._file.name
        try:
            network = network_for(path, self._outputs) if self._outputs else str(path)
            return new_session(network, threads=self._threads or 0)
        except Exception as error:  # ONNX Runtime's own errors share no nearer base
            raise ModelError(
                f"{path} is not an ONNX model that can be run "
                f"({' '.join(str(error).split()) or type(error).__name__}): "
                "export or install it again"
            ) from error


def _reopened(
    model: str | Path, file: ModelFile, threads: int | None, outputs: tuple[str, ...]
) -> ModelSession:
    folder = find_model(model)
    check_model_file(folder / file.name, file)
    return ModelSession(folder, file, threads=threads, outputs=outputs)


def _leave_all_behind() -> None:
    for session in list(_ALL):
        session.leave_behind()


# A fork asks nobody but whom it was told of before: that is why this is kept for all of them.
_ALL: weakref.WeakSet[ModelSession] = weakref.WeakSet()
_REOPENING = ForkLock()
if sys.platform != "win32":  # which has no fork
    os.register_at_fork(after_in_child=_leave_all_behind)
