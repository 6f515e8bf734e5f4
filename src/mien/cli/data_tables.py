"""What ``mien data`` prints: tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mien.cli.output import table_text
from mien.core.emotions import EMOTIONS
from mien.core.errors import printable

if TYPE_CHECKING:
    from mien.data.audit import Audit, Pair
    from mien.data.dataset import Skipped
    from mien.data.importing import ImportSummary

_MOST_NAMED = 10
_VAL_FROM = {
    "folder": "val is the source's own",
    "names": "val is the PublicTest_* files of test",
    "random": "val is a seeded, stratified part of train",
    "usage": "val is the rows of usage PublicTest",
    "none": "there is no val",
}


def import_record(summary: ImportSummary) -> dict[str, Any]:
    """Return an import's summary as JSON values."""
    return {
        "schema": "mien-import/1",
        "output": str(summary.output),
        "images": summary.images,
        "classes": {name: dict(counts) for name, counts in summary.classes.items()},
        "val_from": summary.val_from,
        "resized": list(summary.resized),
        "skipped": [{"file": item.file, "reason": item.reason} for item in summary.skipped],
    }


def import_text(summary: ImportSummary) -> str:
    """Return an import's summary for people."""
    parts = [
        f"{printable(str(summary.output))}: {summary.images:,} images; "
        f"{_VAL_FROM[summary.val_from]}\n",
        _class_table(summary.classes),
    ]
    empty = [
        f"{name}/{emotion}"
        for name, counts in summary.classes.items()
        for emotion in EMOTIONS
        if counts[emotion] == 0
    ]
    if empty:
        parts.append("no images: " + ", ".join(empty) + "\n")
    if summary.resized:
        parts.append(
            _list(f"not 48x48, resized when read: {len(summary.resized):,}", summary.resized)
        )
    if summary.skipped:
        parts.append(_skipped_list(summary.skipped, _MOST_NAMED))
    return "\n".join(parts)


def audit_text(audit: Audit, source: str, *, limit: int) -> str:
    """Return what the audit found for people, naming at most ``limit`` files of each kind."""
    parts = [
        f"{printable(source)}: {audit.images:,} images, {audit.distinct:,} distinct\n",
        _class_table(audit.classes),
        _copy_table(audit),
    ]
    conflicting = [pair for pair in audit.exact_pairs if not pair.same_label]
    skipped = [item for files in audit.skipped.values() for item in files]
    if audit.votes is not None:
        parts.append(_vote_table(audit))
    parts += [
        _pair_list("identical, labelled differently", conflicting, limit),
        _pair_list("near copies", audit.near_pairs, limit, cosine=True),
        _list(f"blank images: {len(audit.blank):,}", audit.blank, limit),
        _list(f"not 48x48, resized when read: {len(audit.resized):,}", audit.resized, limit),
        _skipped_list(skipped, limit),
    ]
    return "\n".join(parts)


def _class_table(classes: Mapping[str, Mapping[str, int]]) -> str:
    rows = []
    for emotion in EMOTIONS:
        counts = [counts[emotion] for counts in classes.values()]
        rows.append([emotion, *(f"{count:,}" for count in [*counts, sum(counts)])])
    totals = [sum(counts.values()) for counts in classes.values()]
    rows.append(["all", *(f"{total:,}" for total in [*totals, sum(totals)])])
    return table_text(["class", *classes, "all"], rows, right=range(1, 5))


def _copy_table(audit: Audit) -> str:
    rows = []
    for count in audit.copies:
        inside = count.within == (count.split,)
        rows.append(
            [
                f"within {count.split}"
                if inside
                else f"{count.split} in {' or '.join(count.within)}",
                *(
                    f"{value:,}"
                    for value in (
                        count.exact,
                        count.exact_other_label,
                        count.near,
                        count.near_distinct,
                        count.near_other_label,
                    )
                ),
            ]
        )
    header = [
        "images with a copy",
        "identical",
        "other label",
        f"near (>= {audit.near_threshold:g})",
        "distinct",
        "other label",
    ]
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


def _pair_list(title: str, pairs: Sequence[Pair], limit: int, *, cosine: bool = False) -> str:
    lines = [
        f"{pair.first} = {pair.second}"
        if not cosine
        else f"{pair.cosine:.3f}  {pair.first} ~ {pair.second}{' mirrored' if pair.flipped else ''}"
        for pair in pairs
    ]
    return _list(f"{title}: {len(pairs):,} pairs", lines, limit)


def _skipped_list(skipped: Sequence[Skipped], limit: int) -> str:
    lines = [f"{item.file} {item.reason}" for item in skipped]
    return _list(f"unusable files, skipped: {len(skipped):,}", lines, limit)


def _list(title: str, lines: Sequence[str], limit: int = _MOST_NAMED) -> str:
    shown = [f"  {printable(line)}" for line in lines[:limit]]
    if limit and len(lines) > limit:
        shown.append(f"  ... and {len(lines) - limit:,} more")
    return "\n".join([title, *shown]) + "\n"
