"""``mien predict`` of videos, streams and cameras."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence

from mien.batch.listing import Input, walk_folder
from mien.cli.inputs import files_of, is_folder, is_pattern
from mien.cli.options import file_name, file_or_folder_name, number
from mien.cli.output import note
from mien.cli.urls import is_video_address, shown_address
from mien.core.errors import InputError, UsageError
from mien.core.file_types import PICTURE_SUFFIXES, VIDEO_SUFFIXES

_PATIENCE_S, _PATIENCE_ADDRESS_S = 5.0, 15.0
# As `mien.video.live.is_camera` has it, which brings OpenCV with it.
_NUMBER = re.compile(r"[+-]?\d{1,18}")


def add_video_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that concern videos, streams and cameras."""
    video = parser.add_argument_group(
        "videos, streams and cameras", "FILE.mp4, rtsp://..., http://.../clip.mp4, or a camera's 0"
    )
    video.add_argument(
        "--every", metavar="SECONDS", help="look at one frame in each so many seconds (all frames)"
    )
    video.add_argument("--start", metavar="TIME", help="from here on: seconds, mm:ss or h:mm:ss")
    video.add_argument("--end", metavar="TIME", help="up to here")
    video.add_argument(
        "--smooth",
        type=number(0, 1e6),
        default=0.5,
        metavar="SECONDS",
        help="time constant of each person's smoothed scores, 0 for none (%(default)s)",
    )
    video.add_argument(
        "--timeline",
        type=file_or_folder_name(*PICTURE_SUFFIXES),
        metavar="FILE.png",
        help="draw emotions over time, by person; or a folder for NAME.timeline.png",
    )
    video.add_argument(
        "--episodes",
        type=file_name(".json"),
        metavar="FILE.json",
        help="write who felt what from when to when",
    )
    video.add_argument(
        "--reconnect",
        type=number(0, 1e6),
        default=30.0,
        metavar="SECONDS",
        help="how long to try again when a stream is lost (%(default)s)",
    )
    video.add_argument(
        "--video",
        action="store_true",
        help="take the inputs as videos, whatever their names; of a folder, the videos in it",
    )


def videos_in(args: argparse.Namespace) -> list[Input]:
    """Return the videos that the command's words mean, in their order; none if they mean images.

    Raises:
        UsageError: if some are videos and some are not, or an option is for videos alone.
        InputError: if one has an address and ``--offline`` is given.
    """
    videos: list[Input] = []
    other: str | None = None
    for word in args.images:
        found, left_out = _videos_of(word, all_of_them=args.video)
        videos += found
        if args.video and is_folder(word) and (images := sum(1 for _ in walk_folder(word))):
            note(f"{word}: images left out, since --video is given: {images:,}", quiet=args.quiet)
        other = other or left_out
    if videos and other is not None:
        raise UsageError(
            f"{videos[0].source} is a video and {other} is not: give videos and images apart, "
            "or --video if it is one"
        )
    if not videos:
        for option in ("every", "start", "end", "timeline", "episodes"):
            if getattr(args, option) is not None:
                raise UsageError(
                    f"--{option} is for videos: none is given (--video takes any file)"
                )
    if args.offline:
        for one in videos:
            if "://" in one.source:
                raise InputError(
                    f"{shown_address(one.source)} is on the web and this is offline: give a file"
                )
    return videos


def is_video(word: str) -> bool:
    """Say by its name whether a word is a video file, a stream's address or a camera's number."""
    if "://" in word:
        return is_video_address(word)
    if _NUMBER.fullmatch(word):
        return not os.path.lexists(word)
    return word.lower().endswith(VIDEO_SUFFIXES) and not is_folder(word)


def _videos_of(word: str, *, all_of_them: bool) -> tuple[list[Input], str | None]:
    """Return the videos that a word means, and the first of what else it means.

    A folder with images in it means these, unless ``all_of_them`` says that words mean videos.
    """
    if is_folder(word):
        if not all_of_them and next(walk_folder(word), None) is not None:
            return [], word
        found = list(files_of(word, VIDEO_SUFFIXES, kind="video"))
        is_empty = found[0].problem is not None and not all_of_them
        return ([], word) if is_empty else (found, None)
    if not is_pattern(word):
        return ([Input(word, word)], None) if all_of_them or is_video(word) else ([], word)
    found = list(files_of(word))
    videos = [one for one in found if all_of_them or (one.content and is_video(one.source))]
    others = (one.source for one in found if one not in videos)
    return videos, next(others, None)


def run_videos(args: argparse.Namespace, shape: str, videos: Sequence[Input]) -> int:
    """Read the videos one after the other, as ``shape`` says; return the exit code."""
    from mien.cli.stopping import stopping_in_time
    from mien.cli.video_run import run

    # What comes over a network is waited for longer: its results so far are kept.
    patience_s = _PATIENCE_ADDRESS_S if any("://" in one.source for one in videos) else _PATIENCE_S
    with stopping_in_time(patience_s) as stop:
        return run(args, shape, videos, stop)
