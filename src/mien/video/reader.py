"""Reads videos: opening files and addresses, decoding, seeking, and each frame with its time.

FFmpeg makes the connections. For addresses of http(s) it is told to make only those that were
checked before (see docs/howto/addresses.md for what that protects from), unless ``allow_private``.
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

from mien.core.errors import InputError, MissingExtra, UnreadableImage
from mien.core.images import MAX_PIXELS
from mien.core.web import is_web_address, redact_address
from mien.video.frames import BrokenVideo, Presentation, TooLarge, VideoFrame, check_size
from mien.video.times import (
    EARLIEST_S,
    MAX_GAP_CONTINUOUS_S,
    MAX_GAP_S,
    FrameClock,
    Window,
    parse_time,
)

_log = logging.getLogger(__name__)


# ---------------------------------------------------------------- opening
OPEN_TIMEOUT_S = 10.0
"""Seconds within which an address must turn out to be a video."""

READ_TIMEOUT_S = 10.0
"""Seconds without data after which a connection counts as lost."""

# One protocol alone: FFmpeg knows some that wrap another one ("cache:http://...").
_ADDRESS = re.compile(r"[a-z][a-z0-9]*://", re.IGNORECASE)
# Formats that hold their pictures themselves. Others (hls, dash, concat, sdp, ...) are lists of
# further addresses, which FFmpeg would open wherever they lie.
_FORMATS = (
    "asf,avi,flv,gif,h264,hevc,ivf,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mpjpeg,mxf,nut,ogg,"
    "webm,wtv"
)
_HLS_START = b"#EXTM3U"
_LEADS_ON = (
    "a playlist, or of another kind that leads on to other files: "
    "--allow-private lets FFmpeg open them, wherever they lie"
)


def load_av(needed_for: str = "reading a video") -> Any:
    """Return PyAV, the module ``av``.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise MissingExtra("video", needed_for) from error


def opened(
    source: str | Path, *, options: dict[str, str] | None = None, allow_private: bool = False
) -> Any:
    """Open a PyAV container for reading; it is a context manager.

    Args:
        source: a file's path or an address.
        options: as ``av.open`` has them.
        allow_private: allow addresses of http(s), and what they lead on to, to be of hosts that are
            not on the public internet; playlists as well.

    Raises:
        InputError: if it cannot be opened.
        PrivateAddressError: if its host may not be asked.
    """
    av = load_av()
    name = redact_address(str(source))
    # Without its protocol, a file called "a:b.mp4" would be looked for under protocol "a".
    is_address = _ADDRESS.match(str(source)) is not None
    path = str(source) if is_address else f"file:{source}"
    timeout = (OPEN_TIMEOUT_S, READ_TIMEOUT_S) if is_address else None
    patience = OPEN_TIMEOUT_S if is_address else math.inf
    is_held = is_web_address(path) and not allow_private
    if is_held:
        path, options = checked_web_video(path)
    began = time.monotonic()
    try:
        return av.open(path, timeout=timeout, options=options or {})
    except (av.error.FFmpegError, OSError, UnicodeError) as error:
        # Each protocol of FFmpeg has its own error for a timeout.
        if time.monotonic() - began >= patience:
            raise InputError(f"{name}: no video came within {patience:g} s") from error
        if is_held and getattr(error, "errno", None) == errno.EINVAL:
            raise InputError(f"{name}: {_LEADS_ON}") from error
        raise _cannot_open(name, error) from error


def opened_upload(file: IO[bytes], name: str) -> Any:
    """Open a PyAV container of a file that a stranger has sent; it is a context manager.

    What leads on to other files (playlists and the like) is none that is read.

    Args:
        file: open for reading, at its start.
        name: what errors call it.

    Raises:
        InputError: if it cannot be opened.
    """
    av = load_av()
    try:
        return av.open(file, options={"format_whitelist": _FORMATS, "protocol_whitelist": ""})
    except (av.error.FFmpegError, OSError) as error:
        if getattr(error, "errno", None) == errno.EINVAL:
            raise UnreadableImage(f"{name}: not a video of a kind that is read here") from error
        raise _cannot_open(name, error) from error


