"""Hand a run's figures on to an experiment tracker: Weights & Biases or MLflow.

Neither is required. What a tracker has to do is three calls; another one needs no more.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from flax.traverse_util import flatten_dict

from cxv_jax.errors import InputError, nearest, reason

Scalars = Mapping[str, float]


class Tracker(Protocol):
    """Where figures go; started by its maker, ``(module, workdir, config) -> Tracker``."""

    def log(self, scalars: Scalars, step: int) -> None:
        """Take figures, by name, at an optimizer step."""

    def finish(self, scalars: Scalars) -> None:
        """Take those of the finished run."""

    def close(self) -> None:
        """End, whether the run is finished or not."""


class Tracking:
    """A tracker that no run fails by: the first fault is told, and nothing is handed on after it.

    Args:
      name: ``wandb``, ``mlflow``, or empty for none.
      workdir: the run's folder; its name is the run's.
      config: of the run, as plain data.
    """

    def __init__(self, name: str, workdir: Path, config: Mapping[str, Any]):
        self._name = name
        self._tracker: Tracker | None = None
        with self._guarded():
            if name:
                self._tracker = MAKERS[name](importlib.import_module(name), workdir, config)

    def log(self, scalars: Scalars, step: int) -> None:
        """See :class:`Tracker`."""
        with self._guarded():
            if self._tracker is not None:
                self._tracker.log(scalars, step)

    def finish(self, scalars: Scalars) -> None:
        """See :class:`Tracker`."""
        with self._guarded():
            if self._tracker is not None:
                self._tracker.finish(scalars)

    def close(self) -> None:
        """See :class:`Tracker`; safe to call twice."""
        with self._guarded():
            if self._tracker is not None:
                self._tracker.close()
        self._tracker = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # A network, an account, a disk: the run has its own records.
            self._tracker = None
            logging.getLogger(__name__).warning(
                "%s takes no more figures of this run (%s); metrics.jsonl has them all",
                self._name,
                reason(error),
            )


def check(name: str) -> None:
    """Whether there is such a tracker.

    Raises:
      InputError: it is unknown, or not installed.
    """
    if name and name not in MAKERS:
        raise InputError(f"config.track={name!r} is unknown{nearest(name, MAKERS)}; '' is for none")
    if name and importlib.util.find_spec(name) is None:
        raise InputError(f"config.track={name} needs its package: pip install {name}")


class _Wandb:
    def __init__(self, wandb: Any, workdir: Path, config: Mapping[str, Any]):
        place = hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project="cxv_jax",
            name=workdir.name,
            id=place,  # A resumed run goes on in its own record.
            resume="allow",
            dir=str(workdir),
            config=dict(config),
        )

    def log(self, scalars: Scalars, step: int) -> None:
        self._run.log(dict(scalars), step=step)

    def finish(self, scalars: Scalars) -> None:
        self._run.summary.update(dict(scalars))

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, mlflow: Any, workdir: Path, config: Mapping[str, Any]):
        self._mlflow = mlflow
        mlflow.start_run(run_name=workdir.name)
        fields = flatten_dict(dict(config), sep=".")
        mlflow.log_params({name: str(value)[:500] for name, value in fields.items()})

    def log(self, scalars: Scalars, step: int) -> None:
        self._mlflow.log_metrics(dict(scalars), step=step)

    def finish(self, scalars: Scalars) -> None:
        self._mlflow.log_metrics(dict(scalars))

    def close(self) -> None:
        self._mlflow.end_run()


MAKERS: dict[str, Callable[[Any, Path, Mapping[str, Any]], Tracker]] = {
    "wandb": _Wandb,
    "mlflow": _Mlflow,
}
