from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from common_corruptions import CORRUPTIONS, STRENGTHS, Faces
from corruptions import (
    AXES,
    PLAIN,
    Measured,
    axis_table,
    choose,
    compare,
    conditions,
    corruption_table,
    draw,
    labels_of,
    main,
    markdown,
    open_model,
    read_all,
)

from data_maker import write_tiny_dataset
from mien.core.errors import UsageError
from mien.core.manifest import PEOPLE_OUTPUTS, Manifest, ModelFile, Reading, write_manifest
from mien.core.results import ModelInfo
from mien.data.dataset import Split
from mien.data.votes import VOTE_NAMES
from mien.inference.classifier import Classifier
from mien.training.onnx_graph import join_networks
from tiny_model import tiny_onnx

MODEL = ModelInfo("little", "1.2.3", "ab" * 32)


def _faces(count: int) -> Faces:
    return np.random.default_rng(0).integers(60, 200, (count, 48, 48)).astype(np.uint8)


def _measured(count: int = 200) -> Measured:
    """Of a model that `fer2013` has always right and that `people` has right as it is alone.

    A quarter of the images have no majority, half of the others are right as they are.
    """
    names = [name for name, _ in conditions(_faces(1), 0)]
    names += [(axis.name, axis.neutral) for axis in AXES]
    plain = {PLAIN, *((axis.name, axis.neutral) for axis in AXES)}
    voted = count * 3 // 4
    half = np.arange(voted) < voted // 2
    right = {
        "people": {name: half & (name in plain) for name in names},
        "fer2013": {name: np.ones(count, np.bool_) for name in names},
    }
    return Measured(MODEL, of=3589, seed=5, right=right)


@pytest.fixture
def two_readings(tmp_path: Path) -> Path:
    """A tiny model whose two readings differ in their last layer and in their bias."""
    first, second = (onnx.load_model_from_string(tiny_onnx()) for _ in range(2))
    (weights,) = (each for each in second.graph.initializer if each.name == "weights")
    values = onnx.numpy_helper.to_array(weights)[:, ::-1].copy()
    weights.CopyFrom(onnx.numpy_helper.from_array(values, "weights"))
    folder = tmp_path / "two"
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(join_networks(first, second).SerializeToString())
    people = Reading(outputs=PEOPLE_OUTPUTS, temperature=2.0, bias={"sad": 0.3})
    manifest = Manifest(
        name="two",
        version="0.0.1",
        created="2025-01-01",
        file=ModelFile.of(path),
        bias={"happy": 0.2},
        others={"people": people},
    )
    write_manifest(folder, manifest)
    return folder


def test_both_readings_of_one_pass_match_the_classifier(two_readings: Path) -> None:
    read, info, readings = open_model(str(two_readings))
    assert (info.name, info.version) == ("two", "0.0.1")
    assert readings == ((0, "people"), (1, "fer2013"))
    faces = np.random.default_rng(1).integers(0, 256, (300, 48, 48)).astype(np.uint8)
    predicted = read(faces)
    assert not np.array_equal(*predicted)
    for place, reading in readings:
        classifier = Classifier.open(two_readings, reading=reading)
        assert np.array_equal(predicted[place], classifier.classify(faces).argmax(axis=1))


