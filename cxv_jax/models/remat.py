"""Layers that keep only their input for the backward pass, and compute the rest again there."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from jax import Array

from cxv_jax.kernels import checkpoint

Layers = Callable[[Array], Array]


def run_layers(
    module: nn.Module, names: Sequence[str], layers: Layers, x: Array, *, again: bool
) -> Array:
    """``layers(x)``; ``again`` with less memory: the same values, gradients and dropout masks.

    ``nn.remat`` saves nothing on a CPU (see ``kernels.recompute``), and needs its layers in a
    module of their own, which would change the names of the parameters.

    Args:
      module: the outermost one, in whose compact call this is.
      names: of the submodules that ``layers`` makes when it is called.
      layers: changes no variable.
      x: floating-point.
      again: keep nothing that ``layers`` computes for the backward pass.
    """
    if not again or module.is_initializing():
        return layers(x)
    variables = {
        collection: {name: tree[name] for name in names if name in tree}
        for collection, tree in module.variables.items()
    }
    # Flax derives the key of a layer from this one and the layer's path, equal inside.
    keys = module.scope.rngs if module.scope else {}
    rngs = {name: keys[name].as_jax_rng() for name in keys if name == "dropout"}

    def apply(variables: Any, rngs: dict[str, Array], x: Array) -> Array:
        out: Any = _Part(layers, parent=None).apply(variables, x, rngs=rngs)
        return out

    return checkpoint(apply, apart=False)(variables, rngs, x)


class _Part(nn.Module):
    """A module whose submodules are those of ``layers``, by the same names."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return self.layers(x)
