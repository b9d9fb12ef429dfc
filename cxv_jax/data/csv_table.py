"""A table of pictures: ``path,label`` and perhaps ``split``, a row a picture."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cxv_jax.data.folder import SPLITS
from cxv_jax.data.image_files import Listed, checked
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError, reason

COLUMNS = {"path": "path", "file": "path", "filename": "path", "label": "label", "class": "label"}
NEEDED = "a first line with the columns path and label (and perhaps split)"


class Row(NamedTuple):
    """A picture: its file as the table has it, its class, and the split it is in."""

    name: str
    label: str
    split: str = "train"


def read(
    path: Path,
    image_size: int,
    on_bad_image: str,
    *,
    class_names: Sequence[str] | None = None,
    white: float = 0.0,
) -> tuple[list[str], dict[str, Split]]:
    """Read class names (sorted, numbers by their value) and the splits that are there.

    Args:
      path: of the table; columns are divided by commas, semicolons or tabs.
      image_size: pixels a side; needed, as pictures differ.
      on_bad_image: ``refuse`` or ``skip``.
      class_names: of a run that is evaluated, the only classes allowed; then ``train`` may be
        missing.
      white: see :func:`cxv_jax.data.levels.find_white`.

    Raises:
      InputError: for a missing file, other columns, empty cells, a picture listed twice, unknown
        splits or classes, fewer than two classes, and unreadable images.
    """
    if not image_size:
        raise InputError(f"{path}: set config.data.image_size, pixels a side, for a csv source")
    found = rows(path)
    known = sorted({row.label for row in found}, key=_by_value)
    classes = list(class_names or known)
    if unknown := [label for label in known if label not in classes]:
        raise InputError(f"{path}: the run has no class {unknown[0]!r}, only {classes}")
    if len(classes) < 2:
        raise InputError(f"{path}: {len(classes)} classes {classes}, at least 2 are needed")
    parts = {name: [row for row in found if row.split == name] for name in ("train", "val", "test")}
    if class_names is None and not parts["train"]:
        raise InputError(f"{path}: no row is in the split train")
    listed = {
        name: Listed(
            str(path),
            [row.name for row in part],
            [path.parent / row.name for row in part],
            [classes.index(row.label) for row in part],
        )
        for name, part in parts.items()
        if part
    }
    return classes, checked(listed, image_size, on_bad_image, white)


def rows(path: Path) -> list[Row]:
    """The rows of a table; files are named as they stand there, relative to its folder.

    Raises:
      InputError: see :func:`read`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({reason(error)})") from error
    title = text.partition("\n")[0]
    delimiter = next((c for c in ",;\t" if c in title), ",")
    try:
        table = list(csv.reader(text.splitlines(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not a table ({error}); expected {NEEDED}") from error
    names = [COLUMNS.get(x.strip().casefold(), x.strip().casefold()) for x in (table or [[]])[0]]
    if not {"path", "label"} <= set(names) or len(set(names)) < len(names):
        raise InputError(f"{path}: its columns are {names}; expected {NEEDED}")
    found: dict[str, Row] = {}
    for number, cells in enumerate(table[1:], 2):
        if not any(cells):
            continue
        if len(cells) != len(names):
            raise InputError(f"{path}, line {number}: {len(cells)} cells, expected {len(names)}")
        row = _row(f"{path}, line {number}", dict(zip(names, map(str.strip, cells), strict=True)))
        if row.name in found:
            raise InputError(f"{path}, line {number}: {row.name} is listed twice; keep one row")
        found[row.name] = row
    return list(found.values())


def _row(where: str, cells: dict[str, str]) -> Row:
    for column in ("path", "label"):
        if not cells[column]:
            raise InputError(f"{where}: the {column} is empty")
    given = cells.get("split", "") or "train"
    if (split := SPLITS.get(given.casefold())) is None:
        raise InputError(f"{where}: unknown split {given!r}; expected train, val or test")
    return Row(cells["path"], cells["label"], split)


def _by_value(label: str) -> tuple[int, str]:
    return (int(label), label) if label.isdecimal() else (-1, label)
