"""Checkpoints on disk, with Orbax: checksummed, replaced atomically, refused when damaged.

One step is one folder ``DIRECTORY/STEP``. Orbax writes the arrays (a flat mapping from tree path
to array) into ``STEP.new``; ``meta.json`` and then ``checksums.sha256`` (for ``sha256sum -c``) are
added, and the folder is renamed. So a step is either whole or not there:

* what a killed save leaves (``STEP.new``, an empty folder) is skipped; the next save removes it;
* a folder must match its ``checksums.sha256``: anything else, also a folder with files but without
  checksums, is damage, refused with ``InputError`` and never passed over in silence, since Orbax
  itself restores flipped bytes without a word.

Orbax's ``CheckpointManager`` is not used: it counts half-written folders as steps, knows no best
of each phase, and does not replace an existing step.
"""

import json
import logging
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from cxv_jax import step_folder
from cxv_jax.errors import InputError
from cxv_jax.step_folder import CHECKSUMS, META, is_complete, is_half, seal

NUM_LATEST = 2
# What a killed save or a killed clean-up can leave behind, besides a plain number.
_OURS = re.compile(r"\d+(\.new|\.old)?(\.orbax-checkpoint-tmp.*)?")

# Orbax logs through absl to the terminal; whatever matters it raises as well.
logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)


