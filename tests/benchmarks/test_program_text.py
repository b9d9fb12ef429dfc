"""What is read off a program's text, and that the train step asks a GPU for nothing bad."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import program_text
from benchmarks.program_text import Product

TINY = {"embed_dim": 16, "depth": 1, "num_heads": 2, "head_dim": 8}
PYRAMID = {"stem_dims": (4,), "stem_strides": (1,), "embed_dims": (8,), "strides": (2,)}
SYSTEMS: dict[str, dict[str, Any]] = {
    **{name: {"name": name, **TINY} for name in ("cpv", "cnv", "cltv")},
    "cxv_base": {"name": "cxv_base", **PYRAMID, "depths": (1,), "num_heads": (1,)},
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_train_step_for_cuda_has_no_float64_and_calls_nobody(name: str) -> None:
    system = {**SYSTEMS[name], "dtype": "bfloat16"}
    text = program_text.lowered(system, 4, image_size=8, num_classes=3, steps=2)
    found = program_text.read(text)
    assert found.float64 == 0
    assert not found.calls
    dots = [product for product in found.products if product.kind == "dot_general"]
    assert {product.inputs for product in dots} <= {"bf16", "f32"}  # No mixture.
    assert any(p.kind == "convolution" and p.inputs == "bf16" for p in found.products)


def test_products_are_counted_as_often_as_their_function_is_called() -> None:
    @jax.jit
    def inner(x):
        return jnp.einsum("bik,bkj->bij", x, x, preferred_element_type=jnp.float32)

    def outer(x, image, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=2
        )
        return inner(x) + inner(x + 1), out, jnp.swapaxes(x, 0, 2)

    x = jax.ShapeDtypeStruct((3, 17, 17), jnp.bfloat16)
    image = jax.ShapeDtypeStruct((2, 5, 7, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 2, 6), jnp.float32)
    lowered = jax.jit(outer).trace(x, image, kernel).lower(lowering_platforms=("cuda",))
    found = program_text.read(lowered.as_text())
    assert sorted(found.products) == [
        Product("convolution", "f32", "f32", 2, 2 * 5 * 7, 3, 3 * 3 * 2, 1),
        Product("dot_general", "bf16", "f32", 3, 17, 17, 17, 2),
    ]
    assert found.transposes == [3 * 17 * 17 * 2]
    assert program_text.cells(found)[:4] == ["2", "100.0", "100.0", "100.0"]


def test_float64_and_calls_to_the_host_are_found() -> None:
    text = """
    func.func public @main(%arg0: tensor<2xf64>) -> tensor<2xf64> {
      %0 = stablehlo.custom_call @xla_ffi_python_gpu_callback(%arg0) : (tensor<2xf64>) -> ()
    """
    found = program_text.read(text)
    assert found.float64 == 3
    assert program_text.callbacks(found) == ["xla_ffi_python_gpu_callback"]


def test_a_step_with_a_callback_cannot_even_be_lowered_here() -> None:
    def ask(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((), jnp.float32), x)

    with pytest.raises(ValueError, match="lowering platform cuda"):
        jax.jit(ask).trace(jnp.float32(1)).lower(lowering_platforms=("cuda",))
