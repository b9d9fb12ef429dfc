"""What each field of a config means: the comments in ``config.py``, the attributes of models."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from cxv_jax import config as fields
from cxv_jax import models

MODEL = "name"  # Of ``config.model``; the others are the attributes of its class.


def described(config: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """``(field, value, meaning)`` for every field of a config, as plain data, in its order."""
    meanings = comments() | {
        f"model.{name}": text for name, text in attributes(config["model"][MODEL]).items()
    }
    return [
        (name, value, meanings.get(name) or meanings.get(name.rpartition(".")[0], ""))
        for name, value in flatten_dict(dict(config), sep=".").items()
    ]


def comments() -> dict[str, str]:
    """The comment of every field of :func:`cxv_jax.config.base`, in one line."""
    source = Path(fields.__file__).read_text()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    notes = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    alone = {n for n, line in enumerate(source.splitlines(), 1) if line.lstrip().startswith("#")}

    def comment(line: int) -> str:
        first = line
        while first - 1 in alone:
            first -= 1
        return " ".join(notes[n] for n in range(first, line + 1) if n in notes)

    functions = {x.name: x for x in ast.parse(source).body if isinstance(x, ast.FunctionDef)}
    lines = dict(_lines(functions["base"]))
    for name, line in _lines(functions["phase"]):
        lines |= {f"{phase}.{name}": line for phase in ("phase1", "phase2")}
    return {name: comment(line) for name, line in lines.items()} | {
        f"model.{MODEL}": "One of cxv_jax.models.MODELS."
    }


def attributes(model: str) -> dict[str, str]:
    """The meaning of every attribute of a model's class, as its docstring has it."""
    found: dict[str, str] = {}
    for cls in reversed(inspect.getmro(models.MODELS[model].func)):  # type: ignore[arg-type]
        _, _, section = inspect.cleandoc(vars(cls).get("__doc__") or "").partition("Attributes:\n")
        for name, text in re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section, re.MULTILINE):
            plain = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")
            found[name] = " ".join(plain.split())
    return found


def _lines(function: ast.FunctionDef) -> Iterator[tuple[str, int]]:
    """Where each field that a function sets stands."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            name = ast.unparse(node.targets[0]).removeprefix("config.")
            yield name, node.lineno
            if isinstance(node.value, ast.Call) and node.value.args:
                yield from _keys(node.value.args[0], f"{name}.")
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
            yield from _keys(node.value.args[0], "")


def _keys(node: ast.expr, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant):
                yield prefix + str(key.value), key.lineno
                yield from _keys(value, f"{prefix}{key.value!s}.")
