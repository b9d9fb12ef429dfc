"""The command ``cxv`` as a user types it in a folder of his own, and what it makes of mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxv_jax.data import sources
from cxv_jax.errors import InputError
from cxv_jax.launch import fields, presets
from cxv_jax.models import MEANINGS as MODEL_MEANINGS
from cxv_jax.models import MODELS, defaults
from cxv_jax.version import __version__
from experiments.__main__ import COMMANDS
from experiments.configs import FOLDER, digits, recipes
from tests.test_commands import ROOT, TINY, refused

FIELDS = list(fields.field_names(digits.get_config().to_dict()))


def cxv(
    *args: str, cwd: Path = ROOT, module: str = "experiments"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_preset_trains_in_an_empty_folder(tmp_path: Path) -> None:
    trained = cxv("train", "--config", "digits:cltv", *TINY, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "runs" / "digits-cltv"
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["name"] == "cltv"
    assert config["model"]["embed_dim"] == 8
    assert json.loads((run / "summary.json").read_text())["test_top1"] >= 0


def test_help_with_a_config_tells_its_fields() -> None:
    result = cxv("train", "--config=digits:cpv", "--help")
    assert result.returncode == 0, result.stderr
    for field in digits.get_config("cpv").phase1.augment:
        assert f"  --config.phase1.augment.{field}=" in result.stdout
    assert "--config.phase2.epochs=6  " in result.stdout  # The preset's, not the base's.
    refused(cxv("train", "--config=digit:cpv", "--help"), "did you mean 'digits'?")


def test_other_words_mean_a_preset_model_recipe_and_source() -> None:
    for word, preset in presets.MEANINGS.items():
        with pytest.raises(InputError, match=f"did you mean '{preset}'"):
            presets.resolve([f"--config={word}"], FOLDER)
    for word, model in MODEL_MEANINGS.items():
        with pytest.raises(InputError, match=f"did you mean '{model}'"):
            defaults(word)
    for word, recipe in recipes.MEANINGS.items():
        with pytest.raises(InputError, match=f"did you mean '{recipe}'"):
            recipes.build(f"cpv,{word}", "digits", (0.5,), (0.5,))
    for word, source in sources.MEANINGS.items():
        with pytest.raises(InputError, match=f"(?i)did you mean '{source}'"):
            sources.load(word)
    for source, meant in ((str(FOLDER), f"folder:{FOLDER}"), ("Cifar10", "cifar10")):
        with pytest.raises(InputError, match=f"did you mean '{meant}'"):
            sources.load(source)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_of_this_command_and_does_not_wait_for_jax(name: str) -> None:
    code = (
        "import sys\nfrom experiments.__main__ import main\n"
        f"sys.argv = ['cxv', {name!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'jax' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"cxv {name} " in result.stdout
    assert "python -m" not in result.stdout
    assert "configs/" not in result.stdout
    _, _, own = result.stdout.partition("\nFlags:\n")
    assert "  --workdir" in own or "  --config" in own or "  --model" in own


def test_lists_and_version() -> None:
    for module in ("experiments", "cxv_jax"):
        assert cxv("--version", module=module).stdout == f"cxv_jax {__version__}\n"
    refused(cxv("trian", module="cxv_jax"), "did you mean 'train'?")
    usage = cxv("--help").stdout
    assert all(f"\n  {name} " in usage for name in COMMANDS)
    found = [line.split()[0] for line in cxv("configs").stdout.splitlines()]
    assert found == sorted(f.stem for f in FOLDER.glob("*.py") if "def get_config" in f.read_text())
    assert [line.split()[0] for line in cxv("models").stdout.splitlines()] == list(MODELS)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], ["'trian'", "did you mean 'train'?"]),
        (["test"], ["did you mean 'evaluate'?"]),
        (["models", "cpv"], ["no arguments", "'cpv'"]),
        (["train", "--config=digit"], ["--config=digit: neither", "did you mean 'digits'?"]),
        (["train", "--config=absent.py"], ["--config=absent.py: neither", "choose from cifar10,"]),
        (["train", "--config=no/digits.py"], ["no/digits.py: neither", "did you mean 'digits'?"]),
        (["train", "--config=digits:cpw"], ["'cpw'; did you mean 'cpv'?"]),
        (["train", "--config=digits", "--config.lr=1"], ["'lr'; did you mean 'phase1.learning_r"]),
        (["train", "--config=digits", "--epochs=1"], ["--epochs; did you mean --config.phase1.ep"]),
        (["train", "--config=digits", "--wrokdir=x"], ["--wrokdir; did you mean 'workdir'?"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else str(value),
)
def test_a_mistake_is_answered_with_what_was_meant(
    args: list[str], words: list[str], tmp_path: Path
) -> None:
    refused(cxv(*args, cwd=tmp_path), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config = 3", ["--config=mine.py: a config file needs a function get_config"]),
        ("def get_config(): return 1 / 0", ["ZeroDivisionError in the config: division by zero"]),
        (
            "import absent\nget_config = 0",
            ["ModuleNotFoundError in the config: No module", "absent"],
        ),
    ],
)
def test_a_config_file_that_is_none_is_told_so(text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    refused(cxv("train", "--config=mine.py", cwd=tmp_path), *words)


@pytest.mark.parametrize(
    ("typed", "field"),
    [
        ("lr", "phase1.learning_rate"),
        ("phase2.lr", "phase2.learning_rate"),
        ("epochs", "phase1.epochs"),
        ("weight_decay", "phase1.options.weight_decay"),
        ("momentum", "phase2.options.momentum"),
        ("batch", "batch_size"),
        ("depth", "model.depth"),
        ("modle.depth", "model.depth"),
        ("model.dpeth", "model.depth"),
        ("cutmix_alpha", "phase1.augment.cutmix_alpha"),
    ],
)
def test_a_field_is_found_by_its_meaning(typed: str, field: str) -> None:
    assert fields.did_you_mean(typed, FIELDS) == f"; did you mean {field!r}?"


def test_every_meaning_is_a_field() -> None:
    last = {name.rpartition(".")[2] for name in FIELDS}
    assert set(fields.MEANINGS.values()) <= last
    assert not set(fields.MEANINGS) & last


def test_files_are_what_they_were_and_presets_become_files(tmp_path: Path) -> None:
    file = tmp_path / "digits.py"
    file.write_text("def get_config(): ...")
    argv = ["cxv", f"--config={file}:cnv", "--config.seed=1", "--workdir", "digits"]
    assert presets.resolve(argv, FOLDER) == argv
    both = presets.resolve(["--config=digits:a:b", "-config", "cifar10"], FOLDER)
    assert both == [f"--config={FOLDER}/digits.py:a:b", f"--config={FOLDER}/cifar10.py"]
    for absent in ("comparison", "__init__", "", str(tmp_path)):
        with pytest.raises(InputError, match="neither a file nor a preset"):
            presets.resolve([f"--config={absent}"], FOLDER)
