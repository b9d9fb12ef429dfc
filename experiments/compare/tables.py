"""The tables of a comparison's report."""

from collections.abc import Callable
from functools import partial

from cxv_jax.tables import markdown
from experiments.compare.rows import Mean, Rows, by_system, gains, main_kind, ranked

Cell = Callable[[Rows, str], str]
UNKNOWN = "-"


def results(rows: Rows) -> list[str]:
    """Accuracy and what is known before training: the lines of a Markdown table."""
    return _table(RESULTS, rows)


def measured(rows: Rows) -> list[str]:
    """Speed and memory of the runs: the lines of a Markdown table."""
    return _table(MEASURED, rows)


def _table(columns: dict[str, Cell], rows: Rows) -> list[str]:
    """A line for every system, the best top-1 first; columns without any value are left out."""
    systems = ranked(rows)
    filled = {title: [cell(rows, name) for name in systems] for title, cell in columns.items()}
    filled = {title: cells for title, cells in filled.items() if set(cells) != {UNKNOWN}}
    return markdown(["system", *filled], zip(systems, *filled.values(), strict=True))


def _mean(rows: Rows, system: str, *, field: str, scale: float = 1, digits: int = 0) -> str:
    return _text(by_system(rows, field).get(system), scale, digits)


def _top(rows: Rows, system: str, *, field: str, handoff: bool | None = None) -> str:
    kind = main_kind(rows) if handoff is None else handoff
    return _text(by_system(rows, field, kind).get(system), 100, 2)


def _gain(rows: Rows, system: str) -> str:
    return _text(gains(rows).get(system), 100, 2, "+")


def _text(value: Mean | None, scale: float, digits: int, sign: str = "") -> str:
    if value is None:
        return UNKNOWN
    text = f"{scale * value.mean:{sign},.{digits}f}"
    return text if value.deviation is None else f"{text} ± {scale * value.deviation:,.{digits}f}"


def _cost(rows: Rows, system: str, *, field: str, scale: float = 1, digits: int = 0) -> str:
    """A figure that is the same for all runs of a system."""
    value = next(row[field] for row in rows if row["system"] == system)
    return UNKNOWN if value is None else f"{scale * value:,.{digits}f}"


def _parameters(rows: Rows, system: str) -> str:
    trainable = _cost(rows, system, field="parameters")
    printed = _cost(rows, system, field="parameters_torchsummary")
    return UNKNOWN if trainable == UNKNOWN else f"{trainable} ({printed})"


RESULTS: dict[str, Cell] = {
    "top-1, two optimizers": partial(_top, field="test_top1", handoff=True),
    "top-1, one optimizer": partial(_top, field="test_top1", handoff=False),
    "gain": _gain,
    "validation top-1": partial(_top, field="val_top1"),
    "top-5": partial(_top, field="test_top5"),
    "parameters": _parameters,
    "forward MFLOP": partial(_cost, field="forward_flops", scale=1e-6, digits=1),
    "training MFLOP": partial(_cost, field="train_flops", scale=1e-6, digits=1),
    "memory MiB": partial(_cost, field="train_memory", scale=2**-20),
}
MEASURED: dict[str, Cell] = {
    "epochs": partial(_mean, field="epochs"),
    "images/s": partial(_mean, field="images_per_second"),
    "seconds a run": partial(_mean, field="seconds"),
    "peak memory MiB": partial(_mean, field="peak_memory_bytes", scale=2**-20),
}
