"""The audit as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mien.data.audit import Audit, Pair


def audit_record(audit: Audit, source: str) -> dict[str, Any]:
    """Return all that the audit found as JSON values, with every file that it names."""
    return {
        "schema": "mien-audit/1",
        "source": source,
        "images": audit.images,
        "distinct": audit.distinct,
        "classes": {name: dict(counts) for name, counts in audit.classes.items()},
        "copies": [{**asdict(count), "within": list(count.within)} for count in audit.copies],
        "near_threshold": audit.near_threshold,
        "exact_pairs": _pair_records(audit.exact_pairs),
        "near_pairs": _pair_records(audit.near_pairs),
        "blank": list(audit.blank),
        "resized": list(audit.resized),
        "skipped": {
            name: [asdict(skipped) for skipped in files] for name, files in audit.skipped.items()
        },
        "votes": None
        if audit.votes is None
        else {
            name: {**asdict(count), "agreement": round(count.agreement, 4)}
            for name, count in audit.votes.items()
        },
    }


def _pair_records(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [{**asdict(pair), "cosine": round(pair.cosine, 4)} for pair in pairs]
