"""Shared by all fuzz targets: the rule they check, damaged inputs, and runs of a given time.

The rule: any input gives a valid result or one of mien's own errors (`mien.core.errors`), in one
line, within `CPU_SECONDS` and `MEMORY_BYTES`, and nothing is written to stdout or stderr.
Hypothesis minimises failing inputs and stores them in ``.hypothesis``; the next run tries them
first. The last input is in ``build/fuzz``, even if it ended the process.
"""

from __future__ import annotations

import copy
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mien.core.errors import MienError
from mien.core.process import discard_native_stderr

CPU_SECONDS = 5.0
MEMORY_BYTES = 1 << 30
_WALL_SECONDS = 120
_KEPT = Path("build/fuzz")
_NUMBERS = [
    number.to_bytes(size, order)
    for size in (2, 4, 8)
    for number in (0, 1, 0x7F, 1 << (8 * size - 1), (1 << 8 * size) - 1, (1 << 8 * size - 1) - 1)
    for order in ("little", "big")
]

# Loaded on import, because Hypothesis needs the profile when a target defines its properties.
settings.register_profile(
    "fuzz",
    max_examples=200,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
settings.load_profile("fuzz")

_inputs = 0
_files: dict[str, IO[bytes]] = {}
_output: IO[bytes] | None = None


def check(name: str, content: bytes, call: Callable[[], object]) -> None:
    """Call, and raise if the rule is broken; ``content`` stays in a file until the next call."""
    global _inputs
    _inputs += 1
    _keep(name, content)
    signal.alarm(_WALL_SECONDS)  # ends the process, in native code as well
    message = "done"
    memory, written, start = _peak_bytes(), _output_size(), time.process_time()
    try:
        call()
    except MienError as error:
        message = str(error)
    finally:
        signal.alarm(0)
    assert len(message.splitlines()) == 1, f"expected a message of one line, got {message!r}"
    seconds = time.process_time() - start
    assert seconds < CPU_SECONDS, f"it took {seconds:.1f} s"
    grown = _peak_bytes() - memory
    assert grown < MEMORY_BYTES, f"it took {grown >> 20} MB"
    assert _output_size() == written, "it wrote to stdout or stderr"


def _keep(name: str, content: bytes) -> None:
    file = _files.get(name)
    if file is None:
        file = _files[name] = (_KEPT / name).open("wb", buffering=0)
    file.seek(0)
    file.truncate()
    file.write(content)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _output_size() -> int:
    sys.stdout.flush()
    return 0 if _output is None else os.fstat(_output.fileno()).st_size


# ---------------------------------------------------------------- inputs
def damaged(seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """Damage valid inputs: change, insert, remove and repeat bytes, or cut the input short.

    Args:
        seeds: valid inputs.
        tokens: inserted in addition to random bytes and numbers.
    """
    pieces = st.one_of(st.sampled_from([*_NUMBERS, *tokens]), st.binary(max_size=6))
    edit = st.tuples(
        st.sampled_from(("over", "into", "out", "again", "end")),
        st.integers(0, 1 << 16),
        st.integers(1, 300),
        pieces,
    )
    return st.builds(_edited, st.sampled_from(seeds), st.lists(edit, max_size=6))


def _edited(seed: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    for what, somewhere, length, piece in edits:
        # Most of the structure is near the beginning or the end.
        place = somewhere % (len(seed) + 1)
        before, after = seed[:place], seed[place:]
        seed = {
            "over": before + piece + after[len(piece) :],
            "into": before + piece + after,
            "out": before + after[length:],
            "again": before + after[:length] * min(length, 50) + after,
            "end": before,
        }[what]
    return seed


def _json_values() -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
        st.sampled_from([10**400, -1, 1 << 63, 1 << 64, "\ud800", "..", "/", "\0", "a" * 5000]),
    )  # fmt: skip
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner)
    )


def changed(document: Any) -> st.SearchStrategy[bytes]:
    """Return JSON of a document with some values replaced or removed."""
    places = list(_places(document))
    change = st.tuples(st.sampled_from(places), st.booleans(), _json_values())
    return st.builds(
        lambda changes: json.dumps(_with(document, changes)).encode(),
        st.lists(change, min_size=1, max_size=3),
    )


def _places(document: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = document if isinstance(document, dict) else range(len(document))
    for key in keys if isinstance(document, dict | list) else ():
        yield (*above, key)
        if isinstance(document[key], dict | list):
            yield from _places(document[key], (*above, key))


def _with(document: Any, changes: list[tuple[tuple[Any, ...], bool, Any]]) -> Any:
    document = copy.deepcopy(document)
    for (*above, key), is_missing, value in changes:
        inner = document
        try:
            for each in above:
                inner = inner[each]
            if is_missing:
                del inner[key]
            else:
                inner[key] = value
        except (LookupError, TypeError):  # removed by an earlier change
            continue
    return document


# ---------------------------------------------------------------- a run
def fuzz(*properties: Callable[[], None]) -> None:
    """Test all properties in turn for ``FUZZ_SECONDS`` (600); exit code 1 if one fails."""
    name = Path(sys.modules["__main__"].__file__ or "").stem
    seconds = float(os.environ.get("FUZZ_SECONDS", "600"))
    faulthandler.register(signal.SIGALRM, chain=True)
    end = time.monotonic() + seconds
    failure: Exception | None = None
    with _output_watched(), discard_native_stderr():
        while failure is None and time.monotonic() < end:
            for test in properties:
                try:
                    test()
                except Exception as error:
                    failure = error
                    break
    if failure is not None:
        traceback.print_exception(failure)
        print(f"{name}: FAILED after {_inputs:,} inputs; the last one is in {_KEPT}/")
        sys.exit(1)
    print(f"{name}: {_inputs:,} inputs in {seconds:g} s, no failure")


@contextmanager
def _output_watched() -> Iterator[None]:
    """Redirect standard output and error to a file, which is printed at the end."""
    global _output
    _KEPT.mkdir(parents=True, exist_ok=True)
    streams = [(stream, os.dup(stream.fileno())) for stream in (sys.stdout, sys.stderr)]
    with tempfile.TemporaryFile() as _output:
        for stream, _ in streams:
            os.dup2(_output.fileno(), stream.fileno())
        try:
            yield
        finally:
            for stream, kept in streams:
                stream.flush()
                os.dup2(kept, stream.fileno())
                os.close(kept)
            _output.seek(0)
            sys.stderr.write(_output.read().decode("utf-8", "replace"))
