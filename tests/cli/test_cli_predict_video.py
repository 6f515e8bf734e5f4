from __future__ import annotations

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from mien.cli.main import main
from mien.cli.paths import is_video
from mien.core.results import table_columns
from mien.video.reader import probe
from video_maker import even_times, write_sound, write_video

pytest.importorskip("av")

Run = tuple[int, str, str]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds; with --detector none each frame is a face."""
    path = tmp_path / "clip.mp4"
    write_video(path, even_times(50), sound=True)
    return path


@pytest.fixture
def run(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``mien predict`` with the tiny model, each frame a face."""

    def run(*arguments: str | Path, detector: str = "none") -> Run:
        options = ["--model", str(tiny_model), "--detector", detector]
        code = main(["predict", *(str(word) for word in arguments), *options])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_only_live_views_import_rich(tiny_model: Path, clip: Path) -> None:
    words = ["predict", str(clip), "--model", str(tiny_model), "--detector", "none"]
    code = (
        "import sys\n"
        "from mien.cli.main import main\n"
        f"assert main({words!r}) == 0\n"
        "assert 'rich' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize(
    "word",
    [
        "a.mp4",
        "A.MOV",
        "x/b.mkv",
        "a.QT",
        "a.3g2",
        "a.h264",
        "http://host/a.mpd",
        "rtsp://host/live",
        "TCP://host:5000",
        "http://host/a.mp4?x=1",
        "0",
        "12",
        "-1",
    ],
)
def test_videos_are_recognized_by_name(word: str) -> None:
    assert is_video(word)


@pytest.mark.parametrize("word", ["a.jpg", "folder", "-", "http://host/a.jpg", "*.png", "a.gif"])
def test_other_inputs_are_not_videos(word: str) -> None:
    assert not is_video(word)


def test_a_file_named_0_is_not_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").touch()
    (tmp_path / "frames.mp4").mkdir()
    assert not is_video("0")
    assert not is_video("frames.mp4")


def test_json_has_frames_and_people(clip: Path, run: Any) -> None:
    code, out, _ = run(clip, "--every", "0.5", "--format", "json")
    video = json.loads(out)
    assert code == 0
    assert (video["schema"], video["source"]) == ("mien-video/1", str(clip))
    assert [frame["time_s"] for frame in video["frames"]] == [0.0, 0.52, 1.0, 1.52]
    assert [frame["frame"] for frame in video["frames"]] == [0, 13, 25, 38]
    face = video["frames"][1]["faces"][0]
    assert face["track_id"] == 0
    assert set(face["smoothed"]) == {"emotion", "confidence", "scores"}
    (person,) = video["people"]
    assert person["frames"] == 4
    assert person["episodes"][0]["start_s"] == 0.0


def test_several_videos_are_a_list(clip: Path, tmp_path: Path, run: Any) -> None:
    code, out, err = run(clip, tmp_path / "none.mp4", clip, "--every", "1", "--format", "json")
    first, missing, _ = json.loads(out)
    assert code == 6
    assert len(first["frames"]) == 2
    assert missing["frames"][0]["status"] == "unreadable"
    assert missing["people"] == []
    assert "no such file" in err


