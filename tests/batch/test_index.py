from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.batch.index import digest, holds, read_index, sorted_digests

# Names of files that are not UTF-8 have lone surrogates.
names = st.text(st.characters(exclude_categories=()), max_size=5)


@given(st.sets(names), names)
def test_a_name_is_held_if_and_only_if_it_was_put_in(done: set[str], other: str) -> None:
    digests = sorted_digests(b"".join(map(digest, done)))
    assert all(holds(digests, name) for name in done)
    assert holds(digests, other) == (other in done)


def test_every_name_that_is_done_is_known_again() -> None:
    # One in 256 digests ends with a NUL, which NumPy drops.
    many = [f"{number}.png" for number in range(2000)]
    digests = sorted_digests(b"".join(map(digest, many)))
    assert digests.nbytes == 16 * 2000
    assert [name for name in many if not holds(digests, name)] == []
    assert not holds(digests, "other.png")


def test_an_image_without_a_name_is_as_one_of_an_empty_name() -> None:
    assert holds(sorted_digests(digest(None)), "")
    assert not holds(sorted_digests(b""), None)


def test_an_index_of_any_depth_is_damaged(tmp_path: Path) -> None:
    index = tmp_path / "part-000001.index"
    index.write_bytes(b"mien batch 1\n{" + b'"a":{' * 100_000)
    with pytest.raises(ValueError, match="changed"):
        read_index(index)
