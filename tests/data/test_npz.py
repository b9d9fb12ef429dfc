"""The npz source: every accepted form of pixels, and every refused one."""

import io
import logging
import zipfile

import numpy as np
import pytest

from cxv_jax.data.sources import load
from cxv_jax.data.splits import Rows
from cxv_jax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 4, 3), np.uint8)
LABELS = np.arange(20) % 2


def write(path, save=np.savez, **arrays):
    save(path, **{key: value for key, value in arrays.items() if value is not None})
    return f"npz:{path}"


def pixels(dataset, *names: str) -> np.ndarray:
    return np.concatenate(
        [dataset.splits[n].images[np.arange(len(dataset.splits[n]))] for n in names]
    )


def whole(source: str) -> np.ndarray:
    """All pixels, train as it is: the file has a test split of its own."""
    return pixels(load(source, val_fraction=0.0), "train")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_uint8_is_taken_as_it_is(tmp_path, save):
    names = np.array(["cat", "dog", "eel"])
    labels = np.arange(20) % 3
    source = write(tmp_path / "a.npz", save, images=IMAGES, labels=labels, class_names=names)
    dataset = load(source)
    assert dataset.class_names == ("cat", "dog", "eel")
    got = pixels(dataset, "train", "val", "test")
    order = [next(i for i in range(20) if (IMAGES[i] == image).all()) for image in got]
    assert sorted(order) == list(range(20))
    found = np.concatenate([dataset.splits[n].labels for n in ("train", "val", "test")])
    np.testing.assert_array_equal(found, labels[order])


@pytest.mark.parametrize("fortran", [False, True])
def test_uncompressed_pixels_stay_on_disk(tmp_path, fortran):
    images = np.asfortranarray(IMAGES) if fortran else IMAGES
    test = dict(test_images=IMAGES, test_labels=LABELS)
    source = write(tmp_path / "a.npz", images=images, labels=LABELS, **test)
    split = load(source, val_fraction=0.0).splits["train"]
    assert isinstance(split.images, np.memmap)
    np.testing.assert_array_equal(split.images, IMAGES)
    assert isinstance(load(source, val_fraction=0.3).splits["train"].images, Rows)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (IMAGES / np.float32(255), IMAGES),
        (IMAGES.astype(np.float64), IMAGES),
        (IMAGES.astype(np.int64), IMAGES),
        (np.where(IMAGES < 128, 0.0, 0.999), np.where(IMAGES < 128, 0, 255)),
        (np.where(IMAGES < 128, 0.4, 2.6), np.where(IMAGES < 128, 0, 3)),
        (IMAGES[..., :1], IMAGES[..., [0, 0, 0]]),
        (IMAGES[..., 0], IMAGES[..., [0, 0, 0]]),
    ],
    ids=["0..1", "0..255", "int64", "rounds 0..1", "rounds 0..255", "1 channel", "no channel"],
)
def test_other_forms_become_uint8_rgb(tmp_path, images, expected):
    test = dict(test_images=images, test_labels=LABELS)
    got = whole(write(tmp_path / "a.npz", images=images, labels=LABELS, **test))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_one_scale_for_all_splits(tmp_path):
    dark = np.ones((20, 6, 4, 3))
    test = dict(test_images=IMAGES.astype(float), test_labels=LABELS)
    assert (whole(write(tmp_path / "a.npz", images=dark, labels=LABELS, **test)) == 1).all()


def test_its_own_splits(tmp_path):
    more = {
        f"{s}_{k}": v for s in ("val", "test") for k, v in (("images", IMAGES), ("labels", LABELS))
    }
    more["val_images"] = IMAGES[::-1]
    dataset = load(write(tmp_path / "a.npz", images=IMAGES, labels=LABELS, **more))
    np.testing.assert_array_equal(pixels(dataset, "train"), IMAGES)
    np.testing.assert_array_equal(pixels(dataset, "val"), IMAGES[::-1])
    np.testing.assert_array_equal(pixels(dataset, "test"), IMAGES)


