from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.gpu.limits import check_recipe
from lab.gpu.plan import Pace, StagePlan, budget, choose_epochs, load_plan
from lab.gpu.recipes import Machine, recipe_here, taught, views_within
from lab.tests.kit_maker import ROOT, write_plan
from mien.core.errors import UsageError
from mien.training.recipe import Config, config_to_toml, load_config

STAGE = StagePlan("net", Path("net.toml"), share=1, least=5, most=50, large_share=0.2)
PACE = Pace(
    steps=100, batch_size=256, seconds=0.02, large_seconds=0.04, validation=2.0, predictions=10_000
)


def test_the_epochs_fill_the_time_of_both_sizes_and_the_validations() -> None:
    # 80 % of 100 steps at 20 ms, 20 % at 40 ms, and half a second of each fourth validation.
    each = PACE.epoch_seconds(STAGE, validate_every=4)
    assert each == pytest.approx(2.9)
    assert choose_epochs(STAGE, each, 60.0) == 20


def test_an_epochs_views_and_teachers_that_are_asked_live_take_time_too() -> None:
    # Half a second for the views, and 25,600 images at 10,000 a second from each of two teachers.
    pace = replace(PACE, views=0.5)
    each = pace.epoch_seconds(STAGE, validate_every=4, teachers=[PACE, PACE])
    assert each == pytest.approx(2.9 + 0.5 + 2 * 2.56)


@given(st.floats(-100, 1e6), st.floats(0.01, 100))
def test_the_epochs_stay_within_the_plan_and_the_time(seconds: float, each: float) -> None:
    epochs = choose_epochs(STAGE, each, seconds)
    assert STAGE.least <= epochs <= STAGE.most
    assert epochs == STAGE.least or epochs * each <= seconds * (1 + 1e-9)


MEASURED = {
    # Milliseconds a step of 256 on one H200, at the smaller and the larger size.
    "vgg": (5.4, 5.4),
    "resnet18": (11.3, 11.3),
    "seresnet18": (14.1, 14.1),
    "student": (10.6, 13.3),
    "nano": (1.5, 1.5),
}
PLANS = (ROOT / "lab/configs/plan.toml", ROOT / "lab/configs/seeds.toml")


@pytest.mark.parametrize(
    ("file", "minutes", "least"),
    [(PLANS[0], 25.0, 200), (PLANS[0], 12.0, 80), (PLANS[1], 25.0, 110)],
)
def test_the_projects_plans_fit_into_their_time_at_the_measured_pace(
    file: Path, minutes: float, least: int
) -> None:
    plan = load_plan(file)
    paces = {}
    for stage in plan.stages:
        small, large = MEASURED[stage.recipe.stem]
        paces[stage.name] = Pace(111, 256, small / 1000, large / 1000, 1.0, 190_000, 0.03)
    spent, chosen = 60.0, {}  # the trial
    for place, stage in enumerate(plan.stages):
        later = plan.stages[place + 1 :]
        starts = plan.start_seconds * (1 + len(later))
        seconds = budget(stage, later, minutes * 60 - spent - plan.finish_seconds - starts)
        teachers = [paces[teacher.name] for teacher in plan.teachers]
        asked = teachers if stage in plan.students else []
        each = paces[stage.name].epoch_seconds(stage, validate_every=4, teachers=asked)
        chosen[stage.name] = choose_epochs(stage, each, seconds)
        spent += plan.start_seconds + chosen[stage.name] * each
    assert spent + plan.finish_seconds <= minutes * 60
    of_student = [chosen[each.name] for each in plan.students if each.recipe.stem == "student"]
    assert min(of_student) >= least
    assert min(chosen.values()) >= 30, chosen


def test_time_is_shared_with_those_that_come_later() -> None:
    later = [replace(STAGE, name="a", share=2), replace(STAGE, name="b", share=1)]
    assert budget(STAGE, later, 100) == 25
    assert budget(STAGE, [], 100) == 100


