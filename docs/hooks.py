"""What mkdocs makes of the project's own text: the start page of README, the fields of a config."""

import re
from pathlib import Path
from typing import Any

import griffe

from cxv_jax.config import base
from cxv_jax.config_fields import attributes, described
from cxv_jax.models import MODELS, defaults

ROOT = Path(__file__).parents[1]


class Examples(griffe.Extension):
    """Our docstrings say ``Example:`` where mkdocstrings knows ``Examples:``."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with everything that has a docstring."""
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the marks of ``index.md`` and ``configuration.md``; links to code are its name."""
    if "/" not in page.file.src_uri:
        markdown = re.sub(r"\[([^]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
    for mark, make in (("readme", readme), ("fields", fields), ("models", models)):
        if f"<!-- {mark} -->" in markdown:
            markdown = markdown.replace(f"<!-- {mark} -->", make())
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings' references are read as code."""
    return re.sub(r":\w+:(<code>)~?", r"\1", html)


def readme() -> str:
    """README.md with links from ``docs/``; files outside it are only named."""
    text = re.sub(r"(\]\(|src=\")docs/", r"\1", (ROOT / "README.md").read_text())
    text = re.sub(r"\]\(results/\)", "](results/limited_data/README.md)", text)
    return re.sub(r"(?<!!)\[([^]]+)\]\((?!http|#|[\w/]+\.(?:md|svg))[^)]*\)", r"\1", text)


def fields() -> str:
    """A row for every field but those of the model, with its default."""
    config = base("cpv", "digits").to_dict()
    rows = [row for row in described(config) if not row[0].startswith("model.")]
    return _table(rows)


def models() -> str:
    """For every class of models, its attributes with the defaults of its first model."""
    classes: dict[str, list[str]] = {}
    for name, model in MODELS.items():
        classes.setdefault(model.func.__name__, []).append(name)
    parts = []
    for cls, names in classes.items():
        meaning = attributes(names[0])
        rows = [(k, v, meaning.get(k, "")) for k, v in defaults(names[0]).items()]
        parts.append(
            f"### {cls}\n\n{', '.join(f'`{n}`' for n in names)}; the values are those of "
            f"`{names[0]}`.\n\n{_table(rows)}"
        )
    return "\n\n".join(parts)


def _table(rows: list[tuple[str, Any, str]]) -> str:
    lines = [f"| `{name}` | `{value!r}` | {meaning} |" for name, value, meaning in rows]
    return "\n".join(["| field | default | meaning |", "|---|---|---|", *lines])