@pytest.mark.parametrize("arguments", [["v/*.mp4"], ["v"], ["v/*", "--video"], ["v", "--video"]])
def test_patterns_and_folders_expand_to_videos(
    clip: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v").mkdir()
    for name in ("b.mp4", "a.mp4"):
        shutil.copy(clip, tmp_path / "v" / name)
    code, out, _ = run(*arguments, "--every", "1", "--format", "json")
    assert code == 0
    assert [Path(video["source"]).as_posix() for video in json.loads(out)] == [
        "v/a.mp4",
        "v/b.mp4",
    ]


def test_a_folder_gives_a_list_and_a_failed_video_exits_with_6(
    clip: Path, tmp_path: Path, run: Any
) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    shutil.copy(clip, folder / "A.MOV")
    code, out, _ = run(tmp_path / "deep", "--every", "1", "--format", "json")
    assert (code, len(json.loads(out))) == (0, 1)
    (folder / "b.vob").write_text("no video")
    code, out, err = run(tmp_path / "deep", "--every", "1", "--format", "jsonl")
    assert code == 6
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["ok", "ok", "unreadable"]
    assert "b.vob: not a video" in err


def test_images_and_videos_of_a_folder_are_not_mixed(clip: Path, run: Any) -> None:
    cv2.imwrite(str(clip.parent / "photo.png"), np.full((48, 48, 3), 90, np.uint8))
    code, out, _ = run(clip.parent, "--format", "jsonl")
    assert (code, Path(json.loads(out)["source"]).name) == (0, "photo.png")
    code, out, err = run(clip.parent, "--video", "--every", "1", "--format", "csv")
    assert (code, out.count("clip.mp4")) == (0, 2)
    assert "skipped images because of --video: 1" in err
    code, _, err = run(clip.parent / "*")
    assert code == 2
    assert "give videos and images in separate commands" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["none/*.mp4", "--video"], "no file matches"), (["empty", "--video"], "no video in this")],
)
def test_a_pattern_or_a_folder_without_videos_is_one_line(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, err = run(*arguments)
    assert code == 3
    assert text in err
    assert err.count("\n") == 1


def test_each_of_several_videos_has_its_own_files(clip: Path, tmp_path: Path, run: Any) -> None:
    for name in ("a", "b"):
        (tmp_path / "v" / name).mkdir(parents=True)
        shutil.copy(clip, tmp_path / "v" / name / "clip.mp4")
    options = ["--annotate", tmp_path / "out", "--timeline", tmp_path / "out"]
    code, _, _ = run(tmp_path / "v", "--every", "1", *options, "--episodes", tmp_path / "e.json")
    assert code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "clip.annotated.mp4",
        "clip-2.annotated.mp4",
        "clip.timeline.png",
        "clip-2.timeline.png",
    }
    assert len(json.loads((tmp_path / "e.json").read_text())) == 2


def test_csv_has_raw_and_smoothed_scores(clip: Path, run: Any) -> None:
    code, out, _ = run(clip, "--start", "0:01", "--end", "1.2", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert tuple(rows[0]) == table_columns(smoothed=True)
    assert [row["frame"] for row in rows] == ["25", "26", "27", "28", "29"]
    assert rows[0]["smoothed_happy"] == rows[0]["happy"]
    assert rows[3]["smoothed_emotion"]


def test_frames_without_a_face_have_rows_and_exit_4(clip: Path, run: Any) -> None:
    code, out, err = run(clip, "--every", "1", "--format", "jsonl", detector="haar")
    assert code == 4
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["no_face"] * 2
    assert "no face found in any of 2 frames" in err


def test_parquet_has_the_columns_of_csv(clip: Path, tmp_path: Path, run: Any) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    code, out, err = run(clip, "--every", "0.5", "--output", tmp_path / "r.parquet")
    assert (code, out) == (0, "")
    table = parquet.read_table(tmp_path / "r.parquet")
    assert tuple(table.schema.names) == table_columns(smoothed=True)
    assert table["time_s"].to_pylist() == [0.0, 0.52, 1.0, 1.52]
    assert "PERSON" in err
    assert "4 frames" in err


@pytest.mark.parametrize("shape", ["tsv", "xlsx"])
def test_other_tables_have_the_columns_of_csv(
    clip: Path, tmp_path: Path, run: Any, shape: str
) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    path = tmp_path / f"r.{shape}"
    assert run(clip, "--every", "0.5", "--output", path)[0] == 0
    if shape == "tsv":
        header, *rows = csv.reader(io.StringIO(path.read_text("utf-8")), delimiter="\t")
    else:
        header, *rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    assert tuple(header) == table_columns(smoothed=True)
    assert [float(row[2]) for row in rows] == [0.0, 0.52, 1.0, 1.52]


def test_a_table_lists_episodes(clip: Path, run: Any) -> None:
    code, out, _ = run(clip, "--every", "0.5", "--format", "table")
    header, first, *_ = out.splitlines()
    assert code == 0
    assert header.split() == ["PERSON", "FROM", "TO", "EMOTION", "CONFIDENCE", "FRAMES"]
    assert first.split()[:2] == ["#0", "0:00.0"]


def test_all_outputs_of_one_run(clip: Path, tmp_path: Path, run: Any) -> None:
    code, _, err = run(
        clip,
        *("--every", "0.5s", "--output", tmp_path / "r.jsonl", "--annotate", tmp_path / "out"),
        *("--timeline", tmp_path / "t.png", "--episodes", tmp_path / "e.json"),
    )
    assert code == 0
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 4
    info = probe(tmp_path / "out" / "clip.annotated.mp4")
    assert (info.frames, info.has_sound) == (50, True)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "e.json").read_text())["people"][0]["frames"] == 4
    assert all(word in err for word in ("annotated:", "timeline:", "episodes:"))


