"""The two-phase optimizer against PyTorch's stored steps and against plain optax."""

import math
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.early_stopping import EarlyStopping

from cxv_jax import optimizer
from cxv_jax.errors import InputError

GOLDEN = Path(__file__).parent / "golden" / "cxv" / "optim.npz"
PARAMS: dict[str, dict[str, np.ndarray]] = {
    "body": {"kernel": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)},
    "head": {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)},
}


def steps(tx, opt_state, params, count, gradient=jnp.sin):
    for _ in range(count):
        grads = jax.tree.map(lambda p: gradient(3 * p + 1), params)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    return params, opt_state


def test_both_phases_equal_pytorch_across_the_handoff() -> None:
    golden = np.load(GOLDEN)
    names = [k.split(":")[1] for k in golden.files if k.startswith("init:")]
    params = {k: jnp.asarray(golden[f"init:{k}"]) for k in names}

    def loss(p):
        curve = [0.5 * golden[f"curv:{k}"] * (p[k] - golden[f"centre:{k}"]) ** 2 for k in names]
        waves = [jnp.sin(golden[f"freq:{k}"] * p[k]) for k in names]
        return sum(x.sum() for x in curve + waves)

    phases = {
        "adamw": optimizer.phase({"adamw": optimizer.adamw()}),
        "sgd": optimizer.phase({"sgd": optimizer.sgd()}),
    }
    for name, tx in phases.items():
        opt_state = optimizer.hand_over(tx, params)
        for t in range(10):
            grads = jax.grad(loss)(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            for k in names:
                want = golden[f"{name}:param:{t}:{k}"]
                np.testing.assert_allclose(params[k], want, rtol=1e-6, atol=1e-6)


def test_a_phase_is_the_plain_optimizer_and_the_handoff_starts_afresh() -> None:
    one = optimizer.phase({"adamw": optimizer.adamw(1e-2, weight_decay=0.1)})
    two = optimizer.phase({"sgd": optimizer.sgd(1e-2)})
    plain = optax.adamw(1e-2, weight_decay=0.1), optax.sgd(1e-2, momentum=0.9)
    ours, _ = steps(one, one.init(PARAMS), PARAMS, 5)
    ours, _ = steps(two, optimizer.hand_over(two, ours), ours, 5)
    want, _ = steps(plain[0], plain[0].init(PARAMS), PARAMS, 5)
    want, _ = steps(plain[1], plain[1].init(want), want, 5)
    chex.assert_trees_all_close(ours, want, rtol=1e-6)


def test_a_partial_handoff_keeps_the_head_on_adamw() -> None:
    tx = optimizer.phase(
        {"sgd": optimizer.sgd(1e-2), "adamw": optimizer.adamw(1e-3)},
        labels=[("^head", "adamw"), (".*", "sgd")],
    )
    ours, opt_state = steps(tx, tx.init(PARAMS), PARAMS, 3)
    for name, plain in {
        "head": optax.adamw(1e-3, weight_decay=0.01),
        "body": optax.sgd(1e-2, 0.9),
    }.items():
        want, _ = steps(plain, plain.init(PARAMS[name]), PARAMS[name], 3)
        chex.assert_trees_all_close(ours[name], want, rtol=1e-6)
    rates = optimizer.learning_rates(opt_state)
    np.testing.assert_allclose([rates["adamw"], rates["sgd"]], [1e-3, 1e-2])


def test_memory_holds_only_the_running_phase() -> None:
    size = sum(x.size for x in jax.tree.leaves(PARAMS))
    for tx, slots in [(optimizer.adamw(), 2), (optimizer.sgd(), 1)]:
        opt_state = optimizer.phase({"x": tx}).init(PARAMS)
        held = sum(x.size for x in jax.tree.leaves(opt_state) if x.ndim)
        assert held == slots * size


def test_a_new_learning_rate_needs_no_new_trace() -> None:
    tx = optimizer.phase({"adamw": optimizer.adamw()})
    opt_state = tx.init(PARAMS)

    @jax.jit
    @chex.assert_max_traces(1)
    def update(opt_state, params):
        updates, opt_state = tx.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    moved, opt_state = update(opt_state, PARAMS)
    opt_state = optax.tree.set(opt_state, learning_rate=jnp.float32(0))
    still, opt_state = update(opt_state, moved)
    chex.assert_trees_all_equal(still, moved)


@pytest.mark.parametrize("rate", [0.5, lambda step: 0.5 / (1 + step)])
@pytest.mark.parametrize("inside", [True, False])
def test_a_rate_is_set_inside_jit_and_outside_and_ends_a_schedule(rate: Any, inside: bool) -> None:
    members = {"a": optimizer.sgd(rate, momentum=0.0), "b": optimizer.sgd(rate, momentum=0.0)}
    phase = optimizer.phase(members, labels=[("head", "a"), (".*", "b")])
    tx = optimizer.clipped(phase, 100.0)
    ones = jax.tree.map(jnp.ones_like, PARAMS)

    traces = []

    @jax.jit
    def update(opt_state, new):
        traces.append(new)
        if inside:
            opt_state = optimizer.with_learning_rates(opt_state, {"a": new})
        return tx.update(ones, opt_state, PARAMS)

    opt_state = tx.init(PARAMS)
    for step, new in enumerate((0.1, 0.1, 0.3)):
        if not inside:
            opt_state = optimizer.with_learning_rates(opt_state, {"a": new})
        updates, opt_state = update(opt_state, jnp.float32(new))
        other = rate(step) if callable(rate) else rate
        np.testing.assert_allclose(updates["head"]["bias"], -new, rtol=1e-6)
        np.testing.assert_allclose(updates["body"]["kernel"], -other, rtol=1e-6)
        np.testing.assert_allclose(optimizer.learning_rates(opt_state)["a"], new, rtol=1e-6)
    assert len(traces) == 1
    updates, _ = tx.update(ones, opt_state, PARAMS)  # Without setting it again.
    np.testing.assert_allclose(updates["head"]["bias"], -0.3, rtol=1e-6)
    with pytest.raises(InputError, match="under c"):
        optimizer.with_learning_rates(opt_state, {"c": 1.0})


def test_patterns_are_the_same_for_nnx_and_linen() -> None:
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    labels = optimizer.label_params(state, [("^kernel$", "matrix"), ("^bias$", "vector")])
    assert sorted(jax.tree.leaves(labels)) == ["matrix", "vector"]
    with pytest.raises(InputError, match="'bias'"):
        optimizer.label_params(state, [("kernel", "matrix")])


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_schedules_follow_their_formula(kind: str) -> None:
    rate = optimizer.schedule(kind, 0.1, warmup_steps=5, total_steps=25)
    got = [float(rate(t)) for t in range(25)]
    after = [0.1 if kind == "constant" else 0.05 * (1 + np.cos(np.pi * t / 20)) for t in range(20)]
    np.testing.assert_allclose(got, [0.02, 0.04, 0.06, 0.08, 0.1, *after], rtol=1e-5)


def test_decay_spares_biases() -> None:
    tx = optimizer.adamw(1.0, weight_decay=0.5, mask=optimizer.decay_mask)
    grads = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.5 * PARAMS["head"]["kernel"])
    np.testing.assert_array_equal(updates["head"]["bias"], 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: optimizer.by_name("adamww", 0.1), "adamww"),
        (lambda: optimizer.by_name("sgd", 0.1, {"momentun": 0.9}), "momentun"),
        (lambda: optimizer.schedule("steps", 0.1), "steps"),
        (lambda: optimizer.phase({"a": optax.sgd(1)}, [("x", "b")]), "'b'"),
        (lambda: optimizer.phase({"a": optax.sgd(1)}, [("^y", "a")]).init(PARAMS), "body/kernel"),
    ],
)
def test_mistakes_are_named(call, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_any_optax_optimizer_can_be_a_phase() -> None:
    tx = optimizer.phase({"lion": optimizer.by_name("lion", 1e-3, {"b1": 0.8})})
    ours, _ = steps(tx, tx.init(PARAMS), PARAMS, 3)
    plain = optax.lion(1e-3, b1=0.8)
    want, _ = steps(plain, plain.init(PARAMS), PARAMS, 3)
    chex.assert_trees_all_close(ours, want, rtol=1e-6)


def test_rates_are_found_in_a_wrapped_phase() -> None:
    phase = optimizer.phase({"sgd": optimizer.sgd(0.3)})
    for wrapped in (
        optimizer.clipped(phase, 1.0),
        optax.MultiSteps(phase, 2),
        optax.apply_if_finite(phase, 3),
        optimizer.phase({"sgd": optax.chain(optax.clip(1.0), optimizer.sgd(0.3))}),
    ):
        rates = optimizer.learning_rates(wrapped.init(PARAMS))
        assert {label: float(rate) for label, rate in rates.items()} == {"sgd": np.float32(0.3)}


def test_a_long_gradient_is_cut_to_its_norm() -> None:
    tx = optimizer.clipped(optimizer.phase({"sgd": optimizer.sgd(1.0, momentum=0.0)}), 0.5)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    gradient = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-0.4], rtol=1e-6)
    assert optimizer.clipped(tx, 0.0) is tx


