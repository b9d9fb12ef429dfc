"""What the package tells of itself: requirements, version, citation."""

import ast
import re
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
