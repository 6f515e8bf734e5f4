"""``mien data``: fetch FER-2013, lay it out, and see what is in it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.cli.options import add_command, add_force_option, file_name, folder_name, integer, number
from mien.cli.output import write_answer
from mien.cli.paths import check_targets
from mien.core.emotions import EMOTIONS
from mien.core.errors import EXIT_DONE, EXIT_PARTIAL, printable
from mien.core.formats import table_text

if TYPE_CHECKING:
    from mien.data.audit import Audit
    from mien.data.dataset import Skipped
    from mien.data.importing import ImportSummary

ARCHIVE = Path("archive")

_MOST_NAMED = 10
_VAL_FROM = {
    "folder": "val is the source's own",
    "names": "val is the PublicTest_* files of test",
    "random": "val is a seeded, stratified part of train",
    "usage": "val is the rows of usage PublicTest",
    "none": "there is no val",
}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "data",
        help="fetch, import or audit FER-2013",
        description="Fetch FER-2013, lay it out in archive/, and see what is in it.",
        examples=("mien data import fer2013.zip", "mien data audit archive"),
    )
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_download(parsers)
    _add_import(parsers)
    _add_audit(parsers)


def _add_download(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(
        parsers,
        "download",
        help="fetch FER-2013 from Kaggle and import it",
        description="Fetch FER-2013 from Kaggle (about 60 MB) and lay it out.",
        examples=("mien data download", "mien data download --output fer2013"),
        usage="[options]",
    )
    _add_output_options(parser)
    parser.set_defaults(run=_run_download)


def _add_import(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(
        parsers,
        "import",
        help="lay out a copy of FER-2013 in archive/",
        description="Lay out a copy of FER-2013 in archive/{train,val,test}/<class>/. Files that "
        "cannot be used are named, and the exit code is then 6.",
        examples=(
            "mien data import fer2013.zip",
            "mien data import icml_face_data.csv --output fer2013 --force",
        ),
        usage="[options] SOURCE",
    )
    add = parser.add_argument
    add(
        "source",
        type=Path,
        metavar="SOURCE",
        help="Kaggle's zip or folder, one with train|val|test/<class>/, or the challenge's CSV, "
        "also inside a folder, a zip or a tar",
    )
    _add_output_options(parser)
    add(
        "--seed",
        type=integer(),
        default=0,
        metavar="N",
        help="of the random val split, made only where names do not tell (default: %(default)s)",
    )
    add(
        "--val-fraction",
        type=number(0, 0.5),
        metavar="SHARE",
        help="share of each class of train that it takes (default: 0.125)",
    )
    parser.set_defaults(run=_run_import)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--output",
        type=folder_name,
        default=ARCHIVE,
        metavar="DIR",
        help="folder to lay it out in (default: %(default)s)",
    )
    add("--force", action="store_true", help="replace the data set that is there already")
    add("--json", action="store_true", help="print the summary as JSON")


def _add_audit(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_command(
        parsers,
        "audit",
        help="count classes, copies, leaks, blanks and bad files",
        description="Count what is in a data set and what is wrong with it.",
        examples=(
            "mien data audit archive",
            "mien data audit archive --votes ferplus_votes.csv --figure audit.png",
        ),
        usage="[options] SOURCE",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder, zip or CSV, as for import")
    add("--votes", type=Path, metavar="FILE", help="FER+ votes (CSV), to compare the labels with")
    add(
        "--near-threshold",
        type=number(0.8, 1),
        metavar="COSINE",
        help="from which likeness on two images are near copies, 0.8 to 1 (default: 0.95)",
    )
    add(
        "--limit",
        type=integer(),
        default=5,
        metavar="N",
        help="files to name of each kind in the table (default: %(default)s; --json names all)",
    )
    add("--json", action="store_true", help="print all that was found as JSON")
    add("--figure", type=file_name(".png"), metavar="FILE", help="draw a PNG, too (needs [train])")
    add_force_option(parser)
    parser.set_defaults(run=_run_audit)


def _run_download(args: argparse.Namespace) -> int:
    from mien.data.importing import check_output, download_dataset, import_dataset

    check_output(args.output, force=args.force)
    folder = download_dataset()
    summary = import_dataset(folder, args.output, force=args.force, quiet=args.quiet)
    return _show_import(summary, args)


def _run_import(args: argparse.Namespace) -> int:
    from mien.data.importing import import_dataset
    from mien.data.sources import VAL_FRACTION

    summary = import_dataset(
        args.source,
        args.output,
        seed=args.seed,
        val_fraction=VAL_FRACTION if args.val_fraction is None else args.val_fraction,
        force=args.force,
        quiet=args.quiet,
    )
    return _show_import(summary, args)


def _show_import(summary: ImportSummary, args: argparse.Namespace) -> int:
    write_answer(_import_record(summary), _import_text(summary), as_json=args.json)
    return EXIT_PARTIAL if summary.skipped else EXIT_DONE


def _run_audit(args: argparse.Namespace) -> int:
    from mien.data.audit import NEAR_THRESHOLD, audit_splits
    from mien.data.loading import read_splits
    from mien.data.votes import load_votes

    if args.figure is not None:
        reads = [args.source, args.votes]
        check_targets([("--figure", args.figure)], reads=reads, force=args.force)
    votes = None if args.votes is None else load_votes(args.votes)
    splits = read_splits(args.source, quiet=args.quiet)
    threshold = NEAR_THRESHOLD if args.near_threshold is None else args.near_threshold
    audit = audit_splits(splits, votes=votes, near_threshold=threshold, quiet=args.quiet)
    if args.figure is not None:
        from mien.evaluation.figures import draw_audit

        draw_audit(audit, splits, args.figure, title=args.source.name)
    source = str(args.source)
    text = _audit_text(audit, source, limit=args.limit)
    write_answer(audit.to_dict(source), text, as_json=args.json)
    return EXIT_DONE


# ---------------------------------------------------------------- tables
def _import_record(summary: ImportSummary) -> dict[str, Any]:
    return {
        "schema": "mien-import/1",
        "output": str(summary.output),
        "images": summary.images,
        "classes": {name: dict(counts) for name, counts in summary.classes.items()},
        "val_from": summary.val_from,
        "resized": list(summary.resized),
        "skipped": [{"file": item.file, "reason": item.reason} for item in summary.skipped],
    }


def _import_text(summary: ImportSummary) -> str:
    head = f"{printable(str(summary.output))}: {summary.images:,} images"
    parts = [f"{head}; {_VAL_FROM[summary.val_from]}\n", _class_table(summary.classes)]
    empty = [
        f"{name}/{emotion}"
        for name, counts in summary.classes.items()
        for emotion in EMOTIONS
        if counts[emotion] == 0
    ]
    if empty:
        parts.append("no images: " + ", ".join(empty) + "\n")
    if summary.resized:
        parts.append(_list("not 48x48, resized when read", summary.resized))
    if summary.skipped:
        parts.append(_skipped_list(summary.skipped, _MOST_NAMED))
    return "\n".join(parts)


def _audit_text(audit: Audit, source: str, *, limit: int) -> str:
    """Return what the audit found for people, naming at most ``limit`` files of each kind."""
    conflicts = [f"{one.first} = {one.second}" for one in audit.exact_pairs if not one.same_label]
    near = [
        f"{one.cosine:.3f}  {one.first} ~ {one.second}{' mirrored' if one.flipped else ''}"
        for one in audit.near_pairs
    ]
    parts = [
        f"{printable(source)}: {audit.images:,} images, {audit.distinct:,} distinct\n",
        _class_table(audit.classes),
        _copy_table(audit),
        *([] if audit.votes is None else [_vote_table(audit)]),
        _list("identical, labelled differently", conflicts, limit, unit=" pairs"),
        _list("near copies", near, limit, unit=" pairs"),
        _list("blank images", audit.blank, limit),
        _list("not 48x48, resized when read", audit.resized, limit),
        _skipped_list([item for files in audit.skipped.values() for item in files], limit),
    ]
    return "\n".join(parts)


def _class_table(classes: Mapping[str, Mapping[str, int]]) -> str:
    counts = {emotion: [each[emotion] for each in classes.values()] for emotion in EMOTIONS}
    counts["all"] = [sum(each.values()) for each in classes.values()]
    rows = [
        [name, *(f"{count:,}" for count in [*each, sum(each)])] for name, each in counts.items()
    ]
    return table_text(["class", *classes, "all"], rows, right=range(1, 5))


def _copy_table(audit: Audit) -> str:
    near = f"near (>= {audit.near_threshold:g})"
    header = ["images with a copy", "identical", "other label", near, "distinct", "other label"]
    rows = []
    for copies in audit.copies:
        inside = copies.within == (copies.split,)
        counts = (
            copies.exact,
            copies.exact_other_label,
            copies.near,
            copies.near_distinct,
            copies.near_other_label,
        )
        where = f"{copies.split} in {' or '.join(copies.within)}"
        name = f"within {copies.split}" if inside else where
        rows.append([name, *(f"{count:,}" for count in counts)])
    return table_text(header, rows, right=range(1, 6))


def _vote_table(audit: Audit) -> str:
    rows = [
        [
            name,
            f"{count.images:,}",
            f"{count.voted:,}",
            f"{count.agreeing:,}",
            f"{count.agreement:.1%}" if count.voted else "-",
            f"{count.not_a_face:,}",
        ]
        for name, count in (audit.votes or {}).items()
    ]
    header = ["FER+", "images", "with votes", "label agrees", "share", "unusable, no face"]
    return table_text(header, rows, right=range(1, 6))


def _skipped_list(skipped: Sequence[Skipped], limit: int) -> str:
    return _list("unusable files, skipped", [f"{one.file} {one.reason}" for one in skipped], limit)


def _list(title: str, lines: Sequence[str], limit: int = _MOST_NAMED, *, unit: str = "") -> str:
    shown = [f"{title}: {len(lines):,}{unit}", *(f"  {printable(line)}" for line in lines[:limit])]
    if limit and len(lines) > limit:
        shown.append(f"  ... and {len(lines) - limit:,} more")
    return "\n".join(shown) + "\n"
