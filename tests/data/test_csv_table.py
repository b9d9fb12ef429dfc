"""Tables of pictures: rows, splits and classes as they stand there; every fault in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxv_jax.data import npz, sources
from cxv_jax.errors import InputError
from experiments import own_pictures

COLORS = np.random.default_rng(0).integers(0, 256, (24, 3), np.uint8)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """24 pictures of one colour each: 16 of train, 8 of test; classes 9 and 10 in turn."""
    lines = ["path,label,split"]
    (tmp_path / "in a folder").mkdir()
    for i, color in enumerate(COLORS):
        Image.new("RGB", (12, 10), tuple(color.tolist())).save(tmp_path / f"in a folder/{i}.png")
        lines.append(f"in a folder/{i}.png,{9 + i % 2},{'Training' if i < 16 else 'test'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table.csv"


def test_rows_are_pictures_in_their_splits(table: Path) -> None:
    dataset = sources.load(f"csv:{table}", image_size=8, val_fraction=0.0)
    assert dataset.class_names == ("9", "10")
    for name, rows in (("train", range(16)), ("test", range(16, 24))):
        split = dataset.split(name)
        np.testing.assert_array_equal(split.images[:, 4, 4], COLORS[list(rows)])
        assert split.labels.tolist() == [i % 2 for i in rows]
        assert list(split.names) == [f"{name}/in a folder/{i}.png" for i in rows]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_names_and_no_splits(table: Path, delimiter: str) -> None:
    rows = [line.split(",")[:2] for line in table.read_text().splitlines()[1:]]
    lines = [delimiter.join(row) for row in [["Class", "FileName"], *(r[::-1] for r in rows)]]
    table.write_text("\ufeff" + "\r\n".join([*lines, ""]), encoding="utf-8")
    dataset = sources.load(f"csv:{table}", image_size=8)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 18,
        "val": 2,
        "test": 4,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label\na.png,x\n", r"columns are \['image', 'label'\]; expected a first line"),
        ("", "expected a first line with the columns path and label"),
        ("path,label\n1.png,x\n1.png,y\n", "line 3: 1.png is listed twice"),
        ("path,label\n1.png,\n", "line 2: the label is empty"),
        ("path,label\n1.png\n", "line 2: 1 cells, expected 2"),
        ("path,label,split\n1.png,x,tset\n", "line 2: unknown split 'tset'"),
        ("path,label\n1.png,x\n", r"1 classes \['x'\]"),
        ("path,label,split\n1.png,x,test\n2.png,y,test\n", "no row is in the split train"),
        ("path,label\n1.png,x\n2.png,y\n", "2 of 2 images cannot be read: 1.png"),
        ('path,label\n"1.png,x\n', "not a table"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=words) as refused:
        sources.load(f"csv:{tmp_path}/table.csv", image_size=8)
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_missing_size_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent.csv: no such file"):
        sources.load(f"csv:{tmp_path}/absent.csv", image_size=8)
    with pytest.raises(InputError, match="set config.data.image_size"):
        sources.load(f"csv:{tmp_path}/absent.csv")


def test_a_table_from_outside_is_evaluated_by_the_classes_of_the_run(table: Path) -> None:
    source = f"csv:{table}"
    assert sources.is_outside(source, "digits")
    found = sources.outside(source, "test", class_names=("10", "9", "8"), image_size=8)
    assert found.split("test").labels.tolist() == [1 - i % 2 for i in range(16, 24)]
    with pytest.raises(InputError, match="the run has no class '10'"):
        sources.outside(source, "test", class_names=("8", "9"), image_size=8)


def test_everything_is_chosen_from_a_table_too(table: Path) -> None:
    look = own_pictures.look(str(table))
    assert (look.source, look.side, look.pictures) == (f"csv:{table}", 10, 16)
    assert own_pictures.choose(look).data.source == f"csv:{table}"


def test_arrays_with_the_names_of_keras_are_read(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    images = draw.integers(0, 256, (20, 6, 6), np.uint8)
    labels = (np.arange(20) % 2)[:, None]
    arrays = {"x_train": images[:12], "y_train": labels[:12]}
    arrays |= {"x_test": images[12:], "y_test": labels[12:]}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    names, splits = npz.read(tmp_path / "a.npz")
    assert names == ["0", "1"]
    for name, rows in (("train", slice(12)), ("test", slice(12, 20))):
        np.testing.assert_array_equal(splits[name].images[..., 1], images[rows])
        assert splits[name].labels.tolist() == labels[rows, 0].tolist()
