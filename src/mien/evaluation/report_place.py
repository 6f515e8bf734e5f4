"""Where a report goes, so that none takes the place of one on another model or other data."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

from mien.core.errors import UsageError
from mien.core.results import ModelInfo
from mien.evaluation.report_folder import EVALUATIONS

REPORTS = ("report.json", "robustness.json", "pictures.json")
"""The files that say of which model and data a folder's reports are."""


def report_place(
    base: Path,
    model: ModelInfo,
    data: str,
    *,
    given: bool = False,
    force: bool = False,
    key: str = "",
    images_sha256: str | None = None,
) -> Path:
    """Return the folder that a report is to be written to.

    Args:
        base: where it goes by default.
        model: the model it is of.
        data: the name of the data it is on.
        given: whether the user chose ``base``: another folder is then never taken.
        force: take ``base`` whatever is in it.
        key: of the evaluation, see `mien.evaluation.report.Report`.
        images_sha256: of its images; other data of the same name differs in it.

    Returns:
        ``base`` where it is free or of the same model and data, else the first of ``base-2``,
        ``base-3``, ... that is.

    Raises:
        UsageError: if ``base`` is the user's choice and holds a report on another model or data.
    """

    def fits(folder: Path) -> bool:
        reports = [_read(folder / name) for name in REPORTS]
        if any((one["model"], one["data"]) != (model.to_dict(), data) for one in reports if one):
            return False
        before = _read(folder / EVALUATIONS / f"{key}.json") or {}
        of_others = before.get("model") != model.to_dict()
        return of_others or before.get("images_sha256") in (None, images_sha256)

    if force or fits(base):
        return base
    if given:
        raise UsageError(
            f"{base} holds a report on another model or other data: choose another --output, "
            "or --force to replace it"
        )
    return next(
        folder for number in count(2) if fits(folder := base.with_name(f"{base.name}-{number}"))
    )


def _read(path: Path) -> dict[str, Any] | None:
    """Return a report's content, None where there is none; a damaged one is nobody's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        content = None
    found = content if isinstance(content, dict) else {}
    return {"model": None, "data": None, **found}
