"""Writes the annotated video: H.264, each frame at its own time, the sound kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mien.core.display import annotate
from mien.core.errors import OutputError
from mien.core.files import SOFTWARE, replace_atomically
from mien.core.results import Face
from mien.video.frames import VideoFrame
from mien.video.reader import Decoder, VideoInfo, clock_of, has_index, load_av, opened, reason_of
from mien.video.times import Window

_LIVE_TIME_BASE = Fraction(1, 90_000)
_LIVE_RATE = 25.0
# Visually lossless, and fast beside detection.
_ENCODING = {"preset": "veryfast", "crf": "20"}


class AnnotatedVideo:
    """An annotated video that is being written; `write_annotated` makes one."""

    def __init__(self, target: Any, info: VideoInfo | None, start_s: float) -> None:
        """Write into an open container; ``info`` is of the original, None where it is live."""
        self._target = target
        self._start_s = start_s
        self._time_base = _LIVE_TIME_BASE if info is None else info.time_base
        rate = _LIVE_RATE if info is None else info.rate
        self._stream = target.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.options = dict(_ENCODING)
        self._stream.time_base = self._time_base
        self._stream.codec_context.time_base = self._time_base
        self._size: tuple[int, int] | None = None
        self._pts = -1
        self.frames = 0
        self.sound: SoundTrack | None = None

    def write(self, frame: VideoFrame, faces: Sequence[Face]) -> None:
        """Draw the faces on a frame, smoothed where they are, and write it at its own time."""
        picture = self._fitted(drawn(frame.pixels, faces))
        time_s = frame.time_s - self._start_s
        if self.sound is not None:
            self.sound.write_until(time_s)
        encoded = load_av().VideoFrame.from_ndarray(picture, format="rgb24")
        self._pts = max(self._pts + 1, round(time_s / self._time_base))
        encoded.pts, encoded.time_base = self._pts, self._time_base
        self._target.mux(self._stream.encode(encoded))
        self.frames += 1

    def finish(self) -> None:
        """Flush the encoder and the sound."""
        if self._size is not None:
            self._target.mux(self._stream.encode(None))
        if self.sound is not None:
            self.sound.write_until(None)

    def _fitted(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a picture of the first one's size, with even sides, as H.264's colours need."""
        height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
        if self._size is None:
            self._size = (height, width)
            self._stream.height, self._stream.width = height, width
        if (height, width) != self._size:
            size = (self._size[1], self._size[0])
            return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        return np.ascontiguousarray(picture[:height, :width])


@contextmanager
def write_annotated(
    path: Path,
    info: VideoInfo | None,
    *,
    window: Window,
    sound_of: str | None = None,
    allow_private: bool = False,
) -> Iterator[AnnotatedVideo]:
    """Open an annotated video for writing; the file appears when it is complete.

    Args:
        path: its name's ending (`WRITTEN_SUFFIXES`) is its format.
        info: of the original; None for a stream or a camera.
        window: which part of the original it shows: times count from its start.
        sound_of: the original, if its sound is to be kept.
        allow_private: as `mien.video.reader.opened` has it, for that.

    Raises:
        OutputError: if it cannot be written.
    """
    av = load_av("writing a video")
    options = {} if path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
    with replace_atomically(path) as temporary:
        try:
            with ExitStack() as stack:
                target = stack.enter_context(
                    av.open(f"file:{temporary}", "w", container_options=options)
                )
                # The one key that MP4, QuickTime and Matroska all keep.
                target.metadata["comment"] = SOFTWARE
                video = AnnotatedVideo(target, info, window.start)
                if sound_of is not None:
                    source = stack.enter_context(opened(sound_of, allow_private=allow_private))
                    video.sound = SoundTrack(source, target, window)
                yield video
                video.finish()
        except av.error.FFmpegError as error:
            raise OutputError(f"cannot write {path}: {reason_of(error)}") from error


def drawn(pixels: npt.NDArray[np.uint8], faces: Sequence[Face]) -> npt.NDArray[np.uint8]:
    """Return a frame, uint8 (H, W, 3) RGB, with its faces drawn in, smoothed where they are."""
    return np.asarray(annotate(pixels, [as_smoothed(face) for face in faces]), np.uint8)


def as_smoothed(face: Face) -> Face:
    """Return a face with its smoothed scores for its own, which flicker less."""
    if face.smoothed is None:
        return face
    return replace(
        face,
        emotion=face.smoothed.emotion,
        confidence=face.smoothed.confidence,
        scores=face.smoothed.scores,
    )


# ---------------------------------------------------------------- sound
_AAC_FRAME = 1024
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_TICK_S = _AAC_FRAME / _AAC_RATES[-1]
_WITH_EDIT_LISTS = ("mp4", "mov", "ipod")


