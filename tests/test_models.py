"""Every model: parameter counts, gradients, image sizes, precision, initial weights, devices."""

import functools
import re
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from jax.extend.core import jaxprs_in_params

from cxv_jax import models
from cxv_jax.errors import InputError
from cxv_jax.profile import count_parameters

# Trainable at 10 and at 100 classes, and what torchsummary prints at 10 (docs/sources.md).
COUNTS = {
    "cpv": (1_345_994, 1_357_604, 1_344_714),
    "cnv": (1_344_734, 1_356_344, 1_343_454),
    "cltv": (3_967_434, 3_979_044, 3_966_154),
    "cxv_base": (1_291_666, 1_291_666 + 90 * 145, 1_291_666),
    "cxv_small": (314_794, 314_794 + 90 * 97, 314_794),
    "cxv_nano": (142_614, 142_614 + 90 * 65, 142_614),
    "vit": (661_770, 673_380, 530_442),
    "vit_rope": (530_570, 542_180, 530_442),
    "hybrid_vit": (754_506, 766_116, 623_178),
    "hybrid_vit_rope": (623_306, 634_916, 623_178),
    "vil": (809_482, 821_092, 415_754),
    "vil_rope": (727_434, 739_044, 464_906),
    "hybrid_vil": (951_370, 962_980, 557_642),
    "hybrid_vil_rope": (820_170, 831_780, 557_642),
    "vin": (662_298, 673_908, 530_970),
    "vin_rope": (531_098, 542_708, 530_970),
    "hybrid_vin": (755_034, 766_644, 623_706),
    "hybrid_vin_rope": (623_834, 635_444, 623_706),
    "vip": (663_306, 674_916, 531_978),
    "vip_rope": (532_106, 543_716, 531_978),
    "hybrid_vip": (756_042, 767_652, 624_714),
    "hybrid_vip_rope": (624_842, 636_452, 624_714),
    "fnet": (399_114, 410_724, 267_786),
    "hybrid_fnet": (491_850, 503_460, 360_522),
    "mlp_mixer": (8_533_002, 8_544_612, 8_533_002),
    "mlp_mixer_nano": (1_132_170, 1_143_780, 1_132_170),
    "hybrid_mlp_mixer": (8_625_738, 8_637_348, 8_625_738),
    "resnet18": (11_173_962, 11_220_132, 11_173_962),
    "resnet34": (21_282_122, 21_328_292, 21_282_122),
    "resnet50": (23_520_842, 23_705_252, 23_520_842),
    "convmixer": (594_186, 617_316, 594_186),
    "convmixer_k9p1": (706_570, 729_700, 706_570),
    "cct_7_3x1": (3_760_139, 3_783_269, 3_694_603),
    "cct_7_3x1_sine": (3_694_603, 3_717_733, 3_694_603),
    "cct_4_3x2": (482_123, 493_733, 473_931),
    "cct_2_3x2": (283_723, 295_333, 275_531),
    "cct_128_4": (1_036_619, 1_048_229, 905_547),
    "cvt": (1_102_602, 1_114_212, 1_099_786),
    "cvt_ms": (4_024_970, 4_048_100, 4_024_714),
}


def shapes(name: str, num_classes: int, **sizes: Any) -> Any:
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = models.create(name, num_classes, **sizes)
    return jax.eval_shape(model.init, jax.random.key(0), image)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_has_its_published_number_of_parameters(name: str) -> None:
    trainable, printed = count_parameters(shapes(name, 10), name)
    assert (trainable, count_parameters(shapes(name, 100), name)[0], printed) == COUNTS[name]


