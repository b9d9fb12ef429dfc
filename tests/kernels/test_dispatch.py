"""A program carries the formulation of the platform it is lowered for, whatever made it."""

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import pytest

from cxv_jax import models
from cxv_jax.kernels.dispatch import without_choice

# 34 x 34 pixels: 1,156 tokens, which the CPU formulation takes in parts; 9 x 9 tiles an image.
IMAGES = jax.ShapeDtypeStruct((2, 34, 34, 3), jnp.float32)
TILES = "tensor<36x162x"  # Winograd: 36 products over all tiles.
PARTS = "stablehlo.while"


def lowered(platform: str, gradient: bool) -> str:
    """The text of CPV at two blocks, exported for a platform."""
    model = models.create("cpv", embed_dim=64, depth=2, num_heads=2, head_dim=16)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)

    def loss(params, images):
        logits: Any = model.apply({**variables_of(params)}, images, train=False)
        return jnp.sum(logits**2)

    def variables_of(params):
        constants = jax.tree.map(lambda x: jnp.ones(x.shape), variables["constants"])
        return {"params": params, "constants": constants}

    function = jax.jit(jax.grad(loss) if gradient else loss)
    exported = jax.export.export(function, platforms=(platform,))(variables["params"], IMAGES)
    return exported.mlir_module()


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_a_program_for_cuda_made_on_a_cpu_has_no_cpu_formulation(gradient: bool) -> None:
    text = lowered("cuda", gradient)
    assert "stablehlo.convolution" in text
    assert TILES not in text
    assert PARTS not in text


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
def test_a_program_for_a_cpu_has_it(gradient: bool) -> None:
    text = lowered("cpu", gradient)
    assert TILES in text
    assert PARTS in text


def test_a_trace_without_choice_has_the_default_alone() -> None:
    model = models.create("cpv", embed_dim=8, depth=1, num_heads=1, head_dim=4)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGES)

    def trace() -> str:
        return str(jax.make_jaxpr(model.apply)(variables, IMAGES))

    assert "platform_index" in trace()
    with without_choice():
        assert "platform_index" not in trace()
    assert "platform_index" in trace()
