"""Preparing sets for TFDS and reading them; what is left behind when it goes wrong."""

import errno
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from small_sets import cifar_files, trust, write_archive

from cxv_jax.data import cifar, prepare, prepared
from cxv_jax.data.prepare import prepare as run
from cxv_jax.data.sources import load
from cxv_jax.errors import InputError


def archive_of(place: Path, name: str = "cifar10", form: str = "binary") -> Path:
    folder, files, _ = cifar_files(name, form)
    number = name.removeprefix("cifar")
    path = write_archive(place / "archives" / f"cifar-{number}-{form}.tar.gz", folder, files)
    trust(path)
    return path


def load_prepared(place: Path, name: str = "cifar10", **kwargs):
    return load(f"tfds:{name}", data_dir=str(place), **(dict(val_fraction=0) | kwargs))


def contents(place: Path) -> list[str]:
    return sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def ten(tmp_path_factory) -> Path:
    """A small CIFAR-10, prepared; tests that change it copy it."""
    place = tmp_path_factory.mktemp("ten")
    run("cifar10", place, archive=archive_of(place))
    return place


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["binary", "python"])
def test_a_prepared_set_has_the_arrays_of_the_archive(tmp_path, name, form):
    folder = run(name, tmp_path, archive=archive_of(tmp_path, name, form))
    _, _, expected = cifar_files(name, form)
    dataset = load_prepared(tmp_path, name)
    assert folder == tmp_path / name / "3.0.2"
    for split in ("train", "test"):
        images, labels = dataset.splits[split].images, dataset.splits[split].labels
        np.testing.assert_array_equal(images, expected[f"{split} images"])
        np.testing.assert_array_equal(labels, expected[f"{split} labels"])
    ordinary = tfds.builder(name, data_dir=str(tmp_path), file_format="array_record")
    example = ordinary.as_data_source("test")[15]  # As anyone else reads it.
    np.testing.assert_array_equal(example["image"], expected["test images"][15])
    assert example["id"] == b"test_00015"
    if name == "cifar100":
        assert example["coarse_label"] == example["label"] // 5
    assert not (tmp_path / ".preparing").exists()


def test_a_repeated_preparation_finds_it_done(ten):
    before = {p: p.stat().st_mtime_ns for p in ten.rglob("*")}
    assert run("cifar10", ten) == ten / "cifar10" / "3.0.2"  # With no archive at hand.
    assert {p: p.stat().st_mtime_ns for p in ten.rglob("*")} == before


def test_pixels_are_decoded_once_and_mapped(ten, monkeypatch):
    first = load_prepared(ten).splits["train"]
    monkeypatch.setattr(prepared, "_write", None)  # A second decoding would fail.
    again = load_prepared(ten).splits["train"]
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(first.images, again.images)
    assert again.images[np.array([3, 1])].flags.c_contiguous


@pytest.mark.parametrize("damage", ["flipped", "truncated", "no digest"])
def test_a_damaged_copy_is_made_anew(ten, tmp_path, damage):
    shutil.copytree(ten / "cifar10", tmp_path / "cifar10")
    expected = np.array(load_prepared(tmp_path).splits["train"].images)
    cache = tmp_path / "cifar10" / "3.0.2" / "cxv_jax-train.npy"
    content = bytearray(cache.read_bytes())
    content[5000] ^= 1
    match damage:
        case "flipped":
            cache.write_bytes(content)
        case "truncated":
            cache.write_bytes(content[:-999])
        case "no digest":
            cache.write_bytes(content)
            cache.with_name(cache.name + ".sha256").unlink()
    np.testing.assert_array_equal(load_prepared(tmp_path).splits["train"].images, expected)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(ten, tmp_path, monkeypatch):
    shutil.copytree(ten / "cifar10", tmp_path / "cifar10")
    expected = load_prepared(ten).splits["train"]

    def refuse(self, *args, **kwargs):
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr(prepared, "_write", refuse)
    got = load_prepared(tmp_path).splits["train"]
    np.testing.assert_array_equal(got.images, expected.images)
    np.testing.assert_array_equal(got.labels, expected.labels)


