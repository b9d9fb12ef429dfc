"""Checkpoints: bit-exact, never half, never damaged, never of the wrong phase."""

import dataclasses
import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec

from cxv_jax.checkpoint import CHECKSUMS, META, Checkpointer
from cxv_jax.errors import InputError
from cxv_jax.step_folder import seal


@struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: optax.OptState
    extra: dict


def phase(label: str) -> optax.GradientTransformation:
    """One phase as training builds it: every parameter under one label, the other one holes."""
    inner = {
        "adamw": optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
        "sgd": optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9),
    }
    return optax.multi_transform(inner, lambda params: jax.tree.map(lambda _: label, params))


def make_state(label: str = "adamw", seed: int = 0) -> State:
    draw = np.random.default_rng(seed)
    params = {
        "Conv_0": {"kernel": jnp.asarray(draw.normal(size=(3, 3, 5)), jnp.float32)},
        "odd name/x.y": {"scale": jnp.asarray(draw.normal(size=7), jnp.bfloat16)},
    }
    extra = {
        "none": None,
        "hole": optax.MaskedNode(),
        "empty": optax.EmptyState(),
        "special": jnp.asarray([jnp.nan, -0.0, jnp.inf, 1e-45]),
        "bytes": np.arange(11, dtype=np.uint8),
        "no_elements": jnp.zeros((0, 3)),
        "flag": jnp.asarray([True, False]),
        "numpy_scalar": np.int64(2**40),
        "python": [3, 0.5, True],
        "rng": jax.random.key_data(jax.random.key(seed)),
    }
    return State(jnp.asarray(seed), params, phase(label).init(params), extra)


def small(value: int) -> dict:
    return {"w": jnp.full(13, value)}


def assert_same_bits(actual, expected):
    chex.assert_trees_all_equal_structs(actual, expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        dtype = getattr(want, "dtype", jnp.result_type(want))
        assert got.dtype == dtype
        assert np.shape(got) == np.shape(want)
        assert np.asarray(got).tobytes() == np.asarray(want, dtype).tobytes()


@pytest.fixture
def checkpointer(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    yield checkpointer
    checkpointer.close()


def folder(checkpointer: Checkpointer) -> Path:
    return checkpointer._directory


def test_round_trip_is_bit_identical_and_quiet(checkpointer, capfd):
    state, meta = make_state(), {"phase": 1, "best": 0.25, "config": {"model": [1, 2]}}
    checkpointer.save(5, state, meta)
    assert checkpointer.latest_step() == 5
    assert checkpointer.meta(5) == meta
    restored = checkpointer.restore(5, make_state(seed=1))
    assert_same_bits(restored, state)
    assert isinstance(restored.params["Conv_0"]["kernel"], jax.Array)
    assert isinstance(restored.extra["bytes"], np.ndarray)
    shapes = jax.eval_shape(lambda: (state.params, state.opt_state))
    restored = checkpointer.restore(
        5, dataclasses.replace(state, params=shapes[0], opt_state=shapes[1])
    )
    assert_same_bits(restored, state)
    assert capfd.readouterr() == ("", "")


def test_checksums_are_what_sha256sum_says(checkpointer):
    checkpointer.save(5, small(5), {})
    checkpointer.wait()
    command = ["sha256sum", "--check", "--strict", "--quiet", CHECKSUMS]
    assert subprocess.run(command, cwd=folder(checkpointer) / "5").returncode == 0


def test_donated_and_overwritten_buffers_do_not_reach_the_checkpoint(checkpointer):
    overwrite = jax.jit(lambda x: jax.tree.map(lambda leaf: leaf * 0 - 1, x), donate_argnums=0)
    counter = np.arange(13)
    for step in range(1, 4):
        state = {"w": jnp.arange(300_000) + step, "n": counter}
        checkpointer.save(step, state, {})
        counter += 1
        state = {"w": state["w"]}
        for _ in range(5):
            state = overwrite(state)
        want = {"w": jnp.arange(300_000) + step, "n": np.arange(13) + step - 1}
        assert_same_bits(checkpointer.restore(step, want), want)


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (1, 8), (8, 2)])
def test_restores_onto_another_number_of_devices(checkpointer, saved_on, restored_on):
    def sharding(count, *axes):
        mesh = jax.make_mesh(
            (count,),
            ("data",),
            axis_types=(jax.sharding.AxisType.Auto,),
            devices=jax.devices()[:count],
        )
        return NamedSharding(mesh, PartitionSpec(*axes))

    value = {"split": np.arange(48.0, dtype=np.float32).reshape(16, 3), "whole": np.arange(5)}
    value = jax.tree.map(jnp.asarray, value)
    placed = lambda count: {"split": sharding(count, "data"), "whole": sharding(count)}  # noqa: E731
    checkpointer.save(1, jax.device_put(value, placed(saved_on)), {})
    template = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), value, placed(restored_on)
    )
    restored = checkpointer.restore(1, template)
    assert_same_bits(restored, value)
    assert jax.tree.map(lambda x: x.sharding, restored) == placed(restored_on)


