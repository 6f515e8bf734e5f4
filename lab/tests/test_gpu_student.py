"""A step on the device is the step that Keras takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_maker import make_tiny_split
from mien.training.model import batch_accuracy, compiled_model, step_arrays
from mien.training.recipe import Config
from mien.training.transforms import Batch
from training_maker import tiny_config

torch = pytest.importorskip("torch")

from lab.gpu.network import arrays_of, weights_of  # noqa: E402
from lab.gpu.student import Faces, Student, estimate_statistics, mean_probabilities  # noqa: E402
from lab.gpu.trainer import new_student  # noqa: E402

CPU = torch.device("cpu")
SPLIT = make_tiny_split("train", per_class=4)
COUNT = 8
RATES = (0.01, 0.03, 0.002)

pytestmark = pytest.mark.usefixtures("keras_ready")


def recipe(**changes: Any) -> Config:
    options: dict[str, Any] = {
        "training_batch_size": COUNT,
        "training_head_epochs": 0,
        "model_head_dropout": [0.0],
        "model_drop_connect": 0.0,
        "training_weight_decay": 0.1,
    }
    return tiny_config(**{**options, **changes})


def drawn(config: Config) -> Batch:
    """Return a batch with weights, soft targets, and what teachers and votes say."""
    random = np.random.default_rng(4)
    soft = [random.dirichlet(np.ones(7), COUNT).astype(np.float32) for _ in range(3)]
    return Batch(
        faces=SPLIT.images[:COUNT, ..., None].astype(np.float32),
        targets=soft[0],
        weights=random.uniform(0.5, 2, COUNT).astype(np.float32),
        soft_targets=soft[1] if config.distill.teachers else None,
        votes=0.8 * soft[2] if config.training.votes_weight else None,
    )


def on_device(batch: Batch) -> Faces:
    targets = [batch.targets] if batch.votes is None else [batch.targets, batch.votes]
    return Faces(
        torch.from_numpy(batch.faces.astype(np.uint8)).permute(0, 3, 1, 2),
        torch.from_numpy(np.concatenate(targets, axis=1)),
        torch.from_numpy(batch.weights),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "changes",
    [
        {"training_clip_norm": 0.0},
        {"training_clip_norm": 0.2, "training_label_smoothing": 0.0},
        {"distill_teachers": ["somebody"], "distill_weight": 0.7, "distill_temperature": 3.0},
        {"data_votes": "votes.csv", "training_votes_weight": 0.4},
    ],
)
def test_losses_and_weights_are_those_of_keras(optimizer: str, changes: dict[str, Any]) -> None:
    config = recipe(training_optimizer=optimizer, **changes)
    model = compiled(config)
    student = (
        new_student(config, model, CPU) if not _has_votes(config) else _with_head(model, config)
    )
    batch = drawn(config)
    soft = batch.soft_targets
    taught = None if soft is None else torch.from_numpy(soft)
    # Adam moves by the rate however small a gradient is, and so by its rounding, too.
    near, alike = (1e-5, 2e-4) if optimizer == "sgd" else (5e-3, 2e-3)
    for number, rate in enumerate(RATES):
        model.optimizer.learning_rate.assign(rate)
        logs = model.train_on_batch(*step_arrays(batch), return_dict=True)
        before, hits = float(student.loss_sum), float(student.hit_sum)
        student.learn(on_device(batch), taught, rate=rate, number=number)
        assert float(student.loss_sum) - before == pytest.approx(float(logs["loss"]), rel=alike)
        assert float(student.hit_sum) - hits == pytest.approx(batch_accuracy(logs))
    mine, theirs = arrays_of(student.network), weights_of(model)
    for name, array in mine.items():
        if not name.endswith("_bn/3"):  # PyTorch takes the variance of a sample
            assert np.abs(array - theirs[name]).mean() < near, name


def compiled(config: Config) -> Any:
    import keras

    keras.utils.set_random_seed(1)
    return compiled_model(config, blocks=-1, size=32, initialise=True)


def _has_votes(config: Config) -> bool:
    return config.training.votes_weight > 0


def _with_head(model: Any, config: Config) -> Student:
    """Return a student whose head for votes has the weights of Keras'."""
    import keras

    bare = keras.Model(model.input, model.output["probabilities"])
    student = new_student(config, bare, CPU)
    kernel, bias = model.get_layer("votes_logits").get_weights()
    assert student.votes_head is not None
    with torch.no_grad():
        student.votes_head.weight.copy_(torch.from_numpy(kernel.T.copy()))
        student.votes_head.bias.copy_(torch.from_numpy(bias))
    return student


