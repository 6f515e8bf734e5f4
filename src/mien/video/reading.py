"""Video files: their frames with the times at which they are shown, whatever their rate does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from mien.core.errors import InputError
from mien.core.web_address import shown_address
from mien.video.decoding import Decoder, stamp_of
from mien.video.extra import load_av
from mien.video.frames import BrokenVideo, VideoFrame, decoded_frame, turn_of
from mien.video.opening import opened
from mien.video.rotation import is_sideways
from mien.video.times import Window, parse_time
from mien.video.web_container import LostVideo

MICROSECOND = Fraction(1, 1_000_000)
"""The unit of a container's own times."""

_FALLBACK_RATE = 25.0
# A last frame may well be shown a little before the moment that the header calls the end.
_MISSING_END_S = 0.5
_SECONDS_BACK = 1


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says.

    Attributes:
        width: pixels of the upright picture.
        height: as ``width``.
        duration_s: seconds, or None where it is not known (a live stream).
        frames: how many, where the header tells, else an estimate, or None.
        rate: frames a second, on average.
        time_base: seconds that one tick of its time stamps lasts.
        has_sound: whether there is a sound track.
    """

    width: int
    height: int
    duration_s: float | None
    frames: int | None
    rate: float
    time_base: Fraction
    has_sound: bool


def probe(source: str | Path, *, allow_private: bool = False) -> VideoInfo:
    """Return what the header of a video says; its first frame tells how it lies.

    Args:
        source: the file's path, or an address.
        allow_private: as `mien.video.opening.opened` has it.

    Raises:
        InputError: if it is missing, damaged, or has no picture.
        MissingExtra: if PyAV is not installed.
    """
    av = load_av()
    with opened(source, allow_private=allow_private) as container:
        stream = picture_stream(container, source)
        rate = rate_of(stream)
        duration = duration_of(container, stream)
        try:
            first = next(container.decode(stream), None)
        except LostVideo as error:
            raise InputError(str(error)) from error
        except av.error.FFmpegError:
            first = None
        if first is None:
            raise InputError(f"{shown_address(str(source))}: no frame of this video can be decoded")
        width, height = first.width, first.height
        if is_sideways(turn_of(first, stream)):
            width, height = height, width
        counted = stream.frames or (None if duration is None else round(duration * rate))
        return VideoInfo(
            width=width,
            height=height,
            duration_s=duration,
            frames=counted or None,
            rate=rate,
            time_base=stream.time_base,
            has_sound=bool(container.streams.audio),
        )


def read_video(
    source: str | Path, window: Window | None = None, *, allow_private: bool = False
) -> Iterator[VideoFrame]:
    """Yield the frames of a video file in the order they are shown; one is in memory at a time.

    Args:
        source: the file's path, or an address.
        window: which part; its ``every`` plays no role here.
        allow_private: as `mien.video.opening.opened` has it.

    Raises:
        InputError: if it is missing, damaged, has no picture, or ends before the window starts.
        BrokenVideo: after the last frame that can be read, if more should have come.
        MissingExtra: if PyAV is not installed.
    """
    window = window or Window()
    with opened(source, allow_private=allow_private) as container:
        stream = picture_stream(container, source)
        stream.thread_type = "AUTO"
        again = partial(opened, source, allow_private=allow_private)
        yield from _Reader(container, stream, str(source), window, again).frames()


def picture_stream(container: Any, source: str | Path) -> Any:
    """Return the stream of moving pictures; raises InputError if there is none."""
    for stream in container.streams.video:
        # A song's cover is a stream of one picture.
        if "attached_pic" not in str(stream.disposition).lower():
            if stream.codec_context is None:
                raise InputError(
                    f"{shown_address(str(source))}: no decoder for its picture is installed"
                )
            return stream
    what = "has sound alone" if container.streams.audio else "holds no picture"
    raise InputError(f"{shown_address(str(source))}: {what}: expected a video")


def rate_of(stream: Any) -> float:
    """Return a stream's frames a second, on average."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else _FALLBACK_RATE


def start_of(container: Any) -> float:
    """Return the time stamp, in seconds, that a container's time counts from."""
    return float((container.start_time or 0) * MICROSECOND)


def duration_of(container: Any, stream: Any) -> float | None:
    """Return the seconds from a container's start to the end of its pictures, None if unknown."""
    if stream.duration is not None and stream.time_base is not None:
        begins = stream.start_time or 0
        return float((begins + stream.duration) * stream.time_base) - start_of(container)
    written = {name.upper(): value for name, value in stream.metadata.items()}.get("DURATION")
    if written is not None:  # Matroska's
        try:
            return parse_time(written)
        except ValueError:
            return None
    return None if container.duration is None else float(container.duration * MICROSECOND)


