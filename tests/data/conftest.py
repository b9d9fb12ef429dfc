"""The real data sets, where the development folder is."""

import io
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def real_cifar10(shared, tmp_path_factory) -> Path:
    """The real CIFAR-10 in both official layouts, rebuilt and checked by the shared script."""
    place, data = tmp_path_factory.mktemp("cifar10"), shared / "data"
    parts = [str(data / f"cifar10-{x}") for x in ("a.med.xz", "b.med.xz", "filenames.txt.xz")]
    command = [sys.executable, str(data / "restore.py"), "cifar10", *parts, str(place)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={"PYTHONPATH": str(data)})
    return place


@pytest.fixture(scope="session")
def real_tiny_imagenet(shared) -> dict[str, np.ndarray]:
    """The real Tiny ImageNet subset: JPEG bytes, their offsets, labels, splits and names."""
    packed = (shared / "data" / "tinyimagenet50.npz.xz").read_bytes()
    return dict(np.load(io.BytesIO(lzma.decompress(packed))))
