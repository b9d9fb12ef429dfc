"""Our train step and prediction beside PyTorch's: tables, pictures, settings. Needs torch.

python -m benchmarks.against_torch --models=cpv,cnv,cltv --batch_size=16 --output=runs/against_torch
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from absl import flags

from cxv_jax.launch import command

MODELS = ("cpv", "cnv", "cltv")
SIZES = (16, 32, 64, 128, 256)

_MODELS = flags.DEFINE_list("models", list(MODELS), "Which, at their published sizes.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images of a step.", lower_bound=1)
_DTYPE = flags.DEFINE_list("dtype", ["float32"], "float32, bfloat16 or both.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Pixels a side.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Turns of each side.", lower_bound=1)
_GROW = flags.DEFINE_bool("grow", False, "Also over image sizes and devices.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for tables and pictures.")


def main(argv: list[str]) -> None:
    """Print the tables; with ``--output`` save them with the rows and the pictures."""
    if argv:
        command.fail("expected nothing besides flags; see --help")
    if importlib.util.find_spec("torch") is None:
        command.fail("this needs PyTorch: pip install torch")
    if unknown := [name for name in _MODELS.value if name not in MODELS]:
        command.fail(f"expected models of {', '.join(MODELS)}, not {unknown[0]!r}")
    from benchmarks import side_by_side  # Late: --help must not wait for it.

    tables: dict[str, Any] = {}
    names = list(side_by_side.SIDES)
    for dtype in _DTYPE.value:
        request = dict(batch=_BATCH_SIZE.value, dtype=dtype, size=_IMAGE_SIZE.value)
        rows = []
        for model in _MODELS.value:
            rows += side_by_side.turns_of(model, names, rounds=_REPEATS.value, steps=1, **request)
        _show(tables, f"sides_{dtype}", rows)
        if _GROW.value:
            rows = side_by_side.growth(_MODELS.value[0], names[:2], list(SIZES), **request)
            _show(tables, f"growth_{dtype}", rows)
    settings = _settings(_BATCH_SIZE.value)
    print(settings)
    if _OUTPUT.value:
        _save(tables, settings, Path(_OUTPUT.value))


def _show(tables: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> None:
    from benchmarks.side_by_side import markdown

    tables[name] = rows
    print(f"{markdown(rows)}\n", flush=True)


def _settings(batch_size: int) -> str:
    """What both sides ran under."""
    import torch

    from cxv_jax import machine

    facts = machine.environment()
    return (
        f"Training step with AdamW, and prediction; batch {batch_size} (growth: 1 for the sizes, "
        f"16 for the devices); {facts['device']}, {facts['date']}; jax {facts['versions']['jax']}, "
        f"torch {torch.__version__}. GLIBC_TUNABLES of all sides: "
        f"{os.environ.get('GLIBC_TUNABLES', 'not set')}. "
        "Fractions: PyTorch's count of FLOPs over XLA's measured float32 matrix-product rate. "
        "Peak memory: of the device's allocator, on a CPU of the process, compilation included."
    )


def _save(tables: dict[str, Any], settings: str, folder: Path) -> None:
    from benchmarks import pictures, side_by_side
    from cxv_jax.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([*(side_by_side.markdown(rows) for rows in tables.values()), settings])
    write_text(folder / "against_torch.md", text + "\n")
    write_text(folder / "against_torch.json", json.dumps(tables, indent=1) + "\n")
    for name, rows in tables.items():
        draw = pictures.draw_sides if name.startswith("sides") else pictures.draw_growth
        draw(rows, folder / f"{name}.png")
    print(f"saved in {folder}")


if __name__ == "__main__":
    command.run(main)
