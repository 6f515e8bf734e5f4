"""Hatchling metadata hook: the README for package indexes, without relative links.

Links and images become addresses below ``[project.urls] Source``. Without that URL, an image
becomes its description and a link the path of its target.
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
    except ImportError:  # when imported by tests, without Hatchling
        Interface = object

README = "README.md"
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:|#", re.IGNORECASE)
_PICTURE = re.compile(r'<picture>.*?<img alt="([^"]*)" src="([^"]*)"[^>]*>.*?</picture>', re.DOTALL)
_FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)


class ReadmeHook(Interface):
    """Metadata hook that sets the long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme of ``metadata``, the project's table."""
        text = Path(self.root, README).read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": long_description(text, source),
        }


def long_description(text: str, source: str | None) -> str:
    """Return a README without relative links; code blocks stay as they are.

    Args:
        text: the README in Markdown.
        source: URL of the repository, or None.
    """

    def resolve_link(match: re.Match[str]) -> str:
        bang, label, target = match.groups()
        if _ABSOLUTE.match(target):
            return match[0]
        if source is not None:
            kind = "raw" if bang else "blob"
            return f"{bang}[{label}]({source.rstrip('/')}/{kind}/HEAD/{target})"
        if bang:
            return f"*(Picture: {label})*"
        path = target.partition("#")[0]
        return f"`{path}`" if path.endswith(label) else f"{label} (`{path}`)"

    def resolve(part: str) -> str:
        # A <picture> of several variants, such as dark and light, becomes its default image.
        return _LINK.sub(resolve_link, _PICTURE.sub(r"![\1](\2)", part))

    parts = _FENCE.split(text)  # odd parts are code blocks
    return "".join(part if index % 2 else resolve(part) for index, part in enumerate(parts))