class Checkpointer:
    """Saves and restores training states, keeping the latest two and the best of each phase.

    Call every method on every process (with a shared file system): they wait for each other.

    Args:
      directory: where the step folders are; made by the first save.

    Raises:
      InputError: ``directory`` is a file.

    Example:
      >>> import tempfile
      >>> checkpointer = Checkpointer(tempfile.mkdtemp())
      >>> checkpointer.save(3, {"w": jnp.ones(2)}, {"phase": 1}, best_of="phase1")
      >>> checkpointer.latest_step(), checkpointer.best_step("phase1"), checkpointer.meta(3)
      (3, 3, {'phase': 1})
      >>> checkpointer.restore(3, {"w": jnp.zeros(2)})
      {'w': Array([1., 1.], dtype=float32)}
      >>> checkpointer.close()
    """

    def __init__(self, directory: Path | str):
        self._directory = Path(directory).absolute()
        if self._directory.exists() and not self._directory.is_dir():
            raise InputError(f"{directory} is a file; checkpoints need a folder: name another one")
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(
        self, step: int, state: PyTree, meta: dict[str, Any], *, best_of: str | None = None
    ) -> None:
        """Starts a save, in place of any earlier save of this step; returns once buffers are free.

        Writing, checksums and clean-up go on in a thread; an error there is raised by the next
        method called. Kept are this step, the two latest, and the latest best of every label.

        Args:
          step: counts up through the run, phases included.
          state: any tree of arrays and Python numbers (not strings, not typed random keys).
          meta: what JSON can hold; comes back from ``meta(step)``, tuples as lists.
          best_of: the phase whose best weights so far these are; None if they are not.

        Raises:
          InputError: a leaf of ``state`` is not an array or a number.
        """
        leaves = _flatten(state)
        record = json.dumps({"meta": meta, "best_of": best_of, "leaves": _describe(leaves)})
        self.wait()
        if jax.process_index() == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
        arrays = {path: x for path, x in leaves.items() if x.size}
        self._orbax.save(
            self._directory / f"{step}.new",
            args=ocp.args.Composite(state=ocp.args.PyTreeSave(arrays)),
        )
        self._pending = self._thread.submit(self._finish, step, record)

    def steps(self) -> list[int]:
        """The complete steps, in order; ``restore`` refuses those that are damaged.

        Raises:
          InputError: a step has files but no checksums: somebody copied or deleted half of it.
        """
        self.wait()
        for path in self._directory.glob("*"):
            if is_half(path):
                raise InputError(
                    f"{path} is half-written (no {CHECKSUMS} in it): put it right, or delete it to "
                    f"go on from the steps {self._steps()}"
                )
        return self._steps()

    def latest_step(self) -> int | None:
        """The highest complete step, None if there is none; ``restore`` refuses a damaged one."""
        return max(self.steps(), default=None)

    def best_step(self, label: str) -> int | None:
        """The last step saved with ``best_of=label``, None if there is none."""
        best = [step for step in self.steps() if self._record(step)["best_of"] == label]
        return max(best, default=None)

    def set_aside(self) -> list[str]:
        """Renames the steps that are not as they were written (``20.damaged``): none is in the way.

        Reads every file of every step, and drops what a killed save has left. Call it on one
        process, before anything else is asked.

        Returns:
          A line about each of them.

        Raises:
          InputError: no step is good.
        """
        folders = list(self._directory.glob("*"))
        found = {path: step_folder.fault(path) for path in folders if is_complete(path)}
        found |= {p: f"{p} is half-written (no {CHECKSUMS} in it)" for p in folders if is_half(p)}
        faults = {int(path.name): fault for path, fault in found.items() if fault}
        good = [step for step in self._steps() if step not in faults]
        if faults and not good:
            raise InputError(
                f"no checkpoint in {self._directory} is good: {'; '.join(faults.values())}: "
                "put one right, or start anew in another workdir"
            )
        said = [f"{fault}: {self._rename(step)}" for step, fault in sorted(faults.items())]
        if good:
            self._tidy(max(good))  # What a killed clean-up has left to do.
        return said

    def _rename(self, step: int) -> str:
        folder = self._directory / str(step)
        names = (f"{step}.damaged{n or ''}" for n in range(1000))
        name = next(n for n in names if not (self._directory / n).exists())
        folder.rename(self._directory / name)
        return f"this checkpoint was set aside as {name}"

    def meta(self, step: int) -> dict[str, Any]:
        """The ``meta`` saved with ``step``; verified, and reads no arrays.

        Raises:
          InputError: there is no such complete step, or its record is damaged.
        """
        self.wait()
        return self._record(step)["meta"]

    def restore(self, step: int, template: PyTree, *, whole: bool = True) -> PyTree:
        """The state saved at ``step``, in the structure and on the devices of ``template``.

        Args:
          step: one of ``steps()``.
          template: a state of the same structure: arrays or ``jax.ShapeDtypeStruct``. Leaves come
            back with its sharding, on any number of devices; those without one as NumPy arrays.
          whole: False lets the step hold leaves that the template lacks, which are not read:
            weights without their optimizer state.

        Raises:
          InputError: no such complete step; a file of it is damaged, missing or extra; or the
            paths, shapes or dtypes saved are not those of the template (a wrong phase or model).
        """
        self.wait()
        self._verify(step)
        wanted = _flatten(template)
        saved = self._record(step)["leaves"]
        if not whole:
            saved = {path: kind for path, kind in saved.items() if path in wanted}
        self._check_match(step, saved, _describe(wanted))
        target = {path: _target(x) for path, x in wanted.items() if x.size}
        arguments = ocp.checkpoint_utils.construct_restore_args(target)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(target, restore_args=arguments, partial_restore=not whole)
        )
        folder = self._directory / str(step)
        try:
            restored = self._orbax.restore(folder, args=items).state
        except ValueError as error:  # Sealed anew with arrays of another size.
            self._refuse(step, f"{folder} holds other arrays than its record says ({error})"[:300])
        leaves = {path: restored[path] if x.size else _empty(x) for path, x in wanted.items()}
        self._check_match(step, _describe(leaves), _describe(wanted))
        return jax.tree.unflatten(jax.tree.structure(template), leaves.values())

    def wait(self) -> None:
        """Returns when the last save is complete on disk.

        Raises:
          InputError: it could not be written (from here on every method says so).
        """
        if self._pending is not None:
            try:
                self._pending.result()
            except (OSError, ValueError) as error:  # TensorStore's are ValueErrors.
                raise InputError(
                    f"a checkpoint could not be written to {self._directory}, which has steps "
                    f"{self._steps()}: make room or mend it, then resume ({str(error)[:200]!r})"
                ) from error
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("checkpoint complete")
            self._pending = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the last save and ends the threads; safe to call twice."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            self._orbax.close()

    def _finish(self, step: int, record: str) -> None:
        """Makes the step that Orbax has written a complete one, then drops what is not kept."""
        self._orbax.wait_until_finished()
        if jax.process_index() != 0:
            return
        new, folder = self._directory / f"{step}.new", self._directory / str(step)
        (new / META).write_text(record)
        seal(new)
        if folder.exists():
            folder.rename(folder.with_suffix(".old"))
        new.rename(folder)
        self._tidy(step)

    def _tidy(self, saved: int) -> None:
        """Drops the steps that are not kept and whatever is half-written."""
        for dropped in set(self._steps()) - self._kept(saved):
            folder = self._directory / str(dropped)
            folder.rename(folder.with_suffix(".old"))  # At once, so never half a complete step.
        self._sweep()

    def _kept(self, saved: int) -> set[int]:
        steps = self._steps()
        kept, labels = {saved, *steps[-NUM_LATEST:]}, {None}
        for step in reversed(steps):
            try:
                label = self._record(step)["best_of"]
            except InputError:
                kept.add(step)  # Damaged: a person decides what happens to it.
                continue
            if label not in labels:
                kept.add(step)
                labels.add(label)
        return kept

    def _steps(self) -> list[int]:
        if not self._directory.is_dir():
            return []
        return sorted(int(path.name) for path in self._directory.iterdir() if is_complete(path))

    def _sweep(self) -> None:
        """Removes half-written and dropped steps, and nothing else."""
        for path in self._directory.iterdir():
            if path.is_dir() and _OURS.fullmatch(path.name) and not is_complete(path):
                shutil.rmtree(path)

    def _record(self, step: int) -> dict[str, Any]:
        self._verify(step, only=META)
        record = step_folder.record(self._directory / str(step))
        assert record is not None  # As just verified.
        return record

    def _verify(self, step: int, only: str | None = None) -> None:
        """Compares the files of a step, or only one of them, with their checksums."""
        if step not in self._steps():
            raise InputError(
                f"{self._directory} has no complete step {step}, but {self._steps()}: name another"
            )
        if fault := step_folder.fault(self._directory / str(step), only):
            self._refuse(step, fault)

    def _refuse(self, step: int, fault: str) -> NoReturn:
        folder = self._directory / str(step)
        earlier = [other for other in self._steps() if other < step]
        result = f"fall back to step {earlier[-1]}" if earlier else "start from the beginning"
        raise InputError(f"{fault}: put it right, or delete {folder} to {result}")

    def _check_match(self, step: int, saved: dict[str, str], wanted: dict[str, str]) -> None:
        differ = sorted({path for path, _ in saved.items() ^ wanted.items()})
        faults = [
            f"{path} (saved {saved.get(path, 'nothing')}, expected {wanted.get(path, 'nothing')})"
            for path in differ[:3]
        ]
        if differ:
            raise InputError(
                f"{self._directory / str(step)} does not fit this model and phase, use the config "
                f"and phase it was saved with; {len(differ)} leaves differ: {', '.join(faults)}"
            )


