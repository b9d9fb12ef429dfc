"""What the package tells of itself: requirements, version, citation."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from cxv_jax import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"cxv_jax", "experiments"}
APART = {"jax2onnx", "onnxruntime"}  # The one pins an older Orbax than ours.


def names(requirements: list[str]) -> set[str]:
    """Distributions without versions and extras, written one way."""
    found = (re.match(r"[\w.-]+", line) for line in requirements)
    return {match[0].lower().replace("_", "-") for match in found if match}


REQUIRED = names((ROOT / "requirements.txt").read_text().splitlines())
OPTIONAL = names([line for extra in PROJECT["optional-dependencies"].values() for line in extra])


def imported(path: Path) -> set[str]:
    """Packages that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - OURS


def test_everything_imported_is_declared() -> None:
    optional = {"pynvml": ["nvidia-ml-py"], "pillow_heif": ["pillow-heif"]}
    homes = {**packages_distributions(), **optional}
    for path in (file for package in OURS for file in (ROOT / package).rglob("*.py")):
        for name in imported(path) - APART:
            assert names(homes[name]) & (REQUIRED | OPTIONAL), f"{path} imports {name}"


def test_nothing_is_declared_that_nobody_imports() -> None:
    used = {
        name for package in OURS for f in (ROOT / package).rglob("*.py") for name in imported(f)
    }
    homes = packages_distributions()
    found = {home for name in used for home in names(homes.get(name, []))}
    # What TensorFlow Datasets needs and does not declare.
    assert REQUIRED - found == {"importlib-resources"}


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {__version__}\n" in citation
    assert f"\nlicense: {PROJECT['license']}\n" in citation
    assert "arXiv:2201.10271" in citation


IMPORT = """
import json, logging, os, signal, sys, warnings
import jax

def settings():
    signals = [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    logs = [logging.root.level, len(logging.root.handlers)]
    return [dict(jax.config.values), dict(os.environ), list(warnings.filters), signals, logs]

before, modules = settings(), set(sys.modules)
import cxv_jax
one = len(set(sys.modules) - modules)
for name in cxv_jax.__all__:
    getattr(cxv_jax, name)
new = sorted({name.partition(".")[0] for name in set(sys.modules) - modules})
print(json.dumps([settings() == before, one, len(set(sys.modules) - modules), new]))
"""


def test_the_import_is_small_and_touches_no_device_and_no_setting() -> None:
    """A JAX without devices would refuse to be asked for one; modules are counted, not seconds."""
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_device", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    same, one, modules, new = json.loads(done.stdout)
    assert same
    assert one == 2  # The package and its version: the names come when they are used.
    assert modules < 450  # Flax and optax are most of them; 350 when this was written.
    heavy = {"orbax", "matplotlib", "sklearn", "scipy", "grain", "tensorstore", "PIL", "chex"}
    assert not heavy & set(new)