TINY = dict(
    image_size=8, depth=1, embed_dim=12, num_heads=2, head_dim=4, mlp_dim=10, patch_size=2,
    num_projected=5, num_landmarks=4, residual_kernel=3, tokens_dim=7, channels_dim=9,
    kernel_size=3, conv_dim=6, widths=(4, 6), stem_dims=(4, 6),
)  # fmt: skip
# No gradient but rounding, by a part of the model's name. A constant added to every score leaves a
# softmax as it is (CCT's pooling, CvT's keys; in the last stage the class token's key lacks
# key_norm's constant). A constant added to every channel leaves every later LayerNorm as it is
# (Mixer's last bias over the tokens). In the last block of cvt_ms nothing reads the map's tokens.
WITHOUT_GRADIENT = {
    "cct": r"pool/bias",
    "mlp_mixer": r"block_\d+/mix/mlp/fc2/bias",
    "cvt_ms": r"stage_\d_block_0/mix/key/bias|stage_0_block_0/mix/key_norm/bias"
    r"|stage_1_block_0/mix/query_(conv|norm)/\w+",
}


def tiny(name: str, **extra: Any) -> Any:
    allowed = models.defaults(name)
    sizes = {k: v for k, v in TINY.items() if k in allowed}
    if "hybrid" in name:
        sizes.pop("patch_size")
    if "embed_dims" in allowed:
        stages = dict(embed_dims=(4, 6), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(2, 2))
        stages |= dict(embed_kernels=(3, 3), embed_strides=(1, 2), proj_kernels=(3, 3))
        sizes |= {k: v for k, v in {**stages, "kv_strides": (1, 2)}.items() if k in allowed}
    if "widths" in allowed:
        sizes |= dict(depths=(2, 1))
    return models.create(name, 3, **{**sizes, **extra})


