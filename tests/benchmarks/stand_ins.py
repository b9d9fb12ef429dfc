"""Children of the campaign without processes: written results, and a real tiny training."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from absl import flags
from ml_collections import config_flags

from benchmarks.accelerator.tasks import Task
from cxv_jax import train
from cxv_jax.launch import presets
from experiments.configs import FOLDER

GOLDENS = """<testsuites><testsuite>
<testcase name="logits[cpv]"/>
<testcase name="logits[cnv]"><failure message="3 of 20&#10;differ"/></testcase>
</testsuite></testsuites>"""
DEVICE = {
    "platform": "gpu", "float32": 5e4, "bfloat16": 4e5, "bandwidth": 3000.0,
    "torch": "2.9.0", "torch_cuda": True, "device": "a GPU", "date": "2026-11-28", "versions": {},
}  # fmt: skip
AGREEMENT = [{"model": "cltv", "precision": "highest", "gradients": 3e-6, "losses": [0.0, 2e-6]}]
COSTS = {
    "system": "cltv", "train_images_per_second": 1000.0, "inference_images_per_second": 9000.0,
    "peak_memory_bytes": 2**30, "train_flops": 4e9, "train_traffic": 6e8,
    "train_joules_per_1000": 12.5, "inference_joules_per_1000": None,
}  # fmt: skip
SIDES = [
    {
        "model": "cltv", "side": side, "train_images_per_s": rate, "train_ratio": 500 / rate,
        "infer_images_per_s": rate, "infer_ratio": 500 / rate, "peak_gb": 1.5,
    }
    for side, rate in (("ours", 500.0), ("torch eager", 400.0))
]  # fmt: skip


def launch(task: Task, log: Path, stop: Callable[[], bool]) -> str | None:
    """Do what a task's child does."""
    made: dict[str, Any] = {
        "device": DEVICE,
        "correctness": AGREEMENT,
        "torch": {"sides_float32": SIDES},
        "costs": {**COSTS, "dtype": task.name.rpartition("_")[2]},
    }
    if task.stage == "training":
        train_here(task.arguments)
        return None
    task.result.parent.mkdir(parents=True, exist_ok=True)
    xml = task.result.suffix == ".xml"
    task.result.write_text(GOLDENS if xml else json.dumps(made[task.stage]))
    return None


def train_here(arguments: list[str]) -> None:
    """``python -m experiments.train ARGUMENTS`` in this process."""
    parsed: Any = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=parsed)
    flags.DEFINE_string("workdir", None, "", flag_values=parsed)
    flags.DEFINE_bool("quiet", False, "", flag_values=parsed)
    argv = presets.resolve(["train", *arguments], FOLDER)
    with mock.patch.object(sys, "argv", argv):  # Where ml_collections looks for overrides.
        parsed(argv)
    train.train_and_evaluate(parsed.config, parsed.workdir, quiet=parsed.quiet)
