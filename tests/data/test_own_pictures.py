"""Folders as people have them: names of splits, stray files, links, classes too small."""

import logging
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxv_jax.data.sources import Dataset, load, outside
from cxv_jax.errors import InputError

CLASSES = ("cat", "dog", "fox")


def put(folder: Path, number: int = 10, ending: str = "png", first: int = 0, **save) -> None:
    """Pictures whose level tells ``first`` and their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + number):
        Image.new("L", (9, 8), i).save(folder / f"{i}.{ending}", **save)


def fill(root: Path, number: int = 10, **options) -> None:
    for k, name in enumerate(CLASSES):
        put(root / name, number, first=80 * k + 1, **options)


def open_folder(path: Path, **options) -> Dataset:
    return load(f"folder:{path}", **(dict(image_size=8, val_fraction=0.0) | options))


def sizes(dataset: Dataset) -> dict[str, int]:
    return {name: len(split) for name, split in dataset.splits.items()}


@pytest.fixture
def told(caplog):
    """All that was said, as one text."""
    caplog.set_level(logging.INFO)
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "valid", "test"),
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("TRAIN", "dev", "TESTING"),
    ],
)
def test_split_folders_by_their_usual_names(tmp_path, train, val, test):
    for number, split in ((6, train), (4, val), (2, test)):
        fill(tmp_path / split, number)
    dataset = open_folder(tmp_path)
    assert dataset.class_names == CLASSES
    assert sizes(dataset) == {"train": 18, "val": 12, "test": 6}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "val", "validation"], "val and validation are both the val split"),
        (["testing", "dev"], "there is no train folder beside dev and testing"),
    ],
)
def test_split_folders_that_do_not_fit(tmp_path, splits, message):
    for split in splits:
        fill(tmp_path / split, 3)
    with pytest.raises(InputError, match=message):
        open_folder(tmp_path)


def test_a_class_called_like_a_split_is_refused(tmp_path):
    for name in ("bus", "car", "train"):
        put(tmp_path / name, 5)
    with pytest.raises(InputError, match=r"train: 0 class folders .* rename it if it is a class"):
        open_folder(tmp_path)


def test_what_is_not_read_is_told_in_one_line(tmp_path, told):
    fill(tmp_path)
    put(tmp_path, 3)  # Beside the class folders.
    put(tmp_path / "cat" / ".ipynb_checkpoints", 10)
    put(tmp_path / "cat" / "__MACOSX", 1)
    put(tmp_path / "elsewhere" / "cat", 2)
    (tmp_path / "elsewhere").rename(tmp_path.parent / "elsewhere")
    (tmp_path / "fox" / "linked").symlink_to(tmp_path.parent / "elsewhere")
    for name in ("a.heic", "b.HEIC", "c", "d.txt", ".e.png"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    put(tmp_path / "dog" / "puppies", 2, first=70)
    assert sum(sizes(open_folder(tmp_path)).values()) == 32
    (line,) = [line for line in told().splitlines() if "left out" in line]
    assert f"{tmp_path}: 32 pictures in 3 classes" in line
    for words in (
        "2 hidden folders",
        "1 hidden files",
        "1 linked folders",
        "2 .heic files (Pillow does not read HEIC, convert it to JPEG or PNG, or add pillow-heif)",
        "1 files without ending",
        "1 .txt files",
        "3 files beside the class folders",
        "read as part of their class: dog/puppies",
    ):
        assert words in line


def test_a_plain_folder_is_told_quietly(tmp_path, caplog):
    fill(tmp_path)
    with caplog.at_level(logging.WARNING):
        open_folder(tmp_path)
    assert not caplog.records


def test_classes_inside_classes_are_told(tmp_path, told):
    for group, name in (("animal", "cat"), ("animal", "dog"), ("thing", "car"), ("thing", "cup")):
        put(tmp_path / group / name, 5)
    assert open_folder(tmp_path).class_names == ("animal", "thing")
    assert "animal/cat, animal/dog, thing/car, thing/cup" in told()


def test_folders_beside_the_splits_are_told(tmp_path, told):
    fill(tmp_path / "train")
    fill(tmp_path / "extra")
    open_folder(tmp_path)
    assert "1 folders beside the split folders" in told()


@pytest.mark.parametrize(
    ("ending", "save"),
    [
        ("jfif", {"format": "JPEG"}),
        ("jpe", {}),
        ("jp2", {}),
        ("avif", {}),
        ("pbm", {}),
        ("dib", {}),
    ],
)
def test_other_endings_that_pillow_reads(tmp_path, ending, save):
    if ending == "avif" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow reads no AVIF")
    fill(tmp_path, ending=ending, **save)
    assert sum(sizes(open_folder(tmp_path)).values()) == 30


def test_a_class_of_heic_alone_says_how(tmp_path):
    fill(tmp_path)
    (tmp_path / "gnu").mkdir()
    (tmp_path / "gnu" / "a.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"gnu: no images .*heic.*convert it to JPEG"):
        open_folder(tmp_path)


def test_heic_called_jpeg_says_so(tmp_path):
    fill(tmp_path)
    (tmp_path / "cat" / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(64))
    with pytest.raises(InputError, match=r"cat/a.jpg \(HEIC.*convert it to JPEG"):
        open_folder(tmp_path)


@pytest.mark.parametrize("make", ["fifo", "folder", "device", "dangling"])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    fill(tmp_path)
    path = tmp_path / "cat" / "x.png"
    {
        "fifo": os.mkfifo,
        "folder": os.mkdir,
        "device": lambda p: p.symlink_to("/dev/zero"),
        "dangling": lambda p: p.symlink_to("/nonexistent"),
    }[make](path)
    with pytest.raises(
        InputError, match=r"1 of 31 images .*cat/x.png \((no regular file|FileNotFoundError)"
    ):
        open_folder(tmp_path)
    assert sum(sizes(open_folder(tmp_path, on_bad_image="skip")).values()) == 30


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("café", "cafe\u0301"), "alike"),
        (("cat", "cat "), "alike"),
        (("cat", "dog\x1b[31m"), r"'dog\\x1b\[31m' cannot be printed"),
        (("cat", os.fsdecode(b"caf\xe9")), r"'caf\\udce9' cannot be printed"),
    ],
)
def test_class_names_must_be_told_apart_and_printed(tmp_path, names, message):
    for name in names:
        put(tmp_path / name, 5)
    with pytest.raises(InputError, match=message) as error:
        open_folder(tmp_path)
    assert str(error.value).isprintable()


def test_all_classes_too_small_are_named_with_the_remedy(tmp_path):
    fill(tmp_path)
    for name in ("gnu", "hen"):
        put(tmp_path / name, 1)
    message = (
        "class 'gnu' has 1 images, class 'hen' has 1 images, at least 2 are needed to hold out a "
        "test split; .*small_classes=train"
    )
    with pytest.raises(InputError, match=message):
        open_folder(tmp_path)
    dataset = open_folder(tmp_path, small_classes="train", val_fraction=0.2)
    held = [np.bincount(dataset.splits[s].labels, minlength=5).tolist() for s in ("val", "test")]
    assert held == [[2, 2, 2, 0, 0], [2, 2, 2, 0, 0]]
    assert np.bincount(dataset.splits["train"].labels).tolist() == [6, 6, 6, 1, 1]


def test_small_classes_alone_make_no_set(tmp_path):
    fill(tmp_path, 4)
    assert sum(sizes(open_folder(tmp_path)).values()) == 12
    with pytest.raises(InputError, match="no class has more than 4 images, all are small"):
        open_folder(tmp_path, small_classes="train")
    with pytest.raises(InputError, match="expected split or train, got 'drop'"):
        open_folder(tmp_path, small_classes="drop")


def test_the_real_small_class_is_told_and_nothing_is_dropped(shared, told):
    path = shared / "data" / "blood_cells"
    dataset = open_folder(path, val_fraction=0.1, image_size=16)
    assert sum(sizes(dataset).values()) == 351
    assert "'Basophil' (3) too small for a split" in told()
    assert "config.data.small_classes=train" in told()
    kept = open_folder(path, val_fraction=0.1, image_size=16, small_classes="train")
    assert [int((s.labels == 0).sum()) for s in kept.splits.values()] == [3, 0, 0]
    assert "'Basophil' (3) stay in train" in told()


@pytest.mark.parametrize(
    ("splits", "split", "number"),
    [
        ((), "test", 30),
        ((), "val", 30),
        (("test",), "test", 30),
        (("train", "testing"), "test", 30),
        (("train", "valid"), "val", 30),
        (("valid",), "test", 30),
    ],
)
def test_all_pictures_of_an_outside_folder_count(tmp_path, splits, split, number):
    for place in [tmp_path / name for name in splits] or [tmp_path]:
        fill(place)
    dataset = outside(f"folder:{tmp_path}", split, class_names=CLASSES, image_size=8)
    assert dataset.class_names == CLASSES
    assert len(dataset.split(split)) == number


def test_a_run_without_class_names_takes_those_of_the_folder(tmp_path):
    fill(tmp_path / "test")
    dataset = outside(f"folder:{tmp_path}", "test", class_names=(), image_size=8)
    assert (dataset.class_names, len(dataset.split("test"))) == (CLASSES, 30)


def test_several_splits_of_which_none_is_asked_for_are_refused(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    with pytest.raises(InputError, match="has no test split, only train, val"):
        outside(f"folder:{tmp_path}", "test", class_names=CLASSES, image_size=8)


def test_an_outside_folder_may_lack_classes_but_has_no_others(tmp_path):
    put(tmp_path / "dog", 4)
    ask = partial(outside, f"folder:{tmp_path}", "test", class_names=CLASSES, image_size=8)
    dataset = ask()
    assert dataset.split("test").labels.tolist() == [1] * 4
    put(tmp_path / "gnu", 4)
    with pytest.raises(InputError, match="gnu: .*no such class"):
        ask()
