"""Which field of a config a person meant: by its last name, by what it means, by its letters."""

from collections.abc import Iterator
from typing import Any

from cxv_jax.errors import nearest

# Other words for the last name of a field.
MEANINGS = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "batch": "batch_size",
    "bs": "batch_size",
    "epoch": "epochs",
    "layers": "depth",
    "heads": "num_heads",
    "dim": "embed_dim",
    "width": "embed_dim",
    "dataset": "source",
    "early_stopping": "patience",
    "warmup": "warmup_epochs",
    "ema": "ema_decay",
    "precision": "dtype",
}


def field_names(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted path in a nested dict, inner nodes too."""
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from field_names(value, f"{prefix}{key}.")


def meant(typed: str, fields: list[str]) -> str | None:
    """The field with the last name of ``typed``, under the same node if there is one.

    Example:
      >>> fields = ["batch_size", "phase1.learning_rate", "phase2.learning_rate"]
      >>> meant("lr", fields), meant("phase2.lr", fields), meant("seed", fields)
      ('phase1.learning_rate', 'phase2.learning_rate', None)
    """
    node, _, last = typed.rpartition(".")
    last = MEANINGS.get(last, last)
    found = [field for field in fields if field.rpartition(".")[2] == last]
    return min(found, key=lambda f: (not f.startswith(f"{node}."), f.count("."), f), default=None)


def did_you_mean(typed: str, fields: list[str]) -> str:
    """The end of a message about a field that is not there."""
    field = meant(typed, fields)
    return f"; did you mean {field!r}?" if field else nearest(typed, fields)
