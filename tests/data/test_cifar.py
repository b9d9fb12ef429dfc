"""CIFAR readers on small sets of the official layout, and on the real CIFAR-10 where it is."""

import os
import pickle

import numpy as np
import pytest

from cxv_jax.data import sources
from cxv_jax.errors import InputError
from tests.data.small_sets import cifar_files, planes, trust, write_archive, write_folder

NAMES = pytest.mark.parametrize("name", ["cifar10", "cifar100"])
FORMS = pytest.mark.parametrize("form", ["binary", "python"])


def load(name: str, place) -> sources.Dataset:
    return sources.load(name, data_dir=str(place), val_fraction=0.0)


@NAMES
@FORMS
@pytest.mark.parametrize("packed", [False, True], ids=["extracted", "archive"])
@pytest.mark.parametrize("inside", [False, True], ids=["parent", "itself"])
def test_every_official_layout(tmp_path, name, form, packed, inside):
    folder, files, expected = cifar_files(name, form)
    if packed:
        archive = f"{'cifar-10' if name == 'cifar10' else 'cifar-100'}-{form}.tar.gz"
        place = write_archive(tmp_path / archive, folder, files)
        trust(place)
    else:
        place = write_folder(tmp_path, folder, files)
    got = load(name, place if inside else tmp_path)
    assert got.num_classes == len(set(got.class_names)) == (10 if name == "cifar10" else 100)
    for split in ("train", "test"):
        np.testing.assert_array_equal(got.splits[split].images, expected[f"{split} images"])
        np.testing.assert_array_equal(got.splits[split].labels, expected[f"{split} labels"])


def test_pickles_of_newer_pythons(tmp_path):
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        folder, files, expected = cifar_files("cifar100", "python")
        loaded = {name: pickle.loads(content) for name, content in files.items()}
        files = {name: pickle.dumps(batch, protocol) for name, batch in loaded.items()}
        place = write_folder(tmp_path / str(protocol), folder, files)
        np.testing.assert_array_equal(
            load("cifar100", place).splits["test"].images[7:8].shape[0], 1
        )
        np.testing.assert_array_equal(
            load("cifar100", place).splits["test"].images, expected["test images"]
        )


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def damage(case: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """One thing wrong with the files of a small CIFAR-10."""
    binary = "data_batch_1.bin" in files
    file = "data_batch_2.bin" if binary else "data_batch_2"
    match case:
        case "missing":
            del files[file]
        case "truncated":
            files[file] = files[file][:-1000]
        case "empty":
            files[file] = b""
        case "label":
            files[file] = files[file][:3073] + b"\x0a" + files[file][3074:]
        case "python label":
            batch = pickle.loads(files[file])
            batch[b"labels"][3] = -1
            files[file] = pickle.dumps(batch)
        case "lengths":
            batch = pickle.loads(files[file])
            batch[b"labels"].pop()
            files[file] = pickle.dumps(batch)
        case "shape":
            files[file] = pickle.dumps(
                {b"data": planes(np.zeros((2, 32, 32, 3))), b"labels": [0, 1]}
            )
        case "code":
            files[file] = pickle.dumps(Evil())
    return files


@pytest.mark.parametrize(
    ("form", "case", "message"),
    [
        ("binary", "missing", "data_batch_2.bin is missing; download https"),
        ("binary", "truncated", "data_batch_2.bin: truncated: 60460 bytes"),
        ("binary", "empty", "data_batch_2.bin: truncated: 0 bytes"),
        ("binary", "label", r"data_batch_2.bin: label 10 of example 1 is not in 0..9"),
        ("python", "missing", "data_batch_2 is missing"),
        ("python", "truncated", "data_batch_2: pickle data was truncated"),
        ("python", "empty", "data_batch_2: Ran out of input"),
        ("python", "python label", "label -1 of example 3 is not in 0..9"),
        ("python", "lengths", r"19 labels for data of \(20, 3072\)"),
        ("python", "shape", "data of .* float64"),
        ("python", "code", "refused to load posix.mkdir"),
    ],
)
def test_damaged_files(tmp_path, monkeypatch, form, case, message):
    folder, files, _ = cifar_files("cifar10", form)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load("cifar10", write_folder(tmp_path, folder, damage(case, files)))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "evil").exists()


def test_an_unknown_archive_is_refused_until_its_digest_is_told(tmp_path):
    folder, files, expected = cifar_files("cifar10", "binary")
    archive = write_archive(tmp_path / "cifar-10-binary.tar.gz", folder, files)
    with pytest.raises(InputError, match=r"expected c4a38c50.* or 6d958be0.*binary.tar.gz.sha256"):
        load("cifar10", tmp_path)
    archive.with_name(archive.name + ".sha256").write_text(f"ABC  {archive.name}\n")
    with pytest.raises(InputError, match="expected abc:"):
        load("cifar10", tmp_path)
    trust(archive)
    np.testing.assert_array_equal(
        load("cifar10", tmp_path).splits["train"].images, expected["train images"]
    )
    archive.write_bytes(archive.read_bytes()[:-100])  # Truncated after its digest was taken.
    with pytest.raises(InputError, match="truncated or changed; download it again"):
        load("cifar10", tmp_path)
    trust(archive)
    with pytest.raises(InputError, match="not a whole tar archive.*download it again"):
        load("cifar10", tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r"no cifar10 here.*download https.*data_dir"):
        load("cifar10", tmp_path)
    with pytest.raises(InputError, match="no cifar100 here"):
        load("cifar100", tmp_path / "nowhere")


def test_the_real_cifar10(real_cifar10):
    binary, python = (
        load("cifar10", real_cifar10 / f"cifar-10-batches-{form}") for form in ("bin", "py")
    )
    for split, number in (("train", 5000), ("test", 1000)):
        images, labels = binary.splits[split].images, binary.splits[split].labels
        assert np.bincount(labels).tolist() == [number] * 10
        np.testing.assert_array_equal(images, python.splits[split].images)
        np.testing.assert_array_equal(labels, python.splits[split].labels)
    train, test = (binary.splits[s].images for s in ("train", "test"))
    np.testing.assert_allclose(train.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=3e-4)
    np.testing.assert_allclose(test.mean((0, 1, 2)) / 255, [0.4942, 0.4851, 0.4504], atol=3e-4)
    words = (real_cifar10 / "cifar-10-batches-bin" / "batches.meta.txt").read_text().split()
    assert list(binary.class_names) == words
