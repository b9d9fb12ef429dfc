r"""The two-phase optimizer: AdamW until it stops improving, then SGD from the best weights.

Plain optax: each phase is an ``optax.multi_transform`` over labels that come from path patterns;
its members are wrapped by ``optax.inject_hyperparams``, so learning rates live in the state.

Example (outside this project): a schedule, clipped gradients, a partial handoff, a frozen stem.
  >>> import jax, jax.numpy as jnp, optax
  >>> from cxv_jax import optimizer
  >>> params = {"stem": jnp.ones(2), "body": jnp.ones(3), "head": jnp.ones(2)}
  >>> warm = optimizer.schedule("cosine", 1e-3, warmup_steps=1, total_steps=4)
  >>> one = optimizer.clipped(optimizer.phase({"adamw": optimizer.adamw(warm)}), norm=1.0)
  >>> two = optimizer.phase(
  ...     {"off": optax.set_to_zero(), "sgd": optimizer.sgd(1e-3), "adamw": optimizer.adamw(warm)},
  ...     labels=[("stem", "off"), ("head", "adamw"), (".*", "sgd")])
  >>> tx, opt_state = one, one.init(params)
  >>> for step in range(4):
  ...     if step == 2:  # No more progress: hand the best parameters over.
  ...         tx, opt_state = two, optimizer.hand_over(two, params)
  ...     grads = jax.tree.map(jnp.ones_like, params)
  ...     updates, opt_state = tx.update(grads, opt_state, params)
  ...     params = optax.apply_updates(params, updates)
  >>> sorted(optimizer.learning_rates(opt_state))
  ['adamw', 'sgd']
  >>> opt_state = optimizer.with_learning_rates(opt_state, {"adamw": 1e-4})  # Its schedule ends.
"""

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from cxv_jax.errors import InputError

Schedule: TypeAlias = float | Callable[[Any], Any]
SCHEDULES = ("constant", "cosine", "linear")
Factory: TypeAlias = Callable[..., optax.GradientTransformation]


def injected(
    factory: Factory, learning_rate: Schedule, **options: Any
) -> optax.GradientTransformation:
    """Any optax optimizer with its learning rate in the state, as float32.

    :func:`with_learning_rates` sets it without a new trace.

    Args:
      factory: e.g. ``optax.adamw``; must take ``learning_rate``.
      learning_rate: a number, or a schedule of the steps since the phase began.
      **options: passed to ``factory`` as constants.
    """
    # All else stays a Python constant, so that the arithmetic is that of the plain optimizer.
    constants = set(inspect.signature(factory).parameters) - {"learning_rate"}
    wrapped = optax.inject_hyperparams(
        factory, static_args=constants | set(options), hyperparam_dtype=jnp.float32
    )
    if not callable(learning_rate):
        return wrapped(learning_rate=learning_rate, **options)
    inner = wrapped(learning_rate=_Following(learning_rate), **options)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        extra["current_rate"] = state.hyperparams["learning_rate"]
        return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


class _Following(optax.schedules.WrappedSchedule):
    """A schedule until its count is set to ``_ENDED``: from then on the rate stays as it is."""

    def update(self, state: Any, **extra: Any) -> Any:
        after = super().update(state)
        return after._replace(count=jnp.where(state.count == _ENDED, _ENDED, after.count))

    def __call__(self, state: Any, *, current_rate: Any = 0.0, **extra: Any) -> Any:
        return jnp.where(state.count == _ENDED, current_rate, super().__call__(state))


_ENDED = -1


def adamw(
    learning_rate: Schedule = 1e-3,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    **options: Any,
) -> optax.GradientTransformation:
    """AdamW as PyTorch's defaults: decoupled decay, multiplied by the learning rate.

    ``p <- p - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay p)`` (Loshchilov & Hutter 2019, arXiv
    1711.05101). optax's own default decay is 1e-4, PyTorch's 1e-2.
    """
    options = dict(b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, **options)
    return injected(optax.adamw, learning_rate, **options)