def test_one_command_writes_the_section_and_the_figure(
    two_readings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_tiny_dataset(tmp_path / "data", per_class=4)
    rows = ["split,file," + ",".join(VOTE_NAMES).replace("not_a_face", "NF")]
    for image in sorted(data.glob("val/*/*.png")):
        counts = ",".join("8" if name == image.parent.name else "0" for name in VOTE_NAMES)
        rows.append(f"val,{image.name},{counts}")
    votes, page = tmp_path / "votes.csv", tmp_path / "card.md"
    votes.write_text("\n".join(rows))
    page.write_text("<!-- figures:begin corruptions -->\n<!-- figures:end corruptions -->\nkept\n")
    command = ["--data", str(data), "--votes", str(votes), "--model", str(two_readings)]
    main([*command, "--images", "9", "--figure", str(tmp_path / "f.png"), "--update", str(page)])
    printed = capsys.readouterr().out.strip()
    assert printed.startswith("two 0.0.1 on 9 (by seed 0) of the")
    picture = "![Accuracy on corrupted, otherwise cut and small faces](f.png)"
    begin, end = "<!-- figures:begin corruptions -->", "<!-- figures:end corruptions -->"
    assert page.read_text() == f"{begin}\n\n{printed}\n\n{picture}\n\n{end}\nkept\n"
    assert (tmp_path / "f.png").is_file()
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--images", "0"])
    assert stopped.value.code == 2
    assert "expected --images 1 or more, got 0" in capsys.readouterr().err


def test_all_or_a_fixed_sample_of_the_images() -> None:
    assert np.array_equal(choose(10, None, 0), np.arange(10))
    assert np.array_equal(choose(10, 99, 0), np.arange(10))
    some = choose(1000, 50, 4)
    assert len(set(some.tolist())) == 50
    assert np.array_equal(some, np.sort(some))
    assert np.array_equal(some, choose(1000, 50, 4))
    assert not np.array_equal(some, choose(1000, 50, 5))
    with pytest.raises(UsageError, match="--images 1 or more"):
        choose(10, 0, 0)


def test_people_have_no_label_where_they_have_no_majority() -> None:
    files = tuple(f"val/angry/PublicTest_{place}.png" for place in range(3))
    split = Split("val", _faces(3), np.array([0, 1, 2], np.int64), files)
    happy, sad = VOTE_NAMES.index("happy"), VOTE_NAMES.index("sad")
    votes = {("val", f"PublicTest_{place}"): np.zeros((1, 10), np.int64) for place in range(3)}
    votes["val", "PublicTest_0"][0, happy] = 10
    votes["val", "PublicTest_1"][0, [happy, sad]] = 5
    votes["val", "PublicTest_2"][0, [happy, sad]] = 4, 6
    labels = labels_of(split, votes, np.array([0, 1, 2]))
    assert labels["people"].tolist() == [3, -1, 5]
    assert labels["fer2013"].tolist() == [0, 1, 2]
    assert labels_of(split, votes, np.array([2]))["people"].tolist() == [5]


def test_every_face_is_read_under_every_condition_and_in_batches() -> None:
    sizes = []

    def read(faces: Faces) -> np.ndarray:
        sizes.append(len(faces))
        bright = (faces.mean(axis=(1, 2)) > 128).astype(np.int64)
        return np.stack((bright, 1 - bright))

    faces = _faces(70)
    predicted = read_all(read, faces, 0, quiet=True)
    assert set(sizes) == {64, 6}
    assert len(predicted) == 1 + 15 * 5 + sum(len(axis.all_values) for axis in AXES)
    assert {each.shape for each in predicted.values()} == {(2, 70)}
    assert predicted["brightness", 5][0].all()
    assert np.array_equal(predicted["side, px", 48], predicted[PLAIN])


def test_only_images_with_a_label_count() -> None:
    predicted = {PLAIN: np.array([[0, 1, 2], [3, 3, 3]], np.int64)}
    right = compare(predicted, 1, np.array([3, -1, 0], np.int64))
    assert right[PLAIN].tolist() == [True, False]
    with pytest.raises(UsageError, match="majority"):
        compare(predicted, 0, np.full(3, -1, np.int64))


def test_tables_have_a_row_a_corruption_and_one_a_reading() -> None:
    measured = _measured()
    header, rows = corruption_table(measured, "fer2013")
    assert header == ["fer2013", "1", "2", "3", "4", "5", "mean"]
    assert [row[0] for row in rows] == [*(each.name for each in CORRUPTIONS), "mean"]
    assert {cell for row in rows for cell in row[1:]} == {"100.0"}
    header, rows = axis_table(measured, AXES[0])
    assert header == ["shifted by", "0%", "5%", "10%", "15%", "20%"]
    assert rows[0] == ["people", "50.0", "0.0", "0.0", "0.0", "0.0"]
    assert rows[1] == ["fer2013", *["100.0"] * 5]


def test_the_mean_of_all_has_the_interval_of_the_images() -> None:
    measured = _measured()
    some = {name: each.copy() for name, each in measured.right["fer2013"].items()}
    for corruption in CORRUPTIONS:
        for strength in STRENGTHS:
            some[corruption.name, strength][:50] = False
    mean, half = Measured(MODEL, 3589, 0, {"fer2013": some}).mean("fer2013")
    assert mean == pytest.approx(0.75)
    assert half == pytest.approx(1.96 * (0.25 * 0.75 / 200) ** 0.5, rel=0.001)


def test_the_text_names_the_images_and_their_number() -> None:
    text = markdown(_measured())
    assert text.startswith(
        "little 1.2.3 on 200 (by seed 5) of the 3,589 images of val, % right:\n\n- **people**, "
        "against the majority of FER+'s votes (150 images): 50.0 % uncorrupted (42.1 to 57.9 %), "
        "0.0 ± 0.0 % on average over all corruptions;\n- **fer2013**, against FER-2013's labels "
        "(200 images): 100.0 % uncorrupted (98.1 to 100.0 %), 100.0 ± 0.0 %"
    )
    assert "±7.9 points or less" in text
    assert text.count("\n| -") == 6
    whole = Measured(MODEL, 200, 5, _measured().right)
    assert markdown(whole).startswith("little 1.2.3 on all 200 images of val, % right")


def test_the_figure_is_a_picture(tmp_path: Path) -> None:
    draw(_measured(), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
