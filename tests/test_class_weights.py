"""Weighted classes: the loss is PyTorch's weighted mean; the best epoch is that of any figure."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.utils.class_weight import compute_class_weight

from cxv_jax import augment, models, step, train
from cxv_jax.config import check_config
from cxv_jax.data import sources
from cxv_jax.data.splits import Dataset
from cxv_jax.errors import InputError
from cxv_jax.phase import Phase
from cxv_jax.records import Best, Progress
from cxv_jax.session import Session
from experiments.configs import digits
from tests import small_steps

torch = pytest.importorskip("torch")
TINY = {"embed_dim": 8, "depth": 1, "num_heads": 1, "head_dim": 4}
WEIGHTS = (0.5, 4.0, 1.0)


def config_of(**fields: str) -> ConfigDict:
    config = digits.get_config("cltv")
    config.model.update(TINY)
    config.data.subset_per_class = 20
    config.phase1.update(epochs=2, patience=5)
    config.phase2.epochs = 0
    config.update(fields)
    return config


def unbalanced() -> Dataset:
    """Digits, of which class 1 has a fifth of the training images of the others."""
    dataset = sources.load("digits", subset_per_class=20)
    labels = dataset.split("train").labels
    rare = np.flatnonzero(labels == 1)[3:]
    kept = dataset.split("train").take(np.setdiff1d(np.arange(len(labels)), rare))
    return Dataset(dataset.name, dataset.class_names, {**dataset.splits, "train": kept})


def test_the_weighted_mean_and_its_gradient_are_pytorchs() -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(12, 3)).astype(np.float32), draw.integers(0, 3, 12)
    config = step.StepConfig((), (), 3, 0.0, 0.0, augment.make(), lambda r, c: c, 0)
    config = config._replace(class_weights=WEIGHTS)
    weights = step.example_weights(config, jax.nn.one_hot(labels, 3))["weight"]

    def ours(logits: jax.Array) -> jax.Array:
        losses = -jax.nn.log_softmax(logits)[np.arange(12), labels]
        return (losses * weights).mean()

    value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
    theirs = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.CrossEntropyLoss(torch.tensor(WEIGHTS))(theirs, torch.tensor(labels))
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-7)


def test_a_mixed_image_weighs_as_its_parts_do() -> None:
    config = step.StepConfig((), (), 3, 0.0, 0.0, augment.make(), lambda r, c: c, 0)
    config = config._replace(class_weights=WEIGHTS)
    targets = jnp.array([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    raw = np.array([0.25 * 0.5 + 0.75 * 4, 1.0])
    found = step.example_weights(config, targets)["weight"]
    np.testing.assert_allclose(found, raw / raw.mean(), rtol=1e-6)


def test_an_update_weighs_the_classes_in_parts_too() -> None:
    """Equal weights change nothing; parts and devices weigh as the whole batch does."""
    model = models.create("cltv", dropout=0.0, **TINY)

    def params(**options: object) -> list[np.ndarray]:
        state, *_ = small_steps.run(model, 1, rate=0.1, **options)  # type: ignore[arg-type]
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]

    plain, same = params(), params(class_weights=(3.0,) * 10)
    uneven = tuple(np.linspace(0.1, 4, 10).tolist())
    whole = params(class_weights=uneven)
    parts = params(class_weights=uneven, micro_batch=4)
    many = params(class_weights=uneven, devices=8)
    for a, b, c, d, e in zip(plain, same, whole, parts, many, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_allclose(c, d, atol=1e-6)
        np.testing.assert_allclose(c, e, atol=1e-6)
    assert max(float(abs(a - c).max()) for a, c in zip(plain, whole, strict=True)) > 1e-4


def test_a_session_weighs_by_the_training_split() -> None:
    dataset = unbalanced()
    assert Session.of(config_of(), dataset=dataset).class_weights is None
    session = Session.of(config_of(class_weights="balanced"), dataset=dataset)
    expected = compute_class_weight(
        "balanced", classes=np.arange(10), y=dataset.split("train").labels
    )
    assert session.class_weights == pytest.approx(expected)
    assert session.phases[Phase.ONE]._step_config.class_weights == session.class_weights


def test_a_number_for_each_class_is_taken_as_it_is() -> None:
    told = "1,1,2.5,0,1,1,1,1,1,1"
    session = Session.of(config_of(class_weights=told), dataset=unbalanced())
    assert session.class_weights == (1, 1, 2.5, 0, 1, 1, 1, 1, 1, 1)
    with pytest.raises(InputError, match="has 2 numbers, expected 10, for 0, 1, 2"):
        Session.of(config_of(class_weights="1,2"), dataset=unbalanced())


def test_a_balanced_order_shows_rare_classes_as_often() -> None:
    config = config_of()
    config.data.order, config.batch_size = "balanced", 8
    session = Session.of(config, dataset=unbalanced())
    labels = session.dataset.split("train").labels
    loader = session.train_loader
    index = np.concatenate([np.ravel(feed["index"]) for _, feed in loader.epoch(3)])
    counts = np.bincount(labels[index], minlength=10)
    assert abs(counts - len(labels) / 10).max() <= 1 + len(labels) % 8
    config.class_weights = "balanced"
    with pytest.raises(InputError, match="not both: rare classes would count twice"):
        check_config(config)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("class_weights", "balance", "'none', 'balanced'"),
        ("class_weights", "1,nan", "'none', 'balanced'"),
        ("class_weights", "0,0", "'none', 'balanced'"),
        ("select_by", "top5", "'top1', 'balanced_accuracy', 'macro_f1'"),
    ],
)
def test_nonsense_is_refused(field: str, value: str, words: str) -> None:
    with pytest.raises(InputError, match=f"config.{field} = '{value}' must be (one of )?{words}"):
        check_config(config_of(**{field: value}))


@pytest.mark.parametrize(("by", "best"), [("top1", 1), ("balanced_accuracy", 2), ("macro_f1", 3)])
def test_the_best_epoch_is_that_of_the_figure_asked_for(by: str, best: int) -> None:
    progress = Progress()
    for top1, balanced, f1 in ((0.9, 0.3, 0.2), (0.8, 0.6, 0.3), (0.7, 0.5, 0.4), (0.9, 0.6, 0.4)):
        progress.end_epoch(Best(top1, 1.0, 1.0, balanced_accuracy=balanced, macro_f1=f1, by=by))
    assert progress.best_so_far().epoch == best
    tie = Best(0.9, 0.5, 1.0, balanced_accuracy=0.6, macro_f1=0.4, by=by)
    assert progress.end_epoch(tie)  # The smaller loss.
    assert Best.from_json(progress.best_so_far().to_json()) == progress.best_so_far()
    assert Best.from_json(dict(top1=0.5, loss=1.0, top5=0.9, epoch=3)) < tie  # An older record.


def test_a_run_selects_by_balanced_accuracy_and_tells(tmp_path: Path) -> None:
    config = config_of(class_weights="balanced", select_by="balanced_accuracy")
    summary = train.train_and_evaluate(config, tmp_path)
    phase = summary.phases["phase1"]
    recalls = [row.recall for row in summary.per_class if row.recall is not None]
    assert phase.test_balanced_accuracy == pytest.approx(np.mean(recalls))
    assert sum(row.hits for row in summary.per_class) == round(
        summary.test_top1 * summary.test_count
    )
    assert "select_by" in (tmp_path / "metrics.jsonl").read_text()
