"""Labelled images by name: ``load("digits")``."""

import numpy as np

from cxv_jax.data.splits import Dataset, Split, complete


def load(
    source: str,
    *,
    seed: int = 0,
    val_fraction: float = 0.1,
    val_per_class: int = 0,
    subset_per_class: int = 0,
    image_size: int = 0,
    data_dir: str = "",
    on_bad_image: str = "refuse",
) -> Dataset:
    """Open a source of labelled images.

    Args:
      source: ``digits`` (scikit-learn's, 8x8).
      seed: fixes the validation split and the subset; never the test split.
      val_fraction: share of every class of train held out for validation (0: none).
      val_per_class: if positive, that many of every class instead.
      subset_per_class: if positive, keep that many of every class of train, before validation is
        held out of it.
      image_size: pixels a side (0: as the source has them).
      data_dir: where the files of the source are.
      on_bad_image: ``refuse`` or ``skip`` image files that cannot be read.

    Returns:
      The data set, with splits ``train``, ``val`` (unless 0 is asked for) and ``test``.

    Raises:
      InputError: one line about what is wrong with the arguments or the files.
    """
    class_names, splits = _digits()
    return complete(
        source,
        class_names,
        splits,
        seed=seed,
        val_fraction=val_fraction,
        val_per_class=val_per_class,
        subset_per_class=subset_per_class,
    )


def _digits() -> tuple[list[str], dict[str, Split]]:
    """1,797 handwritten digits, grey levels 0..16, inside scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # [example, 8, 8]
    images = np.repeat(grey[..., None], 3, axis=-1)
    return [str(n) for n in range(10)], {"train": Split(images, digits.target.astype(np.int32))}