class Interrupting:
    """Images of which the thirtieth raises."""

    def __init__(self, images: np.ndarray, error: BaseException):
        self.images, self.error = images, error

    def __iter__(self):
        yield from self.images[:30]
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), None),
        (SystemExit(143), None),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left.*512 MiB.*--data_dir"),
        (
            RuntimeError("Failed to finalize: write() failed: No space left on device; writing x"),
            "no space left",
        ),
        (PermissionError(errno.EACCES, "denied"), "not writable; choose another --data_dir"),
    ],
)
def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch, error, message):
    archive, place, read = archive_of(tmp_path), tmp_path / "data", cifar.read

    def broken(*args):
        examples = read(*args)
        train = examples["train"]
        return examples | {"train": train._replace(images=Interrupting(train.images, error))}

    with monkeypatch.context() as patch:
        patch.setattr(cifar, "read", broken)
        with pytest.raises(InputError if message else type(error), match=message) as raised:
            run("cifar10", place, archive=archive)
    assert "\n" not in str(raised.value)
    assert contents(place) == []
    with pytest.raises(InputError, match="not prepared; run: python -m experiments.prepare_data"):
        load_prepared(place)
    run("cifar10", place, archive=archive)
    assert len(load_prepared(place).splits["train"]) == 100


def test_what_a_killed_preparation_leaves_is_not_taken_for_a_set(ten, tmp_path):
    work = tmp_path / ".preparing"
    shutil.copytree(ten / "cifar10", work / "cifar10")
    (work / "cifar10" / "3.0.2" / "cifar10-test.array_record-00000-of-00001").unlink()
    with pytest.raises(InputError, match="not prepared"):
        load_prepared(tmp_path)
    run("cifar10", tmp_path, archive=archive_of(tmp_path))
    assert len(load_prepared(tmp_path).splits["test"]) == 20
    assert not work.exists()


def test_too_little_space_is_said_before_anything_is_read(tmp_path, monkeypatch):
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(2**40, 0, 2**20 * 17))
    with pytest.raises(InputError, match=r"no space left.*512 MiB.*17 MiB are free"):
        run("cifar10", tmp_path / "data", archive=tmp_path / "missing")


def test_bad_archives(tmp_path):
    archive = archive_of(tmp_path)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="missing: no such archive; expected cifar-10-b"):
        run("cifar10", tmp_path, archive=tmp_path / "missing")
    with pytest.raises(InputError, match=f"SHA-256 is {digest}, expected 123"):
        run("cifar10", tmp_path, archive=archive, sha256="123")
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(InputError, match="truncated or changed"):
        run("cifar10", tmp_path, archive=archive)
    with pytest.raises(InputError, match="--archive and --sha256 are for cifar10, cifar100"):
        run("mnist", tmp_path, archive=archive)
    assert not (tmp_path / "cifar10").exists()


def test_downloads(tmp_path, monkeypatch):
    archive = archive_of(tmp_path)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    first, second = prepare.LAYOUTS["cifar10"]
    layouts = (first._replace(url=archive.as_uri(), sha256=digest), second)
    monkeypatch.setitem(prepare.LAYOUTS, "cifar10", layouts)
    place = tmp_path / "data"
    good = archive.read_bytes()
    archive.write_bytes(good[:-1])
    with pytest.raises(InputError, match="truncated or changed"):
        run("cifar10", place)
    assert not (place / archive.name).exists()
    archive.write_bytes(good)
    run("cifar10", place)
    assert (place / archive.name).read_bytes() == good
    assert len(load_prepared(place).splits["train"]) == 100
    direct = load("cifar10", data_dir=str(place), val_fraction=0)  # The archive serves both.
    np.testing.assert_array_equal(direct.splits["test"].labels, np.arange(20) % 10)


