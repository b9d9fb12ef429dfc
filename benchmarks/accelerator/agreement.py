"""Gradients and the losses of a few training steps, on the device against this machine's CPU.

A child of the campaign: python -m benchmarks.accelerator.agreement --models=cpv --steps=20
--result=FILE
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.sides import data
from cxv_jax.launch import command

_MODELS = flags.DEFINE_list("models", ["cpv"], "Which, at a small size.")
_STEPS = flags.DEFINE_integer("steps", 20, "Of AdamW.", lower_bound=1)
_RESULT = flags.DEFINE_string("result", None, "File to write.")
SMALL = dict(embed_dim=32, num_heads=2, depth=2)  # Where a model has these fields.
BATCH = 16


def main(argv: list[str]) -> None:
    """Compare and write."""
    if argv or _RESULT.value is None:
        command.fail("expected --result=FILE and nothing besides flags")
    import jax

    from benchmarks.accelerator.results import compare
    from cxv_jax.files import write_text

    device, cpu = jax.devices()[0], jax.devices("cpu")[0]
    rows = []
    for name in _MODELS.value:
        want = steps(name, cpu, _STEPS.value, "highest")
        for precision in ("highest", "default"):
            rows.append({"model": name, "precision": precision})
            rows[-1] |= compare(steps(name, device, _STEPS.value, precision), want)
    write_text(Path(_RESULT.value), json.dumps(rows, indent=1) + "\n")


def steps(name: str, device: Any, count: int, precision: str) -> tuple[list[Any], list[float]]:
    """The first step's gradients, a leaf a tensor, and the losses of all steps, on ``device``.

    Args:
      name: of the model; dropout and random features come from the same keys everywhere.
      device: where it computes.
      count: steps.
      precision: of products, as ``jax.default_matmul_precision`` has it.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from cxv_jax import models

    sizes = {k: v for k, v in SMALL.items() if models.defaults(name).get(k).__class__ is int}
    model, tx = models.create(name, **sizes), optax.adamw(1e-3, weight_decay=0.01)
    with jax.default_device(device), jax.default_matmul_precision(precision):
        images, labels = jax.tree.map(jnp.asarray, data(BATCH, 32))
        variables = jax.jit(model.init)(jax.random.key(0), images[:1])
        rest = {k: v for k, v in variables.items() if k != "params"}

        def loss_fn(params: Any, rest: Any, number: Any) -> Any:
            rngs = {"dropout": jax.random.fold_in(jax.random.key(1), number)}
            made = model.apply(
                {"params": params, **rest}, images, train=True, rngs=rngs, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(made[0], labels)
            return losses.mean(), made[1]

        @jax.jit
        def step(params: Any, rest: Any, slots: Any, number: Any) -> Any:
            (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, rest, number)
            updates, slots = tx.update(grads, slots, params)
            return optax.apply_updates(params, updates), {**rest, **new}, slots, loss, grads

        params, slots = variables["params"], tx.init(variables["params"])
        losses: list[float] = []
        first: list[Any] = []
        for number in range(count):
            params, rest, slots, loss, grads = step(params, rest, slots, np.int32(number))
            losses.append(float(loss))
            first = first or [np.asarray(x) for x in jax.tree.leaves(grads)]
    return first, losses


if __name__ == "__main__":
    command.run(main)
