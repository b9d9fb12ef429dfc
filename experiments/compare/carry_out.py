"""Carry out a comparison: every unfinished run in a process of its own, then the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cxv_jax import runs
from cxv_jax.config import check_config, completed, differences, without_place
from cxv_jax.data.splits import Dataset
from cxv_jax.errors import InputError
from cxv_jax.files import write_text
from cxv_jax.parts import load_dataset
from cxv_jax.profile import complete
from experiments.compare import folds, forks, schedule
from experiments.compare.page import write_page
from experiments.compare.rows import Rows, row_of

OF_SYSTEMS = ("systems", "training")  # Fields with an entry a system.
LATER = {
    "seeds": (),
    "handoff": "",
    "arms": {},
    "contrasts": {},
    "primary": (),
}  # May differ: runs stand alone.


class Launch(NamedTuple):
    """How the two kinds of work are started; both return None, or one line on what went wrong.

    Attributes:
      profile: ``(system, options of profile.profile, JSON file to write, log file)``.
      train: ``(JSON file with the config, run folder, log file)``.
    """

    profile: Callable[[dict[str, Any], dict[str, Any], Path, Path], str | None]
    train: Callable[[Path, Path, Path], str | None]


def carry_out(
    config: ConfigDict,
    workdir: str | Path,
    launch: Launch,
    *,
    command: str = "",
    say: Callable[[str], None] = print,
) -> bool:
    """Train every system that is not finished yet; write ``report.md``, ``results.csv``, pictures.

    Give the same command again after an interruption: finished runs are skipped, the interrupted
    one resumes, failed ones are tried again. The report depends on nothing but the config and the
    runs' own summaries. A system that fails is recorded with its error; the others go on.

    Args:
      config: a training config without ``model`` and ``seed``, with ``systems`` (label to ``name``
        and overrides), ``seeds``, ``handoff`` (``both``, ``with``, ``without``) and ``budget``; see
        ``experiments/configs/comparison.py``.
      workdir: holds ``runs/NAME-seedN`` (with the handoff) and ``runs/NAME-seedN-single``, or
        ``runs/NAME-seedN-ARM``, ``costs``, ``configs``, ``logs`` and the report.
      launch: how a run is started.
      command: what the report names as its source.
      say: takes a line of progress.

    Returns:
      Whether every run is finished.

    Raises:
      InputError: for a config that cannot be used, data that is not there, a folder that holds a
        comparison of another kind.
    """
    schedule.check(config)
    first = ConfigDict({**config.to_dict(), "seed": config.seeds[0]})
    check_config(first)
    dataset = load_dataset(first)
    folder = _open(Path(workdir), config)
    todo = schedule.runs_of(config)
    for number, which in enumerate(todo, 1):
        costs = _costs(config, dataset, which[0], folder, launch)
        outcome = _train(config, dataset, costs, which, folder, launch)
        if outcome:
            say(f"[{number}/{len(todo)}] {schedule.run_name(*which)}: {outcome}")
            write_page(folder, config, _rows(config, dataset, folder), command)
    rows = _rows(config, dataset, folder)
    write_page(folder, config, rows, command)
    for line in folds.told(config, rows):
        say(line)
    return all(row["status"] == "finished" for row in rows)


def _train(
    config: ConfigDict,
    dataset: Dataset,
    costs: dict[str, Any],
    which: schedule.Which,
    folder: Path,
    launch: Launch,
) -> str:
    """Train one run unless it is finished; a line on how it went, empty if there was nothing to do.

    A file in ``errors`` says why a run failed; it goes before the next try.
    """
    name = schedule.run_name(*which)
    try:
        run_config = schedule.build(config, dataset, costs, which)
    except InputError as mistake:
        return _failed(folder / "errors" / f"{name}.txt", str(mistake))
    run_folder = folder / "runs" / name
    if runs.finished(run_folder, run_config):
        return ""
    prefix = forks.prefix_of(run_config) if isinstance(which[2], str) else None
    if prefix is not None:
        first = forks.prefix_name(*which[:2], prefix)
        _run(first, prefix, folder, launch)
        if not runs.finished(folder / "runs" / first, prefix):
            return _failed(folder / "errors" / f"{name}.txt", f"its first phase, {first}, failed")
        forks.fork(folder / "runs" / first, run_folder)
    return _run(name, run_config, folder, launch)


def _run(name: str, run_config: ConfigDict, folder: Path, launch: Launch) -> str:
    """Train one config unless it is finished; a line on how it went."""
    error_file, config_file = folder / "errors" / f"{name}.txt", folder / "configs" / f"{name}.json"
    run_folder, log = folder / "runs" / name, folder / "logs" / f"{name}.log"
    if runs.finished(run_folder, run_config):
        return ""
    error_file.unlink(missing_ok=True)
    write_text(config_file, run_config.to_json(indent=2, sort_keys=True) + "\n")
    if error := launch.train(config_file, run_folder, log):
        return _failed(error_file, error)
    if (summary := runs.finished(run_folder, run_config)) is None:
        return _failed(error_file, "ended without a summary")
    return f"test top-1 {100 * summary.test_top1:.2f} %, {summary.seconds:,.0f} s"


def _failed(error_file: Path, error: str) -> str:
    write_text(error_file, error + "\n")
    return f"failed: {error}"


def _costs(
    config: ConfigDict, dataset: Dataset, system: str, folder: Path, launch: Launch
) -> dict[str, Any]:
    """The system's costs, from its file if they are known; empty if they cannot be had.

    A comparison of arms compares no systems, and needs none.
    """
    if config.get("arms"):
        return {}
    path, fields = folder / "costs" / f"{system}.json", config.systems[system].to_dict()
    if not path.exists():
        options = {
            "num_classes": dataset.num_classes,
            "image_size": dataset.image_shape[0],
            "batch_size": config.batch_size,
            "repeats": 3 if config.budget.seconds else 0,
        }
        full = complete(fields, dataset.image_shape[0])
        launch.profile(full, options, path, folder / "logs" / f"{system}-costs.log")
    return json.loads(path.read_text()) if path.exists() else {}


def _rows(config: ConfigDict, dataset: Dataset, folder: Path) -> Rows:
    """One row for every run, from the files alone."""
    rows = []
    for which in schedule.runs_of(config):
        path = folder / "costs" / f"{which[0]}.json"
        costs = json.loads(path.read_text()) if path.exists() else {}
        name, summary = schedule.run_name(*which), None
        try:
            run_config = schedule.build(config, dataset, costs, which)
            summary = runs.finished(folder / "runs" / name, run_config)
        except InputError:
            pass  # Its error was recorded when it was tried.
        error_file = folder / "errors" / f"{name}.txt"
        error = error_file.read_text().strip() if error_file.exists() else ""
        rows.append(row_of(which, config.systems[which[0]].name, summary, error, costs))
    return rows


def _open(folder: Path, config: ConfigDict) -> Path:
    """Make the folders; refuse those of a comparison under another recipe.

    Systems, seeds and handoff may be added and left out: every run stands for itself.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"workdir={folder} is a file; name a folder")
    path, text = folder / "config.json", config.to_json(indent=2, sort_keys=True) + "\n"
    if path.exists() and (differing := _differing(json.loads(path.read_text()), json.loads(text))):
        raise InputError(
            f"{folder} holds a comparison with other settings ({', '.join(differing)}): name "
            "another workdir"
        )
    for name in ("configs", "costs", "errors", "logs", "runs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return folder


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fields that would make old and new runs incomparable; where the data lie is none of them."""
    common = old["systems"].keys() & new["systems"].keys()
    kept = []
    for each in (old, new):
        own = {n: {k: x for k, x in each.get(n, {}).items() if k in common} for n in OF_SYSTEMS}
        # A model as a stand-in: fields that came later are at their defaults.
        whole = completed({"model": {"name": "cpv"}, **each, **LATER, **own})
        kept.append(without_place(whole))
    return [line.partition(" was ")[0] for line in differences(kept[0], kept[1])]
