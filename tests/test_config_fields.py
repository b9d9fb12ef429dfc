"""The meaning of every field, as --help and the docs tell it."""

import pytest

from cxv_jax.config import base
from cxv_jax.config_fields import described
from cxv_jax.models import MODELS


@pytest.mark.parametrize("model", MODELS)
def test_every_field_has_its_value_and_a_meaning(model: str) -> None:
    config = base(model, "digits")
    rows = described(config.to_dict())
    assert [name for name, _, meaning in rows if not meaning] == []
    for name, value, _ in rows:
        node = config
        for part in name.split("."):
            node = node[part]
        assert node == value


def test_meanings_are_the_comments_and_the_attributes() -> None:
    config = base("cpv", "digits")
    meaning = {name: text for name, _, text in described(config.to_dict())}
    assert meaning["data.val_fraction"] == "Held out of train for patience and selection."
    assert meaning["phase2.patience"] == "Epochs without improvement that end the phase."
    assert meaning["phase1.augment.crop_padding"].startswith("Pixels of border")
    assert meaning["phase1.options.weight_decay"].startswith("For the optimizer")
    assert meaning["selection"].startswith('"test" reproduces')  # Two lines above the field.
    assert meaning["selection"].endswith("evaluated before.")
    assert meaning["model.embed_stride"] == "its stride, in **every** block."
