"""How the names of videos end; known without anything that reads them."""

from __future__ import annotations

VIDEO_SUFFIXES: tuple[str, ...] = (
    ".264",
    ".265",
    ".3g2",
    ".3gp",
    ".asf",
    ".avi",
    ".divx",
    ".dv",
    ".f4v",
    ".flv",
    ".h264",
    ".h265",
    ".hevc",
    ".insv",
    ".ivf",
    ".lrv",
    ".m1v",
    ".m2t",
    ".m2ts",
    ".m2v",
    ".m4v",
    ".mjpeg",
    ".mjpg",
    ".mk3d",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpe",
    ".mpeg",
    ".mpg",
    ".mpv",
    ".mts",
    ".mxf",
    ".nut",
    ".ogm",
    ".ogv",
    ".qt",
    ".rm",
    ".rmvb",
    ".ts",
    ".vob",
    ".webm",
    ".wmv",
    ".wtv",
    ".y4m",
)
"""How the names of video files end, in lower case."""

PLAYLIST_SUFFIXES: tuple[str, ...] = (".m3u8", ".mpd")
"""How the names of lists of a video's parts end, in lower case."""

WRITTEN_SUFFIXES: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".mkv")
"""How the name of an annotated video may end."""