def write_recipe(folder: Path, config: Config) -> Path:
    path = folder / "recipe.toml"
    path.write_text(config_to_toml(config))
    return path


@pytest.mark.parametrize("file", PLANS)
def test_the_projects_own_plans_can_be_read_and_so_can_their_recipes(
    tmp_path: Path, file: Path
) -> None:
    plan = load_plan(file)
    assert plan.minutes <= 25
    assert plan.piece_minutes <= 9
    assert len(plan.teachers) >= 3
    machine = Machine(Path("work"), "jax", True, 4)
    for stage in plan.stages:
        config = recipe_here(machine, stage, stage.most)
        assert config.total_epochs == stage.most
        assert load_config(write_recipe(tmp_path, config)) == config
        assert config.training.precision == "mixed_bfloat16"
        assert Path(config.data.source) == Path("work/faces.npz")
        assert config.model.weights in ("none", "work/start.keras")
    student = recipe_here(machine, plan.student, 50)
    assert student.model.backbone == "EfficientNetB0"
    assert student.training.large_epochs == 40
    # The recipe's share of unmixed epochs.
    assert student.augmentation.plain_epochs == 8
    alone = taught(machine, student, (), 0)
    assert alone.distill.teachers == ()
    learning = taught(machine, student, plan.teachers, 20)
    assert len(learning.distill.teachers) == len(plan.teachers)
    assert learning.distill.cache == "work/logits"
    beside = replace(machine, backend="cuda")
    live = taught(beside, recipe_here(beside, plan.student, 50), plan.teachers, 0)
    assert live.distill.teachers == learning.distill.teachers
    assert (live.distill.views, live.distill.cache) == (50, "")


def test_what_the_plans_train_can_be_trained_on_the_device() -> None:
    machine = Machine(Path("work"), "cuda", True, 4)
    for plan in map(load_plan, PLANS):
        for stage in plan.stages:
            check_recipe(recipe_here(machine, stage, stage.most))
    assert [stage.name for stage in load_plan(PLANS[0]).students] == ["student", "nano"]


def test_a_plan_may_train_one_recipe_from_several_seeds() -> None:
    machine = Machine(Path("work"), "cuda", True, 4)
    first, *others = (recipe_here(machine, stage, 100) for stage in load_plan(PLANS[1]).students)
    assert first.training.seed == load_config(ROOT / "lab/configs/student.toml").training.seed
    assert len({first.training.seed, *(each.training.seed for each in others)}) == 3
    for other in others:
        assert replace(other, training=replace(other.training, seed=1)) == first


def test_both_networks_that_start_from_lite0_have_one_shape() -> None:
    plan = load_plan(ROOT / "lab/configs/plan.toml")
    shapes = {
        (config.model.backbone, config.model.head_units)
        for config in (load_config(stage.recipe) for stage in plan.stages)
        if config.model.weights == "lite0"
    }
    assert len(shapes) == 1


def test_there_are_as_many_views_as_there_is_time_for(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan")
    machine = Machine(tmp_path, "tensorflow", False, 1)
    config = recipe_here(machine, replace(plan.student, most=40), 40)
    # Two teachers at 10,000 a second need 0.2 s for 1,000 images, and drawing these takes 0.04 s;
    # two views are those of the unmixed epochs.
    assert views_within(config, [PACE, PACE], 1000, seconds=2.5) == 8
    assert views_within(config, [PACE, PACE], 1000, seconds=1e9) == 40
    assert views_within(config, [PACE, PACE], 1000, seconds=0.0) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "second"', 'name = "first"', "two networks have one name"),
        ("least = 3", "least = 9", "1 <= least <= most"),
        ("least = 3", "seed = 1.5\nleast = 3", "a seed of 0 or more, a whole number, got 1.5"),
        ("minutes = 3.0", "minuets = 3.0", "is no plan"),
        ("[student]", "[pupil]", "is no plan"),
    ],
)
def test_a_plan_that_cannot_be_used_is_said(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    write_plan(tmp_path / "plan")
    path = tmp_path / "plan" / "plan.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=message):
        load_plan(path)