class SoundTrack:
    """The sound of an open container, written as far as the pictures are.

    Packets are copied where the target's format can hold them, else transcoded to AAC.
    """

    def __init__(self, source: Any, target: Any, window: Window) -> None:
        """Take the sound of ``source`` (its first track); a stream is added to ``target``."""
        self._stream = source.streams.audio[0]
        self._source = source
        self._target = target
        self._window = window
        self._clock = clock_of(source, self._stream, _TICK_S)
        self._decoder = Decoder(source, self._stream)
        self._may_be_early = target.format.name in _WITH_EDIT_LISTS
        codec = self._stream.codec_context.codec
        # Of the several decoders of a codec, each has a name of its own.
        name = getattr(codec, "canonical_name", codec.name)
        self._is_copied = name in target.supported_codecs
        if self._is_copied:
            self._track = target.add_stream_from_template(self._stream)
        else:
            rate = self._stream.rate if self._stream.rate in _AAC_RATES else _AAC_RATES[-1]
            self._track = target.add_stream("aac", rate=rate)
            # Some files give the number of channels without a layout.
            self._layout = "mono" if self._stream.layout.nb_channels == 1 else "stereo"
            self._track.layout = self._layout
        self._packets = self._within()
        self._next: Any = next(self._packets, None)

    def write_until(self, time_s: float | None) -> None:
        """Write what is heard before a moment (seconds after the window's start), or all."""
        while self._next is not None and (time_s is None or self._time_of(self._next) < time_s):
            packet, self._next = self._next, next(self._packets, None)
            packet.stream = self._track
            try:
                self._target.mux(packet)
            except load_av().error.InvalidDataError:  # damaged: one packet of silence
                continue

    def _time_of(self, packet: Any) -> float:
        return float((packet.pts or 0) * packet.time_base)

    def _within(self) -> Iterator[Any]:
        """Yield the window's packets with their times counted from its start."""
        packets = self._copied() if self._is_copied else self._encoded()
        yield from (packet for packet in packets if packet.pts is not None)

    def _read(self) -> Iterator[Any]:
        """Yield the source's packets from the window's start; an error is the end."""
        if self._window.start > 0 and has_index(self._stream):
            target = round((self._window.start - self._clock.shift_s) / self._stream.time_base)
            try:
                self._source.seek(max(0, target), stream=self._stream)
            except (load_av().error.FFmpegError, OSError):
                return
        yield from self._decoder.packets()

    def _since_start(self, stamp: int, time_base: Any) -> float:
        """Return the seconds from the window's start to the next of the series of stamps."""
        return self._clock.time_of(float(stamp * time_base)) - self._window.start

    def _copied(self) -> Iterator[Any]:
        base = self._stream.time_base
        for packet in self._read():
            if packet.pts is None:
                continue
            begins_s = self._since_start(packet.pts, base)
            # MP4 can hold what comes before the start, a codec's run-up, and players skip it; other
            # formats would move everything back by it.
            if begins_s < 0 and not self._may_be_early:
                continue
            ends_s = begins_s + float((packet.duration or 0) * base)
            if ends_s <= 0 and self._window.start > 0:
                continue
            if self._window.ends_before(self._window.start + begins_s):
                return
            packet.pts = packet.dts = round(begins_s / base)
            yield packet

    def _encoded(self) -> Iterator[Any]:
        kind: tuple[Any, ...] = ()
        resampler: Any = None
        for frame in self._heard():
            # A resampler takes one kind of sound alone, and broadcasts change theirs.
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or now != kind:
                yield from self._resampled(resampler, None)
                kind, resampler = now, self._new_resampler()
            yield from self._resampled(resampler, frame)
        yield from self._resampled(resampler, None)
        yield from self._track.encode(None)

    def _new_resampler(self) -> Any:
        return load_av().AudioResampler(
            format="fltp", layout=self._layout, rate=self._track.rate, frame_size=_AAC_FRAME
        )

    def _resampled(self, resampler: Any, frame: Any) -> Iterator[Any]:
        """Yield the encoded packets of a frame; None flushes the resampler."""
        for piece in [] if resampler is None else resampler.resample(frame):
            yield from self._track.encode(piece)

    def _heard(self) -> Iterator[Any]:
        """Yield the window's decoded sound, its times counted from its start."""
        for frame in self._decoder.frames(self._read()):
            if frame.pts is None:
                continue
            begins_s = self._since_start(frame.pts, frame.time_base)
            if begins_s < 0:
                continue
            if self._window.ends_before(self._window.start + begins_s):
                return
            frame.pts = round(begins_s / frame.time_base)
            yield frame
