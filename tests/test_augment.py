"""Augmentation against Pillow, NumPy and SciPy; distributions, device layouts, bad values."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from cxv_jax import augment
from cxv_jax.augment import boxes, mixing, policies
from cxv_jax.errors import InputError

HEIGHT, WIDTH = 27, 31
BINS = 31
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", *ENHANCERS)
STRONG = {
    "flip": True,
    "crop_padding": 2,
    "policy": "trivial",
    "erase_probability": 0.25,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
}


def make_images(batch, seed=0, height=HEIGHT, width=WIDTH, channels=3):
    """Noise in a different range per image and channel, so that contrast has work to do."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 100, (batch, 1, 1, channels))
    high = low + rng.integers(60, 156, (batch, 1, 1, channels))
    return rng.integers(low, high, (batch, height, width, channels)).astype(np.uint8)


def with_pillow(name, magnitude, image):
    """One operation of torchvision's policies, written with Pillow."""
    picture = Image.fromarray(image)

    def move(*matrix):
        return picture.transform(picture.size, Image.Transform.AFFINE, matrix)

    match name:
        case "identity":
            result = picture
        case "shear_x":
            result = move(1, magnitude, 0, 0, 1, 0)
        case "shear_y":
            result = move(1, 0, 0, magnitude, 1, 0)
        case "translate_x":
            result = move(1, 0, -int(magnitude), 0, 1, 0)
        case "translate_y":
            result = move(1, 0, 0, 0, 1, -int(magnitude))
        case "rotate":
            result = picture.rotate(magnitude)
        case "posterize":
            result = ImageOps.posterize(picture, int(magnitude))
        case "solarize":
            result = ImageOps.solarize(picture, magnitude)
        case "autocontrast":
            result = ImageOps.autocontrast(picture)
        case "equalize":
            result = ImageOps.equalize(picture)
        case _:
            result = ENHANCERS[name](picture).enhance(1 + magnitude)
    return np.asarray(result)


def trivial_space():
    """Operation -> magnitudes, as listed in torchvision's TrivialAugmentWide."""
    space = {name: np.linspace(0, 0.99, BINS) for name in ("shear_x", "shear_y", *ENHANCERS)}
    space |= {name: np.linspace(0, 32, BINS) for name in ("translate_x", "translate_y")}
    space |= {"rotate": np.linspace(0, 135, BINS), "solarize": np.linspace(255, 0, BINS)}
    space["posterize"] = 8 - np.round(np.arange(BINS) / ((BINS - 1) / 6))
    return space | {name: np.zeros(1) for name in ("identity", "autocontrast", "equalize")}


def rand_space(height, width):
    """The same for torchvision's RandAugment."""
    space = {name: np.linspace(0, 0.3, BINS) for name in ("shear_x", "shear_y")}
    space |= {name: np.linspace(0, 0.9, BINS) for name in ENHANCERS}
    space["translate_x"] = np.linspace(0, 150 / 331 * width, BINS)
    space["translate_y"] = np.linspace(0, 150 / 331 * height, BINS)
    space |= {"rotate": np.linspace(0, 30, BINS), "solarize": np.linspace(255, 0, BINS)}
    space["posterize"] = 8 - np.round(np.arange(BINS) / ((BINS - 1) / 4))
    return space | {name: np.zeros(BINS) for name in ("identity", "autocontrast", "equalize")}


def signed(name, magnitudes):
    return np.concatenate([magnitudes, -magnitudes]) if name in SIGNED else magnitudes


@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_operation_equals_pillow(name):
    """At every magnitude of both signs, on noise.

    Exact, but for autocontrast and the blends: they cut to whole levels, so where the exact
    result is whole a rounding error (fused multiply-add) shows as one level in some pixels.
    """
    batch = 2 * BINS
    magnitudes = np.resize(signed(name, trivial_space()[name]), batch).astype(np.float32)
    images = make_images(batch)
    images[0, :, :, 0] = 77  # A flat channel.
    operation = jnp.full(batch, policies.OPERATIONS.index(name))
    ours = jax.jit(policies.apply_operations)(jnp.array(images), operation, jnp.array(magnitudes))
    theirs = [
        with_pillow(name, float(m), image) for m, image in zip(magnitudes, images, strict=True)
    ]
    difference = np.abs(np.asarray(ours, int) - np.stack(theirs))
    cut = name == "autocontrast" or name in ENHANCERS
    assert difference.max() <= cut
    assert difference.mean() < (0.01 if name == "autocontrast" else 1e-3)
    assert name == "identity" or (np.stack(theirs) != images).any()


