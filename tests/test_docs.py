"""The documentation: it builds strictly, says all that the code has, and its Python runs."""

from __future__ import annotations

import argparse
import ast
import builtins
import dataclasses
import html
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mien
from docs.hooks import recipes_page
from mien.cli.main import build_parser
from mien.core.errors import MissingExtra
from mien.training.recipe import Config, config_from_tables

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(ROOT.glob("docs/**/*.md"))
SAMPLE = "images/sample.png"


# ---------------------------------------------------------------- the site
@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of MkDocs (a broken link, a page in no menu) is an error."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(page: Path) -> str:
    """The words of a page, tags and escapes gone."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


GENERATED = {"docs/reference/api.md", "docs/reference/cli.md", "docs/reference/recipes.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_work_in_the_repository_too(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        file = Path(os.path.normpath(page.parent / target))
        if not re.match(r"[a-z]+:", target) and file.relative_to(ROOT).as_posix() not in GENERATED:
            assert file.exists(), target


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        markup = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]+', markup), page
        assert not re.findall(r'<link[^>]+stylesheet[^>]+href="(?:https?:)?//', markup), page


def test_the_reference_has_every_public_name_with_its_text(site: Path) -> None:
    page = (site / "reference/api.html").read_text(encoding="utf-8")
    headings = set(re.findall(r"mien\.(\w+)\s*(?:<[^>]+>\s*)*</h3>", page))
    headings |= set(re.findall(r"<h3[^>]*>\s*(?:<[^>]+>\s*)*mien\.(\w+)", page))
    assert {name for name in mien.__all__ if not name.startswith("__")} <= headings
    for words in ("Detect the faces in an image", "crop_scale", "on_no_face"):
        assert words in text_of(site / "reference/api.html")


def test_the_reference_has_every_command_and_option(site: Path) -> None:
    words = text_of(site / "reference/cli.html")

    def check(name: str, parser: argparse.ArgumentParser) -> None:
        assert name in words
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub, child in action.choices.items():
                    check(f"{name} {sub}", child)
            elif action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
                assert all(option in words for option in action.option_strings), (name, action)

    check("mien", build_parser())


def test_the_reference_has_every_key_of_a_recipe_with_its_default() -> None:
    sections = re.split(r"\n## (data|model|augmentation|training|distill)\n", recipes_page())[1:]
    for name, part in zip(sections[::2], sections[1::2], strict=True):
        rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \| \S", part, re.MULTILINE))
        settings = getattr(Config(), name)
        assert list(rows) == [item.name for item in dataclasses.fields(settings)]
        config = config_from_tables({name: {key: _value(text) for key, text in rows.items()}})
        assert getattr(config, name) == settings


def _value(text: str) -> object:
    words = {"true": True, "false": False}
    return words[text] if text in words else ast.literal_eval(text)


# ---------------------------------------------------------------- Python in pages
def blocks(*, with_words: str = "") -> Iterator[object]:
    for page in PAGES:
        found = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
        for number, code in enumerate(found, start=1):
            if with_words in code:
                yield pytest.param(code, id=f"{page.relative_to(ROOT / 'docs')}-{number}")


def names_of_mien(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of what a snippet imports from mien, or takes as ``mien.name``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mien"):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((each.name, "__name__") for each in node.names if "mien" in each.name)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "mien":
            yield "mien", node.attr


@pytest.mark.parametrize("code", list(blocks()))
def test_python_in_a_page_names_what_exists(code: str) -> None:
    tree = ast.parse(code)
    for module, name in names_of_mien(tree):
        try:
            home = importlib.import_module(module)
        except (MissingExtra, ModuleNotFoundError) as error:
            pytest.skip(f"an extra is missing: {error}")
        assert hasattr(home, name), f"{module}.{name}"


def test_wrong_names_are_found() -> None:
    tree = ast.parse("import mien\nmien.no_such_name\nfrom mien.core.results import nothing")
    missing = {
        name
        for module, name in names_of_mien(tree)
        if not hasattr(importlib.import_module(module), name)
    }
    assert missing == {"nothing", "no_such_name"}


@pytest.mark.parametrize("code", list(blocks(with_words=SAMPLE)))
def test_python_on_the_sample_picture_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    shutil.copy(ROOT / SAMPLE, tmp_path / SAMPLE)
    monkeypatch.chdir(tmp_path)
    if "pandas" in code:
        pytest.importorskip("pandas")
    exec(compile(code, "page", "exec"), {"__builtins__": builtins, "__name__": "page"})
    assert capsys.readouterr().out or list(tmp_path.glob("*.png"))
