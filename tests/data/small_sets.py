"""Small data sets in the official layouts."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np


def cifar_arrays(number: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images ``[example, 32, 32, 3]`` and labels that have every class."""
    images = np.random.default_rng(seed).integers(0, 256, (number, 32, 32, 3), np.uint8)
    return images, np.arange(number) % classes


def planes(images: np.ndarray) -> np.ndarray:
    """All red, then all green, then all blue: the official order."""
    return np.stack([images[:, y, x, c] for c in range(3) for y in range(32) for x in range(32)], 1)


def cifar_files(name: str, form: str) -> tuple[str, dict[str, bytes], dict[str, np.ndarray]]:
    """The folder, the files and what is in them, of a small set in an official layout."""
    ten = name == "cifar10"
    classes = 10 if ten else 100
    trains = [f"data_batch_{i}" for i in range(1, 6)] if ten else ["train"]
    tests = ["test_batch"] if ten else ["test"]
    files, parts = {}, {}
    for seed, file in enumerate(trains + tests):
        images, labels = cifar_arrays(2 * classes, classes, seed)
        parts[file] = images, labels
        columns = [labels] if ten else [labels // 5, labels]
        if form == "binary":
            records = np.concatenate([np.stack(columns, 1).astype(np.uint8), planes(images)], 1)
            files[f"{file}.bin"] = records.tobytes()
        else:
            keys = [b"labels"] if ten else [b"coarse_labels", b"fine_labels"]
            batch = {key: column.tolist() for key, column in zip(keys, columns, strict=True)}
            files[file] = pickle.dumps({b"data": planes(images), **batch}, protocol=2)
    folders = {
        "cifar10": {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py"},
        "cifar100": {"binary": "cifar-100-binary", "python": "cifar-100-python"},
    }
    expected = {}
    for split, names in (("train", trains), ("test", tests)):
        expected[f"{split} images"] = np.concatenate([parts[n][0] for n in names])
        expected[f"{split} labels"] = np.concatenate([parts[n][1] for n in names])
    return folders[name][form], files, expected


def write_folder(place: Path, folder: str, files: dict[str, bytes]) -> Path:
    (place / folder).mkdir(parents=True)
    for name, content in files.items():
        (place / folder / name).write_bytes(content)
    return place / folder


def write_archive(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def trust(archive: Path) -> None:
    """Tell the reader which digest to expect."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.with_name(archive.name + ".sha256").write_text(f"{digest}  {archive.name}\n")
