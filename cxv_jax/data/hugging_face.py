"""Sets of images on the Hugging Face hub, or in a folder that the library ``datasets`` reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxv_jax.data.folder import SPLITS
from cxv_jax.data.image_files import Listed, checked
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError, reason

LABELS = ("label", "labels", "fine_label", "class")  # Taken first, where there are several.
SAVED = ("dataset_dict.json", "state.json")  # What ``save_to_disk`` writes.


def read(
    name: str,
    image_size: int,
    on_bad_image: str,
    *,
    class_names: Sequence[str] | None = None,
    white: float = 0.0,
) -> tuple[list[str], dict[str, Split]]:
    """Read class names and the splits that are there.

    The image column is the first of the type ``Image``; the labels' is the one of the type
    ``ClassLabel``, or is called ``label``. Examples without a label (-1) are left out. No code of
    the set is run.

    Args:
      name: ``NAME`` or ``NAME:CONFIG`` of the hub, or a folder: one with Parquet files, or one that
        ``save_to_disk`` wrote.
      image_size: pixels a side; needed, as pictures differ.
      on_bad_image: ``refuse`` or ``skip``.
      class_names: of a run that is evaluated, the only classes allowed; then ``train`` may be
        missing.
      white: see :func:`cxv_jax.data.levels.find_white`.

    Raises:
      InputError: the library is missing, the set cannot be loaded, has no images or no labels, or
        has images that cannot be read.
    """
    where = f"hf:{name}"
    if not image_size:
        raise InputError(f"{where}: set config.data.image_size, pixels a side, for an hf source")
    tables = {SPLITS[k.casefold()]: v for k, v in _tables(name).items() if k.casefold() in SPLITS}
    if class_names is None and "train" not in tables:
        raise InputError(f"{where}: no train split, only {', '.join(tables) or 'others'}")
    image, label = _columns(where, next(iter(tables.values())).features)
    found = {split: _labels(table, label) for split, table in tables.items()}
    known = class_names or sorted({x for labels in found.values() for x in labels if x is not None})
    if names := getattr(next(iter(tables.values())).features[label], "names", None):
        known = class_names or names
    if unknown := sorted({x for v in found.values() for x in v if x is not None} - set(known)):
        raise InputError(f"{where}: the run has no class {unknown[0]!r}, only {list(known)}")
    if len(known) < 2:
        raise InputError(f"{where}: {len(known)} classes {list(known)}, at least 2 are needed")
    listed = {}
    for split, labels in found.items():
        rows = {i: x for i, x in enumerate(labels) if x is not None}
        if rows:
            files = _Files(tables[split], image, list(rows))
            numbers = [list(known).index(x) for x in rows.values()]
            listed[split] = Listed(where, [str(i) for i in rows], files, numbers)
    return list(known), checked(listed, image_size, on_bad_image, white)


def pictures(name: str) -> Sequence[bytes]:
    """The images of a set's train split, as they are."""
    table = _tables(name)["train"]
    return _Files(table, _columns(f"hf:{name}", table.features)[0], range(len(table)))


class _Files(Sequence[bytes]):
    """The images of some rows as the bytes of files, fetched when asked for."""

    def __init__(self, table: Any, column: str, rows: Sequence[int]):
        import datasets

        self._column, self._rows = column, rows
        self._table = table.cast_column(column, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        cell = self._table[self._rows[index]][self._column] or {}
        return cell.get("bytes") or Path(cell.get("path") or "no picture in this row")


def _tables(name: str) -> dict[str, Any]:
    """The splits of a set, as the library has them."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"hf:{name}: the library datasets is missing; install it: pip install 'cxv_jax[hf]'"
        ) from error
    place = Path(name).expanduser()
    try:
        if any((place / file).is_file() for file in SAVED):
            found = datasets.load_from_disk(str(place))
        elif place.is_dir():
            found = datasets.load_dataset(str(place))
        else:
            found = datasets.load_dataset(*name.split(":", 1))
    except Exception as error:  # The library raises nearly everything.
        raise InputError(
            f"hf:{name}: cannot be loaded ({reason(error)}); expected NAME or NAME:CONFIG of a "
            "data set of the Hugging Face hub, or a folder of Parquet files"
        ) from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def _columns(where: str, features: Any) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    usual = [name for name in LABELS if name in features]
    labels = usual if len(classes) != 1 else classes
    if not images or not labels:
        raise InputError(
            f"{where}: expected a column of images and one of labels, found {list(features)}"
        )
    return images[0], labels[0]


def _labels(table: Any, column: str) -> list[str | None]:
    """The class of every row by name; None: it has none."""
    kind, values = table.features[column], table[column][:]
    if names := getattr(kind, "names", None):
        return [None if x is None or x < 0 else names[x] for x in values]
    if not all(isinstance(x, str | int | None) for x in values):
        raise InputError(f"hf: column {column} has {type(values[0]).__name__}, expected classes")
    return [None if x is None else str(x) for x in values]
