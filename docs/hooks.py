"""What MkDocs does beside building pages: pages from the code, and links out of ``docs/``.

Generated are the API of every public name (``mien.__all__``), the command line (from its parsers)
and the recipes' keys (from their dataclasses). The model cards stand at the top of the repository.
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
"""Pages that stand outside ``docs/``, by their place on the site."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


# ---------------------------------------------------------------- hooks
def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, the model cards and the pictures that pages show."""
    from mkdocs.structure.files import File

    pages = {
        "reference/api.md": api_page(),
        "reference/cli.md": cli_page(),
        "reference/recipes.md": recipes_page(),
        **{uri: (ROOT / card).read_text(encoding="utf-8") for card, uri in CARDS.items()},
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for picture in sorted((ROOT / "images").glob("*.*")):
        uri = f"images/{picture.name}"
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Any, **_: Any) -> str:
    """Point links to files of the repository to where the site has them, or name their path."""
    uri = page.file.src_uri
    home = next((card for card, place in CARDS.items() if place == uri), f"docs/{uri}")

    def resolved(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
        on_site = CARDS.get(place) or place.removeprefix("docs/")
        if files.get_file_from_path(on_site) is not None:
            relative = posixpath.relpath(on_site, posixpath.dirname(uri) or ".")
            return f"{picture}[{text}]({relative}{mark}{anchor})"
        if (ROOT / place).exists() or place.startswith("lab/"):  # which is in no sdist
            # Part of the repository, not of the site, which has no address to link to.
            named = place.endswith(text.strip("`"))
            return f"`{place}`" if named else f"{text} (`{place}`)"
        return match[0]

    return _LINK.sub(resolved, markdown)


# ---------------------------------------------------------------- Python
_GROUPS = (
    ("Analyse", ("load", "Recognizer", "load_image", "annotate")),
    ("Results", ("Faces", "Face", "Box", "Quality", "Result", "Results", "ModelInfo")),
    ("Tables", ("to_pandas", "result_rows", "TABLE_COLUMNS")),
    ("Parts", ("Classifier", "load_detector", "Detector", "Detection", "EMOTIONS")),
)
"""The order in which a reader meets the names; others follow by themselves."""


def api_page() -> str:
    """Return the page of every public name, in groups, for mkdocstrings to fill."""
    mien = importlib.import_module("mien")
    left = [name for name in mien.__all__ if not name.startswith("__")]
    errors = [name for name in left if _is_error(getattr(mien, name))]
    groups = [(title, [name for name in names if name in left]) for title, names in _GROUPS]
    known = {*errors, *(name for _, names in groups for name in names)}
    groups += [("More", [name for name in left if name not in known]), ("Errors", errors)]
    lines = [
        "# Python",
        "",
        "Every public name of `mien`; what is not here may change without notice. An error is one",
        "line that says what happened, what was expected and how to mend it.",
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
    """Return where a public name is defined, as griffe finds it."""
    module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None or qualified is None or not module.startswith("mien"):
        home = next(home for home, names in _homes().items() if name in names)
        return f"{home}.{name}"  # a constant says nothing of itself
    return f"{module}.{qualified}"


def _homes() -> dict[str, tuple[str, ...]]:
    homes: dict[str, tuple[str, ...]] = importlib.import_module("mien")._MODULES
    return homes


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


# ---------------------------------------------------------------- command line
def cli_page() -> str:
    """Return the page of the command line: a section for each command, from its parser."""
    from mien.cli.main import build_parser
    from mien.cli.options import ENVIRONMENT_VARIABLES

    parser = build_parser()
    lines = ["# Command line", "", f"{parser.description}", ""]
    lines += ["| command | |", "|---|---|"]
    lines += [f"| [`mien {name}`](#mien-{name}) | {text} |" for name, text in _helps(parser)]
    lines += ["", "[Exit codes](results.md#exit-codes).", ""]
    lines += _options(parser, skip_positionals=True)
    lines += ["| environment variable | stands for, unless the option is given |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in ENVIRONMENT_VARIABLES.items()]
    for name, child in _commands(parser):
        lines += _command(f"mien {name}", child, level=2)
    return "\n".join(lines) + "\n"


def _command(name: str, parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    yield from ("", f"{'#' * level} {name}", "")
    yield from (_prose(parser.description), "", "```text")
    usage = argparse.HelpFormatter(name, width=74)  # what a page shows without scrolling
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
            words = formatter._format_action_invocation(action)
            text = _prose(formatter._expand_help(action)) if action.help else ""
            yield f"| `{_cell(words)}` | {_cell(text)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str | None) -> str:
    """Return a help text as Markdown that shows it as it stands."""
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
    """Return the page of the recipes: those of ``configs/``, and every key with its default."""
    from mien.training import recipe

    lines = [
        *("# Recipes", ""),
        "A recipe is a TOML file; a key that it lacks keeps its default. `--set section.key=value`",
        "changes one. An unknown key, or a value that cannot be used, is refused with what can be.",
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
