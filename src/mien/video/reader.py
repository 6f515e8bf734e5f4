"""Video reader: opens files and addresses, decodes, seeks, and yields frames with their times.

FFmpeg makes the connections. For http(s) addresses it may only make those that were checked before
(docs/howto/addresses.md says what that protects from), unless ``allow_private``.
"""

from __future__ import annotations

import errno
import importlib
import logging
import math
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO, Any

from mien.core.errors import InputError, MissingExtra, UnreadableImage, error_reason
from mien.core.images import MAX_PIXELS
from mien.core.web import is_web_address, redact_address
from mien.video.frames import (
    EARLIEST_S,
    MAX_GAP_CONTINUOUS_S,
    MAX_GAP_S,
    BrokenVideo,
    FrameClock,
    FrameConverter,
    TooLarge,
    VideoFrame,
    Window,
    check_size,
    parse_time,
)

_log = logging.getLogger(__name__)


# ---------------------------------------------------------------- opening
OPEN_TIMEOUT_S = 10.0  # within which an address has to deliver a video header
READ_TIMEOUT_S = 10.0  # without data, after which a connection counts as lost

# A single protocol: FFmpeg has some that wrap another one ("cache:http://...").
_ADDRESS = re.compile(r"[a-z][a-z0-9]*://", re.IGNORECASE)
# Formats that contain their pictures. Others (hls, dash, concat, sdp, ...) list further addresses,
# which FFmpeg would open wherever they are.
_FORMATS = (
    "asf,avi,flv,gif,h264,hevc,ivf,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mxf,nut,ogg,"
    "webm,wtv"
)
_HLS_START = b"#EXTM3U"
_LEADS_ON = (
    "a playlist, or another format that refers to other files: "
    "--allow-private lets FFmpeg open them, wherever they are"
)