def fresh(**changes: Any) -> Student:
    config = recipe(**changes)
    return new_student(config, compiled(config), CPU)


def learn(student: Student, steps: int, *, first: int = 0) -> None:
    batch = on_device(drawn(student.config))
    for number in range(first, first + steps):
        student.learn(batch, None, rate=0.01, number=number)


def test_the_average_follows_the_weights_and_forgets_the_initial_ones() -> None:
    student = fresh(training_ema=0.9)
    own, mean = next(student.network.parameters()), next(student.average.parameters())
    expected = own.detach().clone()
    for number in range(5):
        learn(student, 1, first=number)
        momentum = min(0.9, (2 + number) / (11 + number))
        expected = momentum * expected + (1 - momentum) * own.detach()
        assert torch.allclose(mean, expected, atol=1e-6)
    without = fresh(training_ema=0.0)
    learn(without, 2)
    own, mean = next(without.network.parameters()), next(without.average.parameters())
    assert torch.allclose(mean, own, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_its_state_is_enough_to_continue_in_another_student(optimizer: str) -> None:
    first, second = fresh(training_optimizer=optimizer), fresh(training_optimizer=optimizer)
    learn(first, 3)
    second.load(first.arrays())
    learn(first, 2, first=3)
    learn(second, 2, first=3)
    mine, theirs = first.arrays(), second.arrays()
    assert list(mine) == list(theirs)
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


class FakeGraph:
    """Stands for a CUDA graph where there is no GPU: recording runs, and so does replaying."""

    def __init__(self, student: Student) -> None:
        self.student, self.size = student, student.network.size

    def replay(self) -> None:
        assert self.student.network.size == self.size
        self.student._step()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_recording_a_graph_does_not_change_the_weights(
    monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    plain, recorded = fresh(training_optimizer=optimizer), fresh(training_optimizer=optimizer)

    def record() -> FakeGraph:
        for _ in range(4):
            recorded._step()
        return FakeGraph(recorded)

    monkeypatch.setattr(recorded, "on_gpu", True)
    monkeypatch.setattr(recorded, "_recorded", record)
    before = recorded.arrays()
    recorded.record([32, 40, 32])
    after = recorded.arrays()
    assert all(np.array_equal(after[name], array) for name, array in before.items())
    assert float(recorded.loss_sum) == float(recorded.hit_sum) == 0
    assert sorted(recorded._graphs) == [32, 40]
    # And what it recorded is what it would have done.
    for size in (32, 40):
        plain.network.size = recorded.network.size = size
        learn(plain, 2)
        learn(recorded, 2)
    mine, theirs = plain.arrays(), recorded.arrays()
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_nan_weights_are_detected() -> None:
    student = fresh()
    assert student.is_finite()
    with torch.no_grad():
        student.parameters[2].view(-1)[0] = float("inf")
    assert not student.is_finite()
    student = fresh()
    student.loss_sum.fill_(float("nan"))
    assert not student.is_finite()


# ---------------------------------------------------------------- reading
def test_statistics_are_those_of_plain_images_and_momenta_are_restored() -> None:
    student = fresh()
    learn(student, 2)
    network = student.average
    images = torch.from_numpy(SPLIT.images)[:, None]
    estimate_statistics(network, images)
    before, norm = network.parts["block1_conv"], network.parts["block1_bn"]
    seen: list[Any] = []
    before.register_forward_hook(lambda *given: seen.append(given[2]))
    with torch.no_grad():
        network(images.float())
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-4)
    assert norm.momentum == pytest.approx(0.2)
    assert not network.training


def test_teachers_have_equal_weight_at_the_temperature() -> None:
    def sure(place: int, much: float) -> Any:
        logits = torch.zeros(7)
        logits[place] = much
        return lambda faces: logits.expand(len(faces), 7)

    views = torch.zeros(3, 1, 48, 48, dtype=torch.uint8)
    soft_targets = mean_probabilities([sure(0, 90.0), sure(1, 2.0)], views, 2.0)
    assert torch.allclose(soft_targets.sum(1), torch.ones(3))
    assert float(soft_targets[0, 0]) == pytest.approx(0.5 + 0.5 / (6 + np.e), abs=1e-5)
