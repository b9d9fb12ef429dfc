"""The one training loop: ``train_and_evaluate(config, workdir)``."""

import dataclasses
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cxv_jax import distributed, metrics, models, optimizer, plan, runs, sharding
from cxv_jax.build import (
    build_evaluator,
    build_loader,
    build_phase,
    build_trainer,
    create_state,
    describe,
    hand_over,
    load_dataset,
    places_of,
    template_of,
)
from cxv_jax.checkpoint import Checkpointer
from cxv_jax.data import sources
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
    config: ConfigDict,
    workdir: str | Path,
    *,
    quiet: bool | None = None,
    fork: bool = False,
    launched: float | None = None,
) -> dict[str, Any]:
    """Train both phases, select on validation, read test once at the end.

    Resumes by itself from the latest checkpoint in ``workdir``, to the same result bit for bit on
    the same hardware. Order: steps of an epoch, evaluate, save, next epoch. Metrics are read one
    call late, so the device never waits for the host. With several processes (see
    ``distributed.initialize``) each calls this with the same arguments; the first one writes.

    Args:
      config: see ``experiments/configs``; checked before anything is written.
      workdir: the run's folder.
      quiet: no progress bar; None: where stdout is not a terminal.
      fork: go on although the config differs from the one ``workdir`` was started with.
      launched: when the program was started (``time.time()``), to report the time to the first
        step; None: now.

    Returns:
      The summary that is also written to ``workdir/summary.json``.

    Raises:
      InputError: for bad config, data or checkpoints, and for a loss that is not finite.
      Interrupted: after SIGINT or SIGTERM, with the state saved.
    """
    launched = time.time() if launched is None else launched
    runs.check_config(config)
    if (summary := runs.finished(Path(workdir), config)) is not None:
        if jax.process_index() == 0:
            print("\n".join([f"{workdir} is already finished", *final_table(summary)]))
        return summary
    mesh = sharding.create_mesh(config.fsdp)
    dataset = distributed.together(partial(load_dataset, config))
    train_loader = build_loader(config, mesh, dataset, "train")
    fitting = plan.apply(config, mesh, dataset, train_loader)  # Within config.memory_gb.
    model = models.create(num_classes=dataset.num_classes, **fitting.model)
    selection_loader = build_loader(fitting, mesh, dataset, config.selection)
    txs = {n: build_phase(config, n, train_loader.steps_per_epoch) for n in ("phase1", "phase2")}
    create = partial(create_state, config, model, dataset.image_shape)
    templates = {name: template_of(partial(create, tx), mesh) for name, tx in txs.items()}
    trainers = {
        name: build_trainer(fitting, model, txs[name], name, templates[name], dataset, train_loader)
        for name in txs
    }
    evaluate = build_evaluator(config, model)
    draw = jax.jit(partial(jax.random.key, config.seed), out_shardings=sharding.replicated(mesh))
    rng = draw()

    workdir = distributed.together(partial(runs.open_run, workdir, config, fork=fork))
    distributed.together(partial(runs.check_joined, workdir, config))
    checkpointer = Checkpointer(workdir / "checkpoints")
    resumed, progress = checkpointer.latest_step(), Progress()
    if resumed is None:
        init = jax.jit(partial(create, txs["phase1"]), out_shardings=places_of(templates["phase1"]))
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
        if number := distributed.agree(lambda: interrupt.signal)():
            checkpointer.close()
            text = f"saved step {int(state.step)} in {workdir}; run the same command to continue"
            raise Interrupted(number, text)

    with (
        Interrupt() as interrupt,
        Report(workdir, quiet=quiet, resume_step=resumed or 0, launched=launched) as report,
    ):
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
                    asked = distributed.agree(lambda: interrupt.signal)
                    with jax.transfer_guard("disallow"):
                        state, sums = train(state, rng, train_loader.data, feed)
                    if late is not None:
                        _read(late, progress, report)
                    late = (count, sums)
                    if asked():
                        break
                if late is not None:
                    _read(late, progress, report)
                if progress.steps < total_steps:
                    save()
                    stop_if_asked()
                seconds = time.time() - epoch_started
                rate = (total_steps - first_step) * config.batch_size / seconds

                # Evaluate.
                results = evaluate(state.variables(), selection_loader)
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
            state = hand_over(txs["phase2"], templates["phase2"], state)
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
        test_loader = build_loader(fitting, mesh, dataset, "test")
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
        multihost_utils.sync_global_devices("finished")  # Nobody leaves before the report is there.
    return summary


def _introduce(config: ConfigDict, dataset: sources.Dataset, state: TrainState) -> str:
    """What is about to happen, in one line, before the compiler makes the user wait."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    if jax.process_count() > 1:
        devices += f" in {jax.process_count()} processes"
    held = f"{sharding.bytes_per_device(state) / 1e6:.3g} MB"
    return (
        f"{config.model.name} ({parameters:,} parameters) on {dataset.name} ({sizes} images), "
        f"{devices}, state {held} a device; the first step of each phase compiles"
    )


def _progress(meta: dict[str, Any], workdir: Path) -> Progress:
    if "progress" not in meta:
        raise InputError(f"{workdir} holds imported weights, which no training can go on from")
    return Progress(**meta["progress"])


def _restore_best(checkpointer: Checkpointer, name: str, template: TrainState) -> TrainState:
    best = checkpointer.best_step(name)
    if best is None:
        raise InputError(f"the checkpoint with the best weights of {name} is gone: start a new run")
    return checkpointer.restore(best, template)


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


def _learning_rate(state: TrainState) -> float:
    return float(max(jax.device_get(list(optimizer.learning_rates(state.opt_state).values()))))


def _flat(split: str, results: dict[str, Any]) -> dict[str, Any]:
    return {f"{split}_{name}" if name != "epoch" else name: x for name, x in results.items()}
