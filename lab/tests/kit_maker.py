"""A pack and a plan so small that the whole kit runs in a minute."""

from __future__ import annotations

from pathlib import Path

from data_maker import write_tiny_dataset
from lab.gpu.pack import make_pack
from lab.gpu.plan import Plan, load_plan

ROOT = Path(__file__).resolve().parents[2]

_RECIPE = """
[model]
backbone = "Plain"
weights = "none"
input_size = 32
plain_channels = [4, 8]
head_units = [8]
head_dropout = [0.2]
batch_norm_momentum = 0.8

[augmentation]
mixup = 0.2
plain_epochs = 1

[training]
seed = {seed}
threads = 1
batch_size = 8
head_epochs = 0
learning_rate = 0.02
ema = 0.5
large_size = {large}
validate_every = 2
"""

_PLAN = """
[time]
minutes = 3.0
piece_minutes = 30.0
finish_seconds = 20.0
logits_seconds = 20.0
start_seconds = 5.0

[[teachers]]
name = "first"
recipe = "first.toml"
share = 1
least = 2
most = 3

[[teachers]]
name = "second"
recipe = "second.toml"
share = 1
least = 2
most = 3

[student]
name = "pupil"
recipe = "pupil.toml"
share = 2
least = 3
most = 4
large_share = 0.25

[[students]]
name = "other"
recipe = "other.toml"
share = 1
least = 2
most = 2
"""


def write_plan(folder: Path) -> Plan:
    """Write a plan of two teachers, a student that grows and one that does not, and read it."""
    folder.mkdir(parents=True)
    sizes = {"first": 0, "second": 0, "pupil": 40, "other": 0}
    for seed, (name, large) in enumerate(sizes.items()):
        (folder / f"{name}.toml").write_text(_RECIPE.format(seed=seed, large=large))
    (folder / "plan.toml").write_text(_PLAN)
    return load_plan(folder / "plan.toml")


def write_pack(folder: Path) -> Path:
    """Write a pack of tiny data, without packages and starting weights."""
    data = write_tiny_dataset(folder / "faces", per_class=4)
    make_pack(ROOT, data, folder / "pack", packages=(), start=False)
    return folder / "pack"
