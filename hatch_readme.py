"""The README as a package index shows it, where files of the repository are not beside it.

Links and pictures become addresses below ``[project.urls] Source``. As long as there is none, a
picture becomes its description, and a link the path that it leads to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hatchling.metadata.plugin.interface import MetadataHookInterface as Interface
else:
    try:
        from hatchling.metadata.plugin.interface import MetadataHookInterface as Interface
    except ImportError:  # looked at where nothing is built
        Interface = object

README = "README.md"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#", re.IGNORECASE)
_PICTURE = re.compile(r'<picture>.*?<img alt="([^"]*)" src="([^"]*)">.*?</picture>', re.DOTALL)
_FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)


class ReadmeHook(Interface):
    """Hatchling's hook, which gives the metadata its long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """See Hatchling; ``metadata`` is the project's table."""
        text = Path(self.root, README).read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": long_description(text, source),
        }


def long_description(text: str, source: str | None) -> str:
    """Return a README that leads to nothing beside it.

    Args:
        text: the README, in Markdown.
        source: the repository's address, None where it has none.
    """

    def resolved(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if _ELSEWHERE.match(target):
            return match[0]
        if source is not None:
            kind = "raw" if picture else "blob"
            return f"{picture}[{words}]({source.rstrip('/')}/{kind}/HEAD/{target})"
        if picture:
            return f"*(Picture: {words})*"
        path = target.partition("#")[0]
        return f"`{path}`" if path.endswith(words) else f"{words} (`{path}`)"

    def plain(part: str) -> str:
        """Return a part whose pictures of several kinds, as for dark and light, are one each."""
        return _LINK.sub(resolved, _PICTURE.sub(r"![\1](\2)", part))

    parts = _FENCE.split(text)
    return "".join(part if number % 2 else plain(part) for number, part in enumerate(parts))
