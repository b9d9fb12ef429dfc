"""metrics.jsonl and the other records: damage is told in one line, a lost line is written again."""

import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from cxv_jax import runs
from cxv_jax.errors import InputError
from cxv_jax.journal import Journal
from cxv_jax.jsonable import read
from cxv_jax.records import Best, EpochRecord, Meta, Progress
from tests.test_report import epoch_record, handoff_record, summary


def written(folder: Path) -> Path:
    journal = Journal(folder)
    for epoch in (1, 2, 3):
        journal.append(epoch_record(epoch))
    journal.append(handoff_record(3))
    return folder / "metrics.jsonl"


@pytest.mark.parametrize("cut", [1, 5, 300])
def test_half_a_line_is_written_again_from_the_checkpoint(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path)
    whole = path.read_text().splitlines(keepends=True)[:3]
    path.write_text("".join(whole)[:-cut])
    said = Journal(tmp_path).cut_back(30, epoch_record(3))
    assert path.read_text() == "".join(whole)
    assert ("line of epoch 3" in said) is (cut > 1)
    assert Journal(tmp_path).cut_back(20, epoch_record(2)) == ""
    assert path.read_text() == "".join(whole[:2])
    path.unlink()
    assert "line of epoch 2" in Journal(tmp_path).cut_back(20, epoch_record(2))
    assert path.read_text() == whole[1]


@pytest.mark.parametrize("line", [b"{", b"\xff", b"3", b"{}", b'{"kind": "epoch"}', b"[" * 9999])
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = written(tmp_path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(InputError, match=r"metrics.jsonl, line 2, is "):
        Journal(tmp_path).read()


def test_a_folder_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone/metrics.jsonl: No such file"):
        Journal(tmp_path / "gone").append(epoch_record(1))


def test_records_come_back_as_they_were() -> None:
    progress = Progress(best={"phase1": Best(0.5, 1.0, 1.0, 3)}, rates=[1.0, 2])
    for record in (progress, epoch_record(2), handoff_record(1), summary(Path("x"))):
        data = json.loads(json.dumps(record.to_json()))
        assert type(record).from_json({**data, "of a later version": 1}) == record


@pytest.mark.parametrize(
    "change",
    [{"epoch": "x"}, {"epoch": None}, {"val_top1": "x"}, {"phase": 7}, {"improved": 1}],
    ids=str,
)
def test_a_value_of_another_type_is_named(change: dict[str, Any]) -> None:
    data = epoch_record(1).to_json() | change
    with pytest.raises(InputError, match="here is damaged"):
        read(EpochRecord, data, "here")


@pytest.mark.parametrize("data", [{}, [], 3, None, {"config": {}, "dataset": 3}])
def test_what_is_no_record_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="here is damaged"):
        read(Meta, data, "here")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"config": {"a": 1}, "phases": 3}', None])
def test_a_damaged_summary_or_config_is_one_line(tmp_path: Path, text: str | None) -> None:
    config = ConfigDict({"a": 1})
    for name in ("summary.json", "config.json"):
        path = tmp_path / name
        path.mkdir() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=r"summary.json(: Is a directory| is damaged)"):
        runs.finished(tmp_path, config)
    if text is None or "{" not in text[:1] or text == "{":
        with pytest.raises(InputError, match=r"config.json(: Is a directory| is damaged)"):
            runs.check_joined(tmp_path, config)