class _Reader:
    """Goes through one stream of a container, once."""

    def __init__(
        self,
        container: Any,
        stream: Any,
        source: str,
        window: Window,
        again: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._container = container
        self._stream = stream
        self._again = again
        self._name = shown_address(source)
        self._window = window
        self._start = start_of(container)
        self._tick = 1.0 / rate_of(stream)
        self._decoder = Decoder(container, stream)
        self._last: float | None = None

    def frames(self) -> Iterator[VideoFrame]:
        packets = self._decoder.packets()
        number = -1
        shown = 0
        if self._window.start > 0:
            number, packets = self._sought(packets)
        for decoded in self._decoder.frames(packets):
            number += 1
            time_s = self._time_of(decoded)
            self._last = time_s
            if self._window.starts_after(time_s):
                continue
            if self._window.ends_before(time_s):
                return
            shown += 1
            yield decoded_frame(number, time_s, decoded, self._stream)
        self._check_end(number + 1, shown)

    def _time_of(self, decoded: Any) -> float:
        stamp = stamp_of(decoded, self._stream)
        if stamp is None:
            return 0.0 if self._last is None else self._last + self._tick
        return max(0.0, stamp - self._start)

    def _sought(self, packets: Iterator[Any]) -> tuple[int, Iterator[Any]]:
        """Jump to the key frame before the window; return how many frames lie before it, less one.

        The packets that come are those from there on.
        """
        target = round((self._start + self._window.start) / self._stream.time_base)
        found = self._key_frame_before(target)
        if found is None:
            return -1, packets  # what cannot be jumped in is decoded from its start
        first, packets = found
        return self._packets_before(first) - 1, chain([first], packets)

    def _key_frame_before(self, target: int) -> tuple[Any, Iterator[Any]] | None:
        """Return the packet of a key frame shown at ``target`` or before, and those after it."""
        av = load_av()
        asked = target
        while True:
            try:
                self._container.seek(asked, stream=self._stream)
            except (av.error.FFmpegError, OSError):
                return None
            packets = self._decoder.packets()
            first: Any = next(packets, None)
            stamped = first is not None and first.pts is not None
            if stamped and (asked <= 0 or (first.is_keyframe and first.pts <= target)):
                return first, packets
            if asked <= 0:
                return None
            # Files are searched by when frames are decoded, which is before they are shown, and
            # some for any frame.
            earlier = asked - round(_SECONDS_BACK / self._stream.time_base)
            known = stamped and first.dts is not None
            asked = max(0, min(earlier, first.dts - 1) if known else earlier)

    def _packets_before(self, packet: Any) -> int:
        """Return how many packets come before one: by the index if it is whole, else by counting.

        A key frame is preceded in time by what precedes it in the file, so this is its number.
        """
        index: Any = getattr(self._stream, "index_entries", ())
        if packet.dts is not None and self._stream.frames and len(index) == self._stream.frames:
            found = index.search_timestamp(packet.dts, any_frame=True)
            if 0 <= found < len(index):
                return int(found)
        with self._again() as container:
            before = 0
            for one in container.demux(container.streams[self._stream.index]):
                if one.is_keyframe and one.pts is not None and one.pts >= packet.pts:
                    break
                before += 1
            return before

    def _check_end(self, count: int, shown: int) -> None:
        """Raise what says that nothing came, or less than the header promises."""
        expected = duration_of(self._container, self._stream)
        if self._last is None and self._window.start == 0:
            if isinstance(self._decoder.stopped, LostVideo):
                raise InputError(str(self._decoder.stopped)) from self._decoder.stopped
            raise InputError(f"{self._name}: no frame of this video can be decoded")
        reached = (self._last or 0.0) + self._tick
        damaged = self._decoder.damaged
        lost = damaged > 0 or self._decoder.stopped is not None
        if expected is not None and self._window.end is not None:
            expected = min(expected, self._window.end)
        if expected is not None:
            # Of a film that is cut, the header tells how long it was.
            lost |= expected - reached > max(_MISSING_END_S, 2 * self._tick)
        lost |= self._window.end is None and bool(self._stream.frames > count)
        if shown == 0 and not lost:
            end = reached if expected is None else expected
            raise InputError(
                f"{self._name}: the start, {self._window.start:g} s, lies behind its end, "
                f"{end:.2f} s"
            )
        if lost:
            whole = "" if expected is None else f" of {expected:.2f} s"
            damage = f", {damaged} damaged packets" if damaged else ""
            stopped = self._decoder.stopped
            reason = f" ({stopped})" if isinstance(stopped, LostVideo) else ""
            raise BrokenVideo(
                f"{self._name}: the video is cut or damaged: read {count} frames, "
                f"up to {reached:.2f} s{whole}{damage}{reason}",
                self._last or 0.0,
            )
