"""``mien doctor``: look over the installation, and say how to mend it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mien.cli.output import json_text, table_text, write_stdout
from mien.core.errors import EXIT_DONE, MienError, ModelError, printable
from mien.core.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from mien.cli.diagnosis import Finding

SCHEMA = "mien-doctor/1"
"""Name and version of the JSON form."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="look over the installation, and say how to mend it",
        description="Say what is installed, whether reading emotions works, what is missing, and "
        "the line that mends it. Uses no network.",
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="the model that has to work: a bundled one's name, or a folder (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from mien.cli.diagnosis import examine

    findings = examine(args.model)
    bad = [each for each in findings if each.state == "bad"]
    if args.json:
        content = {
            "schema": SCHEMA,
            "works": not bad,
            "findings": [each.to_dict() for each in findings],
        }
        write_stdout(json_text(content) + "\n")
    else:
        write_stdout(_table(findings))
    if bad:
        raise _trouble(bad[0])
    return EXIT_DONE


def _trouble(finding: Finding) -> MienError:
    kind = ModelError if finding.part in ("models", "detectors") else MienError
    mend = f"; to mend it: {finding.mend}" if finding.mend else ""
    return kind(f"reading emotions does not work: {finding.name}: {finding.detail}{mend}")


def _table(findings: Sequence[Finding]) -> str:
    rows, part = [], ""
    for each in findings:
        rows.append(("" if each.part == part else each.part, each.name, each.state, each.detail))
        part = each.part
    text = table_text(("PART", "NAME", "STATE", ""), rows)
    mends = [each for each in findings if each.mend]
    if mends:
        width = max(len(each.name) for each in mends)
        lines = (f"  {each.name:<{width}}  {each.mend}" for each in mends)
        text += "\nto add or mend:\n" + "".join(printable(line) + "\n" for line in lines)
    if all(each.state != "bad" for each in findings):
        text += "\nreading emotions works\n"
    return text