def test_muon_steps_along_the_orthogonal_factor_of_every_kernel() -> None:
    """Kernels of convolutions as matrices; vectors by Adam, whose first step is a sign."""
    params = {"conv": jnp.zeros((3, 3, 2, 5)), "dense": jnp.zeros((6, 4)), "bias": jnp.zeros(4)}
    grads = {
        k: jax.random.normal(jax.random.key(i), v.shape) for i, (k, v) in enumerate(params.items())
    }
    tx = optimizer.phase({"muon": optimizer.by_name("muon", 1.0)})
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    for name, shape in (("conv", (18, 5)), ("dense", (6, 4))):
        u, _, v = np.linalg.svd(np.asarray(grads[name]).reshape(shape), full_matrices=False)
        got = np.asarray(updates[name]).reshape(shape)
        got = -got / np.linalg.norm(got, 2)
        assert np.abs(u.T @ got @ v.T - np.diag(np.diag(u.T @ got @ v.T))).max() < 0.05
        assert np.diag(u.T @ got @ v.T).min() > 0.5
    ratio = updates["bias"] / jnp.sign(grads["bias"])
    np.testing.assert_allclose(ratio, ratio[0] * np.ones(4), rtol=1e-4)
    assert ratio[0] < 0
    assert optimizer.learning_rates(tx.init(params)) == {"muon": 1.0}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lbfgs", {}, "needs a line search"),
        ("schedule_free", {}, "there are schedule_free_sgd"),
        ("sam", {"rhoo": 1}, "'sam' refused its options.*rhoo"),
        ("sam", {"rho": "wide"}, "'sam' refused its options"),
        ("momo", {}, "'momo' refused its options.*value"),
        ("ademamix", {"b1": "half"}, "'ademamix' refused its options"),
        ("muon", {"nesterof": True}, "'muon' refused its options.*nesterof"),
        ("ademamix", {"beta": 1}, "'ademamix' refused its options.*beta"),
        ("muons", {}, "no optimizer 'muons'"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(name: str, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        optimizer.by_name(name, 1e-3, options)
    assert "\n" not in str(raised.value)


def test_schedules_end_at_their_floor() -> None:
    linear = optimizer.schedule("linear", 0.5, warmup_steps=2, total_steps=12, floor=0.1)
    np.testing.assert_allclose(
        [linear(i) for i in (0, 1, 2, 7, 12, 20)], [0.25, 0.5, 0.5, 0.275, 0.05, 0.05]
    )
    cosine = optimizer.schedule("cosine", 0.5, total_steps=10, floor=0.2)
    expected = [0.1 + 0.4 * (1 + np.cos(np.pi * i / 10)) / 2 for i in (0, 3, 10)]
    np.testing.assert_allclose([cosine(i) for i in (0, 3, 10)], expected, rtol=1e-6)
    with pytest.raises(InputError, match="choose from constant, cosine, linear"):
        optimizer.schedule("step", 0.1)


def test_schedule_free_evaluates_the_mean_of_its_steps() -> None:
    """At a constant rate: x is the mean of z, and training goes on at y between both."""
    tx = optimizer.phase({"x": optimizer.by_name("schedule_free_sgd", 0.1, {"b1": 0.9})})
    params, opt_state = jnp.asarray([1.0, -2.0]), tx.init(jnp.asarray([1.0, -2.0]))
    y = z = x = np.asarray([1.0, -2.0])
    for t in range(1, 6):
        z = z - 0.1 * np.sin(y)
        x = x + (z - x) / t
        y = 0.1 * z + 0.9 * x
        updates, opt_state = tx.update(jnp.sin(params), opt_state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, y, rtol=1e-5)
    np.testing.assert_allclose(optimizer.evaluated(opt_state, params), x, rtol=1e-5)
    plain = optimizer.phase({"sgd": optimizer.sgd()})
    assert optimizer.evaluated(plain.init(params), params) is params


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_patience_ends_where_flax_stops_early(epochs: int) -> None:
    scores = np.random.default_rng(epochs).normal(size=40)
    patience, stop = optimizer.Patience(epochs), EarlyStopping(patience=epochs - 1)
    for i, score in enumerate(scores):
        stop = stop.update(-score)
        assert patience.ended(score, {"w": jnp.full(3, i)}) == stop.should_stop
        assert int(patience.best["w"][0]) == np.argmax(scores[: i + 1])
        if stop.should_stop:
            break
    assert stop.should_stop
    assert patience.ended(math.nan, None)
