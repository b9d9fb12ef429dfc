"""The folder source: layouts, bad folders, unreadable files."""

import logging

import numpy as np
import pytest
from PIL import Image

from cxv_jax.data import image_files as images_module
from cxv_jax.data.sources import load
from cxv_jax.errors import InputError

LEVELS = {"ant": 10, "bee": 90, "cow": 200}


def fill(folder, classes: dict[str, int] = LEVELS, number: int = 10):
    """Grey pictures of many sizes and formats whose level tells the class and the number."""
    for name, level in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(number):
            picture = Image.new("L", (20 + i, 30 - i), level + i)
            picture.save(folder / name / f"{i}.{('png', 'bmp', 'gif')[i % 3]}")


def open_folder(path, **kwargs):
    return load(f"folder:{path}", **(dict(image_size=8) | kwargs))


def levels(split) -> list[int]:
    pixels = split.images[np.arange(len(split))]
    assert (pixels == pixels[:, :1, :1, :1]).all()
    found = pixels[:, 0, 0, 0].astype(int)
    assert (np.array(list(LEVELS.values()))[split.labels] == found // 10 * 10).all()
    return sorted(found.tolist())


ALL = sorted(level + i for level in LEVELS.values() for i in range(10))


def test_a_flat_folder_gets_all_splits(tmp_path):
    fill(tmp_path)
    dataset = open_folder(tmp_path, val_per_class=1)
    assert dataset.class_names == ("ant", "bee", "cow")
    assert {n: np.bincount(s.labels).tolist() for n, s in dataset.splits.items()} == {
        "train": [7, 7, 7],
        "val": [1, 1, 1],
        "test": [2, 2, 2],
    }
    assert sorted(level for s in dataset.splits.values() for level in levels(s)) == ALL


@pytest.mark.parametrize("extra", [(), ("val",), ("test",), ("val", "test")])
def test_split_folders_are_kept(tmp_path, extra):
    for i, split in enumerate(("train", *extra)):
        fill(tmp_path / split, number=10 - i)
    dataset = open_folder(tmp_path, val_per_class=2)
    sizes = {name: len(split) // 3 for name, split in dataset.splits.items()}
    assert (
        sizes
        == {
            (): {"train": 6, "val": 2, "test": 2},
            ("val",): {"train": 8, "val": 2, "test": 9},
            ("test",): {"train": 8, "val": 2, "test": 9},
            ("val", "test"): {"train": 10, "val": 9, "test": 8},
        }[extra]
    )
    for split in dataset.splits.values():
        levels(split)


def test_a_set_too_large_for_memory_is_decoded_when_asked_for(tmp_path, monkeypatch):
    fill(tmp_path)
    (tmp_path / "bee" / "x.png").write_bytes(b"no picture")
    kwargs = dict(on_bad_image="skip", val_fraction=0.3)
    kept = open_folder(tmp_path, **kwargs)
    monkeypatch.setattr(images_module, "KEEP_BYTES", 1000)
    lazy = open_folder(tmp_path, **kwargs)
    for name, split in kept.splits.items():
        assert isinstance(split.images, np.ndarray)
        assert not isinstance(lazy.splits[name].images, np.ndarray)
        assert levels(lazy.splits[name]) == levels(split)


@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_unreadable_files_are_named_and_refused_or_skipped(tmp_path, caplog, kind):
    fill(tmp_path)
    jpeg = tmp_path / "bee" / "broken.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(jpeg)
    content = {"truncated": jpeg.read_bytes()[:-800], "text": b"hello", "empty": b""}[kind]
    jpeg.write_bytes(content)
    with pytest.raises(InputError, match=r"1 of 31 images .*bee/broken.jpg \(.*on_bad_image=skip"):
        open_folder(tmp_path)
    with caplog.at_level(logging.WARNING):
        dataset = open_folder(tmp_path, on_bad_image="skip", val_fraction=0)
    assert "bee/broken.jpg" in caplog.text
    assert sorted(level for s in dataset.splits.values() for level in levels(s)) == ALL


def test_many_unreadable_files_make_one_short_line(tmp_path):
    fill(tmp_path)
    for i in range(25):
        (tmp_path / "cow" / f"bad{i}.jpg").touch()
    with pytest.raises(InputError, match="25 of 55 images .* and 15 more") as error:
        open_folder(tmp_path)
    assert "\n" not in str(error.value)
    for file in (tmp_path / "cow").glob("*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="class 'cow' has 0 images"):
        open_folder(tmp_path, on_bad_image="skip")


def test_hidden_and_other_files_are_ignored(tmp_path):
    fill(tmp_path)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "ant" / "Thumbs.db").touch()
    (tmp_path / "ant" / "._0.png").touch()
    (tmp_path / "ant" / "0.png").rename(tmp_path / "ant" / "0.PNG")
    dataset = open_folder(tmp_path, val_fraction=0)
    assert sorted(level for s in dataset.splits.values() for level in levels(s)) == ALL


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "nowhere: no such folder; expected .*/train/CLASS/"),
        (lambda p: p.mkdir(), r"0 class folders \[\], at least 2"),
        (lambda p: fill(p, {"ant": 10}), r"1 class folders \['ant'\], at least 2"),
        (lambda p: (fill(p), (p / "dog").mkdir()), "dog: no images in this class folder"),
        (
            lambda p: (fill(p / "train"), fill(p / "test", {"dog": 10})),
            r"test/dog: train has no such class, only \['ant', 'bee', 'cow'\]",
        ),
        (lambda p: (fill(p / "train"), (p / "test" / "ant").mkdir(parents=True)), "ant: no images"),
        (lambda p: (fill(p / "train"), (p / "test").mkdir()), "test: no images"),
    ],
)
def test_bad_folders(tmp_path, make, message):
    make(tmp_path / "nowhere")
    with pytest.raises(InputError, match=message):
        open_folder(tmp_path / "nowhere")


def test_the_size_must_be_said(tmp_path):
    fill(tmp_path)
    with pytest.raises(InputError, match="set config.data.image_size"):
        open_folder(tmp_path, image_size=0)
