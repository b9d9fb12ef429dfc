"""predict: files, folders, globs, any number; tables for machines; runs that are not square."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxv_jax import inference
from tests.test_inference import CLASSES, SHAPE, save
from tests.test_inference_commands import run_command

BATCH = 10  # Of the run that test_inference saves.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save(folder, ["phase1"])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """47 pictures, of which every third is broken."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(47):
        image = Image.fromarray(draw.integers(0, 256, (9, 11, 3), np.uint8))
        image.save(folder / f"{i:02}.png")
        if i % 3 == 0:
            (folder / f"{i:02}.png").write_bytes((folder / f"{i:02}.png").read_bytes()[:60])
    return folder


def probabilities(workdir: Path, files: list[Path]) -> np.ndarray:
    """Of pictures that have the run's size already, by the library."""
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    return inference.predict(inference.load_run(workdir), images)


def test_all_good_files_are_classified_and_each_bad_one_is_a_line(
    workdir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--workdir={workdir}", "--top=3"]
    assert run_command("predict", *options, f"--csv={tmp_path}/a.csv", folder) == 1
    out, err = capsys.readouterr()
    assert out == f"written to {tmp_path}/a.csv\n"
    bad = [folder / f"{i:02}.png" for i in range(0, 47, 3)]
    assert [line.split(": ")[:2] for line in err.splitlines()] == [["error", str(x)] for x in bad]
    good = [file for file in sorted(folder.iterdir()) if file not in bad]
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == list(map(str, good))
    for row, found in zip(rows, probabilities(workdir, good), strict=True):
        for rank, index in zip(("", "_2", "_3"), np.argsort(-found, kind="stable"), strict=False):
            assert row[f"class{rank}"] == f"c{index}"
            assert float(row[f"probability{rank}"]) == pytest.approx(found[index], abs=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_only_a_batch_of_pictures_is_held_at_a_time(
    workdir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen, predict = [], inference.predict

    def counted(run: inference.Run, images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return predict(run, images)

    monkeypatch.setattr(inference, "predict", counted)
    run_command("predict", f"--workdir={workdir}", f"--json={tmp_path}/a.json", folder)
    assert max(seen) <= BATCH
    assert sum(seen) == len(json.loads((tmp_path / "a.json").read_text())) == 31


def test_json_and_csv_go_to_the_screen_without_a_file(
    workdir: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--workdir={workdir}", folder / "01.png"]
    assert run_command("predict", "--json", *options) == 0
    found = json.loads(capsys.readouterr().out)[0]["predictions"]
    run_command("predict", "--csv", *options)
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (row["class"], row["class_5"]) == (found[0]["class"], found[4]["class"])


def test_there_are_no_more_classes_than_the_run_has(
    workdir: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("predict", f"--workdir={workdir}", "--json", "--top=99", folder / "01.png")
    (result,) = json.loads(capsys.readouterr().out)
    assert sorted(p["class"] for p in result["predictions"]) == [f"c{i}" for i in range(CLASSES)]


def test_globs_are_found_and_names_that_look_like_one_are_names(
    workdir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = (folder / "01.png").read_bytes()
    for name in ("a.png", "b.png", "[ab].png", "c.jpg"):
        (tmp_path / name).write_bytes(picture)
    names = [tmp_path / "?.png", tmp_path / "[ab].png", tmp_path / "*.gif"]
    assert run_command("predict", f"--workdir={workdir}", "--json", *names) == 1
    out, err = capsys.readouterr()
    found = [Path(result["file"]).name for result in json.loads(out)]
    assert found == ["a.png", "b.png", "[ab].png"]
    assert err == f"error: {tmp_path}/*.gif: no such file; expected an image\n"


def test_pictures_cover_a_run_that_is_not_square(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SHAPE == (9, 11, 3)
    colors = np.random.default_rng(1).integers(0, 256, (9, 11, 3), np.uint8)
    wide = np.zeros((18, 38, 3), np.uint8)
    wide[:, 8:30] = colors.repeat(2, 0).repeat(2, 1)  # The centre, at twice the size.
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(colors).save(tmp_path / "exact.png")
    resized = Image.fromarray(wide[:, 8:30]).resize((11, 9), Image.Resampling.BILINEAR)
    loaded = inference.load_image(tmp_path / "wide.png", (9, 11))
    assert abs(loaded.astype(int)[:, 1:-1] - np.asarray(resized).astype(int)[:, 1:-1]).max() <= 1
    assert run_command("predict", f"--workdir={workdir}", "--json", tmp_path / "exact.png") == 0
    found = json.loads(capsys.readouterr().out)[0]["predictions"][0]
    assert found["probability"] == pytest.approx(
        probabilities(workdir, [tmp_path / "exact.png"])[0].max(), rel=1e-6
    )


def test_names_that_are_no_text_keep_their_bytes(workdir: Path, tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    Image.new("RGB", (11, 9)).save(tmp_path / "a.png")
    try:
        os.rename(tmp_path / "a.png", name)
    except OSError:
        pytest.skip("this file system holds no such name")
    run_command("predict", f"--workdir={workdir}", f"--csv={tmp_path}/a.csv", tmp_path)
    assert b"/caf\xe9.png,c" in (tmp_path / "a.csv").read_bytes()