def altered(index, value, dtype=np.float32):
    images = IMAGES.astype(dtype)
    images[index] = value
    return images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(images=altered((7, 1, 1, 1), np.nan)), "images 7 has NaN or infinite pixels"),
        (dict(images=altered((3, 0, 0, 0), -np.inf)), "images 3 has NaN"),
        (dict(images=altered((0, 0, 0, 0), 256)), r"values 0 to 256, expected 0..255, or 0..1"),
        (dict(images=altered((0, 0, 0, 0), -0.5)), r"values -0.5 to 255, expected 0..255"),
        (dict(images=altered((0, 0, 0, 0), -1, np.int16)), r"values -1 to 255"),
        (dict(images=IMAGES > 3), "images are bool, expected uint8 or floats"),
        (dict(images=IMAGES[:19]), r"images \(19, 6, 4, 3\) and labels \(20,\) do not fit"),
        (dict(labels=np.eye(2)[LABELS]), r"labels \(20, 2\) do not fit"),
        (dict(images=IMAGES[..., :2]), r"\(20, 6, 4, 2\), expected \[example"),
        (dict(images=IMAGES[:, 0, 0]), "do not fit"),
        (dict(images=IMAGES[:, :0]), r"\(20, 0, 4, 3\), expected"),
        (dict(images=None), r"no 'images' in it, only \['labels'\]"),
        (dict(labels=None), "no 'labels' in it"),
        (dict(labels=LABELS / 2), "labels are float64, expected integers"),
        (dict(labels=LABELS - 1), "labels 0 is -1, expected 0 or more"),
        (dict(labels=LABELS * 0), r"1 classes \['0'\], at least 2"),
        (dict(labels=LABELS * 2), "class '1' has 0 images"),
        (
            dict(labels=LABELS + 1, class_names=np.array(["a", "b"])),
            r"is 2, but .* 2 classes \(0..1",
        ),
        (dict(test_images=IMAGES), "no 'test_labels' in it"),
        (dict(test_images=IMAGES, test_labels=LABELS + 5), r"test_labels 0 is 5, but .* 2 classes"),
        (dict(test_images=IMAGES[:, :3], test_labels=LABELS), "images of different shapes"),
        (dict(images=np.array([{}] * 20)), "not a whole .npz file of plain arrays"),
    ],
)
def test_bad_files(tmp_path, change, message):
    arrays = dict(images=IMAGES, labels=LABELS) | change
    with pytest.raises(InputError, match=message) as error:
        load(write(tmp_path / "bad.npz", **arrays))
    assert "bad.npz" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files(tmp_path, save):
    path = tmp_path / "bad.npz"
    source = write(path, save, images=np.tile(IMAGES, (1, 4, 4, 1)), labels=LABELS)
    good = path.read_bytes()
    middle = len(good) * 2 // 3  # Inside the pixels.
    for content in (b"", good[: len(good) // 2], good[:middle] + b"\x00\xff" + good[middle + 2 :]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="bad.npz: not a whole .npz file"):
            load(source)
    path.unlink()
    with pytest.raises(InputError, match="bad.npz: no such file"):
        load(source)


@pytest.mark.parametrize("keys", ["medmnist", "ours"])
def test_medmnist_files_are_read(tmp_path, keys):
    prefixes = {"train": "train_" if keys == "medmnist" else "", "val": "val_", "test": "test_"}
    arrays = {f"{p}images": IMAGES[..., 0] // (1 + len(s)) for s, p in prefixes.items()}
    arrays |= {f"{p}labels": LABELS[:, None].astype(np.uint8) for p in prefixes.values()}
    dataset = load(write(tmp_path / "a.npz", np.savez_compressed, **arrays))
    for name, split in dataset.splits.items():
        grey = IMAGES[..., :1].repeat(3, -1) // (1 + len(name))
        np.testing.assert_array_equal(split.images[np.arange(20)], grey)
        assert split.labels.tolist() == LABELS.tolist()


def test_labels_may_count_from_1(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = load(write(tmp_path / "a.npz", images=IMAGES, labels=LABELS + 1))
    assert dataset.class_names == ("1", "2")
    assert np.bincount(dataset.splits["train"].labels).min() > 0
    assert "labels count from 1" in caplog.text
    named = dict(class_names=np.array(["a", "b"]))
    with pytest.raises(InputError, match="subtract 1 if they count from 1"):
        load(write(tmp_path / "b.npz", images=IMAGES, labels=LABELS + 1, **named))


@pytest.mark.parametrize("largest", [20, 10**7, 2**31 - 1])
def test_labels_beyond_the_number_of_images_are_refused_at_once(tmp_path, largest):
    labels = LABELS.copy()
    labels[3] = largest
    with pytest.raises(InputError, match=f"labels go up to {largest}, but there are 20 images"):
        load(write(tmp_path / "a.npz", images=IMAGES, labels=labels))


def test_more_class_names_than_images_are_refused_at_once(tmp_path):
    names = np.full(10**6, "a")
    source = write(tmp_path / "a.npz", images=IMAGES, labels=LABELS, class_names=names)
    with pytest.raises(InputError, match="1000000 class_names, but there are 20 images"):
        load(source)


def test_a_small_file_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    source = write(tmp_path / "a.npz", np.savez_compressed, images=IMAGES * 0, labels=LABELS)
    monkeypatch.setattr("cxv_jax.machine.available_memory", lambda: 1000)
    with pytest.raises(InputError, match="a.npz: unpacked it takes .* GB of memory are free"):
        load(source)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path, kind):
    header = io.BytesIO()
    shape = {"shape": (10**6, 10**4, 10**4, 3), "fortran_order": False, "descr": "|u1"}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(100))
    with pytest.raises(InputError, match="images.npy does not have the size that its header says"):
        load(f"npz:{tmp_path}/a.npz")
