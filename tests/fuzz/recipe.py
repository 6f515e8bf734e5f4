"""Any text as a recipe, and any value in it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given

from fuzz.harness import check, damaged, fuzz
from mien.training.recipe import Config, config_to_toml, load_config

_FOLDER = Path(tempfile.mkdtemp())
_TOKENS = [
    b"[", b"]", b"{", b"}", b'"', b"'''", b"=", b".", b"\n", b"#", b"inf", b"nan", b"-1", b"true",
    b"1e400", b"0x" + b"f" * 5000, b"9" * 400, b"[" * 3000, b"[]", b"1979-05-27", b'"\\u0000"',
]  # fmt: skip
_SEEDS = [
    config_to_toml(Config()).encode(),
    *(path.read_bytes() for path in sorted(Path("configs").rglob("*.toml"))[:20]),
]


@given(damaged(_SEEDS, _TOKENS))
def a_recipe(content: bytes) -> None:
    path = _FOLDER / "recipe.toml"
    path.write_bytes(content)

    def read() -> None:
        config = load_config(path)
        path.write_text(config_to_toml(config), encoding="utf-8")
        assert load_config(path) == config

    check("recipe", content, read)


if __name__ == "__main__":
    fuzz(a_recipe)
