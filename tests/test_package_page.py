"""What a package index shows of the project: it leads to nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hatch_readme import long_description

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "https://example.org/mien"


def places(text: str) -> list[str]:
    """Where all links and pictures of the rendered page lead."""
    markdown = pytest.importorskip("markdown_it")
    page: str = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    return re.findall(r'(?:href|src)="([^"]*)"', page)


@pytest.mark.parametrize("source", [SOURCE, None])
def test_no_link_and_no_picture_is_relative(source: str | None) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = places(long_description(text, source))
    assert all(re.match(r"https?://|#", place) for place in found), found
    assert any(place.startswith(f"{SOURCE}/raw/HEAD/images/") for place in found) == bool(source)


def test_without_an_address_pictures_are_described_and_paths_are_named() -> None:
    text = "![A face](images/a.png) [docs/a.md](docs/a.md#b), [the law](docs/law.md), [x](https://x.org)"
    assert long_description(text, None) == (
        "*(Picture: A face)* `docs/a.md`, the law (`docs/law.md`), [x](https://x.org)"
    )
    assert long_description("[`a.py`](examples/a.py)", SOURCE + "/") == (
        f"[`a.py`]({SOURCE}/blob/HEAD/examples/a.py)"
    )


def test_a_picture_for_light_and_dark_is_the_light_one() -> None:
    text = '<picture>\n<source srcset="dark.jpg">\n<img alt="A page" src="light.jpg">\n</picture>'
    assert long_description(text, SOURCE) == f"![A page]({SOURCE}/raw/HEAD/light.jpg)"
    assert long_description(text, None) == "*(Picture: A page)*"


def test_a_picture_with_a_width_is_shown_at_its_own() -> None:
    text = '<picture><img alt="A face" src="face.jpg" width="480"></picture>'
    assert long_description(text, SOURCE) == f"![A face]({SOURCE}/raw/HEAD/face.jpg)"


def test_code_is_not_changed() -> None:
    text = "```python\n[a](b)\n```\n"
    assert long_description(text, None) == text


def test_the_built_metadata_has_it() -> None:
    core = pytest.importorskip("hatchling.metadata.core")
    manager = pytest.importorskip("hatchling.plugin.manager").PluginManager()
    metadata = core.ProjectMetadata(str(ROOT), manager).core
    assert metadata.readme_content_type == "text/markdown"
    assert metadata.readme.startswith("# mien")
    assert all(re.match(r"https?://|#", place) for place in places(metadata.readme))
