from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from mien.core.errors import DataError, MissingExtra
from mien.data.downloading import BY_HAND, download_dataset


class UnauthenticatedError(Exception):
    """kagglehub's own."""


class HTTPError(OSError):
    """requests' own, with its answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for url ...\n\nlong\ntext")
        self.response = SimpleNamespace(status_code=status)


def put_kagglehub(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> list[str]:
    """Stand in for kagglehub: the network is not for tests. Return what it is asked for."""
    asked: list[str] = []

    def dataset_download(handle: str) -> str:
        asked.append(handle)
        print("Downloading ...")
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("kagglehub")
    module.dataset_download = dataset_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return asked


def test_kagglehubs_folder_is_returned_and_stdout_stays_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = put_kagglehub(monkeypatch, str(tmp_path))
    assert download_dataset() == tmp_path
    assert asked == ["msambare/fer2013"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            type("ConnectionError", (OSError,), {})("Max retries\nexceeded"),
            "no connection to Kaggle",
        ),
        (type("ReadTimeout", (OSError,), {})(), "no connection to Kaggle"),
        (UnauthenticatedError("log in"), "Kaggle asks for a credential"),
        (HTTPError(403), "Kaggle asks for a credential"),
        (HTTPError(503), "Kaggle answered 503"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError(), "(ValueError)"),
    ],
)
def test_a_failure_is_one_line_with_the_way_by_hand(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    put_kagglehub(monkeypatch, error)
    with pytest.raises(DataError) as caught:
        download_dataset()
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert message.endswith(BY_HAND)
    assert caught.value.exit_code == 3


def test_the_way_by_hand_names_link_file_and_command() -> None:
    assert "https://www.kaggle.com/datasets/msambare/fer2013" in BY_HAND
    assert "`mien data import archive.zip`" in BY_HAND


def test_without_kagglehub_the_extra_and_the_way_by_hand_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(MissingExtra) as caught:
        download_dataset()
    assert "pip install 'mien[train]'" in str(caught.value)
    assert BY_HAND in str(caught.value)
