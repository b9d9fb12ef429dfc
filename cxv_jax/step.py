"""The pure training step: one update, and several of them in one call."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from cxv_jax import losses, metrics, optimizer
from cxv_jax.augment import normalise
from cxv_jax.state import TrainState, average

Batch = dict[str, Array]
Augment = Callable[[Array, Array, Array], tuple[Array, Array]]
Fetch = Callable[[Any, Any], Batch]


class StepConfig(NamedTuple):
    """What a step needs to know besides the arrays.

    Attributes:
      mean: of the training images, per channel, in 0..1.
      std: their deviation.
      num_classes: for one-hot targets.
      label_smoothing: see :func:`losses.cross_entropy`.
      ema_decay: of the moving average, where the state has one.
      augment: ``(rng, uint8 images, one-hot targets) -> (images 0..255, targets)``.
      light: takes the place of ``augment`` at the end of the phase; None: nothing does.
      light_from: the phase's step from which on it does.
      class_weights: of the examples' losses, one a class; None: all the same.
      average_from: the phase's step from which on the average is the plain mean; None: it moves.
      redraw: ``(rng, constants) -> constants``, new random projections.
      redraw_every: steps between redraws, 0 for never.
      micro_batch: images of one forward and backward pass; it divides the batch; 0 for all.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    label_smoothing: float
    ema_decay: float
    augment: Augment
    redraw: Callable[[Array, Any], Any]
    redraw_every: int
    micro_batch: int = 0
    light: Augment | None = None
    light_from: int = 0
    class_weights: tuple[float, ...] | None = None
    average_from: int | None = None


def train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    config: StepConfig,
    state: TrainState,
    rng: Array,
    batch: Batch,
) -> tuple[TrainState, metrics.Sums]:
    """One update on ``{"image": uint8 [batch, h, w, c], "label": int32 [batch]}``.

    ``rng`` belongs to the run; the step folds its number in, so a resumed run draws the same.

    Returns:
      The next state, and the sums of the training loss and hits (against the unmixed labels).
    """
    augment_rng, dropout_rng, redraw_rng = jax.random.split(jax.random.fold_in(rng, state.step), 3)
    targets = jax.nn.one_hot(batch["label"], config.num_classes)
    images, targets = augmented(config, augment_rng, state, batch["image"], targets)
    images = normalise(images, config.mean, config.std)
    weights = example_weights(config, targets)
    constants = constants_of(config, redraw_rng, state)

    def loss_fn(params: Any, batch_stats: Any, rng: Array, part: Batch) -> tuple[Array, Any]:
        variables = {"params": params, "batch_stats": batch_stats, "constants": constants}
        logits, updated = model.apply(
            variables, part["image"], train=True, mutable=["batch_stats"], rngs={"dropout": rng}
        )
        example_losses = losses.cross_entropy(logits, part["target"], config.label_smoothing)
        sums = metrics.batch_sums(logits, part["label"], example_losses)
        weighted = example_losses * part["weight"] if weights else example_losses
        return weighted.mean(), (updated.get("batch_stats", {}), sums)

    def gradient(params: Any) -> tuple[Any, tuple[Any, metrics.Sums]]:
        return accumulate(
            jax.grad(loss_fn, has_aux=True),
            params,
            state.batch_stats,
            dropout_rng,
            {"image": images, "target": targets, "label": batch["label"], **weights},
            count=len(images) // (config.micro_batch or len(images)),
        )

    grads, (batch_stats, sums) = gradient(state.params)
    # An optimizer may ask for the gradient elsewhere; BatchNorm's statistics are those of here.
    updates, opt_state = optax.with_extra_args_support(tx).update(
        grads, state.opt_state, state.params, grad_fn=lambda params, _: gradient(params)[0]
    )
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        shown = optimizer.evaluated(opt_state, params)
        decay, since = config.ema_decay, config.average_from
        ema = average(ema, shown, batch_stats, decay, state.phase_step, since)
    next_state = TrainState(
        state.step + 1, params, batch_stats, constants, opt_state, ema, state.phase_step + 1
    )
    # When traced: a leaf of another type would be traced anew at every step, or fail in a loop.
    chex.assert_trees_all_equal_shapes_and_dtypes(next_state, state)
    return next_state, sums


