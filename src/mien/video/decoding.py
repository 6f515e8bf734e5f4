"""Gets frames out of a container that may be damaged or break off."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from mien.video.extra import load_av

_log = logging.getLogger(__name__)


def stamp_of(decoded: Any, stream: Any) -> float | None:
    """Return a frame's time stamp in seconds, None where it has none."""
    if decoded.pts is None:
        return None
    # Frames that a decoder held back do not know the unit of their time.
    return float(decoded.pts * (decoded.time_base or stream.time_base))


class Decoder:
    """Reads one stream of an open container; what is damaged is counted and left out.

    Attributes:
        damaged: packets that are damaged or cannot be decoded.
        stopped: what ended the reading before the stream's end, or None.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        """Take an open container and its stream."""
        self.damaged = 0
        self.stopped: Exception | None = None
        self._container = container
        self._stream = stream
        self._av = load_av()

    def packets(self) -> Iterator[Any]:
        """Yield the packets from where the container stands; an error is the end."""
        try:
            yield from self._container.demux(self._stream)
        except (self._av.error.FFmpegError, OSError) as error:
            _log.debug("reading stopped: %s", error)
            self.stopped = error

    def frames(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Yield the frames of packets, with those that the decoder holds back when they end."""
        for packet in packets:
            self.damaged += bool(packet.is_corrupt)
            try:
                frames = packet.decode()
            except self._av.error.FFmpegError as error:
                _log.debug("a packet cannot be decoded: %s", error)
                self.damaged += 1
                continue
            yield from frames
        if self.stopped is not None:  # the packet that tells the decoder of the end never came
            try:
                frames = self._stream.codec_context.decode(None)
            except self._av.error.FFmpegError:
                return
            yield from frames
