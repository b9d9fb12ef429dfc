"""Use a trained or imported run: load its weights, evaluate a split, classify images."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from cxv_jax import models, sharding
from cxv_jax.augment import normalise
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.config import averages, completed
from cxv_jax.data.images import Size, decode, why
from cxv_jax.data.loader import make_loader
from cxv_jax.data.splits import Dataset, Split
from cxv_jax.data.stored import Stored, check
from cxv_jax.errors import InputError
from cxv_jax.evaluation import Evaluation, Evaluator
from cxv_jax.jsonable import read
from cxv_jax.parts import load_dataset
from cxv_jax.phase import Phase
from cxv_jax.records import Meta, Summary
from cxv_jax.run_files import SUMMARY, read_json, read_stored
from cxv_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """A model with its weights, and how they were made.

    Attributes:
      model: the Flax module.
      variables: what ``model.apply`` takes, on all devices: the moving average where there is one.
      config: of the run.
      meta: what the checkpoint says of itself.
      step: of the checkpoint: the best of phase two, else the best of phase one, else the latest.
      splits: that it was trained and tested on, if the folder tells.
      temperature: that calibrates these weights, by which ``predict`` divides the logits; 1: none.
    """

    model: nn.Module
    variables: dict[str, Any]
    config: ConfigDict
    meta: Meta
    step: int
    splits: Stored | None = None
    temperature: float = 1.0

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.meta.dataset.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, 3 of the images it was trained on."""
        return self.meta.dataset.image_shape

    @property
    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of the pixels, per channel, in 0..1."""
        return tuple(self.config.data.mean), tuple(self.config.data.std)


def load_run(workdir: Path | str) -> Run:
    """Load the best weights of a run folder: ``checkpoints/``, and ``data.json`` if it is there.

    Raises:
      InputError: no such folder, no complete checkpoint in it, or a damaged one.
    """
    folder = Path(workdir) / "checkpoints"
    if not Path(workdir).is_dir():
        raise InputError(f"workdir {workdir}: no such folder; name the folder of a run")
    with Checkpointer(folder) as checkpointer:
        number = _choose_step(checkpointer)
        if number is None:
            raise InputError(f"{folder} holds no complete checkpoint: train the run first")
        where = f"the record of checkpoint {number} in {folder}"
        meta = read(Meta, checkpointer.meta(number), where)
        config, dataset = ConfigDict(completed(meta.config)), meta.dataset
        try:
            model = models.create(num_classes=len(dataset.class_names), **config.model)
            phase = meta.progress.phase if meta.progress else Phase.ONE
            template = _weights(model, dataset.image_shape, ema=averages(config, phase))
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{where} is damaged ({error}); restore it") from error
        variables = checkpointer.restore(number, template, whole=False).variables()
    variables = jax.device_put(variables, sharding.replicated(sharding.create_mesh()))
    temperature = _temperature(Path(workdir) / SUMMARY, number)
    return Run(model, variables, config, meta, number, read_stored(Path(workdir)), temperature)


def own_dataset(run: Run, config: ConfigDict, split: str) -> Dataset:
    """The data that a run was trained on, with its splits as they were.

    Args:
      run: from :func:`load_run`.
      config: of the run; the place of the data may be another one.
      split: the one that is needed.

    Raises:
      InputError: the data or ``data.json`` have changed.
    """
    digest = run.meta.dataset.digest
    if run.splits is not None and digest not in ("", run.splits.digest):
        raise InputError("data.json has other splits than the run's checkpoint; put it back")
    dataset = load_dataset(config, run.splits, [split])
    if run.splits is None and run.meta.dataset.named:
        check(dataset.name, Stored.of(dataset), run.class_names, digest)
    return dataset


def evaluate(run: Run, split: Split, *, flip: bool = False) -> Evaluation:
    """Evaluate every image of ``split`` exactly once, on all devices.

    With ``flip`` once as it is and once mirrored; the logits are the mean of both.

    Returns:
      Sums over images, divided once: the same for any batch size and number of devices, up to
      rounding in the loss.

    Raises:
      InputError: an empty split.
    """
    mesh = sharding.create_mesh()
    loader = make_loader(
        split,
        batch_size=_round_up(run.config.eval_batch_size),
        seed=0,
        batch_sharding=sharding.batch_sharding(mesh),
        train=False,
    )
    return Evaluator(run.model, run.scaling, mesh, flip=flip)(run.variables, loader)


def predict(
    run: Run, images: UInt8[np.ndarray, "batch height width 3"]
) -> Float[np.ndarray, "batch classes"]:
    """Class probabilities of RGB images of any one size; see :func:`load_image`.

    Batches are padded to a power of two, so that few sizes are compiled.

    Args:
      run: from :func:`load_run`.
      images: uint8 ``[batch, height, width, 3]``.

    Returns:
      float32 ``[batch, classes]``, each row sums to 1, in the order of ``run.class_names``.
    """
    places = sharding.batch_sharding(sharding.create_mesh())
    rows = [np.zeros((0, len(run.class_names)), np.float32)]
    for chunk, count in _padded(images, run.config.eval_batch_size):
        chunk_on_devices = jax.device_put(chunk, places)
        found = _probabilities(
            run.model, *run.scaling, run.variables, chunk_on_devices, run.temperature
        )
        rows.append(np.asarray(found)[:count])
    return np.concatenate(rows)


def probabilities(
    model: nn.Module,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    variables: Any,
    images: UInt8[Array, "batch height width 3"],
    temperature: float | Float[Array, ""] = 1.0,
) -> Float[Array, "batch classes"]:
    """What :func:`predict` computes of a batch.

    ``softmax(model((images / 255 - mean) / std) / temperature)``.
    """
    logits: Any = model.apply(variables, normalise(images, mean, std), train=False)
    return jax.nn.softmax(logits / temperature)


def load_image(
    path: Path | str, image_size: Size, white: float = 0.0
) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image file of any size and mode, exactly as training reads image folders.

    See :func:`cxv_jax.data.images.decode`: EXIF orientation, transparency on white, resized until
    ``image_size`` is covered, the centre cropped.

    Args:
      path: of the file.
      image_size: pixels a side of the result, or its height and width.
      white: ``run.meta.dataset.white``: what is white in images of more than 8 bits.

    Raises:
      InputError: naming the file that is missing or that Pillow cannot read.
    """
    try:
        return decode(Path(path), image_size, white)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected an image") from error
    except Exception as error:  # Pillow's readers raise nearly everything.
        raise InputError(f"{path}: not a readable image ({why(Path(path), error)})") from error