def load_av(needed_for: str = "reading a video") -> Any:
    """Return PyAV, the module ``av``; raises MissingExtra if it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise MissingExtra("video", needed_for) from error


def open_video(
    source: str | Path, *, options: dict[str, str] | None = None, allow_private: bool = False
) -> Any:
    """Open a PyAV container for reading, a context manager.

    Args:
        source: path or address.
        options: as for ``av.open``.
        allow_private: allow http(s) addresses, and the addresses that they lead on to, to have
            hosts that are not on the public internet; also allow playlists.

    Raises:
        InputError: if it cannot be opened.
        PrivateAddressError: if its host is not allowed.
    """
    av = load_av()
    name = redact_address(str(source))
    # With a protocol in front, a file named "a:b.mp4" is not looked up under protocol "a".
    is_address = _ADDRESS.match(str(source)) is not None
    path = str(source) if is_address else f"file:{source}"
    timeout = (OPEN_TIMEOUT_S, READ_TIMEOUT_S) if is_address else None
    is_restricted = is_web_address(path) and not allow_private
    if is_restricted:
        path, options = check_web_video(path)
    started = time.monotonic()
    try:
        return av.open(path, timeout=timeout, options=options or {})
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        # Each of FFmpeg's protocols reports a timeout with its own error.
        if is_address and time.monotonic() - started >= OPEN_TIMEOUT_S:
            raise InputError(f"{name}: no video received within {OPEN_TIMEOUT_S:g} s") from error
        if is_restricted and getattr(error, "errno", None) == errno.EINVAL:
            raise InputError(f"{name}: {_LEADS_ON}") from error
        raise _open_error(name, error) from error


def open_upload(file: IO[bytes], name: str) -> Any:
    """Open a PyAV container of an untrusted file, a context manager; ``name`` is for errors.

    Formats that refer to other files (playlists and the like) are refused.

    Raises:
        InputError: if it cannot be opened.
    """
    av = load_av()
    try:
        return av.open(file, options={"format_whitelist": _FORMATS, "protocol_whitelist": ""})
    except (av.error.FFmpegError, OSError) as error:
        if getattr(error, "errno", None) == errno.EINVAL:
            raise UnreadableImage(f"{name}: not a video in a supported format") from error
        raise _open_error(name, error) from error


def check_web_video(url: str) -> tuple[str, dict[str, str]]:
    """Check the host of a video, and those that it redirects to.

    Returns:
        The final address, as FFmpeg is to request it, and the options that restrict FFmpeg to it:
        no redirects, other protocols or playlists. For http the address has the checked IP address;
        for https the certificate has to match the host.

    Raises:
        InputError: if it cannot be downloaded, or is not allowed.
    """
    # Imported here because they import ssl and http.
    import ssl

    from mien.core.web import check_status, open_url, resolve

    with open_url(url, what="video", timeout_s=OPEN_TIMEOUT_S) as (address, response):
        check_status(address, response)
        if response.read(len(_HLS_START)) == _HLS_START:
            raise InputError(f"{address.redacted}: {_LEADS_ON}")
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "http,https,tcp,tls",
        "max_redirects": "0",
        "http_proxy": "",  # none, whatever the environment says
        "headers": "".join(f"{key}: {value}\r\n" for key, value in address.headers.items()),
        "user_agent": "mien",
    }
    if address.scheme == "http":
        address = replace(address, host=str(resolve(address, allow_private=False)[0]))
    else:
        options["tls_verify"] = "1"
        if authorities := ssl.get_default_verify_paths().cafile:
            options["ca_file"] = authorities
    return f"{address.scheme}://{address.netloc}{address.target}", options


def is_timeout(error: BaseException | None) -> bool:
    """Return True if reading timed out after `READ_TIMEOUT_S`."""
    return isinstance(error, load_av().error.ExitError)


def reason_of(error: BaseException) -> str:
    """Return the reason for an error of the operating system or FFmpeg, in a few words."""
    if is_timeout(error):
        return f"no data for {READ_TIMEOUT_S:g} s"
    return " ".join(error_reason(error).split())


def _open_error(name: str, error: Exception) -> InputError:
    av = load_av()
    if not name:
        return InputError("the video's name is empty: give a file, an address or a camera's number")
    if isinstance(error, av.error.FileNotFoundError):
        return InputError(f"{name}: no such file")
    if isinstance(error, av.error.InvalidDataError):
        return UnreadableImage(f"{name}: not a video, or its header is cut off or damaged")
    if isinstance(error, av.error.EOFError):
        return UnreadableImage(f"{name}: ends before its first frame")
    return InputError(f"{name}: cannot be opened: {reason_of(error)}")


# ---------------------------------------------------------------- headers
_MICROSECOND = Fraction(1, 1_000_000)  # unit of a container's own times
_FALLBACK_RATE = 25.0
_PICTURE_CODECS = ("apng", "bmp", "gif", "jpeg2000", "mjpeg", "png", "tiff", "webp")


@dataclass(frozen=True)
class VideoInfo:
    """Header of a video."""

    width: int  # of the upright picture, in pixels
    height: int
    duration_s: float | None  # None if unknown (a live stream)
    frames: int | None  # from the header, else an estimate
    rate: float  # frames per second, on average
    time_base: Fraction  # seconds per tick of its time stamps
    has_sound: bool


def probe(source: str | Path, *, allow_private: bool = False) -> VideoInfo:
    """Read the header of a video, and its upright size from its first frame.

    Args:
        source: path or address.
        allow_private: as for `open_video`.

    Raises:
        InputError: if it is missing or damaged, or has no pictures.
        MissingExtra: if PyAV is not installed.
    """
    av = load_av()
    name = redact_address(str(source))
    with open_video(source, allow_private=allow_private) as container:
        stream = video_stream(container, source)
        converter = FrameConverter(stream, name)
        rate = frame_rate(stream)
        duration = duration_of(container, stream)
        try:
            first = next(container.decode(stream), None)
        except av.error.FFmpegError:
            first = None
        if first is None:
            raise InputError(f"{name}: no frame of this video can be decoded")
        width, height = converter.size(first)
        frames = stream.frames or (None if duration is None else round(duration * rate))
        return VideoInfo(
            width=width,
            height=height,
            duration_s=duration,
            frames=frames or None,
            rate=rate,
            time_base=stream.time_base,
            has_sound=bool(container.streams.audio),
        )


def video_stream(container: Any, source: str | Path) -> Any:
    """Return the video stream of a container, ready to be decoded.

    Still covers are skipped. Of several streams, those are preferred that can be decoded, then
    those with more than one picture, then those displayed by default.

    Raises:
        InputError: if there is none, or its frames have too many pixels.
    """
    name = redact_address(str(source))
    moving = [stream for stream in container.streams.video if not _is_still(stream)]
    if not moving:
        content = "contains only sound" if container.streams.audio else "contains no pictures"
        if container.streams.video:
            content = "contains only a still picture, such as a cover"
        raise InputError(f"{name}: {content}: expected a video")
    stream = max(moving, key=_rank)
    codec = stream.codec_context
    if codec is None:
        raise InputError(f"{name}: no decoder for its codec is installed")
    check_size(codec.width, codec.height, name)
    # Frames may grow later: the decoder refuses those before it allocates memory.
    codec.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _is_still(stream: Any) -> bool:
    flags = load_av().stream.Disposition
    return bool(
        stream.disposition & (flags.attached_pic | flags.still_image | flags.timed_thumbnails)
    )


def _rank(stream: Any) -> tuple[bool, ...]:
    is_default = bool(stream.disposition & load_av().stream.Disposition.default)
    codec = stream.codec_context
    # Matroska stores no number of frames, and does not always mark covers.
    moves = stream.frames != 1 and (codec is None or codec.name not in _PICTURE_CODECS)
    return codec is not None, moves, is_default


def frame_rate(stream: Any) -> float:
    """Return a stream's frames per second, on average."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else _FALLBACK_RATE


