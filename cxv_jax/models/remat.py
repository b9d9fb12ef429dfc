"""Layers that keep only their input for the backward pass, and compute the rest again there."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
from jax import Array

from cxv_jax.kernels import checkpoint


def run_block(
    module: nn.Module,
    block: partial[Any],
    x: Array,
    *,
    train: bool,
    again: bool,
    names: Sequence[str] = (),
) -> Array:
    """``block()(x, train=train)``; ``again`` with less memory: same values, gradients and masks.

    ``nn.remat`` saves nothing on a CPU (see ``kernels.recompute``).

    Args:
      module: the one in whose compact call this is.
      block: makes the block, which changes no variable.
      x: floating-point.
      train: as of ``module``.
      again: keep nothing that the block computes for the backward pass.
      names: of the variables' places in ``module`` where the block has not its own name's but
        shares the module's scope.
    """
    if not again or module.is_initializing():
        return _run(module, block, x, train, bool(names))
    places = names or [block.keywords["name"]]
    variables = {
        collection: {name: tree[name] for name in places if name in tree}
        for collection, tree in module.variables.items()
    }
    # Flax derives the key of a layer from this one and the layer's path, equal inside.
    keys = module.scope.rngs if module.scope else {}
    rngs = {name: keys[name].as_jax_rng() for name in keys if name == "dropout"}

    def apply(x: Array, variables: Any, rngs: dict[str, Array]) -> Array:
        part = _Part(block, train, bool(names), parent=None)
        out: Any = part.apply(variables, x, rngs=rngs)
        return out

    return checkpoint(apply, apart=False)(x, variables, rngs)


def run_blocks(
    module: nn.Module, blocks: Iterable[partial[Any]], x: Array, *, train: bool
) -> Array:
    """:func:`run_block` one after the other, as ``block_0`` and so on, by the model's ``remat``."""
    again = module.remat == "block"
    for i, block in enumerate(blocks):
        x = run_block(module, partial(block, name=f"block_{i}"), x, train=train, again=again)
    return x


class _Part(nn.Module):
    """A module that holds the block as the first one does."""

    block: Callable[[], nn.Module]
    train: bool
    shares: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _run(self, self.block, x, self.train, self.shares)


def _run(module: nn.Module, block: Callable[[], Any], x: Array, train: bool, shares: bool) -> Array:
    layers = block()
    if shares:
        nn.share_scope(module, layers)
    return layers(x, train=train)
