from __future__ import annotations

import sys
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.api import Recognizer
from mien.core.errors import MissingExtra, OutputError
from mien.video.frames import Window
from mien.video.reader import probe, read_video
from mien.video.writer import smoothed_face, write_annotated
from video_maker import Picture, even_times, numbered, times_in, turn_mp4, write_video
from video_results import face

pytest.importorskip("av")

UNEVEN = [0.0, 0.1, 0.3, 0.34, 0.38, 1.0, 1.5, 1.52, 2.0]


def _annotate(source: Path, target: Path, window: Window | None = None) -> None:
    window = window or Window()
    info = probe(source)
    sound_of = str(source) if info.has_sound else None
    with write_annotated(target, info, window=window, sound_of=sound_of) as video:
        for frame in read_video(source, window):
            video.write(frame, ())


def _sound(path: Path) -> tuple[str, list[tuple[float, bytes]]]:
    import av

    with av.open(str(path)) as container:
        stream: Any = container.streams.audio[0]
        packets = [one for one in container.demux(stream) if one.pts is not None]
        return stream.codec_context.name, [
            (float(one.pts * stream.time_base), bytes(one)) for one in packets
        ]


@pytest.mark.parametrize("kinds", ["mp4 mp4", "mp4 mkv", "mkv mp4", "mkv mkv", "ts mp4"])
def test_frame_times_are_kept(tmp_path: Path, kinds: str) -> None:
    source, target = (
        tmp_path / f"{name}.{kind}" for name, kind in zip("ab", kinds.split(), strict=True)
    )
    write_video(source, UNEVEN, sound=True)
    _annotate(source, target)
    assert times_in(target) == pytest.approx(times_in(source), abs=1e-3)
    info = probe(target)
    assert info.has_sound
    assert (info.width, info.height) == (640, 480)  # small pictures are enlarged


def test_sound_is_copied_byte_for_byte(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", UNEVEN, sound=True)
    _annotate(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert _sound(tmp_path / "b.mp4") == _sound(tmp_path / "a.mp4")


def test_unsupported_sound_is_transcoded(tmp_path: Path) -> None:
    write_video(tmp_path / "a.wmv", even_times(50), sound=True, audio_codec="wmav2")
    _annotate(tmp_path / "a.wmv", tmp_path / "b.mp4")
    codec, packets = _sound(tmp_path / "b.mp4")
    assert codec == "aac"
    assert packets[-1][0] == pytest.approx(2.0, abs=0.15)


def test_picture_and_sound_of_a_window_start_at_zero(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", UNEVEN, sound=True)
    _annotate(tmp_path / "a.mp4", tmp_path / "b.mp4", Window(0.34, 1.5))
    assert times_in(tmp_path / "b.mp4") == pytest.approx([0.0, 0.04, 0.66], abs=1e-3)
    before, after = _sound(tmp_path / "a.mp4")[1], _sound(tmp_path / "b.mp4")[1]
    moved = {content: time for time, content in before}
    assert all(moved[content] - time == pytest.approx(0.34, abs=1e-3) for time, content in after)
    assert after[-1][0] == pytest.approx(1.16, abs=0.07)


def test_sound_of_concatenated_recordings_is_continuous(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", even_times(50), sound=True)
    (tmp_path / "a.mkv").write_bytes((tmp_path / "a.mkv").read_bytes() * 2)
    _annotate(tmp_path / "a.mkv", tmp_path / "b.mp4")
    assert times_in(tmp_path / "b.mp4")[-1] == pytest.approx(99 / 25, abs=0.1)
    times = [time for time, _ in _sound(tmp_path / "b.mp4")[1]]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(4.0, abs=0.25)


def test_a_damaged_packet_of_sound_is_skipped(tmp_path: Path) -> None:
    import av

    write_video(tmp_path / "a.ts", even_times(50), sound=True)
    content = bytearray((tmp_path / "a.ts").read_bytes())
    with av.open(str(tmp_path / "a.ts")) as container:
        packet = bytes(list(container.demux(audio=0))[3])
    place = content.index(packet[:16])
    content[place : place + 2] = b"\0\0"  # the sync word of an ADTS frame
    (tmp_path / "a.ts").write_bytes(content)
    _annotate(tmp_path / "a.ts", tmp_path / "b.mp4")
    assert probe(tmp_path / "b.mp4").frames == 50
    assert len(_sound(tmp_path / "b.mp4")[1]) >= 28


def test_a_video_without_sound_has_none(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", even_times(5))
    _annotate(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert not probe(tmp_path / "b.mp4").has_sound


def test_a_rotated_video_is_written_upright_with_even_sides(tmp_path: Path) -> None:
    def odd(number: int) -> Picture:
        return np.full((700, 498, 3), 90 + number, np.uint8)

    write_video(tmp_path / "a.mp4", even_times(3), draw=odd)
    turn_mp4(tmp_path / "a.mp4", 90)
    _annotate(tmp_path / "a.mp4", tmp_path / "b.mp4")
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height) == (700, 498)


def test_an_anamorphic_video_is_written_with_square_pixels(tmp_path: Path) -> None:
    size = (480, 720)
    draw = partial(numbered, size=size)
    write_video(tmp_path / "a.mp4", even_times(3), draw=draw, pixel=Fraction(32, 27))
    _annotate(tmp_path / "a.mp4", tmp_path / "b.mp4")
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height) == (852, 480)  # 853, made even


def test_faces_are_drawn(tmp_path: Path) -> None:
    def plain(_: int) -> Picture:
        return np.full((480, 640, 3), 90, np.uint8)

    write_video(tmp_path / "a.mp4", even_times(3), draw=plain)
    info = probe(tmp_path / "a.mp4")
    with write_annotated(tmp_path / "b.mp4", info, window=Window()) as video:
        for frame in read_video(tmp_path / "a.mp4"):
            video.write(frame, [face(0, "happy")] if frame.number == 1 else [])
    spread = [float(frame.pixels.std()) for frame in read_video(tmp_path / "b.mp4")]
    assert spread[1] > 3 > max(spread[0], spread[2])


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", even_times(3))
    info = probe(tmp_path / "a.mp4")
    with (
        pytest.raises(RuntimeError, match="stop"),
        write_annotated(tmp_path / "b.mp4", info, window=Window()),
    ):
        raise RuntimeError("stop")
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot write"),
        write_annotated(tmp_path / "file" / "b.mp4", info, window=Window()),
    ):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "file"}


def test_smoothed_face(red_recognizer: Recognizer) -> None:
    seen = face(1, "happy")
    assert smoothed_face(seen).emotion == "happy"
    assert smoothed_face(seen).track_id == 1


def test_a_missing_pyav_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with (
        pytest.raises(MissingExtra, match=r"mien\[video\]"),
        write_annotated(tmp_path / "b.mp4", None, window=Window()),
    ):
        pass
