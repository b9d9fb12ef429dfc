"""The usual PyTorch way to read small images: a ``Dataset`` that augments one image at a time."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

PADDING = 4


class Images(Dataset):
    """Crop and flip in NumPy, the cheapest way to do it image by image."""

    def __init__(self, images: Path, labels: np.ndarray):
        self._images = np.load(images, mmap_mode="r")
        self._labels = labels.astype(np.int64)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """One image, ``[channel, height, width]`` as PyTorch has them, and its label."""
        image = self._images[index]
        height, width, channels = image.shape
        padded = np.zeros((height + 2 * PADDING, width + 2 * PADDING, channels), np.uint8)
        padded[PADDING:-PADDING, PADDING:-PADDING] = image
        top, left, flip = (int(torch.randint(n, ())) for n in (2 * PADDING + 1,) * 2 + (2,))
        image = padded[top : top + height, left : left + width]
        image = np.ascontiguousarray((image[:, ::-1] if flip else image).transpose(2, 0, 1))
        return torch.from_numpy(image), int(self._labels[index])


def make(images: Path, labels: np.ndarray, batch_size: int, workers: int) -> DataLoader:
    """Shuffled whole batches; worker processes stay from one epoch to the next."""
    return DataLoader(
        Images(images, labels),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,  # JAX has threads: no fork.
    )
