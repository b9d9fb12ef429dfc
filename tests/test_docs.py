"""What README and docs name is there: tests, files, commands, sources."""

import ast
import re
from pathlib import Path

import pytest

from cxv_jax.models import MODELS

ROOT = Path(__file__).parents[1]
FOLDERS = "cxv_jax|experiments|benchmarks|tests|docs"
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "results").rglob("*.md"))]


def named(pattern: str, pages: list[Path]) -> list[tuple[str, str]]:
    """Where a pattern's first group stands: (page, what it names), each once."""
    found = {
        (str(page.relative_to(ROOT)), name)
        for page in pages
        for name in re.findall(pattern, page.read_text())
    }
    assert found, f"no page has {pattern}"
    return sorted(found)


def functions(path: Path) -> set[str]:
    """Names of the functions at the top of a file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("page", "test"), named(r"\b(tests/[\w/]+\.py::\w+)", PAGES))
def test_each_test_that_a_page_names_is_there(page: str, test: str) -> None:
    path, name = test.split("::")
    assert name in functions(ROOT / path)


@pytest.mark.parametrize(("page", "path"), named(rf"(?<![\w/.~])((?:{FOLDERS})/[\w./-]*)", GUIDES))
def test_each_path_that_a_guide_names_is_there(page: str, path: str) -> None:
    assert (ROOT / path.rstrip(".")).exists()


@pytest.mark.parametrize(
    ("page", "name"), named(r"`(\w+\.py)`", [ROOT / "README.md", ROOT / "docs" / "architecture.md"])
)
def test_each_file_that_a_guide_names_without_its_folder_is_there(page: str, name: str) -> None:
    assert list((ROOT / "cxv_jax").rglob(name))


@pytest.mark.parametrize(("page", "link"), named(r"\]\((?!http)([^)#]+)", PAGES))
def test_each_link_leads_somewhere(page: str, link: str) -> None:
    assert (ROOT / page).parent.joinpath(link).exists()


@pytest.mark.parametrize(
    ("page", "module"), named(r"-m ((?:experiments|benchmarks|cxv_jax)[\w.]*)", PAGES)
)
def test_each_command_is_there(page: str, module: str) -> None:
    path = ROOT.joinpath(*module.rstrip(".").split("."))
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_its_source(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "sources.md").read_text()


@pytest.mark.parametrize(
    ("page", "paper"),
    named(r"arXiv[\s:]+(\d{4}\.\d{5})", sorted((ROOT / "cxv_jax").rglob("*.py"))),
)
def test_every_paper_that_a_docstring_cites_is_a_source(page: str, paper: str) -> None:
    assert f"arXiv {paper}" in (ROOT / "docs" / "sources.md").read_text()


def test_docstrings_name_sources_that_a_reader_can_open() -> None:
    private = re.compile("spec(/| section)")
    for folder in FOLDERS.split("|"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".md") and path != Path(__file__):
                assert not private.search(path.read_text()), path