def test_a_baseline_events_and_a_comparison(clip: Path, tmp_path: Path, run: Any) -> None:
    (tmp_path / "m.csv").write_text("start,end,label\n0,1,one\n1,1.5,two\n")
    other = tmp_path / "other.mp4"
    shutil.copy(clip, other)
    arguments = [
        *(clip, other, "--every", "0.1", "--end", "1.5", "--output", tmp_path / "r.csv"),
        *("--baseline", "0:0.5"),
        *("--markers", tmp_path / "m.csv", "--events", tmp_path / "e.csv"),
        *("--compare", tmp_path / "c.csv", "--compare", tmp_path / "c.png"),
    ]
    for _ in range(2):  # the second run replaces what the first one wrote
        code, _, err = run(*arguments)
        assert code == 0
    assert "stay raw" not in err
    assert [line for line in err.splitlines() if line.endswith(".mp4")] == [str(clip), str(other)]
    rows, events, compared = (
        list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in "rec"
    )
    assert tuple(rows[0]) == table_columns(smoothed=True, corrected=True)
    assert {row["corrected_emotion"] for row in rows[:5]} == {"neutral"}
    times = [float(row["time_s"]) for row in rows if row["source"] == str(clip)]
    assert times == sorted(times)
    assert len(times) == 15
    assert [(row["label"], row["track_id"]) for row in events] == [("one", "0"), ("two", "0")] * 2
    assert events[0]["seconds"] == "1.0"
    assert [row["source"] for row in compared] == [str(clip), str(other)]
    assert compared[0]["corrected_valence"] == compared[1]["corrected_valence"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_people_without_a_baseline_are_reported(clip: Path, run: Any) -> None:
    arguments = (clip, "--start", "1", "--baseline", "0:0.5", "--every", "0.5", "--format", "jsonl")
    code, out, err = run(*arguments)
    assert code == 0
    assert "corrected" not in out
    assert "not seen in the baseline (0 to 0.5 s), scores stay raw: #0" in err


def test_a_truncated_file_gives_its_frames_and_exits_with_6(
    clip: Path, tmp_path: Path, run: Any
) -> None:
    write_video(tmp_path / "a.mkv", even_times(50))
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) // 2])
    code, out, err = run(tmp_path / "a.mkv", "--format", "jsonl")
    results = [json.loads(line) for line in out.splitlines()]
    assert code == 6
    assert [result["status"] for result in results[:-1]] == ["ok"] * (len(results) - 1)
    assert results[-1]["status"] == "unreadable"
    assert results[-1]["time_s"] == results[-2]["time_s"]
    assert err.startswith("mien: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["none.mp4"], 3, "no such file"),
        (["song.m4a", "--video"], 3, "contains only sound"),
        (["text.mp4"], 3, "not a video"),
        (["", "--video"], 3, "an input's name is empty"),
        (["clip.mp4", "--start", "9"], 3, "is after its end"),
        (["97"], 3, "camera 97: no such camera"),
        (["clip.mp4", "photo.jpg"], 2, "give videos and images in separate commands"),
        (["photo.jpg", "--every", "1"], 2, "--every is for videos"),
        (["clip.mp4", "--every", "0"], 2, "more than 0 seconds"),
        (["clip.mp4", "--start", "soon"], 2, "expected a time"),
        (["clip.mp4", "--start", "2", "--end", "1"], 2, "an end after the start"),
        (["clip.mp4", "--smooth=-1"], 2, "--smooth: expected a number from 0"),
        (["clip.mp4", "--compat", "fer"], 2, "--compat is for images"),
        (["clip.mp4", "--resume", "--output", "r.csv"], 2, "--resume is for images"),
        (["clip.mp4", "--format", "parquet"], 2, "Parquet needs --output FILE.parquet"),
        (["clip.mp4", "--timeline", "t.doc"], 2, "--timeline: expected a name ending in"),
        (["clip.mp4", "clip.mp4", "--timeline", "t.png"], 2, "--timeline as a folder"),
        (["clip.mp4", "clip.mp4", "--annotate", "t.mp4"], 2, "--annotate as a folder"),
        (["clip.mp4", "--annotate", "clip.mp4"], 2, "would overwrite"),
        (["clip.mp4", "--baseline", "5:0"], 2, "an end after the start"),
        (["clip.mp4", "--baseline", "0:01:02"], 2, "expected FROM:TO"),
        (["clip.mp4", "--events", "e.csv"], 2, "--markers FILE.csv and --events"),
        (["clip.mp4", "--markers", "m.csv", "--events", "e.csv"], 3, "cannot read m.csv"),
        (["photo.jpg", "--baseline", "0:5"], 2, "--baseline is for videos"),
        (["clip.mp4", "--compare", "c.doc"], 2, "--compare: expected a name ending in"),
    ],
)
def test_invalid_video_arguments_are_one_line(
    clip: Path,
    tmp_path: Path,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sound(tmp_path / "song.m4a")
    (tmp_path / "text.mp4").write_text("hello " * 50)
    found, _, err = run(*arguments)
    assert found == code
    assert text in err
    assert err.count("\n") == 1


def test_logins_in_addresses_are_not_shown(run: Any) -> None:
    code, out, err = run("rtsp://me:secret@127.0.0.1:9/live", "--format", "jsonl")
    assert code == 3
    assert json.loads(out)["source"] == "rtsp://127.0.0.1:9/live"
    assert "secret" not in out + err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "127.0.0.1 is not on the public internet: --allow-private allows it"),
        (["--allow-private"], "cannot be opened"),
    ],
)
def test_videos_of_private_hosts_need_allow_private(
    run: Any, arguments: list[str], text: str
) -> None:
    code, out, err = run("http://me:secret@127.0.0.1:9/a.mp4", "--format", "jsonl", *arguments)
    assert code == 3
    assert text in err
    assert err.count("\n") == 1
    assert json.loads(out)["status"] == "unreadable"
    assert "secret" not in out + err


