"""Costs against formulas: counts, FLOPs, memory; energy against a known power."""

import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cxv_jax import machine, models, profile
from cxv_jax.config import base
from cxv_jax.errors import InputError
from cxv_jax.parts import make_optimizer
from cxv_jax.phase import Phase
from cxv_jax.profile import compiled, energy, measured
from cxv_jax.profile.system import session_of


class Toy(nn.Module):
    """A valid 5x5 convolution and a dense layer: FLOPs that can be written down."""

    features: int = 7
    num_classes: int = 11
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Any, *, train: bool = False) -> jax.Array:
        x = nn.Conv(self.features, (5, 5), padding="VALID", use_bias=False)(images)
        return nn.Dense(self.num_classes, use_bias=False)(x.reshape(len(x), -1))


def toy_products(size: int, features: int, classes: int) -> int:
    """Multiplications of the forward pass for one image."""
    side = size - 4
    return side**2 * features * (25 * 3 + classes)


def test_flops_of_products_and_convolutions_are_those_of_the_formula() -> None:
    program = profile.forward_program(Toy(), (13, 13, 3), 2)
    formula = 2 * 2 * toy_products(13, 7, 11)
    # Besides: scaling the images, at most five operations a number.
    assert formula <= profile.flops(program) <= formula + 5 * 2 * 13 * 13 * 3


def test_a_training_step_costs_forward_and_both_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "toy", partial(Toy))
    program = profile.train_program(session_of({"name": "toy"}, 11, 13, 16))
    convolution = 16 * 9**2 * 7 * 75
    # The images need no gradient: the convolution has two passes, the dense layer three.
    formula = 2 * (2 * convolution + 3 * 16 * 9**2 * 7 * 11)
    parameters = 75 * 7 + 9**2 * 7 * 11
    per_parameter = (profile.flops(program) - formula) / parameters
    assert 8 <= per_parameter <= 40  # AdamW, the loss, the images' scaling.


def test_every_turn_of_a_loop_counts() -> None:
    def looped(x: jax.Array, w: jax.Array) -> jax.Array:
        def outer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.lax.fori_loop(0, 3, lambda i, y: jnp.tanh(y @ w), x), None

        return jax.lax.scan(outer, x, length=5)[0]

    x, w = jax.ShapeDtypeStruct((8, 16), "float32"), jax.ShapeDtypeStruct((16, 16), "float32")
    traced = jax.jit(looped).trace(x, w)
    assert compiled.hidden_flops(traced.jaxpr.jaxpr) == 14 * 2 * 8 * 16 * 16
    program = compiled.Program(traced.lower().compile(), 14 * 2 * 8 * 16 * 16)
    np.testing.assert_allclose(profile.flops(program), 15 * 2 * 8 * 16 * 16, rtol=0.1)


@pytest.mark.parametrize("tokens", [8, 16])
def test_vit_at_a_small_size_costs_what_its_equations_say(tokens: int) -> None:
    system = {"name": "vit", "embed_dim": 32, "depth": 1, "mlp_dim": 64, "patch_size": 4}
    costs = profile.profile(system, image_size=4 * tokens, batch_size=2, repeats=0)
    n, d, inner = tokens**2 + 1, 32, 4 * 32
    layers = n * (d * 3 * inner + inner * d + 2 * d * 64) + 2 * n * n * inner
    products = tokens**2 * 48 * d + layers + 10 * d
    assert 2 * products <= costs["forward_flops"] <= 1.1 * 2 * products
    attention, mlp, norms, head = 4 * d * inner + d, 2 * d * 64 + 64 + d, 3 * 2 * d, 10 * d + 10
    tokens_in = 48 * d + d + d + n * d  # Patches, class token, positions.
    assert costs["parameters"] == tokens_in + attention + mlp + norms + head


def test_memory_grows_by_the_same_for_every_image_and_holds_the_state_once() -> None:
    batches, system = (8, 16, 32), {"name": "cltv", "embed_dim": 16, "depth": 2, "head_dim": 4}
    sessions = [session_of(system, 10, 8, batch) for batch in batches]
    sizes = [profile.memory(profile.train_program(session)) for session in sessions]
    first, second = (
        (b["temporary"] - a["temporary"]) / (n - m)
        for a, b, m, n in zip(sizes, sizes[1:], batches, batches[1:], strict=False)
    )
    np.testing.assert_allclose(first, second, rtol=0.1)
    assert first > 8 * 8 * 16 * 4  # More than one activation.
    state = sessions[0].phases[Phase.ONE].template
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    arguments = sizes[0]["peak"] - sizes[0]["temporary"]
    batch = 8 * (8 * 8 * 3 + 4)
    assert held + batch <= arguments <= held + batch + 2000


def test_the_profiled_step_is_the_default_first_phase() -> None:
    params = {"a": jnp.full((3, 2), 0.7), "b": jnp.full(2, -0.3)}
    session, updates = session_of({"name": "cltv", "depth": 1}, 10, 8, 4), []
    for tx in (
        make_optimizer(base("cpv", "digits"), Phase.ONE, 10),
        session.phases[Phase.ONE].tx,
    ):
        state = tx.init(params)
        updates.append(tx.update(jax.tree.map(jnp.cos, params), state, params))
    chex.assert_trees_all_equal_structs(*updates)
    assert all(map(np.array_equal, *map(jax.tree.leaves, updates)))


