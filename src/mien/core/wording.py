"""How names and values that others chose stand in a message: short, and on one line."""

from __future__ import annotations

import re
import unicodedata

LONGEST_NAME = 100
"""Characters that a message repeats of a name or a value."""

LONGEST_MESSAGE = 800
"""Characters of a message; what it has beyond is left out of its middle."""

# Longer than any path that people write, so that a path is seldom cut.
_RUN = re.compile(r"\S{200,}")
# As repr() writes a text; the apostrophes of "the model's" stand otherwise.
_QUOTED = re.compile(r"(?<!\w)(['\"])([^'\"]{120,})\1(?!\w)")
_ELLIPSIS = "…"


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped, so that no file name steers a terminal."""
    return "".join(
        character
        if unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp")
        # Joiners hold emoji and some scripts together and do no harm.
        or character in "\u200c\u200d"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def shown(value: object) -> str:
    """Return a name or value for a message: printable, its middle cut to `LONGEST_NAME`."""
    text = str(value)
    # Escapes are longer than what they stand for; of much more than is shown, none are needed.
    ends = text if len(text) <= 2 * LONGEST_NAME else text[:LONGEST_NAME] + text[-LONGEST_NAME:]
    return _cut(printable(ends), LONGEST_NAME)


def one_line(message: str) -> str:
    """Return a message printable and short, whatever was put into it; twice is as once."""
    text = _QUOTED.sub(lambda quoted: f"'{shown(quoted[2])}'", printable(message))
    return _cut(_RUN.sub(lambda run: shown(run[0]), text), LONGEST_MESSAGE)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    front = most // 3
    return text[:front] + _ELLIPSIS + text[front + 1 - most :]
