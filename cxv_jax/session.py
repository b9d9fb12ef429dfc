"""A config, wired: mesh, data set, loaders, model, both phases, evaluation."""

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cxv_jax import augment, distributed, models, sharding, step
from cxv_jax import state as train_states
from cxv_jax.ahead import Ahead
from cxv_jax.config import averages
from cxv_jax.data.loader import Loader
from cxv_jax.data.resident import ResidentLoader
from cxv_jax.data.splits import Dataset
from cxv_jax.data.stored import Stored
from cxv_jax.errors import InputError
from cxv_jax.evaluation import Evaluation, Evaluator
from cxv_jax.figures import balanced_weights, told_weights
from cxv_jax.kernels import threefry
from cxv_jax.parts import load_dataset, make_optimizer, redraw_projections, split_loader
from cxv_jax.phase import Phase
from cxv_jax.state import TrainState

Templates = dict[Phase, TrainState]  # Shapes, types and places of a state, without its values.


class Session:
    """What a config makes. Nothing is compiled before it is called.

    Attributes:
      config: the config.
      mesh: of devices.
      dataset: with its splits fixed by ``config.seed``.
      train_loader: of its training split.
      model: the Flax module.
      phases: each phase, wired.
    """

    def __init__(
        self,
        config: ConfigDict,
        mesh: Mesh,
        dataset: Dataset,
        train_loader: Loader,
        templates: Templates,
    ):
        self.config, self.mesh, self.dataset = config, mesh, dataset
        self.train_loader, self.templates = train_loader, templates
        self._loaders = {"train": train_loader}
        self.model = models.create(num_classes=dataset.num_classes, **config.model)
        self.phases = {phase: WiredPhase(self, phase) for phase in Phase}

    @classmethod
    def of(
        cls,
        config: ConfigDict,
        *,
        dataset: Dataset | None = None,
        keep: Stored | None = None,
        devices: int | None = None,
    ) -> "Session":
        """Wire a config; of several processes all call it.

        Args:
          config: see ``experiments/configs``.
          dataset: in place of the one that ``config.data`` names.
          keep: its splits, in place of new ones.
          devices: only so many, the first ones; None: all.

        Raises:
          InputError: for a config or data that cannot be used.
        """
        mesh = sharding.create_mesh(config.fsdp, devices)
        dataset = dataset or distributed.together(partial(load_dataset, config, keep))
        return cls(config, mesh, dataset, split_loader(config, mesh, dataset, "train"), {})

    def with_(self, **fields: Any) -> "Session":
        """The same session run in another way: less memory, another precision, the same data.

        Args:
          **fields: ``micro_batch``, ``eval_batch_size``, ``dtype``, ``remat``.
        """
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            for name, value in fields.items():
                place = config.model if name in ("dtype", "remat") else config
                place[name] = value
        return Session(config, self.mesh, self.dataset, self.train_loader, self.templates)

    def loader(self, split: str) -> Loader:
        """The loader of a split, made once.

        Raises:
          InputError: if the data set has no such split.
        """
        if split not in self._loaders:
            self._loaders[split] = split_loader(self.config, self.mesh, self.dataset, split)
        return self._loaders[split]

    @cached_property
    def stored(self) -> Stored:
        """The splits as a run keeps them."""
        return Stored.of(self.dataset)

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        """Of the training loss, by ``config.class_weights``; None: all classes weigh the same."""
        if (chosen := self.config.class_weights) == "none":
            return None
        if chosen != "balanced":
            return told_weights(chosen, self.dataset.class_names)
        train = self.dataset.split("train").labels
        return balanced_weights(np.bincount(train, minlength=self.dataset.num_classes))

    @property
    def on_cpu(self) -> bool:
        """Whether it computes on a CPU."""
        return self.mesh.devices.flat[0].platform == "cpu"

    @cached_property
    def rng(self) -> jax.Array:
        """The run's random key, on all devices."""
        draw = partial(threefry.key, self.config.seed)
        return jax.jit(draw, out_shardings=sharding.replicated(self.mesh))()

    def evaluate(self, variables: dict[str, Any], split: str) -> Evaluation:
        """Exact results of a model's variables over a whole split."""
        return self._evaluator(variables, self.loader(split))

    def compile_first(self, ahead: Ahead) -> None:
        """Let a new run's update compile while its first state is made; not if images stream."""
        if isinstance(self.train_loader, ResidentLoader):
            first, (_, feed) = self.phases[Phase.ONE], next(self.train_loader.epoch(0))
            _ = first.template  # Once, or both threads would trace it.
            ahead.compile(Phase.ONE, partial(first.lower, feed))

    def compile_ahead(self, ahead: Ahead, phase: Phase, feed: Any) -> None:
        """Let what comes after the first steps of ``phase`` compile: evaluation, the next phase.

        Args:
          ahead: compiles.
          phase: the running one.
          feed: of its first steps.
        """
        split = self.config.selection
        if split in self.dataset.splits and isinstance(self.loader(split), ResidentLoader):
            variables = self.phases[phase].template.variables()
            ahead.compile(split, partial(self._evaluator.lower, variables, self.loader(split)))
        if phase is Phase.ONE and self.config.phase2.epochs:
            ahead.compile(Phase.TWO, partial(self.phases[Phase.TWO].lower, feed))

    @cached_property
    def _evaluator(self) -> Evaluator:
        data = self.config.data
        return Evaluator(self.model, (tuple(data.mean), tuple(data.std)), self.mesh)


