"""Tiny ImageNet in its official layouts, made of random pictures and of the real subset."""

import io
import itertools
import zipfile

import numpy as np
import pytest
from PIL import Image

from cxv_jax.data.sources import load
from cxv_jax.errors import InputError

ROOT = "tiny-imagenet-200"
WNIDS = ["n02", "n01", "n03"]  # As in the official file, not sorted.


def jpeg(seed: int, mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG")
    return file.getvalue()


def layout(train: dict[str, list[bytes]], val: list[tuple[bytes, str]], words) -> dict[str, bytes]:
    """File names relative to the root of the set, and what is in them."""
    files = {"wnids.txt": "\n".join(train).encode(), "words.txt": "\n".join(words).encode()}
    for wnid, pictures in train.items():
        files |= {f"train/{wnid}/images/{wnid}_{i}.JPEG": x for i, x in enumerate(pictures)}
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes"
    files |= {f"val/images/val_{i}.JPEG": x for i, (x, _) in enumerate(val)}
    lines = [f"val_{i}.JPEG\t{wnid}\t0\t0\t63\t63" for i, (_, wnid) in enumerate(val)]
    files["val/val_annotations.txt"] = "\n".join(lines).encode()
    files["test/images/test_0.JPEG"] = jpeg(0)
    return files


def small() -> dict[str, bytes]:
    train = {
        w: [jpeg(10 * k + i, "L" if i == 0 else "RGB") for i in range(4)]
        for k, w in enumerate(WNIDS)
    }
    val = [(jpeg(100 + i), WNIDS[i % 3]) for i in range(6)]
    return layout(train, val, ["n01\tgoldfish, Carassius", "n02\ttoad", "n03\tcat, puss", "n9\tx"])


def write(place, files: dict[str, bytes]):
    for name, content in files.items():
        (place / ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (place / ROOT / name).write_bytes(content)
    return place / ROOT


def write_zip(place, files: dict[str, bytes]):
    with zipfile.ZipFile(place / f"{ROOT}.zip", "w") as archive:
        archive.writestr(f"{ROOT}/", b"")
        for name, content in files.items():
            archive.writestr(f"{ROOT}/{name}", content)
    return place / f"{ROOT}.zip"


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("writer", [write, write_zip])
@pytest.mark.parametrize("inside", [False, True], ids=["parent", "itself"])
def test_the_official_layout(tmp_path, writer, inside):
    files = small()
    place = writer(tmp_path, files)
    dataset = load("tiny_imagenet", data_dir=str(place if inside else tmp_path), val_fraction=0)
    assert dataset.class_names == ("goldfish", "toad", "cat")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert test.labels.tolist() == [1, 0, 2, 1, 0, 2]
    names = [f"train/{w}/images/{w}_{i}.JPEG" for w in sorted(WNIDS) for i in range(4)]
    np.testing.assert_array_equal(train.images, [pixels(files[name]) for name in names])
    expected = [pixels(files[f"val/images/val_{i}.JPEG"]) for i in range(6)]
    np.testing.assert_array_equal(test.images, expected)


def test_validation_is_held_out_of_train_and_sizes_can_differ(tmp_path):
    write(tmp_path, small())
    dataset = load("tiny_imagenet", data_dir=str(tmp_path), val_per_class=1, image_size=32)
    assert [len(s) for s in dataset.splits.values()] == [9, 3, 6]
    assert dataset.splits["val"].images[np.arange(3)].shape == (3, 32, 32, 3)


def without(name):
    return lambda files: {key: value for key, value in files.items() if key != name}


def with_(name, content):
    return lambda files: files | {name: content}


@pytest.mark.parametrize("writer", [write, write_zip])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("words.txt"), "words.txt is missing; download http"),
        (without("val/val_annotations.txt"), "val/val_annotations.txt is missing"),
        (without("val/images/val_3.JPEG"), "val/images/val_3.JPEG is missing"),
        (with_("val/val_annotations.txt", b"val_0.JPEG\tn07\t0"), r"val has classes \['n07'\]"),
        (with_("val/val_annotations.txt", b"val_0.JPEG n01"), "has a line without a tab"),
        (with_("val/val_annotations.txt", b"val_0.JPEG\t\xff\xfe"), "val has classes"),
        (with_("train/n08/images/n08_0.JPEG", jpeg(0)), r"train has classes \['n08'\]"),
        (
            with_("train/n02/images/n02_1.JPEG", jpeg(1)[:500]),
            r"1 of 12 images cannot be read: train/n02/images/n02_1.JPEG \(OSError.*runcated",
        ),
    ],
)
def test_incomplete_sets(tmp_path, writer, change, message):
    writer(tmp_path, change(small()))
    with pytest.raises(InputError, match=message) as error:
        load("tiny_imagenet", data_dir=str(tmp_path))
    assert str(tmp_path / ROOT) in str(error.value)


def test_damaged_and_missing_archives(tmp_path):
    path = write_zip(tmp_path, small())
    good = path.read_bytes()
    for content in (good[: len(good) // 2], b"", good[:9000] + b"\x00\xff\x00" + good[9003:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="zip: not a whole zip file .*download http"):
            load("tiny_imagenet", data_dir=str(tmp_path))
    path.unlink()
    with pytest.raises(InputError, match=r"no tiny-imagenet-200 here.*data_dir"):
        load("tiny_imagenet", data_dir=str(tmp_path))


def test_the_real_subset(tmp_path, real_tiny_imagenet):
    real = real_tiny_imagenet
    offset, bytes_ = real["offset"], real["jpeg"].tobytes()
    content = [bytes_[a:b] for a, b in itertools.pairwise(offset)]
    train: dict[str, list[bytes]] = {w: [] for w in real["wnid"]}
    val = []
    for picture, label, split in zip(content, real["label"], real["split"], strict=True):
        wnid = real["wnid"][label]
        val.append((picture, wnid)) if split else train[wnid].append(picture)
    words = [f"{w}\t{text}" for w, text in zip(real["wnid"], real["words"], strict=True)]
    write_zip(tmp_path, layout(train, val, words))
    dataset = load("tiny_imagenet", data_dir=str(tmp_path), val_fraction=0)
    assert np.bincount(dataset.splits["train"].labels).tolist() == [250] * 50
    assert np.bincount(dataset.splits["test"].labels).tolist() == [50] * 50
    assert dataset.class_names[:2] == ("goldfish", "American alligator")
    means = dataset.splits["train"].images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4758, 0.4498, 0.3985], atol=3e-4)


def test_an_archive_that_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path, small())
    monkeypatch.setattr("cxv_jax.machine.available_memory", lambda: 10_000)
    with pytest.raises(InputError, match=f"{path}: unpacked it takes"):
        load("tiny_imagenet", data_dir=str(tmp_path))