def test_grey_images_equal_pillow():
    names = [name for name in policies.OPERATIONS if name != "autocontrast"]
    images = make_images(len(names), channels=1)
    operation = jnp.array([policies.OPERATIONS.index(name) for name in names])
    magnitude = jnp.full(len(names), 0.4).at[names.index("posterize")].set(3)
    ours = jax.jit(policies.apply_operations)(jnp.array(images), operation, magnitude)
    for name, image, mine, m in zip(names, images[..., 0], ours, magnitude, strict=True):
        theirs = with_pillow(name, float(m), image)
        np.testing.assert_allclose(np.asarray(mine[..., 0], int), theirs, atol=name in ENHANCERS)


def test_trivial_augment_draws_torchvisions_operations_and_magnitudes():
    """Every image of 1024 is the work of one of them, and each does its share of the work."""
    image = make_images(1)[0]
    made = [
        (name, with_pillow(name, magnitude, image))
        for name, magnitudes in trivial_space().items()
        for magnitude in signed(name, magnitudes)
    ]
    results = [result for _, result in made]
    origins = {result.tobytes(): set() for result in results}
    for name, result in made:
        origins[result.tobytes()].add(name)
    outputs = np.asarray(
        jax.jit(augment.trivial_augment_wide)(jax.random.key(0), jnp.array([image] * 1024))
    )
    found = [results[index].tobytes() for index in _nearest(outputs, results)]
    for name in policies.OPERATIONS:
        own = [origins[result.tobytes()] == {name} for maker, result in made if maker == name]
        count, mean = sum(origins[result] == {name} for result in found), 1024 / 14 * np.mean(own)
        assert abs(count - mean) <= 4 * mean**0.5, name


def _nearest(outputs, candidates):
    """Index of the candidate equal to each output, or within one level of it."""
    stack = np.stack(candidates).astype(np.int16)
    exact = {candidate.tobytes(): index for index, candidate in enumerate(candidates)}
    indices = []
    for output in outputs:
        index = exact.get(output.tobytes())
        if index is None:
            difference = np.abs(stack - output)
            index = difference.mean(axis=(1, 2, 3)).argmin()
            assert difference[index].max() <= 1
        indices.append(index)
    return indices


@pytest.mark.parametrize("layers", [1, 2])
def test_rand_augment_applies_layers_of_torchvisions_operations(layers):
    image, magnitude = make_images(1)[0], 17
    choices = [
        (name, m)
        for name, values in rand_space(HEIGHT, WIDTH).items()
        for m in signed(name, values[magnitude : magnitude + 1])
    ]
    expected = {image.tobytes(): image}
    for _ in range(layers):
        results = [
            with_pillow(*choice, start) for choice, start in product(choices, expected.values())
        ]
        expected = {result.tobytes(): result for result in results}
    function = jax.jit(partial(augment.rand_augment, num_layers=layers, magnitude=magnitude))
    outputs = np.asarray(function(jax.random.key(1), jnp.array([image] * 256)))
    known = [output.tobytes() in expected for output in outputs]
    # A level lost to rounding in the first layer may grow in the second.
    assert np.mean(known) > 0.8
    if layers == 2:
        assert len({output.tobytes() for output in outputs}) > 100  # One of two operations: 50.
    else:
        results = list(expected.values())
        assert set(_nearest(outputs, results)) == set(range(len(results)))


def test_flip_mirrors_half_of_the_images():
    images = make_images(512)
    flipped = np.asarray(jax.jit(augment.random_flip)(jax.random.key(0), jnp.array(images)))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert 200 < mirrored.sum() < 312  # 256 ± 5 deviations


@pytest.mark.parametrize("padding", [1, 3])
def test_pad_and_crop_reaches_every_window(padding):
    image = make_images(1)[0]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    places = product(range(2 * padding + 1), repeat=2)
    windows = {padded[y : y + HEIGHT, x : x + WIDTH].tobytes() for y, x in places}
    crop = jax.jit(partial(augment.pad_and_crop, padding=padding))
    crops = np.asarray(crop(jax.random.key(0), jnp.array([image] * 512)))
    assert {crop.tobytes() for crop in crops} == windows