def checked_web_video(url: str) -> tuple[str, dict[str, str]]:
    """Check the host of a video, and those that it redirects to.

    Returns:
        The address that the video has after all redirects, as FFmpeg is to ask for it, and the
        options that hold FFmpeg to it: no redirect, no other protocol, no playlist. Of http, the
        address is that of the IP address which was checked; of https, the certificate has to be
        that of the host.

    Raises:
        InputError: if it cannot be had, or may not be asked for.
    """
    # Imported here: they bring ssl and http with them.
    import ssl

    from mien.core.web import check_status, open_url, resolve

    with open_url(url, what="video", timeout_s=OPEN_TIMEOUT_S) as (address, response):
        check_status(address, response)
        if response.read(len(_HLS_START)) == _HLS_START:
            raise InputError(f"{address.redacted}: {_LEADS_ON}")
    headers = "".join(f"{key}: {value}\r\n" for key, value in address.headers.items())
    options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "http,https,tcp,tls",
        "max_redirects": "0",
        "http_proxy": "",  # none, whatever the environment says
        "headers": headers,
        "user_agent": "mien",
    }
    if address.scheme == "http":
        address = replace(address, host=str(resolve(address, allow_private=False)[0]))
    else:
        options["tls_verify"] = "1"
        if authorities := ssl.get_default_verify_paths().cafile:
            options["ca_file"] = authorities
    return f"{address.scheme}://{address.netloc}{address.target}", options


def fell_silent(error: BaseException | None) -> bool:
    """Say whether reading timed out after `READ_TIMEOUT_S`."""
    return isinstance(error, load_av().error.ExitError)


def reason_of(error: BaseException) -> str:
    """Return why the operating system or FFmpeg could not, in a few words."""
    if fell_silent(error):
        return f"nothing came for {READ_TIMEOUT_S:g} s"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _cannot_open(name: str, error: Exception) -> InputError:
    av = load_av()
    if isinstance(error, av.error.FileNotFoundError):
        return InputError(f"{name}: no such file")
    if isinstance(error, av.error.InvalidDataError):
        return UnreadableImage(f"{name}: not a video, or its header is cut off or damaged")
    if isinstance(error, av.error.EOFError):
        return UnreadableImage(f"{name}: ends before its first frame")
    return InputError(f"{name}: cannot be opened: {reason_of(error)}")


# ---------------------------------------------------------------- headers
MICROSECOND = Fraction(1, 1_000_000)
"""The unit of a container's own times."""

