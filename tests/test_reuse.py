"""Every snippet of docs/reuse.md runs as it stands."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "reuse.md").read_text()
SNIPPETS = dict(re.findall(r"^## (.+?)$.*?^```python\n(.*?)^```$", PAGE, re.M | re.S))


@pytest.mark.parametrize("title", SNIPPETS)
def test_each_snippet_runs(title: str) -> None:
    if title == "Equinox":
        pytest.importorskip("equinox")
    exec(compile(SNIPPETS[title], title, "exec"), {})


def test_every_way_has_a_snippet() -> None:
    assert len(SNIPPETS) == PAGE.count("\n## ") == PAGE.count("```python") == 12
    assert all("assert " in snippet for snippet in SNIPPETS.values())