def test_crop_and_resize_is_within_one_level_of_pillow():
    images, rng = make_images(24), np.random.default_rng(1)
    height, width = rng.integers(1, HEIGHT + 1, 24), rng.integers(1, WIDTH + 1, 24)
    top, left = rng.integers(0, HEIGHT - height + 1), rng.integers(0, WIDTH - width + 1)
    drawn = boxes.Boxes(*(jnp.array(value) for value in (top, left, height, width)))
    ours = np.asarray(jax.jit(boxes.crop_and_resize)(jnp.array(images), drawn), int)
    for image, mine, y, x, h, w in zip(images, ours, top, left, height, width, strict=True):
        crop = Image.fromarray(image[y : y + h, x : x + w])
        theirs = np.asarray(crop.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR), int)
        assert np.abs(mine - theirs).max() <= 1


def test_sampled_boxes_follow_the_ranges():
    shape, area, ratio = (4000, 120, 200, 3), (0.08, 1.0), (3 / 4, 4 / 3)
    sample = jax.jit(lambda rng: boxes.sample_boxes(rng, shape, area, ratio, (120, 160)))
    top, left, height, width = (np.asarray(value) for value in sample(jax.random.key(0)))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 120).all()
    assert (left + width <= 200).all()
    small = height * width < 0.3 * 120 * 200  # Boxes that fit whatever their shape.
    assert (top + height == 120)[small].any()
    assert (left + width == 200)[small].any()
    part = (height * width)[small] / (120 * 200)
    assert stats.kstest(part, stats.uniform(0.08, 0.22).cdf).pvalue > 1e-3
    shapes = np.log(width / height)[small] / np.log(4 / 3)
    assert stats.kstest(shapes, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    place = ((top + np.random.default_rng(0).random(4000)) / (121 - height))[small]
    assert stats.kstest(place, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "box"),  # The box: left, upper, right, lower of torchvision's fallback.
    [(4, 40, (17, 0, 22, 4)), (40, 4, (0, 17, 4, 22))],
)
def test_random_resized_crop_falls_back_to_the_centre(height, width, box):
    """At scale 1 no box of an elongated image fits."""
    images = make_images(3, height=height, width=width)
    crop = jax.jit(partial(augment.random_resized_crop, scale=(1.0, 1.0)))
    result = crop(jax.random.key(0), jnp.array(images))
    for image, mine in zip(images, result, strict=True):
        centre = Image.fromarray(image).crop(box)
        theirs = centre.resize((width, height), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(mine, int) - np.asarray(theirs, int)).max() <= 1


def _painted(image, output, fill):
    """Height and width of the one box set to ``fill``; fails if anything else has changed."""
    changed = (image != output).any(axis=-1)
    rows, columns = changed.any(axis=1), changed.any(axis=0)
    expected = np.where(np.outer(rows, columns)[..., None], np.uint8(fill), image)
    np.testing.assert_array_equal(output, expected)
    assert (np.diff(np.flatnonzero(rows)) == 1).all()
    assert (np.diff(np.flatnonzero(columns)) == 1).all()
    return rows.sum(), columns.sum()


