"""A run's folder and config: checked before anything is written, compared before a resume."""

import difflib
import json
import os
import resource
import shutil
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from cxv_jax.errors import InputError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def check_config(config: ConfigDict) -> None:
    """Refuse values that no run can use, before any work is done.

    Raises:
      InputError: naming the field, its value and what it must be.
    """
    positive = ["batch_size", "eval_batch_size", "fsdp", "phase1.patience", "phase2.patience"]
    others = ["phase1.epochs", "phase2.epochs", "steps_per_call", "redraw_every"]
    for field in [*positive, *others, "micro_batch", "memory_gb"]:
        least = 1 if field in positive else 0
        if _get(config, field) < least:
            raise InputError(f"config.{field} = {_get(config, field)} must be at least {least}")
    if config.batch_size % max(config.micro_batch, 1):
        raise InputError(
            f"config.micro_batch = {config.micro_batch} must divide config.batch_size = "
            f"{config.batch_size}, or be 0 for the whole batch"
        )
    for field in ("phase1.learning_rate", "phase2.learning_rate"):
        if not _get(config, field) > 0:
            raise InputError(f"config.{field} = {_get(config, field)} must be positive")
    for field in ("phase1.label_smoothing", "phase2.label_smoothing", "ema_decay"):
        if not 0 <= _get(config, field) < 1:
            raise InputError(f"config.{field} = {_get(config, field)} must lie in [0, 1)")
    if config.selection not in ("val", "test"):
        raise InputError(f"config.selection = {config.selection!r} must be 'val' or 'test'")
    if config.phase1.epochs + config.phase2.epochs == 0:
        raise InputError("config.phase1.epochs and config.phase2.epochs are both 0: nothing to do")


def open_run(workdir: str | Path, config: ConfigDict, *, fork: bool) -> Path:
    """Make the folder, or check that it belongs to this config.

    With ``fork`` the folder's old config is kept as ``config.N.json`` and training goes on under
    the new one. Of several processes all compare and the first writes; :func:`check_joined` is to
    follow when it has.

    Raises:
      InputError: if the config differs from the folder's, naming the fields; if the path is a file.
    """
    workdir = Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"--workdir={workdir} is a file; name a folder")
    path, text = workdir / "config.json", config.to_json(indent=2, sort_keys=True) + "\n"
    differing = _differences(_read_json(path), json.loads(text)) if path.exists() else []
    if differing and not fork:
        raise InputError(
            f"{workdir} was started with another config: {'; '.join(differing)}. Name another "
            "--workdir, or pass --fork to go on from its checkpoint with the new config"
        )
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        if differing:  # A copy: whoever else reads the config now finds the old or the new one.
            number = len(list(workdir.glob("config.*.json"))) + 1
            shutil.copy(path, workdir / f"config.{number}.json")
        write_atomically(path, text)
    return workdir


def check_joined(workdir: Path, config: ConfigDict) -> None:
    """Whether this process and the first one mean the same run.

    Raises:
      InputError: if they see different folders, or were given different configs.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise InputError(f"--workdir={workdir} must be one folder that all processes see")
    if differing := _differences(_read_json(path), json.loads(config.to_json())):
        raise InputError(f"the first process was given another config: {'; '.join(differing)}")


def summarise(
    config: ConfigDict, workdir: Path, dataset: str, progress: Any, phases: dict, params: Any
) -> dict[str, Any]:
    """What a finished run says of itself; see README for the fields."""
    last = phases["phase2" if "phase2" in phases else "phase1"]
    return {
        "workdir": str(workdir),
        "dataset": dataset,
        "model": config.model.name,
        "seed": config.seed,
        "selection": config.selection,
        "test_top1": last["test_top1"],
        "test_top5": last["test_top5"],
        "phases": phases,
        "epochs": progress.epoch,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "images_per_second": statistics.median(progress.rates),
        "seconds": progress.seconds,
        **environment(),
        "config": json.loads(config.to_json()),
    }


def finished(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The summary of a run that this config has brought to its end, else None."""
    path = workdir / "summary.json"
    summary = _read_json(path) if path.exists() else None
    return summary if summary and summary["config"] == json.loads(config.to_json()) else None


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def environment() -> dict[str, Any]:
    """What a figure depends on besides the config: versions, device, memory, command, date."""
    devices = jax.devices()
    return {
        "command": " ".join(["python", "-m", *_command()]),
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in PACKAGES},
        **peak_memory(),
    }


def peak_memory() -> dict[str, Any]:
    """Most memory held so far, in bytes: of the accelerator if it tells, else of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return {"peak_memory_bytes": stats["peak_bytes_in_use"], "peak_memory_of": "device"}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_memory_bytes": peak, "peak_memory_of": "process"}


def _command() -> list[str]:
    """``experiments.train --flag``, as the user typed it."""
    program = Path(sys.argv[0])
    name = f"{program.parent.name}.{program.stem}" if program.suffix == ".py" else program.name
    return [name, *sys.argv[1:]]


def _get(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        if name not in config:
            close = difflib.get_close_matches(name, list(config), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"the config has no field {field!r}{hint}")
        config = config[name]
    return config


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); restore it or delete the run") from error


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        nested = (_differences(old.get(k), new.get(k), f"{name}.{k}".strip(".")) for k in keys)
        return [line for lines in nested for line in lines]
    return [] if old == new else [f"{name} was {old!r}, is {new!r}"]
