"""Compiles the real train step ahead of time and asks XLA what it will hold."""

import math
import statistics
import time
from functools import partial
from typing import Any

import jax

from cxv_jax import models, sharding
from cxv_jax.memory_plan.choose import Plan, fit
from cxv_jax.phase import Phase
from cxv_jax.profile.compiled import Program, forward_program, memory
from cxv_jax.session import Session


class Planner:
    """What the train step of a session needs on the devices at hand, in all its ways to run.

    Bytes are those of one device: arguments (state, resident training set, feed), results and
    temporaries as XLA lays them out, and the resident split that the run is selected on. The step
    is phase one's, whose optimizer holds more. On a CPU the process itself needs more than that.
    """

    def __init__(self, session: Session):
        self.session, self.config = session, session.config
        self._steps, self._feed = next(iter(session.train_loader.epoch(0)))
        self._phase = Phase.ONE if self.config.phase1.epochs else Phase.TWO
        self._template = session.phases[self._phase].template  # The same in all ways to run.
        self._state: Any = None
        self._compiled: dict[tuple[str, str, int], Any] = {}

    def choices(self) -> list[tuple[str, str]]:
        """Every ``(dtype, remat)`` that this model can have, the config's own dtype first."""
        dtypes = dict.fromkeys([self.config.model.dtype, "bfloat16"])
        # From the least recomputation to the most.
        remats = models.choices(self.config.model.name, "remat") or ("none",)
        return [(dtype, remat) for dtype in dtypes for remat in remats]

    def plan(self, dtype: str, remat: str, budget: float) -> Plan:
        """The largest micro-batch within ``budget`` bytes, after one to four compilations."""
        return Plan(dtype, remat, *fit(partial(self.peak, dtype, remat), self.sizes(), budget))

    def sizes(self, field: str = "batch_size") -> list[int]:
        """The parts of a batch that divide it and that the devices divide, ascending.

        Training with BatchNorm has only the whole: smaller parts have other statistics.
        """
        batch, devices = self.config[field], self.session.mesh.size
        if self._template.batch_stats and field == "batch_size":
            return [batch]
        return [size for size in range(devices, batch + 1, devices) if batch % size == 0]

    def peak(self, dtype: str, remat: str, micro_batch: int) -> float:
        """Bytes that one device holds while the step runs."""
        program = Program(self.step(dtype, remat, micro_batch), hidden_flops=0.0)
        return memory(program)["peak"] + self._selection_bytes()

    def fitted(self, dtype: str, remat: str, micro_batch: int) -> Session:
        """The session that runs in this way."""
        # One pass over the whole batch needs no sum of gradients.
        parts = 0 if micro_batch == self.config.batch_size else micro_batch
        again = {"remat": remat} if models.choices(self.config.model.name, "remat") else {}
        return self.session.with_(micro_batch=parts, dtype=dtype, **again)

    def step(self, dtype: str, remat: str, micro_batch: int) -> Any:
        """The compiled ``(state, rng, data, feed) -> (state, sums)``; no state is allocated."""
        key = (dtype, remat, micro_batch)
        if key not in self._compiled:
            update = self.fitted(*key).phases[self._phase].update
            arguments = (self._template, self.session.rng, self.session.train_loader.data)
            self._compiled[key] = update.lower(*arguments, self._feed).compile()
        return self._compiled[key]

    def images_per_second(self, plan: Plan) -> float:
        """The median rate of calls on a batch of the data: one second of them, at least three."""
        step = self.step(plan.dtype, plan.remat, plan.micro_batch)
        self._seconds(step)  # To warm up.
        seconds = [self._seconds(step) for _ in range(3)]
        while sum(seconds) < 1:
            seconds.append(self._seconds(step))
        return self._steps * self.config.batch_size / statistics.median(seconds)

    def eval_batch_size(self, budget: float) -> int:
        """The largest divisor of ``config.eval_batch_size`` whose evaluation fits."""
        model, shape = self.session.model, self.session.dataset.image_shape
        held = sharding.bytes_per_device((self._template, self.session.train_loader.data))
        held += self._selection_bytes()

        def peak_of(size: int) -> float:
            program = forward_program(model, shape, size // self.session.mesh.size)
            return held + memory(program)["temporary"]

        return fit(peak_of, self.sizes("eval_batch_size"), budget)[0]

    def _seconds(self, step: Any) -> float:
        """Of one call, which takes the state that the last one left."""
        if self._state is None:
            self._state = self.session.phases[self._phase].begin()
        started = time.perf_counter()
        data = self.session.train_loader.data
        self._state, sums = step(self._state, self.session.rng, data, self._feed)
        jax.block_until_ready((self._state, sums))
        return time.perf_counter() - started

    def _selection_bytes(self) -> int:
        split = self.session.dataset.splits.get(self.config.selection)
        if split is None or not self.session.train_loader.data:
            return 0
        return len(split) * math.prod(split.image_shape)