@pytest.mark.parametrize(
    "warm_up", [[9.0, 9.0, 0.25], [1.0, 1.0, 1.0, *[0.5] * 6, 0.25]], ids=["slow", "quick"]
)
def test_rates_count_every_image_and_an_outlier_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, warm_up: list[float]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(measured, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    meter = SimpleNamespace(joules=30.0)
    monkeypatch.setattr(measured, "EnergyMeter", lambda: nullcontext(meter))
    seconds = iter([*warm_up, *[0.25] * 4, *[0.25] * 3, 5.0, *[0.25] * 4])

    def call() -> None:
        clock[0] += next(seconds)

    # The last call of the warm-up tells that a second takes four of them; then three repeats.
    figures = measured.rate(call, images=50, repeats=3)
    assert next(seconds, None) is None
    assert figures["images_per_second"] == 200
    assert figures["joules_per_1000"] == pytest.approx(30 / (3 * 4 * 50 / 1000))


def test_a_profile_is_complete_and_real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "SHORTEST", 0.001)
    system = {"name": "cpv", "embed_dim": 8, "depth": 1, "num_heads": 1, "head_dim": 4}
    costs = profile.profile(system, image_size=8, batch_size=4, repeats=1)
    assert costs["train_images_per_second"] > 0
    assert costs["inference_images_per_second"] > 0
    assert costs["peak_memory_bytes"] > costs["train_memory"] > costs["inference_temporary"]
    with pytest.raises(InputError, match="patches of 3x3"):
        profile.profile({"name": "vit", "patch_size": 3}, image_size=8, repeats=0)


def test_models_are_made_for_the_size_of_the_images() -> None:
    assert profile.complete({"name": "vit", "depth": 2}, 8)["image_size"] == 8
    assert profile.complete({"name": "vit", "image_size": 16}, 8)["image_size"] == 16
    assert "image_size" not in profile.complete({"name": "cpv"}, 8)
    assert profile.complete({"name": "nope", "x": 1}, 8) == {"name": "nope", "x": 1}


class Nvml(SimpleNamespace):
    """A board whose power is told in milliwatts."""

    def __init__(self, watts: Iterator[float]) -> None:
        super().__init__(
            asked=[],
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByIndex=self.handle,
            nvmlDeviceGetHandleByUUID=self.handle,
            nvmlDeviceGetPowerUsage=lambda handle: int(1000 * next(watts)),
        )

    def handle(self, which: Any) -> str:
        self.asked.append(which)
        return "board"


def use_nvml(monkeypatch: pytest.MonkeyPatch, nvml: Any, times: Iterator[float]) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="gpu")])
    monkeypatch.setattr(energy, "time", SimpleNamespace(perf_counter=lambda: next(times)))


def test_energy_is_what_the_board_has_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, counted = Nvml(iter(())), iter([7_000, 9_000, 12_500])  # Millijoules; the first: a try.
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda handle: next(counted)
    use_nvml(monkeypatch, nvml, iter(()))
    with profile.EnergyMeter() as meter:
        pass
    assert meter.joules == 3.5


def test_power_is_asked_where_the_board_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: str) -> int:
        raise RuntimeError("Not Supported")  # NVML's words before Volta.

    nvml = Nvml(iter([0.0, 40.0, 60.0]))
    nvml.nvmlDeviceGetTotalEnergyConsumption = refuse
    use_nvml(monkeypatch, nvml, iter([1.0, 3.0]))
    with profile.EnergyMeter(period=600) as meter:
        pass
    assert meter.joules == 2 * (40 + 60) / 2


@pytest.mark.parametrize(
    ("visible", "asked"), [("", 0), ("3,1", 3), ("GPU-12ab", "GPU-12ab")], ids=str
)
def test_energy_is_the_integral_of_power(
    monkeypatch: pytest.MonkeyPatch, visible: str, asked: Any
) -> None:
    nvml = Nvml(iter([0.0, 100.0, 300.0]))  # The first only shows that there is an answer.
    use_nvml(monkeypatch, nvml, iter([5.0, 15.0]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with profile.EnergyMeter(period=600) as meter:
        pass
    assert meter.joules == 10 * (100 + 300) / 2
    assert set(nvml.asked) == {asked}


def test_power_is_sampled_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = itertools.count()

    def times() -> Iterator[float]:
        for second in taken:
            if second == 20:
                enough.set()
            yield float(second)

    enough = threading.Event()
    use_nvml(monkeypatch, Nvml(itertools.repeat(250.0)), times())
    with profile.EnergyMeter(period=0.001) as meter:
        assert enough.wait(30)
    assert meter.joules is not None
    assert meter.joules == 250 * (next(taken) - 1)


def test_energy_is_not_available_where_nvml_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="gpu")])
    monkeypatch.setitem(sys.modules, "pynvml", None)  # As if it were not installed.
    with energy.EnergyMeter() as meter:
        pass
    assert meter.joules is None


def test_device_memory_is_told_where_the_backend_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimpleNamespace(memory_stats=lambda: {"peak_bytes_in_use": 123})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert machine.peak_memory() == {"peak_memory_bytes": 123, "peak_memory_of": "device"}
