"""Takes the sound of a video over into another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mien.video.extra import load_av
from mien.video.reading import clock_of, has_index
from mien.video.times import Window

_AAC_FRAME = 1024
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_TICK_S = _AAC_FRAME / _AAC_RATES[-1]
_WITH_EDIT_LISTS = ("mp4", "mov", "ipod")


class SoundTrack:
    """The sound of an open container, handed on as far as the pictures are.

    Packets go over as they are where the target's format can hold them; else they are encoded anew
    as AAC.
    """

    def __init__(self, source: Any, target: Any, window: Window) -> None:
        """Take the sound of ``source`` (its first track); a stream is added to ``target``."""
        self._stream = source.streams.audio[0]
        self._source = source
        self._target = target
        self._window = window
        self._clock = clock_of(source, self._stream, _TICK_S)
        self._may_be_early = target.format.name in _WITH_EDIT_LISTS
        codec = self._stream.codec_context.codec
        # Of the several decoders of a codec, each has a name of its own.
        name = getattr(codec, "canonical_name", codec.name)
        self.is_copied = name in target.supported_codecs
        if self.is_copied:
            self._track = target.add_stream_from_template(self._stream)
        else:
            rate = self._stream.rate if self._stream.rate in _AAC_RATES else _AAC_RATES[-1]
            self._track = target.add_stream("aac", rate=rate)
            # Some files say how many channels there are and not which: two at most can be told.
            self._layout = "mono" if self._stream.layout.nb_channels == 1 else "stereo"
            self._track.layout = self._layout
        self._packets = self._within()
        self._next: Any = next(self._packets, None)

    def write_until(self, time_s: float | None) -> None:
        """Hand over what is heard before a moment (seconds after the window's start), or all."""
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
        packets = self._copied() if self.is_copied else self._encoded()
        yield from (packet for packet in packets if packet.pts is not None)

    def _read(self) -> Iterator[Any]:
        """Yield the source's packets; one that cannot be read is the end, as for the pictures."""
        av = load_av()
        try:
            if self._window.start > 0 and has_index(self._stream):
                target = round((self._window.start - self._clock.shift_s) / self._stream.time_base)
                self._source.seek(max(0, target), stream=self._stream)
            yield from self._source.demux(self._stream)
        except (av.error.FFmpegError, OSError):
            return

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
        fitting: Any = None
        for frame in self._heard():
            # A resampler takes one kind of sound alone, and broadcasts change theirs.
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            if fitting is None or now != kind:
                yield from self._fitted(fitting, None)
                kind, fitting = now, self._resampler()
            yield from self._fitted(fitting, frame)
        yield from self._fitted(fitting, None)
        yield from self._track.encode(None)

    def _resampler(self) -> Any:
        return load_av().AudioResampler(
            format="fltp", layout=self._layout, rate=self._track.rate, frame_size=_AAC_FRAME
        )

    def _fitted(self, fitting: Any, frame: Any) -> Iterator[Any]:
        """Yield the packets of a frame; with None, of what the resampler holds back."""
        for piece in [] if fitting is None else fitting.resample(frame):
            yield from self._track.encode(piece)

    def _heard(self) -> Iterator[Any]:
        """Yield the window's decoded sound, its times counted from its start."""
        av = load_av()
        for packet in self._read():
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if frame.pts is None:
                    continue
                begins_s = self._since_start(frame.pts, frame.time_base)
                if begins_s < 0:
                    continue
                if self._window.ends_before(self._window.start + begins_s):
                    return
                frame.pts = round(begins_s / frame.time_base)
                yield frame