def _temperature(summary: Path, step: int) -> float:
    """What a finished run has fitted for the weights of ``step``; 1 for other weights."""
    found = read(Summary, read_json(summary), summary).calibration if summary.is_file() else None
    return 1.0 if found is None or found.step != step else found.temperature or 1.0


def _choose_step(checkpointer: Checkpointer) -> int | None:
    best = (checkpointer.best_step(phase.key) for phase in (Phase.TWO, Phase.ONE))
    choices = (*best, checkpointer.latest_step())
    return next((number for number in choices if number is not None), None)


def _weights(model: nn.Module, image_shape: tuple[int, int, int], *, ema: bool) -> TrainState:
    """Shapes of the part of a training state that evaluation applies."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    weights = {name: shapes.get(name, {}) for name in ("params", "batch_stats")}
    here, average = ({"params": None, "batch_stats": None}, weights) if ema else (weights, None)
    constants = shapes.get("constants", {})
    return TrainState(step=None, **here, constants=constants, opt_state=(), ema=average)


_probabilities = jax.jit(probabilities, static_argnums=(0, 1, 2))


def _padded(images: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, int]]:
    """Batches of few different sizes that the devices divide, and how many images are real."""
    for start in range(0, len(images), most):
        chunk = images[start : start + most]
        size = _round_up(min(most, 1 << (len(chunk) - 1).bit_length()))
        yield np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)]), len(chunk)


def _round_up(batch_size: int) -> int:
    """The next multiple of the number of devices: a run may be used on others than it had."""
    devices = jax.device_count()
    return -(-batch_size // devices) * devices
