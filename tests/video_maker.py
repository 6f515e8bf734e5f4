"""Writes small videos with PyAV: any times, rotated, with sound, as files or bytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

MILLISECOND = Fraction(1, 1000)
SIZE = (96, 128)
"""Height and width of the pictures."""


def numbered(number: int, size: tuple[int, int] = SIZE) -> Picture:
    """Grey picture whose level encodes its number, with a red upper left quarter."""
    picture = np.full((*size, 3), 40 + number * 5 % 200, np.uint8)
    picture[: size[0] // 2, : size[1] // 2] = (220, 20, 20)
    return picture


def number_in(picture: Picture) -> int:
    """The number that `numbered` encoded."""
    level = float(picture[picture.shape[0] * 3 // 4 :, picture.shape[1] * 3 // 4 :].mean())
    return round((level - 40) / 5)


def write_video(
    target: Path | io.BytesIO,
    times: Sequence[float],
    *,
    draw: Callable[[int], Picture] = numbered,
    sound: bool = False,
    form: str | None = None,
    group: int = 8,
    options: dict[str, str] | None = None,
    offset: float = 0.0,
    audio_codec: str = "aac",
    codec: str = "libx264",
    pixel: Fraction | None = None,
    cover: str | None = None,
) -> None:
    """Write a video with a frame at each of the times (seconds), H.264 with B-frames.

    ``pixel`` is the pixel aspect ratio. ``cover``, a codec, adds a still picture before the video.
    """
    import av

    opened: Any = av.open(
        str(target) if isinstance(target, Path) else target,
        "w",
        format=form,
        container_options=options or {},
    )
    with opened as container:
        still: Any = None if cover is None else container.add_stream(cover, rate=25)
        stream: Any = container.add_stream(codec, rate=25)
        first = draw(0)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        if pixel is not None:
            stream.codec_context.sample_aspect_ratio = pixel
        stream.codec_context.gop_size = group
        if codec == "libx264":  # others support few rates
            stream.codec_context.time_base = MILLISECOND
            stream.time_base = MILLISECOND
            stream.codec_context.options = {"preset": "ultrafast", "crf": "12"}
        stream.codec_context.max_b_frames = 2
        tone: Any = container.add_stream(audio_codec, rate=16000) if sound else None
        if tone is not None:
            tone.layout = "mono"
            tone.bit_rate = 64_000
            _write_tone(container, tone, times[-1] + 0.04)
        if still is not None:
            _write_still(container, still)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            frame.pts = round((time + offset) * 1000)
            frame.time_base = MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_still(container: Any, stream: Any) -> None:
    import av

    stream.height, stream.width = 64, 64
    stream.pix_fmt = "rgb24" if stream.codec_context.name == "png" else "yuvj420p"
    frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), format="rgb24")
    frame.pts = 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_cover(path: Path) -> None:
    """Write an MP4 file with only a still cover."""
    import av
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=25)
        stream.disposition = Disposition.attached_pic
        _write_still(container, stream)


def _write_tone(container: Any, stream: Any, seconds: float) -> None:
    import av

    samples = np.sin(np.arange(round(seconds * 16000)) * 0.17).astype(np.float32)
    for start in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(
            samples[None, start : start + 1024], format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        frame.pts = start
        frame.time_base = Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sound(path: Path) -> None:
    """Write a file with only sound."""
    import av

    with av.open(str(path), "w") as container:
        _write_tone(container, container.add_stream("aac", rate=16000), 1.0)


def turn_mp4(path: Path, clockwise: int) -> None:
    """Write a rotation into the track header of an MP4 file."""
    one = 1 << 16
    a, b, c, d = {
        90: (0, one, -one, 0),
        180: (-one, 0, 0, -one),
        270: (0, -one, one, 0),
    }[clockwise]
    content = path.read_bytes()
    upright = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    # The movie header contains the same matrix before the track header, which is the one used.
    place = content.index(upright, content.index(b"tkhd"))
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:place] + turned + content[place + len(turned) :])


def even_times(count: int, rate: float = 25.0) -> list[float]:
    """The times of frames at an even rate."""
    return [number / rate for number in range(count)]


def times_in(path: Path) -> list[float]:
    """The times of the frames in a file, from its start."""
    import av

    with av.open(str(path)) as container:
        start = (container.start_time or 0) / 1e6
        return [float(frame.time or 0) - start for frame in container.decode(video=0)]


def joined(parts: Iterable[Picture]) -> Picture:
    """Pictures side by side."""
    return np.concatenate(list(parts), axis=1)


class SteppedClock:
    """Clock that advances with each sleep, and slightly with each call."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now += 1e-4
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