def test_weights_alone_can_be_restored(checkpointer):
    saved, shapes = make_state(), jax.eval_shape(make_state)
    checkpointer.save(1, saved, {})
    fewer: dict[str, Any] = {"opt_state": None, "extra": {"rng": saved.extra["rng"]}}
    template = dataclasses.replace(shapes, **fewer)
    part = checkpointer.restore(1, template, whole=False)
    assert_same_bits(part, dataclasses.replace(saved, **fewer))
    other = dataclasses.replace(template, params={"other": jnp.zeros(2)})
    with pytest.raises(InputError, match="params"):
        checkpointer.restore(1, other, whole=False)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda s: s.replace(opt_state=phase("sgd").init(s.params)), "inner_states['adamw']"),
        (lambda s: s.replace(params={}), "Conv_0"),
        (lambda s: s.replace(step=jnp.zeros(2, jnp.int32)), ".step (saved int32[], expected int32"),
        (lambda s: s.replace(step=jnp.zeros(())), ".step (saved int32[], expected float32[])"),
        (lambda s: s.replace(extra={**s.extra, "ema": jnp.ones(3)}), "['ema'] (saved nothing"),
        (lambda s: s.replace(extra={**s.extra, "no_elements": jnp.ones((0, 4))}), "no_elements"),
    ],
)
def test_another_structure_is_refused_by_name(checkpointer, change, path):
    checkpointer.save(1, make_state("adamw"), {})
    with pytest.raises(InputError) as error:
        checkpointer.restore(1, change(make_state("adamw")))
    assert path in str(error.value)


@pytest.mark.parametrize("leaf", ["text", jax.random.key(0), object()])
def test_a_leaf_that_cannot_be_stored_is_refused_before_anything_is_written(checkpointer, leaf):
    with pytest.raises(InputError, match=r"state\['here'\] is a"):
        checkpointer.save(1, {"here": leaf, "w": jnp.ones(2)}, {})
    assert not folder(checkpointer).exists()


def damage(path: Path, kind: str, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if kind == "inverted":
        content[draw.randrange(len(content))] ^= 0xFF
    elif kind == "bit":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "truncated":
        del content[draw.randrange(len(content)) :]
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["inverted", "bit", "truncated", "missing"])
def test_damage_to_any_file_is_refused_by_name_and_left_alone(checkpointer, tmp_path, kind):
    checkpointer.save(1, small(1), {})
    checkpointer.save(2, make_state(), {"phase": 1})
    checkpointer.wait()
    step, whole, draw = folder(checkpointer) / "2", tmp_path / "whole", random.Random(kind)
    shutil.copytree(step, whole)
    names = [str(path.relative_to(step)) for path in step.rglob("*") if path.is_file()]
    assert len(names) > 8
    for name in names:
        if (name, kind) == (CHECKSUMS, "missing"):
            continue  # That is a half-written step.
        damage(step / name, kind, draw)
        damaged = {path: path.read_bytes() for path in step.rglob("*") if path.is_file()}
        assert checkpointer.latest_step() == 2
        with pytest.raises(InputError) as error:
            checkpointer.restore(2, make_state())
        assert name in str(error.value) or name == CHECKSUMS
        assert f"delete {step} to fall back to step 1" in str(error.value)
        assert damaged == {path: path.read_bytes() for path in step.rglob("*") if path.is_file()}
        if name == META:
            with pytest.raises(InputError):
                checkpointer.meta(2)
        shutil.rmtree(step)
        shutil.copytree(whole, step)
    assert_same_bits(checkpointer.restore(2, make_state(seed=3)), make_state())