def sgd(
    learning_rate: Schedule = 1e-3, *, momentum: float = 0.9, **options: Any
) -> optax.GradientTransformation:
    """SGD with momentum as PyTorch's: ``m <- momentum m + g; p <- p - lr m``."""
    return injected(optax.sgd, learning_rate, momentum=momentum, **options)


def muon(
    learning_rate: Schedule = 2e-2, *, mask: Any = None, **options: Any
) -> optax.GradientTransformation:
    """Muon for everything that is a matrix, Adam at the same rate for vectors.

    The momentum of a matrix is made orthogonal before it is a step (Jordan et al. 2024,
    github.com/KellerJordan/Muon). A convolution's kernel ``[height, width, in, out]`` is the matrix
    ``[height width in, out]``. ``mask``: where weight decay applies.
    """

    def matrices(params: Any) -> Any:
        def axes(leaf: Any) -> Any:
            last = leaf.ndim - 1
            return (
                optax.contrib.MuonDimensionNumbers(tuple(range(last)), last) if last > 0 else None
            )

        return jax.tree.map(axes, params)

    options = dict(weight_decay_mask=mask, muon_weight_dimension_numbers=matrices, **options)
    return injected(optax.contrib.muon, learning_rate, **options)


def sam(
    learning_rate: Schedule = 1e-3, *, rho: float = 0.05, momentum: float = 0.9, **options: Any
) -> optax.GradientTransformation:
    """SGD along the gradient of the worst point near by, two gradients a step.

    ``g = grad(p + rho grad(p) / |grad(p)|); m <- momentum m + g; p <- p - lr m`` (Foret et al.
    2021, arXiv 2010.01412). Its update wants ``grad_fn=(params, step) -> gradient``.
    """

    def factory(learning_rate: Any) -> optax.GradientTransformation:
        uphill = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
        downhill = optax.sgd(learning_rate, momentum=momentum, **options)
        both = optax.contrib.sam(downhill, uphill, opaque_mode=True)

        def update(updates: Any, state: Any, params: Any, *, grad_fn: Any, **_: Any) -> Any:
            return both.update(updates, state, params, grad_fn=grad_fn)  # It knows no other.

        return optax.GradientTransformationExtraArgs(both.init, update)

    return injected(factory, learning_rate)


# What the loop cannot run.
NEEDS_MORE = {
    "lbfgs": "a line search",
    "polyak_sgd": "the value of the loss",
    "schedule_free": "another optimizer inside; there are schedule_free_sgd, schedule_free_adamw",
}
# These need all parameters of the model, not some of them.
WHOLE = ("sam", "schedule_free_adamw", "schedule_free_sgd")


