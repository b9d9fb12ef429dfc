"""The one training loop: ``train_and_evaluate(config, workdir)``."""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cxv_jax import augment, metrics, models, optimizer, runs, sharding, step
from cxv_jax import state as train_states
from cxv_jax.attention import random_projection
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.data import sources
from cxv_jax.data.loader import Loader, make_loader
from cxv_jax.errors import InputError
from cxv_jax.interrupt import Interrupt, Interrupted
from cxv_jax.report import Report, final_table
from cxv_jax.state import TrainState


@dataclasses.dataclass
class Progress:
    """Where a run stands besides its arrays; checkpointed as JSON.

    ``steps`` counts inside the epoch, ``sums`` holds the metrics of its steps so far, ``best`` maps
    ``phase1`` and ``phase2`` to the metrics of their best epoch, ``rates`` are images/s by epoch.
    """

    phase: int = 1
    epoch: int = 0
    phase_epoch: int = 0
    steps: int = 0
    patience: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    rates: list[float] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """The running phase's key in the config and in ``best``."""
        return f"phase{self.phase}"

    def best_so_far(self) -> dict[str, Any]:
        """Metrics of the best epoch of both phases."""
        nothing = {"top1": -1.0, "loss": math.inf}
        return self.best.get("phase2") or self.best.get("phase1") or nothing


