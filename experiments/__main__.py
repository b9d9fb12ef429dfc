"""Convolutional X-formers for Vision: train, evaluate and compare image classifiers.

cxv train --config=digits:cpv           cxv COMMAND --help tells the flags of a command
cxv evaluate --workdir=runs/digits-cpv  in a checkout, also python -m experiments.COMMAND
"""

import ast
import importlib
import re
import sys
from pathlib import Path

from cxv_jax.errors import nearest
from cxv_jax.launch import command, presets
from cxv_jax.version import __version__
from experiments.configs import FOLDER

COMMANDS = {
    "train": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "explain": "explain",
    "inspect": "inspect_data",
    "plan": "plan",
    "compare": "compare.__main__",
    "benchmark": "benchmark",
    "export": "export",
    "import-torch": "import_torch",
}
LISTS = {"configs": "The presets that --config takes.", "models": "The models that a config takes."}
MEANINGS = {"fit": "train", "test": "evaluate", "classify": "predict", "infer": "predict"}


def main() -> None:
    """Run ``cxv COMMAND``; the exit codes are those of the command."""
    name, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in ("--help", "-h", "help"):
        command.say(usage())
    elif name == "--version":
        command.say(f"cxv_jax {__version__}")
    elif name in LISTS and not arguments:
        command.say("\n".join(configs() if name == "configs" else models()))
    elif name in LISTS:
        command.fail(f"cxv {name} takes no arguments, got {arguments[0]!r}")
    elif name in COMMANDS:
        start(name, arguments)
    else:
        known = [*COMMANDS, *LISTS]
        command.fail(f"unknown command {name!r}{nearest(MEANINGS.get(name, name), known)}")


def start(name: str, arguments: list[str]) -> None:
    """Run a command in this process, as ``python -m experiments.NAME`` does."""
    sys.argv = [f"cxv {name}", *arguments]
    module = importlib.import_module(f"experiments.{COMMANDS[name]}")
    about, complete = as_typed(module.__doc__ or ""), getattr(module, "complete", list)
    command.run(module.main, presets_in=FOLDER, about=about, complete=complete)


def usage() -> str:
    """All commands with their first lines."""
    files = {name: module.replace(".", "/") for name, module in COMMANDS.items()}
    lines = {name: about(Path(__file__).parent / f"{file}.py") for name, file in files.items()}
    rows = [f"  {name:<14}{line}" for name, line in (lines | LISTS).items()]
    return "\n".join([__doc__.strip(), "", "Commands:", *rows, "  --version"])


def configs() -> list[str]:
    """The presets with their first lines."""
    return [f"{name:<23}{about(FOLDER / f'{name}.py')}" for name in presets.names(FOLDER)]


def models() -> list[str]:
    """The models with what makes each of them."""
    from cxv_jax.models import MODELS  # Late: only this list needs JAX.

    def row(name: str) -> str:
        settings = ", ".join(f"{k}={v}" for k, v in MODELS[name].keywords.items())
        return f"{name:<23}{MODELS[name].func.__name__}({settings})"

    return [row(name) for name in MODELS]


def about(file: Path) -> str:
    """The first line of a module, which is not run: its flags would clash with another's."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return text.partition("\n")[0].replace("``", "")


def as_typed(text: str) -> str:
    """A module's text with ``cxv`` and names of presets for what one types in a checkout.

    Example:
      >>> as_typed("python -m experiments.train --config=experiments/configs/digits.py:cpv")
      'cxv train --config=digits:cpv'
    """
    commands = {module.removesuffix(".__main__"): name for name, module in COMMANDS.items()}
    text = re.sub(r"python -m experiments\.(\w+)", lambda m: f"cxv {commands[m[1]]}", text)
    return re.sub(r"experiments/configs/(\w+)\.py", r"\1", text)


if __name__ == "__main__":
    main()
