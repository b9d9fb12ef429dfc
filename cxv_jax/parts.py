"""The parts that a config names: data set, loaders, optimizers."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cxv_jax import optimizer, sharding
from cxv_jax.attention import random_projection
from cxv_jax.data import sources
from cxv_jax.data.loader import Loader, make_loader
from cxv_jax.data.stored import Stored
from cxv_jax.errors import InputError
from cxv_jax.phase import Phase

# What both phases have in common where one optimizer goes on with its state.
GOES_ON = ("optimizer", "options", "learning_rate", "decay_kernels_only", "clip_norm", "schedule")


def load_dataset(
    config: ConfigDict, keep: Stored | None = None, wanted: Iterable[str] = ()
) -> sources.Dataset:
    """The data set that ``config.data`` names, its splits kept or else fixed by ``config.seed``."""
    fields = (
        *("val_fraction", "val_per_class", "subset_per_class", "splits", "split_index"),
        *("folds", "image_size", "data_dir", "on_bad_image", "small_classes", "classes"),
    )
    options = {name: config.data[name] for name in fields}
    return sources.load(config.data.source, seed=config.seed, keep=keep, wanted=wanted, **options)


def make_optimizer(
    config: ConfigDict, phase: Phase, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer of a phase.

    The first pattern that a parameter's path has decides: ``frozen`` ones stay as they are, without
    a share in the gradient's norm (statistics of BatchNorm follow the images all the same); those
    of ``config.phase2.keep`` stay on phase one's optimizer; those of ``rates`` get a share of the
    learning rate.

    Raises:
      InputError: for unknown names or options; at ``init``, for a pattern that no path has.
    """
    fields = config[phase.key]
    total = fields.epochs * steps_per_epoch
    rate = optimizer.schedule(
        fields.schedule,
        fields.learning_rate,
        warmup_steps=min(fields.warmup_epochs * steps_per_epoch, total // 2),
        total_steps=max(total, 1),
        floor=fields.floor,
    )
    options = dict(fields.options)
    if fields.decay_kernels_only:
        options["mask"] = optimizer.decay_mask
    check_phase(config, phase)
    transforms = {fields.optimizer: optimizer.by_name(fields.optimizer, rate, options)}
    labels = [(".*", fields.optimizer)]
    for pattern, share in reversed(fields.rates):
        label = f"{fields.optimizer} x {share:g}"
        slower = partial(_times, share, rate)
        transforms[label] = optimizer.by_name(fields.optimizer, slower, options)
        labels.insert(0, (pattern, label))
    if phase is Phase.TWO and fields.keep:
        first, kept = config.phase1, f"phase1_{config.phase1.optimizer}"
        transforms[kept] = optimizer.by_name(
            first.optimizer, first.learning_rate, dict(first.options)
        )
        labels.insert(0, (fields.keep, kept))
    if not fields.frozen:
        return optimizer.clipped(optimizer.phase(transforms, labels), fields.clip_norm)
    transforms["frozen"] = optax.set_to_zero()  # No decay either.
    labels.insert(0, (fields.frozen, "frozen"))
    gradients = {"frozen": optax.set_to_zero(), "others": optax.identity()}
    cut = optimizer.phase(gradients, [labels[0], (".*", "others")])
    return optax.chain(
        cut, optimizer.clipped(optimizer.phase(transforms, labels), fields.clip_norm)
    )


def _times(share: float, rate: optax.Schedule, step: Any) -> Any:
    return share * rate(step)


def check_phase(config: ConfigDict, phase: Phase) -> None:
    """Refuse what an optimizer cannot do.

    Raises:
      InputError: naming the fields.
    """
    fields, first = config[phase.key], config.phase1
    if fields.optimizer in optimizer.WHOLE and (fields.get("keep") and fields.epochs):
        raise InputError(f"optimizer {fields.optimizer!r} needs all parameters: empty phase2.keep")
    if fields.optimizer == "sam" and fields.clip_norm:
        raise InputError(f"config.{phase.key}.clip_norm must be 0: sam takes its second gradient")
    if phase is Phase.TWO and fields.epochs and not fields.fresh_state:
        same = all(fields[name] == first[name] for name in GOES_ON) and not fields.keep
        if not same or fields.schedule != "constant" or fields.warmup_epochs:
            raise InputError(
                "with config.phase2.fresh_state = False phase one's optimizer goes on: give both "
                f"phases the same {', '.join(GOES_ON)}; constant, without warm-up and keep"
            )


def split_loader(config: ConfigDict, mesh: Mesh, dataset: sources.Dataset, name: str) -> Loader:
    """The loader of a split, placed and sized as the config says."""
    train = name == "train"
    if name not in dataset.splits:
        raise InputError(f"{dataset.name} has no {name} split, only {', '.join(dataset.splits)}")
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return make_loader(
        dataset.splits[name],
        batch_size=config.batch_size if train else config.eval_batch_size,
        seed=config.seed,
        batch_sharding=sharding.batch_sharding(mesh),
        train=train,
        kind=config.data.loader,
        order_kind=config.data.order,
        steps_per_call=config.steps_per_call or (1 if on_cpu else 16),
        memory_share=config.data.memory_share,
        workers=config.data.workers,
    )


def redraw_projections(rng: jax.Array, constants: Any) -> Any:
    """New random features for every layer of ``constants``, each from its own key."""
    leaves, tree = jax.tree.flatten(constants)
    rngs = jax.random.split(rng, len(leaves))
    new = [random_projection(r, *leaf.shape) for r, leaf in zip(rngs, leaves, strict=True)]
    return jax.tree.unflatten(tree, new)