def test_without_a_network(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(InputError, match="no route.*cifar-100-python.tar.gz from .*--archive"):
        run("cifar100", tmp_path)
    assert contents(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "prepare it again"),
        ("truncated", "prepare it again"),
        ("format", "not readable as ArrayRecord .*prepare it again"),
    ],
)
def test_damaged_sets(ten, tmp_path, damage, message):
    shutil.copytree(ten / "cifar10", tmp_path / "cifar10")
    folder = tmp_path / "cifar10" / "3.0.2"
    for cache in folder.glob("cxv_jax*"):
        cache.unlink()
    records = folder / "cifar10-train.array_record-00000-of-00001"
    match damage:
        case "missing":
            records.unlink()
        case "truncated":
            records.write_bytes(records.read_bytes()[:-50_000])
        case "format":
            info = json.loads((folder / "dataset_info.json").read_text())
            (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(InputError, match=message) as error:
        load_prepared(tmp_path)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def small_builder(place: Path, shape, label=None, splits=("train", "validation")) -> None:
    """A set of six images a split, of one size or of many."""

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.10")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="tiny")]  # noqa: RUF012

        def _info(self):
            features = {"picture": tfds.features.Image(shape=shape)}
            features["kind"] = label or tfds.features.ClassLabel(names=["no", "yes"])
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("picture", "kind"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            for i in range(6):
                size = (20, 30 + i) if None in shape else (shape[1], shape[0])
                mode = "L" if shape[-1] == 1 else "RGB"
                picture = Image.new("L", size, 40 * i).convert(mode)
                yield i, {"picture": picture, "kind": i % 2}

    builder = Pictures(data_dir=str(place), file_format="array_record")
    tfds.display_progress_bar(False)
    builder.download_and_prepare()


@pytest.mark.parametrize("shape", [(None, None, 3), (16, 16, 1)], ids=["many sizes", "grey"])
def test_any_other_set(tmp_path, shape):
    small_builder(tmp_path, shape)
    older = shutil.copytree(tmp_path / "pictures/tiny/1.2.10", tmp_path / "pictures/tiny/1.2.9")
    (older / "dataset_info.json").write_text("not the one to read")
    dataset = load_prepared(tmp_path, "pictures/tiny", image_size=16, val_per_class=1)
    assert dataset.class_names == ("no", "yes")
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 4,
        "val": 2,
        "test": 6,
    }
    test = dataset.splits["test"]
    assert test.image_shape == (16, 16, 3)
    assert test.images[np.array([4, 1])][:, 3, 5].tolist() == [[160] * 3, [40] * 3]
    assert test.labels.tolist() == [0, 1] * 3


def test_sets_that_are_not_for_classification(tmp_path):
    small_builder(tmp_path / "a", (None, None, 3))
    with pytest.raises(InputError, match="images of many sizes; set config.data.image_size"):
        load_prepared(tmp_path / "a", "pictures/tiny")
    small_builder(tmp_path / "b", (16, 16, 3), label=tfds.features.Scalar(np.int64))
    with pytest.raises(InputError, match="expected images and class labels, found"):
        load_prepared(tmp_path / "b", "pictures/tiny")
    small_builder(tmp_path / "c", (16, 16, 3), splits=("test",))
    with pytest.raises(InputError, match="no train split, only"):
        load_prepared(tmp_path / "c", "pictures/tiny")


def command(*arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "experiments.prepare_data", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2])


def test_the_command(tmp_path):
    archive = archive_of(tmp_path)
    archive.with_name(archive.name + ".sha256").unlink()
    place = f"--data_dir={tmp_path / 'data'}"
    refused = command("cifar10", f"--archive={archive}", place)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    done = command("cifar10", f"--archive={archive}", place, f"--sha256={digest}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config.data.source=tfds:cifar10" in done.stdout
    assert len(load_prepared(tmp_path / "data").splits["train"]) == 100


def test_an_interrupted_command_cleans_up(tmp_path):
    place = tmp_path / "data"
    line = [sys.executable, "-c", SLOW, "cifar10", f"--data_dir={place}"]
    line += [f"--archive={archive_of(tmp_path)}"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=root)
    assert process.stderr is not None
    assert process.stderr.readline() == "busy\n"
    assert (place / ".preparing").is_dir()
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=60)[1].strip()
    assert (process.returncode, message[:11], message.count("\n")) == (143, "interrupted", 0)
    assert list(place.iterdir()) == []


# The command, with a first image that takes its time.
SLOW = """
import sys, time
from cxv_jax.data import prepare
from cxv_jax.launch import command
from experiments import prepare_data

def wait(array):
    print("busy", file=sys.stderr, flush=True)
    time.sleep(60)

prepare.Image.fromarray = wait
command.run(prepare_data.main)
"""


def test_the_real_cifar10(real_cifar10, tmp_path):
    files = {}  # The first 500 images of every file: encoding all of them takes a minute.
    for path in (real_cifar10 / "cifar-10-batches-bin").glob("*.bin"):
        files[path.name] = path.read_bytes()[: 500 * 3073]
    archive = write_archive(tmp_path / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    trust(archive)
    run("cifar10", tmp_path, archive=archive)
    got = load_prepared(tmp_path).splits
    whole = load("cifar10", data_dir=str(real_cifar10), val_fraction=0).splits
    first = np.arange(50_000).reshape(5, 10_000)[:, :500].reshape(-1)
    np.testing.assert_array_equal(got["train"].images, whole["train"].images[first])
    np.testing.assert_array_equal(got["train"].labels, whole["train"].labels[first])
    np.testing.assert_array_equal(got["test"].images, whole["test"].images[:500])
