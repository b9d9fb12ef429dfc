"""The lines of ``metrics.jsonl``: appended to, cut back on resume, mended, read."""

import json
from pathlib import Path
from typing import Any

from cxv_jax.errors import InputError, os_fault
from cxv_jax.files import write_text
from cxv_jax.jsonable import Record, read
from cxv_jax.records import EpochRecord, HandoffRecord

METRICS = "metrics.jsonl"
KINDS: dict[str, type[Record]] = {"epoch": EpochRecord, "handoff": HandoffRecord}


class Journal:
    """The records of one run, a line each: what they are (``kind``), then their fields."""

    def __init__(self, workdir: Path):
        self._path = workdir / METRICS

    def append(self, record: EpochRecord | HandoffRecord) -> None:
        """Add a line.

        Raises:
          InputError: the folder is gone, or the disk is full.
        """
        try:
            with self._path.open("a") as file:
                file.write(_line(record))
        except OSError as error:
            raise os_fault(error) from error

    def read(self) -> list[dict[str, Any]]:
        """All records as plain data; a last line that was cut short does not count.

        Raises:
          InputError: naming the line that is no record.
        """
        if not self._path.exists():
            return []
        found, lines = [], self._path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if line:
                where = f"{self._path}, line {number},"
                try:
                    found.append(json.loads(line))
                except (ValueError, RecursionError) as error:
                    if number == len(lines):  # A killed process left it without its end.
                        break
                    raise InputError(f"{where} is damaged; mend it or delete the file") from error
                kind = found[-1].get("kind") if isinstance(found[-1], dict) else None
                if kind not in KINDS:
                    raise InputError(f"{where} is no record; mend it or delete the file")
                read(KINDS[kind], found[-1], where)
        return found

    def cut_back(self, step: int, last: EpochRecord | None) -> str:
        """Keep the records up to ``step``, but not a handoff at ``step``: that one is made again.

        Args:
          step: of the checkpoint that training goes on from.
          last: the epoch that the checkpoint knows of; written again where its line was lost.

        Returns:
          A line about what was mended, or nothing.
        """
        kept = [r for r in self.read() if r["step"] < step + (r["kind"] != "handoff")]
        epochs = [record["epoch"] for record in kept if record["kind"] == "epoch"]
        lost = last is not None and last.epoch not in epochs
        if kept or lost or self._path.exists():
            lines = [json.dumps(record) + "\n" for record in kept]
            write_text(self._path, "".join([*lines, _line(last)] if last and lost else lines))
        if not last or not lost:
            return ""
        return (
            f"{METRICS} has lost its line of epoch {last.epoch}: written again from the checkpoint"
        )


def _line(record: EpochRecord | HandoffRecord) -> str:
    kind = "epoch" if isinstance(record, EpochRecord) else "handoff"
    return json.dumps({"kind": kind, **record.to_json()}) + "\n"
