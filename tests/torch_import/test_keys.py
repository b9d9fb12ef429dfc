"""The comparison models on the original code's stored weights give its logits."""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import models
from cxv_jax.errors import InputError
from cxv_jax.torch_import import from_torch

GOLDEN = Path(__file__).parents[1] / "golden" / "baselines"
GOLDEN_NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))
PRESETS = {"cct": "cct_7_3x1", "cct_sine": "cct_7_3x1_sine"}  # Where the golden's name differs.
BATCH_DEPENDENT = [n for n in GOLDEN_NAMES if "vin" in n or "vip" in n]

# The reference's names of sizes that are called otherwise here.
FIELDS = {
    "dim": "embed_dim", "embedding_dim": "embed_dim", "heads": "num_heads", "dim_head": "head_dim",
    "k": "num_projected", "landmarks": "num_landmarks", "conv_kernel": "residual_kernel",
    "nb_features": "num_features", "num_layers": "depth", "img_size": "image_size",
    "n_conv_layers": "num_convs", "in_planes": "conv_dim", "stride": "conv_strides",
    "padding": "conv_padding", "pooling_kernel_size": "pool_kernel",
    "pooling_stride": "pool_stride", "pooling_padding": "pool_padding", "blocks": "depths",
}  # fmt: skip
CVT_FIELDS = {
    "emb_dim": "embed_dims", "emb_kernel": "embed_kernels", "emb_stride": "embed_strides",
    "depth": "depths", "heads": "num_heads", "mlp_mult": "mlp_ratios",
    "proj_kernel": "proj_kernels", "kv_proj_stride": "kv_strides",
}  # fmt: skip
CVT_MS_FIELDS = {
    "DIM_EMBED": "embed_dims", "PATCH_SIZE": "embed_kernels", "PATCH_STRIDE": "embed_strides",
    "PATCH_PADDING": "embed_paddings", "DEPTH": "depths", "NUM_HEADS": "num_heads",
    "MLP_RATIO": "mlp_ratios", "KERNEL_QKV": "proj_kernels", "STRIDE_KV": "kv_strides",
}  # fmt: skip


def overrides(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """A golden's ``config`` as overrides of ``models.create``."""
    if name == "cvt":
        fields: dict[str, Any] = {
            ours: [config[f"s{stage}_{theirs}"] for stage in (1, 2, 3)]
            for theirs, ours in CVT_FIELDS.items()
        }
        return {**fields, "head_dim": config["dim_head"]}
    if name == "cvt_ms":
        return {ours: config["spec"][theirs] for theirs, ours in CVT_MS_FIELDS.items()}
    allowed = models.defaults(PRESETS.get(name, name))
    fields = {FIELDS.get(k, k): v for k, v in config.items()}
    if "stem" in config:
        fields["stem_dims"] = config["stem"][:2]
    if isinstance(fields.get("conv_strides"), int):
        fields["conv_strides"] = [fields["conv_strides"]] * fields["num_convs"]
    return {k: v for k, v in fields.items() if k in allowed}


def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """A golden's arrays, weights and config."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    state = {k.removeprefix("param:"): v for k, v in arrays.items() if k.startswith("param:")}
    return arrays, state, json.loads(str(arrays["config"]))


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_logits_equal_the_original_code(name: str) -> None:
    golden, state, config = load(name)
    images = jnp.asarray(golden["x"].transpose(0, 2, 3, 1))
    runs: dict[str, dict[str, Any]] = {"logits": {}}
    if name in BATCH_DEPENDENT:
        runs = {"logits": {"stabilizer": "batch"}, "logits_n1": {"stabilizer": "example"}}
    for key, extra in runs.items():
        model = models.create(PRESETS.get(name, name), **overrides(name, config), **extra)
        logits = jax.jit(model.apply)(from_torch(model, state), images)
        np.testing.assert_allclose(
            logits, golden[key], rtol=0, atol=config["tolerance_max_abs"], err_msg=key
        )


def test_tables_that_are_computed_here_are_no_leftovers() -> None:
    _, state, config = load("vit_rope")
    model = models.create("vit_rope", **overrides("vit_rope", config))
    table = np.zeros((1, 65, 24))
    from_torch(model, {**state, "pos_embedding": table, "layer_pos_emb.emb": table})
    with pytest.raises(InputError, match="leftover: classifier.positional_emb$"):
        from_torch(model, {**state, "classifier.positional_emb": table})
    with pytest.raises(InputError, match="no PyTorch key names are known for Dense"):
        from_torch(nn.Dense(3), state)
