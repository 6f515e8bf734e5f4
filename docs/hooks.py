"""MkDocs hooks: pages generated from the code, and links to files outside ``docs/``.

The generated pages are the API (from ``mien.__all__``), the command line (from its parsers) and the
keys of recipes (from their dataclasses).
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import posixpath
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CARDS = {
    "MODEL_CARD.md": "models/mien-b0.md",
    "MODEL_CARD_NANO.md": "models/mien-nano.md",
    "examples/README.md": "howto/examples.md",
}
"""Pages outside ``docs/``, and their address on the site."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


# ---------------------------------------------------------------- hooks
def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the model cards and the images of the repository."""
    from mkdocs.structure.files import File

    pages = {
        "reference/api.md": api_page(),
        "reference/cli.md": cli_page(),
        "reference/recipes.md": recipes_page(),
        **{uri: (ROOT / card).read_text(encoding="utf-8") for card, uri in CARDS.items()},
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for image in sorted((ROOT / "images").glob("*.*")):
        uri = f"images/{image.name}"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Point links at the pages of the site; replace links to other files by their paths."""
    uri = page.file.src_uri
    source = next((card for card, address in CARDS.items() if address == uri), f"docs/{uri}")

    def resolve_link(match: re.Match[str]) -> str:
        bang, text, target = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        on_site = CARDS.get(file) or file.removeprefix("docs/")
        if files.get_file_from_path(on_site) is not None:
            relative = posixpath.relpath(on_site, posixpath.dirname(uri) or ".")
            if bang and ".light." in relative:  # of a pair: the site shows that of its own scheme
                dark = relative.replace(".light.", ".dark.")
                return f"![{text}]({relative}#only-light)![{text}]({dark}#only-dark)"
            return f"{bang}[{text}]({relative}{hash_sign}{anchor})"
        # Other files of the repository have no address on the site; lab/ is not in the sdist.
        if (ROOT / file).exists() or file.startswith("lab/"):
            names_file = file.endswith(text.strip("`"))
            return f"`{file}`" if names_file else f"{text} (`{file}`)"
        return match[0]

    return _LINK.sub(resolve_link, markdown)


# ---------------------------------------------------------------- Python
_GROUPS = (
    ("Analyse", ("load", "Recognizer", "load_image", "annotate")),
    ("Results", ("Faces", "Face", "Box", "Quality", "Result", "Results", "ModelInfo")),
    ("Tables", ("to_pandas", "result_rows", "TABLE_COLUMNS")),
    ("Parts", ("Classifier", "load_detector", "Detector", "Detection", "EMOTIONS")),
)
"""Groups in reading order; remaining names follow under "More"."""


def api_page() -> str:
    """Return the API page, which lists every public name in groups for mkdocstrings to fill."""
    mien = importlib.import_module("mien")
    public = [name for name in mien.__all__ if not name.startswith("__")]
    errors = [name for name in public if _is_error(getattr(mien, name))]
    groups = [(title, [name for name in names if name in public]) for title, names in _GROUPS]
    grouped = {*errors, *(name for _, names in groups for name in names)}
    groups += [("More", [name for name in public if name not in grouped]), ("Errors", errors)]
    lines = [
        "# Python",
        "",
        "Every public name of `mien`; anything else may change without notice. An error message is",
        "one line: what happened, what was expected and how to fix it.",
    ]
    for title, names in groups:
        if names:
            lines += ["", f"## {title}"]
        for name in names:
            path = identifier(name, getattr(mien, name))
            lines += ["", f"::: {path}", "    options:", f"      heading: mien.{name}"]
            lines += [f"      toc_label: {name}"]
    return "\n".join(lines) + "\n"


def identifier(name: str, value: object) -> str:
    """Return the path of a public name's definition for griffe."""
    module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or qualified is None or not module.startswith("mien"):
        # Constants do not know their module.
        modules: dict[str, tuple[str, ...]] = importlib.import_module("mien")._MODULES
        module = next(module for module, names in modules.items() if name in names)
        return f"{module}.{name}"
    return f"{module}.{qualified}"


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


# ---------------------------------------------------------------- command line
def cli_page() -> str:
    """Return the page of the command line, with a section for each command from its parser."""
    from mien.cli.main import build_parser
    from mien.cli.options import ENVIRONMENT_VARIABLES

    parser = build_parser()
    lines = ["# Command line", "", f"{parser.description}", ""]
    lines += ["| command | |", "|---|---|"]
    lines += [f"| [`mien {name}`](#mien-{name}) | {text} |" for name, text in _helps(parser)]
    lines += ["", "Every command ends with one of the [exit codes](results.md#exit-codes).", ""]
    lines += _options(parser, skip_positionals=True)
    lines += ["| environment variable | default of |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in ENVIRONMENT_VARIABLES.items()]
    for name, child in _commands(parser):
        lines += _command(f"mien {name}", child, level=2)
    return "\n".join(lines) + "\n"


def _command(name: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    yield from ("", f"{'#' * level} {name}", "")
    yield from (_prose(parser.description), "", "```text")
    usage = argparse.HelpFormatter(name, width=74)  # fits a page without scrolling
    usage.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    yield from (usage.format_help().strip(), "```", "")
    yield from _options(parser)
    details, _, examples = (parser.epilog or "").partition("examples:\n")
    if details:
        yield from ("", _prose(details))
    if examples:
        yield from ("", "```bash", textwrap.dedent(examples).strip(), "```")
    for sub, child in _commands(parser):
        yield from _command(f"{name} {sub}", child, level + 1)


def _options(parser: argparse.ArgumentParser, *, skip_positionals: bool = False) -> Iterator[str]:
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS
            and not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
            and (action.option_strings or not skip_positionals)
        ]
        if not actions:
            continue
        title = {"positional arguments": "inputs"}.get(group.title or "", group.title)
        yield from ("", f"| {title} | |", "|---|---|")
        for action in actions:
            invocation = formatter._format_action_invocation(action)
            text = _prose(formatter._expand_help(action)) if action.help else ""
            yield f"| `{_cell(invocation)}` | {_cell(text)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str | None) -> str:
    """Escape a help text for Markdown."""
    return re.sub(r"([*_<>\[\]])", r"\\\1", (text or "").strip())


def _commands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                yield choice.dest, choice.help or ""


# ---------------------------------------------------------------- recipes
def recipes_page() -> str:
    """Return the page of the recipes: those in ``configs/``, and every key with its default."""
    from mien.training import recipe

    lines = [
        *("# Recipes", ""),
        "A recipe is a TOML file; missing keys keep their defaults, and `--set section.key=value`",
        "overrides one. For an unknown key or an invalid value, the error lists what is allowed.",
        *("", "## Recipes that come with mien", "", "| `--config` | |", "|---|---|"),
    ]
    for path in sorted((ROOT / "configs").glob("*.toml")):
        lines.append(f"| `{path.stem}` | {_cell(_first_sentence(path))} |")
    for section, kind in recipe.field_types(recipe.Config).items():
        lines += ["", f"## {section}", "", _prose((kind.__doc__ or "").split("\n")[0])]
        lines += ["", "| key | default | |", "|---|---|---|"]
        for item in dataclasses.fields(kind):
            description = _cell(_prose(item.metadata["description"]))
            lines.append(f"| `{item.name}` | `{recipe.to_toml(item.default)}` | {description} |")
    return "\n".join(lines) + "\n"


def _first_sentence(path: Path) -> str:
    """Return the first sentence of a recipe's header."""
    header = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line.lstrip("# "))
    return re.split(r"(?<=\.)\s", " ".join(header).strip())[0]