_FALLBACK_RATE = 25.0
# A last frame may well be shown a little before the moment that the header calls the end.
_MISSING_END_S = 0.5
_SECONDS_BACK = 1
_PICTURE_CODECS = ("apng", "bmp", "gif", "jpeg2000", "mjpeg", "png", "tiff", "webp")
_MAX_STAMP = 1 << 62
_MAX_HELD_BYTES = 64_000_000


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says.

    Attributes:
        width: pixels of the upright picture.
        height: as ``width``.
        duration_s: seconds, or None where it is not known (a live stream).
        frames: as the header says, else an estimate, or None.
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
    """Return what the header of a video says, and from its first frame its upright size.

    Args:
        source: the file's path, or an address.
        allow_private: as `opened` has it.

    Raises:
        InputError: if it is missing, damaged, or has no picture.
        MissingExtra: if PyAV is not installed.
    """
    av = load_av()
    with opened(source, allow_private=allow_private) as container:
        stream = picture_stream(container, source)
        presentation = Presentation(stream, redact_address(str(source)))
        rate = rate_of(stream)
        duration = duration_of(container, stream)
        try:
            first = next(container.decode(stream), None)
        except av.error.FFmpegError:
            first = None
        if first is None:
            raise InputError(
                f"{redact_address(str(source))}: no frame of this video can be decoded"
            )
        width, height = presentation.size(first)
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
        allow_private: as `opened` has it.

    Raises:
        InputError: if it is missing, damaged, has no picture, or ends before the window starts.
        BrokenVideo: after the last frame that can be read, if more should have come.
        MissingExtra: if PyAV is not installed.
    """
    window = window or Window()
    with opened(source, allow_private=allow_private) as container:
        yield from frames_in(container, picture_stream(container, source), str(source), window)


def frames_in(
    container: Any,
    stream: Any,
    name: str,
    window: Window,
    *,
    on_packet: Callable[[], None] = lambda: None,
) -> Iterator[VideoFrame]:
    """Yield the frames of a stream of an open container; as `read_video`, which opens it.

    ``on_packet`` is called for each packet, those before the window, too; what it raises ends it.
    """
    stream.thread_type = "AUTO"
    yield from _Reader(container, stream, name, window, on_packet).frames()


def picture_stream(container: Any, source: str | Path) -> Any:
    """Return the stream of moving pictures, ready to be decoded.

    A still cover is none. Of several streams the first is taken that can be decoded, that is more
    than one picture, and that is shown by default, as far as there is one.

    Raises:
        InputError: if there is none, or its frames have more pixels than an image may have.
    """
    name = redact_address(str(source))
    moving = [stream for stream in container.streams.video if not _is_still(stream)]
    if not moving:
        what = "has sound alone" if container.streams.audio else "holds no picture"
        if container.streams.video:
            what = "holds a still picture, such as a cover, and no video"
        raise InputError(f"{name}: {what}: expected a video")
    stream = max(moving, key=_rank)
    codec = stream.codec_context
    if codec is None:
        raise InputError(f"{name}: no decoder for its picture is installed")
    check_size(codec.width, codec.height, name)
    # Frames may grow on the way: the decoder refuses them before it takes memory.
    codec.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _is_still(stream: Any) -> bool:
    still = load_av().stream.Disposition
    return bool(
        stream.disposition & (still.attached_pic | still.still_image | still.timed_thumbnails)
    )


def _rank(stream: Any) -> tuple[bool, ...]:
    is_default = bool(stream.disposition & load_av().stream.Disposition.default)
    codec = stream.codec_context
    # Matroska does not tell how many frames there are, nor which streams are covers at times.
    moves = stream.frames != 1 and (codec is None or codec.name not in _PICTURE_CODECS)
    return codec is not None, moves, is_default


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
            return parse_time(written) - max(0.0, start_of(container))
        except ValueError:
            return None
    return None if container.duration is None else float(container.duration * MICROSECOND)


def has_index(stream: Any) -> bool:
    """Say whether the container indexes all of a stream's packets, so that it can be seeked in.

    Its time stamps are one series; others may restart anywhere, and a moment is found by a scan.
    """
    return bool(stream.frames) and len(getattr(stream, "index_entries", ())) == stream.frames


def clock_of(
    container: Any, stream: Any, tick_s: float, *, from_s: float = EARLIEST_S
) -> FrameClock:
    """Return the clock of a stream, which counts from its container's start; see `FrameClock`."""
    jumps = container.format.flags & load_av().format.Flags.ts_discont.value
    gap_s = MAX_GAP_S if jumps else MAX_GAP_CONTINUOUS_S
    return FrameClock(
        tick_s,
        shift_s=-start_of(container),
        from_s=from_s,
        gap_s=math.inf if has_index(stream) else gap_s,
    )


# ---------------------------------------------------------------- decoding
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

    def __init__(
        self, container: Any, stream: Any, on_packet: Callable[[], None] = lambda: None
    ) -> None:
        """Take an open container, its stream, and what is called for each packet."""
        self.damaged = 0
        self.stopped: Exception | None = None
        self._container = container
        self._stream = stream
        self._on_packet = on_packet
        self._av = load_av()

    def packets(self) -> Iterator[Any]:
        """Yield the packets from where the container stands; an error is the end."""
        try:
            for packet in self._container.demux(self._stream):
                self._on_packet()
                yield packet
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
        if self.stopped is not None:  # the decoder was not flushed
            try:
                frames = self._stream.codec_context.decode(None)
            except self._av.error.FFmpegError:
                return
            yield from frames


