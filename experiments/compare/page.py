"""``report.md``, ``results.csv`` and the pictures: a function of the rows, and of nothing else."""

from collections.abc import Sequence
from pathlib import Path

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cxv_jax.files import write_text
from experiments.compare import arms, folds, pictures, tables
from experiments.compare.rows import Rows, to_csv

RESULTS_NOTE = """
Test top-1 and top-5 in percent, with {weights}; ± is the standard deviation over seeds.
*Gain* is top-1 with the second optimizer minus top-1 without it (the first optimizer alone for as
many epochs), paired by seed. Parameters in brackets: as torchsummary counts. FLOP are for one
image, as compiled for this device (a multiplication and an addition are two); memory is what the
compiled training step needs for a batch of {batch_size}."""
MEASURED_NOTE = """
Means and deviations over a system's runs; images/s of a run is the median over its epochs. Peak
memory is that of the accelerator where it tells, else of the whole process. Other work on the
machine changes all of these but the epochs."""
MANY = 20  # Missing runs are counted, no longer named.
PICTURES_NOTE = "CXV, published or as a pyramid, is orange."


def write_page(folder: Path, config: ConfigDict, rows: Rows, command: str) -> None:
    """Write everything anew; a picture for which there is nothing to show is removed."""
    alone = (
        len(config.systems) == 1 and config.data.splits == "folds"
    )  # Nothing to draw it against.
    shown = [] if alone else rows
    drawn = arms.draw(folder, config, rows) if config.get("arms") else pictures.draw(folder, shown)
    write_text(folder / "results.csv", to_csv(rows))
    crossed = folds.section(config, rows, folder)
    write_text(folder / "report.md", markdown(config, rows, command, drawn, crossed))


def markdown(
    config: ConfigDict, rows: Rows, command: str, drawn: list[str], crossed: Sequence[str] = ()
) -> str:
    """The report; ``drawn``: file names of its pictures; ``crossed``: what the folds say."""
    sections = [
        [f"# {_systems(config)} on {config.data.source}"],
        [*_conditions(config), *_circumstances(rows, command)],
        list(crossed),
        *(arms.sections(config, rows) if config.get("arms") else _of_systems(config, rows)),
        _shown(drawn),
        _unfinished(rows),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _systems(config: ConfigDict) -> str:
    number = len(config.systems)
    return next(iter(config.systems)) if number == 1 else f"{number} systems"


def _of_systems(config: ConfigDict, rows: Rows) -> list[list[str]]:
    """The tables of a comparison without arms."""
    last = config.selection == "last"
    weights = "the last weights" if last else f"the weights that were best on {config.selection}"
    note = RESULTS_NOTE.format(weights=weights, batch_size=config.batch_size)
    return [
        ["## Accuracy and size\n", *tables.results(rows), note],
        ["## Measured while training\n", *tables.measured(rows), MEASURED_NOTE],
    ]


def _conditions(config: ConfigDict) -> list[str]:
    """What all systems had in common."""
    data = config.data
    each = "of each class"
    images = f"{data.subset_per_class} training images {each}" if data.subset_per_class else "all"
    held_out = f"{data.val_per_class} {each}" if data.val_per_class else f"{data.val_fraction:.0%}"
    split = "the seed fixes the split"
    if data.splits == "gem":
        split = "by the files' order (gem): seed i is split i"
    if data.splits == "folds":
        split = f"cut into {data.folds} folds, seed i tests fold i: each image is tested once"
    chosen = "No selection, the last weights"
    if config.selection != "last":
        chosen = f"Selection on {config.selection}"
        chosen += ", besides the last weights" if config.get("arms") else ""
    protocol = "test was read once, at the end"
    if config.selection == "test":
        protocol = "as in the paper, so test figures are not held out"
    seeds = ", ".join(map(str, config.seeds))
    return [
        f"- Data: {data.source} ({images}; {held_out} held out for validation); {split}, which is "
        "the same for every system.",
        f"- Budget: {_budget(config)}.",
        f"- Seeds: {seeds}. {chosen}; {protocol}.",
        *_own_ways(config),
    ]


def _own_ways(config: ConfigDict) -> list[str]:
    """What single systems do in their own way."""
    ways = []
    for system, own in config.training.to_dict().items():
        fields = [f"{name} {value}" for name, value in flatten_dict(own, sep=".").items()]
        ways.append(f"{system} {', '.join(fields)}")
    return [f"- Of a system's own: {'; '.join(ways)}."] if ways else []


def _budget(config: ConfigDict) -> str:
    one, two = config.phase1, config.phase2
    if config.get("arms"):
        return f"{one.epochs} + {two.epochs} epochs, batches of {config.batch_size}"
    phases = f"{one.epochs} epochs of {one.optimizer} (learning rate {one.learning_rate:g})"
    if two.epochs:
        phases += f", then {two.epochs} of {two.optimizer} ({two.learning_rate:g})"
    phases += f", batches of {config.batch_size}"
    if config.selection != "last":
        phases += f"; a phase ends after {one.patience} or {two.patience} epochs without progress"
    if config.budget.seconds:
        seconds = f"{config.budget.seconds:g} s of training steps at each system's measured rate"
        return f"{seconds}, in the proportion of {phases}"
    if config.budget.images:
        return f"{config.budget.images:,} images, in the proportion of {phases}"
    return phases


def _circumstances(rows: Rows, command: str) -> list[str]:
    """Command, hardware, date and versions, as the runs themselves recorded them."""
    finished = [row for row in rows if row["status"] == "finished"]
    lines = [f"- Finished runs: {len(finished)} of {len(rows)}."]
    if command:
        lines.append(f"- Command: `{command}`")
    if finished:
        dates = sorted(row["date"] for row in finished)
        versions = ", ".join(f"{k} {v}" for k, v in finished[0]["versions"].items())
        lines.append(f"- Hardware: {', '.join(sorted({row['device'] for row in finished}))}.")
        lines.append(f"- Date: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}. {versions}.")
    return lines


def _shown(drawn: list[str]) -> list[str]:
    several = any(not name.startswith("contrasts") for name in drawn)
    pictures = [f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in drawn]
    note = [PICTURES_NOTE, ""] if several else []
    return ["## Pictures\n", *note, *pictures] if drawn else []


def _unfinished(rows: Rows) -> list[str]:
    """Runs that failed, with their errors, and runs that are still to be made."""
    missing = [row for row in rows if row["status"] == "missing"]
    many = len(missing) > MANY
    lines = [f"- {len(missing)} runs: not run yet"] if many else []
    for row in (r for r in rows if r["status"] != "finished" and not (many and r in missing)):
        kind = f", arm {row['arm']}" if row["arm"] else "" if row["handoff"] else ", one optimizer"
        why = f"failed: {row['error']}" if row["error"] else "not run yet"
        lines.append(f"- {row['system']}, seed {row['seed']}{kind}: {why}")
    return ["## Without a result\n", *lines] if lines else []
