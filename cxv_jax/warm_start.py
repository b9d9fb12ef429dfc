"""Begin a run with the weights of another one, or of a file, in place of random numbers."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np
from ml_collections import ConfigDict

from cxv_jax import inference, models, torch_import
from cxv_jax.errors import InputError
from cxv_jax.phase import Phase
from cxv_jax.session import Session

Arrays = dict[str, np.ndarray]  # By path: params/head/bias.
NAMED = 6  # So many arrays are named in a line.


class WarmStart(NamedTuple):
    """What a run begins with.

    Attributes:
      arrays: that replace the initial ones, by path (``params/stem_0/conv/kernel``).
      told: which came and which are new, a line or two.
    """

    arrays: Mapping[str, np.ndarray] = MappingProxyType({})
    told: tuple[str, ...] = ()


class _Found(NamedTuple):
    """Weights and what is known of them."""

    arrays: Arrays
    model: str
    class_names: tuple[str, ...] = ()
    scaling: Any = None


def read(config: ConfigDict, session: Session) -> WarmStart:
    """The weights that ``config.init_from`` names, as far as the session's model has them.

    It is a run's folder, trained or imported (its best weights, averaged where it averages them);
    or a ``.safetensors``, ``.npz``, ``.pt`` or ``.pth`` file with PyTorch's names, see
    :mod:`cxv_jax.torch_import`, or with ours (``params/head/bias``). The head comes along only if
    the classes are the same. Position embeddings are resized to the number of tokens.

    Returns:
      Nothing where ``config.init_from`` is empty.

    Raises:
      InputError: there is nothing of that kind, or it is of another model.
    """
    if not config.init_from:
        return WarmStart()
    path = Path(config.init_from).expanduser()
    found = _of_run(path) if path.is_dir() else _of_file(path, config)
    template = session.phases[Phase.ONE].template
    wanted = _flat({name: getattr(template, name) for name in ("params", "batch_stats")})
    wanted |= _flat({"constants": template.constants})
    other = bool(found.class_names) and found.class_names != tuple(session.dataset.class_names)
    arrays, misshapen = {}, []
    for name, leaf in wanted.items():
        array = _resized(name, found.arrays.get(name), leaf.shape)
        head = name.split("/")[1] == "head"
        if array is None or (head and (other or array.shape != leaf.shape)):
            continue
        if array.shape != leaf.shape:
            misshapen.append(f"{name} {array.shape} for {leaf.shape}")
        arrays[name] = array.astype(leaf.dtype)
    if misshapen or 2 * len(arrays) < len(wanted):
        why = f"{len(misshapen)} are of another size: {_some(misshapen)}" if misshapen else "few"
        raise InputError(
            f"init_from={config.init_from}: its weights ({found.model}) are not those of "
            f"{config.model.name} as config.model has it: of {len(wanted)} arrays "
            f"{len(arrays) - len(misshapen)} fit, {why}; give config.model its name and sizes"
        )
    return WarmStart(arrays, tuple(_told(config, found, arrays, wanted)))


def _told(
    config: ConfigDict, found: _Found, arrays: Arrays, wanted: Mapping[str, Any]
) -> list[str]:
    new = [name for name in wanted if name not in arrays]
    left = [name for name in found.arrays if name not in wanted]
    line = f"begun with {config.init_from}: {len(arrays)} of {len(wanted)} arrays"
    line += f"; new: {_some(new)}" if new else ""
    lines = [line + (f"; left behind: {_some(left)}" if left else "")]
    ours = tuple(config.data.mean), tuple(config.data.std)
    if found.scaling is not None and not np.allclose(found.scaling, ours, atol=0.02):
        theirs = " and ".join(str(tuple(x)) for x in found.scaling)
        lines.append(
            f"its pixels were scaled by another mean and deviation, {theirs}: to keep them set "
            "config.data.mean and config.data.std"
        )
    return lines


def _of_run(folder: Path) -> _Found:
    run = inference.load_run(folder)
    arrays = {name: np.asarray(leaf) for name, leaf in _flat(run.variables).items()}
    names = run.class_names if run.meta.dataset.named else ()
    return _Found(arrays, run.config.model.name, tuple(names), run.scaling)


def _of_file(path: Path, config: ConfigDict) -> _Found:
    """Of a file that has PyTorch's names the model, but for its head, is the run's."""
    if not path.exists():
        raise InputError(
            f"init_from={path}: no such folder or file; expected a run's folder or weights"
        )
    arrays = torch_import.load_state_dict(path)
    ours = {name.replace(".", "/"): array for name, array in arrays.items()}
    if any(name.startswith("params/") for name in ours):
        return _Found(ours, "our names")
    model = models.create(**config.model)
    model = model.clone(num_classes=torch_import.classes_of(model, arrays))
    variables = torch_import.from_torch(model, arrays)
    return _Found({k: np.asarray(x) for k, x in _flat(variables).items()}, config.model.name)


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _resized(name: str, array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Position embeddings ``[1, tokens, channels]`` of a square map, at another number of tokens.

    The map is resized (bilinear); a class token in front of it stays as it is.
    """
    if array is None or not name.endswith("pos_embedding") or array.shape == shape:
        return array
    (had, front), (side, ours) = (_square(x[1]) for x in (array.shape, shape))
    if front != ours or array.shape[::2] != shape[::2]:
        return array
    grid = array[:, front:].reshape(1, had, had, -1)
    grid = np.asarray(jax.image.resize(grid, (1, side, side, grid.shape[-1]), "bilinear"))
    return np.concatenate([array[:, :front], grid.reshape(1, side * side, -1)], axis=1)


def _square(tokens: int) -> tuple[int, int]:
    """Side of the map, and tokens besides it."""
    side = math.isqrt(tokens)
    return side, tokens - side**2


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