def example_weights(config: StepConfig, targets: Array) -> Batch:
    """``{"weight": [batch]}``, or nothing where all examples weigh the same.

    ``w_i = Σ_c t_ic w_c / mean_j Σ_c t_jc w_c``, so that ``mean(w l)`` is the weighted mean of the
    batch's losses, in parts (see :func:`accumulate`) too. ``t`` are the mixed labels without
    smoothing.
    """
    if config.class_weights is None:
        return {}
    weights = targets @ jnp.asarray(config.class_weights, jnp.float32)
    return {"weight": weights / weights.mean()}


def augmented(
    config: StepConfig, rng: Array, state: TrainState, images: Array, targets: Array
) -> tuple[Array, Array]:
    """The batch as the phase has it at this step; float32 levels where that changes within it."""
    if config.light is None:
        return config.augment(rng, images, targets)

    def run(augment: Augment, *batch: Array) -> tuple[Array, Array]:
        images, targets = augment(rng, *batch)
        return images.astype(jnp.float32), targets

    heavy, light = (partial(run, augment) for augment in (config.augment, config.light))
    return jax.lax.cond(state.phase_step < config.light_from, heavy, light, images, targets)


def accumulate(
    gradient: Callable[[Any, Any, Array, Batch], tuple[Any, tuple[Any, metrics.Sums]]],
    params: Any,
    batch_stats: Any,
    rng: Array,
    batch: Batch,
    count: int,
) -> tuple[Any, tuple[Any, metrics.Sums]]:
    """The mean gradient over the batch, from ``count`` equal parts one after the other.

    A part takes every ``count``-th example, so that each device cuts its own share. It has its
    own dropout key, and starts from the BatchNorm statistics that the last one left.

    Args:
      gradient: ``(params, batch_stats, rng, batch) -> gradients, (batch_stats, sums)``.
      params: trainable parameters.
      batch_stats: before the batch.
      rng: for dropout.
      batch: arrays ``[batch, ...]``.
      count: divides the batch size.

    Returns:
      What ``gradient`` returns, of the whole batch.
    """
    if count == 1:
        return gradient(params, batch_stats, rng, batch)
    # A loop on CPUs too, although XLA is slow there in gradients of its own convolutions within
    # loops: unrolled, each part would lengthen the compilation by half of what one takes, and
    # the buffers of all parts' loops would be held at once.

    def add(carry: Any, part: Any) -> tuple[Any, metrics.Sums]:
        total, batch_stats = carry
        grads, (batch_stats, sums) = gradient(params, batch_stats, *part)
        return (jax.tree.map(jnp.add, total, grads), batch_stats), sums

    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)
    start = (jax.tree.map(jnp.zeros_like, params), batch_stats)
    rngs = jax.random.split(rng, count)
    (total, batch_stats), sums = jax.lax.scan(add, start, (rngs, parts))
    grads = jax.tree.map(lambda x: x / count, total)
    return grads, (batch_stats, jax.tree.map(lambda x: x.sum(0), sums))


def added(sums: Any) -> Any:
    """Sums of several steps, from those of each."""
    return jax.tree.map(lambda x: x.sum(0), sums)


def many(
    step: Callable[..., tuple[Any, Any]], fetch: Fetch, join: Callable[[Any], Any] = added
) -> Callable:
    """Several steps in one call: ``(carry, constant, data, feed) -> (carry, sums)``.

    Runs ``step(carry, constant, batch) -> (carry, sums)`` on every slice of the first axis of
    ``feed``, of which ``fetch(data, slice)`` makes the batch. A single slice is called straight:
    convolutions inside a loop are slow on CPUs. ``join`` makes one of the stacked sums of several.
    """

    def call(carry: Any, constant: Any, data: Any, feed: Any) -> tuple[Any, Any]:
        def body(carry: Any, feed_slice: Any) -> tuple[Any, Any]:
            return step(carry, constant, fetch(data, feed_slice))

        if jax.tree.leaves(feed)[0].shape[0] == 1:
            return body(carry, jax.tree.map(lambda x: x[0], feed))
        carry, sums = jax.lax.scan(body, carry, feed)
        return carry, join(sums)

    return call


def constants_of(config: StepConfig, rng: Array, state: TrainState) -> Any:
    """The constants of this step: redrawn every ``redraw_every`` steps, else the state's."""
    if not config.redraw_every or not state.constants:
        return state.constants
    due = (state.step % config.redraw_every == 0) & (state.step > 0)
    return jax.lax.cond(due, lambda: config.redraw(rng, state.constants), lambda: state.constants)