def train_and_evaluate(
    config: ConfigDict, workdir: str | Path, *, quiet: bool | None = None, fork: bool = False
) -> dict[str, Any]:
    """Train both phases, select on validation, read test once at the end.

    Resumes by itself from the latest checkpoint in ``workdir``, to the same result bit for bit on
    the same hardware. Order: steps of an epoch, evaluate, save, next epoch. Metrics are read one
    call late, so the device never waits for the host.

    Args:
      config: see ``experiments/configs``; checked before anything is written.
      workdir: the run's folder.
      quiet: no progress bar; None: where stdout is not a terminal.
      fork: go on although the config differs from the one ``workdir`` was started with.

    Returns:
      The summary that is also written to ``workdir/summary.json``.

    Raises:
      InputError: for bad config, data or checkpoints, and for a loss that is not finite.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    runs.check_config(config)
    mesh = sharding.create_mesh(config.fsdp)
    dataset = load_dataset(config)
    model = models.create(num_classes=dataset.num_classes, **config.model)
    loaders = {name: _loader(config, mesh, dataset, name) for name in ("train", config.selection)}
    train_loader = loaders["train"]
    txs = {n: build_phase(config, n, train_loader.steps_per_epoch) for n in ("phase1", "phase2")}
    create = partial(_create_state, config, model, dataset.image_shape)
    templates = {name: _template(partial(create, tx), mesh) for name, tx in txs.items()}
    trainers = {
        name: _trainer(config, model, txs[name], name, templates[name], dataset, train_loader)
        for name in txs
    }
    evaluate = _evaluator(config, model)
    rng = jax.device_put(jax.random.key(config.seed), sharding.replicated(mesh))

    workdir = runs.open_run(workdir, config, fork=fork)
    if (summary := runs.finished(workdir, config)) is not None:
        print("\n".join([f"{workdir} is already finished", *final_table(summary)]))
        return summary
    checkpointer = Checkpointer(workdir / "checkpoints")
    resumed, progress = checkpointer.latest_step(), Progress()
    if resumed is None:
        init = jax.jit(partial(create, txs["phase1"]), out_shardings=_places(templates["phase1"]))
        state = init()
    else:
        progress = _progress(checkpointer.meta(resumed), workdir)
        state = checkpointer.restore(resumed, templates[progress.name])
    started = time.time() - progress.seconds

    def save(best_of: str | None = None) -> None:
        progress.seconds = time.time() - started
        meta = {"config": config.to_dict(), "dataset": describe(dataset)}
        meta |= {"progress": dataclasses.asdict(progress), "selection": config.selection}
        checkpointer.save(int(state.step), state, meta, best_of=best_of)

    def stop_if_asked() -> None:
        if interrupt.signal:
            checkpointer.close()
            text = f"saved step {int(state.step)} in {workdir}; run the same command to continue"
            raise Interrupted(interrupt.signal, text)

    with Interrupt() as interrupt, Report(workdir, quiet=quiet, resume_step=resumed or 0) as report:
        report.message(_introduce(config, dataset, state))
        if resumed is not None:
            where = f"phase {progress.phase}, {progress.epoch} whole epochs done"
            report.message(f"resuming {workdir} from step {resumed} ({where})")
        while True:
            phase = config[progress.name]
            train = trainers[progress.name]
            while progress.phase_epoch < phase.epochs and progress.patience < phase.patience:
                # One epoch of steps.
                epoch, epoch_started, first_step = progress.epoch + 1, time.time(), progress.steps
                total_steps = train_loader.steps_per_epoch
                report.start_epoch(
                    progress.phase, epoch, total_steps, config.batch_size, done=first_step
                )
                late = None
                for count, feed in train_loader.epoch(progress.epoch, progress.steps):
                    with jax.transfer_guard("disallow"):
                        state, sums = train(state, rng, train_loader.data, feed)
                    if late is not None:
                        _read(late, progress, report)
                    late = (count, sums)
                    if interrupt.signal:
                        break
                if late is not None:
                    _read(late, progress, report)
                if progress.steps < total_steps:
                    save()
                    stop_if_asked()
                seconds = time.time() - epoch_started
                rate = (total_steps - first_step) * config.batch_size / seconds

                # Evaluate.
                results = evaluate(state.variables(), loaders[config.selection])
                best = progress.best_so_far()
                improved = (results["top1"], -results["loss"]) > (best["top1"], -best["loss"])
                trained = metrics.means(progress.sums)
                progress.epoch, progress.phase_epoch = epoch, progress.phase_epoch + 1
                progress.steps, progress.sums = 0, {}
                progress.patience = 0 if improved else progress.patience + 1
                progress.rates.append(rate)
                if improved:
                    progress.best[progress.name] = {**results, "epoch": epoch}

                # Report, then save: a resumed run drops the lines beyond its checkpoint.
                report.end_epoch(
                    {
                        "phase": progress.phase,
                        "epoch": epoch,
                        "step": int(state.step),
                        "train_loss": trained["loss"],
                        "train_top1": trained["top1"],
                        "val_loss": results["loss"],
                        "val_top1": results["top1"],
                        "val_top5": results["top5"],
                        "best_top1": progress.best_so_far()["top1"],
                        "improved": improved,
                        "patience_left": phase.patience - progress.patience,
                        "learning_rate": _learning_rate(state),
                        "images_per_second": rate,
                        "seconds": seconds,
                        "selection": config.selection,
                    }
                )
                save(best_of=progress.name if improved else None)
                stop_if_asked()

            # Hand the best weights over to the second optimizer.
            if progress.phase == 2 or not config.phase2.epochs:
                break
            if progress.best:
                best_state = _restore_best(checkpointer, "phase1", templates["phase1"])
                state = dataclasses.replace(best_state, step=state.step)
            state = _hand_over(txs["phase2"], templates["phase2"], state)
            progress.phase, progress.phase_epoch, progress.patience = 2, 0, 0
            report.handoff(
                {
                    "phase": 2,
                    "epoch": progress.epoch,
                    "step": int(state.step),
                    "best_top1": max(progress.best_so_far()["top1"], 0.0),
                    "from_epoch": progress.best_so_far().get("epoch", 0),
                }
            )

        # Test is read here and nowhere else.
        test_loader = _loader(config, mesh, dataset, "test")
        phases = {}
        for name in progress.best:
            best_state = _restore_best(checkpointer, name, templates[name])
            test = evaluate(best_state.variables(), test_loader)
            phases[name] = _flat("val", progress.best[name]) | _flat("test", test)
        if config.phase2.epochs and "phase2" not in phases:  # The best weights are still these.
            phases["phase2"] = phases["phase1"]
        summary = runs.summarise(config, workdir, dataset.name, progress, phases, state.params)
        checkpointer.close()
        report.finish(summary)
    return summary


def load_dataset(config: ConfigDict) -> sources.Dataset:
    """The data set that ``config.data`` names, with its splits fixed by ``config.seed``."""
    fields = ("val_fraction", "val_per_class", "subset_per_class", "image_size", "data_dir")
    options = {name: config.data[name] for name in (*fields, "on_bad_image")}
    return sources.load(config.data.source, seed=config.seed, **options)


def build_phase(
    config: ConfigDict, name: str, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer of ``config.phase1`` or ``config.phase2`` (``name``).

    Parameters whose path matches ``config.phase2.keep`` stay on phase one's optimizer.
    """
    phase = config[name]
    transforms = {phase.optimizer: _optimizer(phase, phase.learning_rate, steps_per_epoch)}
    labels = [(".*", phase.optimizer)]
    if name == "phase2" and phase.keep:
        kept = f"phase1_{config.phase1.optimizer}"
        transforms[kept] = _optimizer(config.phase1, phase.learning_rate, steps_per_epoch)
        labels.insert(0, (phase.keep, kept))
    return optimizer.phase(transforms, labels)


def describe(dataset: sources.Dataset) -> dict[str, Any]:
    """What prediction needs to know of the data, as JSON."""
    return {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
    }


