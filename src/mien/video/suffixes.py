"""How the names of videos end; known without anything that reads them."""

from __future__ import annotations

VIDEO_SUFFIXES: tuple[str, ...] = (
    ".3gp",
    ".avi",
    ".flv",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".mxf",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
)
"""How the names of videos end."""

WRITTEN_SUFFIXES: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".mkv")
"""How the name of an annotated video may end."""