def _start_s(container: Any) -> float:
    """Return the time stamp, in seconds, at which a container's time starts."""
    return float((container.start_time or 0) * _MICROSECOND)


def duration_of(container: Any, stream: Any) -> float | None:
    """Return the seconds from a container's start to the end of a stream, None if unknown."""
    if stream.duration is not None and stream.time_base is not None:
        start = stream.start_time or 0
        return float((start + stream.duration) * stream.time_base) - _start_s(container)
    tag = {name.upper(): value for name, value in stream.metadata.items()}.get("DURATION")
    if tag is not None:  # Matroska
        try:
            return parse_time(tag) - max(0.0, _start_s(container))
        except ValueError:
            return None
    return None if container.duration is None else float(container.duration * _MICROSECOND)


def has_index(stream: Any) -> bool:
    """Return True if the container indexes all packets of a stream, so that seeking works.

    Such time stamps are one series. Others may restart anywhere, so a time is found by scanning.
    """
    return bool(stream.frames) and len(getattr(stream, "index_entries", ())) == stream.frames


def stream_clock(
    container: Any, stream: Any, step_s: float, *, from_s: float = EARLIEST_S
) -> FrameClock:
    """Return the clock of a stream, which starts with its container; see `FrameClock`."""
    jumps = container.format.flags & load_av().format.Flags.ts_discont.value
    gap_s = MAX_GAP_S if jumps else MAX_GAP_CONTINUOUS_S
    return FrameClock(
        step_s,
        shift_s=-_start_s(container),
        from_s=from_s,
        gap_s=math.inf if has_index(stream) else gap_s,
    )


# ---------------------------------------------------------------- decoding
def stamp_s(decoded: Any, stream: Any) -> float | None:
    """Return a decoded frame's time stamp in seconds, None if it has none."""
    if decoded.pts is None:
        return None
    # Frames flushed from the decoder have no time base.
    return float(decoded.pts * (decoded.time_base or stream.time_base))


