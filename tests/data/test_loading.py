from __future__ import annotations

import io
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data_maker import make_tiny_splits, pattern, write_tiny_csv, write_tiny_dataset, zip_folder
from mien.core import images
from mien.core.emotions import EMOTIONS
from mien.core.errors import DataError, UnreadableImage
from mien.core.images import load_image, standard_face
from mien.data import loading
from mien.data.dataset import Skipped, Split
from mien.data.loading import decode_face, decode_image, load_dataset, load_split, read_splits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_dataset(tmp_path / "tiny", per_class=2)


def as_folder(tmp_path: Path) -> Path:
    return write_tiny_dataset(tmp_path / "d")


def as_zip(tmp_path: Path) -> Path:
    return zip_folder(as_folder(tmp_path), tmp_path / "d.zip")


def as_zip_with_top(tmp_path: Path) -> Path:
    return zip_folder(as_folder(tmp_path), tmp_path / "d.zip", top="some/top/")


def as_csv(tmp_path: Path) -> Path:
    return write_tiny_csv(tmp_path / "fer2013.csv", per_class=4)


def same(one: Split, other: Split) -> bool:
    return (
        np.array_equal(one.images, other.images)
        and np.array_equal(one.labels, other.labels)
        and (one.files, one.skipped, one.resized) == (other.files, other.skipped, other.resized)
    )


@pytest.mark.parametrize("make", [as_folder, as_zip, as_zip_with_top, as_csv])
@pytest.mark.parametrize("cache", [True, False])
def test_every_kind_of_source_gives_the_same_images(
    tmp_path: Path, make: Callable[[Path], Path], cache: bool
) -> None:
    expected = make_tiny_splits()
    loaded = load_dataset(make(tmp_path), cache=cache)
    assert list(loaded) == ["train", "val", "test"]
    for name, split in loaded.items():
        assert np.array_equal(split.images, expected[name].images)
        assert np.array_equal(split.labels, expected[name].labels)
        if make is not as_csv:
            assert split.files == expected[name].files


@pytest.mark.parametrize("zipped", [True, False])
def test_kaggles_layout_gives_the_same_labels(tmp_path: Path, zipped: bool) -> None:
    source = write_tiny_dataset(tmp_path / "kaggle", kaggle=True)
    assert not (source / "val").exists()
    if zipped:
        source = zip_folder(source, tmp_path / "archive.zip")
    for name, expected in make_tiny_splits().items():
        split = load_split(source, name)
        assert np.array_equal(split.labels, expected.labels)
        assert np.abs(split.images.astype(int) - expected.images).mean() < 8
        assert all(file.startswith(f"{name}/") and file.endswith(".jpg") for file in split.files)


def test_nothing_is_written_to_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_dataset(folder)
    assert capsys.readouterr().out == ""


def test_an_unknown_split_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="unknown split 'dev': expected one of train, val, test"):
        load_split(folder, "dev")