class _Camera:
    """Replaces OpenCV's camera; Ctrl-C comes at its tenth picture."""

    def __init__(self, _: int) -> None:
        self._pictures = count()

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def read(self) -> tuple[bool, npt.NDArray[np.uint8]]:
        if next(self._pictures) == 10:
            raise KeyboardInterrupt
        return True, np.full((48, 64, 3), 90, np.uint8)

    def release(self) -> None:
        """Nothing is held."""


def test_ctrl_c_ends_a_camera_and_keeps_its_results(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", _Camera)
    code, _, _ = run("0", "--output", tmp_path / "r.csv", "--annotate", tmp_path)
    assert code == 0
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 11
    assert probe(tmp_path / "camera-0.annotated.mp4").frames == 10


def test_a_window_shows_each_frame_until_q(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, ...]] = []
    closed: list[bool] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "VideoCapture", _Camera)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:    QT5\n")
    opened: list[Any] = []
    monkeypatch.setattr(cv2, "namedWindow", lambda *arguments: opened.append(arguments))
    monkeypatch.setattr(cv2, "resizeWindow", lambda _, *size: opened.append(size))
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: shown.append(picture.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 4 else -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: closed.append(True))
    code, _, _ = run("0", "--show", "--output", tmp_path / "r.csv")
    assert (code, shown, closed) == (0, [(480, 640, 3)] * 4, [True])  # enlarged
    assert [each[0] for each in opened] == ["mien: 0", 640]
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("information", "display", "message"),
    [
        ("  GUI:            NONE\n", ":0", "pip uninstall opencv-python-headless, then"),
        pytest.param(
            *("  GUI:    QT5\n", "", "needs a display"),
            marks=pytest.mark.skipif(sys.platform != "linux", reason="others have one"),
        ),
    ],
)
def test_missing_window_support_is_one_line(
    run: Any, monkeypatch: pytest.MonkeyPatch, information: str, display: str, message: str
) -> None:
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: information)
    code, out, err = run("0", "--show")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_show_is_rejected_for_pictures(run: Any) -> None:
    code, _, err = run("a.png", "--show")
    assert code == 2
    assert "--annotate DIR" in err


# The command, which takes so long that even a busy machine sends the signal before its end.
SLOW = """
import sys, time
from mien.inference.detectors import NoDetector
usual = NoDetector.detect
def detect(self, image):
    time.sleep(0.02)
    return usual(self, image)
NoDetector.detect = detect
from mien.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_partial_output(
    tmp_path: Path, tiny_model: Path, number: signal.Signals
) -> None:
    write_video(tmp_path / "a.mkv", even_times(2000))
    arguments = ["predict", "a.mkv", "--model", str(tiny_model), "--detector", "none"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments, "--output", "r.csv", "--annotate", "b.mp4"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )

    def parts() -> Iterator[Path]:
        return tmp_path.glob(".b.mp4.*")

    waited = threading.Event()
    while process.poll() is None and not any(part.stat().st_size for part in parts()):
        waited.wait(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().strip() == "mien: interrupted"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]