class WiredPhase:
    """One phase of a session: its optimizer, how it begins, its compiled update."""

    def __init__(self, session: Session, phase: Phase):
        self._session, self._phase, config = session, phase, session.config
        if config.micro_batch % session.mesh.size:
            raise InputError(
                f"config.micro_batch = {config.micro_batch} must be a multiple of the number of "
                f"devices, {session.mesh.size}, or 0 for the whole batch"
            )
        self.tx = make_optimizer(config, phase, session.train_loader.steps_per_epoch)
        fields, steps = config[phase.key], session.train_loader.steps_per_epoch
        off = dict(policy="none", erase_probability=0.0, mixup_alpha=0.0, cutmix_alpha=0.0)
        self._step_config = step.StepConfig(
            mean=tuple(config.data.mean),
            std=tuple(config.data.std),
            num_classes=session.dataset.num_classes,
            label_smoothing=fields.label_smoothing,
            ema_decay=config.ema_decay,
            augment=augment.make(**fields.augment),
            light=augment.make(**{**fields.augment, **off}) if fields.light_share else None,
            light_from=round((1 - fields.light_share) * fields.epochs * steps),
            redraw=redraw_projections,
            redraw_every=config.redraw_every,
            micro_batch=config.micro_batch,
            class_weights=session.class_weights,
            average_from=max(0, fields.epochs - fields.average_epochs) * steps
            if fields.average_epochs
            else None,
        )
        self._ema = averages(config, phase)

    @property
    def template(self) -> TrainState:
        """Shapes, types and places of the phase's state."""
        templates, mesh = self._session.templates, self._session.mesh
        if self._phase not in templates:
            shapes = jax.eval_shape(self._create)
            places = sharding.state_sharding(shapes, mesh)
            templates[self._phase] = jax.tree.map(
                lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
                shapes,
                places,
            )
        return templates[self._phase]

    def begin(self, start: Mapping[str, np.ndarray] | None = None) -> TrainState:
        """The state of a run that begins with this phase; ``start``: see :func:`.state.create`."""
        return jax.jit(self._create, out_shardings=self._places)(dict(start or {}))

    def hand_over(self, best: TrainState) -> TrainState:
        """The first state of this phase from the best state of the last one."""
        fresh = self._session.config.phase2.fresh_state
        make = partial(train_states.hand_over, tx=self.tx, ema=self._ema, fresh=fresh)
        return jax.jit(make, out_shardings=self._places)(best)

    @cached_property
    def update(self) -> Any:
        """The compiled ``(state, rng, data, feed) -> (state, sums)``; the state is donated."""
        one = partial(step.train_step, self._session.model, self.tx, self._step_config)
        several = step.many(one, self._session.train_loader.fetch)
        return jax.jit(several, donate_argnums=0, out_shardings=(self._places, None))

    def lower(self, feed: Any) -> Any:
        """The update on batches like ``feed``, ready to compile."""
        session = self._session
        return self.update.lower(self.template, session.rng, session.train_loader.data, feed)

    @property
    def _places(self) -> TrainState:
        return jax.tree.map(lambda x: x.sharding, self.template)

    def _create(self, start: Any = None) -> TrainState:
        session = self._session
        rng, shape = threefry.key(session.config.seed), session.dataset.image_shape
        return train_states.create(session.model, self.tx, rng, shape, ema=self._ema, start=start)
