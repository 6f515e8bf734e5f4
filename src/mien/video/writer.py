"""Annotated videos: H.264 with each frame at its own time, and the original sound."""

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
from mien.video.frames import VideoFrame, Window
from mien.video.reader import (
    Decoder,
    VideoInfo,
    has_index,
    load_av,
    open_video,
    reason_of,
    stream_clock,
)

_LIVE_TIME_BASE = Fraction(1, 90_000)
_LIVE_RATE = 25.0
# Visually lossless, and fast compared with detection.
_ENCODING = {"preset": "veryfast", "crf": "20"}


class AnnotatedVideo:
    """An annotated video in the process of being written; see `write_annotated`."""

    def __init__(self, target: Any, info: VideoInfo | None, start_s: float) -> None:
        """Add a video stream to an open container; its times start at ``start_s``."""
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
        self.frames = 0  # written so far
        self.sound: SoundTrack | None = None

    def write(self, frame: VideoFrame, faces: Sequence[Face]) -> None:
        """Draw the faces on a frame, with smoothed scores if available, and write it."""
        picture = self._fit(draw_faces(frame.pixels, faces))
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

    def _fit(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a picture at the first one's size, with even sides, which 4:2:0 needs."""
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
    """Write an annotated video; the file appears when it is complete.

    Args:
        path: of the file; its suffix is the format.
        info: header of the original; None for a live source.
        window: the part of the original that is shown; times start at its start.
        sound_of: path or address of the original, to keep its sound.
        allow_private: as for `mien.video.reader.open_video`, for ``sound_of``.

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
                # The one key that MP4, QuickTime and Matroska all support.
                target.metadata["comment"] = SOFTWARE
                video = AnnotatedVideo(target, info, window.start)
                if sound_of is not None:
                    source = stack.enter_context(open_video(sound_of, allow_private=allow_private))
                    video.sound = SoundTrack(source, target, window)
                yield video
                video.finish()
        except av.error.FFmpegError as error:
            raise OutputError(f"cannot write {path}: {reason_of(error)}") from error


def draw_faces(pixels: npt.NDArray[np.uint8], faces: Sequence[Face]) -> npt.NDArray[np.uint8]:
    """Draw faces on a frame, uint8 (H, W, 3) RGB, with smoothed scores if available."""
    return np.asarray(annotate(pixels, [smoothed_face(face) for face in faces]), np.uint8)


def smoothed_face(face: Face) -> Face:
    """Return a face whose scores are the smoothed ones, which flicker less."""
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
_STEP_S = _AAC_FRAME / _AAC_RATES[-1]
_WITH_EDIT_LISTS = ("mp4", "mov", "ipod")


class SoundTrack:
    """The sound of an open container, written in step with the pictures.

    Packets are copied if the target's format supports their codec, else transcoded to AAC.
    """

    def __init__(self, source: Any, target: Any, window: Window) -> None:
        """Add a stream to ``target`` for the first sound track of ``source``."""
        self._stream = source.streams.audio[0]
        self._source = source
        self._target = target
        self._window = window
        self._clock = stream_clock(source, self._stream, _STEP_S)
        self._decoder = Decoder(source, self._stream)
        self._may_be_early = target.format.name in _WITH_EDIT_LISTS
        codec = self._stream.codec_context.codec
        # A codec's decoders have different names.
        name = getattr(codec, "canonical_name", codec.name)
        if name in target.supported_codecs:
            self._track = target.add_stream_from_template(self._stream)
            packets = self._copied_packets()
        else:
            rate = self._stream.rate if self._stream.rate in _AAC_RATES else _AAC_RATES[-1]
            self._track = target.add_stream("aac", rate=rate)
            # Some files give the number of channels without a layout.
            self._layout = "mono" if self._stream.layout.nb_channels == 1 else "stereo"
            self._track.layout = self._layout
            packets = self._encoded_packets()
        self._packets = (packet for packet in packets if packet.pts is not None)
        self._next: Any = next(self._packets, None)

    def write_until(self, time_s: float | None) -> None:
        """Write the sound up to a time in seconds after the window's start, or all of it."""
        while (packet := self._next) is not None:
            if time_s is not None and float((packet.pts or 0) * packet.time_base) >= time_s:
                return
            self._next = next(self._packets, None)
            packet.stream = self._track
            try:
                self._target.mux(packet)
            except load_av().error.InvalidDataError:  # damaged: leaves one packet of silence
                continue

    def _read_packets(self) -> Iterator[Any]:
        """Yield the source's packets from the window's start until their end or an error."""
        if self._window.start > 0 and has_index(self._stream):
            target = round((self._window.start - self._clock.shift_s) / self._stream.time_base)
            try:
                self._source.seek(max(0, target), stream=self._stream)
            except (load_av().error.FFmpegError, OSError):
                return
        yield from self._decoder.packets()

    def _since_start(self, stamp: int, time_base: Any) -> float:
        """Return the time of the next time stamp, in seconds after the window's start."""
        return self._clock.time_of(float(stamp * time_base)) - self._window.start

    def _copied_packets(self) -> Iterator[Any]:
        base = self._stream.time_base
        for packet in self._read_packets():
            if packet.pts is None:
                continue
            start_s = self._since_start(packet.pts, base)
            # MP4 can store packets before the start (the codec's priming), which players skip;
            # other formats would delay everything by them.
            if start_s < 0 and not self._may_be_early:
                continue
            end_s = start_s + float((packet.duration or 0) * base)
            if end_s <= 0 and self._window.start > 0:
                continue
            if self._window.ends_before(self._window.start + start_s):
                return
            packet.pts = packet.dts = round(start_s / base)
            yield packet

    def _encoded_packets(self) -> Iterator[Any]:
        audio_format: tuple[Any, ...] = ()
        resampler: Any = None
        for frame in self._decoded_frames():
            # A resampler accepts a single format, and broadcasts change theirs.
            frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
            if resampler is None or frame_format != audio_format:
                yield from self._encode(resampler, None)
                audio_format, resampler = frame_format, self._new_resampler()
            yield from self._encode(resampler, frame)
        yield from self._encode(resampler, None)
        yield from self._track.encode(None)

    def _new_resampler(self) -> Any:
        return load_av().AudioResampler(
            format="fltp", layout=self._layout, rate=self._track.rate, frame_size=_AAC_FRAME
        )

    def _encode(self, resampler: Any, frame: Any) -> Iterator[Any]:
        """Yield the encoded packets of a frame; None flushes the resampler."""
        for resampled in [] if resampler is None else resampler.resample(frame):
            yield from self._track.encode(resampled)

    def _decoded_frames(self) -> Iterator[Any]:
        """Yield the window's decoded sound, with times from its start."""
        for frame in self._decoder.frames(self._read_packets()):
            if frame.pts is None:
                continue
            start_s = self._since_start(frame.pts, frame.time_base)
            if start_s < 0:
                continue
            if self._window.ends_before(self._window.start + start_s):
                return
            frame.pts = round(start_s / frame.time_base)
            yield frame