def by_name(
    name: str, learning_rate: Schedule, options: Mapping[str, Any] | None = None
) -> optax.GradientTransformation:
    """An optimizer of ``optax`` or ``optax.contrib`` by its name.

    ``adamw`` and ``sgd`` get PyTorch's defaults; for ``muon`` and ``sam`` see these functions.

    Raises:
      InputError: if optax has no such optimizer, it refuses an option, or needs what the loop does
        not give.
    """
    known: dict[str, Factory] = {"adamw": adamw, "sgd": sgd, "muon": muon, "sam": sam}
    factory = known.get(name)
    if name in NEEDS_MORE:
        raise InputError(f"optimizer {name!r} needs {NEEDS_MORE[name]}; choose another")
    if factory is None:
        found = getattr(optax, name, None) or getattr(optax.contrib, name, None)
        if name.startswith("_") or not callable(found):
            raise InputError(f"optax has no optimizer {name!r}; try adamw, sgd, muon or rmsprop")
        factory = partial(injected, found)
    try:
        tx = factory(learning_rate, **(options or {}))
        jax.eval_shape(partial(_one_step, tx), {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
    except Exception as error:  # Whatever optax makes of a person's options.
        why = str(error).partition("\n")[0]
        raise InputError(f"optimizer {name!r} refused its options: {why}") from error
    return tx


def _one_step(tx: optax.GradientTransformation, params: Any) -> Any:
    """A step on parameters that are their own gradient."""
    whole = optax.with_extra_args_support(tx)
    return whole.update(params, tx.init(params), params, grad_fn=lambda params, _: params)


def evaluated(opt_state: optax.OptState, params: Any) -> Any:
    """The parameters to evaluate: a schedule-free optimizer's mean, else ``params``."""
    found = [x for x in _within(opt_state, "z") if isinstance(x, optax.contrib.ScheduleFreeState)]
    return optax.contrib.schedule_free_eval_params(found[0], params) if found else params


def schedule(
    kind: str,
    learning_rate: float,
    *,
    warmup_steps: int = 0,
    total_steps: int = 0,
    floor: float = 0.0,
) -> optax.Schedule:
    """``constant``, or ``cosine`` or ``linear`` to ``floor`` times the rate at ``total_steps``.

    A linear warm-up from 0 goes before it.

    Raises:
      InputError: for another ``kind``, or a warm-up as long as the whole.
    """
    if kind not in SCHEDULES:
        raise InputError(f"unknown schedule {kind!r}; choose from {', '.join(SCHEDULES)}")
    if kind != "constant" and warmup_steps >= total_steps:
        raise InputError(f"a warm-up of {warmup_steps} steps must be shorter than {total_steps}")
    if kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, total_steps - warmup_steps, floor)
    elif kind == "linear":
        end = floor * learning_rate
        after = optax.linear_schedule(learning_rate, end, total_steps - warmup_steps)
    else:
        after = optax.constant_schedule(learning_rate)
    if not warmup_steps:
        return after
    # The first step is not lost at rate 0: it gets 1 / warmup_steps of the rate.
    warmup = optax.linear_schedule(
        learning_rate / warmup_steps, learning_rate, max(1, warmup_steps - 1)
    )
    return optax.join_schedules([warmup, after], [warmup_steps])


def decay_mask(params: Any) -> Any:
    """True for kernels, False for biases, norms and other vectors: what weight decay is for."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def phase(
    transforms: Mapping[str, optax.GradientTransformation],
    labels: Sequence[tuple[str, str]] | None = None,
) -> optax.GradientTransformation:
    """One phase: every parameter goes to the transform that its label names.

    Args:
      transforms: label to optimizer.
      labels: ``(pattern, label)`` pairs; the first pattern found in a parameter's path
        (``attention_0/qkv/kernel``, of NNX's states too) decides. None: all go to the only
        transform.

    Returns:
      An ``optax.multi_transform``.

    Raises:
      InputError: for a label without transform; at ``init``, for a parameter without label.
    """
    if labels is None:
        labels = [(".*", label) for label in transforms][:1]
    for pattern, label in labels:
        if label not in transforms:
            raise InputError(
                f"pattern {pattern!r} asks for {label!r}, not among {list(transforms)}"
            )
    return optax.multi_transform(dict(transforms), lambda params: label_params(params, labels))


def clipped(tx: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    """``tx`` after the gradients' global norm is cut to ``norm``; ``tx`` itself for 0."""
    return optax.chain(optax.clip_by_global_norm(norm), tx) if norm else tx


def label_params(params: Any, labels: Sequence[tuple[str, str]]) -> Any:
    """The tree of labels of ``params``; see :func:`phase`.

    Raises:
      InputError: for a pattern that is none or that no path has, and a path that no pattern fits.
    """
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, label in labels:
        try:
            idle = bool(names) and not any(re.search(pattern, name) for name in names)
        except re.error as error:
            raise InputError(f"{pattern!r} is no pattern ({error}), expected one of re") from error
        if idle:
            raise InputError(
                f"pattern {pattern!r} (for {label!r}) is in no parameter's path; they are, for "
                f"example, {', '.join(names[:: len(names) // 4 + 1])}"
            )

    def label_of(path: Any, _: Any) -> str:
        name = _name(path)
        for pattern, label in labels:
            if re.search(pattern, name):
                return label
        raise InputError(f"no pattern of {[pattern for pattern, _ in labels]} matches {name!r}")

    return jax.tree_util.tree_map_with_path(label_of, params)


def _name(path: Any) -> str:
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):  # Of a variable of NNX.
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


@dataclasses.dataclass
class Patience:
    """Tells a loop of your own when to hand over, and keeps the weights to hand over.

    Attributes:
      epochs: without a better score that end a phase; 20 in the paper.
      score: the best so far; a tie is no better, nor is a NaN.
      best: a copy of the weights that got it: a step may overwrite what it is given.
      waited: epochs since then.

    Example:
      >>> import jax.numpy as jnp
      >>> patience = Patience(epochs=2)
      >>> [patience.ended(score, jnp.array(score)) for score in (0.5, 0.7, 0.6, 0.7)]
      [False, False, False, True]
      >>> f"{patience.best:.1f}"
      '0.7'
    """

    epochs: int = 20
    score: float = -math.inf
    best: Any = None
    waited: int = 0

    def ended(self, score: float | jax.Array, params: Any) -> bool:
        """Count an epoch with its validation score; whether the phase has ended."""
        if score > self.score:
            self.score, self.best, self.waited = float(score), jax.tree.map(jnp.copy, params), 0
        else:
            self.waited += 1
        return self.waited >= self.epochs


def hand_over(tx: optax.GradientTransformation, best_params: Any) -> optax.OptState:
    """Fresh state of the next phase's ``tx`` for the best parameters so far.

    Only the running phase's slots are ever held: two parameter-sized ones for AdamW, one for SGD.
    """
    return tx.init(best_params)


def learning_rates(opt_state: optax.OptState) -> dict[str, Any]:
    """The current learning rate under each label of a :func:`phase`, of those :func:`injected`.

    The phase, and its members, may be wrapped (``optax.chain``, ``optax.MultiSteps``, ...).
    """
    members = {}
    for found in _within(opt_state, "inner_states"):
        members.update(found.inner_states)
    rates = {label: _within(state, "hyperparams") for label, state in members.items()}
    return {label: x[0].hyperparams["learning_rate"] for label, x in rates.items() if x}


def with_learning_rates(opt_state: optax.OptState, rates: Mapping[str, Any]) -> optax.OptState:
    """The state of a :func:`phase` in which these labels have these rates from now on.

    A schedule ends with it. Inside ``jax.jit`` and outside, and without a new trace.

    Args:
      opt_state: of a phase, which may be wrapped.
      rates: label to rate, a number or a traced scalar.

    Raises:
      InputError: for a label without a rate of its own.
    """
    if unknown := set(rates) - set(learning_rates(opt_state)):
        raise InputError(f"no learning rate to set under {', '.join(sorted(unknown))}")

    def renewed(rate: Any, part: Any) -> Any:
        if not hasattr(part, "hyperparams"):
            return part
        rate = jnp.full_like(part.hyperparams["learning_rate"], rate)
        ended = jax.tree.map(lambda n: jnp.full_like(n, _ENDED), part.hyperparams_states)
        hyperparams = {**part.hyperparams, "learning_rate": rate}
        return part._replace(hyperparams=hyperparams, hyperparams_states=ended)

    def members(part: Any) -> Any:
        if not hasattr(part, "inner_states"):
            return part
        new = {
            label: _each("hyperparams", partial(renewed, rate), part.inner_states[label])
            for label, rate in rates.items()
            if label in part.inner_states
        }
        return part._replace(inner_states={**part.inner_states, **new})

    return _each("inner_states", members, opt_state)


def _each(name: str, change: Callable[[Any], Any], state: Any) -> Any:
    return jax.tree.map(change, state, is_leaf=lambda x: hasattr(x, name))


def _within(state: Any, name: str) -> list[Any]:
    """The outermost parts of a state that have an attribute ``name``."""

    def has(x: Any) -> bool:
        return hasattr(x, name)

    return [x for x in jax.tree.leaves(state, is_leaf=has) if has(x)]
