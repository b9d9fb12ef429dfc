"""Data goes one way: a module imports only what stands to its left."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cxv_jax"
LEAVES = {"augment", "data", "optimizer", "losses", "metrics", "sharding", "checkpoint"}
LEAVES |= {"kernels", "torch_import", "interrupt", "plots", "version", "errors", "distributed"}
# What each part may import of the package, besides itself and errors. Leaves: nothing.
ALLOWED: dict[str, set[str]] = {
    "attention": {"kernels"},
    "layers": {"attention", "kernels"},
    "models": {"attention", "layers", "kernels"},
    "state": {"losses", "metrics", "augment"},
    "step": {"losses", "metrics", "augment", "state"},
    "report": {"plots", "runs"},
    "runs": set(),
    "profile": {"models", "step", "state", "optimizer", "sharding", "augment", "runs"},
    **{leaf: set() for leaf in LEAVES},
}
TOP = {"build", "train", "inference", "compare", "plan", "__init__"}  # These meet everything.


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Parts of the package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("cxv_jax.")}
        found |= {"experiments" for n in names if n.split(".")[0] in ("experiments", "tests")}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_to_its_left(path: Path) -> None:
    name = part(path)
    found = imports(path)
    assert "experiments" not in found
    if name not in TOP:
        assert found <= ALLOWED[name] | {name, "errors", "version"}


def test_only_checkpoint_imports_orbax() -> None:
    users = {part(path) for path in FILES if "import orbax" in path.read_text()}
    assert users == {"checkpoint"}


@pytest.mark.parametrize("name", ["attention", "optimizer", "augment", "losses"])
def test_flax_stays_out_of_the_pure_parts(name: str) -> None:
    files = [path for path in FILES if part(path) == name]
    assert files
    assert not [
        path for path in files if "flax" in path.read_text().replace("flax.linen.Multi", "")
    ]