class _Reader:
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
        self._tick = 1.0 / rate_of(stream)
        self._presentation = Presentation(stream, self._name)
        self._decoder = Decoder(container, stream, on_packet)
        self._clock = clock_of(container, stream, self._tick, from_s=0.0)

    def frames(self) -> Iterator[VideoFrame]:
        packets = self._decoder.packets()
        number, shown = -1, 0
        leading: list[int] = []
        if self._window.start > 0:
            find = self._seek_to_start if has_index(self._stream) else self._scan_to_start
            before, packets = find(packets)
            leading, packets = _leading(packets)
            number += before
        for decoded in self._decoder.frames(packets):
            # Leading pictures of a key frame may need earlier frames, and be left out.
            number += 1 + (0 if decoded.pts is None else bisect_left(leading, decoded.pts))
            leading = []
            time_s = self._clock.time_of(stamp_of(decoded, self._stream))
            if self._window.starts_after(time_s):
                continue
            if self._window.ends_before(time_s):
                return
            shown += 1
            try:
                frame = self._presentation.frame(number, time_s, decoded)
            except TooLarge as error:
                if shown == 1:
                    raise
                raise BrokenVideo(str(error), time_s) from error
            yield frame
        self._check_end(number + 1, shown)

    def _scan_to_start(self, packets: Iterator[Any]) -> tuple[int, Iterator[Any]]:
        """Go to the last key frame before the window; return how many frames lie before it.

        The packets that come are those from there on.
        """
        clock = copy(self._clock)
        before = size = kept_size = 0
        kept: list[Any] = []
        group: list[Any] = []  # a key frame and what comes up to the next one
        for packet in packets:
            if packet.is_keyframe and group:
                begins = copy(clock)
                if not self._window.starts_after(self._advance(group, clock)):
                    group.append(packet)
                    break
                before += len(kept)
                self._clock, kept, kept_size = begins, group, size - kept_size
                size, group = kept_size, []
            group.append(packet)
            size += packet.size
            if size > _MAX_HELD_BYTES:  # it is decoded from here on rather than held
                break
        return before, chain(kept, group, packets)

    def _advance(self, group: Sequence[Any], clock: FrameClock) -> float:
        """Advance a clock over the frames of packets; return the time of the first packet's."""
        base = self._stream.time_base
        stamps = sorted(packet.pts for packet in group if packet.pts is not None)
        times = {stamp: clock.time_of(float(stamp * base)) for stamp in stamps}
        for _ in range(len(group) - len(stamps)):
            times[None] = clock.time_of(None)
        return times[group[0].pts]

    def _seek_to_start(self, packets: Iterator[Any]) -> tuple[int, Iterator[Any]]:
        """As `_scan_to_start`, by the container's index."""
        wanted_s = start_of(self._container) + self._window.start
        target = min(round(wanted_s / self._stream.time_base), _MAX_STAMP)
        first, later = self._key_frame_before(target)
        if first is None or first.dts is None:
            return 0, packets  # what cannot be jumped in is decoded from its start
        found = self._stream.index_entries.search_timestamp(first.dts, any_frame=True)
        return max(0, int(found)), chain([first], later)

    def _key_frame_before(self, target: int) -> tuple[Any, Iterator[Any]]:
        """Return the packet of a key frame shown at ``target`` or before, and those after it."""
        av = load_av()
        asked = target
        while True:
            try:
                self._container.seek(asked, stream=self._stream)
            except (av.error.FFmpegError, OSError):
                return None, iter(())
            packets = self._decoder.packets()
            first: Any = next(packets, None)
            stamped = first is not None and first.pts is not None
            if stamped and (asked <= 0 or (first.is_keyframe and first.pts <= target)):
                return first, packets
            if asked <= 0:
                return None, iter(())
            # Seeking goes by decoding time, which is before presentation, and may hit any frame.
            earlier = asked - round(_SECONDS_BACK / self._stream.time_base)
            known = stamped and first.dts is not None
            asked = max(0, min(earlier, first.dts - 1) if known else earlier)

    def _check_end(self, count: int, shown: int) -> None:
        """Raise an error if there was nothing, or less than the header promises."""
        last = self._clock.time_s
        # Where time stamps jump, the duration is of no use.
        jumps = self._clock.jumps
        expected = None if jumps else duration_of(self._container, self._stream)
        if last is None and self._window.start == 0:
            raise InputError(f"{self._name}: no frame of this video can be decoded")
        reached = (last or 0.0) + self._tick
        # Where parts of a transport stream meet, packets' counters jump: that is no damage.
        damaged = max(0, self._decoder.damaged - jumps)
        lost = damaged > 0 or self._decoder.stopped is not None
        if expected is not None and self._window.end is not None:
            expected = min(expected, self._window.end)
        if expected is not None:
            # The header of a cut file still has its full length.
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
            reason = f" ({reason_of(stopped)})" if stopped and fell_silent(stopped) else ""
            raise BrokenVideo(
                f"{self._name}: the video is cut or damaged: read {count} frames, "
                f"up to {reached:.2f} s{whole}{damage}{reason}",
                last or 0.0,
            )


def _leading(packets: Iterator[Any]) -> tuple[list[int], Iterator[Any]]:
    """Return the stamps of the first packet and of those after it that are shown before it."""
    taken: list[Any] = []
    stamps: list[int] = []
    for packet in packets:
        taken.append(packet)
        if packet.pts is None or packet.pts > taken[0].pts:
            break
        stamps.append(packet.pts)
    return sorted(stamps), chain(taken, packets)
