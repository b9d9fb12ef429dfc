"""Carry out the tasks that are left, each in a process of its own, and keep a record of each."""

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from benchmarks.accelerator import parts, report
from benchmarks.accelerator.tasks import Stop, Task
from cxv_jax.files import write_text

LEAST = 30.0  # Seconds that must be left for a task to be begun.
# ``(task, log, whether it shall end) -> None, or one line on what went wrong``.
Launch = Callable[[Task, Path, Stop], str | None]


class Campaign:
    """Tasks with their records in ``OUTPUT/records``; a killed campaign goes on from them.

    Args:
      tasks: all of them, in their order.
      output: the folder.
      launch: runs a task.
      say: takes a line of progress.
      clock: seconds.
    """

    def __init__(
        self,
        tasks: list[Task],
        output: Path,
        launch: Launch,
        *,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._tasks, self._output, self._launch = tasks, output, launch
        self._say, self._clock = say, clock
        for name in ("records", "results", "runs", "parts", "logs"):
            (output / name).mkdir(parents=True, exist_ok=True)
        for line in parts.unpack_all(output / "parts", output / "runs"):
            say(line)

    @property
    def left(self) -> list[Task]:
        """What is not done: first what was never finished, then what failed."""
        status = {task.name: self.record(task).get("status") for task in self._tasks}
        never = [task for task in self._tasks if status[task.name] is None]
        return [*never, *(task for task in self._tasks if status[task.name] == "failed")]

    @property
    def failed(self) -> int:
        """How many tasks have failed."""
        return sum(self.record(task).get("status") == "failed" for task in self._tasks)

    def record(self, task: Task) -> dict[str, Any]:
        """``status`` (``done``, ``failed``, ``skipped``) and ``note``; empty before the end."""
        path = self._path(task)
        return json.loads(path.read_text()) if path.exists() else {}

    def carry_out(
        self,
        seconds: float,
        began: float,
        asked: Callable[[], bool] = lambda: False,
        stages: Collection[str] = tuple(report.STAGES),
    ) -> None:
        """Work on ``stages`` until ``began + seconds`` on the clock, or until ``asked`` to stop."""
        end = began + seconds
        for task in self.left:
            if task.stage not in stages:
                continue
            if asked() or self._clock() > end - min(LEAST, seconds / 4):
                break
            reason = self._not_here(task)
            status, note = ("skipped", reason) if reason else self._run(task, end, seconds, asked)
            self._say(f"{task.name}: {status}{note and ': '}{note}")
            if status != "unfinished":
                line = json.dumps({"status": status, "note": note})
                write_text(self._path(task), line + "\n")
            if task.stage == "training":
                parts.pack(self._output / "runs" / task.name, self._output / "parts")
            self.write_report(draw=False)
        self.write_report(draw=True)

    def write_report(self, *, draw: bool) -> None:
        """``report.md`` and, which takes seconds, a picture a stage: from the files alone."""
        records = {task.name: self.record(task) for task in self._tasks}
        report.write(self._tasks, records, self._output, draw=draw)

    def what_next(self, command: str) -> str:
        """What the person does now."""
        if not self.left:
            return f"nothing is left; the tables are in {self._output / 'report.md'}"
        first, again = self.left[0], f"next is {self.left[0].name}; run again: {command}"
        if self.record(first):
            again = f"all of them failed, see {self._output / 'logs'}; mend it and run: {command}"
        return f"{len(self.left)} of {len(self._tasks)} tasks are left; {again}"

    def _run(
        self, task: Task, end: float, seconds: float, asked: Callable[[], bool]
    ) -> tuple[str, str]:
        """The status of a task and a line about it."""
        limit = None if task.limit is None else self._clock() + min(task.limit, 0.9 * seconds)
        log = self._output / "logs" / f"{task.name}.log"
        stopped = ""

        def stop() -> bool:
            nonlocal stopped
            if limit is not None and self._clock() > limit:
                stopped = f"took longer than {min(task.limit or 0, 0.9 * seconds):,.0f} s"
            elif self._clock() > end or asked():
                stopped = "goes on with the next piece"
            return bool(stopped)

        error = self._launch(task, log, stop)
        if error is None and task.result.exists():
            return "done", ""
        if stopped.startswith("took"):
            return "failed", stopped
        return ("unfinished", stopped) if stopped else ("failed", error or "it wrote no result")

    def _not_here(self, task: Task) -> str:
        """Why a task cannot be done on this machine; empty where it can."""
        facts = next((t for t in self._tasks if t.name == "device"), None)
        if not task.needs or facts is None or not facts.result.exists():
            return ""
        found = json.loads(facts.result.read_text())
        if not found["torch"]:
            return "PyTorch is not installed"
        if found["platform"] != "cpu" and not found["torch_cuda"]:
            return f"PyTorch {found['torch']} is a build without CUDA"
        return ""

    def _path(self, task: Task) -> Path:
        return self._output / "records" / f"{task.name}.json"