def _flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, all with shape and dtype; Python numbers become what JAX makes of them."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {(name := jax.tree_util.keystr(path)): _as_array(name, leaf) for path, leaf in paths}


def _as_array(path: str, leaf: Any) -> Any:
    if isinstance(leaf, np.generic | bool | int | float):
        return np.asarray(leaf, getattr(leaf, "dtype", None) or jnp.result_type(leaf))
    kind = getattr(leaf, "dtype", np.dtype(object))
    if not (jnp.issubdtype(kind, jnp.number) or jnp.issubdtype(kind, jnp.bool_)):
        raise InputError(
            f"state{path} is a {type(leaf).__name__} ({kind}), and a checkpoint holds arrays of "
            "numbers: move it to meta, or store jax.random.key_data(rng) for a random key"
        )
    return leaf


def _describe(leaves: dict[str, Any]) -> dict[str, str]:
    return {path: f"{x.dtype.name}{list(x.shape)}" for path, x in leaves.items()}


def _target(leaf: Any) -> Any:
    """What Orbax is to restore a leaf as."""
    if getattr(leaf, "sharding", None) is None:
        return np.empty(leaf.shape, leaf.dtype)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _empty(leaf: Any) -> Any:
    """A leaf without elements, which Orbax cannot store."""
    zeros = np.zeros(leaf.shape, leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    return zeros if sharding is None else jax.device_put(zeros, sharding)
