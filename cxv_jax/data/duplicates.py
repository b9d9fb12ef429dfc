"""Equal images: what is in train and in test too was learnt by heart."""

import hashlib
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from cxv_jax.data.splits import Dataset
from cxv_jax.data.statistics import CHUNK


class Place(NamedTuple):
    """Where an image stands: its split, its name in the source, its class."""

    split: str
    name: str
    label: int


def equal_images(dataset: Dataset) -> list[list[Place]]:
    """Groups of images with the same pixels, as they are decoded, resized and cropped.

    Reads every image once; holds a digest of 16 bytes of each.
    """
    found: dict[bytes, list[Place]] = defaultdict(list)
    for name, split in dataset.splits.items():
        names = range(len(split)) if split.names is None else split.names
        for start in range(0, len(split), CHUNK):
            rows = range(start, min(start + CHUNK, len(split)))
            for row, image in zip(rows, np.asarray(split.images[np.array(rows)]), strict=True):
                place = Place(name, str(names[row]), int(split.labels[row]))
                found[hashlib.blake2b(image.tobytes(), digest_size=16).digest()].append(place)
    return [group for group in found.values() if len(group) > 1]
