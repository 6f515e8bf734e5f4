from __future__ import annotations

import struct
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien.core.errors import InputError, MissingExtra
from mien.video.frames import BrokenVideo, VideoFrame, Window
from mien.video.reader import probe, read_video
from video_maker import (
    even_times,
    number_in,
    numbered,
    turn_mp4,
    write_cover,
    write_sound,
    write_video,
)

# ---------------------------------------------------------------- reading
pytest.importorskip("av")

UNEVEN = [0.0, 0.02, 0.12, 0.42, 0.46, 0.5, 0.8, 1.3, 1.32, 1.34, 1.4, 1.7, 2.0, 2.04, 2.34, 2.4]
UNEVEN += [2.5, 2.8, 2.82, 3.1, 3.14, 3.2, 3.5]


def _broken(path: Path) -> tuple[list[VideoFrame], BrokenVideo]:
    frames = []
    try:
        for frame in read_video(path):
            frames.append(frame)
    except BrokenVideo as error:
        return frames, error
    raise AssertionError("expected the video to be broken")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_each_frame_has_its_own_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, UNEVEN)
    frames = [(frame.number, frame.time_s, number_in(frame.pixels)) for frame in read_video(path)]
    assert [number for number, _, _ in frames] == list(range(len(UNEVEN)))
    assert [seen for _, _, seen in frames] == list(range(len(UNEVEN)))
    assert [time for _, time, _ in frames] == pytest.approx(UNEVEN, abs=1e-3)


def test_times_count_from_the_start_of_the_video(tmp_path: Path) -> None:
    path = tmp_path / "late.ts"
    write_video(path, even_times(10), offset=7.0)
    assert [frame.time_s for frame in read_video(path)] == pytest.approx(even_times(10), abs=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("start", [0.05, 0.5, 1.31, 1.34, 2.0, 3.5])
def test_seeking_keeps_frame_numbers(tmp_path: Path, suffix: str, start: float) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, UNEVEN)
    first = next(number for number, time in enumerate(UNEVEN) if time >= start)
    frames = list(read_video(path, Window(start)))
    assert [frame.number for frame in frames] == list(range(first, len(UNEVEN)))
    assert number_in(frames[0].pixels) == first


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
@pytest.mark.parametrize("offsets", [(0.0, 0.0), (1000.0, 3.0), (0.0, 40_000.0), (95_440.0, 0.0)])
def test_concatenated_recordings_have_continuous_times(
    tmp_path: Path, suffix: str, offsets: tuple[float, float]
) -> None:
    path = tmp_path / f"both{suffix}"
    parts = []
    for offset in offsets:
        write_video(path, even_times(20, 10), offset=offset, sound=suffix == ".ts")
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    frames = list(read_video(path))
    begins = frames[0].time_s  # sound has priming
    assert [frame.time_s - begins for frame in frames] == pytest.approx(
        even_times(40, 10), abs=1e-3
    )
    assert [number_in(frame.pixels) for frame in frames] == [*range(20), *range(20)]
    for start in (0.45, 1.75, 2.55):
        later = [(frame.number, frame.time_s) for frame in read_video(path, Window(start))]
        assert later == [(one.number, one.time_s) for one in frames if one.time_s >= start]


def test_open_groups_keep_frame_numbers(tmp_path: Path) -> None:
    path = tmp_path / "open_groups.ts"
    write_video(path, even_times(40), codec="mpeg2video")
    frames = [(frame.number, frame.time_s) for frame in read_video(path)]
    later = [(frame.number, frame.time_s) for frame in read_video(path, Window(1.0))]
    assert later == frames[25:]


def test_a_window_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, even_times(30))
    frames = list(read_video(path, Window(0.2, 0.4)))
    assert [frame.number for frame in frames] == [5, 6, 7, 8, 9]


def test_a_start_after_the_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, even_times(30))
    with pytest.raises(InputError, match=r"the start, 9 s, is after its end, 1\.20 s"):
        list(read_video(path, Window(9.0)))