@pytest.mark.parametrize("fill", [(0,), (3, 2, 1)])
def test_random_erasing_paints_one_box(fill):
    images = np.maximum(make_images(600, height=30, width=40), 10)  # No pixel looks painted.
    erase = jax.jit(partial(augment.random_erasing, probability=0.4, fill=fill))
    erased = np.asarray(erase(jax.random.key(0), jnp.array(images)))
    sizes = np.array([_painted(*pair, fill) for pair in zip(images, erased, strict=True)])
    sizes = sizes[sizes[:, 0] > 0]
    assert 180 < len(sizes) < 300  # 240 ± 5 deviations
    area = sizes.prod(axis=1) / 1200
    assert 0.015 < area.min() < 0.04
    assert 0.27 < area.max() < 0.35
    ratio = sizes[:, 1] / sizes[:, 0]
    assert 0.25 < ratio.min() < 0.4
    assert 2.5 < ratio.max() < 4


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_paints_a_clipped_square(size):
    images = np.maximum(make_images(800, height=11, width=9), 10)
    paint = jax.jit(partial(augment.cutout, size=size, fill=(7,)))
    painted = np.asarray(paint(jax.random.key(0), jnp.array(images)))
    sizes = [_painted(*pair, 7) for pair in zip(images, painted, strict=True)]
    half = (size + 1) // 2  # What is left of the square when its centre is the last row.
    assert set(sizes) == {
        *product(range(half, size + 1), repeat=2),
        *(() if size % 2 else product(range(size // 2, size + 1), repeat=2)),
    }


def one_hot(batch, classes=5):
    return jax.nn.one_hot(jnp.arange(batch) % classes, classes)


def test_mixup_mixes_images_and_targets_alike():
    images, targets = make_images(6), np.asarray(one_hot(6))
    mix = jax.jit(partial(augment.mixup, alpha=0.8))
    mixed, soft = mix(jax.random.key(3), jnp.array(images), jnp.array(targets))
    share = float(soft[1, 1])  # The partner, image 4, is of another class.
    assert 0 < share < 1
    partner = images[::-1].astype(float)
    np.testing.assert_allclose(mixed, share * images + (1 - share) * partner, atol=1e-3)
    np.testing.assert_allclose(soft, share * targets + (1 - share) * targets[::-1], atol=1e-6)
    assert mixed.dtype == soft.dtype == jnp.float32


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 5.0])
def test_shares_follow_the_beta_distribution(alpha):
    u, v = jax.random.uniform(jax.random.key(0), (2, 4000))
    draw = jax.jit(jax.vmap(mixing.symmetric_beta, in_axes=(0, 0, None)))
    share = draw(u, v, jnp.float32(alpha))
    # Compared in the middle: a float32 next to 1 cannot hold what Beta(0.1, 0.1) puts there.
    middle = np.asarray(share)[(share > 1e-3) & (share < 0.999)]
    beta = stats.beta(alpha, alpha)
    low, high = beta.cdf([1e-3, 0.999])
    assert abs(len(middle) / 4000 - (high - low)) < 0.04
    inside = stats.kstest(middle, lambda x: (beta.cdf(x) - low) / (high - low))
    assert inside.pvalue > 1e-3
    extremes = draw(jnp.array([0.0, 0.0, 0.5]), jnp.array([0.0, 0.5, 0.25]), jnp.float32(alpha))
    np.testing.assert_allclose(extremes[:2], [1, 0])
    np.testing.assert_allclose(extremes[2], 0.5, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_cutmix_labels_follow_the_area(seed):
    """Image i is filled with i, so every pixel tells where it comes from."""
    images = jnp.broadcast_to(jnp.arange(4)[:, None, None, None], (4, HEIGHT, WIDTH, 3))
    mixed, soft = jax.jit(partial(augment.cutmix, alpha=1.0))(
        jax.random.key(seed), images.astype(jnp.uint8), jnp.eye(4)
    )
    pasted = np.asarray(mixed[..., 0]) == np.arange(4)[::-1, None, None]
    kept = np.asarray(mixed[..., 0]) == np.arange(4)[:, None, None]
    assert (pasted ^ kept).all()
    box = np.outer(pasted[0].any(axis=1), pasted[0].any(axis=0))
    assert (pasted == box).all()  # One box, the same in every image.
    np.testing.assert_allclose(np.diag(soft), 1 - box.mean(), atol=1e-7)
    np.testing.assert_allclose(np.diag(soft[::-1]), box.mean(), atol=1e-7)


def test_cutmix_boxes_have_the_drawn_area():
    """Away from the border the box has sides √(1 - λ) of the image's."""
    box = mixing._pasted_box(jnp.float32(0.75), jnp.array([0.5, 0.5]), 40, 80)
    assert np.asarray(box.sum()) == 20 * 40
    assert np.asarray(box[0, 10:30, 20:60]).all()


def test_mixup_or_cutmix_takes_either_half_of_the_time():
    images = jnp.broadcast_to(jnp.array([0, 200])[:, None, None, None], (2, 16, 16, 1))
    mix = partial(augment.mixup_or_cutmix, mixup_alpha=4.0, cutmix_alpha=4.0)
    run = jax.jit(jax.vmap(mix, in_axes=(0, None, None)))
    mixed, soft = run(jax.random.split(jax.random.key(0), 400), images, jnp.eye(2))
    cut = np.isin(mixed, (0.0, 200.0)).all(axis=(1, 2, 3, 4))
    assert 150 < cut.sum() < 250  # 200 ± 5 deviations
    np.testing.assert_allclose(soft.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed[:, 1].mean(axis=(1, 2, 3)), 200 * soft[:, 1, 1], rtol=1e-5)


def test_normalise():
    images, mean, std = make_images(2), (0.49, 0.48, 0.45), (0.2, 0.3, 0.25)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    result = augment.normalise(jnp.array(images), mean, std)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert result.dtype == jnp.float32


def test_nothing_on_adds_nothing():
    images, targets = jnp.array(make_images(2)), one_hot(2)
    function = augment.make()
    assert all(
        a is b
        for a, b in zip(
            function(jax.random.key(0), images, targets), (images, targets), strict=True
        )
    )
    assert not jax.make_jaxpr(function)(jax.random.key(0), images, targets).eqns


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"flip": True}, 1 / 2),
        ({"crop_padding": 3}, 48 / 49),
        ({"random_resized_crop": 0.1}, 1),
        ({"policy": "trivial"}, 0.86),  # All but the identity and the neutral magnitudes.
        ({"policy": "rand", "rand_layers": 1, "rand_magnitude": 30}, 13 / 14),
        ({"erase_probability": 0.3}, 0.3),
    ],
)
def test_each_setting_changes_its_part_of_the_images(settings, changes):
    """Per image: equal images come out differently, and targets as they were."""
    images = jnp.array([make_images(1)[0]] * 256)
    run = jax.jit(augment.make(**settings))
    result, targets = run(jax.random.key(0), images, one_hot(256))
    changed = np.asarray((result != images).any(axis=(1, 2, 3)))
    assert abs(changed.mean() - changes) < 0.12
    assert len({np.asarray(image).tobytes() for image in result}) > 1
    np.testing.assert_array_equal(targets, one_hot(256))
    assert result.dtype == jnp.uint8
    np.testing.assert_array_equal(run(jax.random.key(0), images, one_hot(256))[0], result)
    assert (run(jax.random.key(1), images, one_hot(256))[0] != result).any()


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 3), (2, 9, 1), (24, 11, 3)])
def test_strong_set_runs_at_any_size(height, width, channels):
    images = make_images(8, height=height, width=width, channels=channels)
    function = jax.jit(augment.make(random_resized_crop=0.2, **STRONG))
    result, targets = function(jax.random.key(0), jnp.array(images), one_hot(8))
    assert result.shape == images.shape
    assert result.dtype == jnp.float32
    assert 0 <= result.min() <= result.max() <= 255
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)


