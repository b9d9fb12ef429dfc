"""The pyramid: its documented sizes, its formula, and what makes it CXV."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import models

SIZES = {"cxv_base": (1.286e6, 148e6), "cxv_small": (0.313e6, 32e6), "cxv_nano": (0.141e6, 13.8e6)}
TINY: dict[str, Any] = dict(
    stem_dims=(4, 8), embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), num_classes=3
)


def products(name: str) -> int:
    """Multiplications of one 32x32 image in convolutions, projections and the linear attention."""
    model: Any = models.create(name)
    side, channels, total = 32, 3, 0
    for width, stride in zip(model.stem_dims, model.stem_strides, strict=True):
        side //= stride
        total += side**2 * 9 * channels * width
        channels = width
    stages = zip(model.embed_dims, model.strides, model.depths, model.num_heads, strict=True)
    for width, stride, depth, heads in stages:
        side //= stride
        for _ in range(depth):
            conv = 9 * channels * width
            dense = 4 * width**2 + 2 * width * int(model.mlp_ratio * width)
            attention = 2 * width * (width // heads) + 9 * width
            total += side**2 * (conv + dense + attention)
            channels = width
    return total + channels * model.num_classes


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_documented_ones(name: str) -> None:
    model = models.create(name)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert parameters == pytest.approx(SIZES[name][0], rel=0.02)
    assert products(name) == pytest.approx(SIZES[name][1], rel=0.02)
    assert parameters <= 1.3e6
    assert products(name) <= 160e6


@pytest.mark.parametrize("mixer", ["linear", "performer", "nystrom", "softmax", "none"])
def test_every_mixer_runs_at_any_size_and_every_parameter_learns(mixer: str) -> None:
    model = models.create("cxv_nano", mixer=mixer, gate=True, mlp_conv=True, **TINY)
    images = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    for size in ((17, 23), (32, 24)):
        logits = jax.eval_shape(model.apply, variables, jnp.ones((2, *size, 3)))
        assert logits.shape == (2, 3)
    params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any) -> jax.Array:
        logits: Any = model.apply(
            {"params": params, **rest}, images, train=True, mutable=["batch_stats"]
        )[0]
        return (logits[:, 0] ** 2 - logits[:, 1]).sum()

    gradients = jax.device_get(jax.jit(jax.grad(loss))(params))
    for path, grad in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(grad).all(), path
        # A bias of keys moves all of them alike: Nyström's and softmax's attention does not see it.
        assert (grad != 0).any() or ("qkv" in str(path) and "bias" in str(path)), path


def test_a_prediction_does_not_depend_on_its_batch_mates() -> None:
    model = models.create("cxv_nano", **TINY)
    images = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    run = jax.jit(model.apply)
    alone, mixed = run(variables, images), run(variables, images.at[1:].mul(100.0))
    assert (alone[0] == mixed[0]).all()
    assert (alone[1] != mixed[1]).any()


def test_the_forward_pass_is_the_documented_formula() -> None:
    """One stage of one block, in NumPy, with statistics that are not 0 and 1."""
    model: Any = models.create(
        "cxv_nano", stem_dims=(4,), stem_strides=(1,), embed_dims=(6,), strides=(1,), depths=(2,),
        num_heads=(2,), num_classes=3,
    )  # fmt: skip
    images = jax.random.normal(jax.random.key(1), (1, 5, 4, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    stats = jax.tree.map(lambda x: x + 0.3, jax.device_get(variables["batch_stats"]))
    got = jax.jit(model.apply)({**variables, "batch_stats": stats}, images)
    p, s = (jax.tree.map(np.asarray, tree) for tree in (variables["params"], stats))

    def conv(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        if kernel.shape[2] == 1 != x.shape[-1]:  # Depthwise.
            return np.einsum("hwcij,ijc->hwc", windows, kernel[:, :, 0])
        return np.einsum("hwcij,ijcd->hwd", windows, kernel)

    def gelu(x: np.ndarray) -> np.ndarray:
        return np.asarray(jax.nn.gelu(x, approximate=False))

    def conv_norm(x: np.ndarray, p: Any, s: Any) -> np.ndarray:
        y, norm, stat = conv(x, p["conv"]["kernel"]), p["norm"], s["norm"]
        y = (y - stat["mean"]) / np.sqrt(stat["var"] + 1e-5) * norm["scale"] + norm["bias"]
        return gelu(y)

    def dense(x: np.ndarray, p: Any) -> np.ndarray:
        return x @ p["kernel"] + p["bias"]

    def attend(x: np.ndarray, p: Any) -> np.ndarray:
        q, k, v = np.split(dense(x, p["qkv"]).reshape(20, 18), 3, axis=-1)
        out = []
        for head in range(2):
            a, b, c = (t[:, 3 * head : 3 * head + 3] for t in (q, k, v))
            a, b = (np.where(t > 0, t + 1, np.exp(t)) for t in (a, b))
            weights = a @ b.T
            out.append(weights / weights.sum(-1, keepdims=True) @ c)
        local = conv(v.reshape(5, 4, 6), p["local"]["kernel"]) + p["local"]["bias"]
        return dense(np.concatenate(out, -1).reshape(5, 4, 6) + local, p["out"])

    x = conv_norm(np.asarray(images[0]), p["stem_0"], s["stem_0"])
    for i in range(2):
        block, stat = p[f"stage_0_block_{i}"], s[f"stage_0_block_{i}"]
        y = conv_norm(x, block["conv"], stat["conv"])
        x = x + y if i else y
        x = x + attend(x, block["attention"])
        x = x + dense(gelu(dense(x, block["fc1"])), block["fc2"])
    np.testing.assert_allclose(got[0], dense(x.mean((0, 1)), p["head"]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", ["batch", "group", "channel"])
@pytest.mark.parametrize("name", SIZES)
def test_every_norm_fits_every_size(name: str, norm: str) -> None:
    model = models.create(name, norm=norm)
    shape = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), shape)
    assert jax.eval_shape(model.apply, variables, shape).shape == (2, 10)


def test_bfloat16_stays_finite() -> None:
    model = models.create("cxv_nano", dtype="bfloat16", rule="mala", **TINY)
    images = jnp.asarray([0.0, 1e4, -1e4])[:, None, None, None] * jnp.ones((1, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert jnp.isfinite(jax.jit(model.apply)(variables, images)).all()


def test_cost_is_linear_in_pixels() -> None:
    model = models.create("cxv_nano")
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))

    def flops(side: int) -> float:
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        costs: Any = jax.jit(model.apply).lower(variables, images).compile().cost_analysis()
        return costs["flops"]

    assert flops(128) / flops(64) == pytest.approx(4, rel=0.08)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(depths=(1, 2, 3)), "one entry a stage"),
        (dict(stem_strides=(1,)), "stem_strides needs 2"),
        (dict(num_heads=(1, 5)), "5 heads cannot share 16"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict, message: str) -> None:
    model = models.create("cxv_nano", **(TINY | fields))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