def test_a_start_after_the_last_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, even_times(30))
    with pytest.raises(InputError, match=r"no frame lies between 1\.17 and 1\.2 s"):
        list(read_video(path, Window(1.17)))


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_a_rotated_video_is_upright(tmp_path: Path, clockwise: int) -> None:
    path = tmp_path / "turned.mp4"
    write_video(path, even_times(3))
    stored = next(read_video(path)).pixels.astype(int)
    turn_mp4(path, clockwise)
    shown = next(read_video(path)).pixels.astype(int)
    np.testing.assert_array_equal(shown, np.rot90(stored, -clockwise // 90))
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]


@pytest.mark.parametrize(
    ("pixel", "size"),
    [
        ("64/45", (96, 182)),
        ("2", (96, 256)),
        ("1/2", (192, 128)),
        ("8/9", (108, 128)),
        ("1", (96, 128)),
        ("1/10000", (96, 128)),
        ("10000", (96, 128)),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_plausible_pixel_aspect_ratios_are_applied(
    tmp_path: Path, suffix: str, pixel: str, size: tuple[int, int]
) -> None:
    path = tmp_path / f"wide{suffix}"
    write_video(path, even_times(3), pixel=Fraction(pixel))
    info, frames = probe(path), list(read_video(path))
    assert (info.height, info.width) == size
    assert [frame.pixels.shape for frame in frames] == [(*size, 3)] * 3
    # The red quarter is where it was.
    red = frames[0].pixels[..., 0].astype(int) - frames[0].pixels[..., 1] > 100
    assert red[: size[0] // 2 - 4, : size[1] // 2 - 4].all()
    assert not red[size[0] // 2 + 4 :].any()


def test_the_containers_aspect_ratio_takes_precedence(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, even_times(9), pixel=Fraction(64, 45))
    content = path.read_bytes()
    written = content.index(b"pasp") + 4
    path.write_bytes(content[:written] + struct.pack(">2I", 3, 2) + content[written + 8 :])
    assert {frame.pixels.shape for frame in read_video(path)} == {(96, 192, 3)}


def test_pixels_are_squared_before_rotation(tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    write_video(path, even_times(3), pixel=Fraction(2))
    turn_mp4(path, 90)
    info = probe(path)
    assert (info.width, info.height) == (96, 256)
    assert next(read_video(path)).pixels.shape == (256, 96, 3)


def test_aspect_ratio_and_size_may_change(tmp_path: Path) -> None:
    content = b""
    for pixel, size in (("64/45", (96, 128)), ("16/15", (96, 128)), ("1", (120, 160))):
        write_video(
            tmp_path / "part.ts",
            even_times(20),
            pixel=Fraction(pixel),
            draw=partial(numbered, size=size),
        )
        content += (tmp_path / "part.ts").read_bytes()
    (tmp_path / "all.ts").write_bytes(content)
    sizes = [frame.pixels.shape[:2] for frame in read_video(tmp_path / "all.ts")]
    assert len(sizes) == 60
    assert [sizes[place] for place in (5, 30, 50)] == [(96, 182), (96, 137), (120, 160)]


@pytest.mark.parametrize(
    ("suffix", "cover"), [(".mp4", "png"), (".mp4", "mjpeg"), (".mkv", "mjpeg")]
)
def test_cover_pictures_are_skipped(tmp_path: Path, suffix: str, cover: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, even_times(9), cover=cover)
    assert (probe(path).width, len(list(read_video(path)))) == (128, 9)


@pytest.mark.parametrize("shown", [0, 1])
def test_the_default_stream_is_read(tmp_path: Path, shown: int) -> None:
    import av
    from av.stream import Disposition

    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.height, stream.width, stream.pix_fmt = 96, 128 + 32 * number, "yuv420p"
            stream.disposition = Disposition.default if number == shown else Disposition(0)
        for stream in streams:
            picture = numbered(0, (96, stream.width))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    assert probe(path).width == 128 + 32 * shown
    assert next(read_video(path)).pixels.shape == (96, 128 + 32 * shown, 3)


def test_frames_with_too_many_pixels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("reader", "frames"):
        monkeypatch.setattr(f"mien.video.{module}.MAX_PIXELS", 96 * 130)
    write_video(tmp_path / "fits.mp4", even_times(3))
    assert len(list(read_video(tmp_path / "fits.mp4"))) == 3
    write_video(tmp_path / "wide.ts", even_times(20), pixel=Fraction(2))
    write_video(tmp_path / "large.ts", even_times(20), draw=partial(numbered, size=(160, 128)))
    for name in ("wide.ts", "large.ts"):
        for read in (lambda path: next(read_video(path)), probe):
            with pytest.raises(InputError, match=r"its frames of \d+x\d+ are too large: expected"):
                read(tmp_path / name)
    parts = [(tmp_path / name).read_bytes() for name in ("large.ts", "wide.ts")]
    write_video(tmp_path / "grows.ts", even_times(20))
    for part in parts:
        content = (tmp_path / "grows.ts").read_bytes()
        (tmp_path / "part.ts").write_bytes(content + part)
        shown, _ = _broken(tmp_path / "part.ts")
        assert {frame.pixels.shape for frame in shown} == {(96, 128, 3)}
        assert len(shown) >= 18


def test_probe_reads_the_header(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, even_times(40), sound=True)
    info = probe(path)
    assert (info.width, info.height, info.frames, info.has_sound) == (128, 96, 40, True)
    assert info.duration_s == pytest.approx(1.6)
    assert info.rate == pytest.approx(25)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4"])
def test_a_truncated_file_is_read_as_far_as_possible(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    write_video(path, even_times(60), options=options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    frames, error = _broken(path)
    assert 10 < len(frames) < 50
    assert [number_in(frame.pixels) for frame in frames[:5]] == list(range(5))
    assert error.time_s == frames[-1].time_s
    assert "cut or damaged" in str(error)
    assert "of 2.40 s" in str(error)
    assert "\n" not in str(error)


def test_damage_in_the_middle_is_skipped_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "bad.mp4"
    write_video(path, even_times(60), options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    content[place : place + 1000] = bytes(1000)
    path.write_bytes(content)
    frames, error = _broken(path)
    assert 30 < len(frames) < 60
    assert frames[-1].time_s == pytest.approx(59 / 25)
    assert "damaged packets" in str(error)


def test_an_intact_file_is_not_broken(tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mkv", "three.ts"):
        write_video(tmp_path / name, [0.0, 0.9, 1.0], sound=True)
        assert len(list(read_video(tmp_path / name))) == 3


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    write_sound(tmp_path / "song.m4a")
    write_cover(tmp_path / "cover.mp4")
    write_video(tmp_path / "cut.mp4", even_times(20))
    content = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "empty.mp4").touch()
    expected = {
        "cover.mp4": "contains only a still picture, such as a cover: expected a video",
        "song.m4a": "contains only sound: expected a video",
        "cut.mp4": "its header is cut off or damaged",
        "text.mp4": "not a video",
        "empty.mp4": "not a video",
        "missing.mp4": "no such file",
        "": "cannot be opened: Is a directory",
    }
    for name, text in expected.items():
        for read in (lambda path: next(read_video(path)), probe):
            with pytest.raises(InputError) as caught:
                read(tmp_path / name)
            assert text in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_video_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.mkv"
    write_video(path, even_times(3))
    content = path.read_bytes()
    # Matroska stores frames in clusters, which start with this id.
    path.write_bytes(content[: content.index(b"\x1f\x43\xb6\x75")])
    with pytest.raises(InputError, match="ends before its first frame"):
        list(read_video(path))


def test_a_name_with_a_colon_is_a_file(tmp_path: Path) -> None:
    write_video(tmp_path / "http:clip.mp4", even_times(3))
    assert len(list(read_video(tmp_path / "http:clip.mp4"))) == 3


def test_a_missing_pyav_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingExtra, match=r"mien\[video\]"):
        next(read_video(tmp_path / "a.mp4"))
