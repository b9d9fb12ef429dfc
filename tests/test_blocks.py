"""Every block of README and docs: Python is run, commands are checked flag by flag."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cxv_jax.config import base
from cxv_jax.config_fields import described
from cxv_jax.launch.fields import field_names
from cxv_jax.models import MODELS
from experiments.__main__ import COMMANDS, LISTS
from experiments.configs import FOLDER, compare_digits
from tests.test_docs import GUIDES, PAGES, ROOT
from tests.test_package import PROJECT

FIELDS = {x for m in MODELS for x in field_names(base(m, "digits").to_dict())}
COMPARED = FIELDS | set(compare_digits.get_config())  # With a comparison's own.
OTHERS = {  # What else a block may call, and what must hold of the call.
    "make": lambda words: all(
        f"\n{w}:" in (ROOT / "Makefile").read_text() for w in words if "=" not in w
    ),
    "pip": lambda words: _extras(words) <= set(PROJECT["optional-dependencies"]),
    "git": lambda words: words[0] == "clone",
    "cd": lambda words: len(words) == 1,
    ".": lambda words: words == [".venv/bin/activate"],
    "mkdocs": lambda words: words in (["serve"], ["build", "--strict"]),
    "pre-commit": lambda words: words == ["install"],
}


def blocks(pages: list[Path]) -> list[tuple[str, str, str]]:
    """``(page:number, language, text)`` of every fenced block."""
    return [
        (f"{page.relative_to(ROOT)}:{i}", language, text)
        for page in pages
        for i, (language, text) in enumerate(
            re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
        )
    ]


def commands(text: str) -> list[list[str]]:
    """The words of every command of a block."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    parts = (part for line in lines for part in re.split(r" && ", line))
    return [words for part in parts if (words := shlex.split(part.lstrip("!%"), comments=True))]


def flags(module: str) -> set[str]:
    """The flags that a command defines, or argparse's of a benchmark."""
    path = ROOT.joinpath(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__main__.py"
    found = re.findall(r'DEFINE\w*\((?:\w+\(\), )?\s*"(\w+)"|"--([\w-]+)"', file.read_text())
    return {absl or argparse for absl, argparse in found}


def _extras(words: list[str]) -> set[str]:
    found = re.findall(r"\[([\w,]+)\]", " ".join(words))
    return {extra for group in found for extra in group.split(",")}


def check(words: list[str]) -> None:
    """One command of ours has only flags, fields and presets that are there."""
    words = words[3:] if words[:2] == ["taskset", "-c"] else words
    if words[0] == "cxv":
        if words[1] in (*LISTS, "--help", "--version"):
            return
        words = ["python", "-m", f"experiments.{COMMANDS[words[1]]}", *words[2:]]
    if words[:2] != ["python", "-m"]:
        script = words[0] == "python" and (ROOT / words[1]).is_file()
        assert script or OTHERS[words[0]](words[1:]), words
        return
    module = words[2].removesuffix(".__main__")
    if not module.startswith(("experiments.", "benchmarks.", "tests.")):
        assert module in ("venv", "pytest", "experiments", "cxv_jax", "pip")
        return
    fields = COMPARED if module == "experiments.compare" else FIELDS
    for word in words[3:]:
        name, _, value = word.partition("=")
        if name.startswith("--config.") and name != "--config.FIELD":
            assert name.removeprefix("--config.") in fields, word
        elif name.startswith("--config.") or name == "--help":
            continue
        elif name.startswith("--"):
            assert name[2:].removeprefix("no") in flags(module) or name[2:] in flags(module), word
        if name == "--config" and value != "…":
            preset = value.partition(":")[0]
            assert (ROOT / preset).is_file() or (FOLDER / f"{preset}.py").is_file(), word


@pytest.mark.parametrize(
    ("place", "text"), [(p, text) for p, lang, text in blocks(PAGES) if lang in ("", "bash")]
)
def test_each_command_has_only_what_is_there(place: str, text: str) -> None:
    if text.startswith("config ──>"):  # The drawing of the data's way.
        return
    for words in commands(text):
        check(words)


@pytest.mark.parametrize(
    ("place", "text"), [(p, text) for p, lang, text in blocks(GUIDES) if lang == "python"]
)
def test_each_example_runs(place: str, text: str) -> None:
    exec(compile(text, place, "exec"), {"__name__": place})


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    pytest.importorskip("mkdocstrings", reason="pip install '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "configuration" / "index.html").read_text()
    rows = described(base("cpv", "digits").to_dict())
    fields = [name for name, *_ in rows if not name.startswith("model.")]
    assert [name for name in fields if f">{name}<" not in page] == []
    api = (tmp_path / "api" / "index.html").read_text()
    for name in ("linear_attention", "create", "hand_over", "load_run"):
        assert re.search(rf'id="cxv_jax\.[\w.]*\b{name}"', api), name
