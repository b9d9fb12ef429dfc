"""What the campaign has to do: children of it, in order of use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cxv_jax import models

Stop = Callable[[], bool]
GRACE = 30.0  # Seconds that a child has to end after SIGTERM.
BATCH_SIZE = 128
FIRST = ("cxv_base", "cpv", "cnv", "cltv", "cxv_small", "cxv_nano", "vit", "cct_7_3x1", "resnet18")
PUBLISHED = ("cpv", "cnv", "cltv")
GOLDENS = {
    "goldens_cxv": "tests/test_torch_import.py::test_logits_and_gradients_equal_the_authors_code",
    "goldens_baselines": "tests/torch_import/test_keys.py::test_logits_equal_the_original_code",
}


class Task(NamedTuple):
    """One child of the campaign.

    Attributes:
      stage: whose table it is part of.
      name: of its record.
      module: what the child runs.
      arguments: its command line.
      result: the file it writes; for a training its folder's ``summary.json``.
      limit: seconds after which it has failed; None: it resumes, and has what the piece has.
      needs: the torch build it needs: ``"torch"``, or nothing.
    """

    stage: str
    name: str
    module: str
    arguments: list[str]
    result: Path
    limit: float | None
    needs: str = ""


def all_of(data_dir: str, output: Path) -> list[Task]:
    """The tasks at the sizes that count."""
    rest = [name for name in models.MODELS if name not in FIRST]
    systems: list[dict[str, object]] = [{"name": name} for name in (*FIRST, *rest)]
    bf16 = "--config.model.dtype=bfloat16"
    data = f"--config.data.data_dir={data_dir}"
    return [
        *(_golden(name, output) for name in GOLDENS),
        _own("correctness", "agreement", ["--models=cpv,cnv,cltv,cxv_base", "--steps=20"], output),
        _own("device", "device", ["--size=8192", "--megabytes=1024"], output),
        *(_costs(system, dtype, BATCH_SIZE, 5, output)
          for system in systems for dtype in ("float32", "bfloat16")),
        *(_torch(name, dtype, BATCH_SIZE, 5, output)
          for name in PUBLISHED for dtype in ("float32", "bfloat16")),
        *(_training(f"cxv_base-strong-bfloat16-seed{seed}",
                    ["--config=cifar10:cxv_base,strong", f"--config.seed={seed}", bf16, data],
                    output) for seed in range(3)),
        _training("cpv-paper-float32-seed0", ["--config=cifar10:cpv,paper", data], output),
    ]  # fmt: skip


def rehearsal(output: Path) -> list[Task]:
    """The same kinds of tasks at toy size, for a CPU."""
    toy: dict[str, object] = {
        "name": "cltv",
        "embed_dim": 8,
        "depth": 1,
        "num_heads": 1,
        "head_dim": 4,
    }
    tiny = ["--config=digits:cltv", "--config.phase1.epochs=2", "--config.phase2.epochs=1"]
    tiny += ["--config.phase1.schedule=constant", "--config.data.subset_per_class=20"]
    tiny += ["--config.batch_size=16", "--config.phase1.learning_rate=0.01"]
    tiny += [f"--config.model.{k}={v}" for k, v in toy.items() if k != "name"]
    return [
        _golden("goldens_cxv", output),
        _own("correctness", "agreement", ["--models=cltv", "--steps=2"], output),
        _own("device", "device", ["--size=256", "--megabytes=8"], output),
        *(_costs(toy, dtype, 4, 1, output) for dtype in ("float32", "bfloat16")),
        _torch("cltv", "float32", 1, 1, output),
        *(_training(f"toy-seed{seed}", [*tiny, f"--config.seed={seed}"], output)
          for seed in range(1)),
    ]  # fmt: skip


def _golden(name: str, output: Path) -> Task:
    """The project's own tests against stored tensors of the original code, on the device."""
    result = output / "results" / f"{name}.xml"
    # conftest.py chooses the CPU unless told otherwise; `agreement` sets that and calls pytest.
    arguments = [f"--tests={GOLDENS[name]}", f"--result={result}"]
    return Task("correctness", name, "benchmarks.accelerator.goldens", arguments, result, 400)


def _own(stage: str, name: str, arguments: list[str], output: Path) -> Task:
    result = output / "results" / f"{name}.json"
    arguments = [*arguments, f"--result={result}"]
    return Task(stage, name, f"benchmarks.accelerator.{name}", arguments, result, 300)


def _costs(system: dict[str, object], dtype: str, batch: int, repeats: int, output: Path) -> Task:
    name = f"costs_{system['name']}_{dtype}"
    result = output / "results" / f"{name}.json"
    arguments = [f"--system={json.dumps({**system, 'dtype': dtype})}", f"--batch_size={batch}"]
    arguments += [f"--repeats={repeats}", f"--json={result}"]
    return Task("costs", name, "experiments.benchmark", arguments, result, 240)


def _torch(model: str, dtype: str, batch: int, repeats: int, output: Path) -> Task:
    folder = output / "results" / f"torch_{model}_{dtype}"
    arguments = [f"--models={model}", f"--dtype={dtype}", f"--batch_size={batch}"]
    arguments += [f"--repeats={repeats}", f"--output={folder}"]
    result = folder / "against_torch.json"
    return Task(
        "torch", folder.name, "benchmarks.against_torch", arguments, result, 400, needs="torch"
    )


def _training(name: str, arguments: list[str], output: Path) -> Task:
    folder = output / "runs" / name
    arguments = [*arguments, f"--workdir={folder}", "--quiet"]
    return Task("training", name, "experiments.train", arguments, folder / "summary.json", None)
