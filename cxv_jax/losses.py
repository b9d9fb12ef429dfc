"""Loss functions of logits and (soft) targets."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def cross_entropy(
    logits: Float[Array, "batch classes"],
    targets: Float[Array, "batch classes"],
    label_smoothing: float = 0.0,
) -> Float[Array, "batch"]:
    """``-sum_c t_c log softmax(logits)_c`` of each example, in float32.

    ``t = (1 - s) target + s / classes`` with ``s = label_smoothing`` (Szegedy et al. 2016, arXiv
    1512.00567, section 7; as PyTorch's ``CrossEntropyLoss``).

    Args:
      logits: ``[batch, classes]``.
      targets: one-hot or mixed labels, each row sums to 1.
      label_smoothing: ``s``, between 0 and 1.

    Returns:
      ``[batch]``, in nats.
    """
    targets = (1 - label_smoothing) * targets + label_smoothing / targets.shape[-1]
    return -jnp.sum(targets * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1)
