"""What a config makes: the data set, loaders, optimizers, and the compiled functions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cxv_jax import augment, metrics, optimizer, sharding, step
from cxv_jax import state as train_states
from cxv_jax.attention import random_projection
from cxv_jax.data import sources
from cxv_jax.data.loader import Loader, make_loader
from cxv_jax.errors import InputError
from cxv_jax.state import TrainState


def load_dataset(config: ConfigDict) -> sources.Dataset:
    """The data set that ``config.data`` names, with its splits fixed by ``config.seed``."""
    fields = ("val_fraction", "val_per_class", "subset_per_class", "image_size", "data_dir")
    options = {name: config.data[name] for name in (*fields, "on_bad_image")}
    return sources.load(config.data.source, seed=config.seed, **options)


def describe(dataset: sources.Dataset) -> dict[str, Any]:
    """What prediction needs to know of the data, as JSON."""
    return {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
    }


def build_phase(
    config: ConfigDict, name: str, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer of ``config.phase1`` or ``config.phase2`` (``name``).

    Parameters whose path matches ``config.phase2.keep`` stay on phase one's optimizer.
    """
    phase = config[name]
    transforms = {phase.optimizer: _optimizer(phase, phase.learning_rate, steps_per_epoch)}
    labels = [(".*", phase.optimizer)]
    if name == "phase2" and phase.keep:
        first, kept = config.phase1, f"phase1_{config.phase1.optimizer}"
        transforms[kept] = optimizer.by_name(
            first.optimizer, first.learning_rate, dict(first.options)
        )
        labels.insert(0, (phase.keep, kept))
    return optimizer.phase(transforms, labels)


def _optimizer(
    phase: ConfigDict, learning_rate: float, steps_per_epoch: int
) -> optax.GradientTransformation:
    total = phase.epochs * steps_per_epoch
    rate = optimizer.schedule(
        phase.schedule,
        learning_rate,
        warmup_steps=min(phase.warmup_epochs * steps_per_epoch, total // 2),
        total_steps=max(total, 1),
    )
    options = dict(phase.options)
    if phase.decay_kernels_only:
        options["mask"] = optimizer.decay_mask
    return optimizer.by_name(phase.optimizer, rate, options)


def build_loader(config: ConfigDict, mesh: Mesh, dataset: sources.Dataset, name: str) -> Loader:
    """The loader of a split, placed and sized as the config says."""
    train = name == "train"
    if name not in dataset.splits:
        raise InputError(f"{dataset.name} has no {name} split, only {', '.join(dataset.splits)}")
    return make_loader(
        dataset.splits[name],
        batch_size=config.batch_size if train else config.eval_batch_size,
        seed=config.seed,
        batch_sharding=sharding.batch_sharding(mesh),
        train=train,
        kind=config.data.loader,
        steps_per_call=config.steps_per_call or (1 if jax.default_backend() == "cpu" else 16),
        memory_share=config.data.memory_share,
        workers=config.data.workers,
    )


def create_state(
    config: ConfigDict,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    tx: optax.GradientTransformation,
) -> TrainState:
    """The initial state of a run, for ``jit`` and ``eval_shape``."""
    rng = jax.random.key(config.seed)
    return train_states.create(model, tx, rng, image_shape, ema=config.ema_decay > 0)


def template_of(create: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """Shapes, types and places of a state, without its values."""
    shapes = jax.eval_shape(create)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        sharding.state_sharding(shapes, mesh),
    )


def places_of(template: TrainState) -> TrainState:
    """The shardings of a template."""
    return jax.tree.map(lambda x: x.sharding, template)


def hand_over(
    tx: optax.GradientTransformation, template: TrainState, state: TrainState
) -> TrainState:
    """The first state of a phase from the best state of the last one."""
    begin = partial(train_states.begin_phase, init_optimizer=partial(optimizer.handoff, tx))
    return jax.jit(begin, out_shardings=places_of(template))(state)


def build_trainer(
    config: ConfigDict,
    model: nn.Module,
    tx: optax.GradientTransformation,
    name: str,
    template: TrainState,
    dataset: sources.Dataset,
    loader: Loader,
) -> Callable:
    """The compiled update of a phase: ``(state, rng, data, feed) -> (state, sums)``.

    Raises:
      InputError: if the devices cannot share a micro-batch equally.
    """
    phase, devices = config[name], jax.tree.leaves(template)[0].sharding.num_devices
    if config.micro_batch % devices:
        raise InputError(
            f"config.micro_batch = {config.micro_batch} must be a multiple of the number of "
            f"devices, {devices}, or 0 for the whole batch"
        )
    step_config = step.StepConfig(
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        num_classes=dataset.num_classes,
        label_smoothing=phase.label_smoothing,
        ema_decay=config.ema_decay,
        augment=augment.make(**phase.augment),
        redraw=redraw_projections,
        redraw_every=config.redraw_every,
        micro_batch=config.micro_batch,
    )
    update = step.many(partial(step.train_step, model, tx, step_config), loader.fetch)
    return jax.jit(update, donate_argnums=0, out_shardings=(places_of(template), None))


def build_evaluator(
    config: ConfigDict, model: nn.Module
) -> Callable[[dict[str, Any], Loader], dict[str, float]]:
    """``(variables, loader) -> exact top1, top5 and loss`` over the loader's whole split."""
    mean, std = tuple(config.data.mean), tuple(config.data.std)

    @partial(jax.jit, static_argnums=0)
    def sums_of(fetch: step.Fetch, variables: Any, data: Any, feed: Any) -> metrics.Sums:
        evaluate = step.many(partial(step.eval_step, model, mean, std), fetch)
        return evaluate(None, variables, data, feed)[1]

    def evaluate(variables: dict[str, Any], loader: Loader) -> dict[str, float]:
        feeds = loader.epoch(0)
        sums = [sums_of(loader.fetch, variables, loader.data, feed) for _, feed in feeds]
        return metrics.means(metrics.total(jax.device_get(sums)))

    return evaluate


def redraw_projections(rng: jax.Array, constants: Any) -> Any:
    """New random features for every layer of ``constants``, each from its own key."""
    leaves, tree = jax.tree.flatten(constants)
    rngs = jax.random.split(rng, len(leaves))
    new = [random_projection(r, *leaf.shape) for r, leaf in zip(rngs, leaves, strict=True)]
    return jax.tree.unflatten(tree, new)