def _introduce(config: ConfigDict, dataset: sources.Dataset, state: TrainState) -> str:
    """What is about to happen, in one line, before the compiler makes the user wait."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return (
        f"{config.model.name} ({parameters:,} parameters) on {dataset.name} ({sizes} images), "
        f"{devices}; the first step of each phase compiles"
    )


def _optimizer(
    phase: ConfigDict, learning_rate: float, steps_per_epoch: int
) -> optax.GradientTransformation:
    total = phase.epochs * steps_per_epoch
    rate = optimizer.schedule(
        phase.schedule,
        learning_rate,
        warmup_steps=min(phase.warmup_epochs * steps_per_epoch, total // 2),
        total_steps=max(total, 1),
    )
    options = dict(phase.options)
    if phase.decay_kernels_only:
        options["mask"] = optimizer.decay_mask
    return optimizer.by_name(phase.optimizer, rate, options)


def _loader(config: ConfigDict, mesh: Mesh, dataset: sources.Dataset, name: str) -> Loader:
    train = name == "train"
    if name not in dataset.splits:
        raise InputError(f"{dataset.name} has no {name} split, only {', '.join(dataset.splits)}")
    return make_loader(
        dataset.splits[name],
        batch_size=config.batch_size if train else config.eval_batch_size,
        seed=config.seed,
        batch_sharding=sharding.batch_sharding(mesh),
        train=train,
        kind=config.data.loader,
        steps_per_call=config.steps_per_call or (1 if jax.default_backend() == "cpu" else 16),
        memory_share=config.data.memory_share,
        workers=config.data.workers,
    )


def _create_state(
    config: ConfigDict,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    tx: optax.GradientTransformation,
) -> TrainState:
    rng = jax.random.key(config.seed)
    return train_states.create(model, tx, rng, image_shape, ema=config.ema_decay > 0)


def _template(create: Callable[[], TrainState], mesh: Mesh) -> TrainState:
    """Shapes, types and places of a state, without its values."""
    shapes = jax.eval_shape(create)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        sharding.state_sharding(shapes, mesh),
    )


def _places(template: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x.sharding, template)


def _progress(meta: dict[str, Any], workdir: Path) -> Progress:
    if "progress" not in meta:
        raise InputError(f"{workdir} holds imported weights, which no training can go on from")
    return Progress(**meta["progress"])


def _restore_best(checkpointer: Checkpointer, name: str, template: TrainState) -> TrainState:
    best = checkpointer.best_step(name)
    if best is None:
        raise InputError(f"the checkpoint with the best weights of {name} is gone: start a new run")
    return checkpointer.restore(best, template)


def _hand_over(
    tx: optax.GradientTransformation, template: TrainState, state: TrainState
) -> TrainState:
    begin = partial(train_states.begin_phase, init_optimizer=partial(optimizer.handoff, tx))
    return jax.jit(begin, out_shardings=_places(template))(state)


def _trainer(
    config: ConfigDict,
    model: nn.Module,
    tx: optax.GradientTransformation,
    name: str,
    template: TrainState,
    dataset: sources.Dataset,
    loader: Loader,
) -> Callable:
    """The compiled update of a phase: ``(state, rng, data, feed) -> (state, sums)``."""
    phase = config[name]
    step_config = step.StepConfig(
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        num_classes=dataset.num_classes,
        label_smoothing=phase.label_smoothing,
        ema_decay=config.ema_decay,
        augment=augment.make(**phase.augment),
        redraw=redraw_projections,
        redraw_every=config.redraw_every,
    )
    update = step.many(partial(step.train_step, model, tx, step_config), loader.fetch)
    return jax.jit(update, donate_argnums=0, out_shardings=(_places(template), None))


def _evaluator(
    config: ConfigDict, model: nn.Module
) -> Callable[[dict[str, Any], Loader], dict[str, float]]:
    """``(variables, loader) -> exact top1, top5 and loss`` over the loader's whole split."""
    mean, std = tuple(config.data.mean), tuple(config.data.std)

    @partial(jax.jit, static_argnums=0)
    def sums_of(fetch: step.Fetch, variables: Any, data: Any, feed: Any) -> metrics.Sums:
        evaluate = step.many(partial(step.eval_step, model, mean, std), fetch)
        return evaluate(None, variables, data, feed)[1]

    def evaluate(variables: dict[str, Any], loader: Loader) -> dict[str, float]:
        feeds = loader.epoch(0)
        sums = [sums_of(loader.fetch, variables, loader.data, feed) for _, feed in feeds]
        return metrics.means(metrics.total(jax.device_get(sums)))

    return evaluate


def _read(late: tuple[int, metrics.Sums], progress: Progress, report: Report) -> None:
    """Wait for the metrics of the call before the running one, and count them in."""
    count, sums = late[0], jax.device_get(late[1])
    progress.steps += count
    if not math.isfinite(sums["loss"]):
        raise InputError(
            f"the training loss is {sums['loss']} in step {progress.steps} of epoch "
            f"{progress.epoch + 1}; the last checkpoint is good: lower config.{progress.name}."
            "learning_rate (with --fork) or look at the data"
        )
    progress.sums = metrics.total([progress.sums, sums] if progress.sums else [sums])
    report.update(count, **{k: v for k, v in metrics.means(sums).items() if k != "top5"})


def redraw_projections(rng: jax.Array, constants: Any) -> Any:
    """New random features for every layer of ``constants``, each from its own key."""
    leaves, tree = jax.tree.flatten(constants)
    rngs = jax.random.split(rng, len(leaves))
    new = [random_projection(r, *leaf.shape) for r, leaf in zip(rngs, leaves, strict=True)]
    return jax.tree.unflatten(tree, new)


def _learning_rate(state: TrainState) -> float:
    return float(max(jax.device_get(list(optimizer.learning_rates(state.opt_state).values()))))


def _flat(split: str, results: dict[str, Any]) -> dict[str, Any]:
    return {f"{split}_{name}" if name != "epoch" else name: x for name, x in results.items()}
