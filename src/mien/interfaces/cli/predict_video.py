"""``mien predict`` of videos, streams and cameras."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from mien.core.errors import InputError, UsageError
from mien.interfaces.cli.urls import is_video_address, shown_address

_PLAYLISTS = (".m3u8", ".mpd", ".mjpg", ".mjpeg")


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
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="time constant of each person's smoothed scores, 0 for none (%(default)s)",
    )
    video.add_argument(
        "--timeline", type=Path, metavar="FILE.png", help="draw emotions over time, by person"
    )
    video.add_argument(
        "--episodes", type=Path, metavar="FILE.json", help="write who felt what from when to when"
    )
    video.add_argument(
        "--reconnect",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long to try again when a stream is lost (%(default)s)",
    )
    video.add_argument(
        "--video", action="store_true", help="take the inputs as videos, whatever their names"
    )


def has_video(args: argparse.Namespace) -> bool:
    """Say whether the command's inputs are videos.

    Raises:
        UsageError: if some are and some are not, or an option is for videos alone.
        InputError: if one has an address and ``--offline`` is given.
    """
    videos = [word for word in args.images if args.video or is_video(word)]
    if videos and len(videos) < len(args.images):
        other = next(word for word in args.images if word not in videos)
        raise UsageError(
            f"{videos[0]} is a video and {other} is not: give videos and images apart, "
            "or --video if it is one"
        )
    if not videos:
        for option in ("every", "start", "end", "timeline", "episodes"):
            if getattr(args, option) is not None:
                raise UsageError(
                    f"--{option} is for videos: none is given (--video takes any file)"
                )
    if args.offline:
        for word in videos:
            if "://" in word:
                raise InputError(
                    f"{shown_address(word)} is on the web and this is offline: give a file"
                )
    return bool(videos)


def is_video(word: str) -> bool:
    """Say by its name whether a word is a video file, a stream's address or a camera's number."""
    from mien.video.suffixes import VIDEO_SUFFIXES

    if "://" in word:
        return is_video_address(word) or word.partition("?")[0].lower().endswith(_PLAYLISTS)
    if _NUMBER.fullmatch(word):
        return not os.path.lexists(word)
    return word.lower().endswith(VIDEO_SUFFIXES) and not Path(word).is_dir()


def run_videos(args: argparse.Namespace, shape: str) -> int:
    """Read the videos one after the other, as ``shape`` says; return the exit code."""
    from mien.interfaces.cli.video_run import run

    return run(args, shape)