class Decoder:
    """Decodes one stream of an open container; damaged packets are counted and skipped."""

    def __init__(
        self, container: Any, stream: Any, on_packet: Callable[[], None] = lambda: None
    ) -> None:
        self.damaged = 0  # packets
        self.stopped: Exception | None = None  # the error that ended reading early
        self._container = container
        self._stream = stream
        self._on_packet = on_packet
        self._av = load_av()

    def packets(self) -> Iterator[Any]:
        """Yield the packets from the container's position until its end or an error."""
        try:
            for packet in self._container.demux(self._stream):
                self._on_packet()
                yield packet
        except (self._av.error.FFmpegError, OSError) as error:
            _log.debug("reading stopped: %s", error)
            self.stopped = error

    def frames(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Yield the decoded frames of packets, and at their end those left in the decoder."""
        for packet in packets:
            self.damaged += bool(packet.is_corrupt)
            try:
                frames = packet.decode()
            except self._av.error.FFmpegError as error:
                _log.debug("a packet cannot be decoded: %s", error)
                self.damaged += 1
                continue
            yield from frames
        if self.stopped is not None:  # demux has not flushed the decoder
            try:
                frames = self._stream.codec_context.decode(None)
            except self._av.error.FFmpegError:
                return
            yield from frames


# ---------------------------------------------------------------- frames of a file
# The last frame may end a little before the duration in the header.
_MISSING_END_S = 0.5
_SEEK_BACK_S = 1
_MAX_STAMP = 1 << 62
_MAX_HELD_BYTES = 64_000_000


def read_video(
    source: str | Path, window: Window | None = None, *, allow_private: bool = False
) -> Iterator[VideoFrame]:
    """Yield the frames of a video file in presentation order; one is in memory at a time.

    Args:
        source: path or address.
        window: the part to read; its ``every`` is ignored here.
        allow_private: as for `open_video`.

    Raises:
        InputError: if it is missing or damaged, has no pictures, or ends before the window starts.
        BrokenVideo: after the last readable frame, if more were expected.
        MissingExtra: if PyAV is not installed.
    """
    window = window or Window()
    with open_video(source, allow_private=allow_private) as container:
        yield from read_frames(container, video_stream(container, source), str(source), window)


def read_frames(
    container: Any,
    stream: Any,
    name: str,
    window: Window,
    *,
    on_packet: Callable[[], None] = lambda: None,
) -> Iterator[VideoFrame]:
    """Yield the frames of a stream of an open container, as `read_video` does.

    ``on_packet`` is called for every packet, even before the window; its exceptions end reading.
    """
    stream.thread_type = "AUTO"
    yield from _FileReader(container, stream, name, window, on_packet).frames()


class _FileReader:
    """Reads one stream of a container, once."""

    def __init__(
        self,
        container: Any,
        stream: Any,
        source: str,
        window: Window,
        on_packet: Callable[[], None],
    ) -> None:
        self._container = container
        self._stream = stream
        self._name = redact_address(source)
        self._window = window
        self._step_s = 1.0 / frame_rate(stream)
        self._converter = FrameConverter(stream, self._name)
        self._decoder = Decoder(container, stream, on_packet)
        self._clock = stream_clock(container, stream, self._step_s, from_s=0.0)

    def frames(self) -> Iterator[VideoFrame]:
        packets = self._decoder.packets()
        number, yielded = -1, 0
        leading: list[int] = []
        if self._window.start > 0:
            go_to_start = self._seek_to_start if has_index(self._stream) else self._scan_to_start
            skipped, packets = go_to_start(packets)
            leading, packets = _leading_stamps(packets)
            number += skipped
        for decoded in self._decoder.frames(packets):
            # The decoder drops leading pictures of a key frame that depend on earlier frames.
            number += 1 + (0 if decoded.pts is None else bisect_left(leading, decoded.pts))
            leading = []
            time_s = self._clock.time_of(stamp_s(decoded, self._stream))
            if self._window.starts_after(time_s):
                continue
            if self._window.ends_before(time_s):
                return
            yielded += 1
            try:
                frame = self._converter.convert(number, time_s, decoded)
            except TooLarge as error:
                if yielded == 1:
                    raise
                raise BrokenVideo(str(error), time_s) from error
            yield frame
        self._check_end(number + 1, yielded)

    def _scan_to_start(self, packets: Iterator[Any]) -> tuple[int, Iterator[Any]]:
        """Skip to the last key frame before the window; return how many frames, and the packets."""
        clock = copy(self._clock)
        skipped = size = kept_size = 0
        kept: list[Any] = []
        group: list[Any] = []  # a key frame and the packets up to the next one
        for packet in packets:
            if packet.is_keyframe and group:
                clock_before = copy(clock)
                if not self._window.starts_after(self._advance(group, clock)):
                    group.append(packet)
                    break
                skipped += len(kept)
                self._clock, kept, kept_size = clock_before, group, size - kept_size
                size, group = kept_size, []
            group.append(packet)
            size += packet.size
            if size > _MAX_HELD_BYTES:  # decode from here on instead of holding more
                break
        return skipped, chain(kept, group, packets)

    def _advance(self, group: Sequence[Any], clock: FrameClock) -> float:
        """Advance a clock over the frames of packets; return the first packet's time."""
        base = self._stream.time_base
        stamps = sorted(packet.pts for packet in group if packet.pts is not None)
        times = {stamp: clock.time_of(float(stamp * base)) for stamp in stamps}
        for _ in range(len(group) - len(stamps)):
            times[None] = clock.time_of(None)
        return times[group[0].pts]

    def _seek_to_start(self, packets: Iterator[Any]) -> tuple[int, Iterator[Any]]:
        """Skip like `_scan_to_start`, by the container's index."""
        start_s = _start_s(self._container) + self._window.start
        target = min(round(start_s / self._stream.time_base), _MAX_STAMP)
        first, rest = self._key_frame_before(target)
        if first is None or first.dts is None:
            return 0, packets  # seeking does not work: decode from the start
        entry = self._stream.index_entries.search_timestamp(first.dts, any_frame=True)
        return max(0, int(entry)), chain([first], rest)

    def _key_frame_before(self, target: int) -> tuple[Any, Iterator[Any]]:
        """Return the packet of a key frame at ``target`` or before, and the packets after it."""
        av = load_av()
        position = target
        while True:
            try:
                self._container.seek(position, stream=self._stream)
            except (av.error.FFmpegError, OSError):
                return None, iter(())
            packets = self._decoder.packets()
            first: Any = next(packets, None)
            has_stamp = first is not None and first.pts is not None
            if has_stamp and (position <= 0 or (first.is_keyframe and first.pts <= target)):
                return first, packets
            if position <= 0:
                return None, iter(())
            # Seeking uses decoding time, which is before presentation, and may hit any frame.
            earlier = position - round(_SEEK_BACK_S / self._stream.time_base)
            is_known = has_stamp and first.dts is not None
            position = max(0, min(earlier, first.dts - 1) if is_known else earlier)

    def _check_end(self, count: int, yielded: int) -> None:
        """Raise an error if no frame was yielded, or ``count`` is less than the header promises."""
        last = self._clock.time_s
        # Where time stamps jump, the duration means nothing.
        jumps = self._clock.jumps
        expected = None if jumps else duration_of(self._container, self._stream)
        if last is None and self._window.start == 0:
            raise InputError(f"{self._name}: no frame of this video can be decoded")
        reached = (last or 0.0) + self._step_s
        # Where parts of a transport stream join, packet counters jump, which is no damage.
        damaged = max(0, self._decoder.damaged - jumps)
        is_broken = damaged > 0 or self._decoder.stopped is not None
        if expected is not None and self._window.end is not None:
            expected = min(expected, self._window.end)
        if expected is not None:
            # The header of a truncated file still has the full duration.
            is_broken |= expected - reached > max(_MISSING_END_S, 2 * self._step_s)
        is_broken |= self._window.end is None and bool(self._stream.frames > count)
        if yielded == 0 and not is_broken:
            start, end = self._window.start, reached if expected is None else expected
            raise InputError(
                f"{self._name}: the start, {start:g} s, is after its end, {end:.2f} s"
                if start >= end
                else f"{self._name}: no frame lies between {start:g} and {end:g} s"
            )
        if is_broken:
            total = "" if expected is None else f" of {expected:.2f} s"
            damage = f", {damaged} damaged packets" if damaged else ""
            stopped = self._decoder.stopped
            reason = f" ({reason_of(stopped)})" if stopped and is_timeout(stopped) else ""
            raise BrokenVideo(
                f"{self._name}: the video is cut or damaged: read {count} frames, "
                f"up to {reached:.2f} s{total}{damage}{reason}",
                last or 0.0,
            )


def _leading_stamps(packets: Iterator[Any]) -> tuple[list[int], Iterator[Any]]:
    """Return the stamps of the first packet and its leading pictures, and all packets again.

    Leading pictures follow a key frame in the file and are displayed before it.
    """
    taken: list[Any] = []
    stamps: list[int] = []
    for packet in packets:
        taken.append(packet)
        if packet.pts is None or packet.pts > taken[0].pts:
            break
        stamps.append(packet.pts)
    return sorted(stamps), chain(taken, packets)
