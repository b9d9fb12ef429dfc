"""Data goes one way: a module imports only what stands to its left."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cxv_jax"

# What each part may import of the package besides itself: one row a part, from left to right.
ALLOWED: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "files": set(),
    "machine": {"errors"},
    "lock": {"errors", "machine"},
    "phase": set(),
    "tables": set(),
    "text": set(),
    "interrupt": set(),
    "ahead": set(),
    "kernels": set(),
    "attention": {"kernels"},
    "layers": {"errors", "kernels"},
    "mixers": {"attention", "errors", "layers"},
    "models": {"attention", "errors", "kernels", "layers", "mixers"},
    "losses": set(),
    "metrics": set(),
    "sharding": {"errors"},
    "optimizer": {"errors"},
    "augment": {"errors"},
    "jsonable": {"errors"},
    "data": {"errors", "files", "jsonable", "machine"},
    "distributed": {"errors"},
    "torch_import": {"errors", "machine"},
    "records": {"jsonable", "phase"},
    "figures": {"errors"},
    "calibration": set(),
    "step_folder": {"files"},
    "checkpoint": {"errors", "step_folder"},
    "plots": {"files", "text"},
    "config": {"errors", "models", "phase"},
    "config_fields": {"config", "models"},
    "state": {"optimizer"},
    "step": {"augment", "losses", "metrics", "optimizer", "state"},
    "evaluation": {
        *("augment", "calibration", "data", "figures", "losses", "metrics", "records"),
        *("sharding", "step"),
    },
    "parts": {"attention", "data", "errors", "optimizer", "phase", "sharding"},
    "session": {
        *("ahead", "augment", "config", "data", "distributed", "errors", "evaluation", "figures"),
        *("kernels",),
        *("models", "parts", "phase", "sharding", "state", "step"),
    },
    "profile": {"augment", "config", "data", "kernels", "machine", "models", "phase", "session"},
    "memory_plan": {"errors", "models", "phase", "profile", "session", "sharding"},
    "journal": {"errors", "files", "jsonable", "records"},
    "final_table": {"figures", "phase", "records", "text"},
    "track": {"errors"},
    "timings": set(),
    "report": {
        *("files", "final_table", "journal", "phase", "plots", "records", "text", "timings"),
        "track",
    },
    "run_files": {"config", "data", "errors"},
    "inference": {
        *("augment", "checkpoint", "config", "data", "errors", "evaluation", "jsonable"),
        *("models", "parts", "phase", "records", "run_files", "sharding", "state"),
    },
    "explain": {"augment", "data", "errors", "inference"},
    "warm_start": {"errors", "inference", "models", "phase", "session", "torch_import"},
    "runs": {
        *("ahead", "checkpoint", "config", "data", "distributed", "errors", "files", "jsonable"),
        *("lock", "machine", "optimizer", "phase", "records", "run_files", "session", "state"),
        "warm_start",
    },
    "minutes": {
        *("checkpoint", "config", "data", "distributed", "errors", "memory_plan", "phase"),
        *("run_files", "session", "state", "text"),
    },
    "divergence": {"errors", "runs"},
    "export": {"errors", "files", "inference", "version"},
    "train": {
        *("calibration", "config", "distributed", "divergence", "errors", "evaluation"),
        *("figures", "files", "final_table"),
        *("interrupt", "lock", "memory_plan", "metrics", "phase", "records", "report"),
        *("run_files", "runs"),
        *("session", "sharding", "state", "timings", "track", "warm_start"),
    },
    "launch": {"config_fields", "errors", "text"},
    "__init__": {"attention", "models", "optimizer", "version"},
}


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
        found |= {n.split(".")[0] for n in names} & {"experiments", "benchmarks", "tests"}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_to_its_left(path: Path) -> None:
    name = part(path)
    found = imports(path)
    assert not found & {"experiments", "benchmarks", "tests"}
    assert found <= ALLOWED[name] | {name}


def test_the_rows_stand_in_the_order_of_the_data_and_none_is_idle() -> None:
    order = list(ALLOWED)
    for name, allowed in ALLOWED.items():
        assert all(order.index(other) < order.index(name) for other in allowed), name
    for name, allowed in ALLOWED.items():
        used = set().union(*(imports(path) for path in FILES if part(path) == name))
        assert allowed <= used, f"{name} does not import {sorted(allowed - used)}"


@pytest.mark.parametrize(
    ("folder", "never"), [("benchmarks", {"experiments"}), ("experiments", {"benchmarks"})]
)
def test_experiments_and_benchmarks_stand_side_by_side(folder: str, never: set[str]) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not imports(path) & {*never, "tests"}, path


def test_only_checkpoint_imports_orbax() -> None:
    users = {part(path) for path in FILES if "import orbax" in path.read_text()}
    assert users == {"checkpoint"}


@pytest.mark.parametrize("name", ["attention", "optimizer", "augment", "losses"])
def test_flax_stays_out_of_the_pure_parts(name: str) -> None:
    files = [path for path in FILES if part(path) == name]
    assert files
    code = re.compile(r"^\s*(import|from) flax\b", re.MULTILINE)  # Examples may show it.
    assert not [path for path in files if code.search(path.read_text())]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_functions_fit_on_a_screen(path: Path) -> None:
    """At most 60 lines, docstring and all."""
    functions = [x for x in ast.walk(ast.parse(path.read_text())) if isinstance(x, ast.FunctionDef)]
    lengths = {x.name: (x.end_lineno or 0) - x.lineno + 1 for x in functions}
    assert {name: length for name, length in lengths.items() if length > 60} == {}
