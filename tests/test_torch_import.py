"""Parity with the authors' PyTorch code on stored weights, and complete reports of bad keys."""

from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cxv_jax import models, torch_import
from cxv_jax.errors import InputError

GOLDEN = Path(__file__).parent / "golden" / "cxv"
SIZES = dict(embed_dim=32, num_heads=2, depth=2)


def load(name: str) -> dict[str, np.ndarray]:
    return torch_import.load_state_dict(GOLDEN / f"{name}.npz")


def parameters(golden: dict[str, np.ndarray], prefix: str = "param:") -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["cpv", "cnv", "cltv"])
def test_logits_and_gradients_equal_the_authors_code(name: str) -> None:
    golden = load(name)
    model = models.create(name, stabilizer="batch", **SIZES)
    variables = torch_import.from_torch(model, parameters(golden))
    images, labels = jnp.asarray(golden["x"].transpose(0, 2, 3, 1)), jnp.asarray(golden["y"])

    def loss_fn(params):
        logits = model.apply({**variables, "params": params}, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(variables["params"])
    np.testing.assert_allclose(
        logits, golden["logits"], rtol=0, atol=2e-5 * np.abs(golden["logits"]).max()
    )
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    # The gradients' PyTorch names map to the same Flax leaves as the parameters' do.
    stored = parameters(golden, "grad:")
    missing = {k: v for k, v in parameters(golden).items() if k not in stored}  # Buffers.
    expected = torch_import.from_torch(model, {**missing, **stored})["params"]
    flat = jax.tree_util.tree_flatten_with_path(expected)[0]
    for (path, want), got in zip(flat, jax.tree.leaves(grads), strict=True):
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-4 * np.abs(want).max(), err_msg=where)


def test_every_bad_key_is_named() -> None:
    state = parameters(load("cpv"))
    state["extra.weight"] = state.pop("head.2.bias")
    state["conv.0.weight"] = state["conv.0.weight"][..., :2]
    with pytest.raises(InputError) as error:
        torch_import.from_torch(models.create("cpv", **SIZES), state)
    text = str(error.value)
    assert "missing: head.2.bias" in text
    assert "leftover: extra.weight" in text
    assert "misshapen: conv.0.weight (8, 3, 3, 2)" in text


@pytest.mark.parametrize("name", ["cpv", "cnv", "cltv"])
def test_sizes_are_read_off_the_weights(name: str) -> None:
    state = parameters(load(name))
    model = models.create(name, **torch_import.cxv_sizes(state))
    assert (model.depth, model.num_heads, model.embed_dim, model.mlp_ratio) == (2, 2, 32, 2)
    torch_import.from_torch(model, state)


def test_all_file_kinds_give_the_same_arrays(tmp_path: Path) -> None:
    state = parameters(load("cnv"))
    from safetensors.numpy import save_file

    np.savez(tmp_path / "w.npz", **cast("dict[str, Any]", state))
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / "w.safetensors")
    for path in tmp_path.iterdir():
        read = torch_import.load_state_dict(path)
        assert read.keys() == state.keys()
        assert all(np.array_equal(read[k], state[k]) for k in state)


def test_torch_files_load_without_running_code(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is only in the dev extra")
    state = {k: torch.from_numpy(v.copy()) for k, v in parameters(load("cnv")).items()}
    torch.save(state, tmp_path / "w.pt")
    read = torch_import.load_state_dict(tmp_path / "w.pt")
    assert all(np.array_equal(read[k], state[k].numpy()) for k in state)
    torch.save({"evil": print}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match="bad.pt"):
        torch_import.load_state_dict(tmp_path / "bad.pt")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"not a zip")
    (tmp_path / "w.safetensors").write_bytes(b"x" * 40)
    for name in ["w.npz", "w.safetensors", "absent.npz", "w.bin"]:
        with pytest.raises(InputError, match=name):
            torch_import.load_state_dict(tmp_path / name)
