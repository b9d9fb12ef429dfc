"""``python -m experiments.benchmark --against=torch``: the table, the pictures, the settings."""

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import cli

MODELS = ("cpv", "cnv", "cltv")
SIZES = (16, 32, 64, 128, 256)


def run(
    models: Sequence[str],
    dtypes: Sequence[str],
    *,
    batch_size: int,
    image_size: int,
    repeats: int,
    grow: bool,
    output: str | None,
) -> int:
    """Print the tables; with ``output``, a folder, save them with the rows and the pictures."""
    if importlib.util.find_spec("torch") is None:
        cli.fail("--against=torch needs PyTorch: pip install torch")
    if unknown := [name for name in models if name not in MODELS]:
        cli.fail(f"--against=torch knows {', '.join(MODELS)}, not {unknown[0]!r}")
    from benchmarks import against_torch

    tables: dict[str, Any] = {}
    names = list(against_torch.SIDES)
    for dtype in dtypes or ["float32"]:
        request = dict(batch=batch_size, dtype=dtype, size=image_size)
        rows = []
        for model in models:
            rows += against_torch.compare(model, names, rounds=repeats, steps=1, **request)
        _show(tables, f"sides_{dtype}", rows)
        if grow:
            rows = against_torch.growth(models[0], names[:2], list(SIZES), **request)
            _show(tables, f"growth_{dtype}", rows)
    settings = _settings(batch_size)
    print(settings)
    if output:
        _save(tables, settings, Path(output))
    return 0


def _show(tables: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> None:
    from benchmarks.against_torch import markdown

    tables[name] = rows
    print(f"{markdown(rows)}\n", flush=True)


def _settings(batch_size: int) -> str:
    """What both sides ran under."""
    import torch

    from cxv_jax import runs

    facts = runs.environment()
    return (
        f"Training step with AdamW, and prediction; batch {batch_size} (growth: 1 for the sizes, "
        f"16 for the devices); {facts['device']}, {facts['date']}; jax {facts['versions']['jax']}, "
        f"torch {torch.__version__}. GLIBC_TUNABLES of all sides: "
        f"{os.environ.get('GLIBC_TUNABLES', 'not set')}. "
        "Fractions: PyTorch's count of FLOPs over XLA's measured float32 matrix-product rate. "
        "Peak memory: of the device's allocator, on a CPU of the process, compilation included."
    )


def _save(tables: dict[str, Any], settings: str, folder: Path) -> None:
    from benchmarks import against_torch, pictures
    from cxv_jax.runs import write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([*(against_torch.markdown(rows) for rows in tables.values()), settings])
    write_atomically(folder / "against_torch.md", text + "\n")
    write_atomically(folder / "against_torch.json", json.dumps(tables, indent=1) + "\n")
    for name, rows in tables.items():
        draw = pictures.draw_sides if name.startswith("sides") else pictures.draw_growth
        draw(rows, folder / f"{name}.png")
    print(f"saved in {folder}")
