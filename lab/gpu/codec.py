"""Faces packed without loss: predicted from their neighbours, what is left Huffman-coded.

The median edge detector of LOCO-I (Weinberger et al. 2000, JPEG-LS) guesses each pixel from those
to the left, above and above left. The rests are coded apart by how much these neighbours differ,
for that is how far off the guess will be. FER-2013 takes a sixth less so than as PNG.
"""

from __future__ import annotations

import itertools
import struct
import zlib

import numpy as np
import numpy.typing as npt

from mien.core.errors import DataError
from mien.core.faces import FACE_SIZE

Faces = npt.NDArray[np.uint8]
_Wide = npt.NDArray[np.int16]
_OUTSIDE = 128
_LEVELS = (2, 4, 7, 11, 16, 24, 36, 60)
"""Of the sum of the neighbours' differences."""
_HEADER = f"<{len(_LEVELS) + 2}I"


def encode_faces(faces: Faces) -> bytes:
    """Pack faces, uint8 (N, 48, 48)."""
    # Pixel by pixel, each of all faces: the order in which they are unpacked.
    wide = faces.transpose(1, 2, 0).astype(np.int16)
    # Grey where there is no neighbour.
    padded = np.pad(wide, ((1, 0), (1, 0), (0, 0)), constant_values=_OUTSIDE)
    neighbours = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    rest = ((wide - _guess(*neighbours)) % 256).astype(np.uint8)
    unrest = _unrest(*neighbours)
    streams = [_huffman(rest[unrest == level].tobytes()) for level in range(len(_LEVELS) + 1)]
    return struct.pack(_HEADER, len(faces), *map(len, streams)) + b"".join(streams)


def decode_faces(data: bytes) -> Faces:
    """Unpack what `encode_faces` packed.

    Returns:
        uint8 (N, 48, 48), the same to the bit.

    Raises:
        DataError: if the bytes are damaged.
    """
    try:
        count, *lengths = struct.unpack_from(_HEADER, data)
        ends = np.cumsum([struct.calcsize(_HEADER), *lengths]).tolist()
        streams = [
            np.frombuffer(zlib.decompress(data[start:end]), np.uint8)
            for start, end in itertools.pairwise(ends)
        ]
        return _unpack(streams, count)
    except (struct.error, zlib.error, ValueError) as error:
        raise DataError(f"the packed faces are damaged ({error}): make the pack anew") from error


def _unpack(streams: list[Faces], count: int) -> Faces:
    # A pixel needs those before it, so all faces are unpacked together, a pixel at a time.
    done = np.full((FACE_SIZE + 1, FACE_SIZE + 1, count), _OUTSIDE, np.int16)
    taken = [0] * len(streams)
    rest = np.empty(count, np.uint8)
    for row, column in np.ndindex(FACE_SIZE, FACE_SIZE):
        neighbours = done[row + 1, column], done[row, column + 1], done[row, column]
        unrest = _unrest(*neighbours)
        for level, stream in enumerate(streams):
            chosen = np.flatnonzero(unrest == level)
            rest[chosen] = stream[taken[level] : taken[level] + len(chosen)]
            taken[level] += len(chosen)
        done[row + 1, column + 1] = (rest + _guess(*neighbours)) % 256
    return np.ascontiguousarray(done[1:, 1:].astype(np.uint8).transpose(2, 0, 1))


def _huffman(data: bytes) -> bytes:
    # Huffman alone: there are no repetitions to look for, and looking costs bits and time.
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data) + packer.flush()


def _guess(left: _Wide, above: _Wide, corner: _Wide) -> _Wide:
    low, high = np.minimum(left, above), np.maximum(left, above)
    return np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))


def _unrest(left: _Wide, above: _Wide, corner: _Wide) -> npt.NDArray[np.int64]:
    level: npt.NDArray[np.int64] = np.digitize(
        np.abs(left - corner) + np.abs(above - corner), _LEVELS
    )
    return level
