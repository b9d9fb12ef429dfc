"""Prepare sets for ``tfds:NAME``: ArrayRecord files that TFDS reads without TensorFlow."""

import contextlib
import errno
import io
import os
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from PIL import Image

from cxv_jax.data import cifar
from cxv_jax.data.cifar_files import CLASSES, LAYOUTS
from cxv_jax.data.prepared import find
from cxv_jax.errors import InputError

SPACE = 2**29  # Bytes for a CIFAR set: archive, ArrayRecord files, decoded copy.


def prepare(name: str, place: Path, *, archive: Path | None = None, sha256: str = "") -> Path:
    """Prepare a set in ``place/NAME[/CONFIG]/VERSION``, unless it is there already.

    Everything is written into ``place/.preparing`` and renamed at the end, so an interrupted
    preparation leaves nothing that could be taken for a set, and can be repeated.

    Args:
      name: ``cifar10`` or ``cifar100``, which need no TensorFlow; or any set of TFDS, many of which
        need it to be prepared.
      place: the data folder; also where archives are looked for and downloaded to.
      archive: a local copy of the official CIFAR archive, binary or python.
      sha256: its digest, if it is not the official file.

    Returns:
      The folder of the set.

    Raises:
      InputError: for a missing or changed archive, no network, no space left, or TensorFlow needed
        and not there.
    """
    if (done := find(name, place)) is not None:
        return done
    if name not in LAYOUTS and (archive or sha256):
        raise InputError(f"--archive and --sha256 are for {', '.join(LAYOUTS)}, not for {name!r}")
    work = place / ".preparing"
    try:
        place.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        if name in LAYOUTS:
            _check_space(place)
            archive = archive or _local(name, place) or _download(name, place)
            builder = _cifar_builder(name, archive, sha256, work)
        else:
            builder = _tfds_builder(name, work)
        tfds.display_progress_bar(sys.stderr.isatty())
        with contextlib.redirect_stdout(io.StringIO()):  # It would name the folder before renaming.
            builder.download_and_prepare(download_dir=str(work / "downloads"))
        folder = place / Path(builder.data_path).relative_to(work)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Path(builder.data_path).replace(folder)
    except (OSError, ImportError, RuntimeError, AssertionError) as error:  # As TFDS raises them.
        raise InputError(_explain(name, place, error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Cifar(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS's own CIFAR builders need TensorFlow to read the archive; this one is given arrays."""

    VERSION = tfds.core.Version("3.0.2")  # Of TFDS's builders: the same features.

    def __init__(self, examples: dict[str, cifar.Examples], **kwargs: Any):
        self._examples = examples
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=CLASSES[self.name]),
        }
        if self.name == "cifar100":
            features["coarse_label"] = tfds.features.ClassLabel(num_classes=20)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            disable_shuffling=True,  # Examples keep their order in the archive.
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, Any]]:
        images, labels, coarse = self._examples[split]
        for i, image in enumerate(images):
            # An array would be encoded by TensorFlow, a PIL image is not.
            example = {"id": f"{split}_{i:05d}", "image": Image.fromarray(image)}
            example["label"] = int(labels[i])
            if coarse is not None:
                example["coarse_label"] = int(coarse[i])
            yield i, example


class _Cifar10(_Cifar, skip_registration=True):  # type: ignore[call-arg]
    name = "cifar10"


class _Cifar100(_Cifar, skip_registration=True):  # type: ignore[call-arg]
    name = "cifar100"


def _cifar_builder(name: str, archive: Path, sha256: str, work: Path) -> _Cifar:
    if not archive.is_file():
        raise InputError(f"{archive}: no such archive; expected {_names(name)}")
    examples = cifar.read(name, archive, sha256)
    kind = {"cifar10": _Cifar10, "cifar100": _Cifar100}[name]
    return kind(examples, data_dir=str(work), file_format="array_record")


def _tfds_builder(name: str, work: Path) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=str(work), file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        raise InputError(f"{name!r}: TFDS has no set of this name") from error


def _local(name: str, place: Path) -> Path | None:
    """An official archive that lies in the data folder."""
    archives = [place / layout.archive for layout in LAYOUTS[name]]
    return next((archive for archive in archives if archive.is_file()), None)


def _download(name: str, place: Path) -> Path:
    """Get the binary archive; a name without ``.part`` means that it is whole."""
    layout = LAYOUTS[name][0]
    archive, part = place / layout.archive, place / (layout.archive + ".part")
    print(f"downloading {layout.url} to {archive}", flush=True)
    with urllib.request.urlopen(layout.url, timeout=30) as answer, part.open("wb") as file:
        shutil.copyfileobj(answer, file)
    cifar.verify(name, part, layout.sha256)
    return part.replace(archive)


def _check_space(place: Path) -> None:
    if (free := shutil.disk_usage(place).free) < SPACE:
        raise OSError(errno.ENOSPC, f"{free >> 20} MiB are free")


def _explain(name: str, place: Path, error: Exception) -> str:
    """One line with what to do, for whatever went wrong."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if getattr(error, "errno", 0) == errno.ENOSPC or os.strerror(errno.ENOSPC) in reason:
        need = f", {name} takes up to {SPACE >> 20} MiB" if name in LAYOUTS else ""
        return f"{place}: no space left{need}; free some or choose another --data_dir ({reason})"
    if isinstance(error, PermissionError) or not os.access(place, os.W_OK):
        return f"{place}: not writable; choose another --data_dir ({reason})"
    if isinstance(error, ImportError):
        return f"{name}: preparing it needs a package: pip install {error.name} ({reason})"
    if name in LAYOUTS:
        return (
            f"{name}: could not be prepared ({reason}); get {_names(name)} from "
            f"{LAYOUTS[name][0].url.rsplit('/', 1)[0]}/ and give it as --archive"
        )
    return f"{name}: TFDS could not prepare it ({reason})"


def _names(name: str) -> str:
    return " or ".join(layout.archive for layout in LAYOUTS[name])