def spoil(folder: Path) -> dict[str, str]:
    """Put a bad file of each kind into train; return the expected reasons."""
    sad = folder / "train" / "sad"
    good = next(sad.iterdir()).read_bytes()
    (sad / "cut.png").write_bytes(good[:-30])
    (sad / "empty.png").write_bytes(b"")
    (sad / "fake.png").write_text("not an image", encoding="utf-8")
    (sad / "notes.txt").write_text("a note", encoding="utf-8")
    (folder / "train" / "boredom").mkdir()
    (folder / "train" / "boredom" / "b.png").write_bytes(good)
    return {
        "train/sad/cut.png": "is truncated",
        "train/sad/empty.png": "is empty",
        "train/sad/fake.png": "is not an image",
        "train/sad/notes.txt": "is not an image file (.txt)",
        "train/boredom/b.png": f"class folder 'boredom' is none of {', '.join(EMOTIONS)}",
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_bad_files_are_skipped_and_listed(
    folder: Path, tmp_path: Path, zipped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    expected = spoil(folder)
    source = zip_folder(folder, tmp_path / "d.zip") if zipped else folder
    split = load_split(source, "train")
    reasons = {item.file: item.reason.split(": expected")[0] for item in split.skipped}
    assert reasons == expected
    assert len(split) == 14
    assert "5 files of train skipped" in caplog.text
    caplog.clear()
    assert load_split(source, "train").skipped == split.skipped  # from the cache
    assert "5 files of train skipped" in caplog.text


def test_unsafe_zip_entries_are_skipped_by_name(folder: Path, tmp_path: Path) -> None:
    import zipfile

    path = zip_folder(folder, tmp_path / "d.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../train/sad/evil.png", b"x")
    split = load_split(path, "train")
    assert [item.file for item in split.skipped] == ["../train/sad/evil.png"]


def test_images_of_another_size_are_resized_and_listed(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "val" / "happy" / "large.png"
    cv2.imwrite(str(path), np.full((96, 60), 99, np.uint8))
    split = load_split(folder, "val")
    assert split.resized == ("val/happy/large.png",)
    assert split.images[split.files.index("val/happy/large.png")].mean() == 99
    assert "1 images of val are not 48x48" in caplog.text
    assert load_split(folder, "val").resized == split.resized


def test_an_empty_class_of_train_is_an_error_with_the_reason(folder: Path) -> None:
    (folder / "train" / "happy").rename(folder / "train" / "hapy")
    with pytest.raises(DataError, match=r"no usable image of happy in train.*class folder 'hapy'"):
        load_split(folder, "train")


def test_an_empty_class_of_test_is_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(folder / "test" / "happy")
    assert load_split(folder, "test").class_counts()["happy"] == 0
    assert "no usable image of happy in test" in caplog.text


def test_an_empty_split_is_an_error(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    with pytest.raises(DataError, match="has no usable image for test"):
        load_split(folder, "test")
    assert len(load_split(folder, "train")) == 14


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images in .*: expected a folder or zip with train"):
        read_splits(tmp_path)


def test_the_random_val_of_a_load_is_that_of_an_import(tmp_path: Path) -> None:
    from mien.data.importing import import_dataset

    source = write_tiny_dataset(tmp_path / "d", per_class=8)
    shutil.rmtree(source / "val")
    import_dataset(source, tmp_path / "archive")
    direct, imported = load_dataset(source), load_dataset(tmp_path / "archive")
    assert len(direct["val"]) == 7
    assert all(same(direct[name], imported[name]) for name in direct)


class Decodings:
    """Count decoded images."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = decode_image

        def counted(data: bytes) -> object:
            self.count += 1
            return real(data)

        monkeypatch.setattr(loading, "decode_image", counted)


def test_a_second_load_comes_from_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decodings = Decodings(monkeypatch)
    first = load_dataset(folder)
    assert decodings.count == 28
    second = load_dataset(folder)
    assert decodings.count == 28
    assert all(same(first[name], second[name]) for name in first)
    load_dataset(folder, cache=False)
    assert decodings.count == 56


def test_a_changed_source_is_read_again_and_replaces_the_old_cache(
    folder: Path, tmp_path: Path, cache_home: Path
) -> None:
    path = zip_folder(folder, tmp_path / "d.zip")
    load_dataset(path)
    next((folder / "train" / "sad").iterdir()).unlink()
    zip_folder(folder, path)
    assert load_split(path, "train").class_counts()["sad"] == 1
    os.utime(path, (1, 1))
    load_dataset(path)
    assert len(list((cache_home / "datasets").iterdir())) == 1


def test_an_edited_file_of_a_folder_is_read_again(folder: Path) -> None:
    before = load_split(folder, "train")
    file = folder / "train" / "sad" / "Training_5000.png"
    cv2.imwrite(str(file), np.full((48, 48), 200, np.uint8))
    after = load_split(folder, "train")
    changed = [
        name
        for name, one, other in zip(before.files, before.images, after.images, strict=True)
        if not np.array_equal(one, other)
    ]
    assert changed == ["train/sad/Training_5000.png"]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def no_npz(path: Path) -> None:
    path.write_bytes(b"nonsense")


def other_arrays(path: Path) -> None:
    np.savez(path, something=np.zeros(3))


def flipped_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut_short, no_npz, other_arrays, flipped_byte])
def test_a_damaged_cache_is_logged_and_rebuilt(
    folder: Path,
    cache_home: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = load_dataset(folder)
    (cached,) = (cache_home / "datasets").iterdir()
    damage(cached)
    assert all(same(split, first[name]) for name, split in load_dataset(folder).items())
    assert "is damaged" in caplog.text
    decodings = Decodings(monkeypatch)
    load_dataset(folder)
    assert decodings.count == 0


def test_a_cache_that_cannot_be_written_does_not_stop_the_load(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("MIEN_HOME", str(blocked))
    with caplog.at_level(logging.WARNING):
        assert len(load_split(folder, "train")) == 14
    assert "not cached" in caplog.text


def test_taking_some_images_keeps_what_belongs_to_them() -> None:
    split = make_tiny_splits(per_class=1)["train"]
    noted = Split(
        "train",
        split.images,
        split.labels,
        split.files,
        (Skipped("x", "is empty"),),
        split.files[:2],
    )
    taken = noted.take(np.array([1, 3], np.int64))
    assert taken.files == (split.files[1], split.files[3])
    assert taken.resized == (split.files[1],)
    assert taken.skipped == noted.skipped
    assert same(noted.take(noted.labels == 1), noted.take(np.array([1], np.int64)))


FACE = pattern(3, np.random.default_rng(0))
PNG = cv2.imencode(".png", FACE)[1].tobytes()
JPEG = cv2.imencode(".jpg", FACE, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


SMALL = [image[:32, :40] for image in (FACE, np.dstack([FACE, FACE[::-1], FACE.T]))]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM")
WHOLE_FILES = [
    encoded(Image.fromarray(image), form, **options)
    for image in (FACE, *SMALL)
    for form, options in (
        *((form, {}) for form in LOSSLESS),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
    )
]


@given(whole=st.sampled_from([PNG, JPEG, *WHOLE_FILES]), share=st.floats(0.02, 0.999))
def test_truncated_files_are_decoded_completely_or_not_at_all(whole: bytes, share: float) -> None:
    """A decoder may fill what is missing with grey and say nothing: all pixels or none."""
    try:
        image, _ = decode_image(whole[: int(len(whole) * share)])
    except DataError:
        return
    assert np.array_equal(image, decode_image(whole)[0])


@given(whole=st.sampled_from([PNG, JPEG, *WHOLE_FILES]), trailer=st.binary(max_size=300))
def test_trailing_bytes_are_ignored(whole: bytes, trailer: bytes) -> None:
    """Phones and cameras put films, thumbnails and padding there."""
    image, other_size = decode_image(whole + trailer)
    assert np.array_equal(image, decode_image(whole)[0])
    assert other_size == decode_image(whole)[1]


@pytest.mark.parametrize("whole", [PNG, JPEG], ids=["png", "jpeg"])
@given(share=st.floats(0.05, 0.999))
def test_a_truncated_image_has_that_reason(whole: bytes, share: float) -> None:
    cut = whole[: min(len(whole) - 2, int(len(whole) * share))]
    with pytest.raises(DataError, match="is truncated"):
        decode_image(cut)


# Every mode that a format of these can hold.
KEPT = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "YCbCr", "LAB"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I"),
}


@st.composite
def image_files(draw: st.DrawFn) -> bytes:
    """Image files of all formats, modes, sizes and orientations, with or without transparency."""
    form, mode = draw(
        st.sampled_from([(form, mode) for form, modes in KEPT.items() for mode in modes])
    )
    width, height = draw(st.tuples(st.sampled_from([1, 7, 48, 60]), st.sampled_from([3, 48, 50])))
    values = np.random.default_rng(draw(st.integers(0, 99)))
    if mode in ("I;16", "I", "F"):
        top = 255 if mode == "F" else 65535
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(values.integers(0, top + 1, (height, width)).astype(kind))
    else:
        colours = values.integers(0, 256, (height, width, 4)).astype(np.uint8)
        image = Image.fromarray(colours)
        # Not every mode can be made from one with transparency.
        image = (image if mode in ("LA", "RGBA") else image.convert("RGB")).convert(mode)
    options: dict[str, Any] = {}
    if form in ("PNG", "GIF") and mode in ("L", "P") and draw(st.booleans()):
        options["transparency"] = 3
    if form in ("GIF", "PNG", "WEBP", "TIFF") and draw(st.booleans()):
        options |= {"save_all": True, "append_images": [image.rotate(180)]}
    if form in ("JPEG", "PNG", "WEBP", "TIFF") and draw(st.booleans()):
        exif = Image.Exif()
        exif[0x0112] = draw(st.integers(0, 9))
        options["exif"] = exif
    return encoded(image, form, **options)


@settings(max_examples=150)
@given(data=image_files())
def test_data_sets_and_predict_decode_the_same_pixels(data: bytes) -> None:
    """`mien predict` reads by `load_image` and cuts out by `standard_face`."""
    seen = load_image(data)
    image, other_size = decode_image(data)
    assert np.array_equal(image, standard_face(seen))
    assert np.array_equal(image, decode_face(data))
    size = f"{seen.shape[1]}x{seen.shape[0]}"
    assert other_size == (None if size == "48x48" else size)


@given(values=arrays(np.uint8, (48, 48)), level=st.integers(0, 9))
def test_the_fast_path_of_a_face_png_changes_no_pixel(
    values: npt.NDArray[np.uint8], level: int
) -> None:
    data = encoded(Image.fromarray(values), "PNG", compress_level=level)
    assert np.array_equal(decode_image(data)[0], values)
    assert np.array_equal(decode_image(data)[0], standard_face(load_image(data)))


@given(place=st.integers(0, len(PNG) - 1), value=st.integers(0, 255))
def test_a_damaged_face_is_read_as_predict_reads_it(place: int, value: int) -> None:
    data = PNG[:place] + bytes([value]) + PNG[place + 1 :]
    assume(PNG[-8:] in data)  # without its end it is truncated
    try:
        expected = standard_face(load_image(data))
    except UnreadableImage:
        with pytest.raises(DataError):
            decode_image(data)
    else:
        assert np.array_equal(decode_image(data)[0], expected)


def test_an_image_beyond_the_limit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 2000)
    big = encoded(Image.new("L", (60, 50)), "PNG")
    with pytest.raises(DataError, match=r"^of 60x50 is too large"):
        decode_image(big)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello, I am text", "is not an image"),
        (b"GIF89a", "is not an image"),
        (PNG[:200] + b"\0\0\0\0" + PNG[204:], "is damaged"),
    ],
)
def test_files_that_are_no_image_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_image(data)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_image_or_a_reason(data: bytes) -> None:
    reason, shape = "", (48, 48)
    try:
        shape = decode_image(data)[0].shape
    except DataError as error:
        reason = str(error)
    assert shape == (48, 48)
    assert reason == "" or reason.startswith(("is ", "of ", "has "))