def random_variables(model: Any, size: int = 8) -> dict[str, Any]:
    """Like ``init``, without its slow compilation: normal weights, variances of 1."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    numbers = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> jax.Array:
        if path[-1].key == "var":
            return jnp.asarray(np.ones(leaf.shape, np.float32))
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return jnp.asarray(numbers.normal(0, fan_in**-0.5, leaf.shape), jnp.float32)

    drawn = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(draw, drawn)


def random_images(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(*shape, 3)), jnp.float32)


@functools.cache  # Some names differ in nothing but size.
def train_step(model: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Gradients of the mean loss, and the batch statistics before and after."""
    variables = random_variables(model)
    before = {k: v for k, v in variables.items() if k != "params"}

    def loss_fn(params: Any) -> Any:
        logits, after = model.apply(
            {"params": params, **before},
            random_images(4, 8, 8),
            train=True,
            rngs={"dropout": jax.random.key(1, impl="unsafe_rbg")},  # Compiles quickly.
            mutable=["batch_stats"],
        )
        labels = jnp.array([0, 1, 2, 0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), after

    gradients, after = jax.jit(jax.grad(loss_fn, has_aux=True))(variables["params"])
    return gradients, before.get("batch_stats", {}), after.get("batch_stats", {})


@pytest.mark.parametrize("name", models.MODELS)
def test_every_parameter_receives_a_gradient(name: str) -> None:
    gradients, before, after = train_step(tiny(name))
    sizes = {
        path: np.abs(leaf).max()  # In NumPy: nothing is compiled for each shape.
        for path, leaf in traverse_util.flatten_dict(gradients, sep="/").items()
    }
    dead = {path for path, size in sizes.items() if not 1e-5 < size < 1e5}
    expected = [pattern for part, pattern in WITHOUT_GRADIENT.items() if part in name]
    assert dead == {path for path in sizes if re.fullmatch("|".join(expected), path)}
    assert all(
        (np.asarray(old) != np.asarray(new)).all()
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    )


RESOLUTION_FREE = [
    "vit_rope",
    "hybrid_vin_rope",
    "vip_rope",
    "resnet18",
    "convmixer",
    "cct_7_3x1_sine",
    "cvt",
    "cvt_ms",
]


@pytest.mark.parametrize("name", RESOLUTION_FREE)
def test_the_same_weights_run_at_any_size(name: str) -> None:
    model = tiny(name)
    weights = random_variables(model)
    for height, width in [(8, 8), (10, 14)]:
        other = jax.eval_shape(model.init, jax.random.key(0), random_images(1, height, width))
        chex.assert_trees_all_equal_shapes(weights, other)


@pytest.mark.parametrize(
    ("name", "fields", "size", "message"),
    [
        ("vit", {}, (8, 10), "built for images of 8x8 pixels, got 8x10"),
        ("vil_rope", {}, (10, 10), "create the model with image_size=10"),
        ("hybrid_mlp_mixer", {}, (16, 16), "create the model with image_size=16"),
        ("fnet", {}, (0, 8), "non-empty images"),
        ("cct_7_3x1", {}, (9, 8), "built for images of 8x8"),
        ("vip_rope", {}, (8, 9), "patches of 2x2"),
        ("convmixer", {"patch_size": 4}, (8, 3), "at least 4 pixels"),
        ("convmixer", {"kernel_size": 4}, (8, 8), "kernel_size must be odd, got 4"),
        ("hybrid_vit", {"patch_size": 2}, (8, 8), "patch_size must be 1, got 2"),
        ("hybrid_vit", {"stem_strides": (2, 1)}, (8, 8), "stem_strides needs 3 entries"),
        ("vit_rope", {"head_dim": 5}, (8, 8), "head_dim must be even, got 5"),
        ("cct_4_3x2", {"conv_strides": (1,)}, (8, 8), "conv_strides needs 2 entries"),
        ("cct_4_3x2", {"num_heads": 5}, (8, 8), "num_heads must divide embed_dim 12, got 5"),
        ("cvt", {"num_heads": (1, 2, 4)}, (8, 8), "num_heads needs one entry a stage, 2"),
        ("resnet18", {"depths": (1, 2, 3)}, (8, 8), "depths and widths"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(
    name: str, fields: dict[str, Any], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        jax.eval_shape(tiny(name, **fields).init, jax.random.key(0), random_images(1, *size))
    assert "\n" not in str(error.value)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown model 'hybrid_vn'; did you mean 'hybrid_vin'"):
        models.create("hybrid_vn")
    with pytest.raises(InputError, match="no field 'num_landmark'; did you mean 'num_landmarks'"):
        models.create("vin", num_landmark=3)
    with pytest.raises(InputError, match="no field 'rope'"):
        models.create("vin", rope=True)


def products(jaxpr: Any) -> Iterator[Any]:
    """Every matrix product and convolution, also in loops and inner functions."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


# Products in float32 at dtype bfloat16: the head; CCT's pooling.
FLOAT32_PRODUCTS = {"cct_7_3x1": 2}


@pytest.mark.parametrize(
    "name",
    [
        "vit",
        "hybrid_vil_rope",
        "fnet",
        "mlp_mixer",
        "resnet18",
        "convmixer",
        "cct_7_3x1",
        "cvt",
        "cvt_ms",
    ],
)
def test_bfloat16_reaches_every_product_but_the_head(name: str) -> None:
    model = tiny(name, dtype="bfloat16")
    variables = random_variables(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    traced = jax.make_jaxpr(model.apply)(variables, random_images(2, 8, 8))
    assert [v.aval.dtype for v in traced.jaxpr.outvars] == [jnp.float32]
    kinds = [{v.aval.dtype for v in equation.invars} for equation in products(traced.jaxpr)]
    assert kinds.count({jnp.dtype("float32")}) == FLOAT32_PRODUCTS.get(name, 1)
    assert all(len(kind) == 1 for kind in kinds)


def moments(leaf: np.ndarray) -> tuple[float, float, float]:
    """Mean, deviation, and the largest entry over the deviation (uniform: sqrt(3) = 1.73)."""
    deviation = float(leaf.std())
    return float(leaf.mean()), deviation, float(np.abs(leaf).max()) / max(deviation, 1e-30)


# Leaf, expected deviation, uniform or not: how the original of each system draws it.
INITIAL = {
    "hybrid_vil": [
        ("embed/conv_1/kernel", (3 * 32 * 9) ** -0.5, True),
        ("block_0/mix/projection", (3 * 64) ** -0.5, True),
        ("block_0/mix/query/kernel", (3 * 128) ** -0.5, True),
        ("block_0/mlp/fc2/bias", (3 * 256) ** -0.5, True),
        ("pos_embedding", 1.0, False),
        ("cls_token", 1.0, False),
    ],
    "cct_4_3x2": [
        ("tokenizer/conv_1/kernel", (2 / (64 * 9)) ** 0.5, False),
        ("block_0/mix/qkv/kernel", 0.02, False),
        ("block_0/mlp/fc1/bias", 0.0, False),
        ("pos_embedding", 0.2, False),
    ],
    "cvt_ms": [
        ("embed_1/kernel", (3 * 64 * 9) ** -0.5, True),
        ("stage_2_block_0/mix/key/kernel", 0.02, False),
        ("stage_2_block_0/mlp/fc2/kernel", 0.02, False),
        ("cls_token", 0.02, False),
        ("head/kernel", 0.02, False),
    ],
}


@pytest.mark.parametrize("name", INITIAL)
def test_weights_start_as_in_the_original(name: str) -> None:
    sizes = {"depths": (1, 1, 1)} if name == "cvt_ms" else {"depth": 1}
    init = jax.jit(models.create(name, 100, **sizes).init)
    variables = init(jax.random.key(0, impl="unsafe_rbg"), random_images(1, 32, 32))
    leaves = traverse_util.flatten_dict(variables["params"], sep="/")
    for path, deviation, uniform in INITIAL[name]:
        mean, got, extreme = moments(np.asarray(leaves[path]))
        few = 4 / leaves[path].size ** 0.5  # Four deviations of the estimates.
        assert abs(mean) <= few * deviation, path
        assert got == pytest.approx(deviation, rel=few), path
        assert deviation == 0 or (extreme < 1.8) == uniform, path


@pytest.mark.parametrize("name", ["convmixer", "hybrid_vip"])
def test_eight_devices_compute_what_one_does(name: str) -> None:
    model = tiny(name)
    variables, images = random_variables(model), random_images(16, 8, 8)

    def run(variables: Any, images: jax.Array) -> Any:
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(images, jax.NamedSharding(mesh, jax.P("data")))
    copied = jax.device_put(variables, jax.NamedSharding(mesh, jax.P()))
    one, eight = jax.jit(run)(variables, images), jax.jit(run)(copied, spread)
    assert len(eight[0].sharding.device_set) == 8
    chex.assert_trees_all_close(eight, one, atol=2e-5)


def test_a_model_runs_inside_flax_nnx() -> None:
    model, images = tiny("vit_rope"), random_images(2, 8, 8)
    rng = jax.random.key(0, impl="unsafe_rbg")
    bridged = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(rng)).lazy_init(images)
    params = nnx.to_pure_dict(nnx.state(bridged, nnx.Param))
    want = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(bridged(images), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["cpv", "cxv_nano", "resnet18", "convmixer", "cvt"])
def test_the_feature_map_before_the_head_is_given_on_request(name: str) -> None:
    model = tiny(name)
    variables, images = random_variables(model), random_images(2, 8, 8)
    plain = model.apply(variables, images)
    logits, kept = model.apply(variables, images, mutable=["intermediates"])
    (features,) = kept["intermediates"]["features"]
    assert (logits == plain).all()
    head = variables["params"]["head"]
    expected = features.mean((1, 2)) @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "fnet", "mlp_mixer", "cct_7_3x1"])
def test_so_are_the_last_tokens(name: str) -> None:
    model = tiny(name)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    run = functools.partial(model.apply, mutable=["intermediates"])
    _, kept = jax.eval_shape(run, random_variables(model), images)
    (tokens,) = kept["intermediates"]["features"]
    assert tokens.shape[::2] == (2, model.embed_dim)
