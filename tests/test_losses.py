"""Cross entropy against PyTorch's ``CrossEntropyLoss`` and against its stored numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import losses

LOGITS = np.array([[2.0, -1.0, 0.5, 0.0], [-3.0, 4.0, 1.0, 2.5], [0.0, 0.0, 0.0, 0.0]], np.float32)
CLASSES = [0, 2, 3]
MIXED = np.array([[0.7, 0.3, 0, 0], [0, 0.25, 0.75, 0], [0.1, 0.2, 0.3, 0.4]], np.float32)
# torch.nn.CrossEntropyLoss(label_smoothing=s, reduction="none")(LOGITS, targets) of PyTorch
# 2.13.0 in float64; targets are CLASSES, then MIXED.
BY_CLASS = {
    0.0: [0.34234958, 3.24202741, 1.38629436],
    0.1: [0.50484958, 3.22952741, 1.38629436],
    0.3: [0.82984958, 3.20452741, 1.38629436],
}
BY_SHARE = {
    0.0: [1.24234962, 2.49202741, 1.38629439],
    0.1: [1.31484961, 2.55452741, 1.38629439],
    0.3: [1.45984961, 2.67952741, 1.38629438],
}


def one_hot(labels: list[int]) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[labels]


@pytest.mark.parametrize("smoothing", BY_CLASS)
def test_equals_pytorchs_stored_numbers(smoothing: float) -> None:
    for targets, want in ((one_hot(CLASSES), BY_CLASS), (MIXED, BY_SHARE)):
        got = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(targets), smoothing)
        np.testing.assert_allclose(got, want[smoothing], rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.5])
def test_equals_pytorch_in_value_and_gradient(smoothing: float) -> None:
    torch = pytest.importorskip("torch", reason="torch is only in the dev extra")
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(13, 7)).astype(np.float32) * 3
    labels = draw.integers(0, 7, 13)
    shares = draw.dirichlet(np.full(7, 0.3), 13).astype(np.float32)
    entropy = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    for theirs, ours in ((labels, np.eye(7, dtype=np.float32)[labels]), (shares, shares)):
        leaf = torch.tensor(logits, requires_grad=True)
        want = entropy(leaf, torch.from_numpy(theirs))
        want.mean().backward()

        def mean(x: jax.Array, ours: np.ndarray = ours) -> tuple[jax.Array, jax.Array]:
            each = losses.cross_entropy(x, jnp.asarray(ours), smoothing)
            return each.mean(), each

        gradient, got = jax.grad(mean, has_aux=True)(jnp.asarray(logits))
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=0, atol=1e-6)


def test_far_logits_and_bfloat16_are_summed_in_float32() -> None:
    logits = jnp.array([[0.0, 0.0, -100.0]], jnp.bfloat16)
    got = losses.cross_entropy(logits, jnp.array([[1.0, 0.0, 0.0]]), 0.3)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [np.log(2) + 0.1 * 100], rtol=1e-6)
