from __future__ import annotations

import inspect
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.core import errors
from mien.core.errors import (
    MAX_MESSAGE,
    MAX_NAME,
    MienError,
    MissingExtra,
    UnreadableImage,
    UsageError,
    abbreviate,
    one_line,
    printable,
)


def _all() -> dict[str, type[errors.MienError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.MienError)
    }


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MienError", 1),
        ("UsageError", 2),
        ("MissingExtra", 2),
        ("InputError", 3),
        ("UnreadableImage", 3),
        ("PrivateAddressError", 3),
        ("DataError", 3),
        ("NoFaceError", 4),
        ("ModelError", 5),
        ("OutputError", 1),
        ("TrainingDiverged", 1),
    ],
)
def test_exit_codes_are_the_contract(name: str, code: int) -> None:
    assert _all()[name].exit_code == code


def test_docstring_lists_every_error() -> None:
    tree = errors.__doc__ or ""
    assert [name for name in _all() if f"{name} " not in tree] == []


def test_missing_extra_says_what_to_install() -> None:
    error = errors.MissingExtra("train", "mien train")
    assert "mien train" in str(error)
    assert "pip install 'mien[train]'" in str(error)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_printable_text_has_no_control_characters_and_stays_so(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in shown)
    assert printable(shown) == shown


@given(st.text(max_size=500))
def test_abbreviate_shortens_and_escapes(name: str) -> None:
    text = abbreviate(name)
    assert len(text) <= MAX_NAME
    assert not set(text) & set(map(chr, (*range(32), 127, *range(128, 160))))


def test_abbreviate_keeps_short_names() -> None:
    name = "Urlaub 2020/Straße ü (1).jpg"
    assert abbreviate(name) == name
    long = "a" * 300 + "/photo.jpg"
    assert abbreviate(long).endswith("/photo.jpg")
    assert abbreviate("a\x1b[31m\nb") == r"a\x1b[31m\nb"


@given(st.text(max_size=3000))
def test_one_line_is_idempotent(text: str) -> None:
    message = one_line(text)
    assert len(message) <= MAX_MESSAGE
    assert "\n" not in message
    assert one_line(message) == message


@pytest.mark.parametrize("kind", [MienError, UsageError, UnreadableImage])
def test_every_error_is_one_short_line(kind: type[MienError]) -> None:
    secret = "QUJD" * 11_000
    error = kind(f"expected an emotion, got {secret!r}\n\x1b[2J")
    assert len(str(error)) < 250
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_long_quoted_value_is_shortened() -> None:
    error = UsageError(f"expected align='auto', got {'so many words ' * 300!r}")
    assert len(str(error)) < 200
    text = (
        "the model's folder has " + "many more words than that, " * 6 + "and the user's are these"
    )
    assert one_line(text) == text


def test_usual_messages_are_unchanged() -> None:
    text = "photo.jpg: no such file"
    assert str(MienError(text)) == text
    assert "[train]" in str(MissingExtra("train", "training"))