def test_shapes_that_were_made_up_are_refused(checkpointer):
    """In the record, and in the arrays' own files: sealed anew, nothing else tells them."""
    for step, size in [(1, 13), (2, 20)]:
        checkpointer.save(step, {"w": jnp.zeros(size)}, {})
    first, second = (folder(checkpointer) / str(step) for step in (1, 2))
    checkpointer.wait()
    (second / META).write_text((first / META).read_text())
    reseal(second)
    with pytest.raises(InputError, match=r"2 holds other arrays than its record says.*delete"):
        checkpointer.restore(2, {"w": jnp.zeros(13)})
    (first / META).write_text((first / META).read_text().replace("[13]", "[1000000000000]"))
    reseal(first)
    with pytest.raises(InputError, match=r"saved float32\[1000000000000\], expected"):
        checkpointer.restore(1, {"w": jnp.zeros(13)})


def reseal(step: Path) -> None:
    (step / CHECKSUMS).unlink()
    seal(step)


def test_an_extra_file_is_refused_and_damage_survives_the_next_saves(checkpointer):
    checkpointer.save(1, small(1), {})
    checkpointer.wait()
    (folder(checkpointer) / "1" / "state" / "extra").write_text("?")
    with pytest.raises(InputError, match=r"state/extra is not listed.*start from the beginning"):
        checkpointer.restore(1, small(0))
    damage(folder(checkpointer) / "1" / META, "truncated", random.Random(0))
    for step in (2, 3, 4):
        checkpointer.save(step, small(step), {})
    assert checkpointer.steps() == [1, 3, 4]
    with pytest.raises(InputError, match=META):
        checkpointer.best_step("phase1")


def test_a_step_without_checksums_is_refused_and_left_alone(checkpointer):
    checkpointer.save(1, small(1), {})
    checkpointer.save(2, small(2), {})
    checkpointer.wait()
    home = folder(checkpointer)
    (home / "2" / CHECKSUMS).unlink()
    before = sorted(home.rglob("*"))
    for ask in (checkpointer.latest_step, Checkpointer(home).steps):
        with pytest.raises(InputError, match=r"2 is half-written.*delete it.*\[1\]"):
            ask()
    assert sorted(home.rglob("*")) == before
    shutil.rmtree(home / "2")
    assert checkpointer.latest_step() == 1


