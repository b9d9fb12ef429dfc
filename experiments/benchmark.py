"""What systems cost: parameters, FLOPs, memory, images/s and energy, without training them.

python -m experiments.benchmark --models=cpv,cnv,cltv,vit --batch_size=64 --dtype=float32,bfloat16
python -m experiments.benchmark --config=experiments/configs/compare_cifar10_small.py --static_only

Prints a Markdown table. Every system runs in a process of its own, on the first device.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from cxv_jax.launch import children, command
from cxv_jax.tables import markdown
from experiments.configs import FOLDER

MODELS = flags.DEFINE_list("models", None, "Models at their published sizes; all: every one.")
CONFIG = config_flags.DEFINE_config_file("config", None, "A comparison, whose systems to take.")
SYSTEM = flags.DEFINE_string("system", None, "One model with overrides as JSON.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images of a step.", lower_bound=1)
DTYPE = flags.DEFINE_list("dtype", [], "float32, bfloat16 or both (default: as the system has it).")
IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Pixels a side.", lower_bound=1)
NUM_CLASSES = flags.DEFINE_integer("num_classes", 10, "Width of the head.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs, of which the median.", lower_bound=1)
STATIC_ONLY = flags.DEFINE_bool("static_only", False, "Time nothing, only compile.")
JSON = flags.DEFINE_string("json", None, "File for the figures in full precision.")

PASSED_ON = ("batch_size", "image_size", "num_classes", "repeats", "static_only")
# Title, field, unit, digits.
COLUMNS: list[tuple[str, str, float, int]] = [
    ("parameters", "parameters", 1, 0),
    ("(torchsummary)", "parameters_torchsummary", 1, 0),
    ("forward MFLOP/image", "forward_flops", 1e-6, 0),
    ("training MFLOP/image", "train_flops", 1e-6, 0),
    ("training memory MiB", "train_memory", 2**-20, 0),
    ("inference memory MiB", "inference_memory", 2**-20, 0),
    ("training images/s", "train_images_per_second", 1, 1),
    ("inference images/s", "inference_images_per_second", 1, 1),
    ("training J/1,000 images", "train_joules_per_1000", 1, 1),
    ("inference J/1,000 images", "inference_joules_per_1000", 1, 1),
    ("measured peak MiB", "peak_memory_bytes", 2**-20, 0),
]


def main(argv: list[str]) -> int:
    """Print the table; return the exit code, 1 if a system failed."""
    if argv or sum(each is not None for each in (MODELS.value, CONFIG.value, SYSTEM.value)) != 1:
        command.fail("expected --models=NAMES, --config=FILE or --system=JSON; see --help")
    chosen = _systems()
    systems = [{**s, "dtype": d} for d in DTYPE.value for s in chosen] or chosen
    if len(systems) == 1:
        rows = [_profile(systems[0])]
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = [_in_child(system, Path(folder)) for system in systems]
    print("\n".join(table(rows)))
    if JSON.value:
        _write_json(rows[0] if SYSTEM.value else rows, Path(JSON.value))
    return int(any("error" in row for row in rows))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as a Markdown table, with the machine below it."""
    columns = [column for column in COLUMNS if any(column[1] in row for row in rows)]
    titles = ["system", "dtype", *(title for title, *_ in columns)]
    cells = [[row["system"], row["dtype"], *_cells(row, columns)] for row in rows]
    done = [row for row in rows if "error" not in row]
    footer = [_machine(done[0])] if done else []
    return [*markdown(titles, cells, text_columns=2), "", *footer]


def _cells(row: dict[str, Any], columns: list[tuple[str, str, float, int]]) -> list[str]:
    if "error" in row:
        return [f"failed: {row['error']}", *[""] * (len(columns) - 1)]
    values = [(row[field], scale, digits) for _, field, scale, digits in columns]
    return ["not available" if v is None else f"{v * s:,.{digits}f}" for v, s, digits in values]


def _machine(row: dict[str, Any]) -> str:
    memory = f"; measured peak of the {row['peak_memory_of']}" if "peak_memory_of" in row else ""
    versions = ", ".join(f"{name} {number}" for name, number in row["versions"].items())
    return (
        f"Batch {BATCH_SIZE.value}, {IMAGE_SIZE.value}x{IMAGE_SIZE.value} pixels, "
        f"{NUM_CLASSES.value} classes, {row['device']}, {row['date']}{memory}; {versions}."
    )


def _systems() -> list[dict[str, Any]]:
    """What to profile: ``label``, ``name`` and overrides."""
    from cxv_jax import models  # Late: --help must not wait for JAX.
    from cxv_jax.errors import InputError

    if SYSTEM.value:
        system = json.loads(SYSTEM.value)
        return [{"label": system["name"], **system}]
    if CONFIG.value:
        if "systems" not in CONFIG.value:
            raise InputError("--config: expected a comparison, this config has no systems")
        return [{"label": k, **v} for k, v in CONFIG.value.systems.to_dict().items()]
    names = MODELS.value or []
    names = list(models.MODELS) if names == ["all"] else names
    for name in names:
        models.defaults(name)  # Refuses an unknown one.
    return [{"label": name, "name": name} for name in names]


def _profile(system: dict[str, Any]) -> dict[str, Any]:
    from cxv_jax import machine, profile

    label, model = system["label"], {k: v for k, v in system.items() if k != "label"}
    costs = profile.profile(
        model,
        num_classes=NUM_CLASSES.value,
        image_size=IMAGE_SIZE.value,
        batch_size=BATCH_SIZE.value,
        repeats=0 if STATIC_ONLY.value else REPEATS.value,
    )
    where = {k: v for k, v in machine.environment().items() if k in ("device", "date", "versions")}
    return {"system": label, "dtype": _dtype(model), **costs, **where}


def _in_child(system: dict[str, Any], folder: Path) -> dict[str, Any]:
    result, log = folder / "row.json", folder / "log"
    result.unlink(missing_ok=True)
    print(f"profiling {system['label']} ({_dtype(system)})", file=sys.stderr)
    arguments = [f"--{name}={flags.FLAGS[name].value}" for name in PASSED_ON]
    arguments += [f"--system={json.dumps(system)}", f"--json={result}"]
    if error := children.run("experiments.benchmark", arguments, log):
        return {"system": system["label"], "dtype": _dtype(system), "error": error}
    return json.loads(result.read_text())


def _dtype(system: dict[str, Any]) -> str:
    return system.get("dtype", "float32")


def _write_json(rows: Any, path: Path) -> None:
    from cxv_jax.files import write_text

    write_text(path, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    command.run(main, presets_in=FOLDER)
