"""The splits of a run as it keeps them: which images each has, so that none changes sides."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from cxv_jax.data.splits import Dataset, Split
from cxv_jax.errors import InputError
from cxv_jax.jsonable import Record

NAMED = 5  # So many images or classes are named in a message.


@dataclasses.dataclass(frozen=True)
class Stored(Record):
    """What identifies every image of every split.

    Attributes:
      class_names: in the order of the labels.
      names: by split: ``train/CLASS/FILE`` as the source has it, or its row, ``train/17``.
      labels: by split: a digest of the labels, in the order of ``names``.
      images: how many the source had, with those in no split.
    """

    class_names: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    labels: dict[str, str]
    images: int

    @classmethod
    def of(cls, dataset: Dataset) -> "Stored":
        """What there is to keep of a data set; rows stand for names that it does not have."""
        splits = {k: x if x.names is not None else named(k, x) for k, x in dataset.splits.items()}
        names = {k: tuple(split.names) for k, split in splits.items()}
        labels = {k: _digest(split.labels) for k, split in splits.items()}
        return cls(tuple(dataset.class_names), names, labels, dataset.images)

    @classmethod
    def from_json(cls, data: Any) -> "Stored":
        """The inverse of ``to_json``; no field may be missing or unknown.

        Raises:
          TypeError: ``data`` is of another form.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, dict) or set(data) != fields:
            raise TypeError(f"expected the fields {sorted(fields)}")
        return super().from_json(data)

    @cached_property
    def digest(self) -> str:
        """Of classes, images and labels."""
        kept = [self.class_names, self.names, self.labels]
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def named(part: str, split: Split) -> Split:
    """A part of a source whose images have names that no other part has."""
    found = range(len(split)) if split.names is None else split.names
    names = np.array([f"{part}/{name}" for name in found], dtype=object)
    return dataclasses.replace(split, names=names)


def restore(
    source: str,
    class_names: Sequence[str],
    parts: Mapping[str, Split],
    stored: Stored,
    wanted: Iterable[str] = (),
) -> Dataset:
    """The stored splits, of a source that may have got more images since.

    Args:
      source: its name, for messages.
      class_names: that it has now.
      parts: its own splits, :func:`named`.
      stored: what to restore.
      wanted: only these splits; none: all.

    Raises:
      InputError: classes or labels have changed, or images of a split are gone.
    """
    _check_classes(source, class_names, stored.class_names)
    places = {name: (part, i) for part, x in parts.items() for i, name in enumerate(x.names)}
    splits = {}
    for split in [k for k in stored.names if k in wanted or not wanted]:
        names = stored.names[split]
        if gone := [name for name in names if name not in places]:
            raise InputError(
                f"{source}: {len(gone)} of the {len(names)} images of the run's {split} split are "
                f"gone or moved to another class: {_some(gone)}; put them back, or start anew in "
                "another workdir"
            )
        part = places[names[0]][0]
        splits[split] = parts[part].take(np.array([places[name][1] for name in names], int))
        if _digest(splits[split].labels) != stored.labels[split]:
            raise InputError(
                f"{source}: labels of the run's {split} split have changed since it was started; "
                "put them back, or start anew in another workdir"
            )
    images = sum(map(len, parts.values()))
    if images > stored.images:
        logging.getLogger(__name__).warning(
            "%s: %d images are new since the run was started and left out: its own splits are kept",
            source,
            images - stored.images,
        )
    return Dataset(source, stored.class_names, splits, stored.images)


def check(source: str, now: Stored, class_names: Sequence[str], digest: str) -> None:
    """Whether a data set is the one that a run was trained on.

    Args:
      source: its name, for messages.
      now: what identifies it as it is now.
      class_names: of the run.
      digest: of the run's splits; empty: not known.

    Raises:
      InputError: it is another one.
    """
    _check_classes(source, now.class_names, class_names)
    if digest and now.digest != digest:
        raise InputError(
            f"{source}: images or labels have changed since the run was started, so that its "
            "test split would have been trained on; put them back, or start anew in another workdir"
        )


def _check_classes(source: str, now: Sequence[str], before: Sequence[str]) -> None:
    if tuple(now) == tuple(before):
        return
    changes = [("new", set(now) - set(before)), ("gone", set(before) - set(now))]
    told = [f"{what}: {_some(sorted(names))}" for what, names in changes if names]
    raise InputError(
        f"{source}: the classes are not those that the run was started with "
        f"({'; '.join(told) or 'their order has changed'}); put them back, or start anew in "
        "another workdir"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more


def _digest(labels: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(labels, "<i4").tobytes()).hexdigest()