def test_what_a_killed_save_leaves_is_skipped_and_then_removed(checkpointer):
    checkpointer.save(1, small(1), {})
    checkpointer.wait()
    home = folder(checkpointer)
    (home / "2").mkdir()
    shutil.copytree(home / "1", home / "7.new")
    shutil.copytree(home / "1", home / "8.old")
    shutil.copytree(home / "1", home / "2.new")
    shutil.copytree(home / "1", home / "2.old")
    (home / "99").mkdir()
    (home / "3.new.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (home / "3.orbax-checkpoint-tmp").mkdir()
    (home / "notes").mkdir()
    (home / "1.backup").mkdir()
    assert Checkpointer(home).steps() == [1]
    assert checkpointer.latest_step() == 1
    with pytest.raises(InputError, match=r"no complete step 2, but \[1\]"):
        checkpointer.restore(2, small(0))
    checkpointer.save(2, small(2), {})
    assert checkpointer.steps() == [1, 2]
    assert {path.name for path in home.iterdir()} == {"1", "2", "notes", "1.backup"}
    assert_same_bits(checkpointer.restore(2, small(0)), small(2))


def test_saving_an_existing_step_replaces_it(checkpointer):
    for step in (1, 2, 3):
        checkpointer.save(step, small(step), {"try": 1}, best_of="phase1" if step == 2 else None)
    checkpointer.save(2, small(20), {"try": 2})
    assert checkpointer.steps() == [2, 3]
    assert checkpointer.meta(2) == {"try": 2}
    assert checkpointer.best_step("phase1") is None
    assert_same_bits(checkpointer.restore(2, small(0)), small(20))
    checkpointer.save(1, small(1), {})  # Older than the latest two, yet not dropped at once.
    assert checkpointer.steps() == [1, 2, 3]


def test_retention_keeps_two_latest_and_the_best_of_each_phase(checkpointer):
    scores = {"phase1": [0.1, 0.5, 0.9, 0.7, 0.3], "phase2": [0.8, 0.95, 0.6, 0.5]}
    saved: list[int] = []
    best: dict[str, int] = {}
    for label in scores:
        for number, score in enumerate(scores[label]):
            step = 10 * len(saved) + 10
            is_best = score == max(scores[label][: number + 1])
            checkpointer.save(
                step, small(step), {"score": score}, best_of=label if is_best else None
            )
            saved.append(step)
            best |= {label: step} if is_best else {}
            assert checkpointer.steps() == sorted({*saved[-2:], *best.values()})
    assert best == {"phase1": 30, "phase2": 70}
    reopened = Checkpointer(folder(checkpointer))
    assert {label: reopened.best_step(label) for label in scores} == best
    assert reopened.best_step("phase3") is None
    assert_same_bits(reopened.restore(30, small(0)), small(30))


def test_a_save_that_fails_says_so_and_leaves_what_was_there(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(2, small(2), {})
    checkpointer.wait()
    (tmp_path / "2.old").touch()  # In the way of the replacement.
    checkpointer.save(2, small(20), {})
    with pytest.raises(InputError, match=r"could not be written to .* has steps \[2\]: make room"):
        checkpointer.wait()
    with pytest.raises(InputError, match="could not be written"):
        checkpointer.save(3, small(3), {})
    reopened = Checkpointer(tmp_path)
    assert_same_bits(reopened.restore(2, small(0)), small(2))
    for each in (checkpointer._thread, reopened._thread):
        each.shutdown()


@pytest.mark.parametrize(
    ("path", "shown"), [("/x/orbax/checkpoint/y.py", False), ("/x/y.py", True)]
)
def test_only_orbax_is_silenced(path, shown):
    absl = logging.getLogger("absl")
    record = absl.makeRecord("absl", logging.ERROR, path, 1, "text", (), None)
    assert bool(absl.filter(record)) is shown


def test_nothing_there(tmp_path):
    checkpointer = Checkpointer(tmp_path / "absent")
    assert (checkpointer.steps(), checkpointer.latest_step()) == ([], None)
    with pytest.raises(InputError, match="no complete step 1"):
        checkpointer.meta(1)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        Checkpointer(tmp_path / "file")


SAVE_FOR_EVER = """
import sys
import numpy as np
from cxv_jax.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1])
step = checkpointer.latest_step() or 0
while True:
    step += 1
    checkpointer.save(step, {"w": np.full((50, 1000), step)}, {"step": step})
    checkpointer.wait()
    print(step, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path):
    draw, acknowledged = random.Random(0), 0
    for _ in range(4):
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged = int(process.stdout.readline())
            time.sleep(draw.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().split()
        assert process.returncode == -signal.SIGKILL
        acknowledged = int(lines[-1]) if lines else acknowledged
        checkpointer = Checkpointer(tmp_path)
        latest = checkpointer.latest_step()
        assert latest in (acknowledged, acknowledged + 1)
        want = {"w": np.full((50, 1000), latest)}
        assert_same_bits(checkpointer.restore(latest, want), want)
        assert checkpointer.meta(latest) == {"step": latest}
        checkpointer.close()