def test_jit_equals_eager():
    images, targets = jnp.array(make_images(8)), one_hot(8)
    function = augment.make(**STRONG)
    for ours, theirs in zip(
        jax.jit(function)(jax.random.key(5), images, targets),
        function(jax.random.key(5), images, targets),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_sharded_over_devices_equals_one_device():
    images, targets = jnp.array(make_images(16)), one_hot(16)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    function = jax.jit(augment.make(**STRONG))
    alone = function(jax.random.key(7), images, targets)
    spread = function(jax.random.key(7), *jax.device_put((images, targets), sharding))
    for one, eight in zip(alone, spread, strict=True):
        np.testing.assert_allclose(one, eight, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "trival"}, "unknown policy 'trival'.*did you mean 'trivial'"),
        ({"policy": "randaugment"}, "did you mean 'rand'"),
        ({"crop_padding": -1}, "crop_padding must be a whole number of at least 0, got -1"),
        ({"random_resized_crop": 1.1}, "random_resized_crop must be a number from 0 to 1, got 1.1"),
        ({"rand_layers": 0}, "rand_layers must be a whole number of at least 1"),
        ({"rand_magnitude": 31}, "rand_magnitude must be a whole number from 0 to 30"),
        ({"erase_probability": float("nan")}, "erase_probability must be .* got nan"),
        ({"mixup_alpha": -0.2}, "mixup_alpha must be a number of at least 0"),
        ({"cutmix_alpha": float("inf")}, "cutmix_alpha must be a number of at least 0, got inf"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message) as error:
        augment.make(**settings)
    assert "\n" not in str(error.value)


def test_policies_refuse_other_than_grey_or_colour_images():
    with pytest.raises(InputError, match="1 or 3 channels, got 4"):
        augment.trivial_augment_wide(jax.random.key(0), jnp.zeros((2, 8, 8, 4), jnp.uint8))
