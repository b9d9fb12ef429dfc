"""The report on arms: what each is, its accuracy, and what the contrasts between them say."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cxv_jax import plots
from cxv_jax.tables import markdown
from experiments.compare.contrasts import Cell, Overall, cells, overall, verdict
from experiments.compare.rows import Rows, mean_of

PICTURE = "contrasts.png"
# Field of a row, its words.
WEIGHTS = {"last_test_top1": "last weights", "test_top1": "weights selected on validation"}
NOTE = """
Points of test top-1, the arm named first minus the other, paired by seed. *Over systems*: the
random-effects mean (DerSimonian and Laird; 95 % interval by Knapp and Hartung), and the deviation
between systems beyond chance. {equal:g} points or less are equal: *no difference* where the whole
interval lies within, *open* where it reaches beyond and holds 0. Each system: 95 % t-interval over
its seeds; * where p is below 0.05 after Holm's correction over systems. {primary} were named before
the first run."""

Found = dict[str, tuple[Overall, list[Cell]]]


def contrasts(config: ConfigDict, rows: Rows, field: str) -> Found:
    """Every contrast of the config of which something is known, the primary ones first."""
    counts = [row["test_count"] for row in rows if row.get("test_count")]
    resolution = 100 / max(counts, default=1000)
    found: Found = {}
    for name in [*config.primary, *(x for x in config.contrasts if x not in config.primary)]:
        arm, other = config.contrasts[name]
        if each := cells(rows, arm, other, field, resolution):
            found[name] = overall(each), each
    return found


def sections(config: ConfigDict, rows: Rows) -> list[list[str]]:
    """The parts of the report, each a list of lines."""
    parts = [["## Arms\n", *_described(config, rows)]]
    selected = config.selection != "last"
    fields = list(WEIGHTS) if selected else ["last_test_top1"]
    for field in fields:
        if found := contrasts(config, rows, field):
            primary = ", ".join(_label(config, name) for name in config.primary)
            note = NOTE.format(equal=config.equivalence, primary=primary) if len(parts) == 1 else ""
            said = [
                _sentence(config, name, *found[name]) for name in config.primary if name in found
            ]
            title = f"## Contrasts, {WEIGHTS[field]}\n"
            parts.append([title, *said, "", *_table(config, found), note])
    titles = {field: f"Test top-1, {WEIGHTS[field]}" for field in fields}
    titles = titles if config.contrasts else {"val_top1": "Validation top-1"}  # Trials.
    return [*parts, *([f"## {x}\n", *_accuracy(config, rows, f)] for f, x in titles.items())]


def draw(folder: Path, config: ConfigDict, rows: Rows) -> list[str]:
    """One row a contrast: zero line, band of equality, interval over systems, systems as points."""
    found = contrasts(config, rows, "last_test_top1")
    (folder / PICTURE).unlink(missing_ok=True)
    if not found:
        return []
    figure = plots.new_figure(8, 1.4 + 0.42 * len(found))
    ax = figure.subplots()
    equal = config.equivalence
    ax.axvspan(-equal, equal, color="0.92", zorder=0, label=f"±{equal:g} points: equal")
    ax.axvline(0, color="black", linewidth=0.8, zorder=1)
    for place, (name, (mean, each)) in enumerate(found.items()):
        color = plots.OURS if name in config.primary else plots.OTHERS[0]
        ax.plot([mean.low, mean.high], [place, place], color=color, linewidth=5, alpha=0.45)
        ax.plot([mean.mean], [place], "D", color=color, markersize=7)
        ax.plot([x.mean for x in each], [place] * len(each), "o", mfc="none", mec="0.3", ms=5)
    ax.plot([], [], "o", mfc="none", mec="0.3", ms=5, label="a system's mean over seeds")
    ax.plot([], [], "D-", color=plots.OTHERS[0], label="mean over systems, 95 % interval")
    ax.plot([], [], "D-", color=plots.OURS, label="primary, named before the first run")
    names = [f"{name}:  {_label(config, name)}" for name in found]
    ax.set_yticks(range(len(found)), names)
    ax.invert_yaxis()
    ax.set_xlabel("difference in test top-1 (percentage points)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    plots.tidy(ax)
    plots.save(figure, folder / PICTURE)
    return [PICTURE]


def _label(config: ConfigDict, name: str) -> str:
    arm, other = config.contrasts[name]
    return f"{arm} - {other}"


def _interval(value: Any) -> str:
    return f"{value.mean:+.2f} ({value.low:+.2f} to {value.high:+.2f})"


def _sentence(config: ConfigDict, name: str, mean: Overall, each: list[Cell]) -> str:
    seeds = sum(x.seeds for x in each)
    said = verdict(mean.low, mean.high, config.equivalence)
    return (
        f"- **{_label(config, name)}** ({name}): {_interval(mean)} points over {len(each)} "
        f"systems, {seeds} pairs: **{said}**."
    )


def _table(config: ConfigDict, found: Found) -> list[str]:
    systems = list(config.systems)
    lines = []
    for name, (mean, each) in found.items():
        by = {x.system: _interval(x) + "*" * (x.holm < 0.05) for x in each}
        whole = [_interval(mean), verdict(mean.low, mean.high, config.equivalence)]
        whole.append(f"{mean.between:.2f}")
        lines.append([name, _label(config, name), *whole, *(by.get(s, "-") for s in systems)])
    return markdown(["", "arms", "over systems", "", "deviation", *systems], lines, 2)


def _accuracy(config: ConfigDict, rows: Rows, field: str) -> list[str]:
    """Mean and deviation over seeds of each arm and system."""
    lines = []
    for arm in config.arms:
        found = []
        for system in config.systems:
            mine = [r[field] for r in rows if (r["arm"], r["system"]) == (arm, system)]
            mean = mean_of(mine)
            spread = f" ± {100 * mean.deviation:.2f}" if mean and mean.deviation is not None else ""
            found.append(f"{100 * mean.mean:.2f}{spread} ({mean.seeds})" if mean else "-")
        lines.append([arm, *found])
    return markdown(["arm", *config.systems], lines)


def _described(config: ConfigDict, rows: Rows) -> list[str]:
    """Each arm's phases and its rates by system."""
    lines = []
    for name, arm in config.arms.items():
        phases = [{**config[x].to_dict(), **arm.get(x, {})} for x in ("phase1", "phase2")]
        said = [_phase(phase) for phase in phases]
        own = arm.get("training", {})
        rates = [
            " → ".join(f"{fields.learning_rate:g}" for fields in own[s].values())
            if s in own
            else ""
            for s in config.systems
        ]
        lines.append([name, *said, *rates])
    titles = [
        f"{s} ({size:,} parameters)" if (size := _size(rows, s)) else s for s in config.systems
    ]
    return markdown(["arm", "phase one", "phase two", *titles], lines, 3)


def _size(rows: Rows, system: str) -> int | None:
    return next((r["parameters"] for r in rows if r["system"] == system and r["parameters"]), None)


def _phase(fields: dict[str, Any]) -> str:
    if not fields["epochs"]:
        return "-"
    words = [f"{fields['epochs']} epochs {fields['optimizer']}", fields["schedule"]]
    words += ["its state kept"] if not fields.get("fresh_state", True) else []
    words += [f"mean of {n} epochs"] if (n := fields["average_epochs"]) else []
    plain = not (fields["augment"]["crop_padding"] or fields["augment"]["policy"] != "none")
    return ", ".join([*words, *(["no augmentation"] if plain else [])])
