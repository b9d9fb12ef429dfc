"""PyTorch state dicts to Flax variables, with every key accounted for; needs no torch itself."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cxv_jax.errors import InputError
from cxv_jax.torch_import.files import load_state_dict
from cxv_jax.torch_import.keys import is_unused, keys_of, rules_of

__all__ = ["classes_of", "cxv_sizes", "from_torch", "load_state_dict"]


def from_torch(model: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a PyTorch ``state_dict`` of the published code into variables of ``model``.

    Layouts: convolution ``(out, in, y, x) -> (y, x, in, out)``, linear ``(out, in) -> (in, out)``;
    query, key and value are joined into the fused ``qkv``. The key names are those of the
    repositories in docs/sources.md.

    Args:
      model: a module from ``cxv_jax.models.create`` with the sizes of the weights.
      state_dict: any mapping of names to arrays (NumPy arrays, or what ``np.asarray`` takes).

    Returns:
      Variables (``params``, and ``batch_stats`` or ``constants`` where the model has them) of
      float32 JAX arrays.

    Raises:
      InputError: (a ``ValueError``) that names every missing, leftover and misshapen key.
    """
    leaves = flax.traverse_util.flatten_dict(_shapes(model), sep="/")
    rules = rules_of(model)
    sources = {path: keys_of(path, rules) for path in leaves}
    expected = {key for keys in sources.values() for key in keys}
    problems = {
        "missing": sorted(expected - set(state_dict)),
        "leftover": sorted(k for k in set(state_dict) - expected if not is_unused(k, model)),
        "misshapen": [],
    }
    variables: dict[str, Any] = {}
    for path, keys in sources.items():
        if not set(keys) <= set(state_dict):
            continue
        shape = leaves[path].shape
        parts = [_to_flax(np.asarray(state_dict[key]), path, len(shape)) for key in keys]
        if _joined_shape(parts) == shape:
            variables[path] = jnp.asarray(np.concatenate(parts, -1), jnp.float32)
        else:
            found = ", ".join(f"{k} {np.shape(state_dict[k])}" for k in keys)
            problems["misshapen"].append(f"{found} (for {path} {shape})")
    if any(problems.values()):
        listed = "; ".join(
            f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise InputError(f"the weights do not fit the model: {listed}")
    return flax.traverse_util.unflatten_dict(variables, sep="/")


def classes_of(model: nn.Module, state_dict: Mapping[str, Any]) -> int:
    """How many classes the weights of a ``model`` tell apart, by the bias of its head.

    Raises:
      InputError: there is no such bias.
    """
    (key,) = keys_of("params/head/bias", rules_of(model))
    if key not in state_dict:
        raise InputError(f"these are not the weights of {type(model).__name__}: no {key}")
    return int(np.shape(state_dict[key])[0])


def cxv_sizes(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sizes of a CPV, CNV or CLTV (as overrides of ``create``) off its weights.

    The stride of the embedding leaves no trace in the weights: it stays at its default.

    Raises:
      InputError: if the keys are not those of a CXV model.
    """
    try:
        embed, attend = state_dict["layers.0.0.weight"], "layers.0.2.layers.0.0."
        hidden = state_dict["layers.0.2.layers.0.1.net.0.weight"].shape[0]
        out = state_dict.get(attend + "to_out.weight", state_dict.get(attend + "to_out.0.weight"))
        sizes = {
            "num_classes": state_dict["head.2.weight"].shape[0],
            "embed_dim": embed.shape[0],
            "embed_kernel": embed.shape[-1],
            "depth": _depth(state_dict),
            "mlp_ratio": hidden / embed.shape[0],
        }
        inner, head_dim = out.shape[1], 32  # The published head width; CPV's projection tells it.
        if attend + "fast_attention.projection_matrix" in state_dict:
            features = state_dict[attend + "fast_attention.projection_matrix"].shape
            sizes["num_features"], head_dim = features
        if attend + "res_conv.weight" in state_dict:
            heads, _, sizes["residual_kernel"], _ = state_dict[attend + "res_conv.weight"].shape
            head_dim = inner // heads
        return {**sizes, "num_heads": inner // head_dim, "head_dim": head_dim}
    except (LookupError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"these are not the weights of cpv, cnv or cltv: no usable {error}"
        ) from error


def _depth(state_dict: Mapping[str, Any]) -> int:
    """How many layers there are, numbered without gaps: a key may hold any number."""
    numbers = {int(key.split(".")[1]) for key in state_dict if key.startswith("layers.")}
    if numbers != set(range(len(numbers))):
        raise KeyError(f"layers: they are numbered {sorted(numbers)[:5]} to {max(numbers)}")
    return len(numbers)


def _shapes(model: nn.Module) -> Any:
    stride = getattr(model, "embed_stride", 1)
    stride = stride if isinstance(stride, int) else 1
    size = getattr(model, "image_size", max(32, stride ** getattr(model, "depth", 1)))
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def _to_flax(array: np.ndarray, path: str, ndim: int) -> np.ndarray:
    if path.endswith("/projection"):
        return array
    if path.endswith("/residual"):
        return array.reshape(array.shape[0], -1).T  # (heads, 1, taps, 1) -> (taps, heads)
    if path.endswith("/kernel") and ndim == 4 == array.ndim:
        return array.transpose(2, 3, 1, 0)
    if path.endswith("/kernel") and array.ndim >= 2 and array.size == np.prod(array.shape[:2]):
        return array.reshape(array.shape[:2]).T  # Linear, or a 1x1 convolution.
    return array.reshape(-1) if ndim == 1 and array.size == max(array.shape, default=1) else array


def _joined_shape(parts: list[np.ndarray]) -> tuple[int, ...] | None:
    if len({part.shape[:-1] for part in parts}) != 1 or parts[0].ndim == 0:
        return None
    return (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
