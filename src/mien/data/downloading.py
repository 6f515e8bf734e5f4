"""Fetching FER-2013 from Kaggle."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mien.core.errors import DataError, MissingExtra
from mien.core.process import stderr

KAGGLE_DATASET = "msambare/fer2013"
KAGGLE_PAGE = f"https://www.kaggle.com/datasets/{KAGGLE_DATASET}"

BY_HAND = (
    f"by hand: download archive.zip from {KAGGLE_PAGE}, then run `mien data import archive.zip`"
)
"""What to do where the download cannot work."""


def download_dataset() -> Path:
    """Download FER-2013 with kagglehub, into its own cache, and return the folder.

    Raises:
        MissingExtra: without kagglehub.
        DataError: if it cannot be had: no network, no credential, or kagglehub says otherwise.
    """
    try:
        # kagglehub may print; stdout is for data alone.
        with contextlib.redirect_stdout(stderr()):
            import kagglehub

            return Path(kagglehub.dataset_download(KAGGLE_DATASET))
    except ImportError as error:
        raise MissingExtra("train", f"downloading FER-2013 ({BY_HAND})") from error
    # kagglehub lets through what requests, its own client and the file system raise, and as it is
    # imported, that there is no home folder.
    except Exception as error:
        raise DataError(f"cannot download FER-2013 ({_reason(error)}); {BY_HAND}") from error


def _reason(error: Exception) -> str:
    """Return why in a few words: the libraries' own messages run over many lines."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    kind = type(error).__name__
    if status in (401, 403) or "Unauthenticated" in kind or "Credential" in kind:
        return "Kaggle asks for a credential: see https://www.kaggle.com/docs/api"
    if status is not None:
        return f"Kaggle answered {status}"
    if "Connection" in kind or "Timeout" in kind or "Proxy" in kind or "SSL" in kind:
        return "no connection to Kaggle"
    words = " ".join(str(error).split())
    return f"{kind}: {words[:160]}" if words else kind
