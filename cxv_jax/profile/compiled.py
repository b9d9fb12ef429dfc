"""What XLA says of the compiled train step and forward pass: FLOPs and memory."""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params

from cxv_jax import augment
from cxv_jax.kernels import threefry
from cxv_jax.phase import Phase
from cxv_jax.session import Session

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Program(NamedTuple):
    """A compiled program and the FLOPs that XLA's count of it leaves out."""

    compiled: Any
    hidden_flops: float


def train_program(session: Session) -> Program:
    """Compile the training step of a session's first phase.

    ``program.compiled(state, rng, data, feed) -> (state, sums)`` with the session's own arguments,
    see :func:`first_feed`; the state is donated, so its memory is counted once.
    """
    phase, (_, feed) = session.phases[Phase.ONE], next(iter(session.train_loader.epoch(0)))
    return _compile(phase.update, phase.template, session.rng, session.train_loader.data, feed)


def forward_program(
    model: nn.Module, image_shape: tuple[int, int, int], batch_size: int
) -> Program:
    """Compile the prediction: ``program.compiled(variables, uint8 images) -> float32 logits``."""

    def forward(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, augment.normalise(images, MEAN, STD), train=False)

    one = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    key = jax.eval_shape(lambda: threefry.key(0))
    made = jax.eval_shape(partial(model.init, train=False), key, one)
    variables = {name: made.get(name, {}) for name in ("params", "batch_stats", "constants")}
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8)
    return _compile(jax.jit(forward), variables, images)


def flops(program: Program) -> float:
    """Floating-point operations of one call, as XLA counts them in the compiled program.

    XLA counts the body of a loop once, however often it runs; the matrix products of the other
    turns are added here (Performer's chunks, Nyström's iterations), their element-wise operations
    are not. Exponentials and the like count as none, a convolution only where it meets pixels, and
    Winograd's convolution (float32 on CPUs) by the products it does, a quarter of the usual.
    """
    return float(_analysis(program)["flops"]) + program.hidden_flops


def traffic(program: Program) -> float:
    """Bytes that one call reads and writes, as XLA counts them: of each fused loop once.

    A loop's body counts once, however often it runs.
    """
    return float(_analysis(program)["bytes accessed"])


def memory(program: Program) -> dict[str, int]:
    """Bytes on the device while the program runs, from XLA's memory analysis.

    Returns:
      ``peak``: arguments, results and temporaries, donated arguments counted once;
      ``temporary``: the temporaries alone.
    """
    sizes = program.compiled.memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    temporary = sizes.temp_size_in_bytes
    return {"peak": int(held + temporary), "temporary": int(temporary)}


def hidden_flops(jaxpr: Jaxpr) -> float:
    """FLOPs of the matrix products in loops, beyond the first turn of each loop."""
    once, all_turns = _product_flops(jaxpr)
    return all_turns - once


def _analysis(program: Program) -> Any:
    analysis = program.compiled.cost_analysis()
    return analysis[0] if isinstance(analysis, list) else analysis


def _compile(function: Any, *arguments: Any) -> Program:
    traced = function.trace(*arguments)
    return Program(traced.lower().compile(), hidden_flops(traced.jaxpr.jaxpr))


def _product_flops(jaxpr: Jaxpr) -> tuple[float, float]:
    """FLOPs of all matrix products with loop bodies counted once, and as often as they run."""
    once = all_turns = 0.0
    for equation in jaxpr.eqns:
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner_once, inner_all in _inner(equation):
            once, all_turns = once + inner_once, all_turns + turns * inner_all
    return once, all_turns


def _inner(equation: Any) -> Iterator[tuple[float, float]]:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        products = 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)
        yield products, products
    for inner in _taken(equation.params):
        yield _product_flops(inner)


def _taken(params: dict[str, Any]) -> Iterable[Jaxpr]:
    """The inner programs that run: of formulations for several platforms, this one's."""
    if platforms := params.get("branches_platforms"):
        here = jax.devices()[0].platform
        matches = (names is None or here in names for names in platforms)
        return [params["branches"][list(matches).index(True)].jaxpr]
    return jaxprs_in_params(params)
